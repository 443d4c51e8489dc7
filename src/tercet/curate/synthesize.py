"""Long articles to training rows {question, whole article}, the question by a language model.

MultiLongDoc (M3 paper, appendix): a long article, a paragraph of it at random, one question on it.
A part (1) asks until each of its articles has a question or no tries left, every answer going to a
journal beside the part, then (2) writes what became of each from the journal alone: so rows do not
depend on the order in which answers came, and a killed run goes on without asking twice. What makes
an answer good is in `synthesize_checks`; how requests are sent, in `endpoint`.
"""

import asyncio
import fcntl
import hashlib
import json
import os
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from tercet.curate.shards import (
    BLOCK,
    FREE,
    Shard,
    by_count,
    part_rows,
    parts_folder,
    settings,
    write_part,
)
from tercet.curate.synthesize_checks import (
    BYTES_A_TOKEN,
    REASONS,
    clean,
    estimate_tokens,
    is_prose,
    language_of,
    refusal_reason,
    single,
)
from tercet.documents.chunks import borders
from tercet.endpoint import (
    MOST_TOKENS,
    AccessError,
    Client,
    Endpoint,
    EndpointError,
    RejectedError,
    wait_for,
)
from tercet.errors import InputError
from tercet.rows import (
    Row,
    check_name,
    check_row,
    files_of,
    numbered_rows,
    parts_of,
    passage_text,
    stem_of,
    write_rows,
)
from tercet.split import text_key

# The idea is the paper's (a specific, self-contained question on a paragraph), the words are ours.
PROMPT = """\
Here is a paragraph from a longer text. Write one question that somebody could ask and that this \
paragraph answers.

Rules:
- Write in {language}.
- Be specific: ask for one fact, reason, number, name, condition or method that the paragraph gives.
- The question must stand on its own. Whoever reads it sees neither the paragraph nor the text, so \
name the people, things, places and rules that it is about. Never write "it", "he", "they" or \
"this" for something that the question has not named, and never mention a paragraph, passage, \
text, article, document or author.
- Use your own words; do not copy a sentence.
- One sentence that ends as a question, at most 40 words.

Answer with the question alone: nothing before or after it, no quotation marks.

Title of the longer text: {title}

Paragraph:
{paragraph}
"""
AGAIN = (
    "That cannot be used: {problem}. Write another question on the same paragraph, by the same "
    "rules. Answer with the question alone."
)
# English names of the languages with the most text; the others are called by their code.
LANGUAGES = dict(
    entry.split("=")
    for entry in """
    ar=Arabic bg=Bulgarian bn=Bengali ca=Catalan cs=Czech da=Danish de=German el=Greek en=English
    es=Spanish et=Estonian fa=Persian fi=Finnish fr=French he=Hebrew hi=Hindi hr=Croatian
    hu=Hungarian hy=Armenian id=Indonesian it=Italian ja=Japanese ka=Georgian ko=Korean
    lt=Lithuanian lv=Latvian ms=Malay nl=Dutch no=Norwegian pl=Polish pt=Portuguese ro=Romanian
    ru=Russian sk=Slovak sl=Slovenian sr=Serbian sv=Swedish sw=Swahili ta=Tamil te=Telugu th=Thai
    tr=Turkish uk=Ukrainian ur=Urdu vi=Vietnamese yo=Yoruba zh=Chinese
    """.split()
)
# M3 reads 8,192 tokens: questions on what lies far beyond teach it nothing.
LONGEST_REACH = 1 << 15
ROLE_TOKENS = 8  # around a message, about: templates differ
ANSWER_TOKENS = 30  # of a question, about; a model that thinks aloud takes more
RETRY_TOKENS = 60  # of what is said to a refused answer, about
NO_COMPLETION = "the endpoint's answer is no completion: is it OpenAI-compatible?"
GIVE_UP = 10  # articles in a row without an answer: then something is wrong with all
EXAMPLES = 3  # of each reason in a report; prompts in an estimate
# What becomes of articles. dropped: no answer was good enough; rejected: the endpoint refused to
# read the prompt; failed: no answer came; duplicates: of a question before.
FATES = ("kept", "dropped", "rejected", "failed", "duplicates")
RECORDS, LEFT_OUT = "articles.jsonl.gz", "left_out.json"  # files of a part

