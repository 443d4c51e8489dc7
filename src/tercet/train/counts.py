"""How often the pieces of a tokenizer occur in texts, in less time than all texts are tokenised in.

Knows nothing of files, languages or models.
"""

import json
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import scipy.sparse as sp

from tercet.tokenizer import Tokenizer

SPACE = "▁"
BLOCK, CHARACTERS = 1 << 16, 1 << 23  # texts and characters counted at once
BATCH = 1 << 16  # parts of texts tokenised at once
# Different parts of texts, and characters of them, that are remembered: with all that is made of
# them about a gigabyte (benchmarks/trim_speed.py).
PARTS, HELD = 1 << 21, 1 << 25
NOTHING = r"(?!)"  # a pattern that matches no text

# Characters, neither marks nor controls, that a space may share a grapheme with (the others of
# Grapheme_Cluster_Break Prepend, SpacingMark and Extend: UAX 29, Unicode 16), and the two that
# SentencePiece's rules (Nmt) turn into a space.
JOINING = frozenset(
    "▁\ufffd"
    "\u0d4e\u0e33\u0eb3\uff9e\uff9f\U000111c2\U000111c3\U000113d1\U0001193f\U00011941\U00011a3a"
    "\U00011a84\U00011a85\U00011a86\U00011a87\U00011a88\U00011a89\U00011d46\U00011f02"
    "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
)


def token_counts(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[sp.csr_array]:
    """How often each id occurs in each of B texts, (B, V) int32, block after block.

    1. A text is cut at its spaces, where that cannot change its ids.
    2. Every different part is tokenised once, while those of the next block are found.
    3. The counts of a text are the sums of its parts'.
    """
    content = json.loads(tokenizer.backend.to_str())
    cut = _cuttable(content) and _cuts_at_spaces(tokenizer)
    added = [str(token["content"]) for token in content["added_tokens"]]
    parts = _Parts(tokenizer, added, cut=cut)
    ahead: Future[sp.csr_array] | None = None
    with ThreadPoolExecutor(1) as pool:  # the tokenizer's own threads work while we cut
        for block in _blocks(texts):
            if parts.full:
                parts = _Parts(tokenizer, added, cut=cut)
            asked = parts.numbered(block)
            if ahead is not None:
                yield ahead.result()
            ahead = pool.submit(parts.counts, *asked)
        if ahead is not None:
            yield ahead.result()


class _Numbers(dict[str, int]):
    """The number of each part, given when it is first asked for; -1 where none may be made.

    That is a part beside whose space another rule than the space's may hold: `odd` is set then.
    """

    def __init__(self, added: Sequence[str]) -> None:
        super().__init__()
        self.odd = False
        self.fresh: list[str] = []  # numbered last, not yet tokenised
        self._added = re.compile("|".join(map(re.escape, added)) or NOTHING).search

    def __missing__(self, part: str) -> int:
        if _joins(part) or self._added(part):
            self.odd = True
            return -1
        return self._number(part, part)

    def whole(self, text: str) -> int:
        """The number of a text that is not cut."""
        key = f" {text}"  # no part has a space
        return self[key] if key in self else self._number(key, text)

    def _number(self, key: str, part: str) -> int:
        self.fresh.append(part)
        self[key] = number = len(self)
        return number


class _Parts:
    """Counts ids of texts by those of their parts, which it remembers.

    `numbered` and `counts` share nothing that changes, so that they may run at the same time.
    """

    def __init__(self, tokenizer: Tokenizer, added: Sequence[str], *, cut: bool) -> None:
        self._tokenizer = tokenizer
        self._cut = cut
        self._numbers = _Numbers(added)
        self._held = 0
        self._ids = np.zeros(0, dtype=np.int32)
        self._ends = np.zeros(1, dtype=np.int64)

    @property
    def full(self) -> bool:
        """Whether enough is remembered."""
        return len(self._numbers) > PARTS or self._held > HELD

    def numbered(self, texts: Sequence[str]) -> tuple[sp.csr_array, list[str]]:
        """How often each of P parts occurs in each of B texts, (B, P), and the last, new parts."""
        parts, ends = array("i"), array("q", [0])
        for text in texts:
            self._add(text, parts)
            ends.append(len(parts))
        new, self._numbers.fresh = self._numbers.fresh, []
        self._held += sum(map(len, new))
        # a row may name a part twice: the product adds them up; no text has more than int32 of one
        ones = np.ones(len(parts), dtype=np.int32)
        some = (ones, np.frombuffer(parts, dtype=np.int32), np.frombuffer(ends, dtype=np.int64))
        return sp.csr_array(some, shape=(len(texts), len(self._numbers))), new

    def counts(self, some: sp.csr_array, new: Sequence[str]) -> sp.csr_array:
        """How often each id occurs in each of B texts, (B, V), from what `numbered` told."""
        ids, ends = [self._ids], [self._ends]
        for first in range(0, len(new), BATCH):
            found = self._tokenizer.contents(new[first : first + BATCH])
            sizes = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
            flat = chain.from_iterable(found)
            ids.append(np.fromiter(flat, dtype=np.int32, count=int(sizes.sum())))
            ends.append(ends[-1][-1] + np.cumsum(sizes))
        self._ids, self._ends = np.concatenate(ids), np.concatenate(ends)
        ones = np.ones(len(self._ids), dtype=np.int32)
        shape = (len(self._ends) - 1, self._tokenizer.vocabulary)
        return some @ sp.csr_array((ones, self._ids, self._ends), shape=shape)

    def _add(self, text: str, parts: "array[int]") -> None:
        numbers = self._numbers
        if self._cut and not text.endswith((" ", "\n")):
            start = len(parts)
            numbers.odd = False
            parts.extend(map(numbers.__getitem__, text.replace("\n", " ").split(" ")))
            if not numbers.odd:
                return
            del parts[start:]
        parts.append(numbers.whole(text))


def _joins(part: str) -> bool:
    """Whether a space beside the part may be more than a space, or less."""
    if not part:
        return False
    first, last = part[0], part[-1]
    return (
        not (first.isprintable() and last.isprintable())  # controls and other spaces
        or unicodedata.category(first)[0] == "M"
        or first in JOINING
        or last in JOINING
    )


def _cuttable(content: dict[str, Any]) -> bool:
    """Whether the ids of a text are those of its parts between spaces, one after the other.

    They are where whatever a space parts is normalised alone, runs of spaces are as one, and no
    piece spans two words; so with all that XLM-RoBERTa's converters wrote.
    """
    normal = _steps(content["normalizer"], "normalizers")
    split = _steps(content["pre_tokenizer"], "pretokenizers")
    runs = [
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": space}
        for space in (" ", SPACE)
    ]
    mapped = [step["type"] for step in normal[:-1]]
    words = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    return (
        content["model"].get("type") == "Unigram"
        and normal[-1:] in ([runs[0]], [runs[1]])
        and set(mapped) <= {"Precompiled", "Nmt", "NFKC", "Strip"}
        and split in ([words], [{"type": "WhitespaceSplit"}, words])
        and not any(
            token["normalized"] or len(str(token["content"]).split()) != 1
            for token in content["added_tokens"]
        )
    )


def _steps(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The steps of a sequence, or the one."""
    if step is None:
        return []
    return list(step[name]) if step["type"] == "Sequence" else [step]


def _cuts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether spaces and ends of lines are nothing but what parts words: a charsmap may differ."""
    first, second, *both = tokenizer.contents(["a", "b", "a b", "a\nb"])
    return all(ids == first + second for ids in both)


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if len(some) == BLOCK or size > CHARACTERS:
            yield some
            some, size = [], 0
    if some:
        yield some
