"""How far an answer is from what was expected, and whether rounding explains it.

The error of a text is the length of the difference, as a share of the length of what was expected.
Knows nothing of texts, models or endpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.evaluate.doctor.readings import Answer, Kind, Sparse
from tercet.evaluate.doctor.sequences import PRECISIONS, Floats, Precision

# Of float32 on other hardware, in other orders of summation, with TF32 off: the largest we saw is
# 1e-5 (docs/figures.md, "The same numbers"). Multi-vectors are often stored in float16, ours too.
SAME: dict[Kind, float] = {"dense": 1e-4, "sparse": 1e-4, "multi": 1e-3, "states": 1e-3}
WORST = 2.0  # an error beyond it says no more; also that of a wrong number of vectors
SPREAD = 20.0  # times the median: the largest error that rounding gives; we saw up to 8
SLACK = 2.0  # times the largest error of simulated rounding: kernels differ in what they round

Level = Precision | None  # None: float32


@dataclass(frozen=True)
class Fact:
    """Something that differs besides vectors; `matters` where results of search change."""

    says: str
    matters: bool = True


@dataclass(frozen=True)
class Sizes:
    """What differs in a text besides its error."""

    cosine: float | None = None  # dense: of the vector; multi: the smallest of a token
    missing: int = 0  # sparse: ids that should be there
    extra: int = 0  # sparse: ids that should not
    token: tuple[int, float, float] | None = None  # sparse, the furthest off: id, expected, got
    vectors: tuple[int, int] | None = None  # multi, where they differ: expected, got


def error(answer: Answer, expected: Answer) -> float:
    """0 where equal, at most WORST."""
    if isinstance(answer, Sparse) or isinstance(expected, Sparse):
        if not (isinstance(answer, Sparse) and isinstance(expected, Sparse)):
            return WORST
        _, got, wanted = _aligned(answer, expected)
        difference, whole = got - wanted, wanted
    else:
        if answer.shape != expected.shape:
            return WORST
        difference, whole = answer - expected, expected
    with np.errstate(over="ignore", invalid="ignore"):  # nonsense may be of any size
        size, length = float(np.linalg.norm(difference)), float(np.linalg.norm(whole))
    if size == 0:
        return 0.0
    return min(WORST, size / length) if length > 0 and np.isfinite(size) else WORST


def sizes(answer: Answer, expected: Answer) -> Sizes:
    """The differences that people look at."""
    if isinstance(answer, Sparse) and isinstance(expected, Sparse):
        return Sizes(
            missing=len(np.setdiff1d(expected.ids, answer.ids)),
            extra=len(np.setdiff1d(answer.ids, expected.ids)),
            token=_furthest(answer, expected),
        )
    if isinstance(answer, Sparse) or isinstance(expected, Sparse):
        return Sizes()
    if answer.ndim == 2 and len(answer) != len(expected):
        return Sizes(vectors=(len(expected), len(answer)))
    if answer.shape != expected.shape or not len(answer):
        return Sizes()
    smallest = float(np.min(_cosines(answer, expected)))
    return Sizes(cosine=smallest if np.isfinite(smallest) else None)


def _cosines(a: Floats, b: Floats) -> Floats:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    out: Floats = np.sum(a * b, axis=-1) / np.maximum(lengths, 1e-12)
    return out


def _furthest(answer: Sparse, expected: Sparse) -> tuple[int, float, float] | None:
    """The token whose weight is furthest off; None where all are right or one is no number."""
    ids, wanted, got = _aligned(expected, answer)
    off = np.abs(wanted - got)
    if not len(ids) or not np.isfinite(off).all() or not off.any():
        return None
    worst = int(np.argmax(off))
    return int(ids[worst]), float(wanted[worst]), float(got[worst])


def _aligned(*some: Sparse) -> list[npt.NDArray[Any]]:
    """All ids of several, and the weights that each has for them."""
    ids = np.unique(np.concatenate([part.ids for part in some]))
    out: list[npt.NDArray[Any]] = [ids]
    for part in some:
        weights = np.zeros(len(ids), dtype=np.float32)
        weights[np.searchsorted(ids, part.ids)] = part.weights
        out.append(weights)
    return out


def level(
    errors: Sequence[float], kind: Kind, limits: Mapping[Precision, float]
) -> tuple[bool, Level]:
    """Whether rounding explains the errors of all texts, and to what.

    limits: the largest error of each precision. Rounding touches all texts about alike: where half
    of them are far nearer than the worst, it is something else.
    """
    worst = max(errors, default=0.0)
    if worst <= SAME[kind]:
        return True, None
    if worst > SPREAD * float(np.median(errors)):
        return False, None
    for precision in PRECISIONS:
        if worst <= limits[precision]:
            return True, precision
    return False, None
