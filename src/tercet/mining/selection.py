"""Which candidates of a row may be its negatives, which of those are taken, and why others are not.

Reads texts, keys, groups and scores; knows nothing of where the scores come from. In this order:

    1. the ranks asked for, of every source, are united
    2. out: the row's positives, their and the query's duplicates, the row's group, and the
       negatives that it has already
    3. out: what scores above the limit by any source that found it
    4. the rest is put in order: drawn at random by the seed, or the best ranks first
    5. in that order, until there are enough: out are near-duplicates of a positive, repeats of a
       text taken before, and what the scorer puts too near to the positives
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.hybrid import Ranked
from tercet.mining.candidates import Candidates
from tercet.mining.config import MineConfig, Source
from tercet.mining.pool import Places, Pool
from tercet.mining.texts import Shingles, jaccard, shingles
from tercet.scorers import PAIRS, Scorer, scores_of
from tercet.scores import Scores

EXAMPLES, SHOWN = 3, 160  # of each reason; characters of a text in one

REASONS = {
    "positive": "a positive of the row itself",
    "duplicate": "the query or a positive, but for case and white space",
    "group": "of the row's group: shares a document, a question or a translation with it",
    "listed": "a negative that the row has already",
    "limit": "scores too much of the positive's score",
    "blind": "found only where no positive scores above 0, so that there is no limit",
    "near": "nearly the same text as a positive",
    "repeat": "a text taken before, but for case and white space",
    "veto": "too near to the positives, says the scorer",
}


@dataclass(frozen=True)
class Chosen:
    """A row's new negatives by place; with a scorer, its scores of them and of the positives."""

    places: list[int]
    scores: list[float]
    positive_scores: list[float]


@dataclass
class Tally:
    """What was dropped and why, what was kept, with some examples."""

    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    found: int = 0  # candidates, each once a row
    kept: int = 0
    kept_by: dict[str, int] = field(default_factory=dict)
    fewer: int = 0  # rows that end with fewer than were wanted, those with none included
    none: int = 0


@dataclass
class _Row:
    """A row while negatives are chosen for it."""

    number: int  # among the pool's rows
    order: Iterator[int]  # places that are left, in the order in which they are taken
    finders: dict[int, int]  # place -> bits of the sources that found it
    taken: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    positive_scores: list[float] = field(default_factory=list)


