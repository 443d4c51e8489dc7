"""What stands around the figures of a report: what was measured, how, on what, for how long."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tercet.config import BUNDLED_NAME
from tercet.evaluate.page.figures import Look, looks
from tercet.evaluate.page.markup import Html, el, join, name_of
from tercet.evaluate.page.tables import plain
from tercet.evaluate.results import chunked, percent
from tercet.evaluate.runner import EvaluateConfig
from tercet.evaluate.systems import BM25, BM25_PIECES, CUT
from tercet.evaluate.tasks import Protocol

Report = Mapping[str, Any]

_SETTINGS = {  # others are shown under their own names
    "heads": "Heads",
    "bm25": "BM25",
    "max_length": "Tokens of a passage",
    "chunk": "Tokens of a chunk, 0 for whole passages",
    "query_length": "Tokens of a query",
    "mcls": "Tokens for each [CLS] (MCLS)",
    "rerank": "Candidates of multi and all",
    "union": "Candidates of dense+sparse, of each head",
    "measures": "Measures",
    "multi_gb": "Disk for multi-vectors, GB",
    "weights": "Weights of dense, sparse, multi",
}


def counted(number: int, one: str, several: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "query", "queries"), counted(1200, "task")
    ('1 query', '1,200 tasks')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def lead(report: Report) -> Html:
    """What the page is about in a few lines, and what to mind."""
    tasks = report["tasks"]
    names = {task["name"] for task in tasks}
    spoken = {task["language"] for task in tasks if task["language"]}
    said: list[object] = [
        f"Measured on {report['made']['when'][:10]}: {counted(len(names), 'task')}"
    ]
    if suites := list(dict.fromkeys(task["suite"] for task in tasks)):
        said += [" of ", [(", " if at else "", name_of(name)) for at, name in enumerate(suites)]]
    said.append(f", in {counted(len(spoken), 'language')}. " if spoken else ". ")
    said.append(
        "All figures are percent: 100 is the best there is, and each is a mean over the "
        "queries of a task."
    )
    minded = mind(tasks)
    points = [el("li", point) for point in minded]
    return join((el("p", said), el("ul", points, class_="mind") if points else None))


def mind(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader of the figures should know of the tasks."""
    if not tasks:
        return ["No task was measured."]
    out = []
    lacking = [task for task in tasks if task["missing"]]
    if lacking:
        runs = ", ".join(sorted({name for task in lacking for name in task["missing"]}))
        out.append(f"Queries are missing from {runs} in {_several(lacking)}: each counts 0.")
    skipped = sum({task["name"]: task["skipped"] for task in tasks}.values())
    if skipped:
        out.append(
            f"{counted(skipped, 'query has', 'queries have')} no relevant passage and "
            f"{'does' if skipped == 1 else 'do'} not count."
        )
    if cut := [task for task in tasks if task["cut"].get("passages")]:
        most = percent(max(task["cut"]["passages"] for task in cut))
        out.append(
            f"Passages longer than the model read were cut in {_several(cut)}, at most {most}% of "
            "a task's. The columns called cut are BM25 on the same shortened passages."
        )
    if empty := [task for task in tasks if not task["judged"]]:
        out.append(f"No query counts in {_several(empty)}.")
    return out


def _several(tasks: Sequence[Mapping[str, Any]]) -> str:
    """The number of tasks, each once at whatever lengths."""
    return counted(len({task["name"] for task in tasks}), "task")


