"""`tercet mine`: hard negatives for training rows."""

from pathlib import Path
from typing import Any

import click

from tercet.cli.meter import Meter
from tercet.cli.options import as_usage, emit, json_option, model_options, parse_weights
from tercet.config import MAX_LENGTH, Weights

_PATH = click.Path(path_type=Path)


def _by(ctx: click.Context, option: Any, value: str) -> tuple[str, ...]:
    """`dense,bm25` -> ("dense", "bm25"); the library knows the names."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _ranks(ctx: click.Context, option: Any, value: str) -> tuple[int, int]:
    """`2-200` -> (2, 200)."""
    first, dash, last = value.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        raise click.BadParameter(f"{value!r} is not a range of ranks such as 2-200")
    return int(first), int(last)


def _number_or_none(ctx: click.Context, option: Any, value: str) -> float | None:
    """`0.95` -> 0.95, `none` -> None."""
    if value.strip().lower() == "none":
        return None
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor none") from None


def _limits(ctx: click.Context, option: Any, values: tuple[str, ...]) -> dict[str, float | None]:
    """`0.9` `bm25=none` -> {"": 0.9, "bm25": None}."""
    out: dict[str, float | None] = {}
    for value in values:
        source, _, limit = value.rpartition("=")
        out[source.strip()] = _number_or_none(ctx, option, limit)
    return out


@click.command()
@click.argument("files", nargs=-1, metavar="FILES...", type=_PATH)
@click.option("--to", "target", metavar="FILE", type=_PATH, help="Result: .jsonl or .jsonl.gz.")
@click.option(
    "--corpus",
    multiple=True,
    metavar="PATH",
    type=_PATH,
    help='Texts to choose from: JSON lines {"text"} or {"_id", "title", "text"}, or a BEIR folder; '
    "may be repeated.  [default: the positives and negatives of the rows]",
)
@click.option(
    "--by",
    callback=_by,
    default="dense",
    show_default=True,
    metavar="LIST",
    help="Whose candidates are united: dense, sparse, multi (ranks those of the others again), all "
    "(the weighted sum), bm25; separated by commas.",
)
@click.option(
    "--ranks",
    callback=_ranks,
    default="2-200",
    show_default=True,
    metavar="FROM-TO",
    help="Ranks from which negatives come, positives counted.",
)
@click.option(
    "--number",
    type=click.IntRange(1),
    default=15,
    show_default=True,
    metavar="N",
    help="Negatives kept for a query.",
)
@click.option("--hardest", is_flag=True, help="Take the best ranks rather than draw at random.")
@click.option(
    "--limit",
    "limits",
    callback=_limits,
    multiple=True,
    metavar="SHARE",
    help="Leave out what scores above this share of the positive's score, or none; for one source "
    "as in bm25=none; may be repeated.  [default: 0.95]",
)
@click.option(
    "--near",
    type=float,
    default=0.9,
    show_default=True,
    help="Leave out texts that share this part of their 5-character shingles with a positive.",
)
@click.option(
    "--reranker",
    metavar="MODEL",
    help="Cross-encoder (folder or hub id) that may veto; needs `pip install 'tercet[teacher]'`.",
)
@click.option(
    "--scorer",
    metavar="MODULE:FUNCTION",
    help="Python function from a list of (query, text) to their scores, in place of a re-ranker.",
)
@click.option(
    "--margin",
    callback=_number_or_none,
    default="0",
    show_default=True,
    metavar="X",
    help="Veto what the re-ranker scores above the lowest positive's score less this; or none.",
)
@click.option("--scores", is_flag=True, help="Write the re-ranker's pos_scores and neg_scores.")
@click.option("--keep", is_flag=True, help="Add to the negatives of a row; else they are replaced.")
@click.option(
    "--weights",
    callback=parse_weights,
    metavar="D,S,M",
    help="Weights of dense, sparse and multi in all.  [default: the model's]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw.")
@click.option(
    "--query-tokens",
    type=click.IntRange(3),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens of a query that are read.",
)
@click.option(
    "--passage-tokens",
    type=click.IntRange(3),
    default=MAX_LENGTH,
    show_default=True,
    metavar="N",
    help="Tokens of a text that are read.",
)
@click.option(
    "--follow",
    metavar="RUN_DIR",
    type=_PATH,
    help="Mine for a training run whenever it asks (negatives.by = other), until it is done. Rows "
    "and settings are the run's.",
)
@click.option(
    "--work",
    metavar="DIR",
    type=_PATH,
    help="Folder for temporary files.  [default: beside the result; with --follow the system's]",
)
@model_options
@click.option("--device", metavar="NAME", help="cpu, cuda or mps.  [default: the best there is]")
@json_option
def mine(
    files: tuple[Path, ...],
    target: Path | None,
    follow: Path | None,
    work: Path | None,
    device: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find hard negatives for training rows.

    FILES hold rows {"query", "pos"}: JSON lines (.gz, .xz and .zst too) or Parquet. Candidates
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
    """
    if follow is not None:
        if files or target is not None:
            raise click.UsageError("--follow takes its rows from the run: leave FILES and --to out")
        _follow(follow, work, device, as_json)
        return
    if not files or target is None:
        raise click.UsageError("give FILES and --to, or --follow")
    _mine(files, target, work, device, as_json, **options)


def _mine(
    files: tuple[Path, ...],
    target: Path,
    work: Path | None,
    device: str | None,
    as_json: bool,
    *,
    by: tuple[str, ...],
    ranks: tuple[int, int],
    limits: dict[str, float | None],
    corpus: tuple[Path, ...],
    reranker: str | None,
    scorer: str | None,
    weights: Weights | None,
    model: str | None,
    revision: str | None,
    **options: Any,
) -> None:
    from tercet.mining.config import MineConfig
    from tercet.scorers import cross_encoder, scorer_of

    first, last = ranks
    sources: Any = by
    by_source: Any = {name: limit for name, limit in limits.items() if name}
    with as_usage("'--by' / '--ranks' / '--number' / '--limit' / '--near' / '--margin'"):
        config = MineConfig(
            by=sources,
            first=first,
            last=last,
            limit=limits.get("", MineConfig.limit),
            limits=by_source,
            weights=weights,
            **options,
        )
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
    with Meter("mining") as meter:
        report = run(
            files,
            encoder,
            to=target,
            corpus=corpus or None,
            config=config,
            scorer=judge,
            work=work,
            progress=lambda done, total: meter.show(done, total, count=done, unit="texts"),
        )
    if as_json:
        emit({"to": str(target), **report.to_json()})
    else:
        click.echo(f"{target}: {report.table()}")


def _follow(run: Path, work: Path | None, device: str | None, as_json: bool) -> None:
    from tercet.encoder import Encoder
    from tercet.mining.miner import MineReport
    from tercet.mining.refresh import follow

    def tell(step: int, report: MineReport) -> None:
        if as_json:
            emit({"step": step, **report.to_json()})
        else:
            click.echo(
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
        click.echo(f"{run}: done; {answered} requests answered")
