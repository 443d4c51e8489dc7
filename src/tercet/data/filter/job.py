"""The work of `tercet data filter`: parts of the rows, then what needs all of them.

Knows nothing of how the parts are run.
"""

import contextlib
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tercet.curate.shards import NUMBER, Shard
from tercet.data.filter.config import STEPS, FilterConfig
from tercet.data.filter.evaluation import evaluation_files
from tercet.data.filter.items import StepTally, Tally, quantiles, where
from tercet.data.filter.near import KeptRows, exact_repeats, near_repeats
from tercet.data.filter.part import DROPPED, TALLY, dropped_entry, run_part, sources_of
from tercet.data.filter.shingles import bands_for
from tercet.errors import InputError
from tercet.rows import line_of, numbered_rows, parts_of, write_lines

Gone = tuple[int, str, str, int]  # number of a kept row, step, reason, place of what it repeats


@dataclass(frozen=True)
class FilterJob(FilterConfig):
    """Filters rows; the result does not depend on how they are cut into parts."""

    name: ClassVar[str] = "filter"

    def inputs(self) -> list[Path]:
        """The files of rows and of evaluation sets."""
        against = [path for one in self.against for path in evaluation_files(Path(one))]
        return [*(part for path in sources_of(self) for part in parts_of(path)), *against]

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes the part's rows that its own steps leave, and what tells them from others."""
        run_part(self, shard, folder)

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Drops repeats among all rows, writes the result; returns the report."""
        files = [str(path) for path in sources_of(self)]
        facts = [json.loads((folder / TALLY).read_text()) for folder in folders]
        tally = Tally.sum(facts)
        if len({fact.get("minhash") for fact in facts}) > 1:
            raise InputError(
                "the parts were made with different versions of rensa: make them again with one"
            )
        with contextlib.closing(KeptRows(folders)) as rows:
            gone = self._repeats(rows, tally, files)
            left = np.ones(len(rows), dtype=np.bool_)
            left[[number for number, *_ in gone]] = False
            tally.kept = int(left.sum())
            if not tally.rows:
                raise InputError(f"no rows in {', '.join(files)}: nothing to filter")
            if not tally.kept:
                steps = ", ".join(f"{name} {step.rows}" for name, step in tally.steps.items())
                examples = [one for step in tally.steps.values() for one in step.examples]
                first = min(examples, key=lambda example: example["place"], default=None)
                told = ""
                if first is not None:
                    file, line = where(first["place"], files)
                    told = f"; the first is {file}:{line}: {first['reason']}"
                raise InputError(f"no row is left of {tally.rows}: {steps}{told}")
            write_lines(
                Path(self.target), (rows.line(one) for one in np.flatnonzero(left).tolist())
            )
            if self.dropped is not None:
                write_lines(Path(self.dropped), self._dropped(folders, rows, gone, files))
        return self._report(tally, files)

    def _repeats(self, rows: KeptRows, tally: Tally, files: Sequence[str]) -> list[Gone]:
        """Rows that repeat an earlier one, by number."""
        gone: list[Gone] = []
        standing = np.ones(len(rows), dtype=np.bool_)
        if self.has("exact"):
            first = exact_repeats(rows.keys)
            standing = first < 0
            repeats = np.flatnonzero(~standing).tolist()
            gone += [(one, "exact", "the same as", int(first[one])) for one in repeats]
        if self.has("near"):
            found = near_repeats(rows, standing, bands_for(self.near), self.near)
            gone += [
                (one, "near", f"{similarity:.2f} alike to", other)
                for one, (other, similarity) in found.items()
            ]
        gone.sort()
        out: list[Gone] = []
        for number, step, how, other in gone:
            file, line = where(int(rows.places[other]), files)
            out.append((number, step, f"{how} {file}:{line}", int(rows.places[number])))
        for name in ("exact", "near"):
            if self.has(name):
                tally.step(name)
        for number, step, reason, place in out:
            counted = tally.step(step)
            counted.rows += 1
            if len(counted.examples) < 3:
                counted.example(place, reason, rows.texts(number)[0])
        return out

    def _dropped(
        self, folders: Sequence[Path], rows: KeptRows, gone: Iterable[Gone], files: Sequence[str]
    ) -> Iterator[bytes]:
        """What was dropped, by place."""

        def of_part(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
            for _, entry in numbered_rows(path):
                yield entry.pop(NUMBER), entry

        def of_repeats() -> Iterator[tuple[int, dict[str, Any]]]:
            for number, step, reason, place in gone:
                file, line = where(place, files)
                row = json.loads(rows.line(number))
                yield place, dropped_entry(step, reason, file, line, row)

        streams = [*(of_part(folder / DROPPED) for folder in folders), of_repeats()]
        for _, entry in heapq.merge(*streams, key=lambda pair: pair[0]):
            yield line_of(entry)

    def _report(self, tally: Tally, files: Sequence[str]) -> dict[str, Any]:
        steps: dict[str, Any] = {}
        for name in STEPS:
            if not self.has(name):
                continue
            step = tally.steps.get(name, StepTally()).to_json()
            for example in step["examples"]:
                example["file"], example["line"] = where(example.pop("place"), files)
            steps[name] = step
        report: dict[str, Any] = {
            "to": self.target,
            "rows": tally.rows,
            "kept": tally.kept,
            "steps": steps,
        }
        if self.has("language"):
            report["languages_written"] = dict(tally.written.most_common())
            report["languages_unknown"] = dict(tally.unknown.most_common())
        if self.has("relevance"):
            report["scores"] = quantiles(tally.scores)
        return report
