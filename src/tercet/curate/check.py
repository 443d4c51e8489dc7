"""What is in files of training rows, and what in them cannot train: everything is read once.

What stays in memory of a text is a few numbers. Knows nothing of models but their tokenizers.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError
from tercet.rows import Record, Row, check_row, numbered_rows
from tercet.split import DistinctTexts, RowKeys, text_key
from tercet.tokenizer import Tokenizer

KEPT = 20  # defects of a file that are told one by one
# Characters of a field: three times what 8,192 tokens hold in most scripts, so mostly never read.
OVERSIZED = 100_000
SPECIAL = 2  # [CLS] and </s>
BLOCK = 4096  # texts tokenised at once, or
CHARACTERS = 1 << 20  # as many as these


@dataclass(frozen=True)
class Lengths:
    """Tokens of the texts of one kind as often as they occur, special tokens counted."""

    texts: int
    median: int
    p90: int
    longest: int
    cut: int  # texts that are longer than the limit


@dataclass
class Found:
    """How many there are of something, and the line of the first."""

    count: int = 0
    first: int | None = None

    def add(self, line: int, holds: bool) -> None:
        """Counts a line where it holds."""
        if holds:
            self.count += 1
            self.first = line if self.first is None else self.first


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
    groups: int  # through shared texts, as a split takes them
    largest_group: int
    compared: float  # share of the file's other positives that are related to no row of a sample
    scored: int  # rows with scores of an outside teacher
    without_negatives: Found
    positive_in_negatives: Found
    duplicates: Found
    oversized: Found
    empty: Found
    defects: int
    first_defects: tuple[str, ...]  # KEPT of them, each with file and line


def check_files(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    negatives_required: bool = False,
    block: int = BLOCK,
    show: Callable[[int, int], None] | None = None,
) -> Iterator[FileReport]:
    """Reads files one after the other and reports on each; defects are collected, not raised.

    max_length is the limit of tokens above which a text is counted as cut. negatives_required
    refuses rows that have no negatives of their own. So many texts as block are tokenised at once.
    show is given the rows of a file that are read, and the tokens in them.
    """
    seen = DistinctTexts()  # whole rows, of earlier files too
    for path in files:
        reader = _FileReader(path, tokenizer, max_length, block, seen)
        reader.read(negatives_required, show)
        yield reader.report()


class _FileReader:
    def __init__(
        self, path: Path, tokenizer: Tokenizer, limit: int, block: int, seen: DistinctTexts
    ) -> None:
        self.path, self.tokenizer, self.limit, self.block = path, tokenizer, limit, block
        self.tokens = self.scored = self.refused = 0
        self.defects: list[str] = []
        self.languages: Counter[str] = Counter()
        names = ("without_negatives", "positive_in_negatives", "duplicates", "oversized", "empty")
        self.counts = {name: Found() for name in names}
        self._seen = seen
        self._texts = DistinctTexts()
        self._keys = array("q")  # text_key of each
        self._lengths = array("q")
        self._waiting: list[str] = []  # texts to be tokenised
        self._characters = 0
        self._roles = {name: array("q") for name in ("query", "pos", "neg", "text")}
        self._rows = RowKeys()

    def read(self, negatives_required: bool, show: Callable[[int, int], None] | None) -> None:
        try:
            for line, row in numbered_rows(self.path, skip=self._refuse):
                self.counts["empty"].add(line, _has_empty(row))
                try:
                    record = check_row(row, f"{self.path}:{line}")
                except InputError as error:
                    self._refuse(error)
                    continue
                if not self._take(record, line) and negatives_required:
                    problem = "no 'neg' of its own, and nothing else to compare with: add negatives"
                    self._refuse(InputError(f"{self.path}:{line}: {problem}"))
                if show is not None and len(self._rows) % 1000 == 0:
                    show(len(self._rows), self.tokens)
        except InputError as error:  # the file itself: the rows before are reported
            self._refuse(error)
        self._tokenise()
        if not len(self._rows) and not self.refused:
            self._refuse(InputError(f"{self.path}: no rows"))

    def _refuse(self, error: InputError) -> None:
        self.refused += 1
        if len(self.defects) < KEPT:
            self.defects.append(str(error))

    def _take(self, record: Record, line: int) -> bool:
        """Counts a row; whether it has negatives."""
        self.languages[record.lang] += 1
        self.scored += record.pos_scores is not None or record.neg_scores is not None
        query, *answers = (
            self._key("text" if record.raw else "query", record.query),
            *(self._key("pos", text) for text in record.pos),
        )
        self._rows.add((query, *answers), record.group, record.lang)
        others = [key for text in record.neg if (key := self._key("neg", text)) not in answers]
        longest = max(len(text) for text in (record.query, *record.pos, *record.neg))
        whole = repr((record.prompt, record.query, record.pos, record.neg))
        known = len(self._seen)
        repeated = self._seen.add(whole.encode("utf-8", "surrogatepass")) < known
        for name, holds in (
            ("positive_in_negatives", len(others) < len(record.neg)),
            ("without_negatives", not others),
            ("oversized", longest > OVERSIZED),
            ("duplicates", repeated),
        ):
            self.counts[name].add(line, holds)
        return bool(others)

    def _key(self, role: str, text: str) -> int:
        """Counts a text of a role; its text_key."""
        number = self._texts.add(text.encode("utf-8", "surrogatepass"))
        self._roles[role].append(number)
        if number == len(self._keys):
            self._keys.append(text_key(text))
            self._waiting.append(text)
            self._characters += len(text)
            if len(self._waiting) >= self.block or self._characters >= CHARACTERS:
                self._tokenise()
        return self._keys[number]

    def _tokenise(self) -> None:
        lengths = [len(ids) + SPECIAL for ids in self.tokenizer.contents(self._waiting)]
        self._lengths.extend(lengths)
        self.tokens += sum(lengths)
        self._waiting.clear()
        self._characters = 0

    def report(self) -> FileReport:
        lengths = np.array(self._lengths, dtype=np.int64)
        _, sizes = np.unique(self._rows.groups(), return_counts=True)
        return FileReport(
            file=str(self.path),
            rows=len(self._rows),
            texts=len(self._keys),
            lengths={
                role: self._summary(lengths[np.array(numbers, dtype=np.int64)])
                for role, numbers in self._roles.items()
                if numbers
            },
            languages=dict(self.languages.most_common()),
            groups=len(sizes),
            largest_group=int(sizes.max(initial=0)),
            compared=round(self._rows.related().compared(), 4),
            scored=self.scored,
            defects=self.refused,
            first_defects=tuple(self.defects),
            **self.counts,
        )

    def _summary(self, lengths: npt.NDArray[np.int64]) -> Lengths:
        median, p90 = np.quantile(lengths, (0.5, 0.9), method="lower").tolist()
        cut = int((lengths > self.limit).sum())
        return Lengths(len(lengths), int(median), int(p90), int(lengths.max()), cut)


def _has_empty(row: Row) -> bool:
    fields = [row.get(name) for name in ("query", "text", "pos", "neg")]
    texts = [text for part in fields for text in (part if isinstance(part, list) else [part])]
    return any(isinstance(text, str) and not text.strip() for text in texts)
