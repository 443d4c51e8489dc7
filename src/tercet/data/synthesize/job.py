"""Articles to training rows {question, whole article}: asks, keeps every answer, writes what held.

MultiLongDoc (M3 paper, appendix): a long article, a paragraph of it at random, one question by a
language model. A part first asks until each of its articles has a question or no tries left, with
answers in a journal beside the part, then writes rows from the journal alone: so rows do not depend
on the order in which answers came. Knows nothing of the protocol.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tercet.data.shards import BLOCK, FREE, Shard, part_rows, parts_folder, settings, write_part
from tercet.data.synthesize.articles import Article, Picking, articles
from tercet.data.synthesize.chat import Answer, Asking, Message, ask
from tercet.data.synthesize.checks import REASONS, Limits
from tercet.data.synthesize.journal import Journal
from tercet.data.synthesize.language import language_of
from tercet.data.synthesize.outcome import Outcome, Report, outcome_of
from tercet.data.synthesize.prompts import PROMPT, again, check_prompt, prompt_of
from tercet.endpoint import (
    AccessError,
    Client,
    Endpoint,
    EndpointError,
    RejectedError,
    first_of,
    wait_for,
)
from tercet.errors import InputError
from tercet.rows import Row, files_of, parts_of, write_rows
from tercet.split import text_key

GIVE_UP = 10  # articles in a row without an answer: then something is wrong with all
ROWS, REPORT = "rows.jsonl.gz", "report.json"


@dataclass(frozen=True)
class Progress:
    """Is told how far a part is."""

    show: Callable[[int, int], None]  # articles settled so far, answers that came
    tell: Callable[[str], None]  # why it waits


@dataclass(frozen=True)
class Task:
    """An article and what is asked about it."""

    article: Article
    lang: str  # as its row says, or as its paragraph shows; may be empty
    prompt: str

    @cached_property
    def key(self) -> str:
        """What the journal calls it: another article, title, paragraph or prompt has another."""
        asked = f"{self.article.key}\0{self.prompt}".encode("utf-8", "replace")
        return hashlib.blake2b(asked, digest_size=12).hexdigest()


@dataclass(frozen=True)
class Synthesis:
    """Questions on the long articles of files, by a language model."""

    name: ClassVar[str] = "synthesize"

    target: str
    files: tuple[str, ...]
    model: str
    prompt: str = PROMPT  # with {paragraph}, and maybe {language} and {title}
    temperature: float = Asking.temperature
    max_tokens: int = Asking.max_tokens
    body: dict[str, Any] = field(default_factory=dict)  # more fields of each request
    shortest: int = Picking.shortest
    reach: int = Picking.reach
    paragraph: tuple[int, int] = Picking.paragraph
    question: tuple[int, int] = (Limits.shortest, Limits.longest)
    limit: int | None = None
    seed: int = 0
    tries: int = 3  # answers for one article, refused ones counted
    # A moved server or a slower pace makes no other rows.
    endpoint: Endpoint | None = field(default=None, metadata=FREE)
    skip_failed: bool = field(default=False, metadata=FREE)  # leave out what got no answer
    progress: Progress | None = field(default=None, metadata=FREE, compare=False)

    def __post_init__(self) -> None:
        """Raises InputError on values that cannot be."""
        check_prompt(self.prompt, "the prompt")
        if self.tries < 1:
            raise InputError(f"an article needs at least one try, got {self.tries}")
        _ = self.picking, self.asking, self.limits

    @property
    def picking(self) -> Picking:
        """Which articles and paragraphs."""
        return Picking(self.shortest, self.reach, self.paragraph, self.limit, self.seed)

    @property
    def asking(self) -> Asking:
        """How the model is asked."""
        return Asking(self.model, self.temperature, self.max_tokens, self.body)

    @property
    def limits(self) -> Limits:
        """How long a question may be."""
        return Limits(*self.question)

    def inputs(self) -> list[Path]:
        """The files on disk."""
        return [part for file in self._files() for part in parts_of(file)]

    def check_ready(self) -> None:
        """Raises InputError where the target exists, whose questions may have cost money.

        Raises MissingExtraError where answers cannot be checked.
        """
        language_of("")
        if Path(self.target).exists():
            raise InputError(f"{self.target} exists already: remove it or choose another name")

    def part(self, shard: Shard, folder: Path) -> None:
        """Asks about the articles of a part and writes its rows and report.

        Raises EndpointError where articles are left without an answer; those of the others stay in
        the journal.
        """
        self.check_ready()
        with self.journal(shard) as journal:
            troubles = wait_for(self._ask_all(shard, journal))
            report = Report()
            write_part(folder / ROWS, self._rows(shard, journal, troubles, report))
        (folder / REPORT).write_text(json.dumps(report.to_json()))

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Writes the rows of all parts in the order of the articles, each question once."""
        report = Report()
        for folder in folders:
            report.take(json.loads((folder / REPORT).read_text()))
        write_rows(Path(self.target), _distinct(folders, report))
        return report.to_json()

    def journal(self, shard: Shard) -> Journal:
        """The answers of a part so far; raises InputError as Journal does."""
        return Journal(self.journal_path(shard), settings(self))

    def journal_path(self, shard: Shard) -> Path:
        """Where they lie: beside the part, which appears only when whole."""
        return parts_folder(Path(self.target)) / f"{shard.folder}.answers.jsonl"

    def tasks(self, shard: Shard, left_out: Counter[str] | None = None) -> Iterator[Task]:
        """What a part is to ask, in the order of the articles; counts the texts that are none."""
        counter: Counter[str] = Counter() if left_out is None else left_out
        for article in articles(self._files(), self.picking, counter):
            # an article is cheap to read and dear to ask about: neighbours go to different parts
            if shard.has(article.number * BLOCK):
                lang = article.lang or language_of(article.paragraph)
                yield Task(article, lang, prompt_of(self.prompt, article, lang))

    def messages(self, task: Task, answers: Sequence[Answer] = ()) -> list[Message]:
        """What the model is to be asked next, given the answers it gave, all of them refused."""
        out = [{"role": "user", "content": task.prompt}]
        refused = self.outcome(task, answers).refused
        for answer, (reason, _) in zip(answers, refused, strict=True):
            out.append({"role": "assistant", "content": answer.text})
            out.append({"role": "user", "content": again(REASONS[reason])})
        return out

    def outcome(self, task: Task, answers: Sequence[Answer]) -> Outcome:
        """What the answers so far make of an article."""
        return outcome_of(task.article, task.lang, answers, self.limits, self.tries)

    def _files(self) -> list[Path]:
        return [file for source in self.files for file in files_of(Path(source))]

    async def _ask_all(self, shard: Shard, journal: Journal) -> dict[str, EndpointError]:
        """Asks until every article is settled; returns those without an answer, by key."""
        if self.endpoint is None:
            raise InputError("no endpoint to ask: give its address")
        endpoint = _share(self.endpoint, shard)
        todo = self.tasks(shard)
        tell = None if self.progress is None else self.progress.tell
        async with Client(endpoint, tell=tell) as client:
            run = _Run(self, client, journal)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(endpoint.concurrency):
                        group.create_task(run.work(todo))
            except BaseExceptionGroup as errors:
                raise run.told(first_of(errors)) from errors
        if run.failed and not self.skip_failed:
            last = list(run.failed.values())[-1]
            raise run.told(
                EndpointError(
                    f"{len(run.failed):,} of {run.settled:,} articles got no answer: {last}"
                ),
                " (or give --skip-failed to leave them out)",
            )
        return run.failed | run.rejected

    def _rows(
        self,
        shard: Shard,
        journal: Journal,
        troubles: dict[str, EndpointError],
        report: Report,
    ) -> Iterator[tuple[int, Row]]:
        """The rows of a part, numbered; fills the report."""
        for task in self.tasks(shard, report.left_out):
            article = task.article
            answers = journal.answers.get(task.key, [])
            outcome = self.outcome(task, answers)
            report.add(article, outcome, answers)
            if outcome.question is not None:
                report.kept += 1
                row = {"query": outcome.question, "pos": [article.text], "neg": []}
                row |= {"lang": task.lang, "source": article.source}
                yield article.number, {**row, "paragraph": article.paragraph}
            elif outcome.done:
                report.dropped += 1
            elif isinstance(trouble := troubles[task.key], RejectedError):
                report.rejected += 1
                report.example("rejected", article.number, str(trouble))
            else:
                report.failed += 1
                report.example("failed", article.number, str(trouble))


