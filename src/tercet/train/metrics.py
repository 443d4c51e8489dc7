"""Where a run's reports go: metrics.jsonl, TensorBoard where asked, and the caller's own log.

Knows nothing of what they say.
"""

import json
from pathlib import Path
from typing import Any

from tercet.errors import MissingExtraError
from tercet.train.loop import Log


class RunWriter:
    """metrics.jsonl, TensorBoard where asked, and the caller's own log."""

    def __init__(self, folder: Path, log: Log, *, tensorboard: bool) -> None:
        self.path, self.log, self.board = folder / "metrics.jsonl", log, None
        if tensorboard:
            self.board = _summary_writer(folder / "tensorboard")

    def __call__(self, line: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is not None and "step" in line:
            for name, value in _scalars(line):
                self.board.add_scalar(name, value, line["step"])
        self.log(line)

    def close(self) -> None:
        """Ends TensorBoard's file."""
        if self.board is not None:
            self.board.close()


def _scalars(line: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for name, value in line.items():
        if isinstance(value, dict):
            out += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "of"):
            out.append((f"{prefix}{name}", float(value)))
    return out


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "run.tensorboard needs `pip install 'tercet[tensorboard]'`"
        ) from error
    return SummaryWriter(str(folder))
