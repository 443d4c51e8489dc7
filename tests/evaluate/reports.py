"""Reports of made-up evaluations, in the shape that `results.report` gives them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tercet.evaluate.measures import ACCURACY, Values
from tercet.evaluate.results import TaskResult, report
from tercet.evaluate.runner import EvaluateConfig
from tercet.evaluate.systems import BASELINES, OWN

COLUMNS = (*BASELINES[:2], *OWN)
LEVELS = dict(zip((*BASELINES, *OWN), (55, 50, 45, 40, 60, 52, 64, 65, 68), strict=True))
MIRACL = "ar bn en es fa fi fr hi id ja ko ru sw te th zh de yo".split()
HOSTILE = "<script>alert(1)</script>&\"'\x00\ud800</table>"
NAMES = ("العربية", "日本語の質問と回答の集合" * 3, "עברית mixed with English", "x" * 180, "ไทย")
MODEL = {
    "source": None, "fingerprint": "0f" * 20, "heads": ["dense", "sparse", "multi"],
    "dtype": "float32", "device": "cpu", "max_length": 8192,
}  # fmt: skip
MADE = {
    "when": "2026-11-20T18:00:00+00:00",
    "machine": {"cpu": "A processor @ 2.0 GHz", "threads": 2, "gpu": None, "system": "Linux",
                "python": "3.11.2"},
    "versions": {"tercet": "0.1.0", "torch": "2.6.0"},
}  # fmt: skip


def result(
    name: str,
    *,
    columns: Sequence[str] = COLUMNS,
    measures: Sequence[str] = ("nDCG@10", "Recall@100"),
    queries: int = 12,
    length: int | None = 8192,
    gain: float = 0.0,
    skipped: int = 0,
    missing: Mapping[str, int] | None = None,
    **fields: Any,
) -> TaskResult:
    """A task with values drawn by its name, about LEVELS plus `gain` for the model."""
    seed = sum(name.encode(errors="surrogatepass"))
    ease = np.random.default_rng(seed).normal(0, 0.12)
    names = tuple(map(str, range(queries)))
    values: dict[str, dict[str, Values]] = {}
    for number, column in enumerate(columns):
        rng = np.random.default_rng((seed, number))  # the same queries are hard at every length
        values[column] = {}
        for place, measure in enumerate(measures):
            level = LEVELS.get(column, 50) / 100 + ease + 0.15 * place + rng.normal(0, 0.05)
            level += 0 if column in BASELINES[:2] else gain
            drawn = np.clip(rng.normal(level, 0.2, queries), 0, 1)
            lacking = (missing or {}).get(column, 0)
            values[column][measure] = Values(measure, names, drawn, lacking, skipped)
    weights = {"two": (1.0, 0.3, 0.0), "three": (1.0, 0.3, 1.0), "from": "the model"}
    given: dict[str, Any] = {
        "suite": name.partition("/")[0],
        "language": "",
        "weights": weights if length else {},
        "seconds": {"read": 0.31, "encode passages": 41.07, "rank": 2.5, "measure": 0.2},
        "cut": {"passages": 0.0, "queries": 0.0} if length else {},
        "texts": {query: f"question {query} of {name}" for query in names},
    }
    given |= {"passages": 1000 * queries + 234, "queries": queries + skipped, "max_length": length}
    return TaskResult(name=name, values=values, **(given | fields))


def made(
    results: Sequence[TaskResult], *, model: Mapping[str, Any] | None = MODEL, **settings: Any
) -> dict[str, Any]:
    """The report of an evaluation, with settings as a session tells them."""
    told = {k: v for k, v in asdict(EvaluateConfig()).items() if not k.startswith("weights")}
    told |= {"suites": ["miracl", "beir:data"], "weights": None, "tuned": None}
    out = report(results, model=model, settings=told | settings, against="BM25", seconds=321.9)
    return out | {"made": MADE}


def bitexts(names: Sequence[str]) -> list[TaskResult]:
    """Translations in many languages: no BM25, and so no comparisons."""
    given: dict[str, Any] = {"suite": "bitext", "columns": OWN, "measures": ACCURACY}
    return [result(f"tatoeba/{name}", language=name, kind="bitext", **given) for name in names]


def own_sets() -> dict[str, Any]:
    """A suite of many sets, some of one language, some cut, some with queries left out."""
    results = []
    for n in range(22):
        cut = n % 3 == 2
        extra = BASELINES[2:] if cut else ()
        results.append(
            result(
                f"beir/{('xquad', 'masakhanews', 'longdoc-jsinfo')[n % 3]}-{n}",
                language=MIRACL[n % 18] if n % 5 else "",
                columns=(*BASELINES[:2], *extra, *OWN),
                gain=(n % 7 - 3) / 40,
                skipped=3 if n == 4 else 0,
                cut={"passages": 0.371 if cut else 0.0, "queries": 0.004 if cut else 0.0},
                notes=["multi-vectors of candidates only, encoded again"] if n == 8 else [],
            )
        )
    return made(results)


def sweep() -> dict[str, Any]:
    """Suites at several lengths: one task, and several."""
    results = []
    for length in (128, 512, 2048, 8192):
        some: dict[str, Any] = {"length": length, "gain": 0.1 * np.log2(length / 8192) / 3}
        results.append(result("narrativeqa", language="en", queries=40, **some))
        some |= {"columns": (*BASELINES, *OWN), "cut": {"passages": 0.8, "queries": 0.0}}
        results += [result(f"mldr/{name}", language=name, **some) for name in ("de", "zh", "th")]
    return made(results, mcls=256, rerank=100)


def chunked() -> dict[str, Any]:
    """Documents whole at two lengths, and by the best of chunks of two sizes."""
    results = []
    for length, chunk in ((512, 0), (8192, 0), (128, 128), (320, 320)):
        some: dict[str, Any] = {"length": length, "chunk": chunk, "chunks": 4321 if chunk else 0}
        some["gain"] = 0.1 if chunk else -1000 / length / 20
        results += [result(f"longdoc/{n}", language=n, queries=40, **some) for n in ("de", "en")]
    return made(results, max_length=[512, 8192], chunk=[0, 128, 320])


def outside() -> dict[str, Any]:
    """No model: BM25 and outside runs, one of which lacks queries."""
    runs = ("BM25", "splade-v3 (Lucene)", "a run with a name that is much longer than others")
    sets = ("scifact", "nfcorpus", "arguana")
    some: dict[str, Any] = {"columns": runs, "length": None, "missing": {runs[1]: 4}}
    return made([result(f"beir/{name}", **some) for name in sets], model=None)


def strange() -> dict[str, Any]:
    """Names that mean harm, run long or run the other way, figures that are missing."""
    columns = (*BASELINES[:2], "dense", "all", HOSTILE)
    results = [
        result(f"beir/{name}", language=name[:3], columns=columns) for name in (*NAMES, HOSTILE)
    ]
    results.append(result("beir/no query", columns=("BM25", "dense"), queries=0, skipped=5))
    results[0].notes.append(HOSTILE)
    results[1].weights = {"two": (1, 0, 0), "three": (1, 0, 0), "from": HOSTILE}
    return made(results, model=MODEL | {"source": HOSTILE}, suites=[HOSTILE])


def mixed() -> dict[str, Any]:
    """Several suites of different kinds in one report."""
    answers = ("AnswerRecall@20", "AnswerRecall@100")
    results = [result(f"miracl/{name}", language=name) for name in ("sw", "yo", "te")]
    results += [result(f"mkqa/{n}", language=n, measures=answers) for n in ("de", "he", "km")]
    results += bitexts(("deu", "swh"))
    results.append(result("pairs/test", columns=(*COLUMNS, "other-model")))
    tuned = {"weights": [1.0, 0.25, 0.8], "before": 0.512, "after": 0.533, "tasks": ["pairs/dev"]}
    return made(results, tuned=tuned, weights=[1.0, 0.25, 0.8])


REPORTS = {
    "miracl": made([result(f"miracl/{name}", language=name, queries=20) for name in MIRACL]),
    "own_sets": own_sets(),
    "sweep": sweep(),
    "chunked": chunked(),
    "bitext": made(bitexts([f"{a}{b}a" for a in "abcd" for b in "mnopqr"])),
    "single": made(
        [result("beir/cisi", columns=("BM25",), measures=("nDCG@10",), length=None)], model=None
    ),
    "outside": outside(),
    "strange": strange(),
    "mixed": mixed(),
    "empty": made([]),
}
