"""`data pairs`: raw sources to training rows by their structure, cut into parts and joined.

Titles, headings, answers, code and translations become queries and positives. Which headings
repeat in other documents is known when all parts are there; so are the queries. Knows nothing of
tokens and models, nor of the formats of sources.
"""

import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tercet.curate.pairs_code import read_code, read_python
from tercet.curate.pairs_documents import (
    MARK,
    document_pairs,
    is_common,
    is_vague,
    joined,
    normal,
    read_html,
    read_markdown,
    read_restructured,
)
from tercet.curate.pairs_records import NAMES, read_records
from tercet.curate.pairs_sources import (
    KINDS,
    READ_AS,
    STRUCTURES,
    Has,
    Pair,
    PairOptions,
    Skipped,
    SourceFile,
    Sources,
    Units,
    cannot_be_read,
    find_sources,
    need,
    parse_direction,
    parse_tag,
)
from tercet.curate.pairs_translations import read_aligned, read_po, read_tmx
from tercet.curate.shards import BLOCK, Shard, part_rows, parts_folder, write_part
from tercet.documents.readers import Problem, Unreadable
from tercet.errors import InputError
from tercet.rows import Row, parts_of, stem_of, write_rows
from tercet.split import text_key

Keys = npt.NDArray[np.int64]
HEADINGS = ("auto", "joined", "drop")
BEGINNING = 200  # characters of a text by which it is known: copies of a document are one
ROWS, KEYS, TALLY = "rows.jsonl.gz", "headings.npy", "tally.json"
UNITS = 40  # bits of a row's number that count units; the number of the file stands above them
EXAMPLES = 3  # that are kept of each reason
PROBLEMS = 50  # that are told one by one
# Fields of a part's rows that are gone in the end: the structure, the headings from the title
# down, and whether it is an article of an encyclopedia or the like.
_AS, _PATH, _ARTICLE = "as", "path", "article"


