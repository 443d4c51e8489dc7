"""nDCG@10 and Recall@100 of every representation and of their sums, beside BM25, on BEIR folders.

Scores are exhaustive: every query against every passage, so "multi" is MaxSim over the whole corpus
and "all" the weighted sum over the whole corpus; no candidates are chosen. The sums use the model's
own weights. BM25 and sparse retrieve only passages with a score above 0. A passage is its title, a
newline and its text; a passage with the same id as the query is not dropped.

"BM25" counts a term of the query once; "BM25 qtf" as often as the query has it, as Lucene does,
which helps where queries are whole paragraphs (cisi).

Knows nothing of indexes: search.py measures what candidates cost.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from beir_sets import Dataset, measure, read_dataset
from bm25_baseline import bm25

from tercet.config import Head, Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError, TercetError
from tercet.scores import Scores, dense_scores, lexical_scores, maxsim_scores, weighted_sum

if TYPE_CHECKING:
    from tercet.encoder import Encoder

DEFAULT_SETS = "xquad-en,xquad-xl,mkqa-dev-q2q,cranfield"
LEXICAL = ("BM25", "BM25 qtf", "sparse")  # a passage that shares no term is not retrieved
COLUMNS = ("BM25", "BM25 qtf", "dense", "sparse", "multi", "dense+sparse", "all")
QUERY_BLOCK = 1024  # queries scored at once: bounds the score matrices; MaxSim has blocks itself


SCORERS: dict[Head, Callable[[Embeddings, Embeddings], Scores]] = {
    "dense": dense_scores,
    "sparse": lexical_scores,
    "multi": maxsim_scores,
}


def evaluate(data: Dataset, encoder: "Encoder | None", max_length: int) -> dict[str, Any]:
    """Every column's measures on one dataset, with the seconds each step took."""
    seconds: dict[str, float] = {}

    def timed(step: str, work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = work(*args, **options)
        seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - started
        return result

    lexical = timed("BM25", bm25, data.passages)
    facts: dict[str, Any] = {"passages": len(data.passages), "queries": len(data.queries)}
    if encoder is not None:
        asked = {"heads": encoder.heads, "max_length": max_length}
        passages = timed("encode passages", encoder.encode, data.passages, role="passage", **asked)
        queries = timed("encode queries", encoder.encode, data.queries, role="query", **asked)
        facts["passages cut"] = int(np.count_nonzero(passages.truncated))
        facts["queries cut"] = int(np.count_nonzero(queries.truncated))
    rows: dict[str, list[npt.NDArray[np.float64]]] = {}
    for first in range(0, len(data.queries), QUERY_BLOCK):
        block = slice(first, first + QUERY_BLOCK)
        columns = {
            "BM25": timed("BM25", lexical, data.queries[block], False),
            "BM25 qtf": timed("BM25 qtf", lexical, data.queries[block], True),
        }
        if encoder is not None:
            parts = {
                head: timed(head, SCORERS[head], queries[block], passages) for head in encoder.heads
            }
            columns |= parts | sums(parts, encoder.weights)
        for name, scores in columns.items():
            part = measure(scores, data, first, positive=name in LEXICAL)
            rows.setdefault(name, []).append(part)
    means = {name: np.concatenate(parts).mean(axis=0) for name, parts in rows.items()}
    facts["ndcg@10"] = {name: float(mean[0]) for name, mean in means.items()}
    facts["recall@100"] = {name: float(mean[1]) for name, mean in means.items()}
    facts["seconds"] = {step: round(value, 2) for step, value in seconds.items()}
    return facts


def sums(parts: dict[Head, Scores], weights: Weights) -> dict[str, Scores]:
    """The weighted sums that the model's heads allow."""
    out = {}
    if "dense" in parts and "sparse" in parts:
        two: dict[Head, Scores] = {"dense": parts["dense"], "sparse": parts["sparse"]}
        out["dense+sparse"] = weighted_sum(two, weights)
        if "multi" in parts:
            out["all"] = weighted_sum(parts, weights)
    return out


def machine() -> dict[str, Any]:
    """The processor's name, the cores this process may use, and the versions that matter."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count()
    versions = {library: version(library) for library in ("tercet", "torch", "numpy", "bm25s")}
    return {"cpu": name, "cores": cores, "system": platform.system(), "versions": versions}


def table(sets: dict[str, dict[str, Any]], key: str, columns: list[str]) -> str:
    """A Markdown table of one measure in percent, a row per set."""
    lines = [" | ".join(["| set", "passages", "queries", *columns]) + " |"]
    lines.append("|---" + "|---:" * (len(columns) + 2) + "|")
    for name, facts in sets.items():
        cells = [f"{100 * facts[key][column]:.1f}" for column in columns]
        lines.append(f"| {name} | {facts['passages']} | {facts['queries']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(found: dict[str, Any]) -> str:
    sets = found["sets"]
    columns = [column for column in COLUMNS if all(column in s["ndcg@10"] for s in sets.values())]
    lines = ["nDCG@10, exhaustive scoring", table(sets, "ndcg@10", columns), "", "Recall@100"]
    lines += [table(sets, "recall@100", columns), "", "seconds"]
    for name, facts in sets.items():
        steps = ", ".join(f"{step} {value:.1f}" for step, value in facts["seconds"].items())
        cut = [
            f"{facts[what]} {what}" for what in ("passages cut", "queries cut") if facts.get(what)
        ]
        lines.append(f"  {name}: {steps}" + (f"; {', '.join(cut)} to the maximum" if cut else ""))
    model, host = found["model"], found["machine"]
    if model:
        weights = ", ".join(str(weight) for weight in model["weights"])
        lines.append(
            f"model {model['fingerprint']}, {model['dtype']} on {model['device']},"
            f" weights {weights}, at most {model['max_length']} tokens"
        )
    versions = " ".join(f"{library} {number}" for library, number in host["versions"].items())
    return "\n".join([*lines, f"machine: {host['cpu']}, {host['cores']} cores; {versions}"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="nDCG@10 of every representation, beside BM25.")
    parser.add_argument("--data", type=Path, required=True, help="the folder of BEIR folders")
    parser.add_argument("--sets", default=DEFAULT_SETS, help="names with commas between")
    parser.add_argument("--all-sets", action="store_true", help="every folder with test judgements")
    parser.add_argument("--model", help="folder or hub id (default: the bundled model)")
    parser.add_argument("--max-length", type=int, default=512, help="tokens (default: 512)")
    parser.add_argument("--queries", type=int, help="a sample of so many a set (default: all)")
    parser.add_argument("--bm25-only", action="store_true", help="the baseline, without a model")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluates set after set and returns what the report shows."""
    folders = [options.data / name for name in options.sets.split(",")]
    if options.all_sets:
        folders = sorted(path.parents[1] for path in options.data.glob("*/qrels/test.tsv"))
    if not folders:
        raise InputError(f"{options.data} holds no folder with qrels/test.tsv")
    datasets = [read_dataset(folder) for folder in folders]  # a wrong name fails at once
    if options.queries is not None:
        datasets = [data.sample(max(1, options.queries)) for data in datasets]
    encoder, model = None, None
    if not options.bm25_only:
        from tercet.encoder import Encoder

        encoder = Encoder.load(options.model)
        model = {
            "fingerprint": encoder.fingerprint,
            "weights": encoder.weights.as_tuple(),
            "max_length": options.max_length,
            "dtype": str(encoder.dtype).removeprefix("torch."),
            "device": str(encoder.device),
        }
    sets = {}
    for data in datasets:
        print(f"{data.name} ...", file=sys.stderr, flush=True)
        facts = sets[data.name] = evaluate(data, encoder, options.max_length)
        found = (f"{column} {100 * value:.1f}" for column, value in facts["ndcg@10"].items())
        print(f"{data.name}: {', '.join(found)}", file=sys.stderr, flush=True)
    return {"sets": sets, "model": model, "machine": machine()}


def main() -> None:
    options = parse()
    try:
        found = run(options)
        print(report(found))
        if options.json:
            scratch = options.json.with_name(f".{options.json.name}.part")
            scratch.write_text(json.dumps(found, indent=1) + "\n")
            scratch.rename(options.json)
    except (TercetError, OSError) as error:
        sys.exit(f"quality: {error}")


if __name__ == "__main__":
    main()
