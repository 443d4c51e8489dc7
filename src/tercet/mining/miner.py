"""Rows in, the same rows with hard negatives out, and a report of what was dropped and why.

Joins encoder, candidates and selection; knows nothing of training.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.errors import InputError
from tercet.mining.candidates import Candidates, Encodes
from tercet.mining.config import MineConfig
from tercet.mining.pool import Pool, Rows, each_row, read_corpus
from tercet.mining.selection import REASONS, Chosen, Selector, Tally
from tercet.rows import Row, check_row, write_rows
from tercet.scorers import Scorer, scores_of

BLOCK = 8192  # queries ranked at once

Progress = Callable[[int, int], None]  # texts done and their total: encoded, then mined for


@dataclass(frozen=True)
class MineReport:
    """What was mined, dropped and kept."""

    rows: int  # read
    mined: int  # of them with positives
    texts: int  # candidates
    found: int  # candidates in the ranks asked for, each once a row
    kept: int
    kept_by: dict[str, int]  # source -> how many of the kept ones it found
    dropped: dict[str, int]  # reason -> how many
    fewer: int  # rows that got fewer than were wanted, those with none included
    none: int
    examples: dict[str, list[dict[str, Any]]]  # reason -> the first few
    seconds: float

    @staticmethod
    def of(pool: Pool, tally: Tally, seconds: float) -> "MineReport":
        """The report of a finished tally."""
        return MineReport(
            rows=pool.rows, mined=len(pool), texts=pool.candidates, seconds=seconds, **vars(tally)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}

    def table(self) -> str:
        """The report for people."""
        lines = [
            f"{self.mined} of {self.rows} rows have positives; {self.texts} texts to choose from",
            f"{self.kept} negatives kept of {self.found} candidates, in {self.seconds:.1f} s",
            f"{self.fewer} rows got fewer than wanted, {self.none} of them none",
            "",
            "kept, by what found them (one may be found by several)",
        ]
        lines += [f"  {count:>10,}  {source}" for source, count in self.kept_by.items()]
        lines += ["", "dropped (near, repeat and veto: of those that were drawn)"]
        for reason, count in self.dropped.items():
            lines.append(f"  {count:>10,}  {reason}: {REASONS[reason]}")
            for example in self.examples.get(reason, [])[:1]:
                lines.append(f"              e.g. row {example['row']}: {example['query']!r}")
                lines.append(f"                   positive {example['positive']!r}")
                scores = "".join(
                    f", {name.replace('_', ' ')} {example[name]}"
                    for name in ("source", "score", "positive_score")
                    if name in example
                )
                lines.append(f"                   dropped  {example['text']!r}{scores}")
        return "\n".join(lines)


def mine(
    rows: Rows,
    encoder: Encodes,
    *,
    to: str | Path,
    corpus: Sequence[str | Path] | None = None,
    config: MineConfig | None = None,
    scorer: Scorer | None = None,
    work: str | Path | None = None,
    progress: Progress | None = None,
) -> MineReport:
    """Writes the rows with their "neg" filled to a .jsonl or .jsonl.gz file; it appears when whole.

    rows: files, folders of them, or the rows. corpus: files of texts or BEIR folders; without one
    the rows' positives and negatives are the candidates. Rows without a query go through as they
    are. scorer: a veto, and scores to write where config.scores. work: folder for what does not
    fit in memory; a temporary one beside the result if None. Raises InputError for a bad row
    (naming file and line), option, or answer of the scorer.
    """
    config = MineConfig() if config is None else config
    target = Path(to)
    if not target.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{target}: give a name that ends in .jsonl or .jsonl.gz")
    if config.scores and scorer is None:
        raise InputError("scores are those of a scorer: give one, or leave them out")
    parent = target.parent if work is None else Path(work)
    parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=parent) as scratch:
        folder = Path(scratch)
        pool = Pool.read(rows, folder, None if corpus is None else read_corpus(corpus))
        with contextlib.closing(pool):
            check_size(pool, config)
            tally, chosen = search(pool, encoder, config, folder, scorer=scorer, progress=progress)
            write_rows(target, _merged(rows, pool, chosen, config, scorer))
    return MineReport.of(pool, tally, time.monotonic() - start)


def check_size(pool: Pool, config: MineConfig) -> None:
    """Raises InputError where there are fewer texts than ranks."""
    if pool.candidates < config.last:
        raise InputError(
            f"there are {pool.candidates} texts to choose from, fewer than the ranks "
            f"{config.first}-{config.last}: give a larger corpus or fewer ranks"
        )


def search(
    pool: Pool,
    encoder: Encodes,
    config: MineConfig,
    folder: Path,
    *,
    scorer: Scorer | None = None,
    progress: Progress | None = None,
) -> tuple[Tally, Iterator[Chosen]]:
    """Encodes a pool into a folder; the negatives of its rows come as they are read, in order.

    The tally is complete when the last row has come.
    """
    encoded = sum(name != "bm25" for name in config.by) > 0
    total = len(pool) + encoded * (len(pool.texts) + len(pool))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    candidates = Candidates.prepare(pool, encoder, config, folder, advance)
    selector = Selector(pool, candidates, config, scorer)

    def chosen() -> Iterator[Chosen]:
        for first in range(0, len(pool), BLOCK):
            some = np.arange(first, min(first + BLOCK, len(pool)))
            yield from selector.choose(some)
            advance(len(some))

    return selector.tally, chosen()


def _merged(
    rows: Rows, pool: Pool, chosen: Iterator[Chosen], config: MineConfig, scorer: Scorer | None
) -> Iterator[Row]:
    """The rows again, with what was chosen for them."""
    for where, row in each_row(rows):
        if check_row(row, where).raw:
            yield row
            continue
        new = next(chosen)
        # scores that are there were of other negatives, or on another scale
        row = {name: row[name] for name in row if name not in ("pos_scores", "neg_scores")}
        own = row.get("neg") or [] if config.keep else []
        row["neg"] = own + [pool.texts[place] for place in new.places]
        if config.scores and scorer is not None:
            before = scores_of(scorer, [(row["query"], text) for text in own]) if own else []
            row["pos_scores"] = new.positive_scores
            row["neg_scores"] = before + new.scores
        yield row
