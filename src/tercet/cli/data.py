"""`tercet data check`, `split`, `teach`, `merge`: training rows looked at, divided, joined."""

from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Literal

import click

from tercet.cli.meter import Meter
from tercet.cli.options import (
    Json,
    Model,
    Natural,
    Opt,
    Revision,
    Tokens,
    command,
    counted,
    default_of,
    echo,
    emit,
    kept,
)
from tercet.config import MAX_LENGTH
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.curate.check import FileReport

LARGE = 0.25  # share of the rows from which on a group is told
FEW = 0.1  # share of the other passages below which a row is compared with little
SHOWN = 20  # defects that are told one by one
TEACH = "tercet.train.teacher:TeachConfig"

# Of each command that makes parts: its job, and what tells its report; loaded when needed.
JOBS = {
    "filter": ("tercet.curate.filter:FilterJob", "tercet.cli.curate:tell_filtered"),
    "pairs": ("tercet.curate.pairs:PairsJob", "tercet.cli.curate:tell_pairs"),
    "mix": ("tercet.curate.mix:Mix", "tercet.cli.curate:tell_mixed"),
    "encode": ("tercet.bulk:EncodeJob", "tercet.cli.search:tell_encoded"),
    "synthesize": ("tercet.curate.synthesize:Synthesis", "tercet.cli.synthesize:tell"),
}


@command()
def check(
    files: Annotated[tuple[Path, ...], Opt(metavar="FILES...")],
    *,
    model: Model = None,
    revision: Revision = None,
    max_length: Tokens = MAX_LENGTH,
    negatives_required: Annotated[bool, Opt(flag="--negatives-required --no-in-batch")] = False,
    as_json: Json = False,
) -> None:
    """Say what is in training rows.

    Also what cannot train: file, line and reason, and the exit code is 1. FILES are .jsonl (.gz
    .bz2 .xz .zst too), .parquet, folders that Hugging Face datasets saved, or folders of these. A
    row is {"query", "pos": [...]}, maybe with "neg", "pos_scores", "neg_scores", "prompt", "lang",
    "source" and "group"; or a raw {"text"}. Lengths are in tokens of --model.

    \b
    Examples:
      tercet data check rows.jsonl.gz
      tercet data check split/train --model BAAI/bge-m3 --max-length 512
      tercet data check pairs.parquet --negatives-required --json

    Options:
      max_length N: Tokens, [CLS] and </s> included; texts that are longer are counted.
      negatives_required: Refuse rows without negatives, as training without in-batch negatives
          does.
    """
    from tercet.curate.check import check_files
    from tercet.layout import BUNDLED, fetch, read_tokenizer
    from tercet.rows import files_of

    found = [path for source in files for path in files_of(source)]
    tokenizer, _ = read_tokenizer(fetch(BUNDLED if model is None else model, revision))
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
    told = [defect for report in reports for defect in report.first_defects][:SHOWN]
    for report in reports:
        if as_json:
            emit(asdict(report))
        else:
            echo("\n".join(_lines(report, max_length)))
    for report in reports:
        _tell_group(report.file, report.largest_group, report.rows)
        if report.compared < FEW and report.rows > 1:
            echo(
                f"tercet: {report.file}: a row is compared with {report.compared:.1%} of the other"
                " rows' passages: the others share texts or group ids with it, or there are none",
                err=True,
            )
    if refused := sum(report.defects for report in reports):
        for defect in () if as_json else told:
            echo(f"tercet: {defect}", err=True)
        more = f", of which {len(told)} are named" if len(told) < refused else ""
        echo(f"tercet: {refused:,} defects: this cannot train{more}", err=True)
        click.get_current_context().exit(1)
    if all(not r.compared and r.without_negatives.count == r.rows for r in reports):
        raise InputError("these rows cannot train: there is nothing that a row is compared with")


def _tell_group(file: str, largest: int, rows: int) -> None:
    """Says on stderr where a group is so large that a split cannot divide the rows well."""
    if largest > max(LARGE * rows, 2):
        echo(
            f"tercet: {file}: {largest:,} of {rows:,} rows are one group: they share texts or group"
            " ids, directly or through others, and stay on one side of a split",
            err=True,
        )


