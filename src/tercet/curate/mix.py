"""Draws rows of many sources in proportion, to files by length: the work of `tercet data mix`.

Two passes. The parts read every row, check and measure it, and count; when all are there, quotas
follow from the counts, and the rows that are drawn are scattered to their files. Whatever is random
happens in the second pass, in the order of the rows, so the cut changes nothing. Memory holds
counts and one file. A row is as long as its longest text, because that decides what a batch costs
(M3 paper, section 3.4). Shapes: S sources, L languages, G length groups, K cells (a source and a
language that it has).
"""

import gzip
import heapq
import json
import math
import random
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from tercet.config import LENGTHS
from tercet.curate.shards import BLOCK, Shard, batches
from tercet.errors import InputError
from tercet.io import atomic_folder
from tercet.rows import (
    Record,
    Row,
    check_row,
    files_of,
    line_of,
    numbered_rows,
    parts_of,
    stem_of,
    write_lines,
)
from tercet.tokenizer import Tokenizer

ROWS, COUNTS, REPORT = "rows.gz", "counts.json", "mix.json"
MEASURED = 1 << 20  # characters of rows that are measured at once
_LINE_BITS = 40  # of a row's number that are its line; the others are its file

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Unit = Literal["characters", "tokens"]

# Numbers that say what is mixed: their kind, the least and the most. TOML may hold anything.
_NUMBERS: dict[str, tuple[type, float, float]] = {
    **dict.fromkeys(("rows", "cap", "repeats"), (int, 1, math.inf)),
    **dict.fromkeys(("epochs", "file_mb", "weight"), (float, 0, math.inf)),
    "seed": (int, 0, math.inf),
    "alpha": (float, 0, 1),
    "share": (float, 0, 100),
}


def _check_numbers(settings: Mapping[str, Any], what: str = "") -> None:
    """Raises InputError where a number is none, or out of its bounds; None is left alone."""
    for name, (kind, least, most) in _NUMBERS.items():
        value = settings.get(name)
        right = isinstance(value, int | kind) and not isinstance(value, bool)
        if value is not None and not (right and least <= value <= most and value < math.inf):
            whole = "whole " if kind is int else ""
            raise InputError(
                f"{what}{name} must be a {whole}number from {least} to {most}, got {value!r}"
            )


# Sources


@dataclass(frozen=True)
class Source:
    """Files of rows that are drawn alike."""

    files: tuple[str, ...]  # files of rows, or folders of them
    name: str = ""  # in the report; the first file's name without suffixes if empty
    weight: float = 1.0  # how often each row is drawn in an epoch, as in training
    share: float | None = None  # per cent of the mix, instead of a weight
    cap: int | None = None  # rows drawn at most

    def __post_init__(self) -> None:
        if not self.files or not all(name and isinstance(name, str) for name in self.files):
            raise InputError(f"source {self.name or '?'}: files must be a list of names of files")
        _check_numbers(vars(self), f"source {self.label}: ")

    @property
    def label(self) -> str:
        return self.name or stem_of(Path(self.files[0]))

    @staticmethod
    def of(facts: Mapping[str, Any]) -> "Source":
        """The source of a TOML or JSON table; raises InputError on an unknown or missing key."""
        names = [field.name for field in fields(Source)]
        if not isinstance(facts, dict):
            raise InputError(f"a source is a table with files = [...], got {facts!r}")
        if unknown := sorted(facts.keys() - set(names)):
            raise InputError(f"unknown key {unknown[0]!r}: a source has {', '.join(names)}")
        if not isinstance(facts.get("files"), list | tuple):
            raise InputError("a source needs files, a list of names")
        return Source(**{**facts, "files": tuple(facts["files"])})


def parse_source(text: str) -> Source:
    """`rows.jsonl=2` draws each row twice, `rows.jsonl=30%` makes 30 per cent of the mix of it.

    >>> parse_source("qa.jsonl=2").weight, parse_source("qa.jsonl=30%").share
    (2.0, 30.0)
    """
    name, equals, amount = text.rpartition("=")
    if not equals or Path(text).exists():
        return Source((text,))
    try:
        number = float(amount.removesuffix("%"))
    except ValueError:
        if Path(name).exists():
            raise InputError(
                f"{text}: {amount!r} is no weight: give a number, as in 2, or a share, as in 30%"
            ) from None
        return Source((text,))
    return Source((name,), share=number) if "%" in amount else Source((name,), weight=number)


