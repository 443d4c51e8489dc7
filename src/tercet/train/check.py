"""What is in files of training rows, and what in them cannot train: everything is read once.

What stays in memory of a text is a few numbers. Knows nothing of models but their tokenizers.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet import checkpoint
from tercet.checkpoint import fetch
from tercet.errors import InputError
from tercet.rows import Record, Row, check_row, numbered_rows
from tercet.split import group_rows, text_key
from tercet.tokenizer import Tokenizer

KEPT = 20  # defects of a file that are told one by one
# Characters of a field: three times what 8,192 tokens hold in most scripts, so mostly never read.
OVERSIZED = 100_000
SPECIAL = 2  # [CLS] and </s>
BLOCK = 4096  # texts tokenised at once, or
CHARACTERS = 1 << 20  # as many as these

Show = Callable[[int, int], None]  # rows read, tokens in them


@dataclass(frozen=True)
class Lengths:
    """Tokens of the texts of one kind as often as they occur, special tokens counted."""

    texts: int
    median: int
    p90: int
    longest: int
    cut: int  # texts that are longer than the limit


@dataclass(frozen=True)
class Found:
    """How many there are of something, and the line of the first."""

    count: int
    first: int | None


@dataclass(frozen=True)
class FileReport:
    """What was found in one file; rows counts those whose fields are right.

    lengths by field: query, pos, neg, and text of raw rows. duplicates have the texts of an earlier
    row, of this file or one before. oversized have more than OVERSIZED characters in a field; empty
    have a text of nothing but white space, and are refused.
    """

    file: str
    rows: int
    texts: int  # different ones
    lengths: dict[str, Lengths]
    languages: dict[str, int]  # rows of each, most first; "" where a row names none
    groups: int
    largest_group: int
    scored: int  # rows with scores of an outside teacher
    without_negatives: Found
    positive_in_negatives: Found
    duplicates: Found
    oversized: Found
    empty: Found
    defects: int
    first_defects: tuple[str, ...]  # KEPT of them, each with file and line


def read_tokenizer(source: str | Path, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model's folder or hub id, without the weights being loaded."""
    return checkpoint.read_tokenizer(fetch(source, revision))[0]


def check_files(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    negatives_required: bool = False,
    show: Show | None = None,
) -> Iterator[FileReport]:
    """Reads files one after the other and reports on each; defects are collected, not raised.

    max_length is the limit of tokens above which a text is counted as cut. negatives_required
    refuses rows that have no negatives of their own.
    """
    seen: set[int] = set()
    for path in files:
        one = _File(path, tokenizer, max_length, seen)
        one.read(negatives_required, show)
        yield one.report()


@dataclass
class _Tally:
    """A count with the line of the first."""

    count: int = 0
    first: int | None = None

    def add(self, line: int, found: bool) -> None:
        if found:
            self.count += 1
            self.first = line if self.first is None else self.first

    def sum(self) -> Found:
        return Found(self.count, self.first)


