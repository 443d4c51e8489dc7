"""`tercet data filter`: drops what should not be trained on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from tercet.cli.options import as_usage, emit, json_option, model_options
from tercet.cli.parts import Cut, carry_out, cut_options

if TYPE_CHECKING:
    from tercet.config import Role
    from tercet.data.filter.job import FilterJob
    from tercet.scorers import Scorer

_GROUPS = 8  # languages and evaluation sets of a step that are named
_STEPS = (
    "encoding, length, letters, boilerplate, same, language, evaluation, relevance, exact, near"
)


def _names(ctx: click.Context, option: Any, value: str | None) -> tuple[str, ...] | None:
    """`length,near` -> ("length", "near"); the library knows the names."""
    if value is None:
        return None
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _range(ctx: click.Context, option: click.Option, value: str) -> tuple[int, int]:
    """`2-2000` -> (2, 2000)."""
    first, dash, last = value.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        raise click.BadParameter(f"{value!r} is not a range such as {option.default}")
    return int(first), int(last)


@click.command("filter")
@click.argument("sources", nargs=-1, required=True, metavar="FILES...")
@click.option("--to", "target", required=True, metavar="FILE", help="Result: .jsonl or .jsonl.gz.")
@click.option(
    "--dropped",
    metavar="FILE",
    help="Write every dropped row, the step and its reason: .jsonl or .jsonl.gz.",
)
@click.option(
    "--steps",
    callback=_names,
    metavar="LIST",
    help=f"Steps that run, separated by commas: {_STEPS}.  [default: all; evaluation with "
    "--against, relevance with --min-score]",
)
@click.option("--without", callback=_names, metavar="LIST", help="Steps that do not run.")
@click.option(
    "--query-length",
    callback=_range,
    default="2-20000",
    show_default=True,
    metavar="FROM-TO",
    help="Characters of a query.",
)
@click.option(
    "--passage-length",
    callback=_range,
    default="5-200000",
    show_default=True,
    metavar="FROM-TO",
    help="Characters of a positive, or of a raw text.",
)
@click.option(
    "--letters",
    type=float,
    default=0.4,
    show_default=True,
    metavar="SHARE",
    help="Least part of a text's characters, white space left out, that are letters.",
)
@click.option(
    "--sure",
    type=float,
    default=0.9,
    show_default=True,
    metavar="P",
    help="Least probability of another language that speaks against a row.",
)
@click.option(
    "--near",
    type=float,
    default=0.8,
    show_default=True,
    metavar="SHARE",
    help="Part of their 5-character shingles that near-duplicates share; short texts must have the "
    "same letters.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="PATH",
    help="Evaluation set whose texts may not occur: a BEIR folder, a file of rows, a folder with "
    "pairs.jsonl, or a folder of such; may be repeated.",
)
@click.option(
    "--passages",
    type=click.Choice(("relevant", "all", "none")),
    default="relevant",
    show_default=True,
    help="Passages of a BEIR corpus that count: those relevant to a query, as others may be shared "
    "with training.",
)
@click.option(
    "--shared-words",
    type=click.IntRange(1),
    default=13,
    show_default=True,
    metavar="N",
    help="Words in a row that a text may not share with an evaluation text.",
)
@click.option(
    "--shared-characters",
    type=click.IntRange(12),
    default=50,
    show_default=True,
    metavar="N",
    help="The same in characters, for scripts without spaces; those words have as many at least.",
)
@click.option(
    "--min-score",
    type=float,
    metavar="X",
    help="Drop positives whose dense score with the query is below, by --model or --scorer. The "
    "report shows how scores are spread.",
)
@model_options
@click.option(
    "--max-length",
    type=click.IntRange(3),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens of a text that the model reads.",
)
@click.option("--device", metavar="NAME", help="cpu, cuda or mps.  [default: the best there is]")
@click.option(
    "--scorer",
    metavar="MODULE:FUNCTION",
    help="Python function from a list of (query, text) to their scores, in place of a model.",
)
@cut_options
@json_option
def filter_rows(
    sources: tuple[str, ...],
    target: str,
    steps: tuple[str, ...] | None,
    without: tuple[str, ...] | None,
    min_score: float | None,
    model: str | None,
    revision: str | None,
    max_length: int,
    device: str | None,
    scorer: str | None,
    cut: Cut,
    as_json: bool,
    **options: Any,
) -> None:
    """Drop rows that should not be trained on, and say why.

    FILES hold training rows {"query", "pos"} or raw texts {"text"}: JSON lines (.gz, .xz and .zst
    too), Parquet, or folders of them. In this order: rows without their fields, broken encodings,
    texts too short or long, few letters, boilerplate, a query that is its own positive, another
    language than "lang" says (rows without one get it), what occurs in evaluation sets, low
    relevance, and rows that are the same or nearly the same as an earlier one. A positive is taken
    out of its row; a row goes with its last one. Negatives are left as they are.

    Needs `pip install 'tercet[filter]'` for the steps language and near.

    \b
    Examples:
      tercet data filter rows.jsonl.gz --to clean.jsonl.gz --dropped dropped.jsonl
      tercet data filter rows --to clean.jsonl --against beir/nfcorpus --against held-out.jsonl
      tercet data filter rows --to clean.jsonl --without language,letters --near 0.9
      tercet data filter pairs.jsonl --to clean.jsonl --min-score 0.4 --model BAAI/bge-m3
      tercet data filter rows --to clean.jsonl.gz --shard 2/8
    """
    from tercet.data.filter.config import STEPS
    from tercet.data.filter.job import FilterJob

    if min_score is None and (model or scorer):
        raise click.UsageError("--model and --scorer score for --min-score: give that too")
    if model and scorer:
        raise click.UsageError("give a --model or a --scorer, not both")
    for name in without or ():
        if name not in STEPS:
            raise click.BadParameter(f"unknown step {name!r}: {_STEPS}", param_hint="'--without'")
    every = STEPS if steps is None else steps
    chosen = tuple(name for name in every if name not in (without or ()))
    for name, given, option in (
        ("evaluation", bool(options["against"]), "--against"),
        ("relevance", min_score is not None, "--min-score"),
    ):
        if steps is not None and name in chosen and not given:
            raise click.UsageError(f"the step {name} needs {option}")
        if given and name not in chosen:
            raise click.UsageError(f"{option} is for the step {name}, which does not run")
    relevance: dict[str, Any] = {}
    if min_score is not None:
        own = {"model": model, "revision": revision, "device": device, "max_length": max_length}
        relevance = {
            "min_score": min_score,
            "scorer": scorer or "tercet.cli.filter:encoder_scorer",
            "scorer_options": None if scorer else own,
        }
    with as_usage("the options"):
        job = FilterJob(
            sources=sources,
            target=target,
            steps=chosen,
            **relevance,
            **options,
        )
    report = carry_out(job, cut, "filtering", as_json=as_json)
    if report is not None:
        tell(job, report, as_json=as_json)


def encoder_scorer(
    model: str | None, revision: str | None, device: str | None, max_length: int
) -> "Scorer":
    """The dense score of pairs by a model; made anew in each process that scores."""
    import logging

    import numpy as np

    from tercet.encoder import Encoder

    # the beginning of a long text is enough to see what it is about
    logging.getLogger("tercet").setLevel(logging.ERROR)
    encoder = Encoder.load(model, revision=revision, device=device)

    def vectors(texts: Sequence[str], role: "Role") -> Any:
        """(P, D) one for each text; a text that comes again is encoded once."""
        places = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        found = encoder.encode(list(places), heads=("dense",), max_length=max_length, role=role)
        return np.asarray(found.dense)[[places[text] for text in texts]]

    def score(pairs: list[tuple[str, str]]) -> Sequence[float]:
        queries, passages = zip(*pairs, strict=True)
        scores: Sequence[float] = np.einsum(
            "pd,pd->p", vectors(queries, "query"), vectors(passages, "passage")
        ).tolist()
        return scores

    return score


def tell(job: "FilterJob", report: dict[str, Any], *, as_json: bool) -> None:
    """Prints what a run dropped."""
    if as_json:
        emit(report)
        return
    rows, kept = report["rows"], report["kept"]
    lines = [f"{report['to']}: {kept:,} of {rows:,} rows kept"]
    for name, step in report["steps"].items():
        taken = f", {step['positives']:,} positives of others" if step["positives"] else ""
        share = f" ({step['rows'] / rows:.2%})" if step["rows"] else ""
        lines.append(f"  {name}: {step['rows']:,}{share}{taken}")
        if step["groups"]:
            lines.append(f"    by {_counts(step['groups'])}")
        lines += [
            f"    {one['file']}:{one['line']}: {one['reason']}"
            + (one["text"] and f" | {one['text']}")
            for one in step["examples"]
        ]
    if written := report.get("languages_written"):
        lines.append(f"languages written into rows: {_counts(written)}")
    if unknown := report.get("languages_unknown"):
        lines.append(
            f"language not judged, as the identifier does not know the tag: {_counts(unknown)}"
        )
    if scores := report.get("scores"):
        spread = ", ".join(f"{share} below {score:g}" for share, score in scores.items())
        lines.append(f"scores: {spread}")
    if job.dropped is not None:
        lines.append(f"{job.dropped}: every dropped row and its reason")
    click.echo("\n".join(lines))


def _counts(found: dict[str, int]) -> str:
    named = [f"{name} {count:,}" for name, count in list(found.items())[:_GROUPS]]
    more = [f"and {len(found) - _GROUPS:,} more"] if len(found) > _GROUPS else []
    return ", ".join(named + more)