def the_columns(report: Report) -> Html:
    """What each column is, in this evaluation."""
    settings, protocol = report["settings"], Protocol()
    columns = report["columns"]
    base = "dense" if "dense" in columns or "sparse" not in columns else "sparse"
    rerank = f"{settings.get('rerank') or protocol.rerank:,}"
    union = f"{settings.get('union') or protocol.union:,}"
    heads = [head for head in ("dense", "sparse", "multi") if head in columns]
    known = {
        BM25: "baseline: ranks by the words that query and passage share (pairs of characters in "
        "Chinese, Japanese and Thai)",
        BM25_PIECES: "baseline: the same on the pieces of words that the model reads",
        "dense": "one vector for a text; searches all passages",
        "sparse": "a weight for each token that a text holds; searches all passages",
        "multi": f"a vector for each token of a text; ranks the best {rerank} of {base} again",
        "dense+sparse": f"weighted sum of both; ranks the best {union} of each together",
        "all": f"weighted sum of {', '.join(heads)}; ranks the best {rerank} of {base} again",
    }
    kinds = {task["kind"] for task in report["tasks"]}
    if kinds == {"bitext"}:  # nothing is ranked again
        known = {name: said.partition(";")[0] for name, said in known.items()}
    parts = [
        el(
            "dl",
            [
                el("div", el("dt", _swatch(look), name_of(look.name)), el("dd", _what(look, known)))
                for look in looks(columns).values()
            ],
            class_="columns",
        )
    ]
    if "bitext" in kinds:
        parts.append(
            el(
                "p",
                "In tasks of translations every text is compared with all of the "
                "other side, by every column.",
            )
        )
    if chunked(report["tasks"]):
        parts.append(
            el(
                "p",
                "By best passage: every document was cut into chunks of at most so many tokens, "
                "special ones and its title (where it has one, it stands before each) among them, "
                "and a column of the model scores a document by the best of its chunks: by the "
                "highest score of a head, by the highest sum that one chunk has. What is ranked "
                "again counts in documents, and all their chunks are scored. BM25 reads documents "
                "whole.",
            )
        )
    return join(parts)


def _what(look: Look, known: Mapping[str, str]) -> str:
    if look.group == "run":
        return "a run of another system, measured as it came"
    if look.name.endswith(CUT):
        full = look.name.removesuffix(CUT)
        return f"baseline: {full} on as much of each passage as the model read"
    return known[look.name]


def _swatch(look: Look) -> Html:
    return el("span", class_=f"swatch {look.css}", aria_hidden="true")


def facts(report: Report) -> list[tuple[str, Html]]:
    """The parts behind the figures, each with its heading."""
    parts = [("How it was measured", _how(report))]
    if report["tasks"]:
        parts += [("Tasks", _tasks(report["tasks"])), ("Seconds", _seconds(report))]
    return parts


def _how(report: Report) -> Html:
    model, made, settings = report["model"], report["made"], report["settings"]
    rows: list[tuple[str, object]] = []
    if model:
        rows.append(
            (
                "Model",
                [
                    name_of(model["source"] or BUNDLED_NAME),
                    f", {model['dtype']} on {model['device']}, "
                    f"heads {', '.join(model['heads'])}, "
                    f"reads up to {model['max_length']:,} tokens",
                ],
            )
        )
        rows.append(("Fingerprint", el("code", model["fingerprint"])))
    else:
        rows.append(("Model", "none"))
    machine = made["machine"]
    where = f"{machine['cpu']}, {counted(machine['threads'], 'thread')}"
    where = f"{machine['gpu']}; {where}" if machine["gpu"] else where
    rows.append(("Made", f"{made['when']} in {report['seconds']:,.0f} s"))
    rows.append(("Machine", f"{where}; {machine['system']}, Python {machine['python']}"))
    rows.append(("Versions", ", ".join(f"{name} {v}" for name, v in made["versions"].items())))
    if suites := settings.get("suites"):
        rows.append(
            ("Asked for", [(", " if at else "", name_of(s)) for at, s in enumerate(suites)])
        )
    rows.append(("Settings", _changed(settings) or "all as they come"))
    if tuned := settings.get("tuned"):
        rows.append(
            (
                "Weights tuned",
                [
                    f"{_numbers(tuned['weights'])} on ",
                    name_of(", ".join(tuned["tasks"])),
                    f": nDCG@10 {percent(tuned['before'])} before, {percent(tuned['after'])} after",
                ],
            )
        )
    terms = [(el("dt", name), el("dd", value)) for name, value in rows]
    return join(
        (el("dl", [el("div", row) for row in terms], class_="facts"), _weights(report["tasks"]))
    )


