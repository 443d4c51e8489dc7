"""The work of `tercet data pairs`, cut into parts: units to rows, then what needs them all.

Which headings repeat in other documents is known when all parts are there; so are the queries.
"""

import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tercet.curate.shards import BLOCK, Shard, part_rows, parts_folder, write_part
from tercet.data.pairs import headings
from tercet.data.pairs.aligned import read_aligned
from tercet.data.pairs.base import (
    Has,
    Left,
    Pair,
    Plan,
    Problem,
    Units,
    Unreadable,
    need,
)
from tercet.data.pairs.code import read_python
from tercet.data.pairs.html import read_html
from tercet.data.pairs.languages import direction, tag
from tercet.data.pairs.markdown import read_markdown
from tercet.data.pairs.outline import pairs
from tercet.data.pairs.po import read_po
from tercet.data.pairs.records import NAMES, read_records
from tercet.data.pairs.report import UNITS, Tally, report_path
from tercet.data.pairs.restructured import read_restructured
from tercet.data.pairs.sources import GIVES, KINDS, STREAMED, File, Sources, Wanted, find
from tercet.data.pairs.syntax import read_code
from tercet.data.pairs.tmx import read_tmx
from tercet.errors import InputError
from tercet.rows import Row, parts_of, write_rows

ROWS, KEYS, TALLY = "rows.jsonl.gz", "headings.npy", "tally.json"
STRUCTURES = tuple(dict.fromkeys(name for names in GIVES.values() for name in names))
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
    min_chars: int | None = None  # None: as in Plan, fewer for translations
    max_chars: int = Plan.max_chars
    max_query_chars: int = Plan.max_query_chars

    def __post_init__(self) -> None:
        """Raises InputError where options are wrong or do not fit each other."""
        for one in self.structures:
            if one not in STRUCTURES:
                raise InputError(f"no structure {one!r}: there is {', '.join(STRUCTURES)}")
        if self.kind and self.kind not in KINDS:
            raise InputError(f"no kind {self.kind!r}: there is {', '.join(KINDS)}")
        if self.headings not in headings.MODES:
            raise InputError(f"headings {self.headings!r}: give {', '.join(headings.MODES)}")
        if self.plan().min_chars > self.max_chars:
            raise InputError(
                f"a body of {self.plan().min_chars} characters at least and {self.max_chars} at "
                "most: nothing fits"
            )

    def plan(self) -> Plan:
        """What the readers are told; raises InputError."""
        fields = [one.partition("=") for one in self.fields]
        for role, equals, name in fields:
            if role not in NAMES or not equals or not name:
                raise InputError(
                    f"{role}{equals}{name} names no field: give ROLE=NAME with one of "
                    f"{', '.join(NAMES)}"
                )
        structures: Any = tuple(self.structures)
        return Plan(
            structures=structures,
            lang=tag(self.lang) if self.lang else "",
            directions=tuple(direction(one) for one in self.directions),
            both=self.both,
            fields=tuple((role, name) for role, _, name in fields),
            min_chars=self.min_chars or Plan.min_chars,
            min_translation=self.min_chars or Plan.min_translation,
            max_chars=self.max_chars,
            max_query_chars=self.max_query_chars,
        )

    def found(self) -> Sources:
        """The files that are read; raises InputError where there are none."""
        target = Path(self.target)
        written = (target, report_path(target), parts_folder(target))
        wanted = Wanted(
            kind=self.kind,
            structures=tuple(self.structures),
            source=self.source,
            exclude=tuple(self.exclude),
            directions=self.plan().directions,
            never=frozenset(os.path.abspath(path) for path in written),
        )
        return find(self.sources, wanted)

    def inputs(self) -> list[Path]:
        """The files read, as far as they can be."""
        every = (path for file in self.found().files for path in file.paths)
        return [part for path in every for part in _on_disk(path) if os.access(part, os.R_OK)]

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes rows, the keys of their headings, and what was counted."""
        tally, keys, files = Tally(), array("q"), self.found().files
        for kind in {file.kind for file in files} & _NEEDS.keys():
            need(_NEEDS[kind])  # before hours of work
        rows = _rows(files, self.plan(), shard, tally, keys)
        write_part(folder / ROWS, rows)
        np.save(folder / KEYS, np.array(keys, dtype=np.int64).reshape(-1, 2))
        (folder / TALLY).write_text(json.dumps(tally.to_json()))

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Writes the target and, beside it, the report; returns the report."""
        sources = self.found()
        tally = Tally.sum(json.loads((folder / TALLY).read_text()) for folder in folders)
        for problem in sources.problems:
            tally.problem(-1, problem)
        repeating = headings.repeating([folder / KEYS for folder in folders], self.repeated)
        rows = part_rows(folder / ROWS for folder in folders)
        write_rows(Path(self.target), _Finish(tally, repeating, self.headings).rows(rows))
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


