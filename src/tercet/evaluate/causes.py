"""The known mistakes of those who serve a model, each with what mends it, in one table a kind.

Those before the trunk change the tokens or their positions; those behind it change how a head is
read from what the trunk gives. Knows nothing of models, endpoints or verdicts. Shapes: T tokens,
H hidden, M multi-vector size.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from tercet.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]
Kind = Literal["dense", "sparse", "multi", "states"]  # states: the trunk's last states
KINDS: tuple[Kind, ...] = get_args(Kind)
LATE = 2048  # tokens of a text, beyond which a cut is tried last
WORST = 2.0  # an error beyond it says no more; also that of a wrong number of vectors


@dataclass(frozen=True)
class Cause:
    """A known mistake, and how to mend it."""

    says: str
    mend: str


# --- mistakes before the trunk: texts and tokens ---

# Maximum lengths that servers and libraries set: 512 is FlagEmbedding's default.
LENGTHS = (128, 256, 384, 512, 514, 1024, 2048, 4096)
PREFIXES = (
    "query: ",
    "passage: ",
    "search_query: ",
    "search_document: ",
    "Represent this sentence: ",
    "Represent this sentence for searching relevant passages: ",
    "为这个句子生成表示以用于检索相关文章：",
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
)  # of E5, nomic, BGE v1.5 and instruction-tuned models, as their model cards have them


@dataclass(frozen=True)
class Variant:
    """A way to come from texts to what the trunk gives."""

    cause: Cause | None  # None: as the checkpoint does
    tokens: Callable[[str], Sequence[int]]  # of a text; empty where there are none
    everywhere: bool = False  # else on short texts only, which is enough to know it
    first_position: int | None = None  # None: padding index + 1


def _without_accents(text: str) -> str:
    parts = unicodedata.normalize("NFD", text)
    return "".join(c for c in parts if unicodedata.category(c) != "Mn")


_UNCHANGED, _UTF8 = "send texts to the model as they are", "read and send texts as UTF-8"
_TEXT_CHANGES: list[tuple[str, str, Callable[[str], str]]] = [
    ("texts are lower-cased", f"{_UNCHANGED}: set do_lower_case to false", str.lower),
    ("accents are stripped", f"{_UNCHANGED}: set strip_accents to false", _without_accents),
    ("texts are lower-cased and lose accents", _UNCHANGED, lambda t: _without_accents(t.lower())),
    ("blanks at the ends are stripped", _UNCHANGED, str.strip),
    ("line breaks are replaced by blanks", _UNCHANGED, lambda t: t.replace("\n", " ")),
    ("runs of blanks are made one", _UNCHANGED, lambda t: " ".join(t.split())),
    ("texts are in Unicode's NFKC", _UNCHANGED, lambda t: unicodedata.normalize("NFKC", t)),
    ("texts are in Unicode's NFC", _UNCHANGED, lambda t: unicodedata.normalize("NFC", t)),
    ("UTF-8 is read as Latin-1", _UTF8, lambda t: t.encode().decode("latin-1")),
    ("only ASCII is kept", _UTF8, lambda t: t.encode("ascii", "ignore").decode()),
]
_FRAMES = {  # how many [CLS] and </s>
    (0, 1): "[CLS] (<s>) is missing",
    (1, 0): "</s> is missing",
    (0, 0): "[CLS] (<s>) and </s> are missing",
    (2, 1): "[CLS] (<s>) is there twice",
    (1, 2): "</s> is there twice",
    (2, 2): "[CLS] (<s>) and </s> are there twice",
}
FRAME = (
    "put <s> before and </s> behind each text, once: check add_special_tokens, or for GGUF "
    "add_bos_token and add_eos_token"
)
PROMPT = (
    "switch the prompt off: in TEI --default-prompt, in sentence-transformers the prompts of "
    "config_sentence_transformers.json"
)
POSITIONS = (
    "XLM-RoBERTa counts positions from padding index + 1: convert the model anew, or use a newer "
    "version of the server"
)


def variants(tokenizer: Tokenizer, longest: int, prefixes: Sequence[str]) -> list[Variant]:
    """The right one first, then the known mistakes, those that take long at the end.

    longest: tokens that the model takes; prefixes: that may be put before texts, besides PREFIXES.
    """
    cls, eos, first = [tokenizer.cls_id], [tokenizer.eos_id], tokenizer.pad_id + 1

    @cache
    def content(text: str) -> list[int]:
        return tokenizer.contents([text])[0]

    def framed(text: str, limit: int = longest, counts: tuple[int, int] = (1, 1)) -> list[int]:
        return cls * counts[0] + content(text)[: limit - sum(counts)] + eos * counts[1]

    def last(limit: int, text: str) -> list[int]:
        return cls + content(text)[-(limit - 2) :] + eos

    def without_end(limit: int, text: str) -> list[int]:
        return (cls + content(text) + eos)[:limit]

    def changed(change: Callable[[str], str], text: str) -> list[int]:
        return framed(change(text))

    allow = f"allow {longest:,} tokens as the checkpoint does, and check what a client sets"
    turn = "truncate at the end: in TEI truncation_direction Right"
    cuts = [
        (n, f"texts are cut to {n:,} tokens", allow, partial(framed, limit=n))
        for n in LENGTHS
        if n < longest
    ]
    for n in sorted({min(512, longest), longest}):
        tail = f"the last {n:,} tokens of long texts are kept instead of the first"
        cuts.append((n, tail, turn, partial(last, n)))
        lost = f"texts are cut to {n:,} tokens, and </s> is lost"
        cuts.append((n, lost, f"put </s> last; {allow}", partial(without_end, n)))
    early: list[Variant] = []
    late: list[Variant] = []
    for n, says, mend, made in cuts:
        group = early if n <= LATE else late
        group.append(Variant(Cause(says, mend), made, everywhere=True))
    rows = [(says, FRAME, partial(framed, counts=counts)) for counts, says in _FRAMES.items()]
    rows += [
        (f"{prefix!r} is put before each text", PROMPT, partial(changed, prefix.__add__))
        for prefix in dict.fromkeys((*prefixes, *PREFIXES))
        if prefix
    ]
    rows += [(says, mend, partial(changed, change)) for says, mend, change in _TEXT_CHANGES]
    positions = [
        Variant(
            Cause(f"position ids start at {wrong} instead of {first}", POSITIONS),
            framed,
            first_position=wrong,
        )
        for wrong in range(first)
    ]
    others = [Variant(Cause(says, mend), made) for says, mend, made in rows]
    return [Variant(None, framed, everywhere=True), *early, *others, *positions, *late]


# --- mistakes behind the trunk: how a head is read ---

POOLS = ("cls", "mean", "content", "last", "max")  # rows of `TrunkOutput.pools`


@dataclass(frozen=True)
class TrunkOutput:
    """What the trunk gives for one sequence, before any head decides.

    pools (5, H) of the states: the first, the mean of all, the mean of those between the first and
    the last, the last, the largest of each dimension. logits (T,) of the sparse head before its
    ReLU. multi (T, M) before its norm. states (T, H). None: no such head, or too long.
    """

    ids: npt.NDArray[np.int32]
    pools: Floats
    logits: Floats | None
    multi: Floats | None
    states: Floats | None


@dataclass(frozen=True)
class SparseVector:
    """Weights by token id, ids increasing; none is 0."""

    ids: npt.NDArray[np.int64]
    weights: Floats

    @staticmethod
    def of(ids: Any, weights: Any) -> "SparseVector":
        """From pairs in any order; raises ValueError where an id comes twice."""
        ids, weights = np.asarray(ids, np.int64), np.asarray(weights, np.float32)
        ids, weights = ids[weights != 0], weights[weights != 0]
        order = np.argsort(ids, kind="stable")
        if (np.diff(ids[order]) == 0).any():
            raise ValueError("an id comes twice")
        return SparseVector(ids[order], weights[order])


Vector: TypeAlias = Floats | SparseVector  # dense (D,); sparse; multi and states (T, M)

RIGHT: dict[Kind, dict[str, str]] = {
    "dense": {"pool": "cls", "norm": "unit", "size": "whole"},
    "sparse": {
        "activation": "relu",
        "repeated": "max",
        "special": "zero",
        "norm": "raw",
        "size": "whole",
    },
    "multi": {"rows": "content+eos", "head": "multi", "norm": "unit", "size": "whole"},
    "states": {"rows": "all", "head": "states", "norm": "raw", "size": "whole"},
}
_MISREADINGS: list[tuple[str, str, str, dict[str, str]]] = [  # kinds, what, how to mend, mistakes
    (
        "dense",
        "pool",
        "pool by the first token: in TEI --pooling cls, in sentence-transformers "
        "1_Pooling/config.json",
        {
            "mean": "mean pooling instead of [CLS]",
            "content": "mean pooling without special tokens instead of [CLS]",
            "last": "the last token's state instead of that of [CLS]",
            "max": "max pooling instead of [CLS]",
        },
    ),
    (
        "dense multi",
        "norm",
        "divide each vector by its length: in TEI normalize=true; or use cosine",
        {"raw": "not normalised"},
    ),
    (
        "sparse",
        "activation",
        "set weights below 0 to 0 and change no other: in vLLM check the pooler's activation",
        {
            "none": "no ReLU: weights below 0 are kept",
            "log1p": "log(1 + w) of each weight, as SPLADE does",
            "sigmoid": "sigmoid instead of ReLU",
        },
    ),
    (
        "sparse",
        "repeated",
        "keep the largest",
        {
            "sum": "weights of a repeated token are summed",
            "mean": "weights of a repeated token are averaged",
            "last": "of a repeated token the last weight is taken",
        },
    ),
    (
        "sparse",
        "special",
        "give <s>, </s>, <pad> and <unk> the weight 0",
        {"kept": "special tokens keep their weights"},
    ),
    (
        "sparse",
        "norm",
        "give weights as they are",
        {"unit": "weights are scaled to a vector of length 1"},
    ),
    ("sparse", "size", "give all weights above 0", {"top": "only the largest weights are kept"}),
    (
        "multi",
        "rows",
        "give one vector for each token but [CLS], </s> included",
        {
            "all": "the vector of [CLS] is kept",
            "content": "the vector of </s> is dropped",
            "cls+content": "the vector of [CLS] is kept, that of </s> dropped",
        },
    ),
    (
        "multi",
        "head",
        "apply colbert_linear to the states, then divide each vector by its length",
        {"states": "the trunk's states, without the multi-vector head"},
    ),
    (
        "states",
        "rows",
        "give the states of all tokens",
        {
            "content+eos": "the state of [CLS] is missing",
            "content": "the states of [CLS] and </s> are missing",
        },
    ),
    ("states", "norm", "give the states as they are", {"unit": "the states are normalised"}),
    ("states", "head", "compare them as multi-vectors", {"multi": "multi-vectors, not states"}),
    (
        "dense multi states",
        "size",
        "ask for all dimensions: compare vectors of one size only, and cut both sides alike",
        {
            "cut": "only the first {size:,} of {whole:,} dimensions, normalised again",
            "cut raw": "only the first {size:,} of {whole:,} dimensions, not normalised again",
        },
    ),
]


def readings(
    kind: Kind, size: int = 0, whole: int = 0
) -> list[tuple[tuple[Cause, ...], dict[str, str]]]:
    """Ways to read a head: the right one, those with one mistake, those with two.

    size: dimensions of the answers, of `whole` that the head has; both 0 for sparse.
    """
    changes = [
        (what, how, Cause(says.format(size=size, whole=whole), mend))
        for kinds, what, mend, mistakes in _MISREADINGS
        for how, says in mistakes.items()
        if kind in kinds.split() and (what != "size" or kind == "sparse" or 0 < size < whole)
    ]
    pairs = [list(pair) for pair in combinations(changes, 2) if pair[0][0] != pair[1][0]]
    chosen = [[], *([change] for change in changes), *pairs]
    return [
        (tuple(cause for *_, cause in some), RIGHT[kind] | {what: how for what, how, _ in some})
        for some in chosen
    ]


def read(
    kind: Kind,
    output: TrunkOutput,
    how: Mapping[str, str],
    weightless: Sequence[int],
    like: Vector | None = None,
) -> Vector | None:
    """A head's answer to one sequence; None where the output has not what it takes.

    like: the answer it is compared with, which says to how many dimensions or weights it is cut.
    """
    if kind == "sparse":
        return None if output.logits is None else _sparse(output, how, weightless, like)
    vectors: Floats
    if kind == "dense":
        vectors = output.pools[POOLS.index(how["pool"])]
    else:
        tokens = output.multi if how["head"] == "multi" else output.states
        if tokens is None:
            return None
        first = 0 if how["rows"] in ("all", "cls+content") else 1
        last = len(tokens) - (0 if how["rows"] in ("all", "content+eos") else 1)
        vectors = tokens[first : max(first, last)]
    if how["norm"] == "unit":
        vectors = _unit(vectors)
    if how["size"] != "whole" and isinstance(like, np.ndarray):
        vectors = vectors[..., : like.shape[-1]]
        vectors = _unit(vectors) if how["size"] == "cut" else vectors
    return vectors


def _unit(vectors: Floats) -> Floats:
    out: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return out


_ACTIVATIONS: dict[str, Callable[[Floats], npt.NDArray[np.floating]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "none": lambda x: x,
    "log1p": lambda x: np.log1p(np.maximum(x, 0)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def _sparse(
    output: TrunkOutput, how: Mapping[str, str], weightless: Sequence[int], like: Vector | None
) -> SparseVector:
    ids, logits = output.ids, output.logits
    assert logits is not None
    if how["special"] == "zero":
        weighs = ~np.isin(ids, weightless)
        ids, logits = ids[weighs], logits[weighs]
    weights = _ACTIVATIONS[how["activation"]](logits).astype(np.float32)
    unique, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    merged = np.zeros(len(unique), dtype=np.float32)
    if how["repeated"] == "max":
        merged -= np.inf
        np.maximum.at(merged, place, weights)
    elif how["repeated"] == "last":
        merged[place] = weights  # later ones overwrite
    else:
        np.add.at(merged, place, weights)
        if how["repeated"] == "mean":
            merged /= counts.astype(np.float32)
    if how["size"] == "top" and isinstance(like, SparseVector) and len(like.ids) < len(unique):
        largest = np.sort(np.argsort(-merged, kind="stable")[: len(like.ids)])
        unique, merged = unique[largest], merged[largest]
    if how["norm"] == "unit":
        merged /= np.float32(max(float(np.linalg.norm(merged)), 1e-12))
    return SparseVector.of(unique, merged)


def distance(answer: Vector, expected: Vector) -> float:
    """The length of the difference as a share of the expected vector's: 0 where equal, <= WORST."""
    if isinstance(answer, SparseVector) and isinstance(expected, SparseVector):
        _, answer, expected = aligned(answer, expected)
    if isinstance(answer, SparseVector) or isinstance(expected, SparseVector):
        return WORST
    if answer.shape != expected.shape:
        return WORST
    with np.errstate(over="ignore", invalid="ignore"):  # nonsense may be of any size
        size = float(np.linalg.norm(answer - expected))
        length = float(np.linalg.norm(expected))
    if size == 0:
        return 0.0
    return min(WORST, size / length) if length > 0 and np.isfinite(size) else WORST


def aligned(a: SparseVector, b: SparseVector) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """All ids of both, and the weights that each has for them."""
    ids = np.union1d(a.ids, b.ids)
    weights = np.zeros((2, len(ids)), dtype=np.float32)
    for row, vector in zip(weights, (a, b), strict=True):
        row[np.searchsorted(ids, vector.ids)] = vector.weights
    return ids, weights[0], weights[1]