@dataclass(frozen=True)
class PairsJob:
    """What `tercet data pairs` was asked for."""

    name: ClassVar[str] = "pairs"

    sources: Sequence[str]
    target: str  # JSON lines, packed where the name ends in .gz
    structures: Sequence[str] = ()  # none: what each kind of file suggests
    kind: str = ""  # of all files; "": by their names
    lang: str = ""  # of everything but translations; "": what the sources say
    directions: Sequence[str] = ()  # of translations, as de-en; none: as the sources lie
    both: bool = False  # each direction and the other way round
    fields: Sequence[str] = ()  # of JSON lines, as title=headline
    source: str = ""  # in the rows; "": the name of what is given
    exclude: Sequence[str] = ()  # patterns of files that are not read
    headings: str = "auto"  # of headings that say too little: joined to the title, or dropped
    repeated: int = 3  # different texts under a heading make it say too little; 0: none do
    min_chars: int | None = None  # None: as in PairOptions, fewer for translations
    max_chars: int = PairOptions.max_chars
    max_query_chars: int = PairOptions.max_query_chars

    def __post_init__(self) -> None:
        """Raises InputError where options are wrong or do not fit each other."""
        for what, values, known in (
            ("structure", self.structures, STRUCTURES),
            ("kind", [self.kind] if self.kind else [], READ_AS),
            ("headings", [self.headings], HEADINGS),
            ("field", [one.partition("=")[0] for one in self.fields], tuple(NAMES)),
        ):
            for value in values:
                if value not in known:
                    raise InputError(f"no {what} {value!r}: there is {', '.join(known)}")
        for one in self.fields:
            if not one.partition("=")[2]:
                raise InputError(f"{one!r} names no field: give ROLE=NAME, as title=headline")
        if self.options().min_chars > self.max_chars:
            raise InputError(
                f"a body of {self.options().min_chars} characters at least and {self.max_chars} "
                "at most: nothing fits"
            )

    def options(self) -> PairOptions:
        """What the readers are told; raises InputError."""
        return PairOptions(
            structures=tuple(self.structures),
            lang=parse_tag(self.lang) if self.lang else "",
            directions=tuple(parse_direction(one) for one in self.directions),
            both=self.both,
            fields={role: name for role, _, name in (one.partition("=") for one in self.fields)},
            min_chars=self.min_chars or PairOptions.min_chars,
            min_translation=self.min_chars or PairOptions.min_translation,
            max_chars=self.max_chars,
            max_query_chars=self.max_query_chars,
        )

    def files(self) -> Sources:
        """The files that are read; raises InputError where there are none."""
        target = Path(self.target)
        written = (target, report_path(target), parts_folder(target))
        return find_sources(
            self.sources,
            self.options(),
            kind=self.kind,
            source=self.source,
            exclude=self.exclude,
            written=frozenset(os.path.abspath(path) for path in written),
        )

    def inputs(self) -> list[Path]:
        """The files read, as far as they can be."""
        paths = (path for file in self.files().files for path in file.paths)
        return [part for path in paths for part in _on_disk(path) if os.access(part, os.R_OK)]

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes rows, the keys of their headings, and what was counted."""
        tally, keys, files = Tally(), array("q"), self.files().files
        for kind in dict.fromkeys(file.kind for file in files):
            if KINDS[kind].needs:
                need(KINDS[kind].needs)  # before hours of work
        write_part(folder / ROWS, _rows(files, self.options(), shard, tally, keys))
        np.save(folder / KEYS, np.array(keys, dtype=np.int64).reshape(-1, 2))
        (folder / TALLY).write_text(json.dumps(vars(tally)))

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Writes the target and, beside it, the report; returns the report."""
        sources, tally = self.files(), Tally()
        for folder in folders:
            tally.add(json.loads((folder / TALLY).read_text()))
        for problem in sources.problems:
            tally.count_problem(-1, problem)
        repeating = repeating_headings([folder / KEYS for folder in folders], self.repeated)
        rows = part_rows(folder / ROWS for folder in folders)
        write_rows(Path(self.target), _finished(rows, tally, repeating, self.headings))
        report = {
            "to": self.target,
            "files": Counter(file.kind for file in sources.files),
            "passed_over": sources.passed_over,
            **tally.report(),
        }
        text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
        report_path(Path(self.target)).write_text(text, encoding="utf-8", errors="backslashreplace")
        return report


def _on_disk(path: Path) -> list[Path]:
    """The files that hold what is read as one; none where a saved dataset is broken."""
    try:
        return parts_of(path)
    except InputError:
        return []


# A part: units to rows


def _rows(
    files: Sequence[SourceFile],
    options: PairOptions,
    shard: Shard,
    tally: "Tally",
    keys: "array[int]",
) -> Iterator[tuple[int, Row]]:
    """The rows of a part with the numbers of their units; counts what else there is."""
    for place, file in enumerate(files):
        if not KINDS[file.kind].streamed and not shard.has(place * BLOCK):
            continue  # a file is a block of its own
        try:
            for unit, outcomes in _units(file, options, shard.has):
                tally.units[file.kind] = tally.units.get(file.kind, 0) + 1
                number = place << UNITS | unit
                for outcome in outcomes:
                    if isinstance(outcome, Skipped):
                        tally.skip(number, outcome)
                    elif isinstance(outcome, Problem):
                        tally.count_problem(number, outcome)
                    else:
                        if outcome.path:
                            beginning = outcome.pos[0][:BEGINNING]
                            keys.extend((heading_key(outcome.path[-1]), text_key(beginning)))
                        yield number, _row(outcome, file)
        except Unreadable as error:
            tally.failed[str(place)] = (error.source, error.reason)
        except (InputError, OSError) as error:  # of a table; of the disk
            reason = str(error).removeprefix(f"{file.paths[0]}: ")
            reason = cannot_be_read(error) if isinstance(error, OSError) else reason
            tally.failed[str(place)] = (file.label, reason)


