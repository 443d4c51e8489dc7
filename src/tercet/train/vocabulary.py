"""Prunes an XLM-RoBERTa tokenizer to the pieces that a corpus uses.

There is no byte fallback, so every single-character piece stays: what the corpus lacks is spelled
out, not lost. Knows nothing of models.
"""

import json
from collections.abc import Iterable
from pathlib import Path
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
BLOCK = 4096  # texts tokenised at once


def document_frequency(tokenizer: Tokenizer, texts: Iterable[str]) -> npt.NDArray[np.int64]:
    """The number of texts in which each id occurs, (V,)."""
    counts = np.zeros(tokenizer.vocabulary, dtype=np.int64)
    block: list[str] = []

    def count() -> None:
        for ids in tokenizer.contents(block):
            counts[np.unique(np.array(ids, dtype=np.int64))] += 1
        block.clear()

    for text in texts:
        block.append(text)
        if len(block) == BLOCK:
            count()
    count()
    return counts


def prune(source: Path, counts: npt.NDArray[np.int64], size: int) -> dict[str, Any]:
    """The content of a tokenizer.json with at most size ids: the most frequent ones by counts (V,).

    Special tokens and single characters are kept whatever their count. Raises ModelError where
    source is no Unigram tokenizer, InputError where size has no room for those.
    """
    content: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    model = content.get("model", {})
    if model.get("type") != "Unigram":
        raise ModelError(f"{source}: only Unigram tokenizers can be pruned")
    vocab: list[list[Any]] = model["vocab"]
    if len(vocab) != len(counts):
        raise InputError(f"{len(counts)} counts for a vocabulary of {len(vocab)}")
    special = {*FIRST, MASK}
    pieces = [str(piece) for piece, _ in vocab]
    must = {
        number
        for number, piece in enumerate(pieces)
        if piece not in special and len(piece.removeprefix(SPACE)) <= 1
    }
    room = size - len(special) - len(must)
    if room < 0:
        raise InputError(f"{size} ids are too few: {len(must)} single characters must stay")
    ranked = np.argsort(-counts, kind="stable")
    chosen = [
        int(number)
        for number in ranked
        if counts[number] > 0 and number not in must and pieces[number] not in special
    ][:room]
    kept = sorted(must | set(chosen))
    new = [[token, 0.0] for token in FIRST] + [vocab[number] for number in kept] + [[MASK, 0.0]]
    place = {piece: number for number, (piece, _) in enumerate(new)}
    model["vocab"], model["unk_id"] = new, place[UNK]
    for added in content["added_tokens"]:
        added["id"] = place[added["content"]]
    return content