Message = dict[str, str]


@dataclass(frozen=True)
class Task:
    """A long article, a paragraph of it, and what the model is told about that."""

    number: int  # of the article among those taken, from 0
    text: str  # the whole: title, line break, text
    lang: str  # as the row says, or as the paragraph shows; may be empty
    source: str
    paragraph: str
    prompt: str
    key: str  # in the journal: another article, title, paragraph or prompt has another


@dataclass(frozen=True)
class Answer:
    """What a model said, word for word, and what it took."""

    text: str
    finish: str | None  # "stop", "length", "content_filter" and so on
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Outcome:
    """What the answers so far make of an article: its question, or reason and text of each."""

    question: str | None
    refused: list[tuple[str, str]]
    done: bool  # whether nothing more is to be asked


@dataclass(frozen=True)
class Synthesis:
    """Questions on the long articles of files, by a language model; sizes by `estimate_tokens`.

    Raises InputError on values that cannot be.
    """

    name: ClassVar[str] = "synthesize"

    target: str
    files: tuple[str, ...]
    model: str
    prompt: str = PROMPT  # with {paragraph}, and maybe {language} and {title}
    temperature: float = 0.7
    max_tokens: int = 512  # of an answer, thinking included
    body: dict[str, Any] = field(default_factory=dict)  # more fields of a request; null: leave out
    shortest: int = 1000  # article
    reach: int = 8192  # the paragraph comes from so much of the article's start: what M3 reads
    paragraph: tuple[int, int] = (60, 500)
    question: tuple[int, int] = (5, 150)
    limit: int | None = None  # take so many articles, the first ones
    seed: int = 0
    tries: int = 3  # answers for one article, refused ones counted
    # A moved server or a slower pace makes no other rows.
    endpoint: Endpoint | None = field(default=None, metadata=FREE)
    skip_failed: bool = field(default=False, metadata=FREE)  # leave out what got no answer
    # Articles settled so far, answers that came; and why it waits.
    show: Callable[[int, int], None] | None = field(default=None, metadata=FREE, compare=False)
    tell: Callable[[str], None] | None = field(default=None, metadata=FREE, compare=False)

    def __post_init__(self) -> None:
        check_prompt(self.prompt, "the prompt")
        fixed = ", ".join(sorted({"messages", "n", "stream"} & self.body.keys()))
        counts = [self.tries, self.max_tokens, 1 if self.limit is None else self.limit]
        reach = f"{self.paragraph[1]} (a paragraph) to {LONGEST_REACH}"
        checks = {
            f"a paragraph has FROM-TO tokens, got {self.paragraph}": _is_range(self.paragraph),
            f"a question has FROM-TO tokens, got {self.question}": _is_range(self.question),
            f"the reach lies in {reach} tokens, got {self.reach}": (
                self.paragraph[1] <= self.reach <= LONGEST_REACH
            ),
            f"tries, max_tokens and limit count from 1, got {counts}": min(counts) >= 1,
            f"the temperature lies in 0 to 2, got {self.temperature}": 0 <= self.temperature <= 2,
            "the model needs a name, as the endpoint lists it": self.model.strip() != "",
            f"{fixed} cannot be set: one answer is read whole": fixed == "",
        }
        for message, holds in checks.items():
            if not holds:
                raise InputError(message)

    def inputs(self) -> list[Path]:
        return [part for file in self._files() for part in parts_of(file)]

    def check_ready(self) -> None:
        """Raises InputError for a wrong target: one that exists may have cost money.

        Raises MissingExtraError where answers cannot be checked.
        """
        check_name(self.target)
        language_of("")
        if Path(self.target).exists():
            raise InputError(f"{self.target} exists already: remove it or choose another name")

    def part(self, shard: Shard, folder: Path) -> None:
        """Asks about the articles of a part and writes what became of each.

        Raises EndpointError where articles are left without an answer; those of the others stay in
        the journal.
        """
        self.check_ready()
        left_out: Counter[str] = Counter()
        with self.journal(shard) as journal:
            failures = wait_for(self._ask_all(shard, journal))  # 1
            write_part(folder / RECORDS, self._records(shard, journal, failures, left_out))  # 2
        (folder / LEFT_OUT).write_text(json.dumps(left_out))

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Writes the rows of all parts in the order of the articles, each question once."""
        left_out = Counter(json.loads((folders[0] / LEFT_OUT).read_text()))  # the same in all parts
        report: dict[str, Any] = {}
        records = part_rows([folder / RECORDS for folder in folders])
        write_rows(Path(self.target), _rows_and_report(records, report))
        return report | {"left_out": dict(sorted(left_out.items()))}

    def journal(self, shard: Shard) -> AbstractContextManager["Journal"]:
        """The answers of a part so far; raises InputError as open_journal does."""
        return open_journal(self.journal_path(shard), settings(self))

    def journal_path(self, shard: Shard) -> Path:
        """Where they lie: beside the part, which appears only when whole."""
        return parts_folder(Path(self.target)) / f"{shard.folder}.answers.jsonl"

    def tasks(self, shard: Shard, left_out: Counter[str] | None = None) -> Iterator[Task]:
        """What a part is to ask, in the order of the articles.

        Counts the texts that it leaves out, by reason. A row is {"text"} or {"query", "pos"}, whose
        positives are the articles; "title", "lang" and "source" are kept. Raises InputError naming
        file and line.
        """
        left_out = Counter() if left_out is None else left_out
        seen: set[int] = set()
        number = 0
        for title, text, lang, source in self._texts():
            key = text_key(text)
            if estimate_tokens(text) < self.shortest:
                left_out["too short"] += 1
                continue
            if key in seen:
                left_out["seen before"] += 1
                continue
            seen.add(key)
            paragraph = self._pick(text, key)
            if paragraph is None:
                left_out["no paragraph of prose"] += 1
                continue
            # an article is cheap to read and dear to ask about: neighbours go to different parts
            if shard.has(number * BLOCK):
                lang = lang or language_of(paragraph)
                prompt = fill_prompt(self.prompt, paragraph, title, lang)
                digest = _hash(f"{key}\0{prompt}", 12).hex()
                yield Task(
                    number, passage_text(title, text), lang, source, paragraph, prompt, digest
                )
            number += 1
            if number == self.limit:
                return

    def messages(
        self, task: Task, answers: Sequence[Answer] = (), refused: Sequence[tuple[str, str]] = ()
    ) -> list[Message]:
        """What the model is to be asked next, given its answers and why each is refused."""
        messages = [{"role": "user", "content": task.prompt}]
        for answer, (reason, _) in zip(answers, refused, strict=True):
            messages.append({"role": "assistant", "content": answer.text})
            messages.append({"role": "user", "content": AGAIN.format(problem=REASONS[reason])})
        return messages

    def outcome(self, task: Task, answers: Sequence[Answer]) -> Outcome:
        """The first answer that is a question to keep; after `tries` answers there is none.

        It follows from the answers alone, so that a run that goes on sees what the one before saw.
        """
        refused: list[tuple[str, str]] = []
        for answer in answers[: self.tries]:
            question = clean(answer.text)
            reason = refusal_reason(
                question,
                finish=answer.finish,
                paragraph=task.paragraph,
                article=task.text,
                lang=task.lang,
                length=self.question,
            )
            if reason is None:
                return Outcome(question, refused, done=True)
            refused.append((reason, question))
        return Outcome(None, refused, done=len(refused) == self.tries)

    def _files(self) -> list[Path]:
        return [file for source in self.files for file in files_of(Path(source))]

    def _texts(self) -> Iterator[tuple[str, str, str, str]]:
        """Title, text, language and source of each article."""
        for file in self._files():
            for line, row in numbered_rows(file):
                where = f"{file}:{line}"
                record, title = check_row(row, where), row.get("title") or ""
                if not isinstance(title, str):
                    raise InputError(f"{where}: 'title' must be a string, got {title!r:.40}")
                source = record.source or stem_of(file)
                if record.raw:
                    yield title.strip(), record.query, record.lang, source
                else:
                    yield from (("", text, single(record.lang), source) for text in record.pos)

    def _pick(self, text: str, key: int) -> str | None:
        """A paragraph of prose, every one as likely as another; None where there is none."""
        encoded = text.encode("utf-8", "replace")
        start = encoded[: self.reach * BYTES_A_TOKEN].decode("utf-8", "ignore")
        parts = list(_paragraphs(start, *self.paragraph))
        if len(start) < len(text) and len(parts) > 1:
            parts.pop()  # may end in the middle of a sentence
        order = sorted(range(len(parts)), key=lambda place: _hash(f"{self.seed}/{key}/{place}", 8))
        return next((parts[place] for place in order if is_prose(parts[place])), None)

    async def _ask_all(self, shard: Shard, journal: "Journal") -> dict[str, EndpointError]:
        """Asks until every article is settled; returns the failures of those left out, by key."""
        if self.endpoint is None:
            raise InputError("no endpoint to ask: give its address")
        endpoint, tasks = self.endpoint.share(shard.count), self.tasks(shard)
        failures: dict[str, EndpointError] = {}
        settled = failed_in_a_row = answered = 0

        async def work(client: Client) -> None:  # all workers take from the same iterator
            nonlocal settled, failed_in_a_row, answered
            for task in tasks:
                try:
                    await self._settle(task, client, journal)
                except AccessError:
                    raise
                except EndpointError as error:
                    failures[task.key] = error
                    failed_in_a_row = failed_in_a_row + 1 if journal.added == answered else 1
                    answered = journal.added
                    if failed_in_a_row == GIVE_UP:
                        message = f"{GIVE_UP} articles in a row got no answer: {error}"
                        raise EndpointError(message) from error
                settled += 1
                if self.show is not None:
                    self.show(settled, journal.added)
                await asyncio.sleep(0)  # reading on must not keep answers waiting

        async with Client(endpoint, tell=self.tell) as client:
            try:
                await asyncio.gather(*(work(client) for _ in range(endpoint.concurrency)))
            except EndpointError as error:
                raise journal.explain(error) from error
        failed = [e for e in failures.values() if not isinstance(e, RejectedError)]
        if failed and not self.skip_failed:
            what = f"{len(failed):,} of {settled:,} articles got no answer: {failed[-1]}"
            advice = " (or give --skip-failed to leave them out)"
            raise journal.explain(EndpointError(what), advice)
        return failures

    async def _settle(self, task: Task, client: Client, journal: "Journal") -> None:
        """Asks until an article has its question or no tries left."""
        while True:
            answers = journal.answers.get(task.key, [])
            outcome = self.outcome(task, answers)
            if outcome.done:
                return
            messages = self.messages(task, answers, outcome.refused)
            # with the same seed a bad answer might come back
            seed = int.from_bytes(_hash(f"{self.seed}/{task.key}/{len(answers)}", 4), "big") >> 1
            body = {
                "model": self.model,
                "messages": messages,
                "temperature": self.temperature,
                "max_tokens": self.max_tokens,
                "seed": seed,
                **self.body,
            }
            body = {name: value for name, value in body.items() if value is not None}
            size = message_tokens(messages)
            reply = await client.post("chat/completions", body, tokens=size + ANSWER_TOKENS)
            with client.endpoint.reading(NO_COMPLETION, reply):
                answer = parse_reply(reply, size)
            journal.add(task.key, answer)

    def _records(
        self,
        shard: Shard,
        journal: "Journal",
        failures: dict[str, EndpointError],
        left_out: Counter[str],
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """What became of each article of a part, by its number."""
        for task in self.tasks(shard, left_out):
            answers = journal.answers.get(task.key, [])
            outcome = self.outcome(task, answers)
            row: Row = {"query": outcome.question, "pos": [task.text], "neg": []}
            row |= {"lang": task.lang, "source": task.source, "paragraph": task.paragraph}
            record = {
                "fate": "dropped" if outcome.question is None else "kept",
                "row": None if outcome.question is None else row,
                "refused": outcome.refused,
                "answers": len(answers),
                "tokens_in": sum(answer.tokens_in for answer in answers),
                "tokens_out": sum(answer.tokens_out for answer in answers),
            }
            if not outcome.done:
                failure = failures[task.key]
                record["fate"] = "rejected" if isinstance(failure, RejectedError) else "failed"
                record["failure"] = str(failure)
            yield task.number, record


def _paragraphs(text: str, low: int, high: int) -> Iterator[str]:
    """Parts of a text of `low` to `high` tokens: paragraphs, else lines, else sentences, in order.

    A part has as few of them as reach `low`. Sentences that are too long are left out.
    """
    kinds = borders(text, phrases=True)
    start = 0
    while start < len(text):
        for ends in kinds:
            parts = ((end, text[start:end].strip()) for end in ends[bisect(ends, start) :])
            end, part = next((pair for pair in parts if estimate_tokens(pair[1]) >= low), (0, ""))
            if low <= estimate_tokens(part) <= high:
                yield part
                break
        else:
            end = next(iter(kinds[-1][bisect(kinds[-1], start) :]), len(text))
        start = end


def check_prompt(template: str, where: str) -> None:
    """Raises InputError where a template lacks {paragraph} or has what cannot be filled in."""
    try:
        without_paragraph = "\0" not in template.format(paragraph="\0", language="", title="")
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputError(
            f"{where}: it cannot be filled in ({error}): there are {{paragraph}}, {{language}} and "
            "{title}; write a brace as {{ or }}"
        ) from error
    if without_paragraph:
        raise InputError(f"{where}: {{paragraph}} is missing: without it there is nothing to ask")


def fill_prompt(template: str, paragraph: str, title: str, lang: str) -> str:
    """The prompt on a paragraph, in the language with a code, or the paragraph's."""
    unnamed = "the language of the paragraph" + (f" (code {lang})" if lang else "")
    language = LANGUAGES.get(lang.partition("-")[0].lower(), unnamed)
    return template.format(paragraph=paragraph, title=title or "(none)", language=language)


