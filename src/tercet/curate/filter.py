"""The work of `tercet data filter`: drops rows that should not be trained on, and says why.

Each step is a check that takes rows and gives what it has against them. Parts of the rows go
through the steps that look at a row by itself, block by block; when all parts are there, rows that
repeat others are dropped. A part is a folder:

    lines.jsonl     the rows that are left, as they will be written
    rows.bin        for each of them ROW: where it came from, where its line is, its key
    band-NN.bin     for each of them a hash of 64 bits: rows that share one are candidates
    dropped.jsonl   what was dropped, if that is asked for, by place
    tally.json      what was counted

The memory of a part does not grow with the number of rows. Knows nothing of how parts are run.
"""

import contextlib
import fcntl
import hashlib
import heapq
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from tercet.config import Role
from tercet.curate.decontamination import (
    CHARACTERS,
    PASSAGES,
    WORDS,
    MinOverlap,
    OverlapIndex,
    Passages,
    evaluation_files,
    read_evaluation,
)
from tercet.curate.language import SURE, Languages, are_kin, languages_of
from tercet.curate.near_duplicates import (
    bands_for,
    bands_of,
    exact_repeats,
    key_of,
    minhash_version,
    near_repeats,
)
from tercet.curate.quality import (
    Normalized,
    Wrong,
    check_boilerplate,
    check_encoding,
    check_letters,
)
from tercet.curate.shards import BLOCK, NUMBER, Shard, file_digest, part_rows, parts_folder
from tercet.errors import InputError
from tercet.io import atomic_folder
from tercet.rows import (
    Row,
    check_row,
    files_of,
    line_of,
    numbered_rows,
    parts_of,
    write_lines,
    write_rows,
)
from tercet.scorers import Pair, Scorer, scorer_of, scores_of

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
EXAMPLES, SHOWN = 3, 160  # of each step; characters of a text in one

LINES, ROWS, DROPPED, COUNTS = "lines.jsonl", "rows.bin", "dropped.jsonl", "tally.json"
ROW = np.dtype([("place", "<i8"), ("start", "<i8"), ("size", "<i8"), ("key", "<u8")])
_LINE_BITS = 40  # of a place that are the line; the others are its file


