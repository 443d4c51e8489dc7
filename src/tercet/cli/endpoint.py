"""Options of every command that asks an endpoint over HTTP. Knows nothing of what is asked."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tercet.cli.options import as_usage

if TYPE_CHECKING:
    from tercet.endpoint import Endpoint

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--key-env",
        metavar="VARIABLE",
        help="Environment variable that holds the API key.  [default: no key is sent]",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(1),
        default=8,
        show_default=True,
        metavar="N",
        help="Requests at the same time.",
    ),
    click.option(
        "--rpm",
        "requests_per_minute",
        type=click.FloatRange(0, min_open=True),
        metavar="N",
        help="Requests a minute, at most; a part of n takes an n-th.",
    ),
    click.option(
        "--tpm",
        "tokens_per_minute",
        type=click.FloatRange(0, min_open=True),
        metavar="N",
        help="Tokens a minute, at most, in and out; a part of n takes an n-th.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="For one request, to its last byte.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=6,
        show_default=True,
        metavar="N",
        help="Of a request that failed: too slow, 429, 5xx, no connection, no JSON.",
    ),
    click.option(
        "--backoff",
        type=click.FloatRange(0),
        default=1.0,
        show_default=True,
        metavar="SECONDS",
        help="Before the first retry; doubled each time. The endpoint's Retry-After goes before.",
    ),
)


def endpoint_options(command: Command) -> Command:
    """Adds them to a command; `endpoint_of` takes their values."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def endpoint_of(url: str, options: dict[str, Any], hint: str) -> "Endpoint":
    """The endpoint at an address; takes its values out of a command's options.

    A bad address, told under the name in `hint`, or a missing key is wrong usage.
    """
    from tercet.endpoint import Endpoint

    names = ("key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout")
    values = {name: options.pop(name) for name in (*names, "retries", "backoff")}
    with as_usage(hint):
        endpoint = Endpoint(url, **values)
    with as_usage("'--key-env'"):
        endpoint.key()
    return endpoint