def _units(file: SourceFile, options: PairOptions, has: Has) -> Units:
    """The units of a file and what each gave."""
    path, label = file.paths[0], file.label
    if file.kind in _STREAMS:
        yield from _STREAMS[file.kind](path, label, options, has)
    elif file.kind == "text":
        yield from read_aligned(file.paths, file.tags, label, options, has)
    elif file.kind == "po":
        yield from read_po(path, label, options)
    elif file.kind in _CODE:
        yield 0, _CODE[file.kind](path, label, options)
    else:
        outline = _DOCUMENTS[file.kind](path, label)
        yield 0, list(document_pairs(outline, options, label, "heading-section"))


_STREAMS: dict[str, Callable[..., Units]] = {"records": read_records, "tmx": read_tmx}
_CODE = {"python": read_python, "code": read_code}
_DOCUMENTS = {"markdown": read_markdown, "html": read_html, "restructuredtext": read_restructured}


def _row(pair: Pair, file: SourceFile) -> Row:
    row: Row = {"query": pair.query, "pos": list(pair.pos), "lang": pair.lang}
    row |= {"source": file.source, "id": pair.where, _AS: pair.structure}
    if pair.path:
        row |= {_PATH: pair.path, _ARTICLE: file.kind == "records"}
    return row


# The whole: queries of headings, and what none can be made of


def _finished(
    numbered: Iterable[tuple[int, Row]], tally: "Tally", repeating: Keys, mode: str
) -> Iterator[Row]:
    """The rows of all parts as they are written, counted."""
    unit, seen = -1, set[tuple[str, str]]()  # of the unit: structures and queries
    for number, row in numbered:
        if number != unit:
            unit, seen = number, set()
        structure, path, query, reason = row[_AS], row.get(_PATH, ()), row["query"], ""
        if path:
            query, reason = _query_of(path, row[_ARTICLE], repeating, mode)
        if not reason and (structure, query) in seen and structure != "translations":
            reason = "a query met before in its document"
        if reason:
            example = f"{MARK.join(path) or query}: {row['pos'][0]}"
            tally.skip(number, Skipped(reason, row["id"], example))
            continue
        seen.add((structure, query))
        tally.rows.setdefault(structure, Counter())[row["lang"]] += 1
        head = {"query": query, "pos": row["pos"], "neg": []}
        yield {**head, "lang": row["lang"], "source": row["source"], "id": row["id"]}


def _query_of(path: Sequence[str], article: bool, repeating: Keys, mode: str) -> tuple[str, str]:
    """The query that the headings of a section make, or why they make none.

    In an article every title says something, and every heading needs it.
    """
    *above, heading = path
    common = is_common(heading) or _contains(repeating, heading_key(heading))
    if not above:
        return heading, "a title that says too little" if common and not article else ""
    vague = common or is_vague(heading)
    if mode == "drop" and vague:
        return "", "a heading that says too little"
    if (article or not all(map(is_common, above))) and (vague or article or mode == "joined"):
        return joined(path), ""
    return heading, "a heading that says too little, under no title" if vague else ""


def heading_key(heading: str) -> int:
    """What a heading is known by."""
    return text_key(normal(heading))


