"""`tercet index`: files and folders into a collection."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tercet.cli.meter import Meter
from tercet.cli.options import as_usage, emit, heads_option, json_option, model_options
from tercet.config import Head

# As in tercet.index.base, which imports more than a help text should wait for.
BACKENDS = ("edge", "exact")
DTYPES = ("float16", "int8")


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path())
@click.option(
    "--to",
    "folder",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the index; made where there is none, brought up to date where there is one.",
)
@click.option(
    "--chunk",
    type=int,
    metavar="N",
    help="Tokens of a chunk; 0 keeps documents whole, to 8192 tokens.  [default: 512]",
)
@click.option(
    "--overlap",
    type=int,
    metavar="N",
    help="Tokens that neighbouring chunks share.  [default: 64, at most an eighth of a chunk]",
)
@click.option(
    "--late-chunking",
    is_flag=True,
    default=None,
    help="Take the vectors of chunks from one pass over their document, 8192 tokens at a time.",
)
@heads_option
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="How vectors are stored.  [default: float16]",
)
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="edge: embedded engine; exact: every row is scored.  [default: edge]",
)
@model_options
@click.option(
    "--rebuild",
    is_flag=True,
    help="First encode every stored document anew: for a damaged index or another model; "
    "--heads, --dtype and --backend may change.",
)
@json_option
def index(
    paths: tuple[str, ...],
    folder: Path,
    chunk: int | None,
    overlap: int | None,
    late_chunking: bool | None,
    heads: tuple[Head, ...] | None,
    dtype: Any,
    backend: Any,
    model: str | None,
    revision: str | None,
    rebuild: bool,
    as_json: bool,
) -> None:
    """Index files and folders for search.

    Reads .txt .md .html .jsonl .csv .tsv .parquet and .pdf. On the next run unchanged files are
    passed over, changed ones replaced, and those gone from the folders removed. A file that
    cannot be read is named and skipped; the exit code is then 1. How an index is made (--chunk,
    --overlap, --late-chunking, --heads, --dtype, --backend) is fixed the first time.

    \b
    Examples:
      tercet index docs --to my-index
      tercet index notes.md papers/ --to my-index --heads dense,sparse --dtype int8
      tercet index laws --to laws-index --model BAAI/bge-m3 --chunk 0
      tercet index --rebuild --to my-index
    """
    if not paths and not rebuild:
        raise click.UsageError("missing argument 'PATH...'")
    with as_usage("'--chunk' / '--overlap'"):
        _check_chunking(chunk, overlap, late_chunking)
    from tercet.collection import Collection
    from tercet.ingest import AddReport, Change, Progress

    start = time.monotonic()
    with Meter("indexing") as meter:

        def progress(state: Progress) -> None:
            meter.show(state.done, state.total, count=state.tokens, unit="tokens")

        def report(change: Change) -> None:
            if change.kind in ("skipped", "truncated"):
                meter.note(f"tercet: {change.kind} {change.id}: {change.reason}")

        encoder = None
        if model is not None or revision is not None:
            from tercet.encoder import Encoder

            encoder = Encoder.load(model, revision=revision)
        with Collection.open(
            folder,
            encoder,
            rebuild=rebuild,
            backend=backend,
            heads=heads,
            dtype=dtype,
            chunk=chunk,
            overlap=overlap,
            late_chunking=late_chunking,
            progress=progress,
        ) as collection:
            result = AddReport()
            if paths:
                result = collection.add(paths, report=report, progress=progress)
            documents = len(collection)
    seconds = time.monotonic() - start
    if as_json:
        facts = {"index": str(folder), "documents": documents, **asdict(result)}
        emit({**facts, "seconds": round(seconds, 3)})
    else:
        click.echo(
            f"{folder}: {documents} documents; {result.added} added, {result.updated} updated, "
            f"{result.unchanged} unchanged, {result.removed} removed, "
            f"{len(result.skipped)} skipped in {seconds:.1f} s"
        )
    if any(problem.failed for problem in result.skipped):
        click.get_current_context().exit(1)


def _check_chunking(chunk: int | None, overlap: int | None, late: bool | None) -> None:
    """Refuses what no collection could have, before a model is loaded."""
    from tercet.documents.chunks import Chunking

    made = Chunking() if chunk is None else Chunking(chunk, 0, bool(late))
    if overlap is not None:
        Chunking(made.chunk, overlap)
