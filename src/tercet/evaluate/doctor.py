"""`tercet doctor`: does a model or an endpoint give the vectors of its checkpoint, and if not, why?

Answers are compared with golden vectors head by head: the same, the same within the rounding of a
narrower number type, or different. For what differs the known mistakes are tried, alone and two at
once; the one whose vectors are nearest is the likely cause. Error of a text: the length of the
difference as a share of the length of what was expected.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.config import HEADS
from tercet.encoder import Encoder
from tercet.endpoint import Endpoint
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
from tercet.evaluate.golden import PRECISIONS, About, Golden, Precision
from tercet.evaluate.servers import Answers, Api, EmbeddingServer

Level = Precision | None  # None: float32
Show = Callable[[str, int, int], None]

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


@dataclass(frozen=True)
class Fact:
    """Something that differs besides vectors; `matters` where results of search change."""

    says: str
    matters: bool = True


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
    server = EmbeddingServer.find(endpoint, name or guess, api, batch)
    return _diagnose(golden, server.answer(golden, kinds), kinds, (), show)


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
    return _diagnose(golden, Answers(source, vectors), kinds, facts, show)


def _diagnose(
    golden: Golden, answers: Answers, kinds: Sequence[Kind], facts: tuple[Fact, ...], show: Show
) -> Diagnosis:
    if not answers.vectors:
        raise InputError(f"{answers.source} offers none of {', '.join(kinds)}")
    heads: list[HeadResult] = []
    for kind in golden.about.kinds:
        if kind in answers.vectors:
            trunk_is_right = any(h.same for h in heads if h.kind in ("dense", "states"))
            examination = _Examination(golden, kind, answers, show)
            heads.append(examination.result(trunk_is_right))
    return Diagnosis(answers.source, golden.about, tuple(heads), facts)


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
    wrong = sorted((t for t in head.texts if t.error > SAME[head.kind]), key=lambda t: -t.error)
    if not head.same and wrong:
        named = ", ".join(f"{t.name!r} {_share(t.error)}" for t in wrong[:3])
        out.append(f"texts that differ: {len(wrong)} of {len(head.texts)}, most of all {named}")
        details = [_tell(name, value, about) for name, value in wrong[0].details.items()]
        out.append(f"in {wrong[0].name!r}: {'; '.join(details) or 'numbers that are none'}")
    if head.rejected:
        name, why = next(iter(head.rejected.items()))
        out.append(f"refused: {len(head.rejected)} texts, the first {name!r}: {why}")
    return out


def _tell(name: str, value: Any, about: About) -> str:
    """A difference in words."""
    if name == "vectors":
        return f"{value[1]:,} vectors instead of {value[0]:,}"
    if name == "token":
        token, right, got = value
        subword = about.pieces.get(token, f"id {token}")
        return f"{subword!r} weighs {got:.3f} instead of {right:.3f}"
    words = {"cosine": "smallest cosine", "missing": "missing ids", "extra": "ids too many"}
    return f"{words[name]} {value:,.4g}"


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
