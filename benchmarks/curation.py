"""`tercet data`: rows a second, peak memory, and what the filter finds of planted defects.

    python benchmarks/curation.py --rows ROWS/*.jsonl.xz --against EVALUATION_SETS

The rows are real ones from --rows, then near-copies and copies of them until there are --count.
`pairs` gets them as articles (JSON lines of title and text), `mix` and `filter` as they are. All
steps of the filter run on all rows, each step alone on every fifth; --workers processes. Memory is
that of all processes of a command together. Planted defects and decoys lie among --sample real
rows that the filter has left.
"""

import argparse
import os
import platform
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import Run, parser, save, watched

from tercet.curate.decontamination import read_evaluation
from tercet.curate.filter import STEPS
from tercet.curate.quality import DENSE, character_classes, code_points, normalize
from tercet.rows import read_rows, write_rows

Row = dict[str, Any]
EACH = 300  # planted rows of each kind


def rows_of(paths: Sequence[Path], count: int) -> Iterator[Row]:
    """Real rows, then near-copies and copies of them."""
    draw = random.Random(0)
    left, again = count, 0
    while left:
        for path in paths:
            for row in read_rows(path):
                yield row if not again else varied(draw, row)
                left -= 1
                if not left:
                    return
        again += 1


def varied(draw: random.Random, row: Row) -> Row:
    """The same row, or one with some words of its passages changed."""
    share = draw.choice([0.0, 0.02, 0.1, 0.5])
    return passages_changed(draw, row, share) if share else row


def passages_changed(draw: random.Random, row: Row, share: float) -> Row:
    """A row with this share of the words of its passages changed."""
    if "text" in row:
        return {**row, "text": changed(draw, row["text"], share)}
    return {**row, "pos": [changed(draw, text, share) for text in row["pos"]]}


def filtered(source: Path, work: Path, *options: str) -> Run:
    """Runs `tercet data filter`."""
    return watched("data", "filter", source, "--to", work / "filtered.jsonl", *options)


def articles_of(rows: Iterable[Row]) -> Iterator[Row]:
    """What `data pairs` is to make rows of: a title and a text each."""
    for row in rows:
        text = "\n\n".join(row["pos"])
        yield {"title": row["query"], "text": text, "lang": row.get("lang", "und")}


