"""Prunes an XLM-RoBERTa tokenizer to the pieces that a corpus uses.

There is no byte fallback, so every single-character piece stays: what the corpus lacks is spelled
out, not lost. Knows nothing of models.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError, ModelError
from tercet.tokens import CLS, EOS, MASK, PAD, UNK, Tokenizer

SPACE = "▁"
FIRST = (
    CLS,
    PAD,
    EOS,
    UNK,
)  # ids 0 to 3 in every XLM-RoBERTa vocabulary; MASK comes last
BLOCK, CHARACTERS = 4096, 1 << 20  # texts and characters tokenised at once

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pruned:
    """A tokenizer.json with fewer pieces, and the old id of every new one, (V,)."""

    content: dict[str, Any]
    rows: Counts


def document_frequency(tokenizer: Tokenizer, texts: Iterable[str]) -> Counts:
    """The number of texts in which each id occurs, (V,)."""
    counts = np.zeros(tokenizer.vocabulary, dtype=np.int64)
    block: list[str] = []
    size = 0

    def count() -> None:
        for ids in tokenizer.contents(block):
            counts[np.unique(np.array(ids, dtype=np.int64))] += 1
        block.clear()

    for text in texts:
        block.append(text)
        size += len(text)
        if len(block) == BLOCK or size > CHARACTERS:
            count()
            size = 0
    count()
    return counts


def pruned(
    content: dict[str, Any], counts: Counts, size: int, *, name: str = "the tokenizer"
) -> Pruned:
    """A Unigram tokenizer with at most size ids: the most frequent ones by counts (V,).

    Special and added tokens and single characters are kept whatever their count; so is the piece of
    the lowest score, from which the score of the unknown follows. A text whose pieces all stay is
    then cut as before. Ids keep their order. Raises ModelError where there is no Unigram model,
    InputError where size has no room for what must stay.
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
        if piece not in special and (len(piece.removeprefix(SPACE)) <= 1 or piece in added)
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
    new = [[token, 0.0] for token in FIRST] + [vocab[number] for number in kept]
    new += [[token, 0.0] for token in last]
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
    tokenizer: Tokenizer, counts: Counts, size: int, *, name: str = "the tokenizer"
) -> tuple[Tokenizer, Counts]:
    """A tokenizer with at most size ids, and the old id of every new one, (V,); see `pruned`."""
    from tokenizers import Tokenizer as Backend

    found = pruned(json.loads(tokenizer.backend.to_str()), counts, size, name=name)
    return Tokenizer(Backend.from_str(json.dumps(found.content))), found.rows
