"""`tercet trim`: a model with the vocabulary of some languages' text alone."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tercet.cli.meter import Meter
from tercet.cli.options import emit, json_option

if TYPE_CHECKING:
    from tercet.train.trim import TrimReport


@click.command()
@click.argument("model")
@click.option(
    "--rows",
    "files",
    multiple=True,
    required=True,
    metavar="FILES",
    help="The text to keep pieces for: rows, or .txt files of lines, or folders, separated by"
    " commas; may be repeated.",
)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the smaller model.",
)
@click.option(
    "--vocabulary",
    type=click.IntRange(1),
    help="Most ids to keep: the rarest pieces go.  [default: all that the text uses]",
)
@click.option(
    "--balanced",
    is_flag=True,
    help="With --vocabulary, keep what is frequent in each language of the rows: one of n words"
    " weighs n^0.3.  [default: what most texts have]",
)
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a model on the hub.")
@click.option(
    "--sample",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Texts that both models encode, to compare.",
)
@json_option
def trim(
    model: str,
    files: tuple[str, ...],
    target: Path,
    vocabulary: int | None,
    balanced: bool,
    revision: str | None,
    sample: int,
    as_json: bool,
) -> None:
    """Prune a model's vocabulary to given text.

    MODEL is the folder of a checkpoint or a hub id. Word embeddings of pieces that the text never
    uses are left out (nine in ten, for a published model and one language), single characters stay;
    layers, heads and settings are those of MODEL. Reports whether scores on the text are unchanged.

    \b
    Examples:
      tercet trim BAAI/bge-m3 --rows german.jsonl.gz --to m3-german
      tercet trim my-model --rows docs.txt,queries.jsonl --to small --vocabulary 30000 --json
      tercet trim my-model --rows train/ --to small --vocabulary 60000 --balanced
    """
    from tercet.train.trim import trim as run

    if balanced and vocabulary is None:
        raise click.UsageError("--balanced says which pieces to keep: give --vocabulary too")
    names = [Path(name) for some in files for name in some.split(",") if name]
    with Meter("texts") as meter:
        report = run(
            model,
            target,
            names,
            vocabulary=vocabulary,
            balance=balanced,
            revision=revision,
            sample=sample,
            watch=lambda what, count: meter.show(0, None, count=count, unit=f"texts ({what})"),
        )
    if as_json:
        emit(asdict(report))
    else:
        click.echo("\n".join(_lines(target, report)))


def _lines(target: Path, report: "TrimReport") -> list[str]:
    """What happened, for people."""
    before, after = report.before, report.after
    out = [
        f"{target}: {before.vocabulary:,} -> {after.vocabulary:,} ids,"
        f" {before.bytes / 1e6:,.1f} -> {after.bytes / 1e6:,.1f} MB of weights",
        f"texts: {report.texts:,}; cut into other pieces than before: {report.changed:,}",
    ]
    if report.compared:
        parts = [
            f"{head} {report.values[head]:.3g} (scores {report.scores[head]:.3g})"
            for head in report.values
        ]
        out.append(f"largest differences over {report.compared:,} texts: {', '.join(parts)}")
    else:
        out.append("no text of the sample is cut as before: nothing to compare")
    return out
