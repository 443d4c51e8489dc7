"""The command line: `tercet index`, `search`, `encode`, `info`, `data`, `train`, `mine` and so on.

Reads arguments, calls the library, prints. What goes wrong on purpose is one sentence on
stderr; anything else is a defect and shows itself. Commands import what is heavy when they run, so
that `tercet --help` is quick.
"""

import io
import logging
import os
import sys
from collections.abc import Sequence

import click

from tercet.cli.cache import cache
from tercet.cli.curate import filter_rows, mix, pairs
from tercet.cli.data import check, merge, split, teach
from tercet.cli.doctor import doctor
from tercet.cli.evaluate import evaluate
from tercet.cli.search import encode, index, info, search
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
    Exit codes: 0 done; 1 failed, or some files were skipped; 2 wrong usage; 130 interrupted.
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
    "Search": (index, search, encode, info),
    "Training data": (data, mine),
    "Models": (init, trim, train),
    "Measures": (evaluate, doctor),
    "Housekeeping": (cache,),
}
for _command in (command for commands in TASKS.values() for command in commands):
    tercet.add_command(_command)
for _command in (pairs, filter_rows, mix, synthesize, check, split, teach, merge):
    data.add_command(_command)


def main() -> None:
    """The entry point of the `tercet` command."""
    logging.getLogger("tercet").setLevel(logging.ERROR)  # commands tell what they see themselves
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; failures are told on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a text that a terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        code = tercet.main(list(arguments), prog_name="tercet", standalone_mode=False)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return INTERRUPTED
    except click.UsageError as error:
        return _wrong_usage(error)
    except click.ClickException as error:
        complain(error.format_message())
    except TercetError as error:
        complain(str(error))
    except BrokenPipeError:
        # Whoever read our output has gone; without this, Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        reason = error.strerror or str(error)
        complain(f"{error.filename}: {reason}" if error.filename else reason)
    else:
        return code if isinstance(code, int) else 0
    return FAILED


def complain(message: str) -> None:
    """One sentence on stderr."""
    click.echo(f"tercet: {' '.join(message.split())}", err=True)


def _wrong_usage(error: click.UsageError) -> int:
    command = error.ctx.command_path if error.ctx is not None else "tercet"
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # click 8.2 on
        click.echo(error.message, err=True)
        return WRONG_USAGE
    message = " ".join(error.format_message().split()).rstrip(".")
    complain(f"{message[:1].lower()}{message[1:]} (see `{command} --help`)")
    return WRONG_USAGE
