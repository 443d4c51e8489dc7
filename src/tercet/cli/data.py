"""`tercet data`: training rows."""

from dataclasses import asdict
from pathlib import Path

import click

from tercet.cli.options import emit, json_option


@click.group()
def data() -> None:
    """Prepare rows for training.

    \b
    Examples:
      tercet data split rows --to split
    """


@data.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for train/ and dev/.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.02,
    show_default=True,
    help="Part that is held out, counted in documents.",
)
@json_option
def split(source: Path, target: Path, share: float, as_json: bool) -> None:
    """Hold out a part of the rows for development.

    The same part every time. SOURCE is a .jsonl file (.gz and .xz too) or a folder of them. Rows
    that share a text, also through other rows, stay on one side.

    \b
    Examples:
      tercet data split rows --to split
      tercet data split rows.jsonl.gz --to split --share 0.1
    """
    from tercet.data.split import split as run

    report = run(source, target, share=share)
    if as_json:
        emit(asdict(report))
        return
    for name in report.train:
        click.echo(f"{name}: {report.train[name]} train, {report.dev[name]} dev")
    click.echo(
        f"{target}: {sum(report.train.values())} train, {sum(report.dev.values())} dev rows "
        f"of {report.groups} documents"
    )
