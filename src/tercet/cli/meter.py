"""Progress on stderr: a bar with throughput and time left; nothing where that is no terminal.

Knows nothing of the work.
"""

import sys
from typing import TYPE_CHECKING, Self

from tercet.cli.options import echo
from tercet.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID


class Meter:
    """Shows how far long work is: `with Meter("encoding") as meter: meter.show(3, 10)`."""

    def __init__(self, label: str) -> None:
        self._label = printable(label)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = _new_bar()
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, done: int, total: int | None, *, count: int = 0, unit: str = "") -> None:
        """Work done out of a total (None: not known), and what was counted meanwhile."""
        if self._bar is None:
            return
        if self._task is None:
            self._task = self._bar.add_task(self._label, total=total, count=0, unit=unit)
        self._bar.update(self._task, completed=done, total=total, count=count, unit=unit)

    def note(self, message: str) -> None:
        """A line on stderr, above the bar where there is one."""
        message = printable(" ".join(message.split()))
        if self._bar is None:
            echo(message, err=True)
        else:
            self._bar.console.print(message, markup=False, highlight=False, soft_wrap=True)


def _new_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        _rate_column(),
        TimeLeft(elapsed_when_finished=True),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _rate_column() -> "ProgressColumn":
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        """What was counted, per second since the start."""

        def render(self, task: Task) -> Text:
            count, elapsed = task.fields["count"], task.elapsed
            if not count or not elapsed:
                return Text("")
            return Text(f"{count / elapsed:,.0f} {task.fields['unit']}/s")

    return Rate()