class Selector:
    """Chooses negatives for blocks of rows; what it did is in the tally."""

    def __init__(
        self, pool: Pool, candidates: Candidates, config: MineConfig, scorer: Scorer | None = None
    ) -> None:
        self.pool, self.candidates, self.config = pool, candidates, config
        self.scorer = scorer
        self.tally = Tally(kept_by=dict.fromkeys(config.by, 0))

    def choose(self, rows: Places) -> list[Chosen]:
        """The negatives of these rows, in their order."""
        found = self.candidates.find(rows)
        lowest = {source: self._lowest(source, rows) for source in found}
        working = [self._row(at, number, found, lowest) for at, number in enumerate(rows.tolist())]
        if self.scorer is None:
            for row in working:
                row.taken = list(islice(row.order, self.config.number))
        else:
            self._judge(working, self.scorer)
        for row in working:
            self._count(row)
        return [Chosen(row.taken, row.scores, row.positive_scores) for row in working]

    def _lowest(self, source: Source, rows: Places) -> Scores:
        """Each row's lowest score above 0 of its positives; infinity where there is none."""
        counts = self.pool.bounds[rows + 1] - self.pool.bounds[rows]
        owners = np.repeat(np.arange(len(rows)), counts)
        places = np.concatenate([self.pool.positives_of(row) for row in rows.tolist()])
        scores = self.candidates.score(source, rows[owners], places)
        lowest = np.full(len(rows), np.inf, dtype=np.float32)
        np.minimum.at(lowest, owners, np.where(scores > 0, scores, np.inf))
        return lowest

    def _row(
        self, at: int, number: int, found: dict[Source, Ranked], lowest: dict[Source, Scores]
    ) -> _Row:
        """Steps 1 to 4 of one row."""
        pool, config = self.pool, self.config
        parts: list[tuple[Places, Places, npt.NDArray[np.int64]]] = []
        high: list[npt.NDArray[np.bool_]] = []
        blind = 0
        for bit, (source, ranked) in enumerate(found.items()):
            places = ranked.places[at, config.first - 1 : config.last]
            places = places[places >= 0]
            limit = config.limit_of(source)
            positive = lowest[source][at]
            if np.isinf(positive) and np.isfinite(limit):
                blind |= 1 << bit
                high.append(np.zeros(len(places), dtype=np.bool_))
            else:
                scores = ranked.scores[at, config.first - 1 :][: len(places)]
                high.append(scores > limit * positive)
            ranks = np.arange(config.first, config.first + len(places))
            parts.append((places, ranks, np.full(len(places), 1 << bit)))
        every, ranks, bits = (np.concatenate(part) for part in zip(*parts, strict=True))
        places, inverse = np.unique(every, return_inverse=True)
        best = np.full(len(places), config.last + 1)
        np.minimum.at(best, inverse, ranks)
        finders = np.zeros(len(places), dtype=np.int64)
        np.bitwise_or.at(finders, inverse, bits)
        above = np.zeros(len(places), dtype=np.bool_)
        np.logical_or.at(above, inverse, np.concatenate(high))

        own = pool.positives_of(number)
        keys = pool.keys[places]
        known = np.append(pool.keys[own], pool.row_keys[number])
        reasons = {
            "positive": _among(places, own),
            "duplicate": _among(keys, known),
            "group": pool.groups[places] == pool.row_groups[number],
            "listed": _among(keys, pool.negatives_of(number)) & config.keep,
            "limit": above,
            "blind": (finders & ~blind) == 0,
        }
        self.tally.found += len(places)
        left = np.ones(len(places), dtype=np.bool_)
        for reason, out in reasons.items():
            out = out & left
            if out.any():
                self._drop(reason, number, places[out], at, found, lowest)
                left &= ~out
        places, best, finders = places[left], best[left], finders[left]
        if config.hardest:
            order = np.lexsort((places, best))
        else:
            seed = (config.seed, int(pool.row[number]))
            order = np.random.default_rng(seed).permutation(len(places))
        bits_of = dict(zip(places.tolist(), finders.tolist(), strict=True))
        return _Row(number, self._passing(number, places[order].tolist()), bits_of)

    def _passing(self, number: int, places: list[int]) -> Iterator[int]:
        """Step 5 without the scorer: the places that are no near-duplicates and no repeats."""
        pool, near = self.pool, self.config.near
        own = pool.positives_of(number).tolist()
        known: dict[int, Shingles] = {}
        seen: set[int] = set()
        for place in places:
            key = int(pool.keys[place])
            if key in seen:
                self._drop("repeat", number, np.array([place]))
                continue
            mine: Shingles | None = None
            size = int(pool.sizes[place])
            for positive in own:
                other = int(pool.sizes[positive])
                # the similarity is at most the ratio of the sizes, which costs nothing
                if min(size, other) < near * max(size, other):
                    continue
                if positive not in known:
                    known[positive] = shingles(pool.texts[positive])
                mine = shingles(pool.texts[place]) if mine is None else mine
                if jaccard(mine, known[positive]) >= near:
                    self._drop("near", number, np.array([place]))
                    break
            else:
                seen.add(key)
                yield place

    def _judge(self, rows: list[_Row], scorer: Scorer) -> None:
        """Step 5 with the scorer: in rounds, so that no more is scored than is needed."""
        pool, margin = self.pool, self.config.margin
        owners = [(row, int(p)) for row in rows for p in pool.positives_of(row.number)]
        for row, _, score in self._scored(owners, scorer):
            row.positive_scores.append(score)
        waiting = rows
        while waiting:
            asked = [
                (row, place)
                for row in waiting
                for place in islice(row.order, self.config.number - len(row.taken))
            ]
            for row, place, score in self._scored(asked, scorer):
                lowest = min(row.positive_scores)
                if margin is not None and score > lowest - margin:
                    facts = {"score": score, "positive_score": lowest}
                    self._drop("veto", row.number, np.array([place]), facts=facts)
                else:
                    row.taken.append(place)
                    row.scores.append(score)
            some = {row.number for row, _ in asked}  # the others have nothing left
            waiting = [
                row for row in waiting if row.number in some and len(row.taken) < self.config.number
            ]

    def _scored(
        self, wanted: list[tuple[_Row, int]], scorer: Scorer
    ) -> Iterator[tuple[_Row, int, float]]:
        pool = self.pool
        for first in range(0, len(wanted), PAIRS):
            some = wanted[first : first + PAIRS]
            pairs = [(pool.queries[row.number], pool.texts[place]) for row, place in some]
            for (row, place), score in zip(some, scores_of(scorer, pairs), strict=True):
                yield row, place, score

    def _count(self, row: _Row) -> None:
        tally = self.tally
        tally.kept += len(row.taken)
        tally.fewer += len(row.taken) < self.config.number
        tally.none += not row.taken
        for bit, source in enumerate(self.config.by):
            tally.kept_by[source] += sum(row.finders[place] >> bit & 1 for place in row.taken)

    def _drop(
        self,
        reason: str,
        number: int,
        places: Places,
        at: int = 0,
        found: dict[Source, Ranked] | None = None,
        lowest: dict[Source, Scores] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        """Counts what leaves; the first few become examples, with the scores that decided."""
        self.tally.dropped[reason] += len(places)
        examples = self.tally.examples.setdefault(reason, [])
        if len(examples) >= EXAMPLES:
            return
        place = int(places[0])
        pool = self.pool
        example: dict[str, Any] = {
            "row": int(pool.row[number]),
            "query": _short(pool.queries[number]),
            "positive": _short(pool.texts[int(pool.positives_of(number)[0])]),
            "text": _short(pool.texts[place]),
        }
        if reason == "limit" and found is not None and lowest is not None:
            for source, ranked in found.items():
                spots = np.flatnonzero(ranked.places[at] == place)
                if len(spots) and np.isfinite(lowest[source][at]):
                    score, positive = ranked.scores[at, spots[0]], lowest[source][at]
                    if score > self.config.limit_of(source) * positive:
                        facts = {
                            "source": source,
                            "score": round(float(score), 4),
                            "positive_score": round(float(positive), 4),
                        }
        examples.append({**example, **(facts or {})})


def _among(values: Places, few: Places) -> npt.NDArray[np.bool_]:
    """Which of the values are among a few; quicker for those than np.isin."""
    found: npt.NDArray[np.bool_] = (values[:, None] == few).any(axis=1)
    return found


def _short(text: str) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= SHOWN else folded[: SHOWN - 1] + "…"