def read_config(path: Path) -> dict[str, Any]:
    """Sources and settings of a TOML file, by the names of the fields of a mix.

    Raises InputError naming the file on what it cannot hold.
    """
    try:
        facts = tomllib.loads(path.read_text(encoding="utf-8"))
        names = [field.name for field in fields(Mix) if field.name != "target"]
        if unknown := sorted(facts.keys() - set(names)):
            raise InputError(f"unknown key {unknown[0]!r}: it may hold {', '.join(names)}")
        if {"rows", "epochs"} <= facts.keys():
            raise InputError("rows and epochs both say how long the mix is: leave one out")
        mix = Mix(**{"target": "", "sources": (), "model": "", **facts})
        return {**facts, "sources": list(mix.sources)}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as TOML: {error}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


# Lengths

# A token of XLM-RoBERTa has about four characters in languages of the Latin script.
BOUNDS = {"tokens": LENGTHS, "characters": tuple(4 * bound for bound in LENGTHS)}
SPECIAL = 2  # [CLS] and </s>, which training counts


@dataclass(frozen=True)
class LengthGroups:
    """Length groups by their upper bounds; the last one takes all that is longer, too."""

    unit: Unit
    bounds: tuple[int, ...]

    def __post_init__(self) -> None:
        whole = all(isinstance(bound, int) for bound in self.bounds)
        if not (whole and self.bounds and (0, *self.bounds) == tuple(sorted({0, *self.bounds}))):
            raise InputError(
                f"lengths must be whole numbers that rise, got {', '.join(map(str, self.bounds))}"
            )

    def of(self, records: Sequence[Record], tokenizer: Tokenizer | None) -> list[int]:
        """The group of each row; tokenizer: where the unit is tokens."""
        texts = [(record.query, *record.pos, *record.neg) for record in records]
        if tokenizer is None:
            longest = [max(map(len, of_row)) for of_row in texts]
        else:
            flat = [text for of_row in texts for text in of_row]
            sizes = map(len, tokenizer.contents(flat, limit=self.bounds[-1]))
            longest = [max(next(sizes) for _ in of_row) + SPECIAL for of_row in texts]
        groups: list[int] = np.searchsorted(self.bounds[:-1], longest, side="left").tolist()
        return groups

    def file_name(self, group: int) -> str:
        """The beginning of a group's files: names sort from short to long."""
        width = max(5, len(str(self.bounds[-1])))
        first, last = self._limits(group)
        return f"{self.unit}-{first:0{width}d}-{f'{last:0{width}d}' if last else 'up'}"

    def label(self, group: int) -> str:
        first, last = self._limits(group)
        return f"{first:,} {f'to {last:,}' if last else 'and more'}"

    def _limits(self, group: int) -> tuple[int, int | None]:
        first = self.bounds[group - 1] + 1 if group else 1
        return first, self.bounds[group] if group < len(self.bounds) - 1 else None


# Quotas


