"""Finds what explains answers that differ: every variant of texts and every reading of a head.

What fits best is the cause; of two that fit about as well, the simpler one. Knows nothing of
endpoints or of how causes are told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tercet.evaluate.doctor.compare import SAME, error, level
from tercet.evaluate.doctor.readings import Answer, Cause, Kind, Reading, Sparse, readings
from tercet.evaluate.doctor.reference import Reference, expected
from tercet.evaluate.doctor.sequences import Precision

HALF = 0.5  # a cause leaves at most so much of the error, else it is none
BETTER = 0.5  # what is less simple must leave at most so much of what the simpler one leaves
BEST = 3  # variants and readings that are tried together

Show = Callable[[int, int], None]


@dataclass(frozen=True)
class Explained:
    """What explains a difference: causes together, and how well."""

    causes: tuple[Cause, ...]
    share: float  # of the error that is explained, 0 to 1
    rest: tuple[bool, Precision | None] | None = None  # as `level` says of what is left


@dataclass(frozen=True)
class _Fit:
    variant: int
    reading: int
    cost: float  # mean error of the texts that are compared
    before: float  # the same, of the checkpoint as it should be
    errors: dict[int, float]  # by number of text

    @property
    def left(self) -> float:
        """The share of the error that it leaves."""
        return self.cost / self.before if self.before > 0 else 1.0


class Search:
    """Tries causes for the answers of one head."""

    def __init__(self, reference: Reference, kind: Kind, answers: Sequence[Answer | None]) -> None:
        self.reference, self.kind, self.answers = reference, kind, answers
        about = reference.about
        size = next((size_of(a) for a in answers if a is not None and size_of(a)), 0)
        weightless = np.array(about.weightless)
        self.readings: list[Reading] = readings(kind, weightless, size, about.size(kind))
        right = expected(reference.raws(0), kind, about)
        self.plain = [
            None if a is None or e is None else error(a, e)
            for a, e in zip(answers, right, strict=True)
        ]

    @property
    def errors(self) -> list[float]:
        """Errors of the texts that are compared."""
        return [e for e in self.plain if e is not None]

    def best(self, show: Show = lambda done, of: None) -> Explained | None:
        """The best explanation; None where none leaves less than half of the error."""
        count = len(self.reference.causes)
        readings_alone = [self._fit(0, number) for number in range(1, len(self.readings))]
        alone = [fit for fit in readings_alone if fit is not None]
        if (found := self._chosen(alone)) is not None and self._is_same(found):
            return self._explained(found)
        variants: list[_Fit] = []
        for number in range(1, count):
            show(number, count)
            if (fit := self._fit(number, 0)) is not None:
                variants.append(fit)
                if self._is_same(fit):
                    break  # the rest would only take time
        singles = alone + variants
        found = self._chosen(singles)
        if found is None or not self._is_same(found):
            found = self._chosen([*singles, *self._pairs(alone, variants)])
        return None if found is None else self._explained(found)

    def _pairs(self, alone: list[_Fit], variants: list[_Fit]) -> list[_Fit]:
        """Fits of the best variants with all readings, and of the best readings with all."""
        top = {fit.variant for fit in sorted(variants, key=lambda fit: fit.left)[:BEST]}
        read = {fit.reading for fit in sorted(alone, key=lambda fit: fit.left)[:BEST]}
        tried = {(v, r) for v in top for r in range(1, len(self.readings))}
        tried |= {(v, r) for v in range(1, len(self.reference.causes)) for r in read}
        fits = (self._fit(*both) for both in sorted(tried))
        return [fit for fit in fits if fit is not None]

    def _fit(self, variant: int, reading: int) -> _Fit | None:
        """None where it can be compared for no text that differs."""
        errors: dict[int, float] = {}
        before = []
        read = self.readings[reading].read
        raws = self.reference.raws(variant)
        for row, (raw, answer) in enumerate(zip(raws, self.answers, strict=True)):
            was = self.plain[row]
            if raw is None or answer is None or was is None:
                continue
            guess = read(raw, answer)
            if guess is not None:
                errors[row] = error(answer, guess)
                before.append(was)
        if not errors or max(before) <= SAME[self.kind]:
            return None
        cost = float(np.mean(list(errors.values())))
        return _Fit(variant, reading, cost, float(np.mean(before)), errors)

    def _chosen(self, fits: list[_Fit]) -> _Fit | None:
        """The fit that leaves least, simpler ones first."""
        best: _Fit | None = None
        for fit in sorted(fits, key=lambda fit: (len(self._causes(fit)), fit.left)):
            if fit.left <= HALF and (best is None or _better(fit, best)):
                best = fit
        return best

    def _causes(self, fit: _Fit) -> tuple[Cause, ...]:
        cause = self.reference.causes[fit.variant]
        return (*(() if cause is None else (cause,)), *self.readings[fit.reading].causes)

    def _is_same(self, fit: _Fit) -> bool:
        return max(fit.errors.values()) <= SAME[self.kind]

    def _explained(self, fit: _Fit) -> Explained:
        rest = level(list(fit.errors.values()), self.kind, self.reference.limits()[self.kind])
        return Explained(self._causes(fit), 1 - fit.left, rest)


def _better(fit: _Fit, simpler: _Fit) -> bool:
    """Whether it leaves much less than the simpler one: of all errors, or of the largest.

    A cut touches few texts, so that their mean error hardly shows it.
    """
    if fit.left <= BETTER * simpler.left:
        return True
    both = [row for row in fit.errors if row in simpler.errors]
    worst, before = (max((f.errors[row] for row in both), default=0.0) for f in (fit, simpler))
    return fit.left < simpler.left and worst <= BETTER * before


def size_of(answer: Answer) -> int:
    """Dimensions of a vector; 0 for sparse and for what is empty."""
    return 0 if isinstance(answer, Sparse) else int(answer.shape[-1])