def _is_range(tokens: tuple[int, int]) -> bool:
    return 1 <= tokens[0] < tokens[1]


def _hash(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=size).digest()


def message_tokens(messages: Sequence[Message]) -> int:
    """About how many tokens a conversation takes."""
    return sum(estimate_tokens(message["content"]) + ROLE_TOKENS for message in messages)


def parse_reply(reply: Any, expected: int) -> Answer:
    """The first choice of a reply; without text it is empty.

    expected: tokens of the prompt, where the reply does not say how many it read. Raises ValueError
    and the like on other JSON.
    """
    choice = (reply["choices"] or [{}])[0]
    text = (choice.get("message") or {}).get("content") or ""
    usage, written = reply.get("usage") or {}, estimate_tokens(text)
    finish = choice.get("finish_reason")
    if not isinstance(finish, str | None):
        raise TypeError("finish_reason is no string")
    counts = [usage.get("prompt_tokens") or expected, usage.get("completion_tokens") or written]
    tokens_in, tokens_out = (int(count) for count in counts)
    if not 0 <= min(tokens_in, tokens_out) <= max(tokens_in, tokens_out) <= MOST_TOKENS:
        raise ValueError("the usage is no number of tokens")
    return Answer(text, finish, tokens_in, tokens_out)


class Journal:
    """What a model has answered so far, by the key of the task; see open_journal."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self.answers: dict[str, list[Answer]] = {}
        self.added = 0

    def add(self, key: str, answer: Answer) -> None:
        """Appends an answer; when this returns it outlives the process."""
        self.write({"key": key, **asdict(answer)})
        self.answers.setdefault(key, []).append(answer)
        self.added += 1

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def read(self) -> dict[str, Any]:
        """Takes the answers in and returns the settings; a torn end is cut off."""
        lines = [line for line in self._file if line.endswith(b"\n")]
        found: dict[str, Any] = {}
        for number, line in enumerate(lines, 1):
            try:
                fields = json.loads(line)
                if number == 1:
                    found = dict(fields["settings"])
                else:
                    self.answers.setdefault(fields.pop("key"), []).append(Answer(**fields))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{self.path}:{number}: no line of a journal: remove the line"
                ) from error
        self._file.truncate(sum(map(len, lines)) if self.answers else 0)  # else nothing to lose
        return found

    def explain(self, error: EndpointError, advice: str = "") -> EndpointError:
        """An endpoint's failure, with what is safe and how to go on."""
        count = sum(map(len, self.answers.values()))
        if not count and not advice:
            return error
        return type(error)(
            f"{error}; {count:,} answers are kept in {self.path}: give the same command again to "
            f"go on{advice}"
        )


