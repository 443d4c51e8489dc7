"""`tercet data merge`: joins the parts that `--shard` made, of any command."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from tercet.cli.options import json_option
from tercet.errors import InputError


@dataclass(frozen=True)
class Command:
    """Where the job of a command is, and what tells its report; loaded when they are needed."""

    job: str  # module:class
    tell: str  # module:function of the job and the report

    def load(self) -> tuple[type[Any], Callable[..., None]]:
        """The two."""
        kind, tell = (_find(name) for name in (self.job, self.tell))
        return kind, tell


COMMANDS = {
    "filter": Command("tercet.data.filter.job:FilterJob", "tercet.cli.filter:tell"),
    "pairs": Command("tercet.curate.pairs:PairsJob", "tercet.cli.pairs:tell"),
    "mix": Command("tercet.data.mix.job:Mix", "tercet.cli.mix:tell"),
    "encode": Command("tercet.bulk:EncodeJob", "tercet.cli.encode:tell"),
    "synthesize": Command("tercet.curate.synthesize:Synthesis", "tercet.cli.synthesize:tell"),
}


def _find(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@json_option
def merge(target: Path, as_json: bool) -> None:
    """Join the parts of TARGET that --shard made.

    TARGET is what was given to the command whose parts they are, any of `tercet data` or `tercet
    encode`. All parts must be there, made with the same settings from the same inputs; the result
    and the report are those of a run without --shard. The parts are removed when TARGET is whole.

    \b
    Examples:
      tercet encode papers.jsonl --out vectors --shard 1/2    # on one machine
      tercet encode papers.jsonl --out vectors --shard 2/2    # on another
      tercet data merge vectors
    """
    from tercet.curate.shards import SUFFIX, Parts
    from tercet.curate.shards import merge as join

    if target.name.endswith(SUFFIX):  # the folder of the parts was given
        target = target.with_name(target.name.removesuffix(SUFFIX))
    parts = Parts.find(target)
    if parts.command not in COMMANDS:
        raise InputError(
            f"the parts of {target} are of a command that this Tercet does not have "
            f"({parts.command}): join them with the version that made them"
        )
    kind, tell = COMMANDS[parts.command].load()
    job = parts.job(kind, target)
    tell(job, join(job, parts.count), as_json=as_json)