@dataclass(frozen=True)
class FilterJob:
    """Steps run in the order of STEPS; the first that objects to a row is the reason told."""

    name: ClassVar[str] = "filter"

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
    scorer: str | None = None  # "module:function"; None: the dense score of a model
    scorer_options: Mapping[str, Any] | None = None  # given: the function makes the scorer of them
    near: float = NEAR

    def __post_init__(self) -> None:
        """Raises InputError for what does not fit together."""
        for step in self.steps:
            if step not in STEPS:
                raise InputError(f"unknown step {step!r}: choose from {', '.join(STEPS)}")
        for name in ("query_length", "passage_length"):
            least, most = getattr(self, name)
            if not 0 <= least <= most:
                raise InputError(f"the {name.replace('_', ' ')} {least}-{most} is no range")
        for name, floor in (("letters", 0), ("sure", 0), ("near", LEAST_NEAR)):
            if not floor <= getattr(self, name) <= 1:
                raise InputError(
                    f"{name} must lie between {floor} and 1, got {getattr(self, name)}"
                )
        if self.passages not in PASSAGES:
            raise InputError(f"passages {self.passages!r}: choose from {', '.join(PASSAGES)}")
        if self.min_score is None and self.scorer is not None:
            raise InputError("a scorer needs a least score")
        if not self.target.endswith((".jsonl", ".jsonl.gz")):
            raise InputError(f"{self.target}: the result must end in .jsonl or .jsonl.gz")
        _ = self.least_overlap

    @property
    def least_overlap(self) -> MinOverlap:
        """How long a stretch shared with an evaluation set must be."""
        return MinOverlap(self.shared_words, self.shared_characters)

    def has(self, step: str) -> bool:
        """Whether a step runs."""
        needs = {"evaluation": bool(self.against), "relevance": self.min_score is not None}
        return step == "fields" or (step in self.steps and needs.get(step, True))

    def inputs(self) -> list[Path]:
        """The files of rows and of evaluation sets."""
        rows = [part for path in self._files() for part in parts_of(path)]
        return [*rows, *(path for one in self.against for path in evaluation_files(Path(one)))]

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes the part's rows that its own steps leave, and what tells them from others."""
        counts = Counts()
        steps = _steps(self, counts)
        with contextlib.closing(_Part(self, folder, counts)) as part:
            items = _items(self._files(), shard)
            while block := list(islice(items, BLOCK)):
                part.add(block, steps)
        if self.has("near"):
            counts.minhash = minhash_version()
        (folder / COUNTS).write_text(json.dumps(counts, default=vars))

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Drops repeats among all rows, writes the result; returns the report."""
        files = self._files()
        counts = Counts.sum(json.loads((folder / COUNTS).read_text()) for folder in folders)
        with contextlib.closing(_KeptRows(folders)) as rows:
            repeats = self._repeats(rows, counts, files)
            left = np.ones(len(rows), dtype=np.bool_)
            left[[repeat.number for repeat in repeats]] = False
            counts.kept = int(left.sum())
            if not counts.kept:
                raise InputError(_nothing_left(counts, files))
            numbers = np.flatnonzero(left).tolist()
            write_lines(Path(self.target), map(rows.line, numbers))
            if self.dropped is not None:
                by_steps = part_rows(folder / DROPPED for folder in folders)
                by_repeats = _dropped_repeats(rows, repeats, files)
                entries = heapq.merge(by_steps, by_repeats, key=lambda pair: pair[0])
                write_rows(Path(self.dropped), (entry for _, entry in entries))
        return self._report(counts, files)

    def _files(self) -> list[Path]:
        """The files of rows; raises InputError where one is not there or is the result."""
        files = [path for source in self.sources for path in files_of(Path(source))]
        targets = {os.path.abspath(self.target), os.path.abspath(self.dropped or self.target)}
        for path in files:
            if os.path.abspath(path) in targets:
                raise InputError(f"{path} is read and would be written: give another --to")
        return files

    def _repeats(
        self, rows: "_KeptRows", counts: "Counts", files: Sequence[Path]
    ) -> list["_Repeat"]:
        """Rows that repeat an earlier one, by number; counts them."""
        repeats: list[_Repeat] = []

        def add(number: int, step: Step, alike: str, first: int) -> None:
            file, line = _where(int(rows.places[first]), files)
            repeats.append(_Repeat(number, step, f"{alike} {file}:{line}"))

        standing: npt.NDArray[np.int64] = np.arange(len(rows))
        if self.has("exact"):
            counts.step("exact")
            first = exact_repeats(rows.keys)
            for number in np.flatnonzero(first >= 0).tolist():
                add(number, "exact", "the same as", int(first[number]))
            standing = np.flatnonzero(first < 0)
        if self.has("near"):
            counts.step("near")
            bands = map(rows.band, range(bands_for(self.near)))
            near = near_repeats(rows.texts, bands, standing, self.near)
            for number, (other, similarity) in near.items():
                add(number, "near", f"{similarity:.2f} alike to", other)
        repeats.sort()
        for repeat in repeats:
            step = counts.step(repeat.step)
            step.rows += 1
            if len(step.examples) < EXAMPLES:
                place, text = int(rows.places[repeat.number]), rows.texts(repeat.number)[0]
                step.add_example(place, repeat.reason, text)
        return repeats

    def _report(self, counts: "Counts", files: Sequence[Path]) -> dict[str, Any]:
        steps: dict[str, Any] = {}
        for name in filter(self.has, STEPS):
            step = counts.step(name)
            for example in step.examples:
                example["file"], example["line"] = _where(example.pop("place"), files)
            steps[name] = {**vars(step), "groups": _by_count(step.groups)}
        report = {"to": self.target, "rows": counts.rows, "kept": counts.kept, "steps": steps}
        if self.has("language"):
            report["languages_written"] = _by_count(counts.written)
            report["languages_unknown"] = _by_count(counts.unknown)
        if self.has("relevance"):
            report["scores"] = _quantiles(counts.scores)
        return report


def _where(place: int, files: Sequence[Path]) -> tuple[str, int]:
    """File and line of a place."""
    return str(files[place >> _LINE_BITS]), place & ((1 << _LINE_BITS) - 1)


def _dropped_entry(
    step: str, reason: str, file: str, line: int, row: Row | None, *, positives: bool = False
) -> Row:
    """A line of the file of what was dropped; with positives, they alone left the row."""
    what = "positives" if positives else "row"
    entry: Row = {"step": step, "dropped": what, "reason": reason, "file": file, "line": line}
    return entry if row is None else {**entry, "row": row}


def _dropped_repeats(
    rows: "_KeptRows", repeats: Sequence["_Repeat"], files: Sequence[Path]
) -> Iterator[tuple[int, Row]]:
    for repeat in repeats:
        place, row = int(rows.places[repeat.number]), json.loads(rows.line(repeat.number))
        yield place, _dropped_entry(repeat.step, repeat.reason, *_where(place, files), row)


def _nothing_left(counts: "Counts", files: Sequence[Path]) -> str:
    if not counts.rows:
        return f"no rows in {', '.join(map(str, files))}: nothing to filter"
    steps = ", ".join(f"{name} {step.rows}" for name, step in counts.steps.items() if step.rows)
    message = f"no row is left of {counts.rows}: {steps}"
    examples = [example for step in counts.steps.values() for example in step.examples]
    if examples:
        first = min(examples, key=lambda example: example["place"])
        file, line = _where(first["place"], files)
        message += f"; the first is {file}:{line}: {first['reason']}"
    return message


# What was counted


@dataclass
class StepCounts:
    """What one step dropped."""

    rows: int = 0
    positives: int = 0  # taken out of rows that stay
    groups: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)  # the first few by place

    def add_example(self, place: int, reason: str, text: str) -> None:
        """Keeps the first few; the text's beginning, in one line."""
        if len(self.examples) < EXAMPLES:
            line = " ".join(text[: 2 * SHOWN].split())
            line = line if len(line) < SHOWN else line[: SHOWN - 1] + "…"
            self.examples.append({"place": place, "reason": reason, "text": line})


