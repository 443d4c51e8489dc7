"""Reports of made-up evaluations, in the shape that `results.report` gives them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tercet.evaluate.measures import ACCURACY, Values
from tercet.evaluate.results import TaskResult, report
from tercet.evaluate.runner import EvaluateConfig

OWN = ("dense", "sparse", "multi", "dense+sparse", "all")
BASELINES = ("BM25", "BM25 pieces")
LEVELS = {  # about how good each is
    "BM25": 0.55,
    "BM25 pieces": 0.5,
    "BM25 cut": 0.45,
    "BM25 pieces cut": 0.4,
    "dense": 0.6,
    "sparse": 0.52,
    "multi": 0.64,
    "dense+sparse": 0.65,
    "all": 0.68,
}
MIRACL = "ar bn en es fa fi fr hi id ja ko ru sw te th zh de yo".split()
MODEL = {
    "source": None,
    "fingerprint": "0f" * 20,
    "heads": ["dense", "sparse", "multi"],
    "dtype": "float32",
    "device": "cpu",
    "max_length": 8192,
}


def result(
    name: str,
    *,
    suite: str | None = None,
    language: str = "",
    columns: Sequence[str] = (*BASELINES, *OWN),
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
    found: dict[str, dict[str, Values]] = {}
    for number, column in enumerate(columns):
        rng = np.random.default_rng((seed, number))  # the same queries are hard at every length
        found[column] = {}
        for at, measure in enumerate(measures):
            level = LEVELS.get(column, 0.5) + ease + 0.15 * at + rng.normal(0, 0.05)
            if column not in BASELINES:
                level += gain
            values = np.clip(rng.normal(level, 0.2, queries), 0, 1)
            lacking = (missing or {}).get(column, 0)
            names = tuple(map(str, range(queries)))
            found[column][measure] = Values(measure, names, values, lacking, skipped)
    weights = {"two": (1.0, 0.3, 0.0), "three": (1.0, 0.3, 1.0), "from": "the model"}
    given = {
        "kind": "retrieval",
        "weights": weights if length else {},
        "seconds": {"read": 0.31, "encode passages": 41.07, "rank": 2.5, "measure": 0.2},
        "cut": {"passages": 0.0, "queries": 0.0} if length else {},
    }
    return TaskResult(
        name=name,
        suite=suite or name.partition("/")[0],
        language=language,
        passages=1000 * queries + 234,
        queries=queries + skipped,
        max_length=length,
        values=found,
        texts={str(at): f"question {at} of {name}" for at in range(queries)},
        **given | fields,
    )


def made(
    results: Sequence[TaskResult],
    *,
    model: Mapping[str, Any] | None = MODEL,
    against: str | None = "BM25",
    **settings: Any,
) -> dict[str, Any]:
    """The report of an evaluation, with settings as a session tells them."""
    told = {k: v for k, v in asdict(EvaluateConfig()).items() if not k.startswith("weights")}
    told |= {"suites": ["miracl", "beir:data"], "weights": None, "tuned": None}
    out = report(results, model=model, settings=told | settings, against=against, seconds=321.9)
    out["made"] = {
        "when": "2026-11-20T18:00:00+00:00",
        "machine": {
            "cpu": "A processor @ 2.0 GHz",
            "threads": 2,
            "gpu": None,
            "system": "Linux",
            "python": "3.11.2",
        },
        "versions": {"tercet": "0.1.0", "torch": "2.6.0"},
    }
    return out


def miracl() -> dict[str, Any]:
    """One suite, a task for each of 18 languages."""
    return made([result(f"miracl/{name}", language=name, queries=20) for name in MIRACL])


def own_sets(count: int = 38) -> dict[str, Any]:
    """A suite of many sets, some of one language, some cut, some with queries left out."""
    kinds = ("xquad", "masakhanews", "longdoc-jsinfo")
    results = []
    for at in range(count):
        language = MIRACL[at % len(MIRACL)]
        cut = at % 3 == 2
        extra = ("BM25 cut", "BM25 pieces cut") if cut else ()
        results.append(
            result(
                f"beir/{kinds[at % 3]}-{language}{at // 18 or ''}",
                language=language if at % 5 else "",
                columns=(*BASELINES, *extra, *OWN),
                gain=(at % 7 - 3) / 40,
                skipped=3 if at == 4 else 0,
                cut={"passages": 0.371 if cut else 0.0, "queries": 0.004 if cut else 0.0},
                notes=["multi-vectors of candidates only, encoded again"] if at == 8 else [],
            )
        )
    return made(results)


def sweep() -> dict[str, Any]:
    """Suites at several lengths: one task, and several."""
    results = []
    for length in (128, 512, 2048, 8192):
        gain = 0.1 * np.log2(length / 8192) / 3
        results.append(result("narrativeqa", language="en", length=length, gain=gain, queries=40))
        results += [
            result(f"mldr/{name}", language=name, length=length, gain=gain,
                   columns=(*BASELINES, "BM25 cut", "BM25 pieces cut", *OWN),
                   cut={"passages": 0.8, "queries": 0.0})
            for name in ("de", "zh", "th")
        ]  # fmt: skip
    return made(results, mcls=256, rerank=100)


def chunked() -> dict[str, Any]:
    """Documents whole at two lengths, and by the best of chunks of two sizes."""
    results = []
    for length, chunk in ((512, 0), (8192, 0), (128, 128), (320, 320)):
        some: dict[str, Any] = {"length": length, "chunk": chunk, "chunks": 4321 if chunk else 0}
        gain = 0.1 if chunk else -1000 / length / 20
        results += [
            result(f"longdoc/{name}", language=name, gain=gain, queries=40, **some)
            for name in ("de", "en")
        ]
    return made(results, max_length=[512, 8192], chunk=[0, 128, 320])


def bitext(count: int = 112) -> dict[str, Any]:
    """Translations in many languages: no BM25, and so no comparisons."""
    names = [f"{a}{b}a" for a in "abcdefghijkl" for b in "mnopqrstuv"][:count]
    results = [
        result(f"tatoeba/{name}", suite="bitext", language=name, columns=OWN, measures=ACCURACY,
               kind="bitext")
        for name in names
    ]  # fmt: skip
    return made(results)


def single() -> dict[str, Any]:
    """One task, one column, one measure, no model."""
    one = result("beir/cisi", columns=("BM25",), measures=("nDCG@10",), length=None)
    return made([one], model=None)


def outside() -> dict[str, Any]:
    """No model: BM25 and outside runs, one of which lacks queries."""
    runs = ("BM25", "splade-v3 (Lucene)", "a run with a name that is much longer than others")
    results = [
        result(f"beir/{name}", columns=runs, length=None, missing={runs[1]: 4})
        for name in ("scifact", "nfcorpus", "arguana")
    ]
    return made(results, model=None)


HOSTILE = "<script>alert(1)</script>&\"'\x00\ud800</table>"
NAMES = ("العربية", "日本語の質問と回答の集合" * 3, "עברית mixed with English", "x" * 180, "ไทย")


def strange() -> dict[str, Any]:
    """Names that mean harm, run long or run the other way, figures that are missing."""
    results = [
        result(f"beir/{name}", language=name[:3], columns=(*BASELINES, "dense", "all", HOSTILE))
        for name in (*NAMES, HOSTILE)
    ]
    results.append(result("beir/no query", columns=("BM25", "dense"), queries=0, skipped=5))
    results[0].notes.append(HOSTILE)
    results[1].weights = {"two": (1, 0, 0), "three": (1, 0, 0), "from": HOSTILE}
    return made(results, model=MODEL | {"source": HOSTILE}, suites=[HOSTILE])


def mixed() -> dict[str, Any]:
    """Several suites of different kinds in one report."""
    results = [result(f"miracl/{name}", language=name) for name in ("sw", "yo", "te")]
    results += [
        result(f"mkqa/{name}", language=name, measures=("AnswerRecall@20", "AnswerRecall@100"))
        for name in ("de", "he", "km", "zh_cn")
    ]
    results += [
        result(f"tatoeba/{name}", suite="bitext", language=name, columns=OWN, measures=ACCURACY,
               kind="bitext")
        for name in ("deu", "swh")
    ]  # fmt: skip
    results.append(result("pairs/test", columns=(*BASELINES, *OWN, "other-model")))
    tuned = {"weights": [1.0, 0.25, 0.8], "before": 0.512, "after": 0.533, "tasks": ["pairs/dev"]}
    return made(results, tuned=tuned, weights=[1.0, 0.25, 0.8])


def empty() -> dict[str, Any]:
    """Nothing was measured."""
    return made([])


ALL = {
    "miracl": miracl, "own_sets": own_sets, "sweep": sweep, "chunked": chunked, "bitext": bitext,
    "single": single, "outside": outside, "strange": strange, "mixed": mixed, "empty": empty,
}  # fmt: skip
