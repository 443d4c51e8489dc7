"""Prunes an XLM-RoBERTa tokenizer to the pieces that a corpus uses, or its languages alike.

There is no byte fallback, so every single-character piece stays: what the corpus lacks is spelled
out, not lost. Knows nothing of models.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tercet.errors import InputError, ModelError
from tercet.rows import tagged_texts
from tercet.tokenizer import CLS, EOS, MASK, PAD, UNK, Tokenizer
from tercet.train.counts import SPACE, token_counts

FIRST = (
    CLS,
    PAD,
    EOS,
    UNK,
)  # ids 0 to 3 in every XLM-RoBERTa vocabulary; MASK comes last
# A language of n tokens weighs n ** ALPHA: XLM-RoBERTa's own mixture (arXiv:1911.02116, section 3).
ALPHA = 0.3
PRIOR = 0.3  # of the scores is the tokenizer's own; a guess
ROUNDS, LEAST = 12, 3000  # in which languages are weighed anew, tokens of one that has a say

Counts = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pruned:
    """A tokenizer.json with fewer pieces, and the old id of every new one, (V,)."""

    content: dict[str, Any]
    rows: Counts


def document_frequency(tokenizer: Tokenizer, texts: Iterable[str]) -> Counts:
    """The number of texts in which each id occurs, (V,)."""
    counts = np.zeros(tokenizer.vocabulary, dtype=np.int64)
    for block in token_counts(tokenizer, texts):
        counts += np.bincount(block.indices, minlength=len(counts))
    return counts


@dataclass(frozen=True)
class LanguageCounts:
    """How often each id occurs in the text of each of L languages: counts (L, V) int64."""

    languages: tuple[str, ...]
    counts: sp.csr_array


class LanguageCounter:
    """Adds up blocks of `token_counts` by the language of their texts."""

    def __init__(self, vocabulary: int) -> None:
        self._numbers: dict[str, int] = {}
        self._waiting: list[int] = []
        self._total = sp.csr_array((0, vocabulary), dtype=np.int64)

    def named(self, tagged: Iterable[tuple[str, str]]) -> Iterator[str]:
        """The texts of (language, text) pairs, whose languages are kept for `add`."""
        for language, text in tagged:
            self._waiting.append(self._numbers.setdefault(language, len(self._numbers)))
            yield text

    def add(self, block: sp.csr_array) -> None:
        """The counts (B, V) of the next B texts."""
        count, size = block.shape
        rows = np.array(self._waiting[:count])
        del self._waiting[:count]
        known, names = self._total.shape[0], len(self._numbers)
        if known < names:
            more = sp.csr_array((names - known, size), dtype=np.int64)
            self._total = sp.csr_array(sp.vstack([self._total, more]))
        member = (np.ones(count, dtype=np.int64), (rows, np.arange(count)))
        self._total = self._total + sp.csr_array(member, shape=(names, count)) @ block

    def found(self) -> LanguageCounts:
        """What was added up."""
        return LanguageCounts(tuple(self._numbers), self._total)


def count_languages(tokenizer: Tokenizer, tagged: Iterable[tuple[str, str]]) -> LanguageCounts:
    """Counts the ids of (language, text) pairs, each occurrence once."""
    counter = LanguageCounter(tokenizer.vocabulary)
    for block in token_counts(tokenizer, counter.named(tagged)):
        counter.add(block)
    return counter.found()


def balanced(found: LanguageCounts, own: Scores, *, alpha: float, prior: float) -> Scores:
    """A score of each id in which languages weigh by (their tokens) ** alpha, (V,), sum 1.

    `prior` is the share of own, the tokenizer's probability of each id, (V,); ids that it gives
    none (special tokens) have none. Raises InputError where alpha or prior is not in 0 to 1.
    """
    for name, value in (("alpha", alpha), ("prior", prior)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} is from 0 to 1, got {value}")
    first = own / own.sum()
    counts = sp.csr_array(found.counts.multiply(own > 0))
    tokens = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    weights = np.where(tokens > 0, np.maximum(tokens, 1) ** alpha, 0.0)
    if not weights.any():
        return np.asarray(first, dtype=np.float64)
    seen = counts.T @ (weights / np.maximum(tokens, 1)) / weights.sum()
    return np.asarray((1 - prior) * seen + prior * first, dtype=np.float64)


def evened(
    found: LanguageCounts, own: Scores, free: npt.NDArray[np.bool_], room: int, *, prior: float
) -> Scores:
    """A score of each id, (V,), whose best `room` free ids leave out as much of each language.

    Languages weigh more the more of their tokens are left out, over ROUNDS; those of fewer than
    LEAST tokens have no say. free (V,) are the ids that need not stay anyway; prior as in
    `balanced`.
    """
    counts = sp.csr_array(found.counts.multiply(own > 0))
    tokens = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    rows = np.flatnonzero(tokens >= LEAST)
    if not len(rows):
        return balanced(found, own, alpha=0.0, prior=prior)
    shares = sp.csr_array(counts[rows].multiply(1 / tokens[rows][:, None]))
    weights = np.ones(len(rows))
    for _ in range(ROUNDS):
        seen = shares.T @ (weights / weights.sum())
        scores = np.asarray((1 - prior) * seen + prior * own / own.sum(), dtype=np.float64)
        out = free.copy()
        out[np.argsort(-np.where(free, scores, 0), kind="stable")[:room]] = False
        lost = shares @ out.astype(np.float64)
        weights *= np.sqrt(np.maximum(lost, 1e-3) / max(lost.mean(), 1e-3))
    return scores


def probabilities(tokenizer: Tokenizer) -> Scores:
    """The Unigram tokenizer's probability of each id, 0 for special and added tokens, (V,).

    Raises ModelError where there is no Unigram model.
    """
    content = json.loads(tokenizer.backend.to_str())
    model = content["model"]
    if model.get("type") != "Unigram":
        raise ModelError("only Unigram tokenizers have a probability of each piece")
    found = np.zeros(tokenizer.vocabulary)
    found[: len(model["vocab"])] = np.exp([float(score) for _, score in model["vocab"]])
    found[[int(token["id"]) for token in content["added_tokens"]]] = 0.0
    found[tokenizer.weightless_ids] = 0.0
    return found


def balanced_scores(
    tokenizer: Tokenizer,
    files: Iterable[Path],
    *,
    alpha: float = ALPHA,
    prior: float = PRIOR,
    even: int | None = None,
) -> Scores:
    """A score of each id, by which `pruned` ranks, from files of rows with languages, (V,).

    See `balanced`, or `evened` where even is the size of the pruned vocabulary; the files are those
    of `text_files`, read once.
    """
    own = probabilities(tokenizer)
    found = count_languages(tokenizer, tagged_texts(files))
    if even is None:
        return balanced(found, own, alpha=alpha, prior=prior)
    single = [stays(tokenizer.backend.id_to_token(at) or "") for at in range(len(own))]
    free = ~np.array(single) & (own > 0)
    return evened(found, own, free, max(0, even - int((~free).sum())), prior=prior)


def stays(piece: str) -> bool:
    """Whether a piece is a single character, which is kept whatever its count."""
    return len(piece.removeprefix(SPACE)) <= 1


def pruned(
    content: dict[str, Any], counts: Counts | Scores, size: int, *, name: str = "the tokenizer"
) -> Pruned:
    """A Unigram tokenizer with at most size ids: those of the highest counts or scores (V,).

    Special and added tokens and single characters are kept whatever their count; so is the piece of
    the lowest score, from which the score of the unknown follows. A text whose pieces all stay is
    then cut as before, and no other: the best path is still there, with its score and all that it
    is compared with on the way among fewer. Ids keep their order. Raises ModelError where there is
    no Unigram model, InputError where size has no room for what must stay.
    """
    model = content.get("model", {})
    if model.get("type") != "Unigram":
        raise ModelError(f"{name}: only Unigram tokenizers can be pruned")
    vocab: list[list[Any]] = model["vocab"]
    pieces = [str(piece) for piece, _ in vocab]
    old = {piece: number for number, piece in enumerate(pieces)}
    added = [str(token["content"]) for token in content["added_tokens"]]
    # ids of added tokens that are no pieces lie behind the pieces
    behind = {
        str(token["content"]): int(token["id"])
        for token in content["added_tokens"]
        if token["content"] not in old
    }
    old |= behind
    if len(old) != len(counts):
        raise InputError(f"{name}: {len(counts)} counts for a vocabulary of {len(old)}")
    absent = [token for token in FIRST if token not in old]
    if absent:
        raise ModelError(f"{name}: has no {absent[0]}: not of the XLM-RoBERTa family")
    last = [MASK] if MASK in old else []
    special = {*FIRST, *last}
    must = {
        number
        for number, piece in enumerate(pieces)
        if piece not in special and (stays(piece) or piece in added)
    }
    lowest = min(range(len(vocab)), key=lambda number: float(vocab[number][1]))
    must |= {lowest} if pieces[lowest] not in special else set()
    extra = [token for token in behind if token not in special]
    room = size - len(special) - len(must) - len(extra)
    if room < 0:
        raise InputError(f"{size} ids are too few: {len(must)} single characters must stay")
    ranked = np.argsort(-counts[: len(pieces)], kind="stable")
    chosen = [
        int(number)
        for number in ranked
        if counts[number] > 0 and number not in must and pieces[number] not in special
    ][:room]
    kept = sorted(must | set(chosen))
    scores = {str(piece): float(score) for piece, score in vocab}
    new = [[token, scores.get(token, 0.0)] for token in FIRST]
    new += [vocab[number] for number in kept]
    new += [[token, scores.get(token, 0.0)] for token in last]
    order = [str(piece) for piece, _ in new] + extra
    place = {piece: number for number, piece in enumerate(order)}
    fewer = [{**token, "id": place[str(token["content"])]} for token in content["added_tokens"]]
    return Pruned(
        content={
            **content,
            "added_tokens": fewer,
            "model": {**model, "vocab": new, "unk_id": place[UNK]},
        },
        rows=np.array([old[piece] for piece in order], dtype=np.int64),
    )


def prune_tokenizer(
    tokenizer: Tokenizer, counts: Counts | Scores, size: int, *, name: str = "the tokenizer"
) -> tuple[Tokenizer, Counts]:
    """A tokenizer with at most size ids, and the old id of every new one, (V,); see `pruned`."""
    from tokenizers import Tokenizer as Backend

    found = pruned(json.loads(tokenizer.backend.to_str()), counts, size, name=name)
    return Tokenizer(Backend.from_str(json.dumps(found.content))), found.rows
