"""`--shard`, `--workers` and `--ray`: where the parts of a job are made.

Knows nothing of what the jobs do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from tercet.cli.meter import Meter
from tercet.cli.options import Count, Opt, echo, emit, kept

if TYPE_CHECKING:
    from tercet.curate.shards import Job, Shard


def _parse_shard(value: str) -> "Shard":
    """`2/8` -> Shard(2, 8)."""
    from tercet.curate.shards import Shard

    return Shard.parse(value)


@dataclass(frozen=True)
class Cut:
    """How a job is cut, and where its parts are made.

    Options:
      workers N: Processes; with --ray, parts.  [default: one for each core]
      shard I/N: Make one part of N alone, as in 2/8; `tercet data merge` joins them.
      ray ADDRESS: Make the parts on a Ray cluster, as in auto or host:6379, or on one that is
          started here for it (local). All its nodes must have Tercet and see the files under the
          same names. Needs `pip install 'tercet[ray]'`.
    """

    workers: Count | None = None
    shard: Annotated[Any, Opt(parse=_parse_shard)] = None
    ray: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError where options do not fit each other."""
        for name in ("workers", "ray"):
            if self.shard is not None and getattr(self, name) is not None:
                raise click.UsageError(f"--shard makes one part here: leave out --{name}")


def carry_out(
    job: "Job",
    cut: Cut,
    label: str,
    *,
    as_json: bool,
    watched: Callable[[Meter], "Job"] | None = None,
    gpus: bool = False,
) -> dict[str, Any] | None:
    """Makes what was asked for: the target, whose report is returned, or one part of it.

    Of a part is told where it lies, and nothing returned. label says on the meter what is done;
    watched gives the job that shows it there while a part is made in this process. gpus: parts on
    a cluster want one each.
    """
    from tercet.curate import shards

    def remains() -> str:
        folder = shards.parts_folder(Path(job.target))
        whole = len(list(folder.glob("?????-of-?????")))
        return f"{whole} whole parts are kept in {folder}: the same command goes on"

    with kept(remains), Meter(label) as meter:

        def show(done: int, parts: int) -> None:
            meter.show(done, parts, count=done, unit="parts")

        if cut.shard is None:
            return shards.run(job, workers=cut.workers, ray=cut.ray, gpus=gpus, progress=show)
        folder = shards.run_part(job if watched is None else watched(meter), cut.shard)
    number, count = cut.shard.number, cut.shard.count
    if as_json:
        emit({"part": number, "of": count, "folder": str(folder), "to": job.target})
    else:
        echo(
            f"{folder}: part {number} of {count}; when all are made: tercet data merge {job.target}"
        )
    return None
