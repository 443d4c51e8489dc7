"""`tercet doctor`: does a model or an endpoint give the vectors of its checkpoint, and if not, why?

Answers are compared with golden vectors head by head: the same, the same within the rounding of a
narrower number type, or different. For what differs the known mistakes are tried, alone and two at
once; the one whose vectors are nearest is the likely cause. Error of a text: the length of the
difference as a share of the length of what was expected.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    Misreading,
    SparseVector,
    Vector,
    aligned,
    distance,
    misreadings,
    read,
)
from tercet.evaluate.golden import PRECISIONS, About, Golden
from tercet.evaluate.servers import Answers, Api, EmbeddingServer
from tercet.io import name_of

LEVELS = ("float32", *PRECISIONS)  # of rounding, from fine to coarse
Show = Callable[[int, int], None]  # variants tried, of how many

# Of float32 on other hardware, in other orders of summation, with TF32 off: the largest we saw is
# 1e-5 (docs/figures.md, "The same numbers"). Multi-vectors are often stored in float16, ours too.
SAME: dict[Kind, float] = {"dense": 1e-4, "sparse": 1e-4, "multi": 1e-3, "states": 1e-3}
SPREAD = 20.0  # times the median: the largest error that rounding gives; we saw up to 8
COARSE = ("bfloat16", "int8")  # roundings that could hide a small defect
HALF = 0.5  # a cause leaves at most so much of the error; a second cause, of what the first leaves
TENTH = 0.1  # of the error: no wrong guess comes so near where rounding is all that differs
THIRD = 1 / 3  # of the error: what is left where texts are right when they are sent alone
BEST = 3  # mistakes that are tried together with each of the others
RELATED = 0.8  # of the length: vectors of a fine-tuned model are nearer, those of strangers are not
ALONE, SHORT = 8, 512  # texts that are asked again one by one, and their tokens
GAP = 4  # times the median error: from there on a text is one that differs


@dataclass(frozen=True)
class Explanation:
    """What explains a difference: causes together, and how well."""

    causes: tuple[Cause, ...]
    share: float  # of the error that is explained, 0 to 1
    rest: str | None = None  # what is left: the rounding of one of LEVELS, or "something else"


@dataclass(frozen=True)
class HeadResult:
    """One head: the verdict and what it rests on."""

    kind: Kind
    level: str | None  # of LEVELS: the rounding within which it is the same; None: different
    texts: list[dict[str, Any]]  # of those compared the name, the error, and see `_details`
    rejected: dict[str, str]  # text to reason
    explained: Explanation | None

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        words = {None: "different", "float32": "same"}
        return words.get(self.level, f"same within {self.level} rounding")

    @property
    def errors(self) -> list[float]:
        """Of the texts that were compared."""
        return [text["error"] for text in self.texts]


@dataclass(frozen=True)
class Diagnosis:
    """All that is known about a target."""

    target: str
    about: About
    heads: tuple[HeadResult, ...]
    facts: tuple[str, ...] = ()  # what differs besides vectors

    def healthy(self, within: str) -> bool:
        """Whether every head is the same to this rounding of LEVELS, and nothing else differs."""
        levels = LEVELS[: LEVELS.index(within) + 1]
        return all(head.level in levels for head in self.heads) and not self.facts


def diagnose_endpoint(
    endpoint: Endpoint,
    golden: Golden,
    *,
    kinds: Sequence[Kind] = KINDS,
    api: Api | None = None,
    name: str | None = None,
    batch: int = 8,
    show: Show = lambda done, of: None,
) -> Diagnosis:
    """Asks a server, compares and explains.

    name: of the model at the server; None: as the checkpoint is called. Raises EndpointError where
    it gives no embeddings, InputError where none of these kinds.
    """
    model = golden.about.model
    guess = name_of(model) if Path(model).exists() else model
    server = EmbeddingServer(endpoint, golden, name or guess, api, batch)
    return _diagnose(golden, server.answer(kinds), kinds, (), show)


def diagnose_model(
    encoder: Encoder,
    golden: Golden,
    *,
    kinds: Sequence[Kind] = KINDS,
    show: Show = lambda done, of: None,
) -> Diagnosis:
    """Runs a model of our own encoder, compares and explains."""
    heads = [h for h in HEADS if h in kinds and h in encoder.heads and h in golden.about.kinds]
    vectors: dict[Kind, list[Vector | None]] = {}
    if heads:
        made = encoder.encode(list(golden.texts.values()), heads=heads, role="plain")
        rows = range(len(golden.texts))
        if made.dense is not None:
            vectors["dense"] = list(made.dense)
        if made.sparse is not None:
            parts = [made.sparse[[row]] for row in rows]
            vectors["sparse"] = [SparseVector.of(part.indices, part.data) for part in parts]
        if made.multi is not None:
            vectors["multi"] = [made.tokens(row).astype(np.float32) for row in rows]
    where = encoder.source or "the model that comes with Tercet"
    source = f"{where} ({encoder.dtype})"
    facts = _facts_of(encoder, golden, kinds)
    return _diagnose(golden, Answers(source, vectors), kinds, facts, show)


def _diagnose(
    golden: Golden, answers: Answers, kinds: Sequence[Kind], facts: tuple[str, ...], show: Show
) -> Diagnosis:
    if not answers.vectors:
        raise InputError(f"{answers.source} offers none of {', '.join(kinds)}")
    heads: list[HeadResult] = []
    for kind in golden.about.kinds:
        if kind in answers.vectors:
            trunk_is_right = any(h.level and h.kind in ("dense", "states") for h in heads)
            heads.append(_Examination(golden, kind, answers, show).result(trunk_is_right))
    if not heads:
        raise InputError(
            f"{golden.about.model} has none of {', '.join(answers.vectors)}: nothing is compared"
        )
    return Diagnosis(answers.source, golden.about, tuple(heads), facts)


def _facts_of(encoder: Encoder, golden: Golden, kinds: Sequence[Kind]) -> tuple[str, ...]:
    """What differs between a folder and the checkpoint besides vectors."""
    about = golden.about
    if encoder.fingerprint == about.fingerprint:
        return ()
    heads = [kind for kind in about.kinds if kind in kinds and kind != "states"]
    absent = [kind for kind in heads if kind not in encoder.heads]
    says = [f"there is no {kind} head, which the checkpoint has" for kind in absent]
    limit = min(encoder.max_length, about.max_length)
    if limit < about.max_length:
        says.append(f"there are positions for {limit:,} tokens, not {about.max_length:,}")
    tokens = encoder.tokenizer.encode(list(golden.texts.values()), max_length=limit)
    ids = np.split(tokens.ids, tokens.offsets[1:-1])
    other = [
        name
        for name, own, right in zip(golden.texts, ids, golden.outputs(0), strict=True)
        if right is not None and len(right.ids) <= limit and not np.array_equal(own, right.ids)
    ]
    if other:
        says.append(f"the tokenizer gives other ids for {len(other)} texts: {other[0]!r}, ...")
    for role, prefix in about.prefixes.items():
        own = getattr(encoder.settings, f"{role}_prefix")
        if own != prefix:
            says.append(f"the {role} prefix is {own!r} instead of {prefix!r}")
    return tuple(says)


# --- comparing and explaining ---

Check = tuple[bool, str, str]  # whether a cause applies, what it says and how to mend it
Guess = tuple[int, tuple[Misreading, ...]]  # a variant before the trunk, mistakes behind it


@dataclass(frozen=True)
class _Fit:
    """How near a guess comes."""

    guess: Guess
    left: float  # the share of the mean error that it leaves
    errors: dict[int, float]  # by number of text


class _Examination:
    """One head's answers beside the golden vectors."""

    def __init__(self, golden: Golden, kind: Kind, answers: Answers, show: Show) -> None:
        self.golden, self.kind, self.answers, self.show = golden, kind, answers, show
        self.vectors = answers.vectors[kind]
        self.rejected = answers.rejected.get(kind, {})
        self.expected = golden.expected(kind)
        pairs = enumerate(zip(self.vectors, self.expected, strict=True))
        self.errors = {
            row: distance(answer, expected)
            for row, (answer, expected) in pairs
            if answer is not None and expected is not None
        }
        self.limits = golden.limits()[kind]
        self.names = list(golden.texts)
        self.tokens = [0 if o is None else len(o.ids) for o in golden.outputs(0)]
        arrays = [v for v in self.vectors if isinstance(v, np.ndarray) and v.size]
        self.size = arrays[0].shape[-1] if arrays else 0  # dimensions; 0 for sparse

    def result(self, trunk_is_right: bool) -> HeadResult:
        """The verdict, and what explains it."""
        level = self._level(self.errors)
        if level is None:
            explained: Explanation | None = self._explain(trunk_is_right)
        else:
            explained = self._first_of(self._refused(), 1.0)
            if explained is None and level in COARSE and (best := self._best()) is not None:
                explained = best if best.share >= 1 - TENTH else None
        texts: list[dict[str, Any]] = []
        for row, error in self.errors.items():
            answer, expected = self.vectors[row], self.expected[row]
            assert answer is not None
            assert expected is not None
            texts.append({"name": self.names[row], "error": error} | _details(answer, expected))
        rejected = {self.names[row]: why for row, why in sorted(self.rejected.items())}
        level = level if explained is None else None
        return HeadResult(self.kind, level, texts, rejected, explained)

    def _level(self, errors: Mapping[int, float]) -> str | None:
        """The rounding of LEVELS that explains the errors of all texts.

        Rounding touches all texts about alike: where half of them are far nearer than the worst, it
        is something else.
        """
        if not errors:
            return None
        worst = max(errors.values())
        if worst <= SAME[self.kind]:
            return "float32"
        if worst > SPREAD * float(np.median(list(errors.values()))):
            return None
        return next((level for level in PRECISIONS if worst <= self.limits[level]), None)

    def _explain(self, trunk_is_right: bool) -> Explanation:
        """The checks that need no model first, then the table of mistakes, then guesses."""
        best = self._first_of(self._checks(), 1.0) or self._best()
        if best is None or best.rest == "something else":
            best = self._neighbours() or best or self._first_of(self._guesses(trunk_is_right), 0.0)
        assert best is not None  # the last guess always applies
        return best

    def _first_of(self, table: Iterable[Check], share: float) -> Explanation | None:
        causes = (Cause(says, mend) for applies, says, mend in table if applies)
        cause = next(causes, None)
        return None if cause is None else Explanation((cause,), share)

    def _checks(self) -> Iterator[Check]:
        """Answers that are missing, no finite numbers, empty, all alike, or of other texts."""
        why = next(iter(self.rejected.values()), "there is none")
        log = "check the server's log"
        yield not self.errors, f"no answer to any text: {why}", log
        vectors = [v for v in self.vectors if v is not None]
        arrays = [v.weights if isinstance(v, SparseVector) else v for v in vectors]
        bad = sum(not np.isfinite(array).all() for array in arrays)
        mend = "float16 overflows in some models: serve in bfloat16 or float32"
        yield bad > 0, f"{bad} of {len(arrays)} answers hold no finite numbers", mend
        empty = sum(array.size == 0 for array in arrays)
        too_many = 0 if self.kind == "dense" else len(arrays) / 2  # a text may weigh nothing
        yield empty > too_many, f"{empty} of {len(arrays)} answers are empty", log
        alike = all(distance(vector, vectors[0]) < SAME["multi"] for vector in vectors)
        mend = "check that texts reach the model"
        yield self.kind == "dense" and alike, "all texts get the same vector", mend
        limit, expected = self.limits["int8"], [e for e in self.expected if e is not None]
        wrong = [
            vector
            for row, vector in enumerate(self.vectors)
            if vector is not None and self.errors.get(row, 0.0) > limit
        ]
        moved = sum(any(distance(v, e) <= limit for e in expected) for v in wrong)
        yield (
            moved > max(1, len(wrong) / 2),
            "vectors are right but come in another order than the texts",
            "give answers in the order of the texts, or an index with each",
        )

    def _guesses(self, trunk_is_right: bool) -> Iterator[Check]:
        """What can be said where no mistake fits: some texts alone, other sizes, other weights."""
        kind, about = self.kind, self.golden.about
        whole, median = about.size(kind), float(np.median(list(self.errors.values())))
        wrong = [row for row, error in self.errors.items() if error > GAP * max(SAME[kind], median)]
        least = min((self.tokens[row] for row in wrong), default=0)
        right = max(self.tokens[row] for row in self.errors if row not in wrong)
        yield (
            least > right,
            f"long texts are cut or changed: from {least:,} tokens; {right:,} are right",
            f"allow {about.max_length:,} tokens as the checkpoint does",
        )
        yield (
            bool(wrong),
            f"only some texts differ: {', '.join(repr(self.names[row]) for row in wrong[:4])}",
            "look at what is special in them: they may be changed on their way to the model",
        )
        check = f"check which model and revision is served; {about.model} is compared with"
        says = f"another model: vectors of {self.size:,} dimensions, not {whole:,}"
        yield self.size != whole, says, check
        yield (
            kind in ("sparse", "multi") and trunk_is_right,
            f"the {kind} head's own weights are not the checkpoint's: the trunk is right",
            "load sparse_linear.pt and colbert_linear.pt of the checkpoint: where they are not "
            "found, some libraries go on with random weights",
        )
        says = "weights of a related checkpoint, or coarser quantisation than int8"
        yield median < RELATED, says, check
        yield True, "weights of another checkpoint, or a mistake that is not in the list", check

    def _best(self) -> Explanation | None:
        """The mistakes that explain best; None where none leaves less than half of the error."""
        changes = misreadings(self.kind, self.size, self.golden.about.size(self.kind))
        variants = range(1, len(self.golden.causes))
        alone: list[Guess] = [(0, (change,)) for change in changes]
        fits = self._fits([*alone, *((variant, ()) for variant in variants)])
        nearest = sorted(fits, key=lambda fit: fit.left)[:BEST]
        pairs: list[Guess] = []
        for variant, mistakes in [fit.guess for fit in nearest]:
            taken = [mistake.what for mistake in mistakes]
            pairs += [(variant, (*mistakes, c)) for c in changes if c.what not in taken]
            pairs += [(other, mistakes) for other in variants if variant == 0]
        if nearest and not self._is_same(nearest[0].errors):
            fits += self._fits(pairs)
        best: _Fit | None = None
        for fit in sorted(fits, key=lambda fit: (len(self._causes(fit.guess)), fit.left)):
            if fit.left <= HALF * (1 if best is None else best.left):
                best = fit
        if best is None:
            return None
        rest = self._level(best.errors) or "something else"
        return Explanation(self._causes(best.guess), 1 - best.left, rest)

    def _fits(self, guesses: Iterable[Guess]) -> list[_Fit]:
        """How near guesses come, up to the first that leaves nothing."""
        fits: list[_Fit] = []
        for variant, mistakes in guesses:
            self.show(variant, len(self.golden.causes))
            errors: dict[int, float] = {}
            for row, output in enumerate(self.golden.outputs(variant)):
                answer = self.vectors[row]
                if output is not None and answer is not None and row in self.errors:
                    weightless = self.golden.about.weightless
                    guess = read(self.kind, output, weightless, mistakes, answer)
                    if guess is not None:
                        errors[row] = distance(answer, guess)
            before = {row: self.errors[row] for row in errors}
            if errors and not self._is_same(before):
                left = sum(errors.values()) / sum(before.values())
                fits.append(_Fit((variant, mistakes), left, errors))
                if self._is_same(errors):
                    break
        return fits

    def _is_same(self, errors: Mapping[int, float]) -> bool:
        return max(errors.values()) <= SAME[self.kind]

    def _causes(self, guess: Guess) -> tuple[Cause, ...]:
        cause = self.golden.causes[guess[0]]
        return (*((cause,) if cause else ()), *(mistake.cause for mistake in guess[1]))

    def _neighbours(self) -> Explanation | None:
        """Texts that get other, better answers when they are asked alone."""
        wrong = [row for row in self.errors if self.errors[row] > SAME[self.kind]]
        short = [row for row in wrong if self.tokens[row] <= SHORT]
        rows = sorted(short, key=lambda row: -self.errors[row])[:ALONE]
        if self.answers.again is None or not rows:
            return None
        after = 0.0
        for row, vector in zip(rows, self.answers.again(self.kind, rows), strict=True):
            expected = self.expected[row]
            assert expected is not None
            after += WORST if vector is None else distance(vector, expected)
        left = after / sum(self.errors[row] for row in rows)
        if left > THIRD:
            return None
        cause = Cause(
            "a text's vector depends on the texts that it is sent with: alone it is right",
            "mask padding in attention, pooling and heads; till then send texts one by one",
        )
        return Explanation((cause,), 1 - left)

    def _refused(self) -> Iterator[Check]:
        """Texts that are refused though the checkpoint takes them; empty ones may be refused."""
        texts, longest = list(self.golden.texts.values()), self.golden.about.max_length
        short = [r for r in self.rejected if texts[r].strip() and self.tokens[r] < longest]
        least = min((self.tokens[row] for row in short), default=0)
        yield (
            bool(short),
            f"texts of {least:,} tokens and more are refused",
            f"allow {longest:,} tokens: in vLLM --max-model-len, in TEI --max-batch-tokens",
        )


