"""`tercet data synthesize`: questions on long articles, by a language model behind an endpoint."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from tercet.cli.meter import Meter
from tercet.cli.options import (
    Count,
    Json,
    Natural,
    Opt,
    Range,
    as_usage,
    command,
    counted,
    default_of,
    echo,
    emit,
    kept,
)
from tercet.cli.parts import Cut, carry_out
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.curate.synthesize import Synthesis

JOB, ENDPOINT = "tercet.curate.synthesize:Synthesis", "tercet.endpoint:Endpoint"
_Cost = Callable[[int, int], float | None]  # of tokens read and written


def _object(value: str) -> dict[str, Any]:
    """`{"top_p": 0.9}` -> {"top_p": 0.9}."""
    try:
        fields = json.loads(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f'{value!r} is no JSON object such as {{"top_p": 0.9}}')
    return fields


@dataclass(frozen=True)
class EndpointOptions:
    """How an endpoint is asked.

    Options:
      key_env VARIABLE: Environment variable that holds the API key.  [default: no key is sent]
      concurrency N: Requests at the same time.
      requests_per_minute N: Requests a minute, at most; a part of n takes an n-th.
      tokens_per_minute N: Tokens a minute, at most, in and out; a part of n takes an n-th.
      timeout SECONDS: For one request, to its last byte.
      retries N: Of a request that failed: too slow, 429, 5xx, no connection, no JSON.
      backoff SECONDS: Before the first retry; doubled each time. The endpoint's Retry-After
          goes before.
    """

    key_env: str | None = None
    concurrency: Count = default_of(ENDPOINT, "concurrency")
    requests_per_minute: Annotated[float | None, Opt(flag="--rpm", min=0, open=True)] = None
    tokens_per_minute: Annotated[float | None, Opt(flag="--tpm", min=0, open=True)] = None
    timeout: Annotated[float, Opt(min=0, open=True)] = default_of(ENDPOINT, "timeout")
    retries: Natural = default_of(ENDPOINT, "retries")
    backoff: Annotated[float, Opt(min=0)] = default_of(ENDPOINT, "backoff")


@dataclass(frozen=True)
class SynthesisOptions:
    """Options that are fields of Synthesis.

    Options:
      model NAME: As the endpoint calls it.
      temperature: Of the sampling.
      max_tokens N: Of an answer; give more to a model that thinks aloud.
      body JSON: More fields of each request, as in '{"top_p": 0.9}'; null leaves a field out.
      seed: Of the paragraphs, and of the requests.
      shortest N: Shortest article. Sizes in tokens are estimates: four bytes of UTF-8 each.
      reach N: Paragraphs come from the first N tokens, which is what a model will read.
      paragraph FROM-TO: Tokens of a paragraph.
      question FROM-TO: Tokens of a question; others are refused.
      limit N: Take the first N articles.
      tries N: Answers asked for on an article before it is dropped.
      skip_failed: Leave out articles that got no answer.
    """

    model: str
    temperature: Annotated[float, Opt(min=0, max=2)] = default_of(JOB, "temperature")
    max_tokens: Count = default_of(JOB, "max_tokens")
    body: Annotated[dict[str, Any] | None, Opt(parse=_object)] = None
    seed: Natural = default_of(JOB, "seed")
    shortest: Annotated[int, Opt(flag="--min-tokens", min=1)] = default_of(JOB, "shortest")
    reach: Count = default_of(JOB, "reach")
    paragraph: Range = default_of(JOB, "paragraph")
    question: Range = default_of(JOB, "question")
    limit: Count | None = None
    tries: Count = default_of(JOB, "tries")
    skip_failed: bool = False


@command()
def synthesize(
    files: Annotated[tuple[Path, ...], Opt(metavar="FILES...")],
    *,
    to: Path,
    base_url: str,
    options: SynthesisOptions,
    prompt: Path | None = None,
    limits: EndpointOptions,
    price_in: Annotated[float, Opt(min=0)] | None = None,
    price_out: Annotated[float, Opt(min=0)] | None = None,
    dry_run: bool = False,
    yes: bool = False,
    cut: Cut,
    as_json: Json = False,
) -> None:
    """Have a language model write questions on long articles.

    For each article a paragraph is picked at random, and a model behind any OpenAI-compatible
    endpoint writes one question on it; (question, whole article) becomes a training row. FILES are
    JSON lines (.gz .bz2 .xz .zst too), Parquet or folders of them with rows {"text"}, maybe with
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

    Options:
      to FILE: Result: .jsonl or .jsonl.gz.
      base_url URL: Address of the endpoint, before /chat/completions; it often ends in /v1.
      prompt FILE: A prompt of your own, with {paragraph} and, if you like, {language} and
          {title}.
      price_in X: Price of a million tokens read.
      price_out X: Price of a million tokens written.
      dry_run: Show the estimate and three prompts; ask nothing.
      yes: Start without a question.
    """
    from tercet.curate.shards import Shard, run
    from tercet.curate.synthesize import Synthesis, check_prompt, estimate
    from tercet.endpoint import Endpoint

    if (price_in is None) != (price_out is None):
        raise click.UsageError("a cost needs both prices: give --price-in and --price-out")

    def cost(tokens_in: int, tokens_out: int) -> float | None:
        if price_in is None or price_out is None:
            return None
        return (tokens_in * price_in + tokens_out * price_out) / 1_000_000

    with as_usage("'--base-url'"):
        endpoint = Endpoint(base_url, **vars(limits))
    with as_usage("'--key-env'"):
        endpoint.key()
    settings = vars(options) | {"body": options.body or {}}
    if prompt is not None:
        with as_usage("'--prompt'"):
            settings["prompt"] = _read(prompt)
            check_prompt(settings["prompt"], str(prompt))
    with as_usage("'--paragraph' / '--reach' / '--question' / '--body' / '--model'"):
        job = Synthesis(str(to), tuple(map(str, files)), endpoint=endpoint, **settings)
    if not dry_run:
        job.check_ready()
        if not yes and not sys.stdin.isatty():
            raise click.UsageError("nobody is here to ask: give --yes to start, or --dry-run")
    shard = cut.shard or Shard()
    with Meter("reading") as meter:
        plan = estimate(
            job,
            shard,
            cut=Shard.all(cut.workers) if cut.workers else [shard],
            show=lambda count: meter.show(count, None, count=count, unit="articles"),
        )
    if dry_run or not as_json:
        _tell_plan(plan if dry_run else plan | {"prompts": []}, cost, as_json)
    if dry_run:
        return
    if not plan["articles"] and cut.shard is None:
        raise InputError(
            f"no article of {job.shortest:,} tokens or more in {', '.join(job.files)} (texts left "
            f"out: {counted(plan['left_out'])}): lower --min-tokens, or see what the files hold"
        )
    if plan["requests"] and not yes:
        click.confirm("Start?", abort=True, err=True)

    def watched(meter: Meter) -> "Synthesis":
        def show(settled: int, answers: int) -> None:
            meter.show(settled, plan["articles"], count=answers, unit="answers")

        return replace(job, show=show, tell=lambda message: meter.note(f"tercet: {message}"))

    folder = job.journal_path(shard).parent
    with kept(lambda: f"all answers are kept in {folder}: the same command goes on"):
        if cut.shard is None and cut.ray is None and cut.workers in (None, 1):
            with Meter("asking") as meter:  # one process asks as much at once as is allowed
                report: dict[str, Any] | None = run(watched(meter), workers=1)
        else:
            report = carry_out(job, cut, "asking", as_json=as_json, watched=watched)
    if report is not None:
        tell(job, report, as_json=as_json, cost=cost)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; convert it") from error


def _tell_plan(plan: dict[str, Any], cost: _Cost, as_json: bool) -> None:
    about = cost(plan["tokens_in"], plan["tokens_out"])
    most = cost(plan["most_tokens_in"], plan["most_tokens_out"])
    if as_json:
        emit({**plan, "cost": about, "most_cost": most})
        return
    lines = [f"articles: {plan['articles']:,}{_in_brackets(plan['languages'])}"]
    if plan["left_out"]:
        lines.append(f"texts left out: {counted(plan['left_out'])}")
    if plan["settled"]:
        lines.append(f"settled before: {plan['settled']:,}")
    for name in ("requests", "tokens_in", "tokens_out"):
        words, limit = name.replace("_", " "), plan[f"most_{name}"]
        lines.append(f"{words}: about {plan[name]:,}, at most {limit:,}")
    if about is None or most is None:
        lines.append("cost: give --price-in and --price-out to see it")
    else:
        costs = f"about {_money(about)}, at most {_money(most)}"
        lines.append(f"cost: {costs}, in the currency of the prices")
    for number, prompt in enumerate(plan["prompts"], 1):
        lines.append(f"\n--- prompt {number} ---\n{prompt.strip()}")
    echo("\n".join(lines))


def tell(
    job: "Synthesis",
    report: dict[str, Any],
    *,
    as_json: bool,
    cost: _Cost = lambda tokens_in, tokens_out: None,
) -> None:
    price = cost(report["tokens_in"], report["tokens_out"])
    if as_json:
        emit({"to": job.target, **report, "cost": price})
        return
    lines = [
        f"{job.target}: {report['kept']:,} questions on {report['articles']:,} articles"
        f"{_in_brackets(report['languages'])}"
    ]
    if report["left_out"]:
        lines.append(f"texts left out: {counted(report['left_out'])}")
    names = {
        "dropped": "no good answer",
        "duplicates": "question seen before",
        "rejected": "prompt refused by the endpoint",
        "failed": "no answer",
    }
    dropped = {words: report[name] for name, words in names.items() if report[name]}
    lines.append(f"articles dropped: {counted(dropped) or '0'}")
    lines.append(
        f"answers: {report['answers']:,}, refused: {sum(report['refused'].values()):,}; tokens in "
        f"{report['tokens_in']:,}, out {report['tokens_out']:,}"
        + ("" if price is None else f"; cost {_money(price)}")
    )
    reasons = {reason: f": {count:,}" for reason, count in report["refused"].items()}
    for reason, count in {**reasons, "duplicate": "", "rejected": "", "failed": ""}.items():
        examples = report["examples"].get(reason, [])
        if count or examples:
            lines.append(f"  {reason}{count}")
        for number, text in examples:
            shown = " ".join(text.split())
            lines.append(f"    article {number}: {shown[:160]}{'...' if len(shown) > 160 else ''}")
    echo("\n".join(lines))


def _money(amount: float) -> str:
    """Two decimals, more of a small sum."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.4f}"


def _in_brackets(languages: dict[str, int]) -> str:
    return f" ({counted(languages)})" if languages else ""
