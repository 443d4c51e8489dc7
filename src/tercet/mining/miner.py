"""Rows in, the same rows with hard negatives out; and negatives again while a model trains.

The trainer (ANCE, Xiong et al. 2020) knows nothing of this: the command line hands it `Answers`, or
`tercet mine --follow` answers from another process through files, by this protocol:

    1. the trainer writes RUN/config.json once: "data" ("sources" with their "files", and the
       limits of tokens), "negatives" and "seed"
    2. at step s it writes the model to RUN/refresh/step-000123/model, then an empty file READY
       beside it
    3. the follower mines with that model and writes negatives.jsonl beside it, whole at once: for
       each training row, in the order of the files, {"row": n, "neg": [texts]}. Where it cannot,
       it writes the reason to FAILED and ends
    4. it ends when RUN/DONE exists
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tercet.config import MAX_LENGTH, Progress
from tercet.errors import InputError
from tercet.mining import MineConfig
from tercet.mining.pool import Pool, Rows, each_row, read_corpus
from tercet.mining.selection import Candidates, Chosen, Encodes, MineReport, Selector
from tercet.rows import Row, check_row, write_rows
from tercet.scorers import Scorer, scores_of
from tercet.train.config import (
    ANSWER,
    CONFIG,
    DONE,
    FAILED,
    MODEL,
    READY,
    REFRESH,
    NegativesConfig,
    build,
)

BLOCK = 8192  # queries ranked at once


def mine(
    rows: Rows,
    encoder: Encodes,
    *,
    to: str | Path,
    corpus: Sequence[str | Path] | None = None,
    config: MineConfig | None = None,
    scorer: Scorer | None = None,
    work: str | Path | None = None,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> MineReport:
    """Writes the rows with their "neg" filled to a .jsonl or .jsonl.gz file; it appears when whole.

    rows: files, folders of them, or the rows. corpus: files of texts or BEIR folders; without one
    the rows' positives and negatives are the candidates. Rows without a query go through as they
    are. scorer: a veto, and scores to write where config.scores. work: folder for what does not
    fit in memory; a temporary one beside the result if None. block: queries ranked at once.
    progress counts texts, encoded and then mined for. Raises InputError for a bad row (naming file
    and line), option, or answer of the scorer.
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
        texts = None if corpus is None else read_corpus(corpus)
        with contextlib.closing(Pool.read(rows, folder, texts)) as pool:
            if pool.candidates < config.last:
                raise InputError(
                    f"there are {pool.candidates} texts to choose from, fewer than the ranks "
                    f"{config.first}-{config.last}: give a larger corpus or fewer ranks"
                )
            report, chosen = search(
                pool, encoder, config, folder, scorer=scorer, block=block, progress=progress
            )
            write_rows(target, _merged(rows, pool, chosen, config, scorer))
    report.seconds = time.monotonic() - start
    return report


