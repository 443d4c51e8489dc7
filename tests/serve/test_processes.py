"""A child ends as it is told, and at once when its server is gone."""

import asyncio
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tercet.serve import processes
from tercet.serve.processes import END, Process, Reply, Unavailable

ROOT = Path(__file__).resolve().parents[2]


class Slow:
    """Takes its time to finish, and says that it has."""

    facts = "ready"

    def __init__(self, *, tell: Callable[[Any], None], finished: str) -> None:
        self.finished = Path(finished)

    def handle(self, reply: Reply, method: str, arguments: Any, options: dict[str, Any]) -> None:
        reply.done(method)

    def close(self) -> None:
        time.sleep(1)
        self.finished.touch()


@pytest.mark.parametrize("told", [True, False])
def test_what_is_under_way_is_finished_where_that_is_told(tmp_path: Path, told: bool) -> None:
    finished = tmp_path / "finished"
    options = {"finished": str(finished)}
    frames = [(f"{__name__}:Slow", options, 0), (1, "ask", (), {}), *([END] if told else [])]
    packed = [pickle.dumps(frame) for frame in frames]
    child = subprocess.run(
        [sys.executable, "-m", "tercet.serve.processes"],
        input=b"".join(struct.pack("<Q", len(frame)) + frame for frame in packed),
        capture_output=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert b"ask" in child.stdout
    assert finished.exists() == told


class Talkative:
    """Tells a number of things before it answers, and says when it has."""

    facts = "ready"

    def __init__(self, *, tell: Callable[[Any], None], told: str) -> None:
        self.told = Path(told)

    def handle(self, reply: Reply, method: str, arguments: Any, options: dict[str, Any]) -> None:
        for number in range(arguments[0]):
            reply.event(number)
        reply.done(method)
        self.told.touch()

    def close(self) -> None:
        pass


def test_what_is_told_waits_until_there_is_room_for_it(tmp_path: Path) -> None:
    async def run() -> None:
        process = Process(f"{__name__}:Talkative", {"told": str(tmp_path / "told")})
        await process.start()
        room: asyncio.Queue[int] = asyncio.Queue(3)
        waiting, counts = 0, set()

        async def put(number: int) -> None:
            nonlocal waiting
            waiting += 1
            await room.put(number)
            counts.add(waiting)
            waiting -= 1

        call = asyncio.create_task(process.call("talk", 50, on_event=put))
        while not (tmp_path / "told").exists() or not waiting:
            await asyncio.sleep(0.01)
        assert [await room.get() for _ in range(50)] == list(range(50))
        assert counts == {1}
        assert await call == "talk"
        await process.stop()

    asyncio.run(run())


def test_a_child_that_waits_to_be_started_again_holds_up_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(processes, "RESTART", 3600.0)

    async def run() -> None:
        process = Process(f"{__name__}:Slow", {"finished": str(tmp_path / "finished")})
        await process.start()
        assert process.pid is not None
        assert await process.call("ask") == "ask"
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(Unavailable):
            while True:
                await process.call("ask")
        await asyncio.wait_for(process.stop(), 30)

    asyncio.run(run())