def _details(answer: Vector, expected: Vector) -> dict[str, Any]:
    """The differences that people look at.

    Of dense vectors the cosine, of multi-vectors the smallest, or both counts where they differ; of
    sparse ones how many ids are missing and extra, and the token furthest off (id, expected, got).
    """
    if isinstance(answer, SparseVector) and isinstance(expected, SparseVector):
        ids, got, right = aligned(answer, expected)
        details: dict[str, Any] = {
            "missing": int(np.sum((right != 0) & (got == 0))),
            "extra": int(np.sum((right == 0) & (got != 0))),
        }
        off = np.abs(right - got)
        if np.isfinite(off).all() and off.any():
            worst = int(np.argmax(off))
            details["token"] = (int(ids[worst]), float(right[worst]), float(got[worst]))
        return details
    assert not isinstance(answer, SparseVector)
    assert not isinstance(expected, SparseVector)
    if answer.ndim == 2 and len(answer) != len(expected):
        return {"vectors": (len(expected), len(answer))}
    if answer.shape != expected.shape or not len(answer):
        return {}
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(answer, axis=-1) * np.linalg.norm(expected, axis=-1)
        cosines = np.sum(answer * expected, axis=-1) / np.maximum(lengths, 1e-12)
    smallest = float(np.min(cosines))
    return {"cosine": smallest} if np.isfinite(smallest) else {}