def _lines(report: "FileReport", max_length: int) -> list[str]:
    lines = [f"{report.file}: {report.rows:,} rows, {report.texts:,} different texts"]
    head = ("tokens", "median", "90%", "longest", f"over {max_length}")
    lines.append("  {:<10}{:>9}{:>9}{:>9}{:>12}".format(*head))
    for name, of in report.lengths.items():
        lines.append(f"  {name:<10}{of.median:>9,}{of.p90:>9,}{of.longest:>9,}{of.cut:>12,}")
    lines.append(f"  languages: {counted(report.languages) or '-'}")
    lines.append(f"  groups: {report.groups:,}, the largest of {report.largest_group:,} rows")
    lines.append(f"  passages of other rows that a row is compared with: {report.compared:.1%}")
    lines.append(f"  rows with outside scores: {report.scored:,}")
    for name, rows in (
        ("rows without negatives", report.without_negatives),
        ("rows with a positive among the negatives", report.positive_in_negatives),
        ("rows that repeat an earlier one", report.duplicates),
        ("rows with an oversized text", report.oversized),
        ("rows with an empty text", report.empty),
    ):
        first = f", the first in line {rows.first}" if rows.count else ""
        lines.append(f"  {name}: {rows.count:,}{first}")
    return [*lines, f"  defects: {report.defects:,}"]


@command()
def split(
    source: Path,
    *,
    to: Path,
    share: Annotated[float, Opt(min=0, max=1, open=True)] = 0.02,
    as_json: Json = False,
) -> None:
    """Hold out a part of the rows for development.

    The same part every time. SOURCE is a file as `tercet data check` reads it, or a folder of them.
    Rows that share a text, also through other rows, stay on one side.

    \b
    Examples:
      tercet data split rows --to split
      tercet data split rows.jsonl.gz --to split --share 0.1

    Options:
      to DIR: Folder for train/ and dev/.
      share: Part that is held out, counted in documents.
    """
    from tercet.split import split as run

    report = run(source, to, share=share)
    rows = sum((*report.train.values(), *report.dev.values()))
    _tell_group(str(source), report.largest_group, rows)
    if as_json:
        emit(asdict(report))
        return
    for name in report.train:
        echo(f"{name}: {report.train[name]} train, {report.dev[name]} dev")
    echo(
        f"{to}: {sum(report.train.values())} train, {sum(report.dev.values())} dev rows "
        f"of {report.groups} documents"
    )


@command()
def teach(
    files: Annotated[tuple[Path, ...], Opt(metavar="FILES...")],
    *,
    model: str,
    to: Path,
    student: str | None = None,
    query_prefix: str = "",
    passage_prefix: str = "",
    pooling: Literal["cls", "mean"] = default_of(TEACH, "pooling"),
    max_length: Annotated[int, Opt(min=8)] = default_of(TEACH, "max_length"),
    windows: bool = False,
    directions: Natural = default_of(TEACH, "directions"),
    device: str = "cpu",
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

    Options:
      model MODEL: The teacher: a Tercet model's folder or hub id, or a sentence-transformers
          model.
      to DIR: Folder for the vectors.
      student MODEL: Also give each token of this model a vector and a rarity; the teacher needs
          a multi-vector head.
      query_prefix: Put before queries, as in 'query: '.
      passage_prefix: Put before passages, as in 'passage: '.
      pooling: How the teacher makes the vector of a text; sentence-transformers know
          themselves.
      max_length: Tokens of a text that the teacher reads.
      windows: Read a longer text in windows of --max-length: its vector is the mean of theirs,
          a token has that of its window. For students of long texts.
      device NAME: cpu, cuda or mps.
      directions: Directions that tell languages apart, and are taken out of the vectors.
    """
    from tercet.train.teacher import TeachConfig
    from tercet.train.teacher import teach as run

    config = TeachConfig(
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        pooling=pooling,
        max_length=max_length,
        windows=windows,
        directions=directions,
        device=device,
    )
    again = f"what was encoded is kept beside {to}: the same command goes on"
    with kept(lambda: again), Meter("texts") as meter:
        count = run(
            files,
            model,
            to,
            config,
            student=student,
            watch=lambda done, of: meter.show(done, of, count=done, unit="texts"),
        )
    echo(f"{to}: vectors of {count:,} texts")


@command()
def merge(
    target: Path,
    *,
    as_json: Json = False,
) -> None:
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
    if parts.command not in JOBS:
        raise InputError(
            f"the parts of {target} are of a command that this Tercet does not have "
            f"({parts.command}): join them with the version that made them"
        )
    kind, tell = map(resolve_name, JOBS[parts.command])
    job = parts.job(kind, target)
    tell(job, join(job, parts.count), as_json=as_json)
