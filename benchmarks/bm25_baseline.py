"""BM25 as the baseline: k1 0.9, b 0.4, Lucene's formula, over words and pairs of characters.

Terms are lower-cased words with their combining marks, and pairs of neighbouring characters in
Han, kana, Hangul and Thai. Knows nothing of data sets or measures.
"""

from collections.abc import Callable
from functools import cache
from itertools import groupby
from unicodedata import category

import numpy as np

from tercet.errors import MissingExtraError
from tercet.scores import Scores

# Scripts without spaces between words, and Hangul: kana, Han, Han compatibility, Hangul, Thai.
BIGRAM_RANGES = (
    (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x1100, 0x11FF), (0xAC00, 0xD7AF), (0x0E00, 0x0E7F),
)  # fmt: skip


@cache
def kind(character: str) -> str:
    """Whether a character belongs to a word, to a run that is cut into pairs, or to neither."""
    if not (character.isalnum() or category(character)[0] == "M"):
        return ""
    pairs = any(low <= ord(character) <= high for low, high in BIGRAM_RANGES)
    return "pairs" if pairs else "word"


def terms(text: str) -> list[str]:
    """The terms BM25 sees, in order; a run of one character is a term of its own."""
    out: list[str] = []
    for sort, characters in groupby(text.lower(), kind):
        run = "".join(characters)
        if sort == "pairs" and len(run) > 1:
            out += (run[i : i + 2] for i in range(len(run) - 1))
        elif sort:
            out.append(run)
    return out


def bm25(passages: list[str]) -> Callable[[list[str], bool], Scores]:
    """A scorer of queries against the passages, (Q,) -> (Q, P) float32; True counts repeats."""
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError(
            "BM25 needs bm25s: pip install -r benchmarks/requirements-quality.txt"
        ) from error
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    index.index([terms(passage) for passage in passages], show_progress=False)

    def score(queries: list[str], repeats: bool) -> Scores:
        out = np.zeros((len(queries), len(passages)), dtype=np.float32)
        for row, query in enumerate(queries):
            asked = terms(query) if repeats else list(dict.fromkeys(terms(query)))
            if asked:  # bm25s fails on a query without a term
                out[row] = index.get_scores(asked)
        return out

    return score