def allot(
    counts: Integers,
    *,
    weights: Floats,
    source_caps: Floats | float = np.inf,
    language_caps: Floats | float = np.inf,
    by_share: bool = False,
    alpha: float = 1.0,
    rows: int | None = None,
    epochs: float = 1.0,
    repeats: float = np.inf,
) -> Integers:
    """(S, L) rows to draw of each source and language, given the counts of those there are.

    weights (S,): how often a row of the source is drawn in an epoch, or by_share the source's part
    of the mix. source_caps (S,), language_caps (L,): rows at most. repeats: how often a row of each
    source and language is drawn at most.

    1. Weights: counts times weight times epochs, within the limits: repeats, then the cap of each
       source, then that of each language, which scale what they hold down in proportion.
    2. Shares instead: counts within the limits, each source scaled to its share, all so that no
       source is drawn more than once in an epoch.
    3. Temperature: language l with n_l of these in all is scaled by n_l ** (alpha - 1), so that
       p_l is proportional to n_l ** alpha; by share, each source then to its sum before.
       Source: Conneau et al. 2020 (XLM-R), section 3.1, after Lample & Conneau 2019.
    4. Total: `rows`, or the sum before step 3. All are scaled alike until the total is reached
       within the limits; what these keep from some languages goes to the others. There may be
       fewer rows, never more.
    5. Rounding to whole rows by largest remainders.

    Raises InputError where a source has a share, but no rows.
    """
    real = counts.astype(np.float64)
    most = np.where(counts > 0, repeats, 1.0) * real  # no nan of 0 rows without a limit

    def limited(drawn: Floats) -> Floats:
        held = np.minimum(drawn, most)
        for axis, caps in ((1, source_caps), (0, language_caps)):
            sums = held.sum(axis=axis)
            scale = np.minimum(1.0, caps / np.where(sums > 0, sums, 1.0))
            held = held * np.expand_dims(scale, axis)
        return held

    if by_share:
        mass = _scaled_to_shares(limited(real), weights, epochs)  # 2
    else:
        mass = limited(real * (weights[:, None] * epochs))  # 1
    total = float(limited(mass).sum()) if rows is None else rows
    languages = mass.sum(axis=0)
    factors = np.zeros_like(languages)
    factors[languages > 0] = languages[languages > 0] ** (alpha - 1)  # 3
    drawn = mass * factors
    if by_share:
        before, after = (x.sum(axis=1, keepdims=True) for x in (mass, drawn))
        drawn *= np.divide(before, after, out=np.zeros_like(after), where=after > 0)
    return _rounded(_of_total(drawn, total, limited), most, source_caps, language_caps)  # 4, 5


def _scaled_to_shares(held: Floats, shares: Floats, epochs: float) -> Floats:
    """Rows scaled to the shares of their sources, as many as there are epochs."""
    sums, shared = held.sum(axis=1), shares > 0
    if empty := np.flatnonzero((sums == 0) & shared).tolist():
        raise InputError(f"source {empty[0] + 1} has a share of the mix, but no rows")
    whole = np.min(sums[shared] / shares[shared]) * epochs
    scale = np.divide(shares * whole, sums, out=np.zeros_like(sums), where=sums > 0)
    scaled: Floats = held * scale[:, None]
    return scaled


def _of_total(mass: Floats, rows: float, limited: Callable[[Floats], Floats]) -> Floats:
    """The rows of the factor that gives this total, or the most there can be."""
    if mass.sum() <= 0:
        return mass
    low, high = 0.0, rows / float(mass.sum())
    before = -1.0
    while (reached := float(limited(mass * high).sum())) < rows * (1 - 1e-12):
        if reached <= before * (1 + 1e-12):  # limits hold everywhere
            return limited(mass * high)
        low, high, before = high, 2 * high, reached
    for _ in range(100 if low > 0 else 0):  # halves the interval to far below one row
        middle = (low + high) / 2
        if float(limited(mass * middle).sum()) < rows:
            low = middle
        else:
            high = middle
    return limited(mass * high)


def _rounded(
    real: Floats, most: Floats, source_caps: Floats | float, language_caps: Floats | float
) -> Integers:
    """Whole rows with the sum of the real ones, within the limits."""
    whole = np.floor(real + 1e-9)
    missing = round(float(real.sum())) - int(whole.sum())
    rest = real - whole
    for cell in np.argsort(-rest, axis=None, kind="stable").tolist():
        at = divmod(cell, real.shape[1])
        if missing <= 0 or rest[at] <= 1e-9:
            break
        whole[at] += 1
        within = (
            whole[at] <= most[at]
            and (whole.sum(axis=1) <= source_caps).all()
            and (whole.sum(axis=0) <= language_caps).all()
        )
        if within:
            missing -= 1
        else:
            whole[at] -= 1
    return whole.astype(np.int64)


# Random order


