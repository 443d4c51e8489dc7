"""What a model has answered so far, on disk as soon as it came: nothing is asked or paid for twice.

JSON lines: the settings of the run, then the answers, each with the key of what was asked. Knows
nothing of endpoints, nor of what makes an answer good.
"""

import fcntl
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from tercet.data.synthesize.chat import Answer
from tercet.errors import InputError


class Journal:
    """Answers by key, in the order they came: `with Journal(path, settings) as journal: ...`.

    A last line that was torn when a run was killed is cut off. Raises InputError where the journal
    is of other settings, damaged, or written by another process.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.answers: dict[str, list[Answer]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            self._lock()
            self._read(settings)
        except BaseException:
            self._file.close()
            raise

    def add(self, key: str, answer: Answer) -> None:
        """Appends an answer; when this returns it outlives the process."""
        self._write({"key": key, **asdict(answer)})
        self.answers.setdefault(key, []).append(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{self.path}: another process writes here: wait for it, or end it"
            ) from error

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def _read(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        made: dict[str, Any] = {}
        whole = 0  # bytes
        for number, raw in enumerate(self._file, 1):
            if not raw.endswith(b"\n"):  # torn
                break
            try:
                line = json.loads(raw)
                if number == 1:
                    made = dict(line["settings"])
                else:
                    key = line.pop("key")
                    self.answers.setdefault(key, []).append(Answer(**line))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self.path}:{number}: no line of a journal: remove the line"
                ) from error
            whole += len(raw)
        if self.answers:
            self._agree(made, settings)
            self._file.truncate(whole)
        else:  # nothing to lose
            self._file.truncate(0)
            self._write({"settings": settings})

    def _agree(self, made: dict[str, Any], wanted: dict[str, Any]) -> None:
        for part, values in wanted.items():
            before = made.get(part)
            if before == values:
                continue
            changed = part
            if isinstance(before, dict) and isinstance(values, dict):
                names = {**before, **values}
                name = next(key for key in names if before.get(key) != values.get(key))
                changed = f"{name}: {before.get(name)!r:.60}, now {values.get(name)!r:.60}"
            raise InputError(
                f"{self.path} has the answers of a run with other settings ({changed}): give those "
                "of before to go on with it, or remove it to start anew"
            )