class _Run:
    """The state that the workers of a part share."""

    def __init__(self, job: Synthesis, client: Client, journal: Journal) -> None:
        self.failed: dict[str, EndpointError] = {}
        self.rejected: dict[str, EndpointError] = {}
        self.settled = 0
        self._job, self._client, self._journal = job, client, journal
        self._answers = 0
        self._in_a_row = 0  # articles without an answer

    async def work(self, todo: Iterator[Task]) -> None:
        """Settles one article after another; all workers take from the same iterator."""
        for task in todo:
            try:
                await self._settle(task)
            except AccessError:
                raise
            except EndpointError as error:
                failures = self.rejected if isinstance(error, RejectedError) else self.failed
                failures[task.key] = error
                self._in_a_row += 1
                if self._in_a_row >= GIVE_UP:
                    raise EndpointError(
                        f"{self._in_a_row} articles in a row got no answer: {error}"
                    ) from error
            self.settled += 1
            self._show()
            await asyncio.sleep(0)  # reading on must not keep answers waiting

    async def _settle(self, task: Task) -> None:
        job, answers = self._job, list(self._journal.answers.get(task.key, []))
        while not job.outcome(task, answers).done:
            seed = _seed(job.seed, task.key, len(answers))
            answer = await ask(self._client, job.asking, job.messages(task, answers), seed)
            self._journal.add(task.key, answer)
            answers.append(answer)
            self._answers += 1
            self._in_a_row = 0
            self._show()

    def _show(self) -> None:
        if self._job.progress is not None:
            self._job.progress.show(self.settled, self._answers)

    def told(self, error: BaseException, more: str = "") -> BaseException:
        """An endpoint's failure, with what is safe and how to go on."""
        kept = sum(map(len, self._journal.answers.values()))
        if not isinstance(error, EndpointError) or not (kept or more):
            return error
        return type(error)(
            f"{error}; {kept:,} answers are kept in {self._journal.path}: give the same command "
            f"again to go on{more}"
        )


def _share(endpoint: Endpoint, shard: Shard) -> Endpoint:
    """An endpoint whose limits a minute are a part's share of those for all."""
    limits = {
        name: value / shard.count
        for name in ("requests_per_minute", "tokens_per_minute")
        if (value := getattr(endpoint, name)) is not None
    }
    return replace(endpoint, **limits)


def _seed(seed: int, key: str, attempt: int) -> int:
    """A seed of 31 bits, another one for each try: with the same a bad answer might come back."""
    drawn = hashlib.blake2b(f"{seed}/{key}/{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(drawn, "big") >> 1


def _distinct(folders: Sequence[Path], report: Report) -> Iterator[Row]:
    """The rows of all parts in order, without questions that came before."""
    seen: set[int] = set()
    for number, row in part_rows([folder / ROWS for folder in folders]):
        key = text_key(row["query"])
        if key in seen:
            report.kept -= 1
            report.duplicates += 1
            report.example("duplicate", number, row["query"])
            continue
        seen.add(key)
        report.languages[row["lang"]] += 1
        yield row
