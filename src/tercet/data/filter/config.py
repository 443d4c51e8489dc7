"""What `tercet data filter` is asked for: which steps, and how strict each is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tercet.data.filter.evaluation import PASSAGES, Passages
from tercet.data.filter.language import SURE
from tercet.data.filter.overlap import CHARACTERS, WORDS, Shares
from tercet.errors import InputError

Step = Literal[
    "fields",  # rows that lack the fields of a row, or are no JSON; always on
    "encoding",
    "length",
    "letters",
    "boilerplate",
    "same",  # the query is its own positive
    "language",
    "evaluation",  # shared with an evaluation set
    "relevance",
    "exact",  # the same row again
    "near",  # nearly the same row again
]
STEPS: tuple[Step, ...] = get_args(Step)
NEAR = 0.8  # of the shingles on both sides; below it are different questions on one text
LEAST_NEAR = 0.5  # below it candidates would be most of all pairs


@dataclass(frozen=True)
class FilterConfig:
    """Steps run in the order of STEPS; the first that objects to a row is the reason told."""

    sources: Sequence[str]  # files of rows, or folders of them
    target: str  # JSON lines, packed where the name ends in .gz
    dropped: str | None = None  # file for every dropped row and the reason
    steps: Sequence[str] = STEPS  # evaluation needs `against`, relevance needs `min_score`
    query_length: tuple[int, int] = (2, 20_000)  # characters
    passage_length: tuple[int, int] = (5, 200_000)  # of positives and raw texts
    letters: float = 0.4  # least part of the characters; 1 in 3,000 real texts has less: tables
    sure: float = SURE  # of a language that speaks against a row
    against: Sequence[str] = ()  # evaluation sets, or folders of them
    passages: Passages = "relevant"  # of their corpora, which count
    shared_words: int = WORDS
    shared_characters: int = CHARACTERS
    min_score: float | None = None
    scorer: str | None = None  # "module:function"
    scorer_options: Mapping[str, Any] | None = None  # given: the function makes the scorer of them
    near: float = NEAR

    def __post_init__(self) -> None:
        """Raises InputError for what does not fit together."""
        for step in self.steps:
            if step not in STEPS:
                raise InputError(f"unknown step {step!r}: choose from {', '.join(STEPS)}")
        for name, (least, most) in (
            ("query", self.query_length),
            ("passage", self.passage_length),
        ):
            if not 0 <= least <= most:
                raise InputError(f"the {name} length {least}-{most} is no range")
        for name, share in (("letters", self.letters), ("sure", self.sure)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} must lie between 0 and 1, got {share}")
        if not LEAST_NEAR <= self.near <= 1:
            raise InputError(f"near must lie between {LEAST_NEAR} and 1, got {self.near}")
        if self.passages not in PASSAGES:
            raise InputError(f"passages {self.passages!r}: choose from {', '.join(PASSAGES)}")
        if (self.min_score is None) != (self.scorer is None):
            raise InputError("relevance needs both a least score and a scorer")
        if not Path(self.target).name.endswith((".jsonl", ".jsonl.gz")):
            raise InputError(f"{self.target}: the result must end in .jsonl or .jsonl.gz")
        _ = self.shares

    @property
    def shares(self) -> Shares:
        """How long a stretch shared with an evaluation set must be."""
        return Shares(self.shared_words, self.shared_characters)

    def has(self, step: Step) -> bool:
        """Whether a step runs."""
        if step == "fields":
            return True
        if step == "evaluation" and not self.against:
            return False
        if step == "relevance" and self.min_score is None:
            return False
        return step in self.steps
