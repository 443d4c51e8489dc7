"""Compares answers with a reference, head by head: the verdict, how far off, and the likely cause.

Knows nothing of how answers were got, or of how a report looks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.evaluate.doctor.compare import SAME, Level, Sizes, level, sizes
from tercet.evaluate.doctor.endpoints import Answers
from tercet.evaluate.doctor.readings import Answer, Cause, Kind
from tercet.evaluate.doctor.reference import Reference, expected
from tercet.evaluate.doctor.routes import Text
from tercet.evaluate.doctor.search import Explained, Search, shuffled, unknown, unusable
from tercet.evaluate.doctor.sequences import PRECISIONS

THIRD, TENTH = 1 / 3, 0.1  # of the error: what a cause may leave where rounding explains it too
ALONE = 8  # texts that are asked again one by one

Again = Callable[[Sequence[Text], Kind], list[Answer | None]]
Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TextResult:
    """One text: its name, error, and what else is looked at."""

    name: str
    error: float
    sizes: Sizes


@dataclass(frozen=True)
class HeadResult:
    """One head: the verdict and what it rests on."""

    kind: Kind
    same: bool
    level: Level  # where same: to which rounding, None for float32
    texts: tuple[TextResult, ...]  # those compared
    refused: dict[str, str]  # text to reason
    explained: Explained | None

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

    def within(self, limit: Level) -> bool:
        """Whether it is the same to this rounding or a finer one."""
        order = [None, *PRECISIONS]
        return self.same and order.index(self.level) <= order.index(limit)


def texts_of(reference: Reference) -> list[Text]:
    """The texts with the ids that the checkpoint makes of them."""
    raws = reference.raws(0)
    both = zip(reference.texts.values(), raws, strict=True)
    weightless = reference.about.weightless
    return [Text(text, () if raw is None else raw.ids.tolist(), weightless) for text, raw in both]


def examine(
    reference: Reference,
    answers: Answers,
    *,
    again: Again | None = None,
    show: Show = lambda what, done, of: None,
) -> list[HeadResult]:
    """A result for each kind of answer that the checkpoint has too.

    again: asks texts one by one, which shows whether an answer depends on its neighbours.
    """
    out: list[HeadResult] = []
    for kind in reference.about.kinds:
        if kind in answers.found:
            right = any(head.same for head in out if head.kind in ("dense", "states"))
            out.append(_head(reference, kind, answers, again, show, right))
    return out


def _head(
    reference: Reference,
    kind: Kind,
    answers: Answers,
    again: Again | None,
    show: Show,
    trunk_is_right: bool,
) -> HeadResult:
    found = answers.found[kind]
    search = Search(reference, kind, found)
    limits = reference.limits()[kind]
    same, rounding = level(search.errors, kind, limits)
    refused = answers.refused.get(kind, {})
    too_short = _refused_too_soon(reference, refused, found)
    if not search.errors or too_short:
        same = False
    explained = None
    if not search.errors:
        explained = _nothing(refused)
    elif not same or rounding in ("bfloat16", "int8"):
        explained = _explain(
            reference, search, again, lambda d, n: show(kind, d, n), trunk_is_right
        )
        if same and not _convinces(explained, rounding):
            explained = None
        same = same and explained is None
    if too_short is not None and max(search.errors, default=0.0) <= SAME[kind]:
        explained = too_short
    names = list(reference.texts)
    right = expected(reference.raws(0), kind, reference.about)
    results = []
    for row, (answer, wanted) in enumerate(zip(found, right, strict=True)):
        if (off := search.plain[row]) is not None and answer is not None and wanted is not None:
            results.append(TextResult(names[row], off, sizes(answer, wanted)))
    return HeadResult(
        kind=kind,
        same=same,
        level=rounding if same else None,
        texts=tuple(results),
        refused={names[row]: why for row, why in sorted(refused.items())},
        explained=explained,
    )


def _explain(
    reference: Reference,
    search: Search,
    again: Again | None,
    show: Callable[[int, int], None],
    trunk_is_right: bool,
) -> Explained:
    kind, answers = search.kind, search.answers
    if (found := unusable(answers)) is not None:
        return found
    limit = reference.limits()[kind]["int8"]
    if (found := shuffled(reference, kind, answers, limit)) is not None:
        return found
    best = search.best(show)
    if best is not None and best.rest is not None and best.rest[0]:
        return best
    if again is not None and (found := _neighbours(reference, search, again)) is not None:
        return found
    return best or unknown(reference, kind, answers, trunk_is_right)


def _convinces(found: Explained, rounding: Level) -> bool:
    """Whether a cause explains better than rounding does, which may be all that differs."""
    left = 1 - found.share
    if found.rest is None or left > THIRD:
        return False
    if left <= TENTH:  # no wrong guess comes so near
        return True
    order = [None, *PRECISIONS]
    return found.rest[0] and order.index(found.rest[1]) < order.index(rounding)


def _neighbours(reference: Reference, search: Search, again: Again) -> Explained | None:
    """Whether texts that are asked alone get other, better answers."""
    errors = {row: e for row, e in enumerate(search.plain) if e is not None}
    texts = texts_of(reference)
    rows = sorted((r for r in errors if len(texts[r].ids) <= 512), key=lambda r: -errors[r])[:ALONE]
    found: list[Answer | None] = [None] * len(texts)
    for row, answer in zip(rows, again([texts[row] for row in rows], search.kind), strict=True):
        found[row] = answer
    alone = Search(reference, search.kind, found).errors
    if not alone:
        return None
    before, after = float(np.mean([errors[row] for row in rows])), float(np.mean(alone))
    if after > THIRD * before:
        return None
    cause = Cause(
        "a text's vector depends on the texts that it is sent with: alone it is right",
        "mask padding in attention, pooling and heads; till then send texts one by one",
    )
    return Explained((cause,), 1 - after / before)


def _refused_too_soon(
    reference: Reference, refused: dict[int, str], found: Sequence[Answer | None]
) -> Explained | None:
    """Whether texts are refused that the checkpoint takes whole; empty ones may be refused."""
    texts = texts_of(reference)
    short = [
        row
        for row in refused
        if texts[row].text.strip() and len(texts[row].ids) < reference.about.max_length
    ]
    if not short:
        return None
    tokens = min(len(texts[row].ids) for row in short)
    taken = [len(texts[row].ids) for row, answer in enumerate(found) if answer is not None]
    fits = max((size for size in taken if size < tokens), default=0)
    cause = Cause(
        f"texts of {tokens:,} tokens and more are refused, {fits:,} are taken: {refused[short[0]]}",
        f"allow {reference.about.max_length:,} tokens: in vLLM --max-model-len, in TEI "
        "--max-batch-tokens and auto-truncate",
    )
    return Explained((cause,), 1.0)


def _nothing(refused: dict[int, str]) -> Explained:
    why = next(iter(refused.values()), "there is none")
    return Explained((Cause(f"no answer to any text: {why}", "check the server's log"),), 1.0)
