"""What became of an article, and of all of them: kept, dropped, and why.

An outcome follows from the answers alone, so that a run that goes on sees what the one before saw.
Knows nothing of endpoints or files.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tercet.data.synthesize.articles import Article
from tercet.data.synthesize.chat import Answer
from tercet.data.synthesize.checks import REASONS, Limits, judge

EXAMPLES = 3  # of each reason


@dataclass(frozen=True)
class Outcome:
    """An article's question, or what was wrong with each answer so far."""

    question: str | None
    refused: tuple[tuple[str, str], ...]  # reason and answer
    done: bool  # whether nothing more is to be asked


def outcome_of(
    article: Article, lang: str, answers: Sequence[Answer], limits: Limits, tries: int
) -> Outcome:
    """The first answer that is a question to keep; after `tries` answers there is none."""
    refused: list[tuple[str, str]] = []
    for answer in answers[:tries]:
        verdict = judge(answer, article, lang, limits)
        if verdict.reason is None:
            return Outcome(verdict.question, tuple(refused), done=True)
        refused.append((verdict.reason, verdict.question))
    return Outcome(None, tuple(refused), done=len(refused) == tries)


@dataclass
class Report:
    """Counts of a part or of the whole: articles are dropped, answers are refused."""

    articles: int = 0
    kept: int = 0
    dropped: int = 0  # no answer was good enough
    rejected: int = 0  # the endpoint refused to read the prompt
    failed: int = 0  # no answer came, and it was left out
    duplicates: int = 0  # of a question before it
    answers: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # answers, by reason
    left_out: Counter[str] = field(default_factory=Counter)  # texts that were never asked about
    languages: Counter[str] = field(default_factory=Counter)  # of what is kept
    # by reason: the number of an article, and what was answered
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def add(self, article: Article, outcome: Outcome, answers: Iterable[Answer]) -> None:
        """Counts an article that was asked about."""
        self.articles += 1
        for reason, text in outcome.refused:
            self.refused[reason] += 1
            self.example(reason, article.number, text)
        for answer in answers:
            self.answers += 1
            self.tokens_in += answer.tokens_in
            self.tokens_out += answer.tokens_out

    def example(self, reason: str, number: int, text: str) -> None:
        """Keeps a text where it is among the first of its reason."""
        found = self.examples.setdefault(reason, [])
        found.append((number, text))
        found.sort(key=lambda pair: pair[0])
        del found[EXAMPLES:]

    def take(self, other: dict[str, Any]) -> None:
        """Adds the report of a part, as `to_json` gives it."""
        for name in ("articles", "kept", "dropped", "rejected", "failed", "duplicates"):
            setattr(self, name, getattr(self, name) + other[name])
        for name in ("answers", "tokens_in", "tokens_out"):
            setattr(self, name, getattr(self, name) + other[name])
        self.refused.update(other["refused"])
        self.languages.update(other["languages"])
        self.left_out = Counter(other["left_out"])  # every part counts those of the whole input
        for reason, found in other["examples"].items():
            for number, text in found:
                self.example(reason, number, text)

    def to_json(self) -> dict[str, Any]:
        """All counts, reasons in a fixed order."""
        order = [*REASONS, *sorted(self.refused.keys() - REASONS.keys())]
        return {
            "articles": self.articles,
            "kept": self.kept,
            "dropped": self.dropped,
            "rejected": self.rejected,
            "failed": self.failed,
            "duplicates": self.duplicates,
            "answers": self.answers,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "refused": {name: self.refused[name] for name in order if self.refused[name]},
            "left_out": dict(sorted(self.left_out.items())),
            "languages": dict(sorted(self.languages.items(), key=lambda pair: (-pair[1], pair[0]))),
            "examples": {name: self.examples[name] for name in sorted(self.examples)},
        }