class Scatter:
    """Lines to files in random order, in bounded memory: scattered, then each file is sorted.

    A line's random key says which file of its group it goes to and where in it, so that the order
    depends on keys alone. buffer: bytes of lines that wait in memory to be written.
    """

    def __init__(self, folder: Path, *, buffer: int = 32 << 20) -> None:
        self._folder, self._buffer = folder, buffer
        self._waiting: dict[tuple[int, int], list[bytes]] = {}
        self._size = 0
        self._paths: dict[tuple[int, int], Path] = {}

    def add(self, group: int, files: int, key: float, line: bytes) -> None:
        """A line of a group that is spread over so many files; key from 0 to 1, 1 left out."""
        line = b"%b\t%b" % (repr(key).encode(), line)
        self._waiting.setdefault((group, int(key * files)), []).append(line)
        self._size += len(line)
        if self._size >= self._buffer:
            self._flush()

    def files(self) -> Iterator[tuple[int, int, int, list[bytes]]]:
        """Of each file its group, number, the number of the last of its group, and its lines.

        What was scattered is removed.
        """
        self._flush()
        last, numbers = Counter(group for group, _ in self._paths), Counter[int]()
        for (group, _), path in sorted(self._paths.items()):
            numbers[group] += 1
            with path.open("rb") as file:
                lines = sorted(file, key=lambda line: float(line.partition(b"\t")[0]))
            path.unlink()
            yield group, numbers[group], last[group], [line.partition(b"\t")[2] for line in lines]

    def _flush(self) -> None:
        for (group, file), lines in self._waiting.items():
            path = self._folder / f".scattered-{group}-{file}"
            self._paths[group, file] = path
            with path.open("ab") as out:  # opened anew: there may be very many
                out.writelines(lines)
        self._waiting.clear()
        self._size = 0


# The job


