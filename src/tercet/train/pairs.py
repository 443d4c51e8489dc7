"""Training pairs as arrays: every text tokenised once, rows pointing into the store.

Knows nothing of models. Texts are cut to a maximum number of tokens when the store is built.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.data.rows import pair_of, read_rows, stem_of
from tercet.data.split import text_key
from tercet.errors import InputError
from tercet.tokens import TokenBatch, Tokenizer

Rows = npt.NDArray[np.int64]
CHARACTERS = 12  # of a text, read per token wanted: no language here needs more
BLOCK = 4096  # texts tokenised at once


@dataclass(frozen=True)
class Pairs:
    """N rows (query, first positive) over S tokenised texts.

    keys (S,) text_key of each text; ids (sum T,) and offsets (S + 1,) their content tokens;
    query, passage (N,) places in the store; group (N,); source (N,) into sources; parallel (N,)
    True where the two sides are in different languages.
    """

    keys: Rows
    ids: npt.NDArray[np.int32]
    offsets: Rows
    query: Rows
    passage: Rows
    group: Rows
    source: Rows
    parallel: npt.NDArray[np.bool_]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.query)

    def lengths(self) -> Rows:
        """(S,) content tokens of each text."""
        return np.diff(self.offsets)

    def batch(self, places: Rows, tokenizer: Tokenizer, max_length: int) -> TokenBatch:
        """The texts at these places, framed by [CLS] and </s>."""
        contents = [
            self.ids[self.offsets[at] : self.offsets[at + 1]].tolist() for at in places.tolist()
        ]
        return tokenizer.frame(contents, max_length=max_length)

    @staticmethod
    def load(files: Sequence[Path], tokenizer: Tokenizer, *, max_tokens: int = 256) -> "Pairs":
        """Reads and tokenises rows; raises InputError where a row cannot train, or none is there.

        A row without "group" is its own group; "source" defaults to the file's name.
        """
        places: dict[int, int] = {}
        chunks: list[npt.NDArray[np.int32]] = []
        pending: list[str] = []
        columns: list[tuple[int, int, int, int, bool]] = []
        sources: dict[str, int] = {}

        def flush() -> None:
            contents = tokenizer.contents(pending)
            chunks.extend(np.array(ids[:max_tokens], dtype=np.int32) for ids in contents)
            pending.clear()

        def place(text: str) -> int:
            key = text_key(text)
            if key not in places:
                places[key] = len(places)
                pending.append(text[: max_tokens * CHARACTERS])
                if len(pending) == BLOCK:
                    flush()
            return places[key]

        for path in files:
            for number, row in enumerate(read_rows(path), 1):
                query, positives = pair_of(row, f"{path}:{number}")
                name = f"{stem_of(path)}/{row.get('source', stem_of(path))}"
                columns.append(
                    (
                        place(query),
                        place(positives[0]),
                        int(row.get("group", -1 - len(columns))),
                        sources.setdefault(name, len(sources)),
                        is_parallel(str(row.get("lang", ""))),
                    )
                )
        flush()
        if not columns:
            raise InputError(f"no training row in {[str(path) for path in files]}")
        table = np.array(columns, dtype=np.int64)
        counts = np.array([len(chunk) for chunk in chunks], dtype=np.int64)
        return Pairs(
            keys=np.fromiter(places, dtype=np.int64, count=len(places)),
            ids=np.concatenate(chunks),
            offsets=np.concatenate(([0], np.cumsum(counts))),
            query=table[:, 0],
            passage=table[:, 1],
            group=table[:, 2],
            source=table[:, 3],
            parallel=table[:, 4].astype(np.bool_),
            sources=tuple(sources),
        )


def is_parallel(language: str) -> bool:
    """Whether a tag names two languages: "de-en" does, "zh-Hant" (a script) does not."""
    head, _, tail = language.rpartition("-")
    return bool(head) and len(tail) in (2, 3) and tail.islower()


class Sampler:
    """Rows of step s, drawn from one source: a function of (seed, s) alone, so resuming is easy.

    Sources are drawn with probability rows ** temperature (1 keeps proportions, 0 makes all
    equal); rows of one batch come from one length band of one source, so little is padded.
    """

    def __init__(
        self,
        pairs: Pairs,
        batch: int,
        *,
        seed: int,
        temperature: float = 0.6,
        bands: int = 4,
    ) -> None:
        self.pairs, self.batch, self.seed = pairs, batch, seed
        lengths = pairs.lengths()
        cost = lengths[pairs.query] + lengths[pairs.passage]
        self.pools: list[Rows] = []
        weights: list[float] = []
        for source in range(len(pairs.sources)):
            rows = np.flatnonzero(pairs.source == source)
            if len(rows) < 64:
                continue
            parts = max(1, min(bands, len(rows) // (2 * batch)))
            for pool in np.array_split(rows[np.argsort(cost[rows], kind="stable")], parts):
                self.pools.append(pool)
                weights.append(len(rows) ** temperature / parts)
        if not self.pools:
            raise InputError("no source has 64 rows: too little to train on")
        self.chances = np.array(weights) / sum(weights)

    def rows(self, step: int) -> Rows:
        """The row numbers of one step, at most one per group."""
        generator = np.random.default_rng((self.seed, step))
        pool = self.pools[int(generator.choice(len(self.pools), p=self.chances))]
        drawn = generator.permutation(pool)[: 2 * self.batch]
        _, first = np.unique(self.pairs.group[drawn], return_index=True)
        return drawn[np.sort(first)][: self.batch]