class _File:
    """One file while it is read."""

    def __init__(self, path: Path, tokenizer: Tokenizer, limit: int, seen: set[int]) -> None:
        self.path, self.tokenizer, self.limit = path, tokenizer, limit
        self.seen = seen  # hashes of rows, of earlier files too
        self.rows = self.tokens = self.scored = self.refused = 0
        self.defects: list[str] = []
        self.languages: Counter[str] = Counter()
        names = ("without_negatives", "positive_in_negatives", "duplicates", "oversized", "empty")
        self.tallies = {name: _Tally() for name in names}
        self._places: dict[int, int] = {}  # of texts, by a hash
        self._keys = array("q")  # text_key of each
        self._lengths = array("q")
        self._waiting: list[str] = []  # texts to be tokenised
        self._characters = 0
        self._roles = {name: array("q") for name in ("query", "pos", "neg", "text")}
        self._joined, self._ends = array("q"), array("q", [0])  # places of query and positives
        self._given = array("q"), array("q")  # rows that bring a group id, and the ids

    def read(self, negatives_required: bool, show: Show | None) -> None:
        """Reads every row."""
        line = 0
        try:
            for line, row in numbered_rows(self.path, skip=self._refuse):
                self.tallies["empty"].add(line, _has_empty(row))
                try:
                    record = check_row(row, f"{self.path}:{line}")
                except InputError as error:
                    self._refuse(error)
                    continue
                if not self._take(record, line) and negatives_required:
                    problem = "no 'neg' of its own, and nothing else to compare with: add negatives"
                    self._refuse(InputError(f"{self.path}:{line}: {problem}"))
                if show is not None and self.rows % 1000 == 0:
                    show(self.rows, self.tokens)
        except InputError as error:  # the file itself: the rows before are reported
            self._refuse(error)
        self._tokenise()
        if not self.rows and not self.refused:
            self._refuse(InputError(f"{self.path}: no rows"))

    def _refuse(self, error: InputError) -> None:
        self.refused += 1
        if len(self.defects) < KEPT:
            self.defects.append(str(error))

    def _take(self, record: Record, line: int) -> bool:
        """Counts a row; whether it has negatives."""
        self.rows += 1
        self.languages[record.lang] += 1
        self.scored += record.pos_scores is not None or record.neg_scores is not None
        query = self._place(record.query)
        pos, neg = ([self._place(text) for text in some] for some in (record.pos, record.neg))
        self._roles["text" if record.raw else "query"].append(query)
        self._roles["pos"].extend(pos)
        self._roles["neg"].extend(neg)
        self._joined.extend((query, *pos))
        self._ends.append(len(self._joined))
        if record.group is not None:
            self._given[0].append(self.rows - 1)
            self._given[1].append(record.group)
        answers = {self._keys[place] for place in pos}
        others = [place for place in neg if self._keys[place] not in answers]
        tallies = self.tallies
        tallies["positive_in_negatives"].add(line, len(others) < len(neg))
        tallies["without_negatives"].add(line, not others)
        longest = max(len(text) for text in (record.query, *record.pos, *record.neg))
        tallies["oversized"].add(line, longest > OVERSIZED)
        whole = _hash(repr((record.prompt, record.query, record.pos, record.neg)))
        tallies["duplicates"].add(line, whole in self.seen)
        self.seen.add(whole)
        return bool(others)

    def _place(self, text: str) -> int:
        exact = _hash(text)
        if exact not in self._places:
            self._places[exact] = len(self._keys)
            self._keys.append(text_key(text))
            self._waiting.append(text)
            self._characters += len(text)
            if len(self._waiting) >= BLOCK or self._characters >= CHARACTERS:
                self._tokenise()
        return self._places[exact]

    def _tokenise(self) -> None:
        lengths = [len(ids) + SPECIAL for ids in self.tokenizer.contents(self._waiting)]
        self._lengths.extend(lengths)
        self.tokens += sum(lengths)
        self._waiting.clear()
        self._characters = 0

    def report(self) -> FileReport:
        """All of it."""
        lengths = np.array(self._lengths, dtype=np.int64)
        keys = np.array(self._keys, dtype=np.int64)
        rows, ids = (np.array(some, dtype=np.int64) for some in self._given)
        joined, ends = (np.array(some, dtype=np.int64) for some in (self._joined, self._ends))
        _, sizes = np.unique(group_rows(keys[joined], ends, (rows, ids)).rows, return_counts=True)
        return FileReport(
            file=str(self.path),
            rows=self.rows,
            texts=len(keys),
            lengths={
                name: self._summary(lengths[np.array(places, dtype=np.int64)])
                for name, places in self._roles.items()
                if places
            },
            languages=dict(self.languages.most_common()),
            groups=len(sizes),
            largest_group=int(sizes.max(initial=0)),
            scored=self.scored,
            defects=self.refused,
            first_defects=tuple(self.defects),
            **{name: tally.sum() for name, tally in self.tallies.items()},
        )

    def _summary(self, lengths: npt.NDArray[np.int64]) -> Lengths:
        median, p90 = np.quantile(lengths, (0.5, 0.9), method="lower").tolist()
        cut = int((lengths > self.limit).sum())
        return Lengths(len(lengths), int(median), int(p90), int(lengths.max()), cut)


def _has_empty(row: Row) -> bool:
    """Whether a text of a row is nothing but white space."""
    fields = [row.get(name) for name in ("query", "text", "pos", "neg")]
    texts = [text for some in fields for text in (some if isinstance(some, list) else [some])]
    return any(isinstance(text, str) and not text.strip() for text in texts)


def _hash(text: str) -> int:
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")
