"""`tercet doctor`: does a model or an endpoint give the vectors of its checkpoint?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from tercet.cli.meter import Meter
from tercet.cli.options import (
    Count,
    Json,
    Model,
    Natural,
    Opt,
    Revision,
    as_usage,
    command,
    default_of,
    echo,
    emit,
    parse_list,
)
from tercet.config import BUNDLED_NAME

if TYPE_CHECKING:
    from tercet.evaluate.golden import Golden


def _kinds(value: str) -> tuple[str, ...]:
    """`dense,sparse` -> ("dense", "sparse")."""
    from tercet.evaluate.causes import KINDS

    names = parse_list(value)
    if not names or not {*names} <= {*KINDS}:
        raise ValueError(f"{value!r} is no list of heads: choose from {', '.join(KINDS)}")
    return names


@command()
def doctor(
    target: str | None = None,
    *,
    model: Model = None,
    revision: Revision = None,
    golden: Path | None = None,
    make: Path | None = None,
    api: Literal["openai", "tei", "vllm"] | None = None,
    name: str | None = None,
    key_env: str | None = None,
    kinds: Annotated[tuple[Any, ...], Opt(flag="--heads", parse=_kinds)] = default_of(
        "tercet.evaluate.causes", "KINDS"
    ),
    prefixes: Annotated[tuple[str, ...], Opt(flag="--prefix")] = (),
    suspects: Annotated[tuple[str, ...], Opt(flag="--suspect")] = (),
    within: Literal["float32", "float16", "bfloat16", "int8"] = "int8",
    dtype: str | None = None,
    device: str = "cpu",
    batch: Count = 8,
    timeout: Annotated[float, Opt(min=0, open=True)] = 120.0,
    retries: Natural = 3,
    as_json: Json = False,
) -> None:
    """Compare a model or an endpoint with golden vectors of its checkpoint.

    TARGET is the address of a server that speaks OpenAI's /v1/embeddings, text-embeddings-inference
    (TEI) or vLLM's /pooling; or a folder or hub id, which our own encoder runs. Its answers to 49
    texts of many kinds are compared with --model, run here in float32, head by head: the same, the
    same within the rounding of a narrower number type, or different; and why, as far as trying the
    usual mistakes tells.

    \b
    Examples:
      tercet doctor http://localhost:8080 --model BAAI/bge-m3
      tercet doctor ./converted --model BAAI/bge-m3
      tercet doctor --make golden --model BAAI/bge-m3
      tercet doctor http://localhost:8000/v1 --golden golden --name bge-m3 --json

    \b
    Exit codes: 0 all heads are the same (see --within); 1 one is different; 2 wrong usage.

    Options:
      golden DIR: Golden vectors made before, in place of the checkpoint.
      make DIR: Make golden vectors of --model.
      api: What an endpoint speaks.  [default: found by asking]
      name NAME: The model's name at the endpoint.  [default: as --model]
      key_env VAR: Environment variable with the endpoint's API key.
      kinds LIST: Which are compared, where they are offered.
      prefixes TEXT: A prompt that may be put before texts; may be repeated.
      suspects MODEL: Another checkpoint that may be what is served; may be repeated.
      within: The coarsest rounding that passes.
      dtype NAME: In which a folder or hub id is loaded.
      device NAME: Where the checkpoint is run, and a folder or hub id: cpu, cuda or mps.
      batch: Texts a request.
      timeout S: Seconds for one request.
      retries: Of a request.
    """
    if (target is None) == (make is None):
        raise click.UsageError("give a TARGET to examine, or --make to store golden vectors")
    if golden is not None and (make or model or revision or prefixes or suspects):
        raise click.UsageError(
            "--golden stands in for the checkpoint: it goes without --model, --revision, --make, "
            "--prefix and --suspect"
        )
    from tercet.evaluate.golden import Golden

    if target is None:
        assert make is not None
        if make.exists():
            raise click.BadParameter(f"{make} exists already", param_hint="'--make'")
        with Meter("running the checkpoint") as meter:
            made = _checkpoint(model, revision, device, prefixes, suspects)
            made.save(make, show=meter.show)
        size = sum(path.stat().st_size for path in make.iterdir()) / 1e6
        echo(f"{make}: golden vectors of {len(made.texts)} texts, {size:,.1f} MB")
        return
    from tercet.encoder import Encoder
    from tercet.endpoint import Endpoint
    from tercet.evaluate import doctor as library

    is_url = target.startswith(("http://", "https://"))
    for option, value in {"--api": api, "--name": name, "--key-env": key_env}.items():
        if value is not None and not is_url:
            raise click.UsageError(f"{option} is for endpoints, and {target} is no address")
    if is_url:
        if dtype is not None:
            raise click.UsageError("--dtype is for folders and hub ids")
        with as_usage("'TARGET'"):
            endpoint = Endpoint(target, key_env=key_env, timeout=timeout, retries=retries)
    if golden is None:
        reference = _checkpoint(model, revision, device, prefixes, suspects)
    else:
        reference = Golden.read(golden)
    with Meter("comparing") as meter:
        if is_url:
            diagnosis = library.diagnose_endpoint(
                endpoint, reference, kinds=kinds, api=api, name=name, batch=batch, show=meter.show
            )
        else:
            encoder = Encoder.load(target, dtype=dtype, device=device)
            diagnosis = library.diagnose_model(encoder, reference, kinds=kinds, show=meter.show)
    if as_json:
        emit(library.report_json(diagnosis, within))
    else:
        echo(library.report_text(diagnosis))
    if not diagnosis.healthy(within):
        click.get_current_context().exit(1)


def _checkpoint(
    model: str | None,
    revision: str | None,
    device: str,
    prefixes: tuple[str, ...],
    suspects: tuple[str, ...],
) -> "Golden":
    from tercet.checkpoint import read_checkpoint
    from tercet.evaluate.golden import run_checkpoint
    from tercet.inference import usable_device
    from tercet.layout import BUNDLED

    where = usable_device(device)
    checkpoint = read_checkpoint(model or BUNDLED, revision=revision, device=where)
    others = [(name, read_checkpoint(name, device=where)) for name in suspects]
    return run_checkpoint(checkpoint, model or BUNDLED_NAME, prefixes=prefixes, suspects=others)
