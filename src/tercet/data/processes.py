"""The parts of a job in processes of this machine, one each.

A process that is killed is told of, and the others are stopped; parts that are whole stay. Knows
nothing of what the job does.
"""

import os
import pickle
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from tercet.data.shards import Job, Shard, Show, cores, run_part
from tercet.errors import TercetError

# What libraries read when they are loaded to see how many threads they may start.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


class PartError(TercetError):
    """A process that made a part is gone; parts that are whole were kept."""


def run_parts(job: Job, count: int, wanted: dict[str, Any], show: Show | None = None) -> None:
    """Makes all parts of a cut; raises what the first one that fails raises.

    wanted: the job's `settings`. Raises PartError where a process is killed.
    """
    context = get_context("spawn")
    packed = pickle.dumps((job, wanted))
    threads = max(1, cores() // count)
    running: dict[Connection, tuple[Shard, SpawnProcess]] = {}
    processes: list[SpawnProcess] = []
    done = 0
    try:
        for shard in Shard.all(count):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(packed, shard, threads, sender), daemon=True
            )
            process.start()
            sender.close()  # ours: now the pipe ends when the process does
            processes.append(process)
            running[receiver] = shard, process
        while running:
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                shard, process = running.pop(ready)
                _check(ready, shard, process)
                done += 1
                if show is not None:
                    show(done, count)
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()


def _check(ready: Connection, shard: Shard, process: SpawnProcess) -> None:
    """Raises what a process raised, if it did."""
    try:
        error = ready.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise PartError(
            f"the process of part {shard} was ended from outside ({how}), perhaps for want of "
            "memory; whole parts are kept: run the same again, with fewer processes if need be"
        ) from None
    if error is not None:
        raise error


def _work(packed: bytes, shard: Shard, threads: int, sender: Connection) -> None:
    """Makes a part in a process of its own and sends what it raised, or None."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # cleans up, then ends
    for name in THREADS:  # before torch or tokenizers are loaded with the job
        os.environ.setdefault(name, str(threads))
    error: BaseException | None = None
    try:
        job, wanted = pickle.loads(packed)
        run_part(job, shard, wanted)
    except KeyboardInterrupt:  # which reaches the parent too
        return
    except Exception as raised:  # noqa: BLE001 - the parent raises it
        if not isinstance(raised, TercetError | OSError):
            raised.add_note("".join(traceback.format_exception(raised)))
        error = raised
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # there is nothing to clean up any more
    with suppress(BrokenPipeError):  # the parent is gone
        _send(sender, error)


def _send(sender: Connection, error: BaseException | None) -> None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - anything may fail to be packed
        text = "".join(traceback.format_exception(error))
        error = RuntimeError(f"an error that cannot leave its process:\n{text}")
    sender.send(error)
