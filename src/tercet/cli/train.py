"""`tercet train`: a stage of training, from a recipe or a TOML file."""

import json
import os
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tercet.cli.meter import Meter
from tercet.cli.options import emit, json_option

if TYPE_CHECKING:
    from tercet.mining import Answers
    from tercet.train.config import TrainConfig
    from tercet.train.plan import Plan

STOPPED = 128  # and the signal's number, as shells have it


@click.command()
@click.argument("recipe", metavar="RECIPE")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a field of the recipe, as in batch.rows=64; may be repeated.",
)
@click.option(
    "--rows",
    multiple=True,
    metavar="FILES",
    help="Training rows, instead of the recipe's data.sources: one source for each use, its files"
    " separated by commas.",
)
@click.option("--dev", multiple=True, metavar="FILE", help="Held-out rows; may be repeated.")
@click.option("--model", metavar="MODEL", help="Folder or hub id to start from.")
@click.option("--to", metavar="DIR", help="Folder of the run.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --to.")
@click.option("--show", "show_config", is_flag=True, help="Print the whole config and stop.")
@json_option
def train(
    recipe: str,
    settings: tuple[str, ...],
    rows: tuple[str, ...],
    dev: tuple[str, ...],
    model: str | None,
    to: str | None,
    dry_run: bool,
    resume: bool,
    show_config: bool,
    as_json: bool,
) -> int | None:
    """Run one stage of training.

    RECIPE is retromae, contrastive or unified, or a TOML file with the same fields (or of the
    stage align, which learns from a teacher: recipes/tercet-small/align.toml). Several
    devices: start it with torchrun. SIGTERM and Ctrl-C save a checkpoint after the step that runs
    and end with exit code 143 or 130; a second Ctrl-C does not wait.

    \b
    Examples:
      tercet train unified --model BAAI/bge-m3 --rows rows.jsonl.gz --to run --set epochs=2
      tercet train my-recipe.toml --dry-run
      tercet train unified --to run --resume
      torchrun --nproc-per-node 4 -m tercet train my-recipe.toml
    """
    from tercet.train.config import to_tree
    from tercet.train.loop import Stopped
    from tercet.train.run import train as run

    config = _config(recipe, settings, rows, dev, model, to, resumed=resume)
    if show_config:
        click.echo(_toml(to_tree(config)))
        return None
    if dry_run:
        _dry_run(config, as_json)
        return None
    with Meter(config.stage) as meter:
        began = time.monotonic()

        def show(done: int, total: int, tokens: int) -> None:
            if os.environ.get("RANK", "0") == "0":
                meter.show(done, total, count=tokens, unit="tokens")

        def log(line: dict[str, Any]) -> None:
            if as_json:
                emit(line)
            else:
                meter.note(_sentence(line))

        try:
            with closing(_miner(config)) as answers:
                folder = run(config, resumed=resume, mine=answers, log=log, show=show)
        except Stopped as stop:
            meter.note(f"tercet: {stop}")
            return STOPPED + stop.number
    if not as_json and os.environ.get("RANK", "0") == "0":
        click.echo(f"{folder}: done in {time.monotonic() - began:.0f} s")
    return None


def _config(
    recipe: str,
    settings: tuple[str, ...],
    rows: tuple[str, ...],
    dev: tuple[str, ...],
    model: str | None,
    to: str | None,
    *,
    resumed: bool,
) -> "TrainConfig":
    from tercet.train import config as configs
    from tercet.train.recipes import RECIPES

    kept = Path(to) / "config.json" if to else None
    tree: dict[str, Any]
    if resumed and kept is not None and kept.is_file():
        tree, where = _kept(kept), str(kept)
    elif recipe in RECIPES:
        tree, where = configs.to_tree(RECIPES[recipe]()), recipe
    else:
        tree, where = configs.read_tree(Path(recipe)), recipe
    data = tree.setdefault("data", {})
    if not isinstance(data, dict):
        raise click.BadParameter(f"{where}: data is no table", param_hint="RECIPE")
    if rows:
        named = [[name.strip() for name in some.split(",") if name.strip()] for some in rows]
        data["sources"] = [{"files": files} for files in named]
    if dev:
        data["dev"] = list(dev)
    for name, value in (("model", model), ("to", to)):
        if value is not None:
            tree[name] = value
    return configs.from_tree(tree, settings, where=where)


def _kept(path: Path) -> dict[str, Any]:
    """The config of a run that goes on."""
    from tercet.errors import InputError

    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}): name the recipe and its settings") from error
    return tree


def _miner(config: "TrainConfig") -> "Answers":
    """Answers the trainer's requests for negatives in this process."""
    from tercet.encoder import Encoder
    from tercet.mining import Answers

    device = config.device or None
    return Answers(Path(config.to), lambda folder: Encoder.load(folder, device=device))


def _dry_run(config: "TrainConfig", as_json: bool) -> None:
    from tercet.train.distributed import World
    from tercet.train.plan import make_plan
    from tercet.train.prepare import prepare

    world = World.start(config.device or None)
    try:
        plan = make_plan(prepare(config, world))
    finally:
        world.stop()
    if as_json:
        emit(plan.as_dict())
    else:
        click.echo(_plan_text(plan))


def _plan_text(plan: "Plan") -> str:
    width = max(len(group["name"]) for group in plan.groups)
    lines = [
        f"{plan.stage}: {plan.rows:,} rows of {plan.texts:,} texts",
        f"{'group':<{width}} {'rows':>9} {'batch':>7} {'batches':>8} {'tokens/row':>11}",
    ]
    lines += [
        f"{group['name']:<{width}} {group['rows']:>9,} {group['batch']:>7,}"
        f" {group['batches']:>8,} {group['tokens_per_row']:>11,.1f}"
        for group in plan.groups
    ]
    distil = plan.distillation_from
    lines += [
        f"{plan.steps:,} steps, {plan.epochs:g} epochs of {plan.batches_per_epoch:,} batches"
        + (
            "" if distil is None or distil >= plan.steps else f"; distillation from step {distil:,}"
        ),
        f"padding to the longest text of a batch: {plan.padding:.1%}"
        f" (batches at random: {plan.padding_at_random:.1%})",
        f"memory of a device: {plan.weights_mb:,} MB weights, gradients and moments;"
        f" {plan.activations_mb:,} MB activations"
        + (
            f" (sub-batches of {plan.sub_batch_tokens:,} tokens)"
            if plan.sub_batch_tokens
            else " (the whole batch at once)"
        )
        + f"; {plan.representations_mb:,} MB representations and scores",
    ]
    return "\n".join(lines)


def _sentence(line: dict[str, Any]) -> str:
    """A report for people; metrics.jsonl has all of it."""
    if "warning" in line:
        return f"step {line['step']}: warning: {line['warning']}"
    if "waiting" in line:
        return f"step {line['step']}: waiting {line['waiting']}"
    if "dev" in line:
        at = f"step {line['step']}: " if "step" in line else ""
        return f"{at}dev {json.dumps(line['dev'])}" + (
            f", weights {line['weights']}" if "weights" in line else ""
        )
    losses = [
        f"{name.removeprefix('loss_')} {value:.3f}"
        for name, value in line.items()
        if name.startswith(("loss_", "teacher_"))
    ]
    return (
        f"step {line['step']}/{line['of']}: loss {line.get('loss', float('nan')):.4f}"
        f" ({', '.join(losses)}), norm {line['norm']:.2f}, {line['tokens_per_s']:,} tokens/s,"
        f" {line['memory_mb']:,} MB"
    )


def _toml(tree: dict[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps(tree).rstrip()
