"""`tercet data mix`: rows of many sources in proportion, by length."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tercet.cli.options import as_usage, emit, json_option, model_options
from tercet.cli.parts import Cut, carry_out, cut_options

if TYPE_CHECKING:
    from tercet.data.mix.job import Mix

SHOWN = 10  # languages that are named


def _lengths(ctx: click.Context, option: Any, value: str | None) -> tuple[int, ...] | None:
    """`500,1000` -> (500, 1000)."""
    if value is None:
        return None
    try:
        return tuple(int(one) for one in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of lengths such as 500,1000") from None


def _caps(ctx: click.Context, option: Any, values: tuple[str, ...]) -> dict[str, int] | None:
    """`5000` `en=20000` -> {"": 5000, "en": 20000}."""
    found = {}
    for value in values:
        language, _, number = value.rpartition("=")
        if not number.isdecimal():
            raise click.BadParameter(f"{value!r} is no cap such as 5000, or en=20000")
        found[language] = int(number)
    return found or None


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCES...")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="DIR",
    help="Folder to make: files of rows, and mix.json, which says what is in them.",
)
@click.option("--rows", type=click.IntRange(1), metavar="N", help="Rows of the mix, in all.")
@click.option(
    "--epochs",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Instead of --rows: how often a row of weight 1 is drawn.  [default: 1]",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Draw a language of n rows with a probability proportional to n ** X: 1 leaves them as "
    "they are, 0 makes all alike; XLM-R has 0.3.  [default: 1]",
)
@click.option(
    "--cap",
    "caps",
    multiple=True,
    callback=_caps,
    metavar="[LANG=]N",
    help="At most N rows of each language, or of one, as in en=20000; may be repeated.",
)
@click.option(
    "--source-cap", type=click.IntRange(1), metavar="N", help="At most N rows of each source."
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    metavar="N",
    help="Draw no row more often than this, whatever weights and --alpha ask for; other languages "
    "are drawn instead.",
)
@click.option(
    "--unit",
    type=click.Choice(("characters", "tokens")),
    help="In which the longest text of a row is measured.  [default: tokens where --model is "
    "given, else characters]",
)
@click.option(
    "--lengths",
    callback=_lengths,
    metavar="LIST",
    help="Upper bounds of the length groups.  [default: the paper's 500,1000,2000,...,7000,8192 "
    "tokens, or four times as many characters]",
)
@click.option(
    "--file-mb",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Size of a file, unpacked, about; it must fit in memory.  [default: 64]",
)
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", help="Of what is random.  [default: 0]"
)
@model_options
@cut_options
@json_option
def mix(
    sources: tuple[str, ...],
    target: str,
    caps: dict[str, int] | None,
    source_cap: int | None,
    cut: Cut,
    as_json: bool,
    **options: Any,
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
    """
    from tercet.data.mix.job import Mix
    from tercet.data.mix.sources import parse_source, read_config

    if len(sources) == 1 and sources[0].endswith(".toml"):
        settings = read_config(Path(sources[0]))
    else:
        with as_usage("'SOURCES...'"):
            settings = {"sources": [parse_source(text) for text in sources]}
    settings |= {name: value for name, value in options.items() if value is not None}
    if options["rows"] is not None:
        settings.pop("epochs", None)
    if caps is not None:
        settings["caps"] = settings.get("caps", {}) | caps
    if cap := settings.get("caps", {}).pop("", None):
        settings["cap"] = cap
    found = [source.capped(source_cap) for source in settings.pop("sources")]
    if options["epochs"] is not None:
        if options["rows"] is not None:
            raise click.UsageError("--rows and --epochs both say how long the mix is: give one")
        settings.pop("rows", None)
    settings.setdefault("unit", "characters" if settings.get("model") is None else "tokens")
    if settings["unit"] == "tokens" and settings.get("model") is None:
        from tercet.encoder import BUNDLED

        settings["model"] = str(BUNDLED)
    with as_usage("'SOURCES...'"):
        job = Mix(target, tuple(source.to_json() for source in found), **settings)
    job.check_target()
    report = carry_out(job, cut, "mixing", as_json=as_json)
    if report is not None:
        tell(job, report, as_json=as_json)


def tell(job: "Mix", report: dict[str, Any], *, as_json: bool) -> None:
    """What was drawn."""
    if report["short"]:
        click.echo(
            f"tercet: {report['short']:,} rows fewer than asked for: caps and --repeats hold",
            err=True,
        )
    if report["raw"]:
        click.echo(
            f"tercet: {report['raw']:,} of the rows are texts alone, which train retromae only",
            err=True,
        )
    if as_json:
        emit(report)
        return
    files = len(report["files"])
    lines = [
        f"{report['to']}: {report['rows']:,} rows in {files:,} file{'' if files == 1 else 's'}"
    ]
    lines += _table("source", report["sources"])
    languages = list(report["languages"].items())
    lines += _table("language", dict(languages[:SHOWN]))
    if len(languages) > SHOWN:
        lines.append(f"  and {len(languages) - SHOWN:,} languages more: see mix.json")
    for group in report["lengths"]:
        lines.append(f"  {group['group']} {group['unit']}: {group['rows']:,} rows")
    click.echo("\n".join(lines))


def _table(head: str, found: dict[str, dict[str, int]]) -> list[str]:
    width = max(len(head), *(len(name) for name in found), len("not said"))
    lines = [f"  {head:<{width}}{'there':>11}{'drawn':>11}{'left out':>11}{'most copies':>13}"]
    lines += [
        f"  {name or 'not said':<{width}}{one['found']:>11,}{one['rows']:>11,}"
        f"{one['left_out']:>11,}{one['repeats']:>13,}"
        for name, one in found.items()
    ]
    return lines
