"""How a head may be read from what the trunk gives: as M3 does it, and as it is got wrong.

A reading is a choice from each list of options of its kind; the first option of each is M3's own.
Knows nothing of texts, models or endpoints. Shapes: T tokens, H hidden, M multi-vector size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from tercet.evaluate.doctor.sequences import POOLS, Floats, Raw

# states: the trunk's last states, which some servers give instead of multi-vectors
Kind = Literal["dense", "sparse", "multi", "states"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TOGETHER = 2  # things that may be wrong at once with one head


@dataclass(frozen=True)
class Sparse:
    """Weights by token id, ids increasing; none is 0."""

    ids: npt.NDArray[np.int64]
    weights: Floats

    @staticmethod
    def of(ids: Sequence[int] | npt.NDArray[np.integer], weights: Sequence[float]) -> "Sparse":
        """From pairs in any order; raises ValueError where an id comes twice."""
        found, values = np.asarray(ids, np.int64), np.asarray(weights, np.float32)
        found, values = found[values != 0], values[values != 0]
        order = np.argsort(found, kind="stable")
        if (np.diff(found[order]) == 0).any():
            raise ValueError("an id comes twice")
        return Sparse(found[order], values[order])


Answer: TypeAlias = Floats | Sparse  # dense (D,); sparse; multi and states (T, M)


@dataclass(frozen=True)
class Cause:
    """One thing that is done otherwise, and how to mend it."""

    says: str
    mend: str


@dataclass(frozen=True)
class Reading:
    """Reads one head: `read(raw, like)`, where `like` is the answer that it is compared with.

    `like` decides sizes alone: to how many dimensions or weights something was cut. None: this
    sequence has not what it takes.
    """

    causes: tuple[Cause, ...]  # none: M3's own
    read: Callable[[Raw, Answer], Answer | None]


@dataclass(frozen=True)
class _Option:
    """What is done at one point of a reading; no cause where it is right."""

    value: str
    cause: Cause | None = None


def _of(value: str, says: str, mend: str) -> _Option:
    return _Option(value, Cause(says, mend))


_CLS = (
    "pool by the first token: in TEI --pooling cls, in sentence-transformers 1_Pooling/config.json"
)
_ROWS = "give one vector for each token but [CLS], </s> included"
_UNIT = "divide each vector by its length"
_CUT = "ask for all dimensions: compare vectors of one size only, and cut both sides alike"
_CUT_OPTIONS = [
    _of("cut", "only the first {size} of {all} dimensions, normalised again", _CUT),
    _of("cut raw", "only the first {size} of {all} dimensions, not normalised again", _CUT),
]
_HEAD = "apply colbert_linear to the states, then divide each vector by its length"

DENSE = [
    [
        _Option("cls"),
        _of("mean", "mean pooling instead of [CLS]", _CLS),
        _of("content", "mean pooling without special tokens instead of [CLS]", _CLS),
        _of("last", "the last token's state instead of that of [CLS]", _CLS),
        _of("max", "max pooling instead of [CLS]", _CLS),
    ],
    [
        _Option("unit"),
        _of("raw", "not normalised", "divide by the length: in TEI normalize=true; or use cosine"),
    ],
]
SPARSE = [
    [
        _Option("relu"),
        _of("none", "no ReLU: weights below 0 are kept", "set weights below 0 to 0"),
        _of(
            "log1p", "log(1 + w) of each weight, as SPLADE does", "give ReLU's weights as they are"
        ),
        _of(
            "sigmoid", "sigmoid instead of ReLU", "use ReLU: in vLLM check the pooler's activation"
        ),
    ],
    [
        _Option("max"),
        _of("sum", "weights of a repeated token are summed", "keep the largest"),
        _of("mean", "weights of a repeated token are averaged", "keep the largest"),
        _of("last", "of a repeated token the last weight is taken", "keep the largest"),
    ],
    [
        _Option("zero"),
        _of(
            "kept",
            "special tokens keep their weights",
            "give <s>, </s>, <pad> and <unk> the weight 0",
        ),
    ],
    [
        _Option("plain"),
        _of("unit", "weights are scaled to a vector of length 1", "give weights as they are"),
    ],
    [
        _Option("all"),
        _of("top", "only the largest weights are kept", "give all weights above 0"),
    ],
]
_MULTI_ROWS = {
    "content+eos": _Option("content+eos"),
    "all": _of("all", "the vector of [CLS] is kept", _ROWS),
    "content": _of("content", "the vector of </s> is dropped", _ROWS),
    "cls+content": _of("cls+content", "the vector of [CLS] is kept, that of </s> dropped", _ROWS),
}
_MULTI_VECTORS = {
    "multi unit": _Option("multi unit"),
    "multi raw": _of("multi raw", "not normalised", _UNIT),
    "states raw": _of("states raw", "the trunk's states, without the multi-vector head", _HEAD),
    "states unit": _of(
        "states unit", "the trunk's states, normalised, without the multi-vector head", _HEAD
    ),
}
_STATES_ROWS = [
    _Option("all"),
    _of("content+eos", "the state of [CLS] is missing", "give the states of all tokens"),
    _of("content", "the states of [CLS] and </s> are missing", "give the states of all tokens"),
]
_STATES_VECTORS = [
    _Option("states raw"),
    _of("states unit", "the states are normalised", "give the states as they are"),
    _of("multi raw", "multi-vectors that are not normalised", _UNIT),
    _of("multi unit", "multi-vectors instead of states", "compare them as multi-vectors"),
]


def readings(
    kind: Kind, weightless: npt.NDArray[np.integer], size: int, whole: int
) -> list[Reading]:
    """The readings of a kind, M3's own first, then the simpler ones first.

    size: dimensions of the answers, of `whole` that the head has; both 0 for sparse.
    """
    if kind == "sparse":
        options = SPARSE
    else:
        cuts = [_Option("whole")] + ([] if size >= whole else _CUT_OPTIONS)
        points = {
            "dense": DENSE,
            "multi": [list(_MULTI_ROWS.values()), list(_MULTI_VECTORS.values())],
            "states": [_STATES_ROWS, _STATES_VECTORS],
        }
        options = [*points[kind], cuts]
    names = {"size": f"{size:,}", "all": f"{whole:,}"}
    out = [_reading(kind, chosen, weightless, names) for chosen in product(*options)]
    few = [reading for reading in out if len(reading.causes) <= TOGETHER]
    return sorted(few, key=lambda reading: len(reading.causes))


def _reading(
    kind: Kind,
    chosen: tuple[_Option, ...],
    weightless: npt.NDArray[np.integer],
    names: dict[str, str],
) -> Reading:
    causes = tuple(
        Cause(option.cause.says.format(**names), option.cause.mend)
        for option in chosen
        if option.cause is not None
    )
    values = [option.value for option in chosen]

    def dense(raw: Raw, like: Answer) -> Answer | None:
        vector = raw.pools[POOLS.index(values[0])]
        return _cut(vector if values[1] == "raw" else _unit(vector), values[2], like)

    def sparse(raw: Raw, like: Answer) -> Answer | None:
        return (
            None if raw.logits is None else _sparse(raw.ids, raw.logits, weightless, values, like)
        )

    def tokens(raw: Raw, like: Answer) -> Answer | None:
        what, form = values[1].split()
        vectors = raw.multi if what == "multi" else raw.states
        if vectors is None:
            return None
        first = 0 if values[0] in ("all", "cls+content") else 1
        last = len(vectors) - (0 if values[0] in ("all", "content+eos") else 1)
        vectors = vectors[first : max(first, last)]
        return _cut(_unit(vectors) if form == "unit" else vectors, values[2], like)

    return Reading(causes, {"dense": dense, "sparse": sparse}.get(kind, tokens))


def _unit(vectors: Floats) -> Floats:
    out: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return out


def _cut(vectors: Floats, how: str, like: Answer) -> Floats:
    if how == "whole" or isinstance(like, Sparse):
        return vectors
    first = vectors[..., : like.shape[-1]]
    return _unit(first) if how == "cut" else first


def _sparse(
    ids: npt.NDArray[np.int32],
    logits: Floats,
    weightless: npt.NDArray[np.integer],
    values: list[str],
    like: Answer,
) -> Sparse:
    activation, repeated, special, scale, kept = values
    if special == "zero":
        weighs = ~np.isin(ids, weightless)
        ids, logits = ids[weighs], logits[weighs]
    weights = _ACTIVATIONS[activation](logits).astype(np.float32)
    found, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    if repeated == "max":
        merged = np.full(len(found), -np.inf, dtype=np.float32)
        np.maximum.at(merged, place, weights)
    elif repeated == "last":
        merged = np.zeros(len(found), dtype=np.float32)
        merged[place] = weights  # later ones overwrite
    else:
        merged = np.zeros(len(found), dtype=np.float32)
        np.add.at(merged, place, weights)
        if repeated == "mean":
            merged /= counts.astype(np.float32)
    if kept == "top" and isinstance(like, Sparse) and len(like.ids) < len(found):
        largest = np.sort(np.argsort(-merged, kind="stable")[: len(like.ids)])
        found, merged = found[largest], merged[largest]
    if scale == "unit":
        merged /= np.float32(max(float(np.linalg.norm(merged)), 1e-12))
    return Sparse.of(found, merged.tolist())


_ACTIVATIONS: dict[str, Callable[[Floats], npt.NDArray[np.floating]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "none": lambda x: x,
    "log1p": lambda x: np.log1p(np.maximum(x, 0)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
