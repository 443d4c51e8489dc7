"""Hard negatives again while a model trains (ANCE, Xiong et al. 2020), in its process or another.

The trainer knows nothing of this: the command line hands it a Refresher, or `tercet mine --follow`
answers through files, by this protocol:

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
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tercet.config import MAX_LENGTH
from tercet.errors import InputError
from tercet.mining.candidates import Encodes
from tercet.mining.config import MineConfig
from tercet.mining.miner import MineReport, Progress, search
from tercet.mining.pool import Pool, Rows
from tercet.rows import write_rows
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
        self._folder = tempfile.TemporaryDirectory(prefix=".tercet-refresh-", dir=work)
        try:
            self._pool = Pool.read(rows, Path(self._folder.name))
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
        except BaseException:
            self._folder.cleanup()
            raise
        self._seed = seed
        self.report: MineReport | None = None

    def __call__(
        self, encoder: Encodes, step: int, progress: Progress | None = None
    ) -> list[list[str]]:
        """Negatives of every row in order, [] where there are none (raw text has none).

        The encoder's model must be in eval mode. The same weights, rows, seed and step give the
        same negatives.
        """
        start = time.monotonic()
        seed = int(np.random.SeedSequence((self._seed, step)).generate_state(1)[0])
        config = replace(self._config, seed=seed)
        pool = self._pool
        out: list[list[str]] = [[] for _ in range(pool.rows)]
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            tally, found = search(pool, encoder, config, Path(folder), progress=progress)
            for row, chosen in zip(pool.row.tolist(), found, strict=True):
                out[row] = [pool.texts[place] for place in chosen.places]
        self.report = MineReport.of(pool, tally, time.monotonic() - start)
        return out

    def close(self) -> None:
        """Removes the temporary folder."""
        self._pool.close()
        self._folder.cleanup()


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
                found = answers(request, progress)
                answered += 1
                if report is not None and found is not None:
                    report(step_of(request), found)
            if done:
                return answered
            time.sleep(poll)


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


def step_of(request: Path) -> int:
    """The step that a request's folder is named after."""
    return int(request.name.rpartition("-")[2])


def requests(run: Path) -> list[Path]:
    """The folders of a run that wait for negatives, the earliest step first."""
    found = [
        path
        for path in (run / REFRESH).glob("step-*")
        if path.name.rpartition("-")[2].isdigit()
        and (path / READY).exists()
        and not (path / ANSWER).exists()
    ]
    return sorted(found, key=step_of)


def _refresher(path: Path, work: str | Path | None) -> Refresher:
    """For the rows and settings that the config.json of a run names."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    try:
        data: dict[str, Any] = tree["data"]
        files = [str(name) for source in data["sources"] for name in source["files"]]
        asked = tree.get("negatives", {})
        settings = build(NegativesConfig, asked, f"{path}: negatives")
        options = {name: data[name] for name in ("query_tokens", "passage_tokens") if name in data}
        seed = int(tree.get("seed", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: not the config of a training run: data.sources with their files is missing "
            f"or malformed ({error})"
        ) from error
    return Refresher(_existing(files, path), settings, seed=seed, work=work, **options)


def _existing(files: Sequence[str], config: Path) -> Sequence[str]:
    if not files:
        raise InputError(f"{config}: data.sources names no file")
    for name in files:
        if not Path(name).exists():
            raise InputError(
                f"{config}: no file {name}: start `tercet mine --follow` in the folder where the "
                f"training was started"
            )
    return files
