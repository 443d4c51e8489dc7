"""The names and the few constants that the whole package shares, each with its source."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tercet.errors import InputError

Head = Literal["dense", "sparse", "multi"]
HEADS: tuple[Head, ...] = get_args(Head)

Mode = Literal["dense", "sparse", "multi", "hybrid"]
MODES: tuple[Mode, ...] = get_args(Mode)

Role = Literal["passage", "query", "plain"]  # plain: nothing is put before the text
ROLES: tuple[Role, ...] = get_args(Role)

Progress = Callable[[int, int], None]  # how much is done, and of how much

BUNDLED_NAME = "tercet-small"  # of the model that comes with Tercet

MAX_LENGTH = 8192  # tokens, special ones included; M3 paper, section 3.1
MCLS_RUN = 256  # content tokens per [CLS]; M3 paper, section 3.4


@dataclass(frozen=True)
class Weights:
    """Weights of the raw dense, sparse and multi-vector scores in the hybrid sum."""

    dense: float = 1.0
    sparse: float = 0.3
    multi: float = 1.0

    def __post_init__(self) -> None:
        for name in HEADS:
            value = getattr(self, name)
            if not (0.0 <= value < float("inf")):
                raise InputError(f"the {name} weight must be a finite number >= 0, got {value}")
        if self.dense == self.sparse == self.multi == 0.0:
            raise InputError("at least one of the three weights must be above 0")

    def as_tuple(self) -> tuple[float, float, float]:
        return (self.dense, self.sparse, self.multi)


# M3 paper (arXiv 2402.03216 v4), appendix on hybrid retrieval: MIRACL and MKQA, "all".
PAPER_WEIGHTS = Weights(1.0, 0.3, 1.0)
# The same, MLDR, "all": for whole long documents.
PAPER_WEIGHTS_LONG = Weights(0.15, 0.5, 0.35)


def check_heads(heads: tuple[str, ...]) -> tuple[Head, ...]:
    """Returns the heads in their fixed order; raises InputError on an unknown or empty choice."""
    unknown = [head for head in heads if head not in HEADS]
    if unknown or not heads:
        what = f"unknown head {unknown[0]!r}" if unknown else "no head asked for"
        raise InputError(f"{what}: choose from {', '.join(HEADS)}")
    return tuple(head for head in HEADS if head in heads)


def default_cache() -> Path:
    """The user's folder for what can be made again.

    $TERCET_CACHE, else $XDG_CACHE_HOME/tercet, else ~/.cache/tercet.
    """
    if own := os.environ.get("TERCET_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "tercet"
