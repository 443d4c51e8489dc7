"""Compares answers with a reference, head by head: the verdict, how far off, and the likely cause.

Knows nothing of how answers were got, or of how a report looks.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tercet.evaluate.doctor.compare import Level, Sizes, level, sizes
from tercet.evaluate.doctor.endpoints import Answers
from tercet.evaluate.doctor.otherwise import (
    Again,
    neighbours,
    nothing,
    only_some,
    refused_too_soon,
    shuffled,
    unknown,
    unusable,
)
from tercet.evaluate.doctor.readings import Kind
from tercet.evaluate.doctor.reference import Reference, expected
from tercet.evaluate.doctor.search import Explained, Search
from tercet.evaluate.doctor.sequences import PRECISIONS

THIRD, TENTH = 1 / 3, 0.1  # of the error: what a cause may leave where rounding explains it too
COARSE: tuple[Level, ...] = ("bfloat16", "int8")  # roundings that could hide a small defect

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
    too_soon = refused_too_soon(reference, search, refused)
    explained = None

    def shown(done: int, of: int) -> None:
        show(kind, done, of)

    if not search.errors:
        same, explained = False, nothing(refused)
    elif too_soon is not None and same:
        same, explained = False, too_soon
    elif not same:
        explained = _explain(reference, search, again, shown, trunk_is_right)
    elif rounding in COARSE and (best := search.best(shown)) and _convinces(best, rounding):
        same, explained = False, best
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
    if (found := unusable(search.answers)) is not None:
        return found
    if (found := shuffled(reference, search)) is not None:
        return found
    best = search.best(show)
    if best is not None and best.rest is not None and best.rest[0]:
        return best
    if again is not None and (found := neighbours(reference, search, again)) is not None:
        return found
    if best is None:
        best = only_some(reference, search)
    return best or unknown(reference, search, trunk_is_right)


def _convinces(found: Explained, rounding: Level) -> bool:
    """Whether a cause explains better than rounding does, which may be all that differs."""
    left = 1 - found.share
    if found.rest is None or left > THIRD:
        return False
    if left <= TENTH:  # no wrong guess comes so near
        return True
    order = [None, *PRECISIONS]
    return found.rest[0] and order.index(found.rest[1]) < order.index(rounding)