@contextmanager
def open_journal(path: Path, settings: dict[str, Any]) -> Iterator[Journal]:
    """The journal of a run for the time of the block.

    JSON lines: the settings of the run, then the answers in the order they came, each with the key
    of its task. A last line that was torn when a run was killed is cut off. Raises InputError where
    the journal is of other settings, damaged, or written by another process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{path}: another process writes here: wait for it") from error
        file.seek(0)
        journal = Journal(path, file)
        before = journal.read()
        if not journal.answers:
            journal.write({"settings": settings})
        elif before != settings:
            changed = [
                name
                for group in ("options", "inputs")
                for name, value in settings[group].items()
                if before[group].get(name) != value
            ]
            raise InputError(
                f"{path} has the answers of a run with other settings ({', '.join(changed)}): "
                "give those of before to go on with it, or remove it to start anew"
            )
        try:
            yield journal
        finally:
            os.fsync(file.fileno())


def _rows_and_report(
    records: Iterable[tuple[int, dict[str, Any]]], report: dict[str, Any]
) -> Iterator[Row]:
    """The rows of all parts in order, each question once; the report is filled at the end."""
    counts, refused, languages = Counter[str](), Counter[str](), Counter[str]()
    # by reason: number of an article, what was said
    examples: dict[str, list[tuple[int, str]]] = {}
    seen: set[int] = set()
    for number, record in records:
        row, fate, notes = record["row"], record["fate"], record["refused"]
        refused.update(reason for reason, _ in notes)
        if row is not None and (key := text_key(row["query"])) in seen:
            fate = "duplicates"
            notes.append(("duplicate", row["query"]))
        elif row is not None:
            seen.add(key)
        if "failure" in record:
            notes.append((fate, record["failure"]))
        for reason, text in notes:
            if len(examples.setdefault(reason, [])) < EXAMPLES:
                examples[reason].append((number, text))
        counts.update({"articles": 1, fate: 1})
        counts.update({name: record[name] for name in ("answers", "tokens_in", "tokens_out")})
        if fate == "kept":
            languages[row["lang"]] += 1
            yield row
    names = ("articles", *FATES, "answers", "tokens_in", "tokens_out")
    report |= {name: counts[name] for name in names}
    report["refused"] = {name: refused[name] for name in REASONS if refused[name]}
    report["languages"] = by_count(languages)
    report["examples"] = dict(sorted(examples.items()))


def estimate(
    job: Synthesis,
    shard: Shard,
    *,
    cut: Sequence[Shard] = (),
    show: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """What a part, or the whole, would ask: as it goes if every first answer is good, and at most.

    cut: the parts whose journals have the answers so far, if it is not that part. Raises InputError
    where an input cannot be read or a journal is of other settings.
    """
    answers: dict[str, list[Answer]] = {}
    for part in cut or [shard]:
        if job.journal_path(part).exists():
            with job.journal(part) as journal:
                answers.update(journal.answers)
    counts = dict.fromkeys(
        "articles settled requests tokens_in tokens_out most_requests most_tokens_in "
        "most_tokens_out".split(),
        0,
    )
    left_out, languages, prompts = Counter[str](), Counter[str](), list[str]()
    for task in job.tasks(shard, left_out):
        counts["articles"] += 1
        if show is not None:
            show(counts["articles"])
        languages[task.lang] += 1
        prompts += [task.prompt] if len(prompts) < EXAMPLES else []
        given = answers.get(task.key, [])
        outcome = job.outcome(task, given)
        if outcome.done:
            counts["settled"] += 1
            continue
        size = message_tokens(job.messages(task, given, outcome.refused))
        left = job.tries - len(given)
        counts["requests"] += 1
        counts["tokens_in"] += size
        counts["tokens_out"] += ANSWER_TOKENS
        counts["most_requests"] += left  # retries of failed requests aside
        counts["most_tokens_out"] += left * job.max_tokens
        # each try repeats what was said before it
        repeated = (left * (left - 1) // 2) * (job.max_tokens + ROLE_TOKENS + RETRY_TOKENS)
        counts["most_tokens_in"] += left * size + repeated
    return {
        **counts,
        "left_out": dict(sorted(left_out.items())),
        "languages": by_count(languages),
        "prompts": prompts,
    }
