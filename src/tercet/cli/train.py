"""`tercet train`: checkpoints from rows."""

import json
from pathlib import Path
from typing import Any

import click

_PATH = click.Path(path_type=Path)


@click.group()
def train() -> None:
    """Train models.

    \b
    Examples:
      tercet data split rows --to split
      tercet train mini split --tokenizer tokenizer.json --work work --to my-mini
    """


@train.command()
@click.argument("source", type=_PATH)
@click.option("--tokenizer", required=True, type=_PATH, help="XLM-RoBERTa tokenizer.json to prune.")
@click.option("--to", "target", required=True, type=_PATH, help="Folder of the new model.")
@click.option("--work", required=True, type=_PATH, help="Folder for what can be reused: the bag.")
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    type=_PATH,
    help="Vectors made by `tercet train teach`; may be repeated.",
)
@click.option(
    "--bag-minutes", type=click.FloatRange(0, min_open=True), help="Length of the first stage."
)
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="Length of the second stage."
)
@click.option("--vocabulary", type=click.IntRange(1), help="Most ids to keep.")
@click.option("--layers", type=click.IntRange(1), help="Layers of the trunk.")
@click.option("--seed", type=int, help="Seed of the start and of the batches.")
def mini(
    source: Path,
    tokenizer: Path,
    target: Path,
    work: Path,
    teachers: tuple[Path, ...],
    bag_minutes: float | None,
    minutes: float | None,
    **sizes: Any,
) -> None:
    """Train a small model from nothing, as the bundled one was.

    SOURCE holds train/ and dev/ as `tercet data split` writes them. Prunes the vocabulary, trains
    the token embeddings as a bag, then all heads of a small trunk, chooses the weights of the
    hybrid sum on dev, and writes a checkpoint in the reference layout. One JSON line per report.

    \b
    Examples:
      tercet train mini split --tokenizer tokenizer.json --work work --to my-mini
      tercet train mini split --tokenizer tokenizer.json --work work --to quick \\
        --bag-minutes 2 --minutes 4
    """
    from dataclasses import replace

    from tercet.train.mini import MiniConfig, train_mini

    config = replace(MiniConfig(), **{name: v for name, v in sizes.items() if v is not None})
    if bag_minutes is not None:
        config = replace(config, bag=replace(config.bag, minutes=bag_minutes))
    if minutes is not None:
        config = replace(config, unified=replace(config.unified, minutes=minutes))
    train_mini(
        source, tokenizer, target, work=work, teachers=list(teachers), config=config, log=_report
    )


@train.command()
@click.argument("files", nargs=-1, required=True, type=_PATH)
@click.option("--model", required=True, help="Folder or name of a sentence-transformers model.")
@click.option("--to", "target", required=True, type=_PATH, help="File for the vectors (.npz).")
@click.option(
    "--max-length",
    type=click.IntRange(8),
    default=64,
    show_default=True,
    help="Tokens of a text that the teacher reads.",
)
def teach(files: tuple[Path, ...], model: str, target: Path, max_length: int) -> None:
    """Encode the English texts of FILES with an outside teacher, once.

    Needs `pip install 'tercet[teacher]'`.

    \b
    Examples:
      tercet train teach split/train/qa.jsonl.gz --model all-MiniLM-L6-v2 --to teacher.npz
    """
    from tercet.train.teacher import teach as run

    count = run(files, model, target, max_length=max_length)
    click.echo(f"{target}: vectors of {count} texts")


def _report(facts: dict[str, Any]) -> None:
    click.echo(json.dumps(facts))
