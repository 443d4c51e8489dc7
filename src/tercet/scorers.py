"""Scores of (query, passage) pairs from outside: any callable, a function's name, a cross-encoder.

Sees to it that what comes back is one finite number a pair. Knows nothing of rows or of what a
score means.
"""

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tercet.errors import InputError, MissingExtraError

Pair = tuple[str, str]  # query, passage
Scorer = Callable[[list[Pair]], Sequence[float]]  # the higher, the more relevant

PAIRS = 1024  # given to a scorer at once


def scorer_of(name: str, options: Mapping[str, Any] | None = None) -> Scorer:
    """The function that "module:function" names; with options, what that returns for them.

    A name and options can travel to other processes. Modules of the present folder are found too,
    after all that is installed: a file there stands in for no module of the same name.
    Raises InputError where there is none.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise InputError(f"a scorer is named module:function, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        named = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the scorer {name!r} is not there: {error}") from error
    if not callable(named):
        raise InputError(f"the scorer {name!r} is a {type(named).__name__}, not a function")
    scorer: Scorer = named if options is None else named(**options)
    return scorer


def scores_of(
    scorer: Scorer, pairs: Sequence[Pair], where: Sequence[str] | None = None
) -> list[float]:
    """The scores of some pairs; raises InputError where they are not one finite number each.

    where says, for each pair, the file and line that a message names.
    """
    out: list[float] = []
    for first in range(0, len(pairs), PAIRS):
        block = list(pairs[first : first + PAIRS])
        try:
            array: Any = np.asarray(scorer(block), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"the scorer gave something else than numbers: {error}") from error
        if array.shape != (len(block),):
            raise InputError(
                f"the scorer gave numbers of shape {array.shape} for {len(block)} pairs: it must "
                "give one number for each pair"
            )
        for number, score in enumerate(array.tolist()):
            if not math.isfinite(score):
                query, passage = block[number]
                place = "" if where is None else f"{where[first + number]}: "
                raise InputError(
                    f"{place}the scorer gave {score} for the query {query[:60]!r} and the text "
                    f"{passage[:60]!r}: it must give finite numbers"
                )
            out.append(score)
    return out


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
