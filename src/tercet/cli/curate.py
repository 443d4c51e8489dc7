"""`tercet data pairs`, `filter` and `mix`: raw sources to rows, rows to what is trained on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from tercet.cli.options import (
    Count,
    Device,
    Json,
    Model,
    Names,
    Natural,
    Opt,
    Range,
    Revision,
    Share,
    Tokens,
    as_usage,
    command,
    counted,
    default_of,
    echo,
    emit,
    parse_list,
)
from tercet.cli.parts import Cut, carry_out

if TYPE_CHECKING:
    from tercet.curate.filter import FilterJob
    from tercet.curate.mix import Mix
    from tercet.curate.pairs import PairsJob

SHOWN = 20  # problems that are told one by one
LANGUAGES = 10  # that are named
FILTER, PAIRS = "tercet.curate.filter:FilterJob", "tercet.curate.pairs:PairsJob"


@dataclass(frozen=True)
class PairsOptions:
    """Options that are fields of PairsJob.

    Options:
      structures LIST: What is made: title-body, heading-section, title-abstract,
          question-answer, instruction-output, code-docstring, translations; separated by
          commas.  [default: what the kind of each file, or the fields of each row, suggest]
      kind KIND: Read all files as markdown, html, restructuredtext, records (JSON lines,
          Parquet), tmx, po, text (aligned line by line) or python.  [default: by their names]
      lang TAG: Language of the rows, as de or pt-BR.  [default: what the sources say, if they
          do]
      directions FROM-TO: Of translations, as de-en (or pt-BR:en): the query's language and the
          positive's; may be repeated.  [default: from the source language to each other]
      both: Write translations the other way round too.
      fields ROLE=NAME: Which field of JSON lines is the title, text, abstract, question,
          answer, instruction, input, output, docstring, code, translation, lang or id, as in
          answer=answers.text; may be repeated.  [default: usual names]
      source NAME: Tag in the rows.  [default: by SOURCES]
      exclude PATTERN: Files left out of folders, as in 'tests/*' or '*.min.js'; may be
          repeated.
      follow_links: Read links that lead out of a folder, and links to folders.
      headings: Headings that say too little (common, repeated, one word) are joined to the
          title (auto) or left out (drop); joined does so with all.
      repeated N: A heading over so many different texts says too little; 0: none does.
      min_chars N: Characters of a positive, or of a translation's longer side, at
          least.  [default: 40, of translations 10]
      max_chars N: Characters of a positive at most: it is cut there, at the end of a paragraph
          or line.
      max_query_chars N: Characters of a query at most: longer ones are left out.
    """

    structures: Annotated[tuple[str, ...], Opt(flag="--as", parse=parse_list, many=True)] = ()
    kind: str = ""
    lang: str = ""
    directions: Annotated[tuple[str, ...], Opt(flag="--direction")] = ()
    both: bool = False
    fields: Annotated[tuple[str, ...], Opt(flag="--field")] = ()
    source: str = ""
    exclude: tuple[str, ...] = ()
    follow_links: bool = False
    headings: Literal["auto", "joined", "drop"] = default_of(PAIRS, "headings")
    repeated: Natural = default_of(PAIRS, "repeated")
    min_chars: Count | None = None
    max_chars: Count = default_of(PAIRS, "max_chars")
    max_query_chars: Count = default_of(PAIRS, "max_query_chars")


@command()
def pairs(
    sources: tuple[str, ...],
    *,
    to: str,
    options: PairsOptions,
    cut: Cut,
    as_json: Json = False,
) -> None:
    """Make training rows from raw sources by their structure.

    SOURCES are files, or folders that are gone through: Markdown, HTML and reStructuredText
    (heading-section), JSON lines and Parquet with fields for a title and a text, a question and an
    answer and so on (what fits), extracts of Wikipedia (title-body), TMX, PO and text files aligned
    line by line (translations), source code of Python, JavaScript, TypeScript, Java, Go and Rust
    (code-docstring). Needs `pip install 'tercet[pairs]'` for reStructuredText, PO and code other
    than Python.

    The report says what was left out, and why; it is also written beside the rows. A file that
    cannot be read is named and passed over, and the exit code is 1.

    \b
    Examples:
      tercet data pairs docs --to rows.jsonl.gz --lang en
      tercet data pairs wiki/AA --to rows.jsonl.gz --as title-body,heading-section
      tercet data pairs faq.jsonl --to rows.jsonl --field question=q --field answer=a.text
      tercet data pairs europarl.de europarl.en --to rows.jsonl.gz --as translations --both
      tercet data pairs memory.tmx locale --to rows.jsonl.gz --direction de-en
      tercet data pairs src --to rows.jsonl.gz --as code-docstring --shard 2/8

    Options:
      sources SOURCES...:
      to FILE: Result: .jsonl or .jsonl.gz.
    """
    from tercet.curate.pairs import PairsJob

    with as_usage("the options"):
        job = PairsJob(sources=sources, target=to, **vars(options))
    report = carry_out(job, cut, "making rows", as_json=as_json)
    if report is not None:
        tell_pairs(job, report, as_json=as_json)


def tell_pairs(job: "PairsJob", report: dict[str, Any], *, as_json: bool) -> None:
    """What was made; exits with 1 where something could not be read, or nothing was made."""
    from tercet.curate.pairs import report_lines

    if as_json:
        emit(report)
    else:
        echo("\n".join(report_lines(report)))
    if count := report["problems"]:
        named = report["first_problems"][:SHOWN]
        for problem in named:
            echo(f"tercet: {problem['where']}: {problem['reason']}", err=True)
        more = f", of which {len(named)} are named" if len(named) < count else ""
        what = "file or unit" if count == 1 else "files or units"
        echo(f"tercet: {count:,} {what} could not be read{more}", err=True)
    if not report["rows"]:
        echo("tercet: no row was made: see what was left out, and why", err=True)
    if count or not report["rows"]:
        click.get_current_context().exit(1)


@dataclass(frozen=True)
class FilterOptions:
    """Options that are fields of FilterJob.

    Options:
      dropped FILE: Write every dropped row, the step and its reason: .jsonl or .jsonl.gz.
      query_length FROM-TO: Characters of a query.
      passage_length FROM-TO: Characters of a positive, or of a raw text.
      letters SHARE: Least part of a text's characters, white space left out, that are letters.
      sure P: Least probability of another language that speaks against a row.
      near SHARE: Part of their 5-character shingles that near-duplicates share; short texts
          must have the same letters.
      against PATH: Evaluation set whose texts may not occur: a BEIR folder, a file of rows, a
          folder with pairs.jsonl, or a folder of such; may be repeated.
      passages: Passages of a BEIR corpus that count: those relevant to a query, as others may
          be shared with training.
      shared_words N: Words in a row that a text may not share with an evaluation text.
      shared_characters N: The same in characters, for scripts without spaces; those words have
          as many at least.
    """

    dropped: str | None = None
    query_length: Range = default_of(FILTER, "query_length")
    passage_length: Range = default_of(FILTER, "passage_length")
    letters: float = default_of(FILTER, "letters")
    sure: float = default_of(FILTER, "sure")
    near: float = default_of(FILTER, "near")
    against: tuple[str, ...] = ()
    passages: Literal["relevant", "all", "none"] = default_of(FILTER, "passages")
    shared_words: Count = default_of(FILTER, "shared_words")
    shared_characters: Annotated[int, Opt(min=12)] = default_of(FILTER, "shared_characters")


@command("filter")
def filter_rows(
    sources: tuple[str, ...],
    *,
    to: str,
    options: FilterOptions,
    steps: Names | None = None,
    without: Names | None = None,
    min_score: float | None = None,
    model: Model = None,
    revision: Revision = None,
    max_length: Tokens = 512,
    device: Device = None,
    scorer: str | None = None,
    cut: Cut,
    as_json: Json = False,
) -> None:
    """Drop rows that should not be trained on, and say why.

    FILES hold training rows {"query", "pos"} or raw texts {"text"}: JSON lines (.gz .bz2 .xz .zst
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

    Options:
      sources FILES...:
      to FILE: Result: .jsonl or .jsonl.gz.
      steps LIST: Steps that run, separated by commas: encoding, length, letters, boilerplate,
          same, language, evaluation, relevance, exact, near.  [default: all; evaluation with
          --against, relevance with --min-score]
      without LIST: Steps that do not run.
      min_score X: Drop positives whose dense score with the query is below, by --model or
          --scorer. The report shows how scores are spread.
      max_length N: Tokens of a text that the model reads.
      scorer MODULE:FUNCTION: Python function from a list of (query, text) to their scores, in
          place of a model.
    """
    from tercet.curate.filter import STEPS, FilterJob

    left_out = without or ()
    chosen = tuple(step for step in steps or STEPS if step not in left_out)
    unknown = [repr(step) for step in left_out if step not in STEPS]
    wrong_usage: list[tuple[Any, str]] = [
        (model and scorer, "give a --model or a --scorer, not both"),
        (
            min_score is None and (model or scorer),
            "--model and --scorer score for --min-score: give that too",
        ),
        (unknown, f"--without: unknown step {', '.join(unknown)}: {', '.join(STEPS[1:])}"),
    ]
    for step, option, given in (
        ("evaluation", "--against", bool(options.against)),
        ("relevance", "--min-score", min_score is not None),
    ):
        runs = step in chosen
        wrong_usage += [
            (steps and runs and not given, f"the step {step} needs {option}"),
            (given and not runs, f"{option} is for the step {step}, which does not run"),
        ]
    for wrong, problem in wrong_usage:
        if wrong:
            raise click.UsageError(problem)
    own = {"model": model, "revision": revision, "device": device, "max_length": max_length}
    with as_usage("the options"):
        job = FilterJob(
            sources=sources,
            target=to,
            steps=chosen,
            min_score=min_score,
            scorer=scorer,
            scorer_options=None if scorer or min_score is None else own,
            **vars(options),
        )
    report = carry_out(job, cut, "filtering", as_json=as_json)
    if report is not None:
        tell_filtered(job, report, as_json=as_json)


def tell_filtered(job: "FilterJob", report: dict[str, Any], *, as_json: bool) -> None:
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
            lines.append(f"    by {counted(step['groups'])}")
        for example in step["examples"]:
            text = f" | {example['text']}" if example["text"] else ""
            lines.append(f"    {example['file']}:{example['line']}: {example['reason']}{text}")
    if written := report.get("languages_written"):
        lines.append(f"languages written into rows: {counted(written)}")
    if unknown := report.get("languages_unknown"):
        tags = counted(unknown)
        lines.append(f"language not judged, as the identifier does not know the tag: {tags}")
    if scores := report.get("scores"):
        shares = [f"{share} below {score:g}" for share, score in scores.items()]
        lines.append(f"scores: {', '.join(shares)}")
    if job.dropped is not None:
        lines.append(f"{job.dropped}: every dropped row and its reason")
    echo("\n".join(lines))


def _lengths(value: str) -> tuple[int, ...]:
    """`500,1000` -> (500, 1000)."""
    try:
        return tuple(int(length) for length in value.split(","))
    except ValueError:
        raise ValueError(f"{value!r} is no list of lengths such as 500,1000") from None


def _caps(values: tuple[str, ...]) -> dict[str, int]:
    """`5000` `en=20000` -> {"": 5000, "en": 20000}."""
    caps = {}
    for value in values:
        language, _, most = value.rpartition("=")
        if not most.isdecimal():
            raise ValueError(f"{value!r} is no cap such as 5000, or en=20000")
        caps[language] = int(most)
    return caps


@dataclass(frozen=True)
class MixOptions:
    """Options that a .toml file may hold too.

    Options:
      rows N: Rows of the mix, in all.
      epochs X: Instead of --rows: how often a row of weight 1 is drawn.  [default: 1]
      alpha X: Draw a language of n rows with a probability proportional to n ** X: 1 leaves
          them as they are, 0 makes all alike; XLM-R has 0.3.  [default: 1]
      repeats N: Draw no row more often than this, whatever weights and --alpha ask for; other
          languages are drawn instead.
      unit: In which the longest text of a row is measured.  [default: tokens where --model is
          given, else characters]
      lengths LIST: Upper bounds of the length groups.  [default: the paper's
          500,1000,2000,...,7000,8192 tokens, or four times as many characters]
      file_mb N: Size of a file, unpacked, about; it must fit in memory.  [default: 64]
      seed N: Of what is random.  [default: 0]
    """

    rows: Count | None = None
    epochs: Annotated[float, Opt(min=0, open=True)] | None = None
    alpha: Share | None = None
    repeats: Count | None = None
    unit: Literal["characters", "tokens"] | None = None
    lengths: Annotated[tuple[int, ...] | None, Opt(parse=_lengths)] = None
    file_mb: Annotated[float, Opt(min=0, open=True)] | None = None
    seed: Natural | None = None
    model: Model = None
    revision: Revision = None


@command()
def mix(
    sources: tuple[str, ...],
    *,
    to: str,
    options: MixOptions,
    caps: Annotated[dict[str, int] | None, Opt(flag="--cap", parse=_caps, many=True)] = None,
    source_cap: Count | None = None,
    cut: Cut,
    as_json: Json = False,
) -> None:
    """Mix rows of several sources in proportion.

    SOURCES are files of rows as `tercet data check` reads them, or folders, each maybe with
    =WEIGHT, how often each of its rows is drawn (as in training; 1), or all with =SHARE%, the
    source's part of the mix. Rows are drawn without replacement; only where a weight, a share or
    --alpha asks for more rows than there are, all are drawn again, and the report says so.

    The result is a folder of .jsonl.gz files, a group of lengths each, in random order: the same
    for the same seed. `tercet train --rows DIR` takes it as a source.

    Instead of sources, a .toml file may hold them, and any of rows, epochs, alpha, cap, caps,
    repeats, unit, lengths, model, revision, file_mb and seed; options override what it says:

    \b
      alpha = 0.3
      caps = {en = 20000}
      [[sources]]
      files = ["qa.jsonl.gz", "faq"]
      name = "questions"
      weight = 2      # or share = 30; cap = 50000

    \b
    Examples:
      tercet data mix qa.jsonl.gz=2 wiki.jsonl.gz --to mixed
      tercet data mix qa.jsonl.gz=70% web.jsonl.gz=30% --to mixed --rows 100000
      tercet data mix rows --to mixed --alpha 0.3 --repeats 3 --cap en=20000
      tercet data mix mix.toml --to mixed --model BAAI/bge-m3 --shard 2/8

    Options:
      sources SOURCES...:
      to DIR: Folder to make: files of rows, and mix.json, which says what is in them.
      caps [LANG=]N: At most N rows of each language, or of one, as in en=20000; may be
          repeated.
      source_cap N: At most N rows of each source.
    """
    from tercet.curate.mix import Mix, parse_source, read_config

    if len(sources) == 1 and sources[0].endswith(".toml"):
        settings = read_config(Path(sources[0]))
    else:
        with as_usage("'SOURCES...'"):
            settings = {"sources": [parse_source(text) for text in sources]}
    given = {name: value for name, value in vars(options).items() if value is not None}
    if {"rows", "epochs"} <= given.keys():
        raise click.UsageError("--rows and --epochs both say how long the mix is: give one")
    if {"rows", "epochs"} & given.keys():
        settings = {**settings, "rows": None, "epochs": 1.0}
    settings |= given
    settings["caps"] = settings.get("caps", {}) | (caps or {})
    if "" in settings["caps"]:
        settings["cap"] = settings["caps"].pop("")
    mixed = [
        source if source.cap else replace(source, cap=source_cap)
        for source in settings.pop("sources")
    ]
    settings.setdefault("unit", "characters" if settings.get("model") is None else "tokens")
    if settings["unit"] == "tokens" and settings.get("model") is None:
        from tercet.layout import BUNDLED

        settings["model"] = str(BUNDLED)
    with as_usage("'SOURCES...'"):
        job = Mix(to, tuple(mixed), **settings)
    job.check_target()
    report = carry_out(job, cut, "mixing", as_json=as_json)
    if report is not None:
        tell_mixed(job, report, as_json=as_json)


def tell_mixed(job: "Mix", report: dict[str, Any], *, as_json: bool) -> None:
    for count, warning in (
        (report["short"], "rows fewer than asked for: caps and --repeats hold"),
        (report["raw"], "of the rows are texts alone, which train retromae only"),
    ):
        if count:
            echo(f"tercet: {count:,} {warning}", err=True)
    if as_json:
        emit(report)
        return
    files = f"{len(report['files']):,} file{'s' if len(report['files']) > 1 else ''}"
    lines = [f"{report['to']}: {report['rows']:,} rows in {files}"]
    lines += _table("source", report["sources"])
    languages = list(report["languages"].items())
    lines += _table("language", dict(languages[:LANGUAGES]))
    if len(languages) > LANGUAGES:
        lines.append(f"  and {len(languages) - LANGUAGES:,} languages more: see mix.json")
    for group in report["lengths"]:
        lines.append(f"  {group['group']} {group['unit']}: {group['rows']:,} rows")
    echo("\n".join(lines))


def _table(head: str, drawn: dict[str, dict[str, int]]) -> list[str]:
    width = max(len(head), *map(len, drawn), len("not said"))
    row = "  {:<{}}{:>11,}{:>11,}{:>11,}{:>13,}".format
    return [
        f"  {head:<{width}}{'there':>11}{'drawn':>11}{'left out':>11}{'most copies':>13}",
        *(row(name or "not said", width, *counts.values()) for name, counts in drawn.items()),
    ]