# --- the report ---


def report_text(diagnosis: Diagnosis) -> str:
    """The report for people."""
    about, heads = diagnosis.about, diagnosis.heads
    lines = [
        f"{diagnosis.target}",
        f"against {about.model} ({about.fingerprint[:8]}), float32, up to {about.max_length:,} "
        "tokens",
        "",
        f"{'head':<8}{'texts':>6}{'median':>10}{'worst':>10}  verdict",
    ]
    for head in heads:
        middle, worst = (f(head.errors) if head.errors else np.nan for f in (np.median, max))
        counts = f"{len(head.texts):>6}{_number(middle):>10}{_number(worst):>10}"
        lines.append(f"{head.kind:<8}{counts}  {head.verdict}")
        lines += [f"        {line}" for line in _lines(head, about)]
    lines += diagnosis.facts
    absent = {*about.kinds} - {"states", *(head.kind for head in heads)}
    if absent:
        lines.append(f"not offered or not asked for: {', '.join(sorted(absent))}")
    return "\n".join(lines)


def _lines(head: HeadResult, about: About) -> list[str]:
    lines = []
    if (explained := head.explained) is not None:
        lines.append(f"likely cause: {'; and '.join(c.says for c in explained.causes)}")
        if explained.share > 0:
            rest = "" if explained.rest in (None, "float32") else f"; left is {explained.rest}"
            lines.append(f"  explains {explained.share:.1%} of the difference{rest}")
        mends = dict.fromkeys(cause.mend for cause in explained.causes)
        lines += [f"  to mend it: {mend}" for mend in mends]
    wrong = [text for text in head.texts if text["error"] > SAME[head.kind]]
    if head.level is None and wrong:
        wrong.sort(key=lambda text: -text["error"])
        named = ", ".join(f"{text['name']!r} {_number(text['error'])}" for text in wrong[:3])
        lines.append(f"texts that differ: {len(wrong)} of {len(head.texts)}, most of all {named}")
        if details := _in_words(wrong[0], about):
            lines.append(f"in {wrong[0]['name']!r}: {details}")
    if head.rejected:
        name, why = next(iter(head.rejected.items()))
        lines.append(f"refused: {len(head.rejected)} texts, the first {name!r}: {why}")
    return lines


