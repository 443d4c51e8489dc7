"""TREC runs and judgements: read, written whole, and ordered as trec_eval orders them.

A run is in arrays, since the best 1,000 passages of thousands of queries are millions of pairs.
Knows nothing of texts, models or measures.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError
from tercet.evaluate.tasks import Qrels
from tercet.hybrid import Ranked
from tercet.io import atomic_write
from tercet.rows import LARGEST, text_lines
from tercet.scores import Places, Scores

LARGEST_GAIN = 1_000_000  # trec_eval counts the passages of every gain up to the largest

Ids = npt.NDArray[np.object_]  # strings: an id stands in memory once, however often it is ranked


@dataclass(frozen=True)
class Run:
    """The passages ranked for Q queries, best first: by score, equal ones the last id first.

    Query q owns passages[starts[q]:starts[q + 1]], ids, and the scores there. Scores are float32,
    as trec_eval keeps them: what differs by less is equal there too. Make one with `of`,
    `from_scores` or `read_run`, which sort.
    """

    queries: tuple[str, ...]
    starts: npt.NDArray[np.int64]  # (Q + 1,)
    passages: Ids  # (n,)
    scores: Scores  # (n,)

    @staticmethod
    def of(queries: Sequence[str], passages: Sequence[str], ranked: Ranked) -> "Run":
        """From ranks (Q, K) of places in a corpus whose ids are `passages`, best first or not.

        Raises InputError where a score is no finite number.
        """
        rows, places, scores = ranked.pairs()
        return _sorted(tuple(queries), rows, _objects(passages)[places], scores)

    @staticmethod
    def from_scores(scores: Mapping[str, Mapping[str, float]]) -> "Run":
        """From {query id: {passage id: score}}; raises InputError as `of`."""
        rows = np.repeat(np.arange(len(scores)), [len(of) for of in scores.values()])
        ids = [passage for of in scores.values() for passage in of]
        values = [score for of in scores.values() for score in of.values()]
        return _sorted(tuple(scores), rows, _objects(ids), np.array(values, np.float32))

    def without_own(self) -> "Run":
        """The run without passages under the id of their query."""
        rows = np.repeat(np.arange(len(self.queries)), np.diff(self.starts))
        others = np.flatnonzero(_objects(self.queries)[rows] != self.passages)
        starts = np.searchsorted(rows[others], np.arange(len(self.queries) + 1))
        return Run(self.queries, starts, self.passages[others], self.scores[others])

    def of_query(self, number: int) -> tuple[list[str], list[float]]:
        """Ids and scores of the passages of one query, best first."""
        hits = slice(*self.starts[number : number + 2].tolist())
        return self.passages[hits].tolist(), self.scores[hits].tolist()


def _objects(strings: Sequence[str]) -> Ids:
    out = np.empty(len(strings), dtype=np.object_)
    out[:] = strings
    return out


def _sorted(queries: tuple[str, ...], rows: Places, ids: Ids, scores: Scores) -> Run:
    if not np.isfinite(scores).all():
        worst = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise InputError(
            f"the score of passage {ids[worst]!r} for query {queries[rows[worst]]!r} is "
            f"{scores[worst]}: no order can be told"
        )
    order = np.lexsort((-scores, rows))
    rows, ids, scores = rows[order], ids[order], scores[order]
    equal = np.flatnonzero((np.diff(rows) == 0) & (scores[1:] == scores[:-1]))
    for ties in np.split(equal, np.flatnonzero(np.diff(equal) > 1) + 1):
        if len(ties):
            tied = slice(int(ties[0]), int(ties[-1]) + 2)
            # trec_eval compares the bytes of ids: of UTF-8, whose order is that of code points
            ids[tied] = sorted(ids[tied], reverse=True)
    starts = np.searchsorted(rows, np.arange(len(queries) + 1)).astype(np.int64)
    return Run(queries, starts, ids, scores.astype(np.float32, copy=False))


def read_run(path: Path) -> Run:
    """Reads `query Q0 passage rank score tag`, in any order; the ranks are not looked at.

    Blanks or tabs between, plain or .gz. Raises InputError naming file and line for a line of
    another form, a score that is no finite number, and a passage that a query ranks twice.
    """
    scores: dict[str, dict[str, float]] = {}
    for where, (query, _, passage, _, given, _) in _table(
        path, "query Q0 passage rank score tag", 6
    ):
        score = _number(given)
        if score is None or not -LARGEST <= score <= LARGEST:
            raise InputError(f"{where}: the score {given!r:.40} is not a finite number")
        of_query = scores.setdefault(query, {})
        if passage in of_query:
            raise InputError(f"{where}: query {query!r} ranks passage {passage!r} a second time")
        of_query[sys.intern(passage)] = score
    return Run.from_scores(scores)


def write_run(path: Path, run: Run, tag: str = "tercet") -> None:
    """Writes `query Q0 passage rank score tag`, best first, under its final name when whole.

    Packed where the name ends in .gz. Blanks stand between, tabs where an id has blanks; raises
    InputError for an id that is empty or has a tab or line break. Scores are read back the same.
    """
    blank = _separator([*run.queries, *run.passages, tag])

    def lines() -> Iterator[str]:
        for number, query in enumerate(run.queries):
            head, tail = f"{query}{blank}Q0{blank}", f"{blank}{tag}"
            for rank, (passage, score) in enumerate(zip(*run.of_query(number), strict=True), 1):
                yield f"{head}{passage}{blank}{rank}{blank}{score:.9g}{tail}"

    _write(path, lines())


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Query id -> passage id -> gain, from TREC's four columns or BEIR's three under a header.

    Blanks or tabs between, plain or .gz. Raises InputError naming file and line for a line of
    another form, a gain that is no whole number, and a pair that is judged in two ways.
    """
    qrels: dict[str, dict[str, int]] = {}
    for where, fields in _table(path, "query 0 passage gain", 3, 4):
        query, passage, given = fields[0], fields[-2], fields[-1]
        gain = _number(given)
        if gain is None and len(fields) == 3 and where == f"{path}:1":
            continue  # BEIR's header
        if gain is None or not gain.is_integer() or abs(gain) > LARGEST_GAIN:
            raise InputError(
                f"{where}: the gain {given!r:.40} is not a whole number up to {LARGEST_GAIN:,}"
            )
        first = qrels.setdefault(query, {}).setdefault(passage, int(gain))
        if first != gain:
            raise InputError(
                f"{where}: passage {passage!r} of {query!r} is judged a second time, {given} after "
                f"{first}: leave one"
            )
    if not qrels:
        raise InputError(f"{path}: no judgement: lines are `query 0 passage gain`")
    return qrels


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Writes `query 0 passage gain` lines as `write_run` writes a run."""
    blank = _separator(name for query, gains in qrels.items() for name in (query, *gains))
    pairs = ((query, *pair) for query, gains in qrels.items() for pair in gains.items())
    _write(path, (blank.join((query, "0", passage, str(gain))) for query, passage, gain in pairs))


def _number(text: str) -> float | None:
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def _table(path: Path, form: str, *columns: int) -> Iterator[tuple[str, list[str]]]:
    """Where a line stands and its fields, between tabs where that makes so many, else blanks.

    The first line says which of the numbers of columns the file has.
    """
    count = 0
    for where, line in numbered_lines(path):
        if not line.strip():
            continue
        tabbed, fields = [field.strip() for field in line.split("\t")], line.split()
        count = count or next((n for n in columns if n in (len(tabbed), len(fields))), 0)
        if count not in (len(tabbed), len(fields)):
            raise InputError(f"{where}: {len(fields)} fields, where a line has {form}")
        yield where, tabbed if len(tabbed) == count else fields
    if not count:
        raise InputError(f"{path}: empty: lines are `{form}`")


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where a line stands (file and number), and the line; raises InputError naming both."""
    return ((f"{path}:{number}", line) for number, line in text_lines(path))


def _separator(names: Iterable[str]) -> str:
    """What stands between fields: a blank, or a tab where an id has blanks."""
    blank = " "
    for name in set(names):
        if not name or name != name.strip() or "\t" in name or len(name.splitlines()) > 1:
            raise InputError(
                f"the id {name!r} cannot stand in a TREC file: it is empty, or has a tab, a line "
                "break or a blank at its end"
            )
        if len(name.split()) > 1:
            blank = "\t"
    return blank


def _write(path: Path, lines: Iterable[str]) -> None:
    try:
        with atomic_write(path) as file:
            file.writelines(f"{line}\n".encode() for line in lines)
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: an id is not Unicode text: {error}") from error
