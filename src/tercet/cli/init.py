"""`tercet init`: a fresh small model to train."""

from pathlib import Path
from typing import Any

import click

from tercet.cli.meter import Meter
from tercet.cli.options import emit, json_option

_PATH = click.Path(path_type=Path)
_POSITIVE = click.IntRange(1)


@click.command()
@click.option("--to", "target", required=True, metavar="DIR", type=_PATH, help="Folder to make.")
@click.option(
    "--tokenizer",
    metavar="FILE",
    type=_PATH,
    help="An XLM-RoBERTa tokenizer.json or sentencepiece.bpe.model, taken over as it is or, with"
    " --vocabulary, pruned to the rows.",
)
@click.option(
    "--train-tokenizer", is_flag=True, help="Train a tokenizer from the rows' texts instead."
)
@click.option(
    "--rows",
    multiple=True,
    metavar="FILES",
    help="Training rows: files or folders, separated by commas; may be repeated. The bag's batches"
    " are each from one file.",
)
@click.option(
    "--vocabulary",
    type=_POSITIVE,
    help="Most ids of the tokenizer, such as 65536; single characters always stay.",
)
@click.option("--hidden", type=_POSITIVE, default=256, show_default=True, help="Size of a state.")
@click.option("--layers", type=_POSITIVE, default=4, show_default=True, help="Layers of the trunk.")
@click.option("--heads", type=_POSITIVE, default=4, show_default=True, help="Attention heads.")
@click.option(
    "--feed-forward",
    type=_POSITIVE,
    default=512,
    show_default=True,
    help="Inner size of a layer.",
)
@click.option(
    "--multi",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="Size of a multi-vector; 0 leaves that head out.",
)
@click.option(
    "--positions",
    type=click.IntRange(5),
    default=8194,
    show_default=True,
    help="Rows of the table of positions: the longest text in tokens + 2.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all that is random.")
@click.option(
    "--bag-minutes",
    type=click.FloatRange(0, min_open=True),
    help="Start the word embeddings from a bag of tokens that learns from the rows for so long.",
)
@click.option("--bag-steps", type=_POSITIVE, help="The same, for so many batches of 1,024 rows.")
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="FILE",
    type=_PATH,
    help="Vectors of an outside teacher that the bag is drawn to; may be repeated.",
)
@json_option
def init(
    target: Path,
    tokenizer: Path | None,
    train_tokenizer: bool,
    rows: tuple[str, ...],
    vocabulary: int | None,
    bag_minutes: float | None,
    bag_steps: int | None,
    teachers: tuple[Path, ...],
    as_json: bool,
    **sizes: int,
) -> None:
    """Make a fresh small model to train.

    In the reference layout, with random weights or, far better for little data, word embeddings
    from a bag of tokens: minutes on a CPU. The tokenizer is pruned to the rows, trained from them,
    or taken over.

    \b
    Examples:
      tercet init --to fresh --tokenizer tokenizer.json --rows split/train --vocabulary 65536
      tercet init --to fresh --tokenizer tokenizer.json --rows split/train --vocabulary 65536 \\
        --bag-minutes 12
      tercet init --to fresh --train-tokenizer --vocabulary 16000 --rows rows.jsonl.gz --layers 2
      tercet init --to fresh --tokenizer tokenizer.json --hidden 384 --heads 6
    """
    with_bag = bag_minutes is not None or bag_steps is not None
    if train_tokenizer == (tokenizer is not None):
        raise click.UsageError("give either --tokenizer or --train-tokenizer")
    if train_tokenizer and vocabulary is None:
        raise click.UsageError("--train-tokenizer needs --vocabulary, the most ids it may have")
    needs = {"--vocabulary": vocabulary is not None, "--bag-minutes or --bag-steps": with_bag}
    for option, used in needs.items():
        if used and not rows:
            raise click.UsageError(f"{option} needs --rows")
    if rows and not any(needs.values()):
        raise click.UsageError("--rows do nothing without --vocabulary or --bag-minutes")
    if teachers and not with_bag:
        raise click.UsageError("--teacher needs --bag-minutes or --bag-steps")

    from tercet.train.bag_training import BagConfig
    from tercet.train.config import SourceConfig
    from tercet.train.fresh import FreshConfig, make_fresh
    from tercet.train.texts import text_files

    named = [Path(name) for some in rows for name in some.split(",") if name]
    files = text_files(named) if named else []
    sources = [SourceConfig(files=(str(path),)) for path in files]
    bag = BagConfig(minutes=bag_minutes or 0.0, steps=bag_steps or 0) if with_bag else None
    with Meter("bag of tokens") as meter:

        def log(line: dict[str, Any]) -> None:
            meter.show(round(line["done"] * 1000), 1000, count=line["step"], unit="steps")
            meter.note(f"bag of tokens: step {line['step']}, loss {line['loss']:.3f}")

        model = make_fresh(
            target,
            FreshConfig(vocabulary=vocabulary, **sizes),
            tokenizer=tokenizer,
            rows=sources,
            bag=bag,
            teachers=teachers,
            log=log,
        )
    trunk = model.backbone.config
    facts = {
        "folder": str(target),
        "vocabulary": trunk.vocabulary,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "heads": list(model.heads),
        "max_length": trunk.max_length,
    }
    if as_json:
        emit(facts)
        return
    click.echo(
        f"{target}: {facts['vocabulary']:,} ids, {trunk.layers} layers of {trunk.hidden},"
        f" {facts['parameters']:,} parameters, texts of up to {trunk.max_length:,} tokens"
    )