@dataclass(frozen=True)
class Mix:
    """Sources, and how many of their rows of which languages and lengths are drawn."""

    name: ClassVar[str] = "mix"

    target: str  # folder
    sources: tuple[Source, ...]  # or their tables, as `Source.of` takes them
    rows: int | None = None  # of the mix; or
    epochs: float = 1.0
    alpha: float = 1.0  # languages are drawn with p proportional to n ** alpha
    cap: int | None = None  # rows of a language at most
    caps: dict[str, int] = field(default_factory=dict)  # of some languages, instead of `cap`
    repeats: int | None = None  # how often a row is drawn at most
    unit: Unit = "characters"
    lengths: tuple[int, ...] = ()  # upper bounds of the length groups; none: the paper's
    model: str | None = None  # whose tokens are counted
    revision: str | None = None
    file_mb: float = 64.0  # of a file, unpacked, about; so much memory is needed
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sources", "lengths"):
            if not isinstance(getattr(self, name), list | tuple):
                raise InputError(f"{name} must be a list, got {getattr(self, name)!r}")
        sources = tuple(s if isinstance(s, Source) else Source.of(s) for s in self.sources)
        object.__setattr__(self, "sources", sources)
        names = Counter(source.label for source in sources)
        twice = [repr(name) for name, count in names.items() if count > 1]
        shares = [source.share for source in sources if source.share is not None]
        unshared = [source.label for source in sources if source.share is None]
        _check_numbers(vars(self))
        for wrong, problem in (
            (not sources, "no [[sources]], each with files = [...]: there is nothing to mix"),
            (twice, f"two sources are called {', '.join(twice)}: name them in a TOML file"),
            (
                shares and unshared,
                f"source {', '.join(unshared)} has no share, but others do: give all of them one",
            ),
            (
                shares and not math.isclose(sum(shares), 100, abs_tol=0.01),
                f"the shares of the sources add up to {sum(shares):g}%, not 100%",
            ),
            (
                not shares and not any(source.weight for source in sources),
                "all weights are 0: there is nothing to mix",
            ),
            (not (self.epochs and self.file_mb), "epochs and file_mb must be above 0"),
            (
                not isinstance(self.caps, dict)
                or not all(type(cap) is int and cap >= 0 for cap in self.caps.values()),
                f"caps must be whole numbers of rows, got {self.caps}",
            ),
            (
                not isinstance(self.model, str | None) or not isinstance(self.revision, str | None),
                f"model and revision must be names, got {self.model!r} and {self.revision!r}",
            ),
            (
                self.unit not in get_args(Unit),
                f"unit {self.unit!r}: choose from {', '.join(get_args(Unit))}",
            ),
            (
                self.unit == "tokens" and self.model is None,
                "to count tokens, say of which model",
            ),
        ):
            if wrong:
                raise InputError(problem)
        _ = self.groups

    @property
    def groups(self) -> LengthGroups:
        return LengthGroups(self.unit, tuple(self.lengths) or BOUNDS[self.unit])

    def inputs(self) -> list[Path]:
        return [part for _, path in self._files() for part in parts_of(path)]

    def check_target(self) -> None:
        """Raises InputError where the target exists, before time is spent on making it."""
        if Path(self.target).exists():
            raise InputError(f"{self.target} exists already: remove it or choose another folder")

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes the part's rows, each with its number, cell and group, and counts them."""
        self.check_target()
        groups, tokenizer, raw = self.groups, self._tokenizer(), 0
        cells: dict[str, tuple[list[int], list[int]]] = {}  # of each group the rows and bytes
        with gzip.open(folder / ROWS, "wb", compresslevel=1) as file:
            for batch in batches(self._rows(shard), lambda row: _characters(row[2]), MEASURED):
                of_rows = groups.of([record for _, _, record, _ in batch], tokenizer)
                for (number, source, record, row), group in zip(batch, of_rows, strict=True):
                    line, cell = line_of(row), json.dumps([source, record.lang])
                    empty = [0] * len(groups.bounds), [0] * len(groups.bounds)
                    rows, sizes = cells.setdefault(cell, empty)
                    rows[group] += 1
                    sizes[group] += len(line)
                    raw += record.raw
                    file.write(b"%d\t%b\t%d\t%b" % (number, cell.encode(), group, line))
        (folder / COUNTS).write_text(json.dumps({"cells": cells, "raw": raw}) + "\n")

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Draws the rows and writes the folder; returns the report."""
        self.check_target()
        parts = [json.loads((folder / COUNTS).read_text()) for folder in folders]
        names = sorted({name for part in parts for name in part["cells"]}, key=json.loads)
        if not names:
            raise InputError("the sources hold no rows: there is nothing to mix")
        cells = {name.encode(): number for number, name in enumerate(names)}
        counted = np.zeros((len(cells), 2, len(self.groups.bounds)), dtype=np.int64)
        for part in parts:
            for name, of_cell in part["cells"].items():
                counted[cells[name.encode()]] += of_cell
        counts, group_sizes = counted[:, 0].sum(axis=1), counted[:, 1]
        sources, languages = map(np.array, zip(*map(json.loads, names), strict=True))
        quotas = self._quotas(sources, languages, counts)
        mb = (quotas / counts) @ group_sizes / (1 << 20)  # of each group, about
        files = np.maximum(1, np.ceil(mb / self.file_mb)).astype(np.int64).tolist()
        with atomic_folder(Path(self.target)) as folder:
            scatter, by_group = Scatter(folder), Counter[int]()
            lines = heapq.merge(*(_part_lines(path / ROWS, cells) for path in folders))
            for group, line, key in self._draw(lines, counts, quotas):
                scatter.add(group, files[group], key, line)
                by_group[group] += 1
            written = []
            for group, number, last, of_file in scatter.files():
                name = f"{self.groups.file_name(group)}.{number:04d}-of-{last:04d}.jsonl.gz"
                written.append({"name": name, "rows": write_lines(folder / name, of_file)})
            by_language = {
                language: _drawn(counts, quotas, languages == language)
                for language in dict.fromkeys(languages.tolist())
            }
            report = {
                "to": self.target,
                "rows": int(quotas.sum()),
                "short": 0 if self.rows is None else max(0, self.rows - int(quotas.sum())),
                "raw": sum(part["raw"] for part in parts),
                "sources": {
                    source.label: _drawn(counts, quotas, sources == number)
                    for number, source in enumerate(self.sources)
                },
                "languages": dict(
                    sorted(by_language.items(), key=lambda item: (-item[1]["rows"], item[0]))
                ),
                "lengths": [
                    {"unit": self.unit, "group": self.groups.label(group), "rows": count}
                    for group, count in sorted(by_group.items())
                ],
                "files": written,
                "seed": self.seed,
            }
            text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
            (folder / REPORT).write_text(text, encoding="utf-8")
        return report

    def _files(self) -> list[tuple[int, Path]]:
        """Every file of rows with the number of its source; InputError where one is not there."""
        return [
            (number, path)
            for number, source in enumerate(self.sources)
            for name in source.files
            for path in files_of(Path(name))
        ]

    def _tokenizer(self) -> Tokenizer | None:
        if self.unit != "tokens" or self.model is None:
            return None
        from tercet.layout import fetch, read_tokenizer

        return read_tokenizer(fetch(self.model, self.revision))[0]

    def _rows(self, shard: Shard) -> Iterator[tuple[int, int, Record, Row]]:
        """Number, source, fields and whole of each row of a part; raises InputError as training."""
        for at, (source, path) in enumerate(self._files()):
            for line, row in numbered_rows(path):
                # blocks of a file begin with another part than those of the file before
                if shard.has(at * BLOCK + line - 1):
                    yield at << _LINE_BITS | line, source, check_row(row, f"{path}:{line}"), row

    def _quotas(self, sources: Integers, names: npt.NDArray[Any], counts: Integers) -> Integers:
        """(K,) rows to draw of each cell, given its source, its language and its rows."""
        languages, at = np.unique(names, return_inverse=True)
        by_share = self.sources[0].share is not None
        weights = [source.share if by_share else source.weight for source in self.sources]
        table = np.zeros((len(self.sources), len(languages)), dtype=np.int64)
        table[sources, at] = counts
        quotas = allot(
            table,
            weights=np.array(weights, dtype=np.float64),
            by_share=by_share,
            source_caps=_or_infinite([source.cap for source in self.sources]),
            language_caps=_or_infinite([self.caps.get(str(one), self.cap) for one in languages]),
            alpha=self.alpha,
            rows=self.rows,
            epochs=self.epochs,
            repeats=np.inf if self.repeats is None else self.repeats,
        )
        of_cells: Integers = quotas[sources, at]
        return of_cells

    def _draw(
        self, lines: Iterable[tuple[int, int, int, bytes]], counts: Integers, quotas: Integers
    ) -> Iterator[tuple[int, bytes, float]]:
        """Group and line of each row, as often as it is drawn, with a random key."""
        random_ = random.Random(self.seed)
        times, once = (quotas // counts).tolist(), (quotas % counts).tolist()
        left = counts.tolist()
        for _, cell, group, line in lines:
            # of what is left, each row has the same chance (Knuth, The Art of Computer
            # Programming 2, section 3.4.2, algorithm S)
            extra = random_.random() * left[cell] < once[cell]
            once[cell] -= extra
            left[cell] -= 1
            for _ in range(times[cell] + extra):
                yield group, line, random_.random()


def _drawn(counts: Integers, quotas: Integers, of: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Rows that there are, that are in the mix, that are not; how often one is at most."""
    counts, quotas = counts[of], quotas[of]
    return {
        "found": int(counts.sum()),
        "rows": int(quotas.sum()),
        "left_out": int(np.maximum(counts - quotas, 0).sum()),
        "repeats": int((-(-quotas // counts)).max(initial=0)),
    }


def _or_infinite(caps: Sequence[int | None]) -> Floats:
    return np.array([np.inf if cap is None else cap for cap in caps], dtype=np.float64)


def _characters(record: Record) -> int:
    return sum(map(len, (record.query, *record.pos, *record.neg)))


def _part_lines(path: Path, cells: Mapping[bytes, int]) -> Iterator[tuple[int, int, int, bytes]]:
    """Number, cell, group and line of the rows of a part."""
    with gzip.open(path) as file:
        for raw in file:
            number, cell, group, line = raw.split(b"\t", 3)
            yield int(number), cells[cell], int(group), line