@dataclass
class Counts:
    """What all steps dropped and did."""

    rows: int = 0
    kept: int = 0
    steps: dict[str, StepCounts] = field(default_factory=dict)
    written: Counter[str] = field(default_factory=Counter)  # languages put into rows
    unknown: Counter[str] = field(default_factory=Counter)  # tags that could not be judged
    scores: Counter[str] = field(default_factory=Counter)  # to 2 decimals, as text: JSON's keys
    minhash: int | None = None  # version of what made the bands

    def step(self, name: str) -> StepCounts:
        """The counts of a step."""
        return self.steps.setdefault(name, StepCounts())

    @staticmethod
    def sum(parts: Iterable[Mapping[str, Any]]) -> "Counts":
        """All together; raises InputError where bands of parts are not comparable."""
        total, versions = Counts(), set()
        for part in parts:
            versions.add(part.get("minhash"))
            total.rows += part["rows"]
            total.kept += part["kept"]
            for name in ("written", "unknown", "scores"):
                getattr(total, name).update(part[name])
            for name, of_part in part["steps"].items():
                step = total.step(name)
                step.rows += of_part["rows"]
                step.positives += of_part["positives"]
                step.groups.update(of_part["groups"])
                examples = step.examples + of_part["examples"]
                step.examples = sorted(examples, key=lambda one: one["place"])[:EXAMPLES]
        if len(versions) > 1:
            raise InputError(
                "the parts were made with different versions of rensa: make them again with one"
            )
        return total


def _by_count(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda pair: (-pair[1], pair[0])))


def _quantiles(scores: Mapping[str, int]) -> dict[str, float]:
    """Scores that 1%, 5%, 25%, 50% and 75% of the pairs do not reach."""
    if not scores:
        return {}
    values, counts = zip(*sorted((float(score), n) for score, n in scores.items()), strict=True)
    passed = np.cumsum(counts)
    return {
        f"{percent}%": values[int(np.argmax(passed * 100 >= percent * passed[-1]))]
        for percent in (1, 5, 25, 50, 75)
    }


