"""`tercet doctor`: does a model or an endpoint give the vectors of its checkpoint, and if not, why?

Answers are compared with golden vectors head by head: the same, the same within the rounding of a
narrower number type, or different. For what differs the known mistakes are tried, alone and two at
once; the one whose vectors are nearest is the likely cause. Error of a text: the length of the
difference as a share of the length of what was expected.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from tercet.config import HEADS
from tercet.encoder import Encoder
from tercet.endpoint import AccessError, Endpoint, EndpointError, RejectedError, ask
from tercet.errors import InputError
from tercet.evaluate.causes import (
    KINDS,
    WORST,
    Cause,
    Kind,
    SparseVector,
    Vector,
    aligned,
    distance,
    read,
    readings,
)
from tercet.evaluate.golden import PRECISIONS, TOKENS, About, Golden, Precision

Level = Precision | None  # None: float32
Show = Callable[[str, int, int], None]
Api = Literal["openai", "tei", "vllm"]

# Of float32 on other hardware, in other orders of summation, with TF32 off: the largest we saw is
# 1e-5 (docs/figures.md, "The same numbers"). Multi-vectors are often stored in float16, ours too.
SAME: dict[Kind, float] = {"dense": 1e-4, "sparse": 1e-4, "multi": 1e-3, "states": 1e-3}
SPREAD = 20.0  # times the median: the largest error that rounding gives; we saw up to 8
COARSE: tuple[Level, ...] = ("bfloat16", "int8")  # roundings that could hide a small defect
HALF = 0.5  # a cause leaves at most so much of the error; a second cause, of what the first leaves
THIRD, TENTH = 1 / 3, 0.1  # of the error: what a cause may leave where rounding explains it too
BEST = 3  # mistakes before and behind the trunk that are tried together
RELATED = 0.8  # of the length: vectors of a fine-tuned model are nearer, those of strangers are not
ALONE, SHORT = 8, 512  # texts that are asked again one by one, and their tokens
GAP = 4  # times the errors of other texts: from there on a text is one that differs
LARGE = 2000  # characters from which a text is sent alone


@dataclass(frozen=True)
class Fact:
    """Something that differs besides vectors; `matters` where results of search change."""

    says: str
    matters: bool = True


@dataclass(frozen=True)
class Answers:
    """What was answered, by kind: one entry a text, None where it was not asked or not answered.

    rejected: why, by kind and number of text. again: asks for some texts one by one, by number.
    """

    source: str  # what answered, in words
    vectors: dict[Kind, list[Vector | None]]
    rejected: dict[Kind, dict[int, str]] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    again: Callable[[Kind, Sequence[int]], list[Vector | None]] | None = None


@dataclass(frozen=True)
class Explanation:
    """What explains a difference: causes together, and how well."""

    causes: tuple[Cause, ...]
    share: float  # of the error that is explained, 0 to 1
    rest: tuple[bool, Level] | None = None  # as `_level` says of what is left


@dataclass(frozen=True)
class TextResult:
    """One text: its name, error, and the differences that people look at."""

    name: str
    error: float
    details: dict[str, Any]


@dataclass(frozen=True)
class HeadResult:
    """One head: the verdict and what it rests on."""

    kind: Kind
    same: bool
    level: Level  # where same: to which rounding, None for float32
    texts: tuple[TextResult, ...]  # those compared
    rejected: dict[str, str]  # text to reason
    explained: Explanation | None

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if not self.same:
            return "different"
        return "same" if self.level is None else f"same within {self.level} rounding"

    @property
    def errors(self) -> list[float]:
        """Of the texts that were compared."""
        return [text.error for text in self.texts]


@dataclass(frozen=True)
class Diagnosis:
    """All that is known about a target."""

    target: str
    about: About
    heads: tuple[HeadResult, ...]
    facts: tuple[Fact, ...] = ()

    def healthy(self, within: Level) -> bool:
        """Whether every head is the same to this rounding, and nothing else differs."""
        return (
            bool(self.heads)
            and all(head.same and _fineness(head.level) <= _fineness(within) for head in self.heads)
            and not any(fact.matters for fact in self.facts)
        )


def _fineness(level: Level) -> int:
    return [None, *PRECISIONS].index(level)


def diagnose_endpoint(
    endpoint: Endpoint,
    golden: Golden,
    *,
    kinds: Sequence[Kind] = KINDS,
    api: Api | None = None,
    name: str | None = None,
    batch: int = 8,
    show: Show = lambda what, done, of: None,
) -> Diagnosis:
    """Asks a server, compares and explains.

    name: of the model at the server; None: as the checkpoint is called. Raises EndpointError where
    it gives no embeddings, InputError where none of these kinds.
    """
    model = golden.about.model
    guess = Path(model).name if Path(model).exists() else model
    server = _Server.find(endpoint, name or guess, api, batch)
    return _diagnose(golden, server.answer(golden, kinds), kinds, show)


def diagnose_model(
    encoder: Encoder,
    golden: Golden,
    *,
    kinds: Sequence[Kind] = KINDS,
    show: Show = lambda what, done, of: None,
) -> Diagnosis:
    """Runs a model of our own encoder, compares and explains."""
    heads = [h for h in HEADS if h in kinds and h in encoder.heads and h in golden.about.kinds]
    vectors: dict[Kind, list[Vector | None]] = {head: [] for head in heads}
    if heads:
        made = encoder.encode(list(golden.texts.values()), heads=heads, role="plain")
        for row in range(len(golden.texts)):
            if made.dense is not None:
                vectors["dense"].append(made.dense[row])
            if made.sparse is not None:
                weights = made.sparse[[row]]
                vectors["sparse"].append(SparseVector.of(weights.indices, weights.data))
            if made.multi is not None:
                vectors["multi"].append(made.tokens(row).astype(np.float32))
    where = encoder.source or "the model that comes with Tercet"
    source = f"{where} ({str(encoder.dtype).removeprefix('torch.')})"
    facts = tuple(_facts_of(encoder, golden))
    return _diagnose(golden, Answers(source, vectors, facts=facts), kinds, show)


def _diagnose(golden: Golden, answers: Answers, kinds: Sequence[Kind], show: Show) -> Diagnosis:
    if not answers.vectors:
        raise InputError(f"{answers.source} offers none of {', '.join(kinds)}")
    heads: list[HeadResult] = []
    for kind in golden.about.kinds:
        if kind in answers.vectors:
            trunk_is_right = any(h.same for h in heads if h.kind in ("dense", "states"))
            examination = _Examination(golden, kind, answers, show)
            heads.append(examination.result(trunk_is_right))
    return Diagnosis(answers.source, golden.about, tuple(heads), answers.facts)


def _facts_of(encoder: Encoder, golden: Golden) -> list[Fact]:
    """What differs between a folder and the checkpoint besides vectors."""
    about = golden.about
    if encoder.fingerprint == about.fingerprint:
        return []
    out = [Fact("the files of weights, tokenizer or prefixes are not the checkpoint's own", False)]
    out += [
        Fact(f"there is no {kind} head, which the checkpoint has")
        for kind in about.kinds
        if kind != "states" and kind not in encoder.heads
    ]
    out += [
        Fact(f"{name} has size {encoder.dims[name]:,} instead of {size:,}")
        for name, size in about.dims.items()
        if encoder.dims.get(name, size) != size
    ]
    limit = min(encoder.max_length, about.max_length)
    if limit < about.max_length:
        out.append(Fact(f"there are positions for {limit:,} tokens, not {about.max_length:,}"))
    tokens = encoder.tokenizer.encode(list(golden.texts.values()), max_length=limit)
    ids = np.split(tokens.ids, tokens.offsets[1:-1])
    other = [
        name
        for name, own, right in zip(golden.texts, ids, golden.outputs(0), strict=True)
        if right is not None and len(right.ids) <= limit and not np.array_equal(own, right.ids)
    ]
    if other:
        out.append(Fact(f"the tokenizer gives other ids for {len(other)} texts: {other[0]!r}, ..."))
    for role, prefix in about.prefixes.items():
        own = getattr(encoder.settings, f"{role}_prefix")
        if own != prefix:
            out.append(Fact(f"the {role} prefix is {own!r} instead of {prefix!r}"))
    return out


# --- comparing and explaining ---


@dataclass(frozen=True)
class _Fit:
    """How near a guess comes: a variant before the trunk and a reading behind it."""

    variant: int
    reading: int
    causes: tuple[Cause, ...]
    left: float  # the share of the mean error that it leaves
    errors: dict[int, float]  # by number of text


class _Examination:
    """One head's answers beside the golden vectors."""

    def __init__(self, golden: Golden, kind: Kind, answers: Answers, show: Show) -> None:
        self.golden, self.kind, self.answers = golden, kind, answers
        self.vectors = answers.vectors[kind]
        self.rejected = answers.rejected.get(kind, {})
        self.expected = golden.expected(kind)
        self.errors = self._compare(self.vectors)
        self.limits = golden.limits()[kind]
        self.show = show
        self.names = list(golden.texts)
        self.sizes = [0 if o is None else len(o.ids) for o in golden.outputs(0)]  # tokens
        self.readings = readings(kind, self._size(), golden.about.size(kind))

    def _size(self) -> int:
        """Dimensions of the answers; 0 for sparse and where none has any."""
        arrays = [v for v in self.vectors if isinstance(v, np.ndarray) and v.size]
        return arrays[0].shape[-1] if arrays else 0

    def _compare(self, vectors: Sequence[Vector | None]) -> dict[int, float]:
        """Errors by number of text, of those that can be compared."""
        pairs = enumerate(zip(vectors, self.expected, strict=True))
        return {n: distance(a, b) for n, (a, b) in pairs if a is not None and b is not None}

    def result(self, trunk_is_right: bool) -> HeadResult:
        """The verdict, and what explains it."""
        same, level = self._level(self.errors)
        explained = None
        if not self.errors:
            why = next(iter(self.rejected.values()), "there is none")
            explained = _certain(f"no answer to any text: {why}", "check the server's log")
        elif same and (explained := self._rejected_too_soon()) is None and level in COARSE:
            best = self._best()
            explained = best if best is not None and _convinces(best, level) else None
        elif not same:
            explained = self._explain(trunk_is_right)
        same = same and explained is None
        texts = []
        for row, error in self.errors.items():
            answer, expected = self.vectors[row], self.expected[row]
            assert answer is not None
            assert expected is not None
            texts.append(TextResult(self.names[row], error, _details(answer, expected)))
        rejected = {self.names[row]: why for row, why in sorted(self.rejected.items())}
        return HeadResult(
            self.kind, same, level if same else None, tuple(texts), rejected, explained
        )

    def _level(self, errors: Mapping[int, float]) -> tuple[bool, Level]:
        """Whether rounding explains the errors of all texts, and to what.

        Rounding touches all texts about alike: where half of them are far nearer than the worst, it
        is something else.
        """
        worst = max(errors.values(), default=0.0)
        if worst <= SAME[self.kind]:
            return bool(errors), None
        if worst > SPREAD * float(np.median(list(errors.values()))):
            return False, None
        fits = [precision for precision in PRECISIONS if worst <= self.limits[precision]]
        return bool(fits), fits[0] if fits else None

    def _explain(self, trunk_is_right: bool) -> Explanation:
        """The checks that need no model first, then the table of mistakes, then guesses."""
        best = self._unusable() or self._shuffled()
        if best is not None:
            return best
        best = self._best()
        if best is not None and best.rest is not None and best.rest[0]:
            return best
        return self._neighbours() or best or self._only_some() or self._another(trunk_is_right)

    def _best(self) -> Explanation | None:
        """The mistakes that explain best; None where none leaves less than half of the error."""
        count = len(self.golden.causes)
        behind = self._fits((0, reading) for reading in range(1, len(self.readings)))
        if (fit := _chosen(behind)) is not None and self._is_same(fit):
            return self._explanation(fit)
        before: list[_Fit] = []
        for variant in range(1, count):
            self.show(self.kind, variant, count)
            before += self._fits([(variant, 0)])
            if before and before[-1].variant == variant and self._is_same(before[-1]):
                break  # the rest would only take time
        fit = _chosen([*behind, *before])
        if fit is None or not self._is_same(fit):  # the best of either with all of the other
            top = [f.variant for f in sorted(before, key=lambda f: f.left)[:BEST]]
            read_as = [f.reading for f in sorted(behind, key=lambda f: f.left)[:BEST]]
            pairs = {(v, r) for v in top for r in range(1, len(self.readings))}
            pairs |= {(v, r) for v in range(1, count) for r in read_as}
            fit = _chosen([*behind, *before, *self._fits(sorted(pairs))])
        return None if fit is None else self._explanation(fit)

    def _fits(self, guesses: Any) -> list[_Fit]:
        """Those of the guesses (variant, reading) that can be compared for a text that differs."""
        fits = []
        for variant, reading in guesses:
            causes, how = self.readings[reading]
            errors: dict[int, float] = {}
            for row, output in enumerate(self.golden.outputs(variant)):
                answer = self.vectors[row]
                if output is not None and answer is not None and row in self.errors:
                    guess = read(self.kind, output, how, self.golden.about.weightless, answer)
                    if guess is not None:
                        errors[row] = distance(answer, guess)
            before = [self.errors[row] for row in errors]
            if max(before, default=0.0) > SAME[self.kind]:
                cause = self.golden.causes[variant]
                together = causes if cause is None else (cause, *causes)
                left = float(np.mean(list(errors.values())) / np.mean(before))
                fits.append(_Fit(variant, reading, together, left, errors))
        return fits

    def _is_same(self, fit: _Fit) -> bool:
        return max(fit.errors.values()) <= SAME[self.kind]

    def _explanation(self, fit: _Fit) -> Explanation:
        return Explanation(fit.causes, 1 - fit.left, self._level(fit.errors))

    def _unusable(self) -> Explanation | None:
        """Answers that are empty, no finite numbers, or all alike."""
        vectors = [v for v in self.vectors if v is not None]
        arrays = [v.weights if isinstance(v, SparseVector) else v for v in vectors]
        bad = sum(not np.isfinite(array).all() for array in arrays)
        empty = sum(array.size == 0 for array in arrays)
        of = f"of {len(arrays)} answers"
        if bad:
            mend = "float16 overflows in some models: serve in bfloat16 or float32"
            return _certain(f"{bad} {of} hold no finite numbers", mend)
        if empty > len(arrays) / 2 or (empty and self.kind == "dense"):  # others may weigh nothing
            return _certain(f"{empty} {of} are empty", "check the server's log")
        alike = all(distance(array, arrays[0]) < SAME["multi"] for array in arrays)
        if self.kind == "dense" and len(arrays) > 2 and alike:
            return _certain("all texts get the same vector", "check that texts reach the model")
        return None

    def _shuffled(self) -> Explanation | None:
        """Answers that are right but of other texts."""
        limit = self.limits["int8"]
        wrong = {row: error for row, error in self.errors.items() if error > limit}
        nearest = []
        for row in wrong:
            answer = self.vectors[row]
            others = [e for e in self.expected if e is not None and answer is not None]
            nearest.append(min(distance(answer, e) for e in others if answer is not None))
        moved = sum(error <= limit for error in nearest)
        if moved < 2 or moved <= HALF * len(wrong):
            return None
        cause = Cause(
            "vectors are right but come in another order than the texts",
            "give answers in the order of the texts, or an index with each",
        )
        return Explanation((cause,), 1 - sum(nearest) / sum(wrong.values()))

    def _neighbours(self) -> Explanation | None:
        """Texts that get other, better answers when they are asked alone."""
        wrong = [
            row
            for row, error in self.errors.items()
            if error > SAME[self.kind] and self.sizes[row] <= SHORT
        ]
        rows = sorted(wrong, key=lambda row: -self.errors[row])[:ALONE]
        if self.answers.again is None or not rows:
            return None
        vectors: list[Vector | None] = [None] * len(self.vectors)
        for row, vector in zip(rows, self.answers.again(self.kind, rows), strict=True):
            vectors[row] = vector
        alone = self._compare(vectors)
        before = float(np.mean([self.errors[row] for row in rows]))
        after = float(np.mean(list(alone.values()) or [WORST]))
        if after > THIRD * before:
            return None
        cause = Cause(
            "a text's vector depends on the texts that it is sent with: alone it is right",
            "mask padding in attention, pooling and heads; till then send texts one by one",
        )
        return Explanation((cause,), 1 - after / before)

    def _rejected_too_soon(self) -> Explanation | None:
        """Texts that are refused though the checkpoint takes them; empty ones may be refused."""
        texts, longest = list(self.golden.texts.values()), self.golden.about.max_length
        short = [r for r in self.rejected if texts[r].strip() and self.sizes[r] < longest]
        if not short:
            return None
        least = min(self.sizes[row] for row in short)
        fits = max((self.sizes[r] for r in self.errors if self.sizes[r] < least), default=0)
        return _certain(
            f"texts of {least:,} tokens and more are refused, {fits:,} are taken: "
            f"{self.rejected[short[0]]}",
            f"allow {longest:,} tokens: in vLLM --max-model-len, in TEI --max-batch-tokens",
        )

    def _only_some(self) -> Explanation | None:
        """What those texts have in common that differ much more than most do."""
        order = sorted(self.errors, key=lambda row: self.errors[row])
        floor = max(SAME[self.kind], self.errors[order[len(order) // 2]])
        wrong = [row for row in order if self.errors[row] > GAP * floor]
        if not wrong or self.errors[wrong[0]] <= GAP * self.errors[order[-len(wrong) - 1]]:
            return None
        right = max(self.sizes[row] for row in order if row not in wrong)
        least = min(self.sizes[row] for row in wrong)
        if right < least:
            counts = {len(v) for row in wrong if isinstance(v := self.vectors[row], np.ndarray)}
            cut = self.kind in ("multi", "states") and len(counts) == 1 and min(counts) < least
            says = f"all of them have {min(counts):,} vectors" if cut else f"from {least:,} tokens"
            mend = f"allow {self.golden.about.max_length:,} tokens as the checkpoint does"
            return _guess(f"long texts are cut or changed: {says}; {right:,} are right", mend)
        names = ", ".join(repr(self.names[row]) for row in sorted(wrong)[:4])
        mend = "look at what is special in them: they may be changed on their way to the model"
        return _guess(f"only some texts differ: {names}{', ...' if len(wrong) > 4 else ''}", mend)

    def _another(self, trunk_is_right: bool) -> Explanation:
        """What can be said where nothing fits: other sizes, other weights."""
        kind, about = self.kind, self.golden.about
        mend = f"check which model and revision is served; {about.model} is compared with"
        size, whole = self._size(), about.size(kind)
        if size and size != whole:
            return _guess(f"another model: vectors of {size:,} dimensions, not {whole:,}", mend)
        if kind in ("sparse", "multi") and trunk_is_right:
            file = "sparse_linear" if kind == "sparse" else "colbert_linear"
            return _guess(
                f"the {kind} head's own weights are not the checkpoint's: the trunk is right",
                f"load {file}.pt of the checkpoint: where it is not found, some libraries go on "
                "with random weights",
            )
        if float(np.median(list(self.errors.values()))) < RELATED:
            says = "weights of a related checkpoint, or coarser quantisation than int8"
            return _guess(says, mend)
        return _guess("weights of another checkpoint, or a mistake that is not in the list", mend)


def _certain(says: str, mend: str) -> Explanation:
    return Explanation((Cause(says, mend),), 1.0)


def _guess(says: str, mend: str) -> Explanation:
    return Explanation((Cause(says, mend),), 0.0)


def _chosen(fits: Sequence[_Fit]) -> _Fit | None:
    """The fit that leaves least, simpler ones first.

    What is less simple must leave much less: of all errors, or of the largest, as a cut touches few
    texts, so that their mean error hardly shows it.
    """
    best: _Fit | None = None
    for fit in sorted(fits, key=lambda fit: (len(fit.causes), fit.left)):
        if fit.left > HALF:
            continue
        if best is None or fit.left <= HALF * best.left:
            best = fit
            continue
        both = fit.errors.keys() & best.errors.keys()
        worst, before = (max((f.errors[row] for row in both), default=0.0) for f in (fit, best))
        if fit.left < best.left and worst <= HALF * before:
            best = fit
    return best


def _convinces(explained: Explanation, rounding: Level) -> bool:
    """Whether a cause explains better than rounding does, which may be all that differs."""
    left = 1 - explained.share
    if explained.rest is None or left > THIRD:
        return False
    same, level = explained.rest
    # no wrong guess comes so near as a tenth
    return left <= TENTH or (same and _fineness(level) < _fineness(rounding))


def _details(answer: Vector, expected: Vector) -> dict[str, Any]:
    """The differences that people look at.

    Of dense vectors the cosine, of multi-vectors the smallest, or both counts where they differ; of
    sparse ones how many ids are missing and extra, and the token furthest off (id, expected, got).
    """
    if isinstance(answer, SparseVector) and isinstance(expected, SparseVector):
        ids, got, right = aligned(answer, expected)
        out: dict[str, Any] = {
            "missing": int(np.sum((right != 0) & (got == 0))),
            "extra": int(np.sum((right == 0) & (got != 0))),
        }
        off = np.abs(right - got)
        if len(ids) and np.isfinite(off).all() and off.any():
            worst = int(np.argmax(off))
            out["token"] = (int(ids[worst]), float(right[worst]), float(got[worst]))
        return out
    if isinstance(answer, SparseVector) or isinstance(expected, SparseVector):
        return {}
    if answer.ndim == expected.ndim == 2 and len(answer) != len(expected):
        return {"vectors": (len(expected), len(answer))}
    if answer.shape != expected.shape or not len(answer):
        return {}
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(answer, axis=-1) * np.linalg.norm(expected, axis=-1)
        cosines = np.sum(answer * expected, axis=-1) / np.maximum(lengths, 1e-12)
    smallest = float(np.min(cosines))
    return {"cosine": smallest} if np.isfinite(smallest) else {}


# --- endpoints ---


def is_url(target: str) -> bool:
    """Whether a target is an address rather than a folder or a hub id."""
    return urlsplit(target).scheme in ("http", "https")


@dataclass(frozen=True)
class _Route:
    """One path of a server and the head that it answers with."""

    kind: Kind
    path: str
    task: str | None = None  # of vLLM's /pooling

    def __str__(self) -> str:
        return f"/{self.path}" + (f" ({self.task})" if self.task else "")

    def body(self, texts: list[str], name: str) -> dict[str, Any]:
        """What is sent."""
        if self.path.startswith("embed") and not self.path.endswith("embeddings"):
            return {"inputs": texts, "truncate": True}
        task = {"encoding_format": "float"} if self.task is None else {"task": self.task}
        return {"model": name, "input": texts, **task}

    def read(self, answer: Any, texts: Sequence[Sequence[int]], special: Sequence[int]) -> Any:
        """One vector a text, given its token ids; raises ValueError for what cannot be read.

        A list (TEI), {"data"} with "index" (OpenAI, vLLM), or FlagEmbedding's dict of heads.
        """
        values = answer
        if isinstance(answer, dict) and "data" in answer:
            rows = sorted(answer["data"], key=lambda row: int(row["index"]))
            values = [row.get("embedding", row.get("data")) for row in rows]
        elif isinstance(answer, dict):
            values = answer[FLAG_EMBEDDING[self.kind]]
        if len(values) != len(texts):
            raise ValueError(f"{len(values)} answers to {len(texts)} texts in one request")
        if self.kind == "dense":
            return [_array(value, 1) for value in values]
        if self.kind != "sparse":
            return [_array(value, 2) for value in values]
        if self.task is None:
            return [_sparse(value) for value in values]
        return [_by_token(v, ids, special) for v, ids in zip(values, texts, strict=True)]


FLAG_EMBEDDING = {"dense": "dense_vecs", "sparse": "lexical_weights", "multi": "colbert_vecs"}
ROUTES: dict[Api, list[_Route]] = {
    "tei": [
        _Route("dense", "embed"),
        _Route("sparse", "embed_sparse"),
        _Route("states", "embed_all"),
    ],
    "openai": [_Route("dense", "v1/embeddings"), _Route("dense", "embeddings")],
}
ROUTES["vllm"] = [
    *ROUTES["openai"],
    _Route("sparse", "pooling", "token_classify"),
    _Route("multi", "pooling", "token_embed"),
]
_PATHS = re.compile(r"(/v\d+)?(/(embeddings|embed|embed_sparse|embed_all|pooling))?/*$")


@dataclass(frozen=True)
class _Server:
    """An embedding server whose interface is known: see `find`."""

    endpoint: Endpoint
    name: str  # of the model, as the server has it
    batch: int  # texts of a request
    routes: tuple[_Route, ...] = ()  # one a kind

    @staticmethod
    def find(endpoint: Endpoint, name: str, api: Api | None, batch: int) -> "_Server":
        """Asks which paths answer; raises EndpointError where none does with embeddings."""
        tail = _PATHS.search(endpoint.url)
        assert tail is not None  # it matches an empty end
        version = (tail[1] or "/v1").lstrip("/")
        server = _Server(replace(endpoint, url=endpoint.url[: tail.start()]), name, batch)
        first = replace(server, endpoint=replace(server.endpoint, retries=min(1, endpoint.retries)))
        said: dict[str, list[str]] = {}
        for group in (api,) if api else ("tei", "vllm"):
            routes: list[_Route] = []
            for usual in ROUTES[group]:
                route = replace(usual, path=usual.path.replace("v1/", f"{version}/"))
                if route.kind in [known.kind for known in routes]:
                    continue
                try:
                    (answer,) = first.ask(route, ["lighthouse"], [range(99)])
                except AccessError as error:
                    answer = error
                if isinstance(answer, EndpointError):
                    said.setdefault(_reason(answer), []).append(str(route))
                else:
                    routes.append(route)
            if routes:
                return replace(server, routes=tuple(routes))
        why = "; ".join(f"{', '.join(paths)}: {reason}" for reason, paths in said.items())
        raise EndpointError(
            f"{server.endpoint.url} gives no embeddings, check the address, --api and --name: {why}"
        )

    def answer(self, golden: Golden, kinds: Sequence[Kind]) -> Answers:
        """What the server answers; vectors of tokens are asked of texts up to 1,024 tokens."""
        words = f"{self.endpoint.url} ({', '.join(map(str, self.routes))})"
        texts = list(golden.texts.values())
        ids = [[] if output is None else output.ids.tolist() for output in golden.outputs(0)]
        special = golden.about.weightless
        vectors: dict[Kind, list[Vector | None]] = {}
        rejected: dict[Kind, dict[int, str]] = {}

        def fill(kind: Kind, rows: Sequence[int], batch: int) -> list[Vector | RejectedError]:
            route = next(route for route in self.routes if route.kind == kind)
            sender = replace(self, batch=batch)
            return sender.ask(route, [texts[r] for r in rows], [ids[r] for r in rows], special)

        def again(kind: Kind, rows: Sequence[int]) -> list[Vector | None]:
            return [None if isinstance(v, RejectedError) else v for v in fill(kind, rows, 1)]

        for kind in (route.kind for route in self.routes if route.kind in kinds):
            by_token = kind in ("multi", "states")
            rows = [row for row in range(len(texts)) if not by_token or len(ids[row]) <= TOKENS]
            vectors[kind] = [None] * len(texts)
            rejected[kind] = {}
            for row, answer in zip(rows, fill(kind, rows, self.batch), strict=True):
                if isinstance(answer, RejectedError):
                    rejected[kind][row] = _reason(answer)
                else:
                    vectors[kind][row] = answer
        return Answers(words, vectors, rejected, again=again)

    def ask(
        self,
        route: _Route,
        texts: Sequence[str],
        ids: Sequence[Sequence[int]],
        special: Sequence[int] = (),
    ) -> list[Any]:
        """A vector for each text, or the RejectedError that the server has for it."""
        groups: list[list[int]] = []
        for row, text in enumerate(texts):  # neighbours together, long ones alone
            fits = row > 0 and len(groups[-1]) < self.batch
            if fits and max(len(texts[row - 1]), len(text)) < LARGE:
                groups[-1].append(row)
            else:
                groups.append([row])
        out: list[Any] = [None] * len(texts)
        for _ in range(2):  # where a request is rejected, its texts are sent one by one
            bodies = [route.body([texts[row] for row in rows], self.name) for rows in groups]
            answers = ask(self.endpoint, route.path, bodies, rejections=True)
            alone = []
            for rows, answer in zip(groups, answers, strict=True):
                if isinstance(answer, RejectedError):
                    out[rows[0]] = answer
                    alone += [[row] for row in rows] if len(rows) > 1 else []
                    continue
                try:
                    vectors = route.read(answer, [ids[row] for row in rows], special)
                except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                    raise EndpointError(
                        f"{self.endpoint.url}{route}: an answer that is no embeddings "
                        f"({error}): {repr(answer)[:80]}"
                    ) from error
                for row, vector in zip(rows, vectors, strict=True):
                    out[row] = vector
            groups = alone
        return out


def _reason(error: EndpointError) -> str:
    """An error of the client without the address it begins with."""
    return re.sub(r"^https?://\S+: ", "", str(error))


def _array(value: Any, dimensions: int) -> Any:
    """Numbers as float32, null as NaN; an empty list of vectors has size 0."""
    array = np.array(value if len(value) else np.zeros((0,) * dimensions), dtype=np.float32)
    if array.ndim != dimensions:
        raise ValueError(f"it has {array.ndim} dimensions where {dimensions} should be")
    return array


def _sparse(value: Any) -> SparseVector:
    """[{"index", "value"}] of TEI, {"indices", "values"}, or {id: weight} of FlagEmbedding."""
    if isinstance(value, list):
        return SparseVector.of([p["index"] for p in value], _array([p["value"] for p in value], 1))
    if value.keys() == {"indices", "values"}:
        return SparseVector.of(value["indices"], _array(value["values"], 1))
    return SparseVector.of([int(i) for i in value], _array(list(value.values()), 1))


def _by_token(value: Any, ids: Sequence[int], special: Sequence[int]) -> SparseVector:
    """Weights of the tokens in order, with or without the first and the last; the largest stays."""
    weights = _array(np.reshape(value, -1).tolist(), 1)
    if len(weights) > len(ids):
        raise ValueError(f"{len(weights)} weights for a text of {len(ids)} tokens")
    first = 0 if len(weights) == len(ids) else 1
    merged: dict[int, float] = {}
    for token, weight in zip(ids[first : first + len(weights)], weights.tolist(), strict=True):
        if token not in special:  # who asks for the weights of tokens is to leave these out
            merged[token] = max(weight, merged.get(token, -np.inf))
    return SparseVector.of(list(merged), list(merged.values()))


# --- the report ---


def report_text(found: Diagnosis) -> str:
    """The report for people."""
    about = found.about
    lines = [
        f"{found.target}",
        f"against {about.model} ({about.fingerprint[:8]}), float32, up to {about.max_length:,} "
        "tokens",
        "",
        f"{'head':<8}{'texts':>6}{'median':>10}{'worst':>10}  verdict",
    ]
    for head in found.heads:
        middle, worst = (f(head.errors) if head.errors else np.nan for f in (np.median, max))
        lines.append(
            f"{head.kind:<8}{len(head.texts):>6}{_share(middle):>10}{_share(worst):>10}  "
            f"{head.verdict}"
        )
        lines += [f"        {line}" for line in _lines(head, about)]
    lines += [f"{'' if fact.matters else 'note: '}{fact.says}" for fact in found.facts]
    absent = [k for k in about.kinds if k != "states" and k not in {h.kind for h in found.heads}]
    if absent:
        lines.append(f"not offered or not asked for: {', '.join(absent)}")
    return "\n".join(lines)


def _lines(head: HeadResult, about: About) -> list[str]:
    """What is told below a head's verdict."""
    out = []
    if head.explained is not None:
        out.append(f"likely cause: {'; and '.join(c.says for c in head.explained.causes)}")
        if head.explained.share > 0:
            rest = {None: "", "float32": "", "something else": "; something else differs too"}
            left = _rest(head.explained)
            more = rest.get(left, f"; what is left is {left} rounding")
            out.append(f"  explains {head.explained.share:.1%} of the difference{more}")
        mends = dict.fromkeys(cause.mend for cause in head.explained.causes)
        out += [f"  to mend it: {mend}" for mend in mends]
    wrong = [t for t in head.texts if t.error > SAME[head.kind]]
    if not head.same and wrong:
        wrong.sort(key=lambda t: -t.error)
        named = ", ".join(f"{t.name!r} {_share(t.error)}" for t in wrong[:3])
        out.append(f"texts that differ: {len(wrong)} of {len(head.texts)}, most of all {named}")
        cosines = [t.details["cosine"] for t in wrong if "cosine" in t.details]
        if cosines:
            what = "cosine" if head.kind == "dense" else "cosine of a token"
            out.append(f"smallest {what}: {min(cosines):.4f}")
        missing, extra = (sum(t.details.get(n, 0) for t in wrong) for n in ("missing", "extra"))
        if missing or extra:
            out.append(f"token ids: {missing:,} missing, {extra:,} too many")
        for text in wrong[:1]:
            if "token" in text.details:
                token, right, got = text.details["token"]
                subword = about.pieces.get(token, f"id {token}")
                out.append(
                    f"furthest off in {text.name!r}: {subword!r} weighs {got:.3f} instead of "
                    f"{right:.3f}"
                )
        counts = [t for t in wrong if "vectors" in t.details]
        if counts:
            right, got = counts[0].details["vectors"]
            out.append(
                f"number of vectors: other in {len(counts)} texts, {got:,} instead of {right:,} in "
                f"{counts[0].name!r}"
            )
    if head.rejected:
        name, why = next(iter(head.rejected.items()))
        out.append(f"refused: {len(head.rejected)} texts, the first {name!r}: {why}")
    return out


def _rest(explained: Explanation) -> str | None:
    """What the causes leave, in a word."""
    if explained.rest is None:
        return None
    same, level = explained.rest
    return (level or "float32") if same else "something else"


def _share(value: float) -> str:
    if np.isnan(value):
        return "-"
    return "0" if value == 0 else f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def report_json(found: Diagnosis, within: Level) -> dict[str, Any]:
    """The report for machines."""
    return {
        "target": found.target,
        "model": found.about.model,
        "fingerprint": found.about.fingerprint,
        "healthy": found.healthy(within),
        "heads": [_head_json(head) for head in found.heads],
        "facts": [asdict(fact) for fact in found.facts],
    }


def _head_json(head: HeadResult) -> dict[str, Any]:
    explained = head.explained
    return {
        "head": head.kind,
        "verdict": head.verdict,
        "same": head.same,
        "rounding": head.level,
        "texts": [{"name": t.name, "error": t.error} | t.details for t in head.texts],
        "refused": head.rejected,
        "median": float(np.median(head.errors)) if head.errors else None,
        "worst": max(head.errors, default=None),
        "causes": [] if explained is None else [asdict(cause) for cause in explained.causes],
        "explains": None if explained is None else explained.share,
        "rest": None if explained is None else _rest(explained),
    }
