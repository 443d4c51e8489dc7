"""Kinds of option values, and options that several commands share.

Knows nothing of what the commands do.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from tercet.config import HEADS, Head, Weights, check_heads
from tercet.errors import InputError
from tercet.records import Scalar

Command = TypeVar("Command", bound=Callable[..., Any])


@contextmanager
def as_usage(option: str) -> Iterator[None]:
    """What the library says of a bad value is told as wrong usage of the option."""
    try:
        yield
    except InputError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def parse_heads(ctx: click.Context, option: Any, value: str | None) -> tuple[Head, ...] | None:
    """`dense,sparse` -> ("dense", "sparse")."""
    if value is None:
        return None
    with as_usage("'--heads'"):
        return check_heads(tuple(name.strip() for name in value.split(",") if name.strip()))


def parse_weights(ctx: click.Context, option: Any, value: str | None) -> Weights | None:
    """`1,0.3,1` -> Weights(1, 0.3, 1)."""
    if value is None:
        return None
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(HEADS):
        raise click.BadParameter(
            f"{value!r} is not three numbers: give the weights of dense, sparse and multi, as in "
            f"1,0.3,1"
        )
    with as_usage("'--weights'"):
        return Weights(*numbers)


def parse_filters(
    ctx: click.Context, option: Any, values: tuple[str, ...]
) -> dict[str, list[Scalar]] | None:
    """`lang=de` `lang=fr` -> {"lang": ["de", "fr"]}: values of a key are alternatives."""
    merged: dict[str, list[Scalar]] = {}
    for given in values:
        key, equals, value = given.partition("=")
        if not key.strip() or not equals:
            raise click.BadParameter(f"{given!r} is not of the form key=value")
        merged.setdefault(key.strip(), []).extend(readings(value))
    return merged or None


def readings(text: str) -> list[Scalar]:
    """What a value on the command line can stand for: itself, and the number or bool it shows.

    >>> readings("de"), readings("2024"), readings("true")
    (['de'], ['2024', 2024], ['true', True])
    """
    try:
        parsed = json.loads(text)
    except ValueError:
        return [text]
    if isinstance(parsed, bool | int) or (isinstance(parsed, float) and abs(parsed) < 1e308):
        return [text, parsed]
    return [text]


def model_options(command: Command) -> Command:
    """--model and --revision."""
    command = click.option(
        "--revision", metavar="NAME", help="Branch, tag or commit of a model on the hub."
    )(command)
    return click.option(
        "--model",
        metavar="MODEL",
        help="Folder of a checkpoint, or its id on the Hugging Face hub.  "
        "[default: the model that comes with Tercet]",
    )(command)


heads_option = click.option(
    "--heads",
    callback=parse_heads,
    metavar="LIST",
    help="Which of dense, sparse, multi, separated by commas.  [default: all the model has]",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for machines, one object a line."
)


def emit(record: Any) -> None:
    """Prints one line of JSON."""
    click.echo(json.dumps(record, ensure_ascii=False, allow_nan=False))