# Parts


@dataclass
class Item:
    """A row while steps look at it: texts[0] is the query, or a raw text; then its positives."""

    place: int  # file and line in one number, rising through all files
    where: str  # file:line
    row: Row | None
    texts: list[str]
    lang: str = ""
    problem: str = ""  # why it is no row
    positives: list[int] = field(init=False)  # those that are left, numbers in texts

    def __post_init__(self) -> None:
        self.positives = list(range(1, len(self.texts)))

    @property
    def raw(self) -> bool:
        """Whether it is a text alone."""
        return len(self.texts) == 1

    def sides(self, *, query: bool = True) -> list[tuple[int, str]]:
        """Texts that are left, with their numbers: a raw text, or positives and maybe the query."""
        first = [0] if query or self.raw else []
        return [(at, self.texts[at]) for at in first + self.positives]

    def called(self, at: int) -> str:
        """What a text is called in a reason."""
        return "text" if self.raw else "positive" if at else "query"

    def finish(self) -> Row | None:
        """The row, with the positives that are left and their scores."""
        if self.row is None or self.raw or len(self.positives) == len(self.texts) - 1:
            return self.row
        row = dict(self.row)
        for name in ("pos", "pos_scores"):
            if isinstance(values := row.get(name), list):
                row[name] = [values[at - 1] for at in self.positives]
        return row


class Objection(NamedTuple):
    """What a step has against a row, or against one of its positives."""

    item: Item
    at: int  # number in texts; 0: the whole row
    reason: str
    group: str = ""  # what the step counts by: a language, an evaluation set


Check = Callable[[Sequence[Item]], Iterator[Objection]]


def _items(files: Sequence[Path], shard: Shard) -> Iterator[Item]:
    """The lines of a part, those too that are no rows."""
    unit = 0
    for number, file in enumerate(files):
        for line, row, problem in _lines(file):
            unit += 1
            if not shard.has(unit - 1):
                continue
            place, where = number << _LINE_BITS | line, f"{file}:{line}"
            try:
                if row is None:
                    raise InputError(problem)
                record = check_row(row, where)
            except InputError as error:
                text = "" if row is None else json.dumps(row, default=str)
                problem = str(error).removeprefix(f"{where}: ")
                yield Item(place, where, row, [text], problem=problem)
            else:
                yield Item(place, where, row, [record.query, *record.pos], record.lang)


def _lines(file: Path) -> Iterator[tuple[int, Row | None, str]]:
    """Line, row and, where there is none, the problem, in the order of the file."""
    problems: list[InputError] = []

    def pending() -> Iterator[tuple[int, None, str]]:
        for problem in problems:
            line, _, reason = str(problem).removeprefix(f"{file}:").partition(": ")
            yield int(line), None, reason
        problems.clear()

    for line, row in numbered_rows(file, skip=problems.append):
        yield from pending()
        yield line, row, ""
    yield from pending()


