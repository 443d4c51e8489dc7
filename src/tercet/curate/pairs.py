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

from tercet.curate.pairs_code import read_code
from tercet.curate.pairs_documents import (
    MARK,
    is_common,
    is_vague,
    joined,
    normal,
    read_document,
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
    find_sources,
    need,
    parse_direction,
    parse_tag,
)
from tercet.curate.pairs_translations import read_aligned, read_po, read_tmx
from tercet.curate.shards import BLOCK, Shard, part_rows, parts_folder, write_part
from tercet.documents.base import Problem, problem_of
from tercet.errors import InputError, MissingExtraError
from tercet.rows import Row, parts_of, stem_of, write_rows
from tercet.split import text_key

Keys = npt.NDArray[np.int64]
HEADINGS = ("auto", "joined", "drop")
BEGINNING = 200  # characters of a text by which it is known: copies of a document are one
ROWS, KEYS, UNITS = "rows.jsonl.gz", "headings.npy", "units.json"
UNIT_BITS = 40  # of a row's number that count units; the number of the file stands above them
END = (1 << UNIT_BITS) - 1  # in place of a unit: a file that could not be read to its end
EXAMPLES = 3  # that are kept of each reason
PROBLEMS = 50  # that are told one by one


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
    follow_links: bool = False  # out of a folder, and to folders
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
            ("field", [given.partition("=")[0] for given in self.fields], tuple(NAMES)),
        ):
            for value in values:
                if value not in known:
                    raise InputError(f"no {what} {value!r}: there is {', '.join(known)}")
        options = self.options()
        if "" in options.fields.values():
            raise InputError(f"no name in {self.fields}: give ROLE=NAME, as title=headline")
        if options.min_chars > self.max_chars:
            raise InputError(
                f"a body of {options.min_chars} characters at least and {self.max_chars} at most: "
                "nothing fits"
            )

    def options(self) -> PairOptions:
        """What the readers are told; raises InputError."""
        return PairOptions(
            structures=tuple(self.structures),
            lang=parse_tag(self.lang) if self.lang else "",
            directions=tuple(map(parse_direction, self.directions)),
            both=self.both,
            fields={role: name for role, _, name in (f.partition("=") for f in self.fields)},
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
            follow_links=self.follow_links,
            written=frozenset(os.path.abspath(path) for path in written),
        )

    def inputs(self) -> list[Path]:
        """The files read, as far as they can be."""
        inputs: list[Path] = []
        for path in (path for file in self.files().files for path in file.paths):
            try:
                inputs += [part for part in parts_of(path) if os.access(part, os.R_OK)]
            except InputError:  # of a saved dataset that is broken, which its part will tell
                continue
        return inputs

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes what each unit gave, the keys of headings and texts, and the numbers of units."""
        files, keys, units = self.files().files, array("q"), Counter[str]()
        for kind in dict.fromkeys(file.kind for file in files):
            if KINDS[kind].needs:
                need(KINDS[kind].needs)  # before hours of work
        write_part(folder / ROWS, _outcomes(files, self.options(), shard, keys, units))
        np.save(folder / KEYS, np.array(keys, dtype=np.int64).reshape(-1, 2))
        (folder / UNITS).write_text(json.dumps(units))

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Writes the target and, beside it, the report; returns the report."""
        sources, tally, units = self.files(), Tally(), Counter[str]()
        for folder in folders:
            units.update(json.loads((folder / UNITS).read_text()))
        for problem in sources.problems:
            tally.count_problem(problem.source, problem.reason)
        repeating = repeating_headings([folder / KEYS for folder in folders], self.repeated)
        outcomes = part_rows(folder / ROWS for folder in folders)
        write_rows(Path(self.target), _finished(outcomes, tally, repeating, self.headings))
        report = {
            "to": self.target,
            "files": Counter(file.kind for file in sources.files),
            "passed_over": sources.passed_over,
            "units": dict(sorted(units.items())),
            **tally.report(),
        }
        text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
        report_path(Path(self.target)).write_text(text, encoding="utf-8", errors="backslashreplace")
        return report


# A part: what each unit gave. A row's structure, the headings from the title down and whether it is
# from a table stay in it until it is finished; {"skipped": ...} and {"problem": ...} are counted.


def _outcomes(
    files: Sequence[SourceFile],
    options: PairOptions,
    shard: Shard,
    keys: "array[int]",
    units: Counter[str],
) -> Iterator[tuple[int, Row]]:
    """What the units of a part gave, by their numbers."""
    for index, file in enumerate(files):
        if not KINDS[file.kind].streamed and not shard.has(index * BLOCK):
            continue  # a file is a block of its own
        try:
            for unit, outcomes in _READERS[file.kind](file, options, shard.has):
                units[file.kind] += 1
                for outcome in outcomes:
                    if isinstance(outcome, Pair) and outcome.path:
                        beginning = outcome.pos[0][:BEGINNING]
                        keys.extend((heading_key(outcome.path[-1]), text_key(beginning)))
                    yield index << UNIT_BITS | unit, _fields(outcome, file)
        except MissingExtraError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one file does, the others go on
            problem = problem_of(error, file.label, file.paths[0])
            yield index << UNIT_BITS | END, _fields(problem, file)