def pairs(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Rows a second and memory of `tercet data pairs` on articles."""
    source, target = work / "articles.jsonl", work / "pairs.jsonl.gz"
    titled = [path for path in arguments.rows if _pairs(path)]
    count = write_rows(source, articles_of(rows_of(titled, arguments.count)))
    options = ["--as", "title-body", "--workers", str(arguments.workers)]
    run = watched("data", "pairs", source, "--to", target, *options)
    return told("pairs", run, count, source)


def mix(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The same of `tercet data mix`, lengths in characters and in tokens."""
    source = work / "rows.jsonl"
    count = write_rows(source, rows_of(arguments.rows, arguments.count))
    out = {}
    for unit in ("characters", "tokens"):
        options = ["--unit", unit, "--workers", str(arguments.workers)]
        run = watched("data", "mix", source, "--to", work / f"mix-{unit}", *options)
        out[unit] = told(f"mix by {unit}", run, count, source)
    return out


def told(name: str, run: Run, rows: int, source: Path) -> dict[str, Any]:
    """Prints the figures of a command, and gives them."""
    print(
        f"{name}: {rows:,} rows ({source.stat().st_size / 1e6:,.0f} MB) in {run.seconds:.1f} s, "
        f"{rows / run.seconds:,.0f} rows/s, {run.processor:.1f} s of processor, "
        f"peak {run.bytes / 1e6:,.0f} MB",
        flush=True,
    )
    return {**asdict(run), "report": None, "rows": rows}


def _pairs(path: Path) -> bool:
    return "pos" in next(iter(read_rows(path)))


def filters(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Rows a second and memory of `tercet data filter`, for all steps and for each."""
    source, part = work / "rows.jsonl", work / "part.jsonl"
    count = write_rows(source, rows_of(arguments.rows, arguments.count))
    write_rows(part, (row for at, row in enumerate(read_rows(source)) if at % 5 == 0))
    against = ["--against", str(arguments.against)] if arguments.against else []
    workers = ["--workers", str(arguments.workers)]
    out: dict[str, Any] = {}
    table = f"{'steps':<14}{'rows':>11}{'dropped':>10}{'seconds':>9}{'rows/s':>9}"
    table += f"{'processor s':>13}{'MB':>8}"
    print(f"{source.stat().st_size / 1e6:.0f} MB in {count:,} rows\n{table}")
    single = [name for name in STEPS if name not in ("fields", "relevance")]
    for name in ["all", "none", *single]:
        if name == "evaluation" and not against:
            continue
        options = [] if name == "all" else ["--steps", "fields" if name == "none" else name]
        options += against if name in ("all", "evaluation") else []
        run = filtered(source if name == "all" else part, work, *options, *workers)
        rows = run.report["rows"]
        dropped = rows - run.report["kept"]
        steps = {step: of["rows"] for step, of in run.report["steps"].items()}
        out[name] = {**asdict(run), "report": None, "rows": rows, "dropped": dropped}
        out[name]["steps"] = steps
        print(
            f"{name:<14}{rows:>11,}{dropped:>10,}{run.seconds:>9.1f}{rows / run.seconds:>9,.0f}"
            f"{run.processor:>13.1f}{run.bytes / 1e6:>8,.0f}",
            flush=True,
        )
    print("all:", out["all"]["steps"])
    return out


def sample(paths: Sequence[Path], count: int) -> list[Row]:
    """Rows from all through the files, some of each."""
    out = []
    for path in paths:
        rows = list(read_rows(path))
        out += rows[:: max(1, len(rows) * len(paths) // count)]
    return out


def found(
    step: str,
    rows: Sequence[Row],
    cases: Iterable[tuple[Row, bool | None]],
    work: Path,
    *options: str,
) -> dict[str, Any]:
    """How many planted rows of each kind a step drops, and its precision and recall."""
    source, target = work / "planted.jsonl", work / "dropped.jsonl"
    wanted: dict[str, bool | None] = {}
    planted = []
    for row, bad in cases:
        wanted[row["planted"]] = bad
        planted.append(row)
    write_rows(source, [*rows, *planted])
    filtered(source, work, "--steps", step, "--dropped", str(target), "--workers", "1", *options)
    dropped: dict[str, int] = defaultdict(int)
    for entry in read_rows(target):
        if entry["dropped"] == "row" and entry["step"] == step:
            dropped[entry["row"].get("planted", "real")] += 1
    kinds: dict[str, Any] = {"real": {"rows": len(rows), "dropped": dropped["real"], "bad": False}}
    for name, bad in wanted.items():
        total = sum(row["planted"] == name for row in planted)
        kinds[name] = {"rows": total, "dropped": dropped[name], "bad": bad}
    hits = sum(kind["dropped"] for kind in kinds.values() if kind["bad"])
    every = sum(kind["dropped"] for kind in kinds.values() if kind["bad"] is not None)
    recall = hits / sum(kind["rows"] for kind in kinds.values() if kind["bad"])
    print(f"\n{step}: precision {hits / every:.4f}, recall {recall:.4f}")
    for name, kind in kinds.items():
        told = {True: "should go", False: "should stay", None: "either"}[kind["bad"]]
        print(f"  {name:<42}{told:<13}{kind['dropped']:>6} of {kind['rows']:,} dropped")
    return {"precision": hits / every, "recall": recall, "kinds": kinds}


def planted(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Precision and recall of the steps near and evaluation."""
    draw = random.Random(1)
    source = work / "sample.jsonl"
    write_rows(source, sample(arguments.rows, arguments.sample))
    against = ["--against", str(arguments.against)] if arguments.against else []
    filtered(source, work, *against)
    rows = list(read_rows(work / "filtered.jsonl"))
    out = {"near": found("near", rows, near_cases(rows, draw, EACH), work)}
    if arguments.against:
        known = [one.text for one in read_evaluation(arguments.against)]
        cases = copied_cases(rows, known, draw, EACH)
        out["evaluation"] = found("evaluation", rows, cases, work, *against)
    return out


# Rows with known defects among real ones: near-copies, copied evaluation texts, decoys. Each says
# in "planted" what it is. Nothing is planted that the real rows hold already: they are filtered.

RARE = "zqvx"  # what a changed word becomes, with a number: no text has it
# Near-copies and the part of the words of their passages that is changed. At a tenth it is a matter
# of taste whether that is the same text: counted, but not in precision and recall.
STRENGTHS = {"1 word": 0.0, "1%": 0.01, "3%": 0.03, "10%": 0.1, "30%": 0.3}
Cases = Iterator[tuple[Row, bool | None]]  # planted rows, and whether they should go


def words_of(text: str) -> list[str]:
    """Words with the space behind them; single characters where there are no spaces."""
    parts = text.split(" ")
    if len(parts) > len(text) / 25:
        return [f"{part} " for part in parts[:-1]] + parts[-1:]
    return list(text)


def changed(draw: random.Random, text: str, share: float) -> str:
    """A text with this share of its words changed, left out or put in twice; one at least."""
    words = words_of(text)
    places = [at for at, word in enumerate(words) if any(map(str.isalpha, word))]
    for place in draw.sample(places, max(1, round(share * len(places)))):
        how = draw.random()
        if how < 0.5:
            words[place] = f"{RARE}{draw.randrange(10_000)} "
        else:
            words[place] = "" if how < 0.75 else words[place] * 2
    return "".join(words)


def retyped(draw: random.Random, text: str) -> str:
    """A text in other case, punctuation and white space; the same words."""
    text = text.replace(",", " -").replace("“", '"').replace("”", '"').replace(".", " .")
    return text.upper() if draw.random() < 0.3 else text.replace(" ", "  ", 3)


def near_cases(rows: Sequence[Row], draw: random.Random, each: int) -> Cases:
    """Planted rows and whether they should go, from real ones that have long positives."""
    long = [row for row in rows if len(_text(row)) >= 400]

    for row in draw.sample(long, each):
        yield _with(row, "another typing", lambda text: retyped(draw, text)), True
    for name, share in STRENGTHS.items():
        for row in draw.sample(long, each):
            copy = {**passages_changed(draw, row, share), "planted": f"{name} of the passage"}
            yield copy, None if share == 0.1 else share < 0.1
    # decoys: what a plain similarity of whole rows would drop
    pairs = [row for row in rows if "pos" in row]
    mixed = draw.sample(pairs, 3 * each)
    for row, other in zip(mixed[:each], mixed[each:], strict=False):
        yield {**row, "query": other["query"], "planted": "another query, same passage"}, False
    for row, other in zip(mixed[each:], mixed[2 * each :], strict=False):
        yield {**row, "pos": other["pos"], "planted": "same query, another passage"}, False
    short = [row for row in pairs if len(words_of(row["query"])) >= 4 and len(row["query"]) < 150]
    for row in draw.sample(short, each):
        query = changed(draw, row["query"], 0.0)
        yield {**row, "query": query, "planted": "1 word of a short query"}, False


def _text(row: Row) -> str:
    text: str = row["text"] if "text" in row else max(row["pos"], key=len)
    return text


def _with(row: Row, name: str, edit: Callable[[str], str]) -> Row:
    out = {**row, "planted": name}
    if "text" in row:
        return {**out, "text": edit(row["text"])}
    return {**out, "query": edit(row["query"]), "pos": [edit(text) for text in row["pos"]]}


def copied_cases(
    rows: Sequence[Row], known: Sequence[str], draw: random.Random, each: int
) -> Cases:
    """Rows that hold evaluation texts, or parts of them, and whether they should go."""
    known = [text for text in known if "```" not in text]  # of code hardly a word is left
    long = [text for text in known if len(text) >= 300]
    share = {text: _dense(text) for text in long}
    spaced = [text for text in long if share[text] == 0 and len(text.split()) >= 40]
    dense = [text for text in long if share[text] > 0.9]
    short = [text for text in known if 25 <= len(text) < 120]
    phrases = [
        phrase
        for phrase, count in Counter(
            " ".join(words[at : at + 6])
            for text in spaced
            for words in [text.split()]
            for at in range(len(words) - 6)
        ).most_common(4 * each)
        if count > 1
    ]

    def inside(name: str, piece: str) -> Row:
        row = draw.choice(rows)
        words = words_of(_text(row))
        at = draw.randrange(len(words) + 1)
        text = "".join(words[:at]) + f" {piece} " + "".join(words[at:])
        field = {"text": text} if "text" in row else {"pos": [text, *row["pos"][1:]]}
        return {**row, **field, "planted": name}

    def run(text: str, words: int) -> str:
        parts = normalize(text).split()  # so that "-" is no word
        at = draw.randrange(len(parts) - words) if len(parts) > words else 0
        return " ".join(parts[at : at + words])

    def cut(text: str, size: int) -> str:
        at = draw.randrange(len(text) - size)
        return text[at : at + size]

    def pick(texts: Sequence[str]) -> list[str]:
        return draw.sample(texts, min(each, len(texts)))

    def shuffled(text: str) -> str:
        words = text.split()
        draw.shuffle(words)
        return " ".join(words)

    table: list[tuple[str, Sequence[str], Callable[[str], str]]] = [
        ("whole passage in a longer text", long, str),
        ("whole passage, typed otherwise", long, lambda text: retyped(draw, text)),
        ("25 words", spaced, lambda text: run(text, 25)),
        ("15 words", spaced, lambda text: run(text, 15)),
        ("80 characters without spaces", dense, lambda text: cut(normalize(text), 80)),
        ("a query, or sentence, as the query", short, lambda text: retyped(draw, text)),
        ("passage, every tenth word changed", spaced, lambda text: changed(draw, text, 0.1)),
        ("decoy: a common phrase of 6 words", phrases, str),
        ("decoy: 8 words of a passage", spaced, lambda text: run(text, 8)),
        ("decoy: the words of a passage shuffled", spaced, shuffled),
        ("decoy: 25 characters without spaces", dense, lambda text: cut(text, 25)),
    ]
    for name, texts, piece in table:
        for text in pick(texts):
            if texts is short:
                row = {**draw.choice(rows), "planted": name, "query": piece(text)}
                yield {**row, "pos": ["A passage that answers it, in words of its own."]}, True
            else:
                yield inside(name, piece(text)), not name.startswith("decoy")


def _dense(text: str) -> float:
    """The part of the letters that are of a script without spaces."""
    codes = code_points(normalize(text))
    return float(((character_classes()[codes] & DENSE) > 0).mean()) if len(codes) else 0.0


PARTS = {"pairs": pairs, "mix": mix, "filter": filters, "planted": planted}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=Path, nargs="+", required=True, help="files of rows")
    options.add_argument("--against", type=Path, help="evaluation sets")
    options.add_argument("--count", type=int, default=1_000_000)
    options.add_argument("--sample", type=int, default=20_000)
    options.add_argument("--workers", type=int, default=os.cpu_count())
    options.add_argument("--only", choices=list(PARTS))
    options.add_argument("--work", type=Path, help="folder for temporary files")
    arguments = options.parse_args()
    out: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        for name, part in PARTS.items():
            if arguments.only in (None, name):
                out[name] = part(arguments, Path(folder))
    save(arguments.json, out)


if __name__ == "__main__":
    main()
