"""The parts of a job on a Ray cluster, over a folder that all its nodes see; joined here.

A part is a task of Ray: where its worker dies it is made anew, on the same node or another. Knows
nothing of what the job does. Nodes need this version of Tercet and the files under the same names.
"""

import contextlib
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tercet.data.shards import Job, Shard, Show, cores, merge, parts_folder, run_part, settings
from tercet.errors import InputError, MissingExtraError, TercetError

LOCAL = "local"  # the address of a cluster that is started here, for this run alone
RETRIES = 5  # of a part whose worker or node died
CONNECT = 10.0  # seconds to wait for a cluster's answer
STORE = 80 << 20  # bytes of shared memory: results are names of folders, and Ray wants 75 MiB

# Ray reads these when it is loaded. Set by hand, another value stays.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody is told that it runs
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # nothing of the working folder is uploaded
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task without a GPU hides none
}


class ClusterError(TercetError):
    """A cluster cannot be reached, or lost a part too often."""


def run(
    job: Job,
    address: str,
    *,
    parts: int | None = None,
    gpus: bool = False,
    show: Show | None = None,
) -> dict[str, Any]:
    """Makes all parts on a cluster and joins them here; returns the report.

    address: as `ray.init` takes it, or `local` for a cluster of this machine with `parts` workers.
    parts: their number; None: one for each core of the cluster, or for each of its GPUs with
    `gpus`, which gives each part one, where the cluster has any. Parts that are there are not made
    again. Raises ClusterError, MissingExtraError, or what a part raises.
    """
    wanted = settings(job)
    with _cluster(address, parts) as ray:
        had = ray.cluster_resources()
        on_gpu = gpus and had.get("GPU", 0) >= 1
        count = parts or max(1, int(had.get("GPU" if on_gpu else "CPU", 1)))
        task = ray.remote(_make).options(
            num_cpus=1,
            num_gpus=1 if on_gpu else 0,
            max_retries=RETRIES,
            name=f"tercet {job.name}",
        )
        given = ray.put((job, wanted, str(Path.cwd()), version("tercet")))
        _wait(ray, [task.remote(given, shard) for shard in Shard.all(count)], show)
    folder = parts_folder(Path(job.target))
    if not folder.is_dir():
        raise ClusterError(
            f"the parts were made, but {folder.resolve()} is not seen here: choose a target in a "
            "folder that all nodes share"
        )
    return merge(job, count)


def _make(given: tuple[Job, dict[str, Any], str, str], shard: Shard) -> None:
    """Makes a part, in a worker of the cluster."""
    job, wanted, folder, made_by = given
    if (here := version("tercet")) != made_by:
        raise InputError(f"a node of the cluster has Tercet {here}, and here is {made_by}")
    try:
        os.chdir(folder)  # paths may be relative to it
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} is not seen by a node of the cluster: work in a folder that all share"
        ) from error
    run_part(job, shard, wanted)


def _wait(ray: Any, waiting: list[Any], show: Show | None) -> None:
    """Waits for all parts; raises what the first one that fails raises, in its own words."""
    count = len(waiting)
    while waiting:
        ready, waiting = ray.wait(waiting)
        try:
            ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TercetError | OSError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())
            raise ClusterError(
                f"a part was lost {RETRIES + 1} times; whole parts are kept: run the same again, "
                f"with more parts if memory is short ({reason[:300]})"
            ) from error
        if show is not None:
            show(count - len(waiting), count)


@contextlib.contextmanager
def _cluster(address: str, parts: int | None) -> Iterator[Any]:
    """Ray, connected to a cluster for the time of the block."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address == LOCAL and "RAY_AUTH_MODE" not in os.environ:
        # other users of this machine are kept out, and no token is written to the home folder
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise MissingExtraError("--ray needs Ray: pip install 'tercet[ray]'") from error
    _reach(address)
    own: dict[str, Any] = {"address": address}
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            # sockets lie in it, so its name must be short
            short = stack.enter_context(tempfile.TemporaryDirectory(prefix="tercet-", dir="/tmp"))
            own |= {
                "num_cpus": parts or cores(),
                "include_dashboard": False,
                "object_store_memory": STORE,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": short,
            }
        try:
            ray.init(**own, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            reason = " ".join(str(error).split())
            raise ClusterError(f"no Ray cluster at {address}: {reason[:300]}") from error
        stack.callback(ray.shutdown)
        yield ray


def _reach(address: str) -> None:
    """Raises ClusterError where nobody answers at host:port; Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
    except OSError as error:
        raise ClusterError(f"no Ray cluster at {address}: {error.strerror or error}") from error