_READERS: dict[str, Callable[[SourceFile, PairOptions, Has], Units]] = {
    **dict.fromkeys(("markdown", "html", "restructuredtext"), read_document),
    **dict.fromkeys(("python", "code"), read_code),
    "records": read_records,
    "tmx": read_tmx,
    "po": read_po,
    "text": read_aligned,
}


def _fields(outcome: Pair | Skipped | Problem, file: SourceFile) -> Row:
    if isinstance(outcome, Problem):
        return {"problem": outcome.reason, "where": outcome.source}
    if isinstance(outcome, Skipped):
        return {"skipped": outcome.reason, "id": outcome.where, "text": outcome.text[:200]}
    return {
        "query": outcome.query,
        "pos": outcome.pos,
        "lang": outcome.lang,
        "source": file.source,
        "id": outcome.where,
        "as": outcome.structure,
        "path": outcome.path,
        "table": file.kind == "records",
    }


# The whole: queries of headings, and what none can be made of


def _finished(
    outcomes: Iterable[tuple[int, Row]], tally: "Tally", repeating: set[int], mode: str
) -> Iterator[Row]:
    """The rows of all parts as they are written; counts them and the rest."""
    unit, seen = -1, set[tuple[str, str]]()  # of the unit: structures and queries
    for number, row in outcomes:
        is_new = number != unit
        if is_new:
            unit, seen = number, set()
        if "problem" in row:
            if is_new or number & END != END:  # every part says that a file cannot be read
                tally.count_problem(row["where"], row["problem"])
            continue
        if "skipped" in row:
            tally.skip(row["skipped"], row["id"], row["text"])
            continue
        structure, path, query, reason = row["as"], row["path"], row["query"], ""
        if path:
            query, reason = _query_of(path, row["table"], repeating, mode)
        if not reason and (structure, query) in seen and structure != "translations":
            reason = "a query met before in its document"
        if reason:
            tally.skip(reason, row["id"], f"{MARK.join(path) or query}: {row['pos'][0]}"[:200])
            continue
        seen.add((structure, query))
        tally.rows.setdefault(structure, Counter())[row["lang"]] += 1
        about = {name: row[name] for name in ("lang", "source", "id")}
        yield {"query": query, "pos": row["pos"], "neg": [], **about}


def _query_of(
    path: Sequence[str], article: bool, repeating: set[int], mode: str
) -> tuple[str, str]:
    """The query that the headings of a section make, or why they make none.

    In an article of an encyclopedia every title says something, and every heading needs it.
    """
    *above, heading = path
    common = is_common(heading) or heading_key(heading) in repeating
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


def repeating_headings(files: Iterable[Path], least: int, block: int = 1 << 22) -> set[int]:
    """The keys of headings with at least so many different texts; least 0: none.

    The files (.npy) hold (N, 2) keys of headings and texts. As many passes over them as it takes
    to hold `block` keys at once.
    """
    parts: list[Keys] = [np.load(path, mmap_mode="r") for path in files] if least else []
    passes = -(-sum(map(len, parts)) // block)
    repeating = set[int]()
    for number in range(passes):
        share = np.concatenate([part[part[:, 0] % passes == number] for part in parts])
        headings, counts = np.unique(np.unique(share, axis=0)[:, 0], return_counts=True)
        repeating.update(headings[counts >= least].tolist())
    return repeating


# The report


@dataclass
class Tally:
    """What was made and skipped, and what could not be read, in the order of the sources."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)  # by structure and language
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)  # by reason
    problems: int = 0
    first: list[dict[str, str]] = field(default_factory=list)

    def skip(self, reason: str, id: str, text: str) -> None:
        """Something that gave no row."""
        facts = self.skipped.setdefault(reason, {"count": 0, "examples": []})
        facts["count"] += 1
        if len(facts["examples"]) < EXAMPLES:
            facts["examples"].append({"id": id, "text": text})

    def count_problem(self, where: str, reason: str) -> None:
        """Something that could not be read."""
        self.problems += 1
        if len(self.first) < PROBLEMS:
            self.first.append({"where": where, "reason": reason})

    def report(self) -> dict[str, Any]:
        """What is told: reasons and languages with the most first."""
        counts = {reason: facts["count"] for reason, facts in self.skipped.items()}
        return {
            "rows": sum(counts.total() for counts in self.rows.values()),
            "structures": {name: _most(langs) for name, langs in sorted(self.rows.items())},
            "left_out": {reason: self.skipped[reason] for reason in _most(counts)},
            "problems": self.problems,
            "first_problems": self.first,
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
