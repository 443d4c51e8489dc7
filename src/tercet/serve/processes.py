"""Child processes that answer calls, so that nothing heavy runs beside the event loop.

A child is `python -m tercet.serve.processes`: frames of pickled calls on its stdin, of answers on
its stdout, between processes of one server and nobody else. Told to end, it finishes what it has to
do; it ends at once where its stdin does, as the server is gone. A child that dies is started again,
and what it had to answer fails. Knows nothing of HTTP, models or indexes.
"""

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from tercet import errors
from tercet.errors import TercetError

log = logging.getLogger("tercet.serve")

_SIZE = struct.Struct("<Q")
END: tuple[Any, ...] = (0, None, (), {})  # the frame that tells a child to end
RESTART = 1.0  # seconds before a child that died is started again, doubled up to
LONGEST_RESTART = 60.0
STOP = 10.0  # seconds that a child is given to end

OnEvent = Callable[[Any], Awaitable[None] | None]  # the next message is read when it is done


class Unavailable(Exception):
    """The process that should answer has died or does not run yet; it is started again."""


class InternalError(Exception):
    """A defect in a child, which wrote its traceback to the log."""


# The parent's side


class Process:
    """A child process that runs a service, for the event loop of the server."""

    def __init__(self, service: str, options: dict[str, Any], *, nice: int = 0) -> None:
        """service is "module:class"; options are what the class is made with."""
        self.service, self.options, self.nice = service, options, nice
        self.facts: Any = None  # what the service says of itself when it is ready
        self.on_event: OnEvent | None = None  # of what belongs to no call
        self.restarts = 0
        self._calls: dict[int, tuple[asyncio.Future[Any], OnEvent | None]] = {}
        self._last = 0
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.ready = asyncio.Event()

    @property
    def name(self) -> str:
        return self.service.rpartition(".")[2].partition(":")[0]

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    async def start(self) -> None:
        """Starts the child and waits until it can answer; raises what stopped it."""
        await self._begin()
        self._task = asyncio.create_task(self._run())

    async def _begin(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tercet.serve.processes"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._write((self.service, self.options, self.nice))
        try:
            kind, _, value = await self._read()
        except asyncio.IncompleteReadError as error:
            code = await self._child.wait()
            raise Unavailable(f"the {self.name} process ended with {code} as it began") from error
        if kind == "failed":
            raise _error(value)
        self.facts = value
        self.ready.set()

    async def _run(self) -> None:
        """Hands out answers; starts the child again whenever it dies."""
        while True:
            try:
                while True:
                    if (taking := self._take(*await self._read())) is not None:
                        await taking
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            assert self._child is not None
            self.ready.clear()
            code = await self._child.wait()
            self._fail_calls()
            if self._stopping:
                return
            log.error("the %s process ended with %s: it is started again", self.name, code)
            pause = RESTART
            while not self.ready.is_set():
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_RESTART)
                self.restarts += 1
                try:
                    await self._begin()
                except (TercetError, InternalError, Unavailable, OSError) as error:
                    log.error("the %s process cannot be started: %s", self.name, error)

    def _fail_calls(self) -> None:
        calls, self._calls = self._calls, {}
        for future, _ in calls.values():
            if not future.done():
                future.set_exception(Unavailable(f"the {self.name} process ended: try again"))

    def _take(self, kind: str, number: int, value: Any) -> Awaitable[None] | None:
        if kind == "event" and not number:
            return None if self.on_event is None else self.on_event(value)
        future, on_event = self._calls.get(number, (None, None))
        if future is None or future.done():
            return None  # nobody waits any more
        if kind == "event":
            return None if on_event is None else on_event(value)
        if kind == "done":
            future.set_result(value)
        else:
            future.set_exception(_error(value))
        return None

    async def call(
        self, method: str, *arguments: Any, on_event: OnEvent | None = None, **options: Any
    ) -> Any:
        """What the service's method gives; cancelling it tells the child to drop the work.

        Raises the TercetError that the method raised, InternalError for a defect in it, and
        Unavailable where the child does not run.
        """
        if not self.ready.is_set():
            raise Unavailable(f"the {self.name} process does not run yet: try again")
        self._last += 1
        number = self._last
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = (future, on_event)
        self._write((number, method, arguments, options))
        try:
            return await future
        except asyncio.CancelledError:
            self._write((number, None, (), {}))
            raise
        finally:
            self._calls.pop(number, None)

    def _write(self, message: Any) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        with contextlib.suppress(ConnectionError, RuntimeError):  # then `_run` sees it, too
            self._child.stdin.write(_SIZE.pack(len(payload)) + payload)

    async def _read(self) -> tuple[str, int, Any]:
        assert self._child is not None
        assert self._child.stdout is not None
        (size,) = _SIZE.unpack(await self._child.stdout.readexactly(_SIZE.size))
        message: tuple[str, int, Any] = pickle.loads(await self._child.stdout.readexactly(size))
        return message

    async def stop(self) -> None:
        """Tells the child to end when it has finished; kills it where it does not."""
        self._stopping = True
        if self._task is not None and not self.ready.is_set():  # it is being started again
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            self._fail_calls()
        child = self._child
        if child is None:
            return
        if child.stdin is not None:
            self._write(END)
            child.stdin.close()
        try:
            await asyncio.wait_for(child.wait(), STOP)
        except TimeoutError:
            log.error("the %s process does not end: it is killed", self.name)
            child.kill()
            await child.wait()
        if self._task is not None:
            await self._task


