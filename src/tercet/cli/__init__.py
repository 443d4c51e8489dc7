"""The command line: `tercet index`, `search`, `encode`, `info`, `data`, `train`, `mine` and so on.

Reads arguments, calls the library, prints. What goes wrong on purpose is one sentence on
stderr; anything else is a defect and shows itself. Commands import what is heavy when they run, so
that `tercet --help` is quick.
"""

import atexit
import errno
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import click

from tercet.cli.cache import cache
from tercet.cli.curate import filter_rows, mix, pairs
from tercet.cli.data import check, merge, split, teach
from tercet.cli.doctor import doctor
from tercet.cli.evaluate import compare, evaluate
from tercet.cli.explain import explain
from tercet.cli.export import export
from tercet.cli.options import echo
from tercet.cli.search import encode, index, info, ls, rm, search
from tercet.cli.serve import serve
from tercet.cli.synthesize import synthesize
from tercet.cli.train import init, mine, train, trim
from tercet.errors import TercetError

FAILED, WRONG_USAGE = 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Grouped(click.Group):
    """A group whose help lists its commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for task, commands in TASKS.items():
            with formatter.section(task):
                formatter.write_dl(
                    [(command.name or "", command.get_short_help_str(70)) for command in commands]
                )


@click.group(
    cls=Grouped,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="tercet", message="%(prog)s %(version)s")
def tercet() -> None:
    """Index, search and encode text with dense, sparse and multi-vector embeddings.

    One pass of one encoder gives all three. A small multilingual model comes with Tercet.

    \b
    Examples:
      tercet index docs --to my-index
      tercet search --index my-index "how do bees talk to each other?"

    \b
    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but some files could not be read;
    130 interrupted.
    """


@tercet.group()
def data() -> None:
    """Prepare rows for training.

    \b
    Examples:
      tercet data check rows.jsonl
      tercet data split rows --to split
    """


TASKS: dict[str, tuple[click.Command, ...]] = {
    "Search": (index, search, explain, ls, rm, encode, info, serve),
    "Training data": (data, mine),
    "Models": (init, trim, train, export),
    "Measures": (evaluate, compare, doctor),
    "Housekeeping": (cache,),
}
for _command in (command for commands in TASKS.values() for command in commands):
    tercet.add_command(_command)
for _command in (pairs, filter_rows, mix, synthesize, check, split, teach, merge):
    data.add_command(_command)


def main() -> None:
    """The entry point of the `tercet` command."""
    logging.getLogger("tercet").setLevel(logging.ERROR)  # commands tell what they see themselves
    # runs last: while the interpreter ends, Python would leave Ctrl-C to the system
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    code = run(sys.argv[1:])
    signal.signal(signal.SIGINT, lambda *_: os._exit(code))  # while threads end
    if code == INTERRUPTED:  # see __main__
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


_CTRL_C = threading.Event()  # it came: code in C may make another error of it, without a word


def _interrupt(number: int, frame: Any) -> None:
    _CTRL_C.set()
    signal.default_int_handler(number, frame)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; failures are told on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a text that a terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        code = tercet.main(list(arguments), prog_name="tercet", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        return _wrong_usage(error)
    except click.ClickException as error:
        complain(error.format_message())
    except TercetError as error:  # whose advice is no help where memory or files are used up
        before = list(_causes(error))[:-1]
        complain(next(filter(None, (_shortage(e, _SHORTAGES[:2]) for e in before)), str(error)))
    except BrokenPipeError:
        # Whoever read our output has gone; without this, Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except BaseException as error:
        causes = list(_causes(error))
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            complain("torch is not installed: pip install 'tercet[torch]'")
            return FAILED
        for cause in causes:  # a library may have made another error of it
            if isinstance(cause, KeyboardInterrupt | click.Abort):
                complain(": ".join(("interrupted", *map(str, cause.args))))
                return INTERRUPTED
        shortages = filter(None, map(_shortage, causes))
        sentence = next(shortages, _told(error) if isinstance(error, OSError) else None)
        if sentence is None and _CTRL_C.is_set():
            complain("interrupted")
            return INTERRUPTED
        if sentence is None:
            raise
        complain(sentence)
    else:
        return code if isinstance(code, int) else 0
    return FAILED


def _causes(error: BaseException) -> list[BaseException]:
    """What an error came from, the first cause first."""
    causes: list[BaseException] = []
    before: BaseException | None = error
    while before is not None and before not in causes:  # errors of tasks may be in a circle
        causes.insert(0, before)
        error = before
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return causes


def _told(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


# What the system has no more of: error numbers, how libraries in C++ and Rust say it, and the mend
_SHORTAGES = (
    (
        "out of memory",
        {errno.ENOMEM},
        r"(not|'t) allocate|out of memory|bad_alloc|map segment|unable to mmap|start new thread"
        r"|os error 12\b|static TLS|error return without exception set",
        "close other programs, raise the limit (ulimit -v, -u), or do less at once",
    ),
    (
        "too many open files",
        {errno.EMFILE, errno.ENFILE},
        r"too many open files|os error (23|24)\b",
        "raise the limit (ulimit -n)",
    ),
    (
        "no space left on the disk",
        {errno.ENOSPC, errno.EDQUOT, errno.EFBIG},
        r"no space left|os error (27|28|122)\b|disk is full|disk I/O error|file too large",
        "free some, or raise the limit (ulimit -f, a quota)",
    ),
)


def _shortage(error: BaseException, kinds: Iterable[Any] = _SHORTAGES) -> str | None:
    """The sentence on an error that says that the system has no more of something."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    for what, numbers, words, mend in kinds:
        if number in numbers or re.search(words, str(error), re.IGNORECASE):
            return f"{_told(error) if isinstance(error, OSError) else what}: {mend}"
    return None


def complain(message: str) -> None:
    """One sentence on stderr."""
    echo(f"tercet: {' '.join(message.split())}", err=True)


def _wrong_usage(error: click.UsageError) -> int:
    command = error.ctx.command_path if error.ctx is not None else "tercet"
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # click 8.2 on
        echo(error.message, err=True)
        return WRONG_USAGE
    message = " ".join(error.format_message().split()).rstrip(".")
    complain(f"{message[:1].lower()}{message[1:]} (see `{command} --help`)")
    return WRONG_USAGE