def repeating_headings(files: Iterable[Path], least: int, block: int = 1 << 22) -> Keys:
    """The keys, sorted, of headings with at least so many different texts; least 0: none.

    The files (.npy) hold (N, 2) keys of headings and texts. As many passes over them as it takes
    to hold `block` keys at once.
    """
    parts: list[Keys] = [np.load(path, mmap_mode="r") for path in files] if least else []
    passes = -(-sum(map(len, parts)) // block)
    repeating = [np.zeros(0, dtype=np.int64)]
    for number in range(passes):
        share = np.concatenate([part[part[:, 0] % passes == number] for part in parts])
        headings, counts = np.unique(np.unique(share, axis=0)[:, 0], return_counts=True)
        repeating.append(headings[counts >= least])
    return np.sort(np.concatenate(repeating))


def _contains(keys: Keys, key: int) -> bool:
    """Whether a key is among sorted ones."""
    place = int(np.searchsorted(keys, key))
    return place < len(keys) and int(keys[place]) == key


# The report


@dataclass
class Tally:
    """What was read, made and skipped; the sum over parts does not depend on the cut.

    Examples and problems come with the number of their unit, the first are kept. All but `rows` is
    JSON, which a part keeps.
    """

    units: dict[str, int] = field(default_factory=dict)  # read, by kind of file
    skipped: dict[str, int] = field(default_factory=dict)  # by reason
    examples: dict[str, list[Sequence[Any]]] = field(default_factory=dict)  # number, id, text
    problems: int = 0  # of single units
    first: list[list[Any]] = field(default_factory=list)  # number, where, reason
    # Files that could not be read to the end, by number: every part says so, it counts once.
    failed: dict[str, Sequence[Any]] = field(default_factory=dict)
    rows: dict[str, Counter[str]] = field(default_factory=dict)  # by structure and language

    def skip(self, number: int, skipped: Skipped) -> None:
        """Something that gave no row."""
        self.skipped[skipped.reason] = self.skipped.get(skipped.reason, 0) + 1
        examples = self.examples.setdefault(skipped.reason, [])
        if len(examples) < EXAMPLES:
            examples.append((number, skipped.where, skipped.text[:200]))

    def count_problem(self, number: int, problem: Problem) -> None:
        """A unit that could not be read."""
        self.problems += 1
        if len(self.first) < PROBLEMS:
            self.first.append([number, problem.source, problem.reason])

    def add(self, part: Mapping[str, Any]) -> None:
        """Adds what a part kept."""
        self.units = Counter(self.units) + Counter(part["units"])
        self.skipped = Counter(self.skipped) + Counter(part["skipped"])
        self.problems += part["problems"]
        self.first = sorted([*self.first, *part["first"]])[:PROBLEMS]
        self.failed |= part["failed"]
        for reason, examples in part["examples"].items():
            known = [*self.examples.get(reason, ()), *examples]
            known.sort(key=lambda example: example[0])  # those of one unit stay in order
            self.examples[reason] = known[:EXAMPLES]

    def report(self) -> dict[str, Any]:
        """What is told: reasons and languages with the most first."""
        failed = ([int(file) << UNITS, *told] for file, told in self.failed.items())
        problems = sorted([*failed, *self.first])[:PROBLEMS]
        return {
            "units": dict(sorted(self.units.items())),
            "rows": sum(counts.total() for counts in self.rows.values()),
            "structures": {name: _most(counts) for name, counts in sorted(self.rows.items())},
            "left_out": {
                reason: {
                    "count": count,
                    "examples": [{"id": id, "text": text} for _, id, text in self.examples[reason]],
                }
                for reason, count in _most(self.skipped).items()
            },
            "problems": len(self.failed) + self.problems,
            "first_problems": [{"where": where, "reason": reason} for _, where, reason in problems],
        }


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    """The most first, then by name."""
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def report_path(target: Path) -> Path:
    """Where the report of a file of rows lies: beside it."""
    return target.with_name(f"{stem_of(target)}.report.json")


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """A report for people."""
    lines = [f"{report['to']}: {report['rows']:,} rows", f"  files: {_named(report['files'])}"]
    if report["passed_over"]:
        lines.append(f"  files of other kinds: {_named(report['passed_over'])}")
    lines.append(f"  units read: {_named(report['units'])}")
    for structure, languages in report["structures"].items():
        by_name = {lang or "language not said": count for lang, count in languages.items()}
        lines.append(f"  {structure}: {_named(by_name)}")
    if report["left_out"]:
        lines.append("  left out:")
    for reason, facts in report["left_out"].items():
        lines.append(f"    {facts['count']:,}  {reason}")
        for example in facts["examples"][:1]:
            text = " ".join(example["text"].split())[:100]
            lines.append(f"      as {example['id']}{f': {text}' if text else ''}")
    return lines


def _named(counts: Mapping[str, int], most: int = 12) -> str:
    names = [f"{name} {count:,}" for name, count in _most(counts).items()]
    more = [f"and {len(names) - most:,} more"] if len(names) > most else []
    return ", ".join(names[:most] + more) or "none"