def _changed(settings: Mapping[str, Any]) -> str:
    """Settings that are not the defaults, in words."""
    defaults = asdict(EvaluateConfig())
    out = []
    for name, value in settings.items():
        default = defaults.get(name)
        if name in ("suites", "tuned") or _plain(value) == _plain(default):
            continue
        out.append(f"{_SETTINGS.get(name, name)}: {_said(value)}")
    return "; ".join(out)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else "not set" if value is None else str(value)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _weights(tasks: Sequence[Mapping[str, Any]]) -> Html | None:
    """Which weights were used where, and where they come from."""
    found: dict[tuple[tuple[float, ...], tuple[float, ...], str], list[str]] = {}
    for task in tasks:
        if weights := task["weights"]:
            key = (tuple(weights["two"]), tuple(weights["three"]), weights["from"])
            found.setdefault(key, []).append(task["name"])
    if not found:
        return None
    rows = []
    for (two, three, source), names in found.items():
        several = dict.fromkeys(names)
        of = counted(len(several), "task") if len(several) > 3 else ", ".join(several)
        rows.append((name_of(of), source, *(f"{v:g}" for v in two[:2]), *(f"{v:g}" for v in three)))
    head = (
        "Tasks",
        "From",
        "dense, in dense+sparse",
        "sparse, in dense+sparse",
        "dense, in all",
        "sparse, in all",
        "multi, in all",
    )
    return join((el("h3", "Weights of the sums"), plain("Weights", head, rows, ("From",))))


def _tasks(tasks: Sequence[Mapping[str, Any]]) -> Html:
    """Sizes, what was left out or cut, and notes; a column that says nothing is left out."""
    columns: dict[str, list[str]] = {
        "Suite": [task["suite"] for task in tasks],
        "Language": [task["language"] or "-" for task in tasks],
        "Tokens": [_tokens(task) for task in tasks],
        "Chunks": [f"{task['chunks']:,}" if task["chunk"] else "-" for task in tasks],
    }
    sizes = {
        "Passages": "passages",
        "Queries": "queries",
        "Queries that count": "judged",
        "Without a relevant passage": "skipped",
    }
    columns |= {name: [f"{task[field]:,}" for task in tasks] for name, field in sizes.items()}
    columns["Missing"] = [
        "; ".join(f"{column}: {number:,}" for column, number in task["missing"].items()) or "-"
        for task in tasks
    ]
    for what in ("passages", "queries"):
        columns[f"{what.capitalize()} cut, %"] = [percent(task["cut"].get(what)) for task in tasks]
    notes = [["translations: passages are pairs"] if t["kind"] == "bitext" else [] for t in tasks]
    columns["Notes"] = [
        "; ".join([*some, *task["notes"]]) or "-" for some, task in zip(notes, tasks, strict=True)
    ]
    kept = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    rows = [
        [name_of(task["name"]), *(name_of(cells[at]) for cells in kept.values())]
        for at, task in enumerate(tasks)
    ]
    said = [
        ("Tokens", "Tokens: the most that was read of a passage. "),
        ("Chunks", "Chunks: of all passages, where each is scored by its best one. "),
        ("Missing", "Missing: queries that a run lacks, 0 each."),
    ]
    note = "".join(words for name, words in said if name in kept)
    words = ("Suite", "Language", "Missing", "Notes")
    return join((el("p", note) if note else None, plain("Tasks", ["Task", *kept], rows, words)))


def _tokens(task: Mapping[str, Any]) -> str:
    size = f"{task['max_length']:,}" if task["max_length"] else "-"
    return f"{size}, best passage" if task["chunk"] else size


def _seconds(report: Report) -> Html:
    """Wall time of each task and step."""
    tasks = report["tasks"]
    steps = list(dict.fromkeys(step for task in tasks for step in task["seconds"]))
    several = len({_tokens(task) for task in tasks}) > 1
    head = ["Task", *(["Tokens"] if several else []), *steps, "Together"]
    rows = []
    for task in tasks:
        found = [task["seconds"].get(step) for step in steps]
        length = [_tokens(task)] if several else []
        rows.append(
            [
                name_of(task["name"]),
                *length,
                *("-" if value is None else f"{value:,.2f}" for value in found),
                f"{sum(value or 0 for value in found):,.2f}",
            ]
        )
    sums = [sum(task["seconds"].get(step, 0) for task in tasks) for step in steps]
    last = ["all", *([""] if several else []), *(f"{v:,.2f}" for v in (*sums, sum(sums)))]
    note = (
        f"Wall time of each step; {report['seconds']:,.1f} s in all. A corpus that tasks share "
        "is encoded once, and what was encoded before is not encoded again."
    )
    return join(
        (
            el("p", note),
            plain(
                "Seconds of each task and step", head, rows, last=last if len(rows) > 1 else None
            ),
        )
    )
