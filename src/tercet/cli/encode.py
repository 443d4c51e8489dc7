"""`tercet encode`: texts of a file to a folder of Embeddings, in bounded memory."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tercet.cli.meter import Meter
from tercet.cli.options import emit, heads_option, json_option, model_options
from tercet.cli.parts import Cut, carry_out, cut_options
from tercet.config import MAX_LENGTH, ROLES

if TYPE_CHECKING:
    from tercet.bulk import EncodeJob


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder to make, as `tercet.embeddings.Embeddings.load` opens it.",
)
@heads_option
@click.option(
    "--max-length",
    type=click.IntRange(min=3),
    default=MAX_LENGTH,
    show_default=True,
    metavar="N",
    help="Tokens of a text that are read, [CLS] and </s> included; the rest is cut and counted.",
)
@click.option(
    "--mcls",
    type=click.IntRange(min=1),
    metavar="N",
    help="Put a [CLS] before every N tokens and average them: for long texts and a model that was "
    "not trained on long ones. The paper has 256.",
)
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="passage",
    show_default=True,
    help="Which prefix of the model to put before each text, where it has any; plain: none.",
)
@click.option(
    "--multi-pool",
    type=click.IntRange(min=1),
    metavar="K",
    help="Merge the multi-vectors of a text to about one for K tokens.",
)
@click.option(
    "--sparse-top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the N largest sparse weights of a text.",
)
@model_options
@click.option("--device", metavar="NAME", help="cpu, cuda or mps.  [default: the best there is]")
@cut_options
@json_option
def encode(file: Path, out: Path, cut: Cut, as_json: bool, **options: Any) -> None:
    """Encode the texts of a file.

    FILE is .txt, one text a line, or .jsonl, a "text" and maybe a "title" in every line. Row n of
    the result is line n of the file, empty lines included. Texts stream through, so the file may
    be of any size. It may be encoded in parts: on a machine with several GPUs, part after part
    takes the next one.

    \b
    Examples:
      tercet encode sentences.txt --out vectors
      tercet encode papers.jsonl --out vectors --heads dense,sparse --max-length 512
      tercet encode questions.txt --out vectors --role query --json
      tercet encode papers.jsonl --out vectors --shard 2/8
      tercet encode papers.jsonl --out vectors --ray auto
    """
    from tercet.bulk import SUFFIXES, EncodeJob
    from tercet.embeddings import check_absent

    if file.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"{file}: give a file that ends in {' or '.join(SUFFIXES)}")
    check_absent(out)
    job = EncodeJob(str(out), str(file), **options)
    report: dict[str, Any] | None
    if cut == Cut():
        with Meter("encoding") as meter:
            report = _watched(job, meter).encode()
    else:
        report = carry_out(
            job,
            cut,
            "encoding",
            as_json=as_json,
            watched=lambda meter: _watched(job, meter),
            gpus=job.device is None or job.device.startswith("cuda"),
        )
    if report is not None:
        tell(job, report, as_json=as_json)


def _watched(job: "EncodeJob", meter: Meter) -> "EncodeJob":
    def show(done: int, size: int, tokens: int) -> None:
        meter.show(done, size, count=tokens, unit="tokens")

    return replace(job, show=show)


def tell(job: "EncodeJob", report: dict[str, Any], *, as_json: bool) -> None:
    """What was encoded."""
    if cut_texts := report["truncated"]:
        click.echo(
            f"tercet: {cut_texts} of {report['texts']} texts were cut to {job.max_length} tokens",
            err=True,
        )
    if as_json:
        emit(report)
    else:
        tokens, seconds = report["tokens"], report["seconds"]
        click.echo(
            f"{report['out']}: {report['texts']} texts, {tokens} tokens in {seconds:.1f} s "
            f"({tokens / max(seconds, 1e-9):,.0f} tokens/s)"
        )
