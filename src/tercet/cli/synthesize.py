"""`tercet data synthesize`: questions on long articles, by a language model behind an endpoint."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tercet.cli.endpoint import endpoint_of, endpoint_options
from tercet.cli.meter import Meter
from tercet.cli.options import as_usage, emit, json_option
from tercet.cli.parts import Cut, carry_out, cut_options
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.curate.synthesize import Estimate, Price, Synthesis

_PATH = click.Path(path_type=Path)
_LANGUAGES = 10  # that are named


def _range(ctx: click.Context, option: click.Option, value: str) -> tuple[int, int]:
    """`60-500` -> (60, 500)."""
    first, dash, last = value.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        raise click.BadParameter(f"{value!r} is not a range such as {option.default}")
    return int(first), int(last)


def _object(ctx: click.Context, option: Any, value: str | None) -> dict[str, Any]:
    """`{"top_p": 0.9}` -> {"top_p": 0.9}."""
    try:
        found = json.loads(value) if value is not None else {}
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter(f'{value!r} is no JSON object such as {{"top_p": 0.9}}')
    return found


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...", type=_PATH)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="FILE",
    type=_PATH,
    help="Result: .jsonl or .jsonl.gz.",
)
@click.option(
    "--base-url",
    "url",
    required=True,
    metavar="URL",
    help="Address of the endpoint, before /chat/completions; it often ends in /v1.",
)
@click.option("--model", required=True, metavar="NAME", help="As the endpoint calls it.")
@click.option(
    "--prompt",
    "prompt_file",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A prompt of your own, with {paragraph} and, if you like, {language} and {title}.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=0.7,
    show_default=True,
    help="Of the sampling.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    metavar="N",
    help="Of an answer; give more to a model that thinks aloud.",
)
@click.option(
    "--body",
    callback=_object,
    metavar="JSON",
    help="More fields of each request, as in '{\"top_p\": 0.9}'; null leaves a field out.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the paragraphs, and of the requests.",
)
@click.option(
    "--min-tokens",
    "shortest",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Shortest article. Sizes in tokens are estimates: four bytes of UTF-8 each.",
)
@click.option(
    "--reach",
    type=click.IntRange(1),
    default=8192,
    show_default=True,
    metavar="N",
    help="Paragraphs come from the first N tokens, which is what a model will read.",
)
@click.option(
    "--paragraph",
    callback=_range,
    default="60-500",
    show_default=True,
    metavar="FROM-TO",
    help="Tokens of a paragraph.",
)
@click.option(
    "--question",
    callback=_range,
    default="5-150",
    show_default=True,
    metavar="FROM-TO",
    help="Tokens of a question; others are refused.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Take the first N articles.")
@click.option(
    "--tries",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    metavar="N",
    help="Answers asked for on an article before it is dropped.",
)
@endpoint_options
@click.option("--skip-failed", is_flag=True, help="Leave out articles that got no answer.")
@click.option(
    "--price-in", type=click.FloatRange(0), metavar="X", help="Price of a million tokens read."
)
@click.option(
    "--price-out", type=click.FloatRange(0), metavar="X", help="Price of a million tokens written."
)
@click.option("--dry-run", is_flag=True, help="Show the estimate and three prompts; ask nothing.")
@click.option("--yes", is_flag=True, help="Start without a question.")
@cut_options
@json_option
def synthesize(
    files: tuple[Path, ...],
    target: Path,
    url: str,
    prompt_file: Path | None,
    price_in: float | None,
    price_out: float | None,
    dry_run: bool,
    yes: bool,
    cut: Cut,
    as_json: bool,
    **options: Any,
) -> None:
    """Have a language model write questions on long articles.

    For each article a paragraph is picked at random, and a model behind any OpenAI-compatible
    endpoint writes one question on it; (question, whole article) becomes a training row. FILES are
    JSON lines (.gz, .xz and .zst too), Parquet or folders of them with rows {"text"}, maybe with
    "title", "lang" and "source", or training rows whose positives are the articles.

    Answers are checked (language, length, no "it" or "the text", no copy); a refused one is asked
    for again. Every answer is kept as it comes: the same command again goes on with a stopped run.

    \b
    Examples:
      tercet data synthesize wiki.jsonl.gz --to questions.jsonl.gz \\
        --base-url http://localhost:8000/v1 --model my-model --dry-run
      tercet data synthesize wiki.jsonl.gz --to questions.jsonl.gz --rpm 500 \\
        --base-url https://api.example.com/v1 --key-env API_KEY --model small \\
        --price-in 0.15 --price-out 0.6
      tercet data synthesize wiki.jsonl.gz --to questions.jsonl.gz --shard 2/8 --yes \\
        --base-url http://localhost:8000/v1 --model my-model
    """
    from tercet.curate.shards import Shard, run
    from tercet.curate.synthesize import Price, Synthesis, check_prompt, estimate

    if (price_in is None) != (price_out is None):
        raise click.UsageError("a cost needs both prices: give --price-in and --price-out")
    price = None
    if price_in is not None and price_out is not None:
        price = Price(price_in, price_out)
    endpoint = endpoint_of(url, options, "'--base-url'")
    if prompt_file is not None:
        with as_usage("'--prompt'"):
            options["prompt"] = _read(prompt_file)
            check_prompt(options["prompt"], str(prompt_file))
    with as_usage("'--paragraph' / '--reach' / '--question' / '--body' / '--model'"):
        job = Synthesis(str(target), tuple(map(str, files)), endpoint=endpoint, **options)
    if not dry_run:
        job.check_ready()
        if not yes and not sys.stdin.isatty():
            raise click.UsageError("nobody is here to ask: give --yes to start, or --dry-run")
    shard = cut.shard or Shard()
    with Meter("reading") as meter:
        found = estimate(
            job,
            shard,
            cut=Shard.all(cut.workers) if cut.workers else [shard],
            show=lambda count: meter.show(count, None, count=count, unit="articles"),
        )
    if dry_run:
        _tell_plan(found, price, as_json)
        return
    if not as_json:
        _tell_plan(replace(found, prompts=[]), price, as_json)
    if not found.articles and cut.shard is None:
        raise InputError(
            f"no article of {job.shortest:,} tokens or more in {', '.join(job.files)}"
            f"{' (left out: ' + _counts(found.left_out) + ')' if found.left_out else ''}: lower "
            "--min-tokens, or see what the files hold"
        )
    if found.articles > found.settled and not yes:
        click.confirm("Start?", abort=True, err=True)

    def watched(meter: Meter) -> "Synthesis":
        def show(settled: int, answers: int) -> None:
            meter.show(settled, found.articles, count=answers, unit="answers")

        return replace(job, show=show, tell=lambda message: meter.note(f"tercet: {message}"))

    if cut.shard is None and cut.ray is None and cut.workers in (None, 1):
        with Meter("asking") as meter:  # one process asks as much at once as is allowed
            report: dict[str, Any] | None = run(watched(meter), workers=1)
    else:
        report = carry_out(job, cut, "asking", as_json=as_json, watched=watched)
    if report is not None:
        tell(job, report, as_json=as_json, price=price)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; convert it") from error


def tell(
    job: "Synthesis", report: dict[str, Any], *, as_json: bool, price: "Price | None" = None
) -> None:
    """Prints what a run made."""
    cost = None if price is None else price.of(report["tokens_in"], report["tokens_out"])
    if as_json:
        emit({"to": job.target, **report, "cost": cost})
    else:
        click.echo("\n".join(_report(job.target, report, cost)))


def _tell_plan(found: "Estimate", price: "Price | None", as_json: bool) -> None:
    cost = most = None
    if price is not None:
        cost = price.of(found.tokens_in, found.tokens_out)
        most = price.of(found.most_tokens_in, found.most_tokens_out)
    if as_json:
        emit({**asdict(found), "requests": found.requests, "cost": cost, "most_cost": most})
        return
    lines = [f"articles: {found.articles:,}{_in_brackets(found.languages)}"]
    if found.left_out:
        lines.append(f"texts left out: {_counts(found.left_out)}")
    if found.settled:
        lines.append(f"settled before: {found.settled:,}")
    for name, about, most_of in (
        ("requests", found.requests, found.most_requests),
        ("tokens in", found.tokens_in, found.most_tokens_in),
        ("tokens out", found.tokens_out, found.most_tokens_out),
    ):
        lines.append(f"{name}: about {about:,}, at most {most_of:,}")
    if cost is None:
        lines.append("cost: give --price-in and --price-out to see it")
    else:
        costs = f"about {_money(cost)}, at most {_money(most or 0)}"
        lines.append(f"cost: {costs}, in the currency of the prices")
    click.echo("\n".join(lines))
    for number, prompt in enumerate(found.prompts, 1):
        click.echo(f"\n--- prompt {number} ---\n{prompt.strip()}")


def _report(to: str, report: dict[str, Any], cost: float | None) -> list[str]:
    lines = [
        f"{to}: {report['kept']:,} questions on {report['articles']:,} articles"
        f"{_in_brackets(report['languages'])}"
    ]
    if report["left_out"]:
        lines.append(f"texts left out: {_counts(report['left_out'])}")
    names = {
        "dropped": "no good answer",
        "duplicates": "question seen before",
        "rejected": "prompt refused by the endpoint",
        "failed": "no answer",
    }
    dropped = {told: report[name] for name, told in names.items() if report[name]}
    lines.append(f"articles dropped: {_counts(dropped) or '0'}")
    lines.append(
        f"answers: {report['answers']:,}, refused: {sum(report['refused'].values()):,}; tokens in "
        f"{report['tokens_in']:,}, out {report['tokens_out']:,}"
        + ("" if cost is None else f"; cost {_money(cost)}")
    )
    for reason, count in report["refused"].items():
        lines.append(f"  {reason}: {count:,}")
        found = report["examples"].get(reason, [])
        lines += [_example(number, text) for number, text in found if text]
    for reason in ("duplicate", "rejected", "failed"):
        if found := report["examples"].get(reason):
            lines += [f"  {reason}:", *(_example(*pair) for pair in found)]
    return lines


def _example(number: int, text: str) -> str:
    shown = " ".join(text.split())
    return f"    article {number}: {shown if len(shown) <= 160 else f'{shown[:160]}...'}"


def _money(amount: float) -> str:
    """Two decimals, more of a small sum."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.4f}"


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in found.items())


def _in_brackets(languages: dict[str, int]) -> str:
    named = [f"{name or 'not said'} {count:,}" for name, count in languages.items()]
    more = [f"and {len(named) - _LANGUAGES:,} more"] if len(named) > _LANGUAGES else []
    return f" ({', '.join(named[:_LANGUAGES] + more)})" if named else ""
