"""`tercet data pairs`: raw sources to training rows."""

from typing import TYPE_CHECKING, Any

import click

from tercet.cli.options import emit, json_option
from tercet.cli.parts import Cut, carry_out, cut_options
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.curate.pairs import PairsJob

SHOWN = 20  # problems that are told one by one


def _structures(ctx: click.Context, option: Any, values: tuple[str, ...]) -> tuple[str, ...]:
    """`a,b` `c` -> ("a", "b", "c"); the library knows the names."""
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCES...")
@click.option("--to", "target", required=True, metavar="FILE", help="Result: .jsonl or .jsonl.gz.")
@click.option(
    "--as",
    "structures",
    multiple=True,
    callback=_structures,
    metavar="LIST",
    help="What is made: title-body, heading-section, title-abstract, question-answer, "
    "instruction-output, code-docstring, translations; separated by commas.  [default: what the "
    "kind of each file, or the fields of each row, suggest]",
)
@click.option(
    "--kind",
    default="",
    metavar="KIND",
    help="Read all files as markdown, html, restructuredtext, records (JSON lines, Parquet), tmx, "
    "po, text (aligned line by line) or python.  [default: by their names]",
)
@click.option(
    "--lang",
    default="",
    metavar="TAG",
    help="Language of the rows, as de or pt-BR.  [default: what the sources say, if they do]",
)
@click.option(
    "--direction",
    "directions",
    multiple=True,
    metavar="FROM-TO",
    help="Of translations, as de-en (or pt-BR:en): the query's language and the positive's; may be "
    "repeated.  [default: from the source language to each other]",
)
@click.option("--both", is_flag=True, help="Write translations the other way round too.")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="ROLE=NAME",
    help="Which field of JSON lines is the title, text, abstract, question, answer, instruction, "
    "input, output, docstring, code, translation, lang or id, as in answer=answers.text; may be "
    "repeated.  [default: usual names]",
)
@click.option(
    "--source", default="", metavar="NAME", help="Tag in the rows.  [default: by SOURCES]"
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Files left out of folders, as in 'tests/*' or '*.min.js'; may be repeated.",
)
@click.option(
    "--headings",
    type=click.Choice(("auto", "joined", "drop")),
    default="auto",
    show_default=True,
    help="Headings that say too little (common, repeated, one word) are joined to the title (auto) "
    "or left out (drop); joined does so with all.",
)
@click.option(
    "--repeated",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    metavar="N",
    help="A heading over so many different texts says too little; 0: none does.",
)
@click.option(
    "--min-chars",
    type=click.IntRange(1),
    metavar="N",
    help="Characters of a positive, or of a translation's longer side, at least.  [default: 40, of "
    "translations 10]",
)
@click.option(
    "--max-chars",
    type=click.IntRange(1),
    default=8000,
    show_default=True,
    metavar="N",
    help="Characters of a positive at most: it is cut there, at the end of a paragraph or line.",
)
@click.option(
    "--max-query-chars",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Characters of a query at most: longer ones are left out.",
)
@cut_options
@json_option
def pairs(target: str, cut: Cut, as_json: bool, **options: Any) -> None:
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
    """
    from tercet.curate.pairs import PairsJob

    try:
        job = PairsJob(target=target, **options)
    except InputError as error:  # which names what was given: options are checked there
        raise click.UsageError(str(error)) from error
    report = carry_out(job, cut, "making rows", as_json=as_json)
    if report is not None:
        tell(job, report, as_json=as_json)


def tell(job: "PairsJob", report: dict[str, Any], *, as_json: bool) -> None:
    """What was made; exits with 1 where something could not be read, or nothing was made."""
    from tercet.curate.pairs import report_lines

    if as_json:
        emit(report)
    else:
        click.echo("\n".join(report_lines(report)))
    if count := report["problems"]:
        named = report["first_problems"][:SHOWN]
        for problem in named:
            click.echo(f"tercet: {problem['where']}: {problem['reason']}", err=True)
        more = f", of which {len(named)} are named" if len(named) < count else ""
        what = "file or unit" if count == 1 else "files or units"
        click.echo(f"tercet: {count:,} {what} could not be read{more}", err=True)
    if not report["rows"]:
        click.echo("tercet: no row was made: see what was left out, and why", err=True)
    if count or not report["rows"]:
        click.get_current_context().exit(1)
