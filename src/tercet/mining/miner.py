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

import numpy as np

from tercet.config import Progress
from tercet.errors import InputError
from tercet.mining import MineConfig
from tercet.mining.pool import Pool, Rows, each_row, read_corpus
from tercet.mining.selection import REASONS, Candidates, Chosen, Encodes, MineReport, Selector
from tercet.rows import Row, check_name, check_row, write_rows
from tercet.scorers import Scorer, scores_of
from tercet.train.config import ANSWER, CONFIG, DONE, FAILED, MODEL, READY, REFRESH, from_tree

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
    and line), option, or answer of the scorer, and where no negative is left.
    """
    config = MineConfig() if config is None else config
    target = Path(to)
    check_name(target)
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
            write_rows(target, _merged(rows, pool, chosen, config, scorer, report))
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
    rows: Rows,
    pool: Pool,
    chosen: Iterator[Chosen],
    config: MineConfig,
    scorer: Scorer | None,
    report: MineReport,
) -> Iterator[Row]:
    """The rows again, with what was chosen for them; raises InputError where that was nothing."""
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
    if not report.kept:
        reason, count = max(report.dropped.items(), key=lambda dropped: dropped[1])
        raise InputError(
            f"no negative is left of {report.found:,} candidates, nothing was written: {count:,} of"
            f" them: {REASONS[reason]}; give a larger corpus or other ranks or limits"
        )


# While a model trains


class Answers:
    """Answers the requests of one run: `answers(run / "refresh" / "step-000123")`.

    The run's rows are read at the first one, to a temporary folder (under `work`) that lasts as
    long as this. Candidates are the rows' own texts; fewer of them than ranks give all they are.
    """

    def __init__(
        self, run: Path, load: Callable[[Path], Encodes], *, work: str | Path | None = None
    ) -> None:
        """load: the encoder of a model's folder, its model in eval mode."""
        self._run, self._load, self._work = run, load, work
        self._open = contextlib.ExitStack()
        self._pool: Pool | None = None

    def __call__(self, request: Path, progress: Progress | None = None) -> MineReport:
        """Writes negatives.jsonl; where it cannot, the reason to FAILED, and raises it.

        The same weights, rows, seed and step give the same negatives.
        """
        try:
            start = time.monotonic()
            if self._pool is None:
                self._read()
            assert self._pool is not None
            seed = np.random.SeedSequence((self._seed, step_of(request))).generate_state(1)[0]
            config = replace(self._config, seed=int(seed))
            negatives: list[list[str]] = [[] for _ in range(self._pool.rows)]  # raw text has none
            with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                encoder = self._load(request / MODEL)
                report, chosen = search(
                    self._pool, encoder, config, Path(scratch), progress=progress
                )
                for row, new in zip(self._pool.row.tolist(), chosen, strict=True):
                    negatives[row] = [self._pool.texts[place] for place in new.places]
            rows = ({"row": row, "neg": texts} for row, texts in enumerate(negatives))
            write_rows(request / ANSWER, rows)
        except Exception as error:  # whatever it is: the trainer must not wait for ever
            (request / FAILED).write_text(f"{error or type(error).__name__}\n", encoding="utf-8")
            raise
        (request / FAILED).unlink(missing_ok=True)
        report.seconds = time.monotonic() - start
        return report

    def _read(self) -> None:
        """Rows and settings that the config.json of the run names."""
        path = self._run / CONFIG
        try:
            run = from_tree(json.loads(path.read_text(encoding="utf-8")), where=str(path))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not the config of a training run: {error}") from error
        files = [name for source in run.data.sources for name in source.files]
        for name in files:
            if not Path(name).exists():
                raise InputError(
                    f"{path}: no file {name}: start `tercet mine --follow` in the folder where the "
                    f"training was started"
                )
        with contextlib.ExitStack() as stack:
            scratch = tempfile.TemporaryDirectory(prefix=".tercet-refresh-", dir=self._work)
            self._folder = Path(stack.enter_context(scratch))
            pool = stack.enter_context(contextlib.closing(Pool.read(files, self._folder)))
            settings = run.negatives
            if pool.candidates < settings.first:
                raise InputError(
                    f"negatives.first is {settings.first}, but the rows have {pool.candidates} "
                    "texts: set a smaller one"
                )
            last = min(settings.last, pool.candidates)
            self._config = MineConfig(
                by=settings.heads,
                first=settings.first,
                last=last,
                number=min(settings.number, (last - settings.first + 1) * len(settings.heads)),
                limit=settings.limit,
                query_tokens=run.data.query_tokens,
                passage_tokens=run.data.passage_tokens,
            )
            self._seed, self._pool, self._open = run.seed, pool, stack.pop_all()

    def close(self) -> None:
        """Lets go of the rows, and removes the temporary folder."""
        self._open.close()


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
                if report is not None:
                    report(step_of(request), mined)
            if done:
                return answered
            time.sleep(poll)


def step_of(request: Path) -> int:
    """The step that a request's folder is named after."""
    return int(request.name.removeprefix("step-"))


def requests(run: Path) -> list[Path]:
    """The folders of a run that wait for negatives, the earliest step first."""
    ready = (path.parent for path in (run / REFRESH).glob(f"step-[0-9]*/{READY}"))
    return sorted((path for path in ready if not (path / ANSWER).exists()), key=step_of)
