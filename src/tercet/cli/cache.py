"""`tercet cache`: what is kept for the next time, and how it is removed."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

from tercet.cache import KINDS, entries
from tercet.cache import remove as remove_entries
from tercet.cli.options import Json, Opt, command, echo, emit


@command()
def cache(
    *,
    remove: Annotated[str | None, Opt(choices=(*KINDS, "all"))] = None,
    older_than: Annotated[float, Opt(min=0)] = 0,
    folder: Annotated[Path | None, Opt(flag="--cache")] = None,
    as_json: Json = False,
) -> None:
    """List or remove what is kept for the next time.

    Tokenised rows of training; vectors, chunks and scores of evaluation; and what killed processes
    left unfinished. All of it can be made again. Remove nothing that a running command uses.

    \b
    Examples:
      tercet cache
      tercet cache --remove vectors --older-than 30
      tercet cache --remove all

    Options:
      remove KIND: Remove what is of this kind: rows, vectors, chunks, maxsim, unfinished or all.
      older_than DAYS: Only what was not used for so many days.
      folder DIR: The folder.  [default: $TERCET_CACHE or ~/.cache/tercet]
    """
    listed = entries(folder, older_than=older_than)
    if remove is not None:
        listed = [entry for entry in listed if remove in ("all", entry.kind)]
        remove_entries(listed)
    for entry in listed:
        used = datetime.fromtimestamp(entry.used).astimezone()
        if as_json:
            emit(
                {"kind": entry.kind, "path": str(entry.path), "bytes": entry.bytes,
                 "used": used.isoformat(timespec="seconds"), "removed": remove is not None}
            )  # fmt: skip
        else:
            size = f"{entry.bytes / 1e6:,.1f} MB"
            echo(f"{entry.kind:10}  {size:>14}  {used:%Y-%m-%d}  {entry.path}")
    if not as_json:
        total = f"{len(listed):,} entries, {sum(entry.bytes for entry in listed) / 1e6:,.1f} MB"
        echo(f"{total} {'removed' if remove is not None else 'in all'}")
