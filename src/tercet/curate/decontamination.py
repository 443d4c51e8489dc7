"""The texts of evaluation sets, and what training texts share with them.

Found by hashes, checked by characters:

    1. texts are normalized: case, punctuation and symbols go (quality.Normalized)
    2. of the evaluation texts, runs of `gram` characters are hashed at every `stride`-th place; a
       stretch of `characters` holds at least one of them wherever it starts
    3. of a text that is looked up, every run of `gram` characters is hashed (Karp and Rabin 1987,
       with prefix sums modulo 2**64) and looked for
    4. where one is found, the characters themselves are compared to both sides, so that nothing is
       told that is not shared

The index lies in a folder of arrays that all processes of a machine map into memory. Knows nothing
of the rows that are filtered. Shapes: C characters, T evaluation texts, G hashed runs.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tercet.curate.quality import (
    DENSE,
    Codes,
    Normalized,
    Positions,
    as_text,
    character_classes,
    count_letters,
)
from tercet.curate.shards import batches
from tercet.errors import InputError
from tercet.rows import SUFFIXES, Row, numbered_rows, stem_of, text_lines

# Evaluation sets: BEIR folders, training rows that were held out, translations

Passages = Literal["relevant", "all", "none"]  # of a corpus; others may be shared with training
_TRAIN = "train"  # the name of the judgements that are for training
# fields of a row of translations that hold no text
_NO_TEXT = frozenset({"lang", "id", "_id", "source", "direction", "group", "prompt"})


@dataclass(frozen=True)
class EvaluationText:
    """A text that a model is measured on, and where it stands."""

    text: str
    name: str  # of the set
    path: str
    line: int


def evaluation_files(source: Path) -> list[Path]:
    """The files of a set, or of the sets in a folder; raises InputError where there are none."""
    return [path for files in _sets(source) for path in files]


def read_evaluation(source: Path, *, passages: Passages = "relevant") -> Iterator[EvaluationText]:
    """The texts of a set or of the sets in a folder; raises InputError naming file and line.

    Of a BEIR folder: its queries, but for those judged in qrels/train.tsv alone, and of its corpus
    the passages that are judged to be relevant, all or none. Without qrels all queries count, and
    no passage is known to be relevant.
    """
    for first, *corpus in _sets(source):
        name = stem_of(first) if first == source else first.parent.name
        if not first.name.startswith("queries.") or first == source:
            yield from _read_rows(first, name)
            continue
        judged, relevant = _read_qrels(first.parent / "qrels")
        yield from _read_texts(first, name, judged)
        if corpus and passages != "none":
            yield from _read_texts(corpus[0], name, None if passages == "all" else relevant)


def _sets(source: Path) -> list[list[Path]]:
    """Of each set its file of rows, or its queries and maybe its corpus."""
    if source.is_file():
        if not source.name.endswith(SUFFIXES):
            raise InputError(f"{source}: not a file of rows ({', '.join(SUFFIXES)})")
        return [[source]]
    if not source.is_dir():
        raise InputError(f"{source}: no such evaluation set")
    folders = [source] if _set_in(source) else sorted(source.iterdir())
    sets = list(filter(None, map(_set_in, folders)))
    if not sets:
        raise InputError(
            f"{source}: no evaluation set here: a set is a folder with queries.jsonl (or .gz) and "
            "corpus.jsonl, one with pairs.jsonl, or a file of rows"
        )
    return sets


def _set_in(folder: Path) -> list[Path]:
    """The files of the set that a folder is; none where it is none."""

    def named(name: str) -> list[Path]:
        paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
        return [path for path in paths if path.is_file()][:1]

    queries = named("queries")
    return queries + named("corpus") if queries else named("pairs")


def _read_qrels(folder: Path) -> tuple[set[str] | None, set[str]]:
    """Ids of the queries (None: all) and of the relevant passages of all judgements but train."""
    files = sorted(folder.glob("*.tsv"))
    queries: set[str] = set()
    passages: set[str] = set()
    for path in files:
        if path.stem == _TRAIN:
            continue
        for number, line in text_lines(path):
            if not line.strip() or (number == 1 and "query-id" in line):
                continue
            fields = line.split("\t")
            try:
                query, passage, gain = fields[0], fields[-2], float(fields[-1])
            except (IndexError, ValueError):
                raise InputError(
                    f"{path}:{number}: expected query id, passage id and gain, parted by tabs, got "
                    f"{line[:60]!r}"
                ) from None
            queries.add(query)
            if gain > 0:
                passages.add(passage)
    return (queries if files else None), passages


def _read_texts(path: Path, name: str, ids: set[str] | None) -> Iterator[EvaluationText]:
    """Texts of queries.jsonl or corpus.jsonl, those with these ids; None: all."""
    for number, row in numbered_rows(path):
        key, text = row.get("_id"), row.get("text")
        if not isinstance(key, str | int) or not isinstance(text, str):
            raise InputError(f"{path}:{number}: an evaluation text needs '_id' and 'text'")
        if text.strip() and (ids is None or str(key) in ids):
            yield EvaluationText(text, name, str(path), number)


def _read_rows(path: Path, name: str) -> Iterator[EvaluationText]:
    for number, row in numbered_rows(path):
        texts = _texts_of(row)
        if not texts:
            raise InputError(
                f"{path}:{number}: no text: an evaluation row has 'query' and 'pos', 'text', or "
                "translations"
            )
        for text in texts:
            yield EvaluationText(text, name, str(path), number)


def _texts_of(row: Row) -> list[str]:
    if row.keys() & {"query", "pos", "text"}:
        positives = row.get("pos")
        values = [row.get("query"), row.get("text")]
        values += positives if isinstance(positives, list) else []
    else:
        values = [value for field, value in row.items() if field not in _NO_TEXT]
    return [value for value in values if isinstance(value, str) and value.strip()]


# The index

WHOLE = 10  # words of an evaluation text that stands whole in another; 8 happen by chance
SAME = 20  # letters of two equal texts at least (quality.count_letters)
COMPARED = 8  # places of one run that are compared: what stands in more is common
BLOCK = 1 << 20  # characters looked up at once

_HEADER = 128  # bytes of a .npy file without rows
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 1 << 64)
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # odd; of SplitMix64 (Steele et al. 2014)

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """What a text shares with an evaluation text."""

    name: str  # of the set
    where: str  # file:line
    shared: str  # as it is compared: without case and punctuation
    whole: bool  # the two are the same text


@dataclass(frozen=True)
class MinOverlap:
    """How long a shared stretch must be."""

    words: int = 13  # of scripts with spaces: GPT-3 (Brown et al. 2020, appendix C)
    characters: int = 50  # GPT-4 (OpenAI 2023, appendix C)

    def __post_init__(self) -> None:
        if self.words < 1 or self.characters < 12:
            raise InputError("a shared stretch has at least 1 word and 12 characters")

    @property
    def stride(self) -> int:
        """Between the hashed runs of an evaluation text."""
        return self.characters // 3

    @property
    def gram(self) -> int:
        """Characters of a hashed run."""
        return self.characters - self.stride + 1

    def allows(self, run: Codes, *, whole: bool, cuts: int) -> bool:
        """Whether a run is long enough.

        whole: it is all of the evaluation text. cuts: its ends that lie in the middle of a word.
        """
        dense = int(((character_classes()[run] & DENSE) > 0).sum())
        words = as_text(run).split()
        spaced = [word for word in words if not (character_classes()[ord(word[0])] & DENSE)]
        whole_words = len(spaced) - (cuts if len(spaced) == len(words) else 0)
        # a dense stretch of `characters` counts as much as `words` words
        size = whole_words + dense * self.words / self.characters
        if whole:
            return size >= min(WHOLE, self.words)
        return len(run) >= self.characters and size >= self.words


class OverlapIndex:
    """The evaluation texts of some sets, to look texts up in."""

    def __init__(self, folder: Path) -> None:
        facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
        self.least = MinOverlap(**facts["shares"])
        self._files: list[tuple[str, str]] = facts["files"]  # names of sets and paths
        self._codes = np.memmap(folder / "codes.bin", dtype=np.uint32, mode="r")
        self._starts, self._ends, self._file, self._line = _load(folder, "texts")
        self._grams = _load(folder, "grams")  # (G,) sorted
        self._places = _load(folder, "places")  # (G,) in codes
        self._keys = _load(folder, "keys")  # (T,) sorted
        self._owners = _load(folder, "owners")  # (T,) their texts
        self._may = _load(folder, "may")  # which hashes may be there
        self._shift = np.uint64(64 - len(self._may).bit_length() + 1)

    @staticmethod
    def build(texts: Iterable[EvaluationText], least: MinOverlap, folder: Path) -> None:
        """Writes the index of T texts into a folder."""
        files: dict[tuple[str, str], int] = {}
        rows = array("q")
        grams, places, keys = [], [], []
        offset = 0
        with (folder / "codes.bin").open("wb") as codes:
            for block in batches(texts, lambda text: len(text.text), BLOCK):
                normalized = Normalized.of([text.text for text in block])
                hasher = _Hasher(normalized)
                starts = hasher.starts(least.gram)
                within = starts - normalized.starts[hasher.owners(starts)]
                starts = starts[within % least.stride == 0]
                grams.append(hasher.runs(starts, least.gram))
                places.append(starts + offset)
                keys.append(hasher.whole())
                bounds = (normalized.starts + offset, normalized.ends + offset)
                for text, start, end in zip(block, *map(np.ndarray.tolist, bounds), strict=True):
                    file = files.setdefault((text.name, text.path), len(files))
                    rows.extend((start, end, file, text.line))
                codes.write(normalized.codes.tobytes())
                offset += len(normalized.codes)
        if not rows:
            raise InputError("the evaluation sets hold no text")
        order = np.argsort(all_grams := np.concatenate(grams), kind="stable")
        all_grams = all_grams[order]
        owners = np.argsort(all_keys := np.concatenate(keys), kind="stable")
        # 8 places for each hash, so that 1 look-up in 9 of what is not there goes further
        bits = min(28, max(16, (8 * len(all_grams)).bit_length()))
        may = np.zeros(1 << bits, dtype=np.bool_)
        may[all_grams >> np.uint64(64 - bits)] = True
        np.save(folder / "texts.npy", np.array(rows, dtype=np.int64).reshape(-1, 4).T)
        np.save(folder / "grams.npy", all_grams)
        np.save(folder / "places.npy", np.concatenate(places)[order])
        np.save(folder / "keys.npy", all_keys[owners])
        np.save(folder / "owners.npy", owners)
        np.save(folder / "may.npy", may)
        facts = {"shares": asdict(least), "files": list(files)}
        (folder / "facts.json").write_text(json.dumps(facts))

    def find(self, texts: Sequence[str]) -> list[Overlap | None]:
        """What each of N texts shares with an evaluation text, None where that is too little."""
        out: list[Overlap | None] = []
        for block in batches(texts, len, BLOCK):
            hasher = _Hasher(Normalized.of(block))
            overlaps = self._find_whole(hasher)
            self._find_runs(hasher, overlaps)
            out += overlaps
        return out

    def _find_whole(self, hasher: "_Hasher") -> list[Overlap | None]:
        """Of each text the evaluation text that is the same."""
        texts = hasher.texts
        overlaps: list[Overlap | None] = [None] * len(texts)
        keys = hasher.whole()
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        for number in np.flatnonzero(self._keys[at] == keys).tolist():
            text, owner = texts.text(number), int(self._owners[at[number]])
            same = self._codes[self._starts[owner] : self._ends[owner]]
            if count_letters(text) >= SAME and np.array_equal(text, same):
                overlaps[number] = self._overlap(owner, text, whole=True)
        return overlaps

    def _find_runs(self, hasher: "_Hasher", overlaps: list[Overlap | None]) -> None:
        """Adds, to texts without one, the first run that is shared and long enough."""
        if not len(self._grams):  # no evaluation text is as long as a run
            return
        starts = hasher.starts(self.least.gram)
        hashes = hasher.runs(starts, self.least.gram)
        maybe = self._may[hashes >> self._shift]
        starts, hashes = starts[maybe], hashes[maybe]
        first = np.searchsorted(self._grams, hashes)
        known = self._grams[first.clip(max=len(self._grams) - 1)] == hashes
        starts, first, hashes = starts[known], first[known], hashes[known]
        last = np.searchsorted(self._grams, hashes, side="right").clip(max=first + COMPARED)
        compared: dict[tuple[int, int], int] = {}  # text and shift -> where the run there ends
        columns = (starts, first, last, hasher.owners(starts))
        for start, low, high, number in zip(*(c.tolist() for c in columns), strict=True):
            for place in self._places[low:high].tolist():
                if overlaps[number] is not None:
                    break
                if start < compared.get((number, place - start), 0):
                    continue  # the run that is compared through this place is known
                begin, end = int(hasher.texts.starts[number]), int(hasher.texts.ends[number])
                overlaps[number], until = self._compare(
                    hasher.texts.codes, begin, end, start, place
                )
                compared[number, place - start] = until

    def _compare(
        self, codes: Codes, begin: int, end: int, start: int, place: int
    ) -> tuple[Overlap | None, int]:
        """The longest run through two places, if it is long enough, and where it ends in the text.

        codes[begin:end] is the text; start and place are where the same run begins in both.
        """
        owner = int(np.searchsorted(self._starts, place, side="right")) - 1
        low, high = int(self._starts[owner]), int(self._ends[owner])
        right = _same(codes[start:end], self._codes[place:high])
        left = _same(codes[begin:start][::-1], self._codes[low:place][::-1])
        first, last = start - left, start + right
        run = codes[first:last]
        whole = left == place - low and right == high - place
        cuts = (first > begin and ord(" ") not in codes[first - 1 : first + 1]) + (
            last < end and ord(" ") not in codes[last - 1 : last + 1]
        )
        if right < self.least.gram or not self.least.allows(run, whole=whole, cuts=cuts):
            return None, last
        return self._overlap(owner, run, whole=False), last

    def _overlap(self, owner: int, shared: Codes, *, whole: bool) -> Overlap:
        name, path = self._files[self._file[owner]]
        return Overlap(name, f"{path}:{self._line[owner]}", as_text(shared).strip(), whole)


def _load(folder: Path, name: str) -> Any:
    """An array that is mapped into memory, but for an empty one, which cannot be."""
    path = folder / f"{name}.npy"
    return np.load(path, mmap_mode="r" if path.stat().st_size > _HEADER else None)


class _Hasher:
    """Prefix sums of the characters of many texts, from which the hash of any run follows."""

    def __init__(self, texts: Normalized) -> None:
        self.texts = texts
        powers, self._inverses = _powers(1 << (len(texts.codes) + 1).bit_length())
        mixed = (texts.codes.astype(np.uint64) + np.uint64(1)) * _MIX
        mixed ^= mixed >> np.uint64(31)
        self._sums = np.zeros(len(mixed) + 1, dtype=np.uint64)
        np.cumsum(mixed * powers[: len(mixed)], out=self._sums[1:])

    def starts(self, size: int) -> Positions:
        """Places where a run of this size lies in one text."""
        starts, ends = self.texts.starts, self.texts.ends
        long = ends - starts >= size
        step = np.zeros(len(self.texts.codes) + 1, dtype=np.int8)
        step[starts[long]] = 1
        step[ends[long] - size + 1] = -1
        return np.flatnonzero(np.cumsum(step, dtype=np.int8)).astype(np.int64)

    def owners(self, starts: Positions) -> Positions:
        return np.searchsorted(self.texts.starts, starts, side="right").astype(np.int64) - 1

    def runs(self, starts: Positions, size: int) -> Hashes:
        """Hashes of the runs of one size at these places."""
        return _finish((self._sums[starts + size] - self._sums[starts]) * self._inverses[starts])

    def whole(self) -> Hashes:
        starts, ends = self.texts.starts, self.texts.ends
        sums = (self._sums[ends] - self._sums[starts]) * self._inverses[starts]
        return _finish(sums + (ends - starts).astype(np.uint64))


def _finish(sums: Hashes) -> Hashes:
    sums = (sums ^ (sums >> np.uint64(32))) * _MIX
    out: Hashes = sums ^ (sums >> np.uint64(29))
    return out


@lru_cache(maxsize=1)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers 0 to count - 1 of the base and of its inverse, modulo 2**64."""

    def of(base: int) -> Hashes:
        factors = np.full(count, base, dtype=np.uint64)
        factors[0] = 1
        return np.multiply.accumulate(factors)

    return of(_BASE), of(_INVERSE)


def _same(left: Codes, right: Codes) -> int:
    size = min(len(left), len(right))
    differs = left[:size] != right[:size]
    return int(differs.argmax()) if differs.any() else len(differs)
