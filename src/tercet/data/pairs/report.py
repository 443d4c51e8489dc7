"""What was read, made and left out: counted in parts, summed, and told.

The sum does not depend on the parts. Knows nothing of how rows are made.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercet.data.pairs.base import Left, Problem
from tercet.rows import stem_of

UNITS = 40  # bits of a row's number that count units; the number of the file stands above them
EXAMPLES = 3  # that are kept of each reason
PROBLEMS = 50  # that are told one by one
_TEXT = 200  # characters of an example


@dataclass
class Tally:
    """Counts, and the first examples by the number of their unit."""

    units: Counter[str] = field(default_factory=Counter)  # read, by kind of file
    left: Counter[str] = field(default_factory=Counter)  # by reason
    examples: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    problems: int = 0  # of single units
    first: list[tuple[int, str, str]] = field(default_factory=list)
    failed: dict[int, tuple[str, str]] = field(default_factory=dict)  # files, by their number
    void: set[int] = field(default_factory=set)  # files whose rows are wrong
    rows: dict[str, Counter[str]] = field(default_factory=dict)  # by structure and language

    def leave(self, number: int, left: Left, count: int = 1) -> None:
        """Something that gave no row."""
        self.left[left.reason] += count
        examples = self.examples.setdefault(left.reason, [])
        if len(examples) < EXAMPLES:
            examples.append((number, left.where, left.text[:_TEXT]))

    def problem(self, number: int, problem: Problem) -> None:
        """A unit that could not be read."""
        self.problems += 1
        if len(self.first) < PROBLEMS:
            self.first.append((number, problem.where, problem.reason))

    def fail(self, file: int, problem: Problem, *, void: bool) -> None:
        """A file that could not be read, or not to its end; every part says so, it counts once."""
        self.failed[file] = (problem.where, problem.reason)
        if void:
            self.void.add(file)

    def row(self, structure: str, lang: str) -> None:
        """A row that was written."""
        self.rows.setdefault(structure, Counter())[lang] += 1

    def to_json(self) -> dict[str, Any]:
        """What a part keeps."""
        return {
            "units": self.units,
            "left": self.left,
            "examples": self.examples,
            "problems": self.problems,
            "first": self.first,
            "failed": list(self.failed.items()),
            "void": sorted(self.void),
        }

    @staticmethod
    def sum(parts: Iterable[Mapping[str, Any]]) -> "Tally":
        """The tally of all parts, from what each kept."""
        total = Tally()
        for part in parts:
            total.units.update(part["units"])
            total.left.update(part["left"])
            total.problems += part["problems"]
            total.first = sorted([*total.first, *map(tuple, part["first"])])[:PROBLEMS]
            total.failed |= {number: tuple(found) for number, found in part["failed"]}
            total.void |= set(part["void"])
            for reason, examples in part["examples"].items():
                known = [*total.examples.get(reason, ()), *map(tuple, examples)]
                known.sort(key=lambda example: example[0])  # those of one unit stay in order
                total.examples[reason] = known[:EXAMPLES]
        return total

    def report(self) -> dict[str, Any]:
        """What is told: reasons and languages with the most first."""
        failed = ((file << UNITS, *found) for file, found in self.failed.items())
        told = sorted([*failed, *self.first])
        return {
            "units": dict(sorted(self.units.items())),
            "rows": sum(counts.total() for counts in self.rows.values()),
            "structures": {name: _most(counts) for name, counts in sorted(self.rows.items())},
            "left_out": {
                reason: {
                    "count": count,
                    "examples": [
                        {"id": where, "text": text} for _, where, text in self.examples[reason]
                    ],
                }
                for reason, count in _most(self.left).items()
            },
            "problems": len(self.failed) + self.problems,
            "first_problems": [
                {"where": where, "reason": reason} for _, where, reason in told[:PROBLEMS]
            ],
        }


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    """The most first, then by name."""
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def report_path(target: Path) -> Path:
    """Where the report of a file of rows lies: beside it."""
    return target.with_name(f"{stem_of(target)}.report.json")


def lines(report: Mapping[str, Any]) -> list[str]:
    """A report for people."""
    out = [f"{report['to']}: {report['rows']:,} rows"]
    out.append(f"  files: {_named(report['files'])}")
    if report["passed_over"]:
        out.append(f"  files of other kinds: {_named(report['passed_over'])}")
    out.append(f"  units read: {_named(report['units'])}")
    for structure, languages in report["structures"].items():
        said = {lang or "language not said": count for lang, count in languages.items()}
        out.append(f"  {structure}: {_named(said)}")
    if report["left_out"]:
        out.append("  left out:")
    for reason, found in report["left_out"].items():
        out.append(f"    {found['count']:,}  {reason}")
        for example in found["examples"][:1]:
            text = " ".join(example["text"].split())[:100]
            out.append(f"      as {example['id']}{f': {text}' if text else ''}")
    return out


def _named(counts: Mapping[str, int], most: int = 12) -> str:
    shown = [f"{name} {count:,}" for name, count in _most(counts).items()]
    more = [f"and {len(shown) - most:,} more"] if len(shown) > most else []
    return ", ".join(shown[:most] + more) or "none"
