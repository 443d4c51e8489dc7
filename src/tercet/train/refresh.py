"""Hard negatives found while training (ANCE): asked for, taken up, and kept for a resume.

1. At step s the model is written to refresh/step-s/model, then READY beside it.
2. A miner, in this process or another, writes refresh/step-s/negatives.jsonl: for every training
   row, in order, {"row", "neg"}; where it cannot, the reason to FAILED.
3. The trainer waits for it and uses it from this step on; its hash is in every checkpoint.

Never sees an index: the miner comes in as a callable.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tercet.errors import InputError, TercetError
from tercet.rows import numbered_rows
from tercet.train.collate import Collator, HardNegatives
from tercet.train.config import ANSWER, FAILED, MODEL, READY, REFRESH
from tercet.train.loop import Log, Stopped
from tercet.train.outcome import write_model
from tercet.train.prepare import Prepared

Mine = Callable[[Path], object]  # answers the request in a folder of refresh/
POLL = 0.5  # seconds between two looks for another process's negatives


def refresh(
    folder: Path,
    ready: Prepared,
    collator: Collator,
    mine: Mine | None,
    step: int,
    *,
    stopping: Callable[[], bool],
    log: Log,
) -> str:
    """Has new negatives found with the model as it is now; returns their hash.

    Raises Stopped where the run is to stop while it waits, TercetError where the miner failed.
    """
    place = folder / REFRESH / f"step-{step:06d}"
    if ready.world.first and not (place / ANSWER).exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        ready.checkpoint.model.eval()
        write_model(place / MODEL, ready)
        (place / READY).touch()
        if ready.config.negatives.by == "self":
            if mine is None:
                raise InputError("negatives.by = self needs a miner: run `tercet train`")
            mine(place)
        elif not (place / ANSWER).exists():
            log({"step": step, "waiting": f"for `tercet mine --follow {folder}`"})
    _wait(place, step, stopping, ready)
    if ready.world.first:
        shutil.rmtree(place / MODEL, ignore_errors=True)
    return take(place / ANSWER, ready, collator)


def _wait(place: Path, step: int, stopping: Callable[[], bool], ready: Prepared) -> None:
    """Until the answer is there, on every device, however long that takes."""
    while not (place / ANSWER).exists():
        if (place / FAILED).exists():
            why = (place / FAILED).read_text(encoding="utf-8").strip()
            raise TercetError(f"{place}: no negatives were found: {why}")
        if stopping():
            raise Stopped(f"stopped before step {step + 1}: go on with --resume")
        time.sleep(POLL)
    ready.world.wait()


def take_up(folder: Path, digest: str, ready: Prepared, collator: Collator) -> None:
    """The negatives that a resumed run had in use; raises InputError where they have changed."""
    name, _, _ = digest.partition(":")
    path = folder / REFRESH / name / ANSWER
    if not path.exists():
        raise InputError(f"{path} is gone: the checkpoint was trained on these negatives")
    if take(path, ready, collator) != digest:
        raise InputError(f"{path} has changed since the checkpoint was written: restore it")


def take(path: Path, ready: Prepared, collator: Collator) -> str:
    """Puts negatives to use; returns their folder's name and hash."""
    texts: list[Sequence[str]] = []
    for number, (_, row) in enumerate(numbered_rows(path)):
        if row.get("row") != number or not isinstance(row.get("neg"), list):
            raise InputError(f"{path}:{number + 1}: expected row {number} with its 'neg'")
        texts.append(row["neg"])
    collator.hard = HardNegatives.of_texts(
        ready.examples, texts, ready.checkpoint.tokenizer, ready.config.data
    )
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return f"{path.parent.name}:{digest}"
