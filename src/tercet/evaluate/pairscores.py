"""MaxSim of candidates whose multi-vectors would not fit on disk: encoded, scored, let go.

Scores are kept by content, so that a killed run goes on. Knows nothing of rankings.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tercet.embeddings import Embeddings
from tercet.evaluate.encoding import CHARACTERS, TEXTS, Cache, Settings, digest_of
from tercet.evaluate.tasks import Corpus
from tercet.hybrid import MultiRanker
from tercet.io import atomic_write
from tercet.scores import Places, Scores


@dataclass(frozen=True)
class Streamed:
    """The passages of a corpus that are asked for, in one reading of it."""

    cache: Cache
    corpus: Corpus
    settings: Settings  # of the multi-vectors alone

    def scorer(
        self, queries: Embeddings, show: Callable[[int], None]
    ) -> Callable[[Places, Places], Scores]:
        """A function of pairs, sorted by row, to their MaxSim; `show` is told passages done."""

        def score(rows: Places, places: Places) -> Scores:
            out = np.empty(len(places), dtype=np.float32)
            done = 0
            for some, texts in self._blocks(np.unique(places)):
                mine = np.flatnonzero(np.isin(places, some))
                at = np.searchsorted(some, places[mine])
                out[mine] = self._block(texts, queries, rows[mine], at)
                done += len(some)
                show(done)
            return out

        return score

    def _block(self, texts: list[str], queries: Embeddings, rows: Places, at: Places) -> Scores:
        digest = hashlib.sha256(self.cache.key(digest_of(texts), self.settings).encode())
        assert queries.multi is not None
        for array in (queries.multi, queries.offsets, rows, at):
            digest.update(np.ascontiguousarray(array).tobytes())
        place = self.cache.folder / "maxsim" / f"{digest.hexdigest()[:40]}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):  # made anew
            kept: Scores = np.load(place)
            return kept
        found = MultiRanker(queries, self.cache.once(texts, self.settings), len(texts)).score(
            rows, at
        )
        with atomic_write(place) as file:
            np.save(file, found)
        return found

    def _blocks(self, wanted: Places) -> Iterator[tuple[Places, list[str]]]:
        texts: list[str] = []
        places: list[int] = []
        characters, next_at = 0, 0
        for place, (_, text) in enumerate(self.corpus.read()):
            if next_at == len(wanted):
                break
            if place != wanted[next_at]:
                continue
            next_at += 1
            if texts and (len(texts) == TEXTS or characters + len(text) > CHARACTERS):
                yield np.array(places), texts
                texts, places, characters = [], [], 0
            texts.append(text)
            places.append(place)
            characters += len(text)
        if texts:
            yield np.array(places), texts
