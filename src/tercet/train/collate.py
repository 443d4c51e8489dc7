"""Rows of a step to token batches: positives and hard negatives drawn, segments shuffled, framed.

A row draws by (seed, step, row), whatever device it is on. Knows nothing of models. Shapes: Q
queries, P passages (each query's positive, then its negatives).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError
from tercet.split import text_key
from tercet.tokenizer import TokenBatch, Tokenizer
from tercet.train.config import DataConfig
from tercet.train.examples import Examples, Ragged

Rows = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]


class Framing(Protocol):
    """The two special ids around every text."""

    cls_id: int
    eos_id: int


@dataclass(frozen=True)
class Collated:
    """One device's part of a batch.

    positives (Q,) columns; owners (P,) the query of each passage; a query and a passage that share
    a mark, (Q, 3) and (P, 3), are never each other's negatives; teacher (P,) outside scores, NaN
    where there are none; query_places (Q,) and passage_places (P,) in the examples; rows (Q,).
    """

    queries: TokenBatch
    passages: TokenBatch
    positives: Rows
    owners: Rows
    query_marks: Rows
    passage_marks: Rows
    teacher: npt.NDArray[np.float32]
    query_places: Rows
    passage_places: Rows
    rows: Rows


@dataclass(frozen=True)
class HardNegatives:
    """The hard negatives in use: places of each row's and their outside scores (NaN: none).

    keys and groups (S + E,) are those of the S stored texts and of E extra ones, whose ids are in
    extra; places from S on mean these.
    """

    places: Ragged
    scores: npt.NDArray[np.float32]
    keys: Rows
    groups: Rows
    extra: tuple[Ids, ...] = ()

    @staticmethod
    def of_files(examples: Examples) -> "HardNegatives":
        """Those that the rows came with."""
        return HardNegatives(
            examples.negatives, examples.negative_scores, examples.keys, examples.text_group
        )._of_other_groups(examples)

    def _of_other_groups(self, examples: Examples) -> "HardNegatives":
        """Without those that belong to their row's group: another's positive, a translation."""
        counts = np.diff(self.places.offsets)
        rows = np.repeat(np.arange(len(counts)), counts)
        kept = self.groups[self.places.values] != examples.group[rows]
        left = np.bincount(rows[kept], minlength=len(counts))
        offsets = np.concatenate(([0], np.cumsum(left))).astype(np.int64)
        places = Ragged(self.places.values[kept], offsets)
        return replace(self, places=places, scores=self.scores[kept])

    @staticmethod
    def of_texts(
        examples: Examples, texts: Sequence[Sequence[str]], tokenizer: Tokenizer, config: DataConfig
    ) -> "HardNegatives":
        """New ones, a list for every row; raises InputError where their number differs."""
        if len(texts) != len(examples):
            raise InputError(f"negatives for {len(texts)} rows, but there are {len(examples)} rows")
        passages = np.unique(np.concatenate((examples.positives.values, examples.negatives.values)))
        stored = {int(examples.keys[place]): int(place) for place in passages}
        new: dict[int, tuple[int, str]] = {}
        places: list[int] = []
        offsets = [0]
        for some in texts:
            for text in some:
                key = text_key(text)
                if key not in stored and key not in new:
                    new[key] = (len(examples.keys) + len(new), text)
                places.append(stored[key] if key in stored else new[key][0])
            offsets.append(len(places))
        framed = [config.passage_prefix + text for _, text in new.values()]
        extra = tokenizer.contents(framed, limit=config.passage_tokens - 2) if new else []
        alone = -1 - np.arange(len(new))  # no row's group
        return HardNegatives(
            places=Ragged(np.array(places, dtype=np.int64), np.array(offsets, dtype=np.int64)),
            scores=np.full(len(places), np.nan, dtype=np.float32),
            keys=np.concatenate((examples.keys, np.array(list(new), dtype=np.int64))),
            groups=np.concatenate((examples.text_group, alone)),
            extra=tuple(np.array(ids, dtype=np.int32) for ids in extra),
        )._of_other_groups(examples)


class Collator:
    """Makes batches from examples; hard negatives may be replaced while training."""

    def __init__(
        self, examples: Examples, framing: Framing, config: DataConfig, *, seed: int
    ) -> None:
        self.examples, self.framing, self.config, self.seed = examples, framing, config, seed
        self.hard = HardNegatives.of_files(examples)

    def content(self, place: int) -> Ids:
        """The ids of a stored text, or of one that came with the hard negatives."""
        stored = len(self.examples.keys)
        return self.examples.content(place) if place < stored else self.hard.extra[place - stored]

    def batch(self, rows: Rows, step: int) -> Collated:
        """Texts of these rows as drawn in this step."""
        examples, config = self.examples, self.config
        texts: list[int] = []
        owners: list[int] = []
        scores: list[float] = []
        positives = np.empty(len(rows), dtype=np.int64)
        pieces: list[Ids] = []
        for number, row in enumerate(rows.tolist()):
            draw = np.random.default_rng((self.seed, step, row))
            found, at = examples.positives[row], examples.positives.offsets[row]
            chosen = int(draw.integers(len(found)))
            positives[number] = len(texts)
            texts.append(int(found[chosen]))
            scores.append(float(examples.positive_scores[at + chosen]))
            hard, start = self.hard.places[row], self.hard.places.offsets[row]
            if len(hard) and config.negatives:
                size = min(config.negatives, len(hard))
                picked = np.sort(draw.choice(len(hard), size=size, replace=False))
                texts += hard[picked].tolist()
                scores += self.hard.scores[start + picked].tolist()
            owners += [number] * (len(texts) - len(owners))
            pieces += [self._content(place, draw) for place in texts[len(pieces) :]]
        places = np.array(texts, dtype=np.int64)
        asked = examples.query[rows]
        belongs = np.array(owners, dtype=np.int64)
        asked_keys, keys = examples.keys[asked], self.hard.keys[places]
        return Collated(
            queries=self._frame([examples.content(at) for at in asked], config.query_tokens),
            passages=self._frame(pieces, config.passage_tokens),
            positives=positives,
            owners=belongs,
            # one group; the same text as the positive; a passage of an equal query
            query_marks=np.stack((examples.group[rows], keys[positives], asked_keys), axis=1),
            passage_marks=np.stack((self.hard.groups[places], keys, asked_keys[belongs]), axis=1),
            teacher=np.array(scores, dtype=np.float32),
            query_places=asked,
            passage_places=places,
            rows=rows,
        )

    def texts(self, places: Rows, step: int) -> TokenBatch:
        """Single texts, for a stage without queries."""
        pieces = [
            self._content(place, np.random.default_rng((self.seed, step, place)))
            for place in places.tolist()
        ]
        return self._frame(pieces, self.config.passage_tokens)

    def _content(self, place: int, draw: np.random.Generator) -> Ids:
        """A passage's ids; now and then cut in three, its parts in another order (M3, 3.4)."""
        ids = self.content(place)
        if len(ids) < 3 or draw.random() >= self.config.shuffle_segments:
            return ids
        first, second = np.sort(draw.choice(np.arange(1, len(ids)), size=2, replace=False))
        parts = [ids[:first], ids[first:second], ids[second:]]
        while (order := draw.permutation(3)).tolist() == [0, 1, 2]:
            pass
        return np.concatenate([parts[number] for number in order])

    def _frame(self, contents: Sequence[Ids], most: int) -> TokenBatch:
        return frame(contents, self.framing, most)


def frame(contents: Sequence[Ids], framing: Framing, most: int) -> TokenBatch:
    """[CLS] ids </s> for every text, at most so many tokens each."""
    room = most - 2
    kept = np.array([min(len(content), room) for content in contents], dtype=np.int64)
    offsets = np.concatenate(([0], np.cumsum(kept + 2))).astype(np.int64)
    ids = np.empty(int(offsets[-1]), dtype=np.int32)
    ids[offsets[:-1]] = framing.cls_id
    ids[offsets[1:] - 1] = framing.eos_id
    for start, size, content in zip(offsets.tolist(), kept.tolist(), contents, strict=False):
        ids[start + 1 : start + 1 + size] = content[:size]
    full = np.array([len(content) for content in contents], dtype=np.int64)
    return TokenBatch(ids=ids, offsets=offsets, cls=offsets[:-1].copy(), truncated=full > room)