def _error(value: tuple[str, str]) -> Exception:
    """An error of the child by its class's name and message."""
    kind = getattr(errors, value[0], None)
    if isinstance(kind, type) and issubclass(kind, TercetError):
        return kind(value[1])
    return InternalError(f"{value[0]}: {value[1]}")


# The child's side


class Reply:
    """Answers one call, from any thread."""

    def __init__(self, number: int, write: Callable[[Any], None]) -> None:
        self._number, self._write = number, write
        self.cancelled = False  # nobody waits for the answer any more

    def done(self, value: Any) -> None:
        """The call's result."""
        self._write(("done", self._number, value))

    def event(self, value: Any) -> None:
        """Something told before the result."""
        self._write(("event", self._number, value))

    def failed(self, error: BaseException) -> None:
        """The call's failure; a defect is written to stderr."""
        self._write(("failed", self._number, _described(error)))


def _described(error: BaseException) -> tuple[str, str]:
    if isinstance(error, TercetError):
        # subclasses elsewhere are told as what they extend here
        kinds = [kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__)]
        return kinds[0], str(error)
    # where it happened, without the texts that a message may quote
    lines = traceback.format_tb(error.__traceback__)
    sys.stderr.write(f"tercet: a defect: {type(error).__name__}\n{''.join(lines)}")
    sys.stderr.flush()
    return type(error).__name__, "a defect of the server"


class Service(Protocol):
    """What a child runs: `handle` answers a call with its Reply, at once or later."""

    facts: Any

    def handle(self, reply: Reply, method: str, arguments: Any, options: dict[str, Any]) -> None:
        """Begins to answer; may return before it is answered."""

    def close(self) -> None:
        """Finishes what is under way; nothing is asked afterwards."""


def main() -> None:
    """Runs the service that the first frame names until it is told to end, or stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent tells
        signal.signal(number, signal.SIG_IGN)
    frames, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    turn = threading.Lock()

    def write(message: Any) -> None:
        payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        with turn, contextlib.suppress(BrokenPipeError):
            answers.write(_SIZE.pack(len(payload)))
            answers.write(payload)
            answers.flush()

    def read() -> Any:
        head = frames.read(_SIZE.size)
        if len(head) < _SIZE.size:
            return None
        payload = frames.read(_SIZE.unpack(head)[0])
        return pickle.loads(payload) if len(payload) == _SIZE.unpack(head)[0] else None

    first = read()
    if first is None:
        return
    name, options, nice = first
    if nice and hasattr(os, "nice"):
        os.nice(nice)
    module, _, kind = name.partition(":")
    try:
        service: Service = getattr(import_module(module), kind)(
            **options, tell=lambda value: write(("event", 0, value))
        )
    except BaseException as error:  # noqa: BLE001 - it is answered
        write(("failed", 0, _described(error)))
        return
    write(("done", 0, service.facts))
    replies: dict[int, Reply] = {}
    while (frame := read()) is not None:
        if frame == END:
            start = time.monotonic()
            service.close()
            log.debug("closed in %.2f s", time.monotonic() - start)
            break
        number, method, arguments, options = frame
        if method is None:
            if number in replies:
                replies[number].cancelled = True
            continue
        reply = _Listed(number, write, replies)
        try:
            service.handle(reply, method, arguments, options)
        except BaseException as error:  # noqa: BLE001 - it is answered
            reply.failed(error)
    # threads of libraries may wait for what never comes; nobody hears what is still under way, and
    # the server that is started next waits for the index
    os._exit(0)


class _Listed(Reply):
    """A reply that is found by its number until it is answered."""

    def __init__(
        self, number: int, write: Callable[[Any], None], replies: dict[int, Reply]
    ) -> None:
        super().__init__(number, write)
        self._replies = replies
        replies[number] = self

    def done(self, value: Any) -> None:
        self._replies.pop(self._number, None)
        super().done(value)

    def failed(self, error: BaseException) -> None:
        self._replies.pop(self._number, None)
        super().failed(error)


if __name__ == "__main__":
    main()
