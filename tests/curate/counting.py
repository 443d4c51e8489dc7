"""A small job for the tests of parts: the lines of a file, numbered; and ways for it to fail.

In a module of its own, so that processes and clusters can import it.
"""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tercet.curate.shards import BLOCK, FREE, Shard, part_rows, write_part
from tercet.errors import InputError


@dataclass(frozen=True)
class Counting:
    """Writes "number line" for each line of a file; notes in `log` which parts were made."""

    name: ClassVar[str] = "counting"

    target: str
    file: str
    prefix: str = ""
    lengths: tuple[int, ...] = (1, 2)
    log: str = field(default="", metadata=FREE)
    trouble: str = field(default="", metadata=FREE)  # "kill" or "refuse", in the last part

    def inputs(self) -> list[Path]:
        return [Path(self.file)]

    def part(self, shard: Shard, folder: Path) -> None:
        (folder / "begun").touch()
        if self.trouble == "kill" and shard.number == shard.count:
            self.die_once()
        if self.trouble == "refuse":
            if shard.number == shard.count:
                raise InputError(f"{self.file}:7: no good line")
            time.sleep(60)
        write_part(folder / "rows.jsonl", self._rows(shard))
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{shard}\n")

    def die_once(self) -> None:
        """Is killed in the middle of its work, the first time."""
        marker = Path(f"{self.target}.killed")
        if not marker.exists():
            marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)

    def _rows(self, shard: Shard) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(Path(self.file).read_text().splitlines()):
            if shard.has(number * BLOCK):
                yield number, {"text": f"{self.prefix}{line}"}

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        rows = list(part_rows(folder / "rows.jsonl" for folder in folders))
        Path(self.target).write_text(json.dumps(rows))
        return {"rows": len(rows)}
