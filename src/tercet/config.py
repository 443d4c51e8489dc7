"""The names and the few constants that the whole package shares, each with its source."""

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

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
# Upper bounds of the length groups, in tokens; M3 paper, table 8 (docs/method.md).
LENGTHS = (500, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8192)


@dataclass(frozen=True)
class Weights:
    """Weights of the raw dense, sparse and multi-vector scores in the hybrid sum."""

    dense: float = 1.0
    sparse: float = 0.3
    multi: float = 1.0

    def __post_init__(self) -> None:
        for name in HEADS:
            value = getattr(self, name)
            in_range = isinstance(value, Real) and value <= 1e6 and not value < 1e-6
            if not in_range and value != 0:
                # beyond, float32 would lose the other scores of a sum, and then the sum itself
                raise InputError(f"the {name} weight must be 0, or 1e-6 to 1e6, got {value!r:.40}")
            object.__setattr__(self, name, float(value))
        if self.dense == self.sparse == self.multi == 0.0:
            raise InputError("at least one of the three weights must be above 0")

    @staticmethod
    def of(weights: "Weights | Iterable[float]") -> "Weights":
        """Weights as they are, or from three numbers: dense, sparse, multi."""
        if isinstance(weights, Weights):
            return weights
        numbers = tuple(ordered(weights) or ())
        if len(numbers) != 3:
            raise InputError(f"three weights are needed (dense, sparse, multi), got {weights!r}")
        return Weights(*numbers)

    def as_tuple(self) -> tuple[float, float, float]:
        return (self.dense, self.sparse, self.multi)


# M3 paper (arXiv 2402.03216 v4), appendix on hybrid retrieval: MIRACL and MKQA, "all".
PAPER_WEIGHTS = Weights(1.0, 0.3, 1.0)
# The same, MLDR, "all": for whole long documents.
PAPER_WEIGHTS_LONG = Weights(0.15, 0.5, 0.35)


def check_heads(given: Iterable[str]) -> tuple[Head, ...]:
    """Returns the heads in their fixed order; raises InputError on an unknown or empty choice."""
    one = isinstance(given, str) or not isinstance(given, Iterable)
    heads: tuple[Any, ...] = (given,) if one else tuple(given)
    unknown = [head for head in heads if head not in HEADS]
    if unknown or not heads:
        what = f"unknown head {unknown[0]!r}" if unknown else "no head asked for"
        raise InputError(f"{what}: choose from {', '.join(HEADS)}")
    return tuple(head for head in HEADS if head in heads)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """The value as an int; raises InputError for what is no whole number, or less than `least`."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return number


def ordered(given: Any) -> Iterator[Any] | None:
    """Iterates over what has an order; None for strings, bytes, dicts, sets, tables and others."""
    unfit = isinstance(given, str | bytes | bytearray | Mapping | set | frozenset)
    # the columns of a table, whose names an iteration would give, and the rows of an array
    if unfit or hasattr(given, "columns") or getattr(given, "ndim", 1) != 1:
        return None
    try:
        items: Iterator[Any] = iter(given)
    except TypeError:
        return None
    return items


def strings(texts: Iterable[str], name: str = "text") -> Iterator[str]:
    """The strings of any iterable that has an order, one by one.

    Raises InputError for one string, a dict, a set or a table, and names an item that is no string.
    """
    if isinstance(texts, str):
        raise InputError(f"{name}s are a list, not one string: give [{texts[:20]!r}]")
    if (items := ordered(texts)) is None:
        raise InputError(
            f"{name}s must be strings in a list (or any other order), not a "
            f"{type(texts).__name__}: of a table give one column, of a dict a list of its values"
        )
    for row, text in enumerate(items):
        if not isinstance(text, str):
            raise InputError(f"{name} {row} is a {type(text).__name__}, not a string")
        yield text


def default_cache() -> Path:
    """The user's folder for what can be made again.

    $TERCET_CACHE, else $XDG_CACHE_HOME/tercet, else ~/.cache/tercet.
    """
    if own := os.environ.get("TERCET_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "tercet"


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