class _Part:
    """The files of a part while they are written."""

    def __init__(self, job: FilterJob, folder: Path, counts: Counts) -> None:
        self._counts = counts
        self._stack = contextlib.ExitStack()
        self._lines, self._rows = self._open(folder / LINES), self._open(folder / ROWS)
        bands = bands_for(job.near) if job.has("near") else 0
        self._bands = [self._open(folder / _band_name(band)) for band in range(bands)]
        self._dropped = self._open(folder / DROPPED) if job.dropped is not None else None
        self._size = 0  # bytes of lines
        # dropped rows of a block, by place: a step drops what an earlier one left standing
        self._waiting: list[tuple[int, Row]] = []

    def _open(self, path: Path) -> Any:
        return self._stack.enter_context(path.open("wb"))

    def close(self) -> None:
        """Closes the files."""
        self._stack.close()

    def add(self, items: Sequence[Item], steps: Iterable[tuple[Step, Check]]) -> None:
        """Puts a block of rows through the steps and writes what is left."""
        self._counts.rows += len(items)
        for name, check in steps:
            gone = self._drop(name, check(items))
            items = [item for item in items if item.place not in gone]
        self._keep(items)
        if self._dropped is not None:
            self._waiting.sort(key=lambda pair: pair[0])
            entries = ({NUMBER: place, **entry} for place, entry in self._waiting)
            self._dropped.writelines(map(line_of, entries))
        self._waiting.clear()

    def _drop(self, name: Step, objections: Iterable[Objection]) -> set[int]:
        """Takes positives out of rows; returns the places of the rows that go altogether."""
        counts = self._counts.step(name)
        gone: set[int] = set()
        by_place: dict[int, list[Objection]] = {}
        for objection in objections:
            by_place.setdefault(objection.item.place, []).append(objection)
        for place, found in sorted(by_place.items()):
            item, first = found[0].item, found[0]
            taken = {objection.at for objection in found}
            whole = 0 in taken or taken.issuperset(item.positives)
            if whole:
                first = next((one for one in found if one.at == 0), first)
                gone.add(place)
                counts.rows += 1
                row = item.finish()
            else:
                counts.positives += len(taken)
                row = {"query": item.texts[0], "pos": [item.texts[at] for at in sorted(taken)]}
                item.positives = [at for at in item.positives if at not in taken]
            counts.groups.update([first.group] if first.group else [])
            counts.add_example(place, first.reason, item.texts[first.at])
            file, _, line = item.where.rpartition(":")
            entry = _dropped_entry(name, first.reason, file, int(line), row, positives=not whole)
            self._waiting.append((place, entry))
        return gone

    def _keep(self, items: Sequence[Item]) -> None:
        if not items:
            return
        self._counts.kept += len(items)
        texts = [[text for _, text in item.sides()] for item in items]
        lines = [line_of(item.finish() or {}) for item in items]
        rows = np.zeros(len(items), dtype=ROW)
        rows["place"] = [item.place for item in items]
        rows["size"] = [len(line) for line in lines]
        rows["start"] = self._size + np.cumsum(rows["size"]) - rows["size"]
        rows["key"] = np.array([key_of(of_row) for of_row in texts], dtype=np.uint64)
        self._lines.writelines(lines)
        self._size += int(rows["size"].sum())
        self._rows.write(rows.tobytes())
        if self._bands:
            columns = bands_of(texts, len(self._bands)).T
            for file, column in zip(self._bands, columns, strict=True):
                file.write(column.astype("<u8").tobytes())


def _band_name(band: int) -> str:
    return f"band-{band:02d}.bin"


class _Repeat(NamedTuple):
    """A row that repeats an earlier one."""

    number: int  # of the rows that all parts kept
    step: Step
    reason: str


