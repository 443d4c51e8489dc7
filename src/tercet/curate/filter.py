"""Drops rows that should not be trained on, and says why: the work of `tercet data filter`.

    1. each part puts its rows through the checks that look at a row by itself, block by block
    2. of the rows that all parts leave, those that repeat an earlier one are dropped

A part is a folder:

    lines.jsonl     the rows that are left, as they will be written
    rows.bin        of each, `row_type`: its place, where its line lies, its key and its bands
    dropped.jsonl   what was dropped and why, by place
    sums.json       what else was counted

The memory of a part does not grow with the number of rows. Knows nothing of how parts are run.
"""

import fcntl
import hashlib
import heapq
import json
import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from tercet.config import Role
from tercet.curate.decontamination import (
    MinOverlap,
    OverlapIndex,
    Passages,
    evaluation_files,
    read_evaluation,
)
from tercet.curate.near_duplicates import (
    bands_for,
    bands_of,
    exact_repeats,
    key_of,
    minhash,
    near_repeats,
)
from tercet.curate.quality import Normalized, check_boilerplate, check_encoding, check_letters
from tercet.curate.shards import (
    BLOCK,
    NUMBER,
    Shard,
    by_count,
    file_digest,
    part_rows,
    parts_folder,
)
from tercet.documents.language import SURE, Languages, are_kin, languages_of
from tercet.errors import InputError
from tercet.io import atomic_folder
from tercet.rows import (
    Row,
    check_name,
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

LINES, ROWS, DROPPED, SUMS = "lines.jsonl", "rows.bin", "dropped.jsonl", "sums.json"
_LINE_BITS = 40  # of a place that are the line; the others are its file

# rows, languages that were written or unknown, scores to 2 decimals, versions of MinHash
Sums = defaultdict[str, Counter[str]]


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
    shared_words: int = MinOverlap.words
    shared_characters: int = MinOverlap.characters
    min_score: float | None = None
    scorer: str | None = None  # "module:function"; None: the dense score of a model
    scorer_options: Mapping[str, Any] | None = None  # given: the function makes the scorer of them
    near: float = NEAR

    def __post_init__(self) -> None:
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
        if self.passages not in get_args(Passages):
            choices = ", ".join(get_args(Passages))
            raise InputError(f"passages {self.passages!r}: choose from {choices}")
        if self.min_score is None and self.scorer is not None:
            raise InputError("a scorer needs a least score")
        check_name(self.target)
        if self.dropped is not None:
            check_name(self.dropped)
            if os.path.abspath(self.dropped) == os.path.abspath(self.target):
                raise InputError(f"{self.dropped} is the result: name another file for the dropped")
        MinOverlap(self.shared_words, self.shared_characters)

    def has(self, step: str) -> bool:
        needs = {"evaluation": bool(self.against), "relevance": self.min_score is not None}
        return step == "fields" or (step in self.steps and needs.get(step, True))

    @property
    def bands(self) -> int:
        """Hashes of a row that tell which others are nearly the same."""
        return bands_for(self.near) if self.has("near") else 0

    def inputs(self) -> list[Path]:
        rows = [part for path in self._files() for part in parts_of(path)]
        return [*rows, *(path for one in self.against for path in evaluation_files(Path(one)))]

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes the part's rows that its own steps leave, and what tells them from others."""
        sums: Sums = defaultdict(Counter)
        checks, files, size = _checks(self, sums), self._files(), 0
        if self.bands:
            sums["minhash"][str(minhash().ALGORITHM_VERSION)] = 1
        items = _items(files, shard)
        with (
            open(folder / LINES, "wb") as lines,
            open(folder / ROWS, "wb") as table,
            open(folder / DROPPED, "wb") as dropped,
        ):
            while block := list(islice(items, BLOCK)):
                sums["rows"]["read"] += len(block)
                entries: list[Row] = []
                for step, check in checks:
                    entries += _drop(step, check(block), files)
                    block = [item for item in block if not item.gone]
                if self.dropped is None:
                    entries = [{**entry, "row": None} for entry in entries]
                dropped.writelines(map(line_of, sorted(entries, key=itemgetter(NUMBER))))
                texts = [[item.texts[at] for at in item.left()] for item in block]
                encoded = [line_of(item.finish()) for item in block]
                rows = np.zeros(len(block), dtype=row_type(self.bands))
                rows["place"] = [item.place for item in block]
                rows["size"] = [len(line) for line in encoded]
                rows["start"] = size + np.cumsum(rows["size"]) - rows["size"]
                rows["key"] = [key_of(of_row) for of_row in texts]
                if self.bands:
                    rows["bands"] = bands_of(texts, self.bands)
                lines.writelines(encoded)
                table.write(rows.tobytes())
                size += int(rows["size"].sum())
        (folder / SUMS).write_text(json.dumps(sums))

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Drops repeats among all rows, writes the result; returns the report."""
        files, rows = self._files(), LeftRows(folders, self.bands)
        repeats = self._repeats(rows, files)

        def by_repeats() -> Iterator[tuple[int, Row]]:
            for number, (step, reason) in sorted(repeats.items()):
                entry = _entry(rows.places[number], files, step, reason, row=rows.row(number))
                yield entry.pop(NUMBER), entry

        by_checks = part_rows(folder / DROPPED for folder in folders)
        steps: dict[str, Any] = {
            step: {"rows": 0, "positives": 0, "groups": Counter(), "examples": []}
            for step in STEPS
            if self.has(step)
        }
        entries = _counted(heapq.merge(by_checks, by_repeats(), key=itemgetter(0)), steps)
        if self.dropped is None:
            deque(entries, maxlen=0)
        else:
            write_rows(Path(self.dropped), entries)
        left = np.ones(len(rows.places), dtype=np.bool_)
        left[list(repeats)] = False
        sums = _sums_of(folders)
        if not left.any():
            raise InputError(_nothing_left(sums["rows"]["read"], steps, files))
        kept = write_lines(Path(self.target), map(rows.line, np.flatnonzero(left).tolist()))
        for step in steps.values():
            step["groups"] = by_count(step["groups"])
        report = {"to": self.target, "rows": sums["rows"]["read"], "kept": kept, "steps": steps}
        if self.has("language"):
            report["languages_written"] = by_count(sums["written"])
            report["languages_unknown"] = by_count(sums["unknown"])
        if self.has("relevance"):
            report["scores"] = _quantiles(sums["scores"])
        return report

    def _files(self) -> list[Path]:
        """The files of rows; raises InputError where one is not there or is the result."""
        files = [path for source in self.sources for path in files_of(Path(source))]
        targets = {os.path.abspath(path) for path in (self.target, self.dropped) if path}
        for path in files:
            if os.path.abspath(path) in targets:
                raise InputError(f"{path} is read and would be written: give another --to")
        return files

    def _repeats(self, rows: "LeftRows", files: Sequence[Path]) -> dict[int, tuple[Step, str]]:
        """Of rows that repeat an earlier one, by number, the step that says so and the reason."""
        repeats: dict[int, tuple[Step, str]] = {}
        standing = np.arange(len(rows.places))
        if self.has("exact"):
            first = exact_repeats(rows.keys)
            standing = np.flatnonzero(first < 0)
            for number in np.flatnonzero(first >= 0).tolist():
                repeats[number] = "exact", f"the same as {rows.where(first[number], files)}"
        if self.bands:
            near = near_repeats(rows.texts, map(rows.band, range(self.bands)), standing, self.near)
            for number, (other, similarity) in near.items():
                where = rows.where(other, files)
                repeats[number] = "near", f"{similarity:.2f} alike to {where}"
        return repeats


# What was dropped


def _where(place: int, files: Sequence[Path]) -> tuple[str, int]:
    return str(files[place >> _LINE_BITS]), int(place & ((1 << _LINE_BITS) - 1))


def _entry(
    place: int,
    files: Sequence[Path],
    step: Step,
    reason: str,
    *,
    row: Row | None,
    text: str | None = None,
    group: str = "",
    positives: int = 0,
) -> Row:
    """A line of the file of what was dropped, and what is counted of it.

    positives: how many alone left the row. text: what was objected to; None: the row's first.
    """
    if text is None:
        text = (row or {}).get("query") or (row or {}).get("text") or ""
    shown = " ".join(text[: 2 * SHOWN].split())
    shown = shown if len(shown) < SHOWN else shown[: SHOWN - 1] + "…"
    what = "positives" if positives else "row"
    file, line = _where(place, files)
    entry = {"step": step, "dropped": what, "reason": reason, "file": file, "line": line}
    return {NUMBER: int(place), **entry, "row": row, "counted": (shown, group, positives)}


def _counted(entries: Iterable[tuple[int, Row]], steps: Mapping[str, Any]) -> Iterator[Row]:
    """What is written of entries; counts them by step, and takes the first as examples."""
    for _, entry in entries:
        text, group, positives = entry.pop("counted")
        step = steps[entry["step"]]
        step["positives" if positives else "rows"] += positives or 1
        step["groups"].update([group] if group else [])
        if len(step["examples"]) < EXAMPLES:
            place = {"file": entry["file"], "line": entry["line"]}
            step["examples"].append({"reason": entry["reason"], "text": text, **place})
        yield {name: value for name, value in entry.items() if value is not None}


def _nothing_left(rows: int, steps: Mapping[str, Any], files: Sequence[Path]) -> str:
    if not rows:
        return f"no rows in {', '.join(map(str, files))}: nothing to filter"
    dropped = ", ".join(f"{name} {step['rows']}" for name, step in steps.items() if step["rows"])
    first = next(example for step in steps.values() for example in step["examples"])
    where = f"{first['file']}:{first['line']}"
    return f"no row is left of {rows}: {dropped}; the first is {where}: {first['reason']}"


def _sums_of(folders: Sequence[Path]) -> Sums:
    """The sums of all parts; raises InputError where their bands are not comparable."""
    sums: Sums = defaultdict(Counter)
    for folder in folders:
        for name, counter in json.loads((folder / SUMS).read_text()).items():
            sums[name].update(counter)
    if len(sums["minhash"]) > 1:
        raise InputError(
            "the parts were made with different versions of rensa: make them again with one"
        )
    return sums


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


# Rows that are read, and rows that are left


@dataclass
class Item:
    """A row while steps look at it: texts[0] is the query, or a raw text; then its positives."""

    place: int  # file and line in one number, rising through all files
    where: str  # file:line
    row: Row | None
    texts: list[str]
    lang: str = ""
    problem: str = ""  # why it is no row
    gone: bool = False
    positives: list[int] = field(init=False)  # those that are left, numbers in texts

    def __post_init__(self) -> None:
        self.positives = list(range(1, len(self.texts)))

    @property
    def raw(self) -> bool:
        return len(self.texts) == 1

    def left(self, *, query: bool = True) -> list[int]:
        """Numbers of the texts that are left: a raw text, or positives and maybe the query."""
        return [0, *self.positives] if query or self.raw else self.positives

    def called(self, at: int) -> str:
        return "text" if self.raw else "positive" if at else "query"

    def finish(self) -> Row:
        """The row, with the positives that are left and their scores."""
        row = dict(self.row or {})
        if len(self.positives) < len(self.texts) - 1:
            for name in ("pos", "pos_scores"):
                if isinstance(values := row.get(name), list):
                    row[name] = [values[at - 1] for at in self.positives]
        return row


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
    rows = numbered_rows(file, skip=problems.append)
    for line, row in chain(rows, [(0, None)]):  # after the last row there may be problems
        for problem in problems:
            number, _, reason = str(problem).removeprefix(f"{file}:").partition(": ")
            yield int(number), None, reason
        problems.clear()
        if row is not None:
            yield line, row, ""


def row_type(bands: int) -> np.dtype[Any]:
    """An entry of rows.bin; two rows that share one of so many bands are candidates."""
    fields = [("place", "<i8"), ("start", "<i8"), ("size", "<i8"), ("key", "<u8")]
    return np.dtype([*fields, ("bands", "<u8", (bands,))])


class LeftRows:
    """The rows that all parts left, by number 0 to N - 1 in the order of the whole."""

    def __init__(self, folders: Sequence[Path], bands: int) -> None:
        self._lines = [_mapped(folder / LINES, np.dtype("u1")) for folder in folders]
        self._tables = [_mapped(folder / ROWS, row_type(bands)) for folder in folders]
        columns = {
            name: np.concatenate([table[name] for table in self._tables])
            for name in ("place", "start", "size", "key")
        }
        self._order = np.argsort(columns["place"], kind="stable")
        self.places, self._starts, self._sizes, self.keys = (
            column[self._order] for column in columns.values()
        )
        sizes = [len(table) for table in self._tables]
        self._parts = np.repeat(np.arange(len(folders), dtype=np.int32), sizes)[self._order]

    def band(self, band: int) -> npt.NDArray[np.uint64]:
        """(N,) the hashes of one band."""
        return np.concatenate([table["bands"][:, band] for table in self._tables])[self._order]

    def line(self, number: int) -> bytes:
        start, lines = self._starts[number], self._lines[self._parts[number]]
        return bytes(lines[start : start + self._sizes[number]])

    def row(self, number: int) -> Row:
        row: Row = json.loads(self.line(number))
        return row

    def texts(self, number: int) -> list[str]:
        """The query and the positives of a row, or its raw text."""
        row = self.row(number)
        return [row["query"], *row["pos"]] if row.get("pos") else [row["text"]]

    def where(self, number: int, files: Sequence[Path]) -> str:
        file, line = _where(int(self.places[number]), files)
        return f"{file}:{line}"


def _mapped(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The entries of a file, mapped into memory, but for an empty file, which cannot be."""
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r").view(np.ndarray)  # np.memmap itself is slow to slice


# Steps that look at a row by itself


class Objection(NamedTuple):
    """What a step has against a row, or against one of its positives."""

    item: Item
    at: int  # number in texts; 0: the whole row
    reason: str
    group: str = ""  # what the step counts by: a language, an evaluation set


Check = Callable[[Sequence[Item]], Iterable[Objection]]


def _checks(job: FilterJob, sums: Sums) -> list[tuple[Step, Check]]:
    """Those that run, in their order; raises MissingExtraError where one cannot."""
    checks: list[tuple[Step, Callable[[], Check]]] = [
        ("fields", lambda: _check_fields),
        ("encoding", lambda: partial(_check_texts, check_encoding)),
        ("length", lambda: partial(_check_lengths, job)),
        ("letters", lambda: partial(_check_texts, partial(check_letters, least=job.letters))),
        ("boilerplate", lambda: partial(_check_texts, check_boilerplate, query=False)),
        ("same", lambda: _check_same),
        ("language", lambda: partial(_check_languages, Languages(job.sure), sums)),
        ("evaluation", lambda: partial(_check_overlap, _overlap_index(job))),
        ("relevance", lambda: partial(_check_scores, _scorer(job), job.min_score or 0.0, sums)),
    ]
    return [(step, make()) for step, make in checks if job.has(step)]


def _drop(step: Step, objections: Iterable[Objection], files: Sequence[Path]) -> Iterator[Row]:
    """Takes positives out of rows, or marks rows as gone; yields the entries of both."""
    by_place: dict[int, list[Objection]] = {}
    for objection in objections:
        by_place.setdefault(objection.item.place, []).append(objection)
    for place, against in by_place.items():
        item, first = against[0].item, against[0]
        taken = {objection.at for objection in against}
        item.gone = 0 in taken or taken.issuperset(item.positives)
        row: Row | None
        if item.gone:
            first = next((objection for objection in against if objection.at == 0), first)
            row = item.finish() if item.row is not None else None
        else:
            row = {"query": item.texts[0], "pos": [item.texts[at] for at in sorted(taken)]}
            item.positives = [at for at in item.positives if at not in taken]
        yield _entry(
            place,
            files,
            step,
            first.reason,
            row=row,
            text=item.texts[first.at],
            group=first.group,
            positives=0 if item.gone else len(taken),
        )


def _check_fields(items: Sequence[Item]) -> Iterator[Objection]:
    return (Objection(item, 0, item.problem) for item in items if item.problem)


def _texts(
    items: Sequence[Item], *, query: bool = True
) -> tuple[list[tuple[Item, int]], list[str]]:
    """Texts that are left and their owners: passages, raw texts and maybe queries."""
    owners = [(item, at) for item in items for at in item.left(query=query)]
    return owners, [item.texts[at] for item, at in owners]


def _check_texts(
    check: Callable[[Sequence[str]], Sequence[str | None]],
    items: Sequence[Item],
    *,
    query: bool = True,
) -> Iterator[Objection]:
    owners, texts = _texts(items, query=query)
    for (item, at), reason in zip(owners, check(texts), strict=True):
        if reason is not None:
            yield Objection(item, at, f"{item.called(at)}: {reason}")


def _check_lengths(job: FilterJob, items: Sequence[Item]) -> Iterator[Objection]:
    for (item, at), text in zip(*_texts(items), strict=True):
        called, length = item.called(at), len(text.strip())
        least, most = job.query_length if called == "query" else job.passage_length
        if not least <= length <= most:
            limit = f"less than {least}" if length < least else f"more than {most}"
            yield Objection(item, at, f"{called}: {length} characters, {limit}")


def _check_same(items: Sequence[Item]) -> Iterator[Objection]:
    """Positives that say the query again, but for case and punctuation."""
    pairs = [(item, at) for item in items for at in item.positives]
    queries = Normalized.of([item.texts[0] for item, _ in pairs], symbols=True)
    positives = Normalized.of([item.texts[at] for item, at in pairs], symbols=True)
    for number, (item, at) in enumerate(pairs):
        query = queries.text(number)
        if len(query) and np.array_equal(query, positives.text(number)):
            yield Objection(item, at, "the positive is the query")


def _check_languages(
    languages: Languages, sums: Sums, items: Sequence[Item]
) -> Iterator[Objection]:
    """Rows in another language than they say; rows that say none get one."""
    for item in items:
        if not item.lang.strip():
            if lang := _language_of(languages, item):
                item.row = {**(item.row or {}), "lang": lang}
                sums["written"][lang] += 1
            continue
        readings = languages_of(item.lang)
        known = any(languages.name_of(tag) for pair in readings for tag in pair)
        readings = [pair for pair in readings if known and (not item.raw or len({*pair}) == 1)]
        if not readings:
            sums["unknown"][item.lang] += 1
            continue
        every = [list(_against(languages, item, *reading)) for reading in readings]
        for against in every:
            taken = {objection.at for objection in against}
            if 0 not in taken and not (against and taken.issuperset(item.positives)):
                yield from against  # this reading leaves something
                break
        else:
            yield every[0][0]._replace(at=0)


def _against(
    languages: Languages, item: Item, of_query: str, of_passages: str
) -> Iterator[Objection]:
    """Texts that are in another language than a reading of the tag says."""
    for at in item.left():
        tag = of_passages if at else of_query
        if (other := languages.against(item.texts[at], tag)) is not None:
            reason = f"{item.called(at)}: {other}, not {tag}"
            yield Objection(item, at, reason, f"{item.lang}: {other}")


def _language_of(languages: Languages, item: Item) -> str | None:
    """The language of a row, or those of its query and its first positive, as in "de-en"."""
    query, *passages = [languages.find(item.texts[at]) for at in item.left()[:2]]
    passage = passages[0] if passages else query
    if query and passage and not are_kin(query, passage):
        return f"{query}-{passage}"
    return passage or query


def _check_overlap(index: OverlapIndex, items: Sequence[Item]) -> Iterator[Objection]:
    owners, texts = _texts(items)
    for (item, at), overlap in zip(owners, index.find(texts), strict=True):
        if overlap is not None:
            how, file = "is" if overlap.whole else "shares", Path(overlap.where).name
            reason = f"{item.called(at)} {how} {overlap.shared[:80]!r} ({overlap.name}/{file})"
            yield Objection(item, at, reason, overlap.name)


def _overlap_index(job: FilterJob) -> OverlapIndex:
    """The index of the evaluation sets, made once for all parts of this machine.

    It lies beside the parts, in a folder named for the bytes that it was made of.
    """
    sources = [Path(source) for source in job.against]
    least = MinOverlap(job.shared_words, job.shared_characters)
    digests = {str(path): file_digest(path) for one in sources for path in evaluation_files(one)}
    facts = json.dumps([digests, job.passages, least.words, least.characters])
    name = f"evaluation-{hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()}"
    parts = parts_folder(Path(job.target))
    parts.mkdir(parents=True, exist_ok=True)
    folder = parts / name
    with (parts / f".{name}.lock").open("w") as lock:
        with suppress(OSError):  # a file system without locks: several make the same
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            texts = (t for one in sources for t in read_evaluation(one, passages=job.passages))
            try:
                with atomic_folder(folder) as scratch:
                    OverlapIndex.build(texts, least, scratch)
            except OSError:
                if not folder.is_dir():  # else another part was quicker
                    raise
    return OverlapIndex(folder)


def _check_scores(
    scorer: Scorer, least: float, sums: Sums, items: Sequence[Item]
) -> Iterator[Objection]:
    """Positives that score less with their query."""
    pairs = [(item, at) for item in items for at in item.positives]
    texts = [(item.texts[0], item.texts[at]) for item, at in pairs]
    scores = scores_of(scorer, texts, [item.where for item, _ in pairs])
    for (item, at), score in zip(pairs, scores, strict=True):
        sums["scores"][f"{score:.2f}"] += 1
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
