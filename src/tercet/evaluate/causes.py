"""The known mistakes of those who serve a model, each with what mends it.

Those before the trunk change the tokens; those behind it change how a head is
read from what the trunk gives. Knows nothing of models, endpoints or verdicts. Shapes: T tokens,
H hidden, M multi-vector size.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
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
    ("texts are in Unicode's NFKC", _UNCHANGED, partial(unicodedata.normalize, "NFKC")),
    ("texts are in Unicode's NFC", _UNCHANGED, partial(unicodedata.normalize, "NFC")),
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
_FRAME = (
    "put <s> before and </s> behind each text, once: check add_special_tokens, or for GGUF "
    "add_bos_token and add_eos_token"
)
_PROMPT = (
    "switch the prompt off: in TEI --default-prompt, in sentence-transformers the prompts of "
    "config_sentence_transformers.json"
)
_TURN = "truncate at the end: in TEI truncation_direction Right"


def variants(tokenizer: Tokenizer, longest: int, prefixes: Sequence[str]) -> list[Variant]:
    """The right one first, then the known mistakes, those that take long at the end.

    longest: tokens that the model takes; prefixes: that may be put before texts, besides PREFIXES.
    """
    cls, eos = [tokenizer.cls_id], [tokenizer.eos_id]

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
    cuts = [
        (n, Cause(f"texts are cut to {n:,} tokens", allow), partial(framed, limit=n))
        for n in LENGTHS
        if n < longest
    ]
    for n in sorted({min(512, longest), longest}):
        tail = f"the last {n:,} tokens of long texts are kept instead of the first"
        lost = f"texts are cut to {n:,} tokens, and </s> is lost"
        cuts.append((n, Cause(tail, _TURN), partial(last, n)))
        cuts.append((n, Cause(lost, f"put </s> last; {allow}"), partial(without_end, n)))
    others = [
        Variant(Cause(says, _FRAME), partial(framed, counts=counts))
        for counts, says in _FRAMES.items()
    ]
    others += [
        Variant(
            Cause(f"{prefix!r} is put before each text", _PROMPT), partial(changed, prefix.__add__)
        )
        for prefix in dict.fromkeys((*prefixes, *PREFIXES))
        if prefix
    ]
    others += [
        Variant(Cause(says, mend), partial(changed, change)) for says, mend, change in _TEXT_CHANGES
    ]
    return [
        Variant(None, framed, everywhere=True),
        *(Variant(cause, tokens, everywhere=True) for n, cause, tokens in cuts if n <= LATE),
        *others,
        *(Variant(cause, tokens, everywhere=True) for n, cause, tokens in cuts if n > LATE),
    ]


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

_MENDS = {
    "pool": "pool by the first token: in TEI --pooling cls, in sentence-transformers "
    "1_Pooling/config.json",
    "norm": "divide dense vectors and multi-vectors by their length (in TEI normalize=true), and "
    "nothing else",
    "activation": "set weights below 0 to 0 and change no other: in vLLM check the pooler's "
    "activation",
    "repeated": "of a repeated token keep the largest weight",
    "special": "give <s>, </s>, <pad> and <unk> the weight 0",
    "rows": "give a multi-vector for each token but [CLS], </s> included, and all states",
    "head": "apply colbert_linear to the states, then divide each vector by its length",
    "size": "ask for all dimensions and weights: compare vectors of one size only",
}
_MISREADINGS = [  # of which kinds, what is read otherwise and how, in words
    ("dense", "pool", "mean", "mean pooling instead of [CLS]"),
    ("dense", "pool", "content", "mean pooling without special tokens instead of [CLS]"),
    ("dense", "pool", "last", "the last token's state instead of that of [CLS]"),
    ("dense", "pool", "max", "max pooling instead of [CLS]"),
    ("dense multi", "norm", "raw", "not normalised"),
    ("sparse", "activation", "none", "no ReLU: weights below 0 are kept"),
    ("sparse", "activation", "log1p", "log(1 + w) of each weight, as SPLADE does"),
    ("sparse", "activation", "sigmoid", "sigmoid instead of ReLU"),
    ("sparse", "repeated", "sum", "weights of a repeated token are summed"),
    ("sparse", "repeated", "mean", "weights of a repeated token are averaged"),
    ("sparse", "repeated", "last", "of a repeated token the last weight is taken"),
    ("sparse", "special", "kept", "special tokens keep their weights"),
    ("sparse", "norm", "unit", "weights are scaled to a vector of length 1"),
    ("sparse", "size", "cut", "only the largest weights are kept"),
    ("multi", "rows", "all", "the vector of [CLS] is kept"),
    ("multi", "rows", "content", "the vector of </s> is dropped"),
    ("multi", "rows", "cls+content", "the vector of [CLS] is kept, that of </s> dropped"),
    ("multi", "head", "states", "the trunk's states, without the multi-vector head"),
    ("states", "rows", "content+eos", "the state of [CLS] is missing"),
    ("states", "rows", "content", "the states of [CLS] and </s> are missing"),
    ("states", "norm", "unit", "the states are normalised"),
    ("dense multi states", "size", "cut", "only the first {size:,} of {whole:,} dimensions"),
    (
        "dense multi states",
        "size",
        "cut raw",
        "only the first {size:,} of {whole:,} dimensions, not normalised again",
    ),
]


@dataclass(frozen=True)
class Misreading:
    """A mistake in reading a head: `what` is read in another way, `how`."""

    what: str
    how: str
    cause: Cause


def misreadings(kind: Kind, size: int = 0, whole: int = 0) -> list[Misreading]:
    """The mistakes of a kind; size: dimensions of the answers, of `whole` (both 0 for sparse)."""
    return [
        Misreading(what, how, Cause(says.format(size=size, whole=whole), _MENDS[what]))
        for kinds, what, how, says in _MISREADINGS
        if kind in kinds.split() and (what != "size" or kind == "sparse" or 0 < size < whole)
    ]


_TOKENS = {"all": (0, 0), "content+eos": (1, 0), "content": (1, 1), "cls+content": (0, 1)}


def read(
    kind: Kind,
    output: TrunkOutput,
    weightless: Sequence[int],
    mistakes: Sequence[Misreading] = (),
    like: Vector | None = None,
) -> Vector | None:
    """A head's answer to one sequence; None where the output has not what it takes.

    like: the answer it is compared with, which says to how many dimensions or weights it is cut.
    """
    how = {mistake.what: mistake.how for mistake in mistakes}
    if kind == "sparse":
        return None if output.logits is None else _sparse(output, how, weightless, like)
    vectors: Floats
    if kind == "dense":
        vectors = output.pools[POOLS.index(how.get("pool", "cls"))]
    else:
        tokens = output.multi if how.get("head", kind) == "multi" else output.states
        if tokens is None:
            return None
        before, behind = _TOKENS[how.get("rows", "all" if kind == "states" else "content+eos")]
        vectors = tokens[before : max(before, len(tokens) - behind)]
    if how.get("norm", "raw" if kind == "states" else "unit") == "unit":
        vectors = _unit(vectors)
    if "size" in how and isinstance(like, np.ndarray):
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
    if "special" not in how:
        weighs = ~np.isin(ids, weightless)
        ids, logits = ids[weighs], logits[weighs]
    weights = _ACTIVATIONS[how.get("activation", "relu")](logits).astype(np.float32)
    unique, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    merged = np.zeros(len(unique), dtype=np.float32)
    if "repeated" not in how:
        merged -= np.inf
        np.maximum.at(merged, inverse, weights)
    elif how["repeated"] == "last":
        merged[inverse] = weights  # later ones overwrite
    else:
        np.add.at(merged, inverse, weights)
        if how["repeated"] == "mean":
            merged /= counts.astype(np.float32)
    if "size" in how and isinstance(like, SparseVector):
        largest = np.argsort(-merged, kind="stable")[: len(like.ids)]
        unique, merged = unique[largest], merged[largest]
    if "norm" in how:
        merged /= np.float32(max(float(np.linalg.norm(merged)), 1e-12))
    return SparseVector.of(unique, merged)


def distance(answer: Vector, expected: Vector) -> float:
    """The length of the difference as a share of the expected vector's: 0 where equal, <= WORST."""
    if isinstance(answer, SparseVector) and isinstance(expected, SparseVector):
        _, answer, expected = aligned(answer, expected)
    assert not isinstance(answer, SparseVector)
    assert not isinstance(expected, SparseVector)
    if answer.shape != expected.shape:
        return WORST if answer.size or expected.size else 0.0
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
