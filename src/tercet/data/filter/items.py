"""A row while steps look at it, and the count of what they dropped.

Knows nothing of the steps themselves.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tercet.rows import Row

EXAMPLES, SHOWN = 3, 160  # of each step; characters of a text in one
_LINE_BITS = 40


def place_of(file: int, line: int) -> int:
    """One number for a line of a file, rising through all files."""
    return file << _LINE_BITS | line


def where(place: int, files: Sequence[str]) -> tuple[str, int]:
    """File and line of a place."""
    return files[place >> _LINE_BITS], place & ((1 << _LINE_BITS) - 1)


def short(text: str) -> str:
    """The beginning of a text, in one line."""
    folded = " ".join(text[: 2 * SHOWN].split())
    return folded if len(folded) < SHOWN else folded[: SHOWN - 1] + "…"


@dataclass
class Item:
    """A row: texts[0] is the query, or a raw text; the others are its positives."""

    place: int
    row: Row
    texts: list[str]
    where: str  # file:line
    lang: str = ""
    left: list[int] = field(init=False)  # of the positives, numbers in texts

    def __post_init__(self) -> None:
        self.left = list(range(1, len(self.texts)))

    @property
    def raw(self) -> bool:
        """Whether it is a text alone."""
        return len(self.texts) == 1

    def passages(self) -> list[tuple[int, str]]:
        """What is searched for, with its number: positives that are left, or the raw text."""
        return [(0, self.texts[0])] if self.raw else [(at, self.texts[at]) for at in self.left]

    def standing(self) -> list[str]:
        """The query, or raw text, and the positives that are left."""
        return [self.texts[0], *(self.texts[at] for at in self.left)]

    def finish(self) -> Row:
        """The row, with the positives that are left and their scores."""
        if self.raw or len(self.left) == len(self.texts) - 1:
            return self.row
        out = dict(self.row)
        for name in ("pos", "pos_scores"):
            if isinstance(values := self.row.get(name), list):
                out[name] = [values[at - 1] for at in self.left]
        return out


@dataclass(frozen=True)
class Objection:
    """What a step has against a row, or against one of its positives."""

    item: Item
    at: int  # number in texts; 0: the whole row
    reason: str
    group: str = ""  # what the step counts by: a language, an evaluation set


@dataclass
class StepTally:
    """What one step dropped."""

    rows: int = 0
    positives: int = 0  # taken out of rows that stay
    groups: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def example(self, place: int, reason: str, text: str) -> None:
        """Keeps the first few by place."""
        if len(self.examples) < EXAMPLES:
            self.examples.append({"place": place, "reason": reason, "text": short(text)})

    def add(self, other: Mapping[str, Any]) -> None:
        """Adds what another part counted."""
        self.rows += other["rows"]
        self.positives += other["positives"]
        self.groups.update(other["groups"])
        every = self.examples + other["examples"]
        self.examples = sorted(every, key=lambda example: example["place"])[:EXAMPLES]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "rows": self.rows,
            "positives": self.positives,
            "groups": dict(self.groups.most_common()),
            "examples": self.examples,
        }


@dataclass
class Tally:
    """What all steps dropped and did."""

    rows: int = 0
    kept: int = 0
    steps: dict[str, StepTally] = field(default_factory=dict)
    written: Counter[str] = field(default_factory=Counter)  # languages put into rows
    unknown: Counter[str] = field(default_factory=Counter)  # tags that could not be judged
    scores: Counter[str] = field(default_factory=Counter)  # to 2 decimals, as text: JSON's keys

    def step(self, name: str) -> StepTally:
        """The tally of a step."""
        return self.steps.setdefault(name, StepTally())

    @staticmethod
    def sum(parts: Iterable[Mapping[str, Any]]) -> "Tally":
        """One tally of those that parts wrote."""
        total = Tally()
        for part in parts:
            total.rows += part["rows"]
            total.kept += part["kept"]
            for name in ("written", "unknown", "scores"):
                getattr(total, name).update(part[name])
            for name, step in part["steps"].items():
                total.step(name).add(step)
        return total

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "rows": self.rows,
            "kept": self.kept,
            "steps": {name: step.to_json() for name, step in self.steps.items()},
            "written": dict(self.written),
            "unknown": dict(self.unknown),
            "scores": dict(self.scores),
        }


def quantiles(scores: Mapping[str, int]) -> dict[str, float]:
    """Scores that 1%, 5%, 25%, 50% and 75% of the pairs do not reach."""
    ordered = sorted((float(score), count) for score, count in scores.items())
    total = sum(count for _, count in ordered)
    out: dict[str, float] = {}
    for percent in (1, 5, 25, 50, 75):
        passed = 0
        for score, count in ordered:
            passed += count
            if passed * 100 >= percent * total:
                out[f"{percent}%"] = score
                break
    return out
