"""Texts that share long stretches with evaluation sets, found by hashes and checked by characters.

    1. texts are bared: case, punctuation and symbols go (characters.Bare)
    2. of the evaluation texts, runs of `gram` characters are hashed at every `stride`-th place; a
       stretch of `characters` holds at least one of them wherever it starts
    3. of a text that is looked up, every run of `gram` characters is hashed (Karp and Rabin 1987,
       with prefix sums modulo 2**64) and looked for
    4. where one is found, the characters themselves are compared to both sides, so that nothing is
       told that is not shared

The index lies in a folder of arrays that all processes of a machine map into memory. Knows
nothing of rows. Shapes: C characters, T evaluation texts, G hashed runs.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.data.filter.characters import DENSE, Bare, Codes, Places, as_text, kinds, spread
from tercet.data.filter.evaluation import EvaluationText
from tercet.errors import InputError

# Thirteen words as in GPT-3's decontamination (Brown et al. 2020, appendix C); 50 characters as in
# GPT-4's (OpenAI 2023, appendix C).
WORDS, CHARACTERS = 13, 50
WHOLE = 10  # words of an evaluation text that stands whole in another; 8 happen by chance
SAME = 20  # letters of two equal texts at least; a dense character counts for SPREAD
TRIED = 8  # places of one run that are compared: what stands in more is common
BLOCK = 1 << 20  # characters looked up at once

_HEADER = 128  # bytes of a .npy file without rows
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 1 << 64)
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # odd; of SplitMix64 (Steele et al. 2014)

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Match:
    """What a text shares with an evaluation text."""

    name: str  # of the set
    where: str  # file:line
    shared: str  # as it is compared: without case and punctuation
    whole: bool  # the two are the same text


@dataclass(frozen=True)
class Shares:
    """How long a shared stretch must be."""

    words: int = WORDS  # of scripts with spaces
    characters: int = CHARACTERS

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

    def counts(self, run: Codes, *, whole: bool, inside: tuple[bool, bool]) -> bool:
        """Whether a run is long enough.

        whole: it is all of the evaluation text. inside: it begins, ends in the middle of a word.
        """
        dense = int(((kinds()[run] & DENSE) > 0).sum())
        words = as_text(run).split()
        spaced = [word for word in words if not (kinds()[ord(word[0])] & DENSE)]
        cut = sum(inside) if len(spaced) == len(words) else 0
        # a dense stretch of `characters` counts as much as `words` words
        size = len(spaced) - cut + dense * self.words / self.characters
        if whole:
            return size >= min(WHOLE, self.words)
        return len(run) >= self.characters and size >= self.words


class Overlap:
    """The evaluation texts of some sets, to look texts up in."""

    def __init__(self, folder: Path) -> None:
        """Opens what `build` wrote."""
        facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
        self.shares = Shares(**facts["shares"])
        self.names: list[str] = facts["names"]
        self.files: list[str] = facts["files"]
        self._codes = np.memmap(folder / "codes.bin", dtype=np.uint32, mode="r")
        self._starts, self._ends, self._name, self._file, self._line = _opened(folder, "texts")
        self._grams = _opened(folder, "grams")  # (G,) sorted
        self._places = _opened(folder, "places")  # (G,) in codes
        self._keys = _opened(folder, "keys")  # (T,) sorted
        self._owners = _opened(folder, "owners")  # (T,) their texts
        self._may = _opened(folder, "may")  # which hashes may be there
        self._shift = np.uint64(64 - len(self._may).bit_length() + 1)

    def __len__(self) -> int:
        return len(self._starts)

    @staticmethod
    def build(texts: Iterable[EvaluationText], shares: Shares, folder: Path) -> None:
        """Writes the index of T texts into a folder."""
        names: dict[str, int] = {}
        files: dict[str, int] = {}
        rows = array("q")
        grams, places, keys = [], [], []
        at = 0
        with (folder / "codes.bin").open("wb") as codes:
            for block in _blocks(texts):
                bare = Bare.of([text.text for text in block])
                sums = _Sums(bare.codes)
                starts = sums.starts(bare, shares.gram)
                within = starts - bare.starts[sums.owners(bare, starts)]
                starts = starts[within % shares.stride == 0]
                grams.append(sums.runs(starts, shares.gram))
                places.append(starts + at)
                keys.append(sums.whole(bare))
                for text, start, end in zip(block, bare.starts, bare.ends, strict=True):
                    name = names.setdefault(text.name, len(names))
                    file = files.setdefault(text.path, len(files))
                    rows.extend((int(start) + at, int(end) + at, name, file, text.line))
                codes.write(bare.codes.tobytes())
                at += len(bare.codes)
        if not rows:
            raise InputError("the evaluation sets hold no text")
        order = np.argsort(all_grams := np.concatenate(grams), kind="stable")
        all_grams = all_grams[order]
        by_key = np.argsort(all_keys := np.concatenate(keys), kind="stable")
        # 8 places for each hash, so that 1 look-up in 9 of what is not there goes further
        bits = min(28, max(16, (8 * len(all_grams)).bit_length()))
        may = np.zeros(1 << bits, dtype=np.bool_)
        may[all_grams >> np.uint64(64 - bits)] = True
        arrays: dict[str, npt.NDArray[Any]] = {
            "texts": np.array(rows, dtype=np.int64).reshape(-1, 5).T,
            "grams": all_grams,
            "places": np.concatenate(places)[order],
            "keys": all_keys[by_key],
            "owners": by_key,
            "may": may,
        }
        for label, values in arrays.items():
            np.save(folder / f"{label}.npy", values)
        facts = {
            "shares": {"words": shares.words, "characters": shares.characters},
            "names": list(names),
            "files": list(files),
        }
        (folder / "facts.json").write_text(json.dumps(facts))

    def find(self, texts: Sequence[str]) -> list[Match | None]:
        """What each of N texts shares with an evaluation text, None where that is too little."""
        out: list[Match | None] = []
        for block in _by_size(texts):
            bare = Bare.of(block)
            sums = _Sums(bare.codes)
            found: list[Match | None] = [None] * len(block)
            self._find_whole(bare, sums.whole(bare), found)
            self._find_runs(bare, sums, found)
            out += found
        return out

    def _find_whole(self, bare: Bare, keys: Hashes, found: list[Match | None]) -> None:
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        for number in np.flatnonzero(self._keys[at] == keys).tolist():
            text = bare.text(number)
            owner = int(self._owners[at[number]])
            same = self._codes[self._starts[owner] : self._ends[owner]]
            if spread(text) >= SAME and np.array_equal(text, same):
                found[number] = self._match(owner, text, whole=True)

    def _find_runs(self, bare: Bare, sums: "_Sums", found: list[Match | None]) -> None:
        gram = self.shares.gram
        starts = sums.starts(bare, gram)
        hashes = sums.runs(starts, gram)
        maybe = self._may[hashes >> self._shift]
        starts, hashes = starts[maybe], hashes[maybe]
        if not len(self._grams):  # no evaluation text is as long as a run
            return
        first = np.searchsorted(self._grams, hashes)
        known = self._grams[first.clip(max=len(self._grams) - 1)] == hashes
        starts, first, hashes = starts[known], first[known], hashes[known]
        last = np.searchsorted(self._grams, hashes, side="right").clip(max=first + TRIED)
        owners = sums.owners(bare, starts)
        compared: dict[tuple[int, int], int] = {}  # text and shift -> where the run there ends
        for start, low, high, number in zip(
            starts.tolist(), first.tolist(), last.tolist(), owners.tolist(), strict=True
        ):
            begin, end = int(bare.starts[number]), int(bare.ends[number])
            for place in self._places[low:high].tolist():
                if found[number] is not None:
                    break
                if start < compared.get((number, place - start), 0):
                    continue  # the run that is compared through this place is known
                owner = int(np.searchsorted(self._starts, place, side="right")) - 1
                match, until = self._compare(bare.codes, begin, end, start, owner, place)
                compared[number, place - start] = until
                found[number] = match

    def _compare(
        self, codes: Codes, begin: int, end: int, start: int, owner: int, place: int
    ) -> tuple[Match | None, int]:
        """The longest run through two places, if it counts, and where it ends in the text."""
        low, high = int(self._starts[owner]), int(self._ends[owner])
        after = min(end - start, high - place)
        right = _same(codes[start : start + after], self._codes[place : place + after])
        before = min(start - begin, place - low)
        left = _same(codes[start - before : start][::-1], self._codes[place - before : place][::-1])
        run = codes[start - left : start + right]
        whole = left == place - low and right == high - place
        first, last = start - left, start + right
        edges = (
            first > begin and ord(" ") not in codes[first - 1 : first + 1],
            last < end and ord(" ") not in codes[last - 1 : last + 1],
        )
        if right < self.shares.gram or not self.shares.counts(run, whole=whole, inside=edges):
            return None, start + right
        return self._match(owner, run, whole=False), start + right

    def _match(self, owner: int, shared: Codes, *, whole: bool) -> Match:
        where = f"{self.files[int(self._file[owner])]}:{int(self._line[owner])}"
        return Match(self.names[int(self._name[owner])], where, as_text(shared).strip(), whole)


def _opened(folder: Path, name: str) -> Any:
    """An array that is mapped into memory, but for an empty one, which cannot be."""
    path = folder / f"{name}.npy"
    return np.load(path, mmap_mode="r" if path.stat().st_size > _HEADER else None)


class _Sums:
    """Prefix sums of the characters of many texts, from which the hash of any run follows."""

    def __init__(self, codes: Codes) -> None:
        powers, self._inverses = _powers(len(codes) + 1)
        mixed = (codes.astype(np.uint64) + np.uint64(1)) * _MIX
        mixed ^= mixed >> np.uint64(31)
        self._sums = np.zeros(len(codes) + 1, dtype=np.uint64)
        np.cumsum(mixed * powers[: len(codes)], out=self._sums[1:])

    def starts(self, bare: Bare, size: int) -> Places:
        """Places where a run of this size lies in one text."""
        long = bare.ends - bare.starts >= size
        step = np.zeros(len(bare.codes) + 1, dtype=np.int8)
        step[bare.starts[long]] = 1
        step[bare.ends[long] - size + 1] = -1
        return np.flatnonzero(np.cumsum(step, dtype=np.int8)).astype(np.int64)

    def owners(self, bare: Bare, starts: Places) -> Places:
        """The text in which each place lies."""
        return np.searchsorted(bare.starts, starts, side="right").astype(np.int64) - 1

    def runs(self, starts: Places, size: int) -> Hashes:
        """Hashes of the runs of one size at these places."""
        return _finish((self._sums[starts + size] - self._sums[starts]) * self._inverses[starts])

    def whole(self, bare: Bare) -> Hashes:
        """(T,) hashes of the texts."""
        sums = (self._sums[bare.ends] - self._sums[bare.starts]) * self._inverses[bare.starts]
        return _finish(sums + (bare.ends - bare.starts).astype(np.uint64))


def _finish(sums: Hashes) -> Hashes:
    sums = (sums ^ (sums >> np.uint64(32))) * _MIX
    out: Hashes = sums ^ (sums >> np.uint64(29))
    return out


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers 0 to count - 1 of the base and of its inverse, modulo 2**64."""
    both = _powers_of(1 << count.bit_length())
    return both[0], both[1]


@lru_cache(maxsize=1)
def _powers_of(count: int) -> tuple[Hashes, Hashes]:
    def of(base: int) -> Hashes:
        factors = np.full(count, base, dtype=np.uint64)
        factors[0] = 1
        return np.multiply.accumulate(factors)

    return of(_BASE), of(_INVERSE)


def _same(left: Codes, right: Codes) -> int:
    """How many characters are the same from the first on."""
    differs = left != right
    first = int(differs.argmax()) if len(differs) else 0
    return first if len(differs) and differs[first] else len(differs)


def _blocks(texts: Iterable[EvaluationText]) -> Iterator[list[EvaluationText]]:
    block: list[EvaluationText] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text.text)
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _by_size(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    first, size = 0, 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= BLOCK:
            yield texts[first : number + 1]
            first, size = number + 1, 0
    if first < len(texts):
        yield texts[first:]
