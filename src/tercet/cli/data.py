"""`tercet data`: training rows."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tercet.cli.filter import filter_rows
from tercet.cli.merge import merge
from tercet.cli.meter import Meter
from tercet.cli.mix import mix
from tercet.cli.options import emit, json_option, model_options
from tercet.cli.pairs import pairs
from tercet.cli.synthesize import synthesize
from tercet.config import MAX_LENGTH

if TYPE_CHECKING:
    from tercet.train.check import FileReport, Found

SHOWN = 20  # defects that are told one by one
LANGUAGES = 10  # that are named


@click.group()
def data() -> None:
    """Prepare rows for training.

    \b
    Examples:
      tercet data check rows.jsonl
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

    The same part every time. SOURCE is a file as `tercet data check` reads it, or a folder of them.
    Rows that share a text, also through other rows, stay on one side.

    \b
    Examples:
      tercet data split rows --to split
      tercet data split rows.jsonl.gz --to split --share 0.1
    """
    from tercet.split import split as run

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


@data.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_options
@click.option(
    "--max-length",
    type=click.IntRange(min=3),
    default=MAX_LENGTH,
    show_default=True,
    metavar="N",
    help="Tokens, [CLS] and </s> included; texts that are longer are counted.",
)
@click.option(
    "--negatives-required",
    "--no-in-batch",
    "negatives_required",
    is_flag=True,
    help="Refuse rows without negatives, as training without in-batch negatives does.",
)
@json_option
def check(
    files: tuple[Path, ...],
    model: str | None,
    revision: str | None,
    max_length: int,
    negatives_required: bool,
    as_json: bool,
) -> None:
    """Say what is in training rows.

    Also what cannot train: file, line and reason, and the exit code is 1. FILES are .jsonl (.gz,
    .xz and .zst too), .parquet, folders that Hugging Face datasets saved, or folders of these. A
    row is {"query", "pos": [...]}, maybe with "neg", "pos_scores", "neg_scores", "prompt", "lang",
    "source" and "group"; or a raw {"text"}. Lengths are in tokens of --model.

    \b
    Examples:
      tercet data check rows.jsonl.gz
      tercet data check split/train --model BAAI/bge-m3 --max-length 512
      tercet data check pairs.parquet --negatives-required --json
    """
    from tercet.encoder import BUNDLED
    from tercet.rows import files_of
    from tercet.train.check import check_files, read_tokenizer

    found = [path for source in files for path in files_of(source)]
    tokenizer = read_tokenizer(BUNDLED if model is None else model, revision)
    with Meter("reading") as meter:
        reports = list(
            check_files(
                found,
                tokenizer,
                max_length=max_length,
                negatives_required=negatives_required,
                show=lambda rows, tokens: meter.show(rows, None, count=tokens, unit="tokens"),
            )
        )
    for report in reports:
        if as_json:
            emit(asdict(report))
        else:
            click.echo("\n".join(_lines(report, max_length)))
    if refused := sum(report.defects for report in reports):
        told = [defect for report in reports for defect in report.first_defects][:SHOWN]
        if not as_json:
            for defect in told:
                click.echo(f"tercet: {defect}", err=True)
        more = f", of which {len(told)} are named" if len(told) < refused else ""
        click.echo(f"tercet: {refused:,} defects: this cannot train{more}", err=True)
        click.get_current_context().exit(1)


def _lines(report: "FileReport", max_length: int) -> list[str]:
    """A report for people."""
    lines = [f"{report.file}: {report.rows:,} rows, {report.texts:,} different texts"]
    head = ("tokens", "median", "90%", "longest", f"over {max_length}")
    lines.append("  {:<10}{:>9}{:>9}{:>9}{:>12}".format(*head))
    for name, of in report.lengths.items():
        row = (of.median, of.p90, of.longest, of.cut)
        lines.append(f"  {name:<10}{row[0]:>9,}{row[1]:>9,}{row[2]:>9,}{row[3]:>12,}")
    named = [f"{name or 'not said'} {rows:,}" for name, rows in report.languages.items()]
    more = [f"and {len(named) - LANGUAGES:,} more"] if len(named) > LANGUAGES else []
    lines.append(f"  languages: {', '.join(named[:LANGUAGES] + more) or '-'}")
    lines.append(f"  groups: {report.groups:,}, the largest of {report.largest_group:,} rows")
    lines.append(f"  rows with outside scores: {report.scored:,}")
    counted = {
        "rows without negatives": report.without_negatives,
        "rows with a positive among the negatives": report.positive_in_negatives,
        "rows that repeat an earlier one": report.duplicates,
        "rows with an oversized text": report.oversized,
        "rows with an empty text": report.empty,
        "defects": None,
    }
    for name, found in counted.items():
        lines.append(f"  {name}: {_count(found) if found else f'{report.defects:,}'}")
    return lines


def _count(found: "Found") -> str:
    return f"{found.count:,}" + (f", the first in line {found.first}" if found.count else "")


@data.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    required=True,
    help="The teacher: a Tercet model's folder or hub id, or a sentence-transformers model.",
)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the vectors.",
)
@click.option(
    "--student",
    metavar="MODEL",
    help="Also give each token of this model a vector and a rarity; the teacher needs a"
    " multi-vector head.",
)
@click.option("--query-prefix", default="", help="Put before queries, as in 'query: '.")
@click.option("--passage-prefix", default="", help="Put before passages, as in 'passage: '.")
@click.option(
    "--pooling",
    type=click.Choice(["cls", "mean"]),
    default="cls",
    show_default=True,
    help="How the teacher makes the vector of a text; sentence-transformers know themselves.",
)
@click.option(
    "--max-length",
    type=click.IntRange(8),
    default=512,
    show_default=True,
    help="Tokens of a text that the teacher reads.",
)
@click.option(
    "--windows",
    is_flag=True,
    help="Read a longer text in windows of --max-length: its vector is the mean of theirs, a token"
    " has that of its window. For students of long texts.",
)
@click.option(
    "--directions",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    help="Directions that tell languages apart, and are taken out of the vectors.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps.")
def teach(
    files: tuple[Path, ...],
    model: str,
    target: Path,
    student: str | None,
    query_prefix: str,
    passage_prefix: str,
    pooling: str,
    max_length: int,
    windows: bool,
    directions: int,
    device: str,
) -> None:
    """Encode all texts of FILES with a teacher.

    `tercet train ... --set teacher.path=DIR` draws a student to these vectors, and a translation to
    the vector of its English side. A run that was killed goes on with the same command. A teacher
    of sentence-transformers needs `pip install 'tercet[teacher]'`.

    \b
    Examples:
      tercet data teach split/train/qa.jsonl.gz --model BAAI/bge-m3 --to taught
      tercet data teach rows --model e5 --pooling mean --query-prefix "query: " \\
        --passage-prefix "passage: " --student start --to taught
    """
    from tercet.train.teacher import TeachConfig
    from tercet.train.teacher import teach as run

    config = TeachConfig(
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        pooling=pooling,  # type: ignore[arg-type]
        max_length=max_length,
        windows=windows,
        directions=directions,
        device=device,
    )
    with Meter("texts") as meter:
        count = run(
            files,
            model,
            target,
            config,
            student=student,
            watch=lambda done, of: meter.show(done, of, count=done, unit="texts"),
        )
    click.echo(f"{target}: vectors of {count:,} texts")


data.add_command(synthesize)
data.add_command(pairs)
data.add_command(mix)
data.add_command(merge)
data.add_command(filter_rows)