class _KeptRows:
    """The rows that all parts kept, by number 0 to N - 1 in the order of the whole."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        tables = [np.fromfile(folder / ROWS, dtype=ROW) for folder in folders]
        table = np.concatenate(tables)
        self._order = np.argsort(table["place"], kind="stable")
        self._table = table[self._order]
        self.places: npt.NDArray[np.int64] = self._table["place"]
        self.keys: npt.NDArray[np.uint64] = self._table["key"]
        parts = np.repeat(np.arange(len(tables), dtype=np.int32), [len(one) for one in tables])
        self._part = parts[self._order]
        self._stack = contextlib.ExitStack()
        self._files = [
            self._stack.enter_context((folder / LINES).open("rb", buffering=0))
            for folder in folders
        ]

    def __len__(self) -> int:
        return len(self._table)

    def close(self) -> None:
        """Closes the files."""
        self._stack.close()

    def line(self, number: int) -> bytes:
        """The row as JSON."""
        row, file = self._table[number], self._files[self._part[number]]
        return os.pread(file.fileno(), int(row["size"]), int(row["start"]))

    def texts(self, number: int) -> list[str]:
        """The query and the positives of a row, or its raw text."""
        row = json.loads(self.line(number))
        return [row["query"], *row["pos"]] if row.get("pos") else [row["text"]]

    def band(self, band: int) -> npt.NDArray[np.uint64]:
        """(N,) the hashes of one band."""
        hashes = [np.fromfile(folder / _band_name(band), dtype="<u8") for folder in self._folders]
        return np.concatenate(hashes)[self._order]


# Steps that look at a row by itself


def _steps(job: FilterJob, counts: Counts) -> list[tuple[Step, Check]]:
    """Those that run, in their order; raises MissingExtraError where one cannot."""
    make: dict[Step, Callable[[], Check]] = {
        "fields": lambda: _check_fields,
        "encoding": lambda: partial(_check_texts, check_encoding),
        "length": lambda: partial(_check_lengths, job),
        "letters": lambda: partial(_check_texts, partial(check_letters, least=job.letters)),
        "boilerplate": lambda: partial(_check_texts, check_boilerplate, query=False),
        "same": lambda: _check_same,
        "language": lambda: _LanguageCheck(_languages(job.sure), counts),
        "evaluation": lambda: partial(_check_overlap, _overlap_index(job)),
        "relevance": lambda: partial(_check_scores, _scorer(job), job.min_score or 0.0, counts),
    }
    return [(name, make[name]()) for name in STEPS if name in make and job.has(name)]


def _check_fields(items: Sequence[Item]) -> Iterator[Objection]:
    return (Objection(item, 0, item.problem) for item in items if item.problem)


def _check_texts(
    check: Callable[[Sequence[str]], Sequence[Wrong]], items: Sequence[Item], *, query: bool = True
) -> Iterator[Objection]:
    """Texts by themselves: passages, raw texts and maybe queries."""
    texts = [(item, at, text) for item in items for at, text in item.sides(query=query)]
    wrong = check([text for _, _, text in texts])
    for (item, at, _), reason in zip(texts, wrong, strict=True):
        if reason is not None:
            yield Objection(item, at, f"{item.called(at)}: {reason}")


def _check_lengths(job: FilterJob, items: Sequence[Item]) -> Iterator[Objection]:
    for item in items:
        for at, text in item.sides():
            called, length = item.called(at), len(text.strip())
            least, most = job.query_length if called == "query" else job.passage_length
            if not least <= length <= most:
                limit = f"less than {least}" if length < least else f"more than {most}"
                yield Objection(item, at, f"{called}: {length} characters, {limit}")


def _check_same(items: Sequence[Item]) -> Iterator[Objection]:
    """Positives that say the query again, but for case and punctuation."""
    pairs = [(item, at) for item in items for at in item.positives]
    texts = [item.texts[0] for item, _ in pairs] + [item.texts[at] for item, at in pairs]
    normalized = Normalized.of(texts, symbols=True)
    for number, (item, at) in enumerate(pairs):
        query, positive = normalized.text(number), normalized.text(len(pairs) + number)
        if len(query) and np.array_equal(query, positive):
            yield Objection(item, at, "the positive is the query")


@lru_cache(maxsize=1)
def _languages(sure: float) -> Languages:
    """The identifier, read once in a process."""
    return Languages(sure)


class _LanguageCheck:
    """Rows in another language than they say; rows that say none get one."""

    def __init__(self, languages: Languages, counts: Counts) -> None:
        self._languages, self._counts = languages, counts
        self._readings: dict[str, list[tuple[str, str]]] = {}  # of tags; none: all unknown

    def __call__(self, items: Sequence[Item]) -> Iterator[Objection]:
        for item in items:
            if item.lang.strip():
                yield from self._check(item)
            else:
                self._write(item)

    def _check(self, item: Item) -> Iterator[Objection]:
        if item.lang not in self._readings:
            readings = languages_of(item.lang)
            known = any(self._languages.name_of(tag) for pair in readings for tag in pair)
            self._readings[item.lang] = readings if known else []
        readings = [pair for pair in self._readings[item.lang] if not item.raw or len({*pair}) == 1]
        if not readings:
            self._counts.unknown[item.lang] += 1
            return
        first: Objection | None = None
        for of_query, of_passages in readings:
            against = list(self._against(item, of_query, of_passages))
            if not any(one.at == 0 for one in against) and (
                len(against) < max(1, len(item.positives))
            ):
                yield from against  # this reading leaves something
                return
            first = first or against[0]
        if first is not None:
            yield first._replace(at=0)

    def _against(self, item: Item, of_query: str, of_passages: str) -> Iterator[Objection]:
        for at, text in item.sides():
            tag = of_passages if at else of_query
            other = self._languages.against(text, tag)
            if other is not None:
                reason = f"{item.called(at)}: {other}, not {tag}"
                yield Objection(item, at, reason, f"{item.lang}: {other}")

    def _write(self, item: Item) -> None:
        query, *passages = [self._languages.find(text) for _, text in item.sides()[:2]]
        passage = passages[0] if passages else query
        lang = passage or query
        if lang is None or item.row is None:
            return
        if query and passage and not are_kin(query, passage):
            lang = f"{query}-{passage}"
        item.row = {**item.row, "lang": lang}
        self._counts.written[lang] += 1


def _check_overlap(index: OverlapIndex, items: Sequence[Item]) -> Iterator[Objection]:
    """Texts that are shared with an evaluation set."""
    texts = [(item, at, text) for item in items for at, text in item.sides()]
    overlaps = index.find([text for _, _, text in texts])
    for (item, at, _), overlap in zip(texts, overlaps, strict=True):
        if overlap is not None:
            how, file = "is" if overlap.whole else "shares", Path(overlap.where).name
            reason = f"{item.called(at)} {how} {overlap.shared[:80]!r} ({overlap.name}/{file})"
            yield Objection(item, at, reason, overlap.name)


def _overlap_index(job: FilterJob) -> OverlapIndex:
    """The index of the evaluation sets, made once for all parts of this machine.

    It lies beside the parts, in a folder named for the bytes that it was made of.
    """
    sources, least = [Path(source) for source in job.against], job.least_overlap
    digests = {str(path): file_digest(path) for one in sources for path in evaluation_files(one)}
    facts = json.dumps([digests, job.passages, least.words, least.characters])
    name = f"evaluation-{hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()}"
    parts = parts_folder(Path(job.target))
    parts.mkdir(parents=True, exist_ok=True)
    folder = parts / name
    with (parts / f".{name}.lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: several make the same
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            texts = (
                text for one in sources for text in read_evaluation(one, passages=job.passages)
            )
            try:
                with atomic_folder(folder) as scratch:
                    OverlapIndex.build(texts, least, scratch)
            except OSError:
                if not folder.is_dir():  # else another part was quicker
                    raise
    return OverlapIndex(folder)


def _check_scores(
    scorer: Scorer, least: float, counts: Counts, items: Sequence[Item]
) -> Iterator[Objection]:
    """Positives that score less with their query."""
    pairs = [(item, at) for item in items for at in item.positives]
    texts = [(item.texts[0], item.texts[at]) for item, at in pairs]
    scores = scores_of(scorer, texts, [item.where for item, _ in pairs])
    for (item, at), score in zip(pairs, scores, strict=True):
        counts.scores[f"{score:.2f}"] += 1
        if score < least:
            yield Objection(item, at, f"scores {score:.3f}")


def _scorer(job: FilterJob) -> Scorer:
    if job.scorer is None:
        return encoder_scorer(**(job.scorer_options or {}))
    return scorer_of(job.scorer, job.scorer_options)


def encoder_scorer(
    model: str | None = None,
    revision: str | None = None,
    device: str | None = None,
    max_length: int = 512,
) -> Scorer:
    """The dense score of pairs by a model; the beginning of a long text shows what it is about."""
    from tercet.encoder import Encoder

    logging.getLogger("tercet").setLevel(logging.ERROR)  # of texts that are cut
    encoder = Encoder.load(model, revision=revision, device=device)

    def encode(texts: Sequence[str], role: Role) -> Any:
        """(P, D) one for each text; a text that comes again is encoded once."""
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = encoder.encode(list(numbers), heads=("dense",), max_length=max_length, role=role)
        return np.asarray(vectors.dense)[[numbers[text] for text in texts]]

    def score(pairs: list[Pair]) -> Sequence[float]:
        queries, passages = zip(*pairs, strict=True)
        scores: Sequence[float] = np.einsum(
            "pd,pd->p", encode(queries, "query"), encode(passages, "passage")
        ).tolist()
        return scores

    return score