def _in_words(text: dict[str, Any], about: About) -> str:
    words = {"cosine": "smallest cosine", "missing": "missing ids", "extra": "ids too many"}
    parts = [f"{words[name]} {text[name]:,.4g}" for name in words if name in text]
    if "vectors" in text:
        parts.append("{1:,} vectors instead of {0:,}".format(*text["vectors"]))
    if "token" in text:
        token, right, got = text["token"]
        subword = about.pieces.get(token, f"id {token}")
        parts.append(f"{subword!r} weighs {got:.3f} instead of {right:.3f}")
    return "; ".join(parts)


def _number(error: float) -> str:
    if np.isnan(error):
        return "-"
    return f"{error:.1e}" if 0 < error < 0.001 else f"{error:.3f}"


def report_json(diagnosis: Diagnosis, within: str) -> dict[str, Any]:
    """The report for machines."""
    return {
        "target": diagnosis.target,
        "model": diagnosis.about.model,
        "fingerprint": diagnosis.about.fingerprint,
        "healthy": diagnosis.healthy(within),
        "heads": [_head_json(head) for head in diagnosis.heads],
        "facts": list(diagnosis.facts),
    }


def _head_json(head: HeadResult) -> dict[str, Any]:
    explained = head.explained or Explanation((), 0.0)
    return {
        "head": head.kind,
        "verdict": head.verdict,
        "same": head.level is not None,
        "rounding": None if head.level == "float32" else head.level,
        "texts": head.texts,
        "refused": head.rejected,
        "median": float(np.median(head.errors)) if head.errors else None,
        "worst": max(head.errors, default=None),
        "causes": [asdict(cause) for cause in explained.causes],
        "explains": None if head.explained is None else explained.share,
        "rest": explained.rest,
    }