def _rows(
    files: Sequence[File], plan: Plan, shard: Shard, tally: Tally, keys: "array[int]"
) -> Iterator[tuple[int, Row]]:
    """The rows of a part with the numbers of their units; counts what else there is."""
    for at, file in enumerate(files):
        streamed = file.kind in STREAMED
        if not streamed and not shard.has(at * BLOCK):  # a file is a block of its own
            continue
        try:
            for unit, found in _read(file, plan, shard.has):
                tally.units[file.kind] += 1
                number = at << UNITS | unit
                for one in found:
                    if isinstance(one, Left):
                        tally.leave(number, one)
                    elif isinstance(one, Problem):
                        tally.problem(number, one)
                    else:
                        if one.path:
                            keys.extend(headings.keys(one.path[-1], one.pos[0]))
                        yield number, _row(one, file)
        except Unreadable as error:
            tally.fail(at, error.problem, void=error.void)
        except InputError as error:  # of a table
            reason = str(error).removeprefix(f"{file.paths[0]}: ")
            tally.fail(at, Problem(file.label, reason), void=False)
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
            tally.fail(at, Problem(file.label, reason), void=False)


def _row(pair: Pair, file: File) -> Row:
    row: Row = {"query": pair.query, "pos": list(pair.pos), "lang": pair.lang}
    row |= {"source": file.source, "id": pair.where, _AS: pair.structure}
    if pair.path:
        row[_PATH] = pair.path
        row[_ARTICLE] = file.kind == "records"
    return row


class _Finish:
    """Rows of all parts to those of the target: their queries, and what none can be made of."""

    def __init__(self, tally: Tally, repeating: headings.Keys, mode: str) -> None:
        self._tally, self._repeating, self._mode = tally, repeating, mode

    def rows(self, numbered: Iterable[tuple[int, Row]]) -> Iterator[Row]:
        """The rows, counted."""
        unit, seen = -1, set[tuple[str, str]]()  # of the unit: structures and queries
        for number, row in numbered:
            if number != unit:
                unit, seen = number, set()
            structure, path = row[_AS], row.get(_PATH, ())
            query, reason = self._query(path, row[_ARTICLE]) if path else (row["query"], "")
            if number >> UNITS in self._tally.void:
                reason = "a line of files that are not aligned"
            elif not reason and (structure, query) in seen and structure != "translations":
                reason = "a query met before in its document"
            if reason:
                shown = f"{headings.MARK.join(path) or query}: {row['pos'][0]}"
                self._tally.leave(number, Left(reason, row["id"], shown))
                continue
            seen.add((structure, query))
            self._tally.row(structure, row["lang"])
            head = {"query": query, "pos": row["pos"], "neg": []}
            yield {**head, "lang": row["lang"], "source": row["source"], "id": row["id"]}

    def _query(self, path: Sequence[str], article: bool) -> tuple[str, str]:
        """The query that the headings of a section make, or why they make none.

        In an article every title says something, and every heading needs it.
        """
        heading = path[-1]
        if len(path) == 1:
            little = not article and self._common(heading)
            return heading, "a title that says too little" if little else ""
        vague = headings.is_vague(heading) or self._common(heading)
        told = article or not all(map(headings.is_common, path[:-1]))
        if self._mode == "drop" and vague:
            return "", "a heading that says too little"
        if told and (vague or article or self._mode == "joined"):
            return headings.joined(path), ""
        return heading, "a heading that says too little, under no title" if vague else ""

    def _common(self, heading: str) -> bool:
        """Whether a heading is common, or repeats in other documents."""
        if headings.is_common(heading):
            return True
        return headings.contains(self._repeating, headings.key(heading))


def _read(file: File, plan: Plan, has: Has) -> Units:
    """The units of a file and what each gave."""
    path, label = file.paths[0], file.label
    if file.kind == "records":
        yield from read_records(path, label, plan, has)
    elif file.kind == "tmx":
        yield from read_tmx(path, label, plan, has)
    elif file.kind == "text":
        yield from read_aligned(file.paths, file.tags, label, plan, has)
    elif file.kind == "po":
        yield from read_po(path, label, plan)
    elif file.kind == "python":
        yield 0, read_python(path, label, plan)
    elif file.kind == "code":
        yield 0, read_code(path, label, plan)
    else:
        outline = _DOCUMENTS[file.kind](path, label)
        yield 0, list(pairs(outline, plan, label, "heading-section"))


_NEEDS = {"restructuredtext": "docutils", "po": "polib", "code": "tree_sitter"}
_DOCUMENTS = {"markdown": read_markdown, "html": read_html, "restructuredtext": read_restructured}
