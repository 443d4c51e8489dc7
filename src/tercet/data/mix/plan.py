"""What was counted in the rows of a mix, what is therefore drawn, and the report of it.

Knows nothing of the rows themselves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tercet.data.mix.quotas import Counts, Floats, Wanted, allot

if TYPE_CHECKING:
    from tercet.data.mix.job import Mix

Cell = tuple[int, str]  # number of the source, language


@dataclass
class Tally:
    """Rows and bytes of each cell and length group."""

    groups: int
    cells: dict[Cell, int] = field(default_factory=dict)  # their numbers, by first appearance
    rows: list[list[int]] = field(default_factory=list)
    bytes: list[list[int]] = field(default_factory=list)
    raw: int = 0  # rows that are a text alone

    def add(self, cell: Cell, group: int, size: int, raw: bool) -> int:
        """Counts a row; returns the number of its cell."""
        at = self._number(cell)
        self.rows[at][group] += 1
        self.bytes[at][group] += size
        self.raw += raw
        return at

    def _number(self, cell: Cell) -> int:
        at = self.cells.setdefault(cell, len(self.cells))
        if at == len(self.rows):
            self.rows.append([0] * self.groups)
            self.bytes.append([0] * self.groups)
        return at

    def to_json(self) -> dict[str, Any]:
        """What `of` reads."""
        cells = [list(cell) for cell in self.cells]
        facts = {"groups": self.groups, "cells": cells, "rows": self.rows}
        return {**facts, "bytes": self.bytes, "raw": self.raw}

    @staticmethod
    def of(facts: dict[str, Any]) -> "Tally":
        """The tally of a part."""
        cells = {(source, language): at for at, (source, language) in enumerate(facts["cells"])}
        return Tally(**{**facts, "cells": cells})

    @staticmethod
    def sum(parts: Sequence["Tally"], groups: int) -> "Tally":
        """All parts together, cells in an order that the cut does not change."""
        total = Tally(groups)
        for cell in sorted({cell for part in parts for cell in part.cells}):
            total._number(cell)
        for part in parts:
            total.raw += part.raw
            for cell, at in part.cells.items():
                into = total.cells[cell]
                for group in range(groups):
                    total.rows[into][group] += part.rows[at][group]
                    total.bytes[into][group] += part.bytes[at][group]
        return total


@dataclass(frozen=True)
class Plan:
    """What is drawn: of each cell every row so many times, and some once more; files of a group."""

    cells: tuple[Cell, ...]
    counts: Counts  # rows there are
    quotas: Counts  # rows to draw
    times: Counts
    once: Counts
    files: Counts
    raw: int

    @staticmethod
    def of(job: "Mix", total: Tally) -> "Plan":
        """The plan for what was counted."""
        sources = job.parsed
        languages = sorted({language for _, language in total.cells})
        places = {language: at for at, language in enumerate(languages)}
        at = tuple(np.array([(s, places[name]) for s, name in total.cells]).T)
        counts = np.array(total.rows).sum(axis=1)
        table = np.zeros((len(sources), len(languages)), dtype=np.int64)
        table[at] = counts
        by_share = sources[0].share is not None
        weights = [source.share if by_share else source.weight for source in sources]
        wanted = Wanted(
            weights=np.array(weights, dtype=np.float64),
            by_share=by_share,
            source_caps=_caps([source.cap for source in sources]),
            language_caps=_caps([job.caps.get(language, job.cap) for language in languages]),
            alpha=job.alpha,
            rows=job.rows,
            epochs=job.epochs,
            repeats=np.inf if job.repeats is None else job.repeats,
        )
        quotas = allot(table, wanted)[at]
        share = quotas / counts
        sizes = share @ np.array(total.bytes, dtype=np.float64)  # of a group, about
        files = np.maximum(1, np.ceil(sizes / (job.file_mb * (1 << 20)))).astype(np.int64)
        return Plan(
            cells=tuple(total.cells),
            counts=counts,
            quotas=quotas,
            times=quotas // counts,
            once=quotas % counts,
            files=files,
            raw=total.raw,
        )

    def report(
        self, job: "Mix", groups: Sequence[int], files: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """What was drawn, by source, language and length."""
        labels = [source.label for source in job.parsed]
        by_source = [(labels[source], at) for at, (source, _) in enumerate(self.cells)]
        by_language = [(language, at) for at, (_, language) in enumerate(self.cells)]
        rows = int(self.quotas.sum())
        sources = {label: _Drawn().to_json() for label in labels} | self._drawn(by_source)
        languages = self._drawn(by_language)
        return {
            "to": job.target,
            "rows": rows,
            "short": 0 if job.rows is None else max(0, job.rows - rows),
            "raw": self.raw,
            "sources": sources,
            "languages": dict(
                sorted(languages.items(), key=lambda item: (-item[1]["rows"], item[0]))
            ),
            "lengths": [
                {"unit": job.unit, "group": job.groups.told(at), "rows": count}
                for at, count in enumerate(groups)
                if count
            ],
            "files": files,
            "seed": job.seed,
        }

    def _drawn(self, named: Iterable[tuple[str, int]]) -> dict[str, dict[str, int]]:
        found: dict[str, _Drawn] = {}
        for name, at in named:
            found.setdefault(name, _Drawn()).add(int(self.counts[at]), int(self.quotas[at]))
        return {name: one.to_json() for name, one in found.items()}


@dataclass
class _Drawn:
    """Rows that there are, that are in the mix, that are not; how often one is at most."""

    found: int = 0
    rows: int = 0
    left_out: int = 0
    repeats: int = 0

    def add(self, count: int, quota: int) -> None:
        self.found += count
        self.rows += quota
        self.left_out += max(0, count - quota)
        self.repeats = max(self.repeats, -(-quota // count))

    def to_json(self) -> dict[str, int]:
        told = {"found": self.found, "rows": self.rows}
        return {**told, "left_out": self.left_out, "repeats": self.repeats}


def _caps(values: Sequence[int | None]) -> Floats:
    return np.array([np.inf if value is None else value for value in values], dtype=np.float64)