def search(
    pool: Pool,
    encoder: Encodes,
    config: MineConfig,
    folder: Path,
    *,
    scorer: Scorer | None = None,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> tuple[MineReport, Iterator[Chosen]]:
    """Encodes a pool into a folder; the negatives of its rows come as they are read, in order.

    The report is complete but for the time when the last row has come.
    """
    encoded = len(pool.texts) + len(pool) if config.by != ("bm25",) else 0
    total, done = len(pool) + encoded, 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    candidates = Candidates.prepare(pool, encoder, config, folder, advance)
    selector = Selector(pool, candidates, config, scorer)

    def chosen() -> Iterator[Chosen]:
        for first in range(0, len(pool), block):
            rows = np.arange(first, min(first + block, len(pool)))
            yield from selector.choose(rows)
            advance(len(rows))

    return selector.report, chosen()


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


# While a model trains


class Refresher:
    """New negatives for the same rows with a model's state now: `refresher(encoder, step)`.

    rows: the training files in their order, or the rows. The rows are read once, to a temporary
    folder (under `work`) that lasts as long as this. Candidates are the rows' own texts; a corpus
    with fewer texts than ranks gives all it has. The report of the last call is in `report`.
    """

    def __init__(
        self,
        rows: Rows,
        settings: NegativesConfig,
        *,
        seed: int = 0,
        query_tokens: int = 512,
        passage_tokens: int = MAX_LENGTH,
        work: str | Path | None = None,
    ) -> None:
        """Raises InputError for a bad row or setting, naming file and line."""
        self.report: MineReport | None = None
        self._seed = seed
        with contextlib.ExitStack() as stack:
            scratch = tempfile.TemporaryDirectory(prefix=".tercet-refresh-", dir=work)
            self._folder = Path(stack.enter_context(scratch))
            self._pool = stack.enter_context(contextlib.closing(Pool.read(rows, self._folder)))
            texts = self._pool.candidates
            if texts < settings.first:
                raise InputError(
                    f"negatives.first is {settings.first}, but the rows have {texts} texts: set a "
                    f"smaller one"
                )
            last = min(settings.last, texts)
            self._config = MineConfig(
                by=settings.heads,
                first=settings.first,
                last=last,
                number=min(settings.number, (last - settings.first + 1) * len(settings.heads)),
                limit=settings.limit,
                query_tokens=query_tokens,
                passage_tokens=passage_tokens,
            )
            self._open = stack.pop_all()

    def __call__(
        self, encoder: Encodes, step: int, progress: Progress | None = None
    ) -> list[list[str]]:
        """Negatives of every row in order, [] where there are none (raw text has none).

        The encoder's model must be in eval mode. The same weights, rows, seed and step give the
        same negatives.
        """
        start = time.monotonic()
        seed = int(np.random.SeedSequence((self._seed, step)).generate_state(1)[0])
        config, pool = replace(self._config, seed=seed), self._pool
        out: list[list[str]] = [[] for _ in range(pool.rows)]
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            report, found = search(pool, encoder, config, Path(folder), progress=progress)
            for row, chosen in zip(pool.row.tolist(), found, strict=True):
                out[row] = [pool.texts[place] for place in chosen.places]
        report.seconds = time.monotonic() - start
        self.report = report
        return out

    def close(self) -> None:
        """Removes the temporary folder."""
        self._open.close()


class Answers:
    """Answers the requests of one run: `answers(run / "refresh" / "step-000123")`.

    The rows are read at the first one, and kept.
    """

    def __init__(
        self, run: Path, load: Callable[[Path], Encodes], *, work: str | Path | None = None
    ) -> None:
        """load: the encoder of a model's folder."""
        self._run, self._load, self._work = run, load, work
        self._refresher: Refresher | None = None

    def __call__(self, request: Path, progress: Progress | None = None) -> MineReport | None:
        """Writes negatives.jsonl; where it cannot, the reason to FAILED, and raises it."""
        try:
            if self._refresher is None:
                self._refresher = _refresher(self._run / CONFIG, self._work)
            found = self._refresher(self._load(request / MODEL), step_of(request), progress)
            write_rows(request / ANSWER, ({"row": n, "neg": neg} for n, neg in enumerate(found)))
        except Exception as error:  # whatever it is: the trainer must not wait for ever
            (request / FAILED).write_text(f"{error or type(error).__name__}\n", encoding="utf-8")
            raise
        (request / FAILED).unlink(missing_ok=True)
        return self._refresher.report

    def close(self) -> None:
        """Lets go of the rows."""
        if self._refresher is not None:
            self._refresher.close()


def follow(
    run: str | Path,
    load: Callable[[Path], Encodes],
    *,
    poll: float = 1.0,
    work: str | Path | None = None,
    report: Callable[[int, MineReport], None] | None = None,
    progress: Progress | None = None,
) -> int:
    """Answers a run's requests for negatives until it is done; returns how many.

    load: the encoder of a model's folder. Looks every `poll` seconds. Raises InputError for a
    folder or config that is none, ModelError for a model that cannot be loaded.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give the folder of a training run (its `to`)")
    if poll <= 0:
        raise InputError(f"poll is a number of seconds above 0, got {poll}")
    answered = 0
    with contextlib.closing(Answers(folder, load, work=work)) as answers:
        while True:
            done = (folder / DONE).exists()  # looked at first: what came before it is answered
            for request in requests(folder):
                mined = answers(request, progress)
                answered += 1
                if report is not None and mined is not None:
                    report(step_of(request), mined)
            if done:
                return answered
            time.sleep(poll)


def step_of(request: Path) -> int:
    """The step that a request's folder is named after; -1 where it has no such name."""
    number = request.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def requests(run: Path) -> list[Path]:
    """The folders of a run that wait for negatives, the earliest step first."""
    waiting = [
        path
        for path in (run / REFRESH).glob("step-*")
        if step_of(path) >= 0 and (path / READY).exists() and not (path / ANSWER).exists()
    ]
    return sorted(waiting, key=step_of)


def _refresher(path: Path, work: str | Path | None) -> Refresher:
    """For the rows and settings that the config.json of a run names."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    try:
        data: dict[str, Any] = tree["data"]
        files = [str(name) for source in data["sources"] for name in source["files"]]
        settings = build(NegativesConfig, tree.get("negatives", {}), f"{path}: negatives")
        options = {name: data[name] for name in ("query_tokens", "passage_tokens") if name in data}
        seed = int(tree.get("seed", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: not the config of a training run: data.sources with their files is missing "
            f"or malformed ({error})"
        ) from error
    if not files:
        raise InputError(f"{path}: data.sources names no file")
    for name in files:
        if not Path(name).exists():
            raise InputError(
                f"{path}: no file {name}: start `tercet mine --follow` in the folder where the "
                f"training was started"
            )
    return Refresher(files, settings, seed=seed, work=work, **options)
