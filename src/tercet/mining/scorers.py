"""Judges from outside: a cross-encoder, or any callable on pairs of texts.

Sees to it that what comes back is one finite number a pair. Knows nothing of rows or candidates.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tercet.errors import InputError, MissingExtraError

Pair = tuple[str, str]  # query, passage
Scorer = Callable[[list[Pair]], Sequence[float]]  # the higher, the more relevant

PAIRS = 1024  # given to a scorer at once


def checked(scorer: Scorer, pairs: list[Pair]) -> list[float]:
    """The scores of some pairs; raises InputError where they are not one number each."""
    try:
        array: Any = np.asarray(scorer(pairs), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"the scorer gave something else than numbers: {error}") from error
    if array.shape != (len(pairs),):
        raise InputError(
            f"the scorer gave numbers of shape {array.shape} for {len(pairs)} pairs: it must give "
            f"one number for each pair"
        )
    scores: list[float] = array.tolist()
    for (query, passage), score in zip(pairs, scores, strict=True):
        if not math.isfinite(score):
            raise InputError(
                f"the scorer gave {score} for the query {query[:60]!r} and the text "
                f"{passage[:60]!r}: it must give finite numbers"
            )
    return scores


def cross_encoder(model: str, *, device: str | None = None, max_length: int = 512) -> Scorer:
    """A re-ranker by its folder or hub id, through sentence-transformers.

    Needs the extra `tercet[teacher]`.
    """
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MissingExtraError(
            "a re-ranker needs sentence-transformers: pip install 'tercet[teacher]'"
        ) from error
    try:
        judge: Any = CrossEncoder(model, device=device, max_length=max_length)
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise InputError(f"the re-ranker {model!r} cannot be loaded: {first}") from error

    def score(pairs: list[Pair]) -> Sequence[float]:
        scores: Sequence[float] = judge.predict(pairs, show_progress_bar=False)
        return scores

    return score
