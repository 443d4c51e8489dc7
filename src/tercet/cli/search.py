"""`tercet search`: questions to a collection."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tercet.cli.options import emit, json_option, model_options, parse_filters, parse_weights
from tercet.config import MODES, Weights
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.records import Hit

SNIPPET = 240  # characters of a hit that are shown
AT_ONCE = 64  # questions from a pipe that are encoded together


@click.command()
@click.argument("questions", nargs=-1, metavar="[QUESTION]...")
@click.option(
    "--index",
    "folder",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder that `tercet index` made.",
)
@click.option(
    "-k", type=click.IntRange(min=1), default=10, show_default=True, help="Hits to a question."
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="hybrid",
    show_default=True,
    help="One representation alone (multi re-ranks what dense finds), or all together.",
)
@click.option(
    "--weights",
    callback=parse_weights,
    metavar="D,S,M",
    help="Weights of the dense, sparse and multi scores in hybrid, as in 1,0.3,1.  "
    "[default: the model's own]",
)
@click.option(
    "--candidates",
    type=click.IntRange(min=0),
    metavar="N",
    help="Chunks that dense and sparse each bring to be scored; 0 scores every chunk.  "
    "[default: 200]",
)
@click.option(
    "--filter",
    callback=parse_filters,
    metavar="KEY=VALUE",
    multiple=True,
    help="Only documents with this metadata; repeat a key for alternatives.",
)
@click.option("--chunks", is_flag=True, help="The best chunks, not one for each document.")
@model_options
@json_option
def search(
    questions: tuple[str, ...],
    folder: Path,
    k: int,
    mode: Any,
    weights: Weights | None,
    candidates: int | None,
    filter: dict[str, Any] | None,
    chunks: bool,
    model: str | None,
    revision: str | None,
    as_json: bool,
) -> None:
    """Search an index.

    Without a QUESTION, questions are read from stdin, one a line. Every hit shows its score and
    the raw scores of its parts.

    \b
    Examples:
      tercet search --index my-index "how do bees talk to each other?"
      tercet search --index my-index -k 3 --mode sparse "RFC 2616"
      tercet search --index my-index --filter language=de --filter year=2024 "Mülltrennung"
      tercet search --index my-index --json < questions.txt > hits.jsonl
    """
    from tercet.collection import Collection
    from tercet.index.base import DEFAULT_CANDIDATES

    encoder = None
    if model is not None or revision is not None:
        from tercet.encoder import Encoder

        encoder = Encoder.load(model, revision=revision)
    leg = DEFAULT_CANDIDATES if candidates is None else candidates or None
    several = len(questions) != 1
    with Collection.open(folder, encoder, create=False) as collection:
        for batch in [list(questions)] if questions else _from_stdin():
            answers = collection.search(
                batch,
                k=k,
                mode=mode,
                weights=weights,
                candidates=leg,
                filter=filter,
                chunks=chunks,
            )
            for question, hits in zip(batch, answers, strict=True):
                if as_json:
                    emit({"query": question, "hits": [asdict(hit) for hit in hits]})
                else:
                    _show(question if several else None, hits)


def _from_stdin() -> Iterator[list[str]]:
    """Batches of lines; a person at a terminal is answered line by line. Empty lines are left out.

    Raises InputError for a line that is not UTF-8.
    """
    waiting: list[str] = []
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            question = raw.decode().strip()
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} of stdin is not UTF-8") from error
        if question:
            waiting.append(question)
        if waiting and (len(waiting) >= AT_ONCE or sys.stdin.isatty()):
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _show(question: str | None, hits: "list[Hit]") -> None:
    if question is not None:
        click.echo(click.style(question, bold=True))
    if not hits:
        click.echo("   no hits")
    for rank, hit in enumerate(hits, 1):
        parts = (
            f"{name} {value:.3f}"
            for name, value in (("dense", hit.dense), ("sparse", hit.sparse), ("multi", hit.multi))
            if value is not None
        )
        language = f"  [{hit.language}]" if hit.language else ""
        click.echo(f"{rank:2}. {hit.score:.3f}  ({', '.join(parts)})  {hit.id}{language}")
        if hit.title:
            click.echo(f"    {click.style(hit.title, bold=True)}")
        text = " ".join(hit.text.split())
        click.echo(f"    {text[:SNIPPET]}{'…' if len(text) > SNIPPET else ''}")
    if question is not None:
        click.echo()
