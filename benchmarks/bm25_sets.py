"""BM25 of the package on BEIR folders, beside the figures that a table of their README names.

Columns: words, a term of the query counted as often as it is there (Lucene, the package's default);
words, each term counted once; pieces of the model's tokenizer; the table's. nDCG@10 and
Recall@100 in percent.
"""

import re
import sys
import time
from pathlib import Path

import numpy as np
from common import parser, save

from tercet import bm25
from tercet.evaluate.loaders import load
from tercet.evaluate.measures import measure
from tercet.evaluate.tasks import Bitext, Task
from tercet.evaluate.trec import Run
from tercet.hybrid import SparseRanker
from tercet.layout import BUNDLED, fetch, read_tokenizer

MEASURES = ("nDCG@10", "Recall@100")
DEPTH = 1000
SETS = (
    "arcd-ar,cisi,cranfield,jaquad-ja,kazqad-kk,lareqa-xquadr,longdoc-jsinfo-zh,mkqa-dev-q2q,"
    "xquad-th,xquad-xl"
)
_ROW = re.compile(r"\| ([\w-]+) \|.*\| ([\d.]+) / ([\d.]+) \|$")


def run_of(task: Task, terms: bm25.Terms, *, once: bool) -> Run:
    """The best passages of every query."""
    ids, texts = zip(*task.corpus.read(), strict=True)
    made = bm25.index(texts, terms)
    counts = made.queries(task.queries.values())
    if once:  # a term of a query counts once
        counts.data[:] = 1
    ranker = SparseRanker(counts, made.weights, len(ids))
    return Run.of(list(task.queries), ids, ranker.top(np.arange(len(task.queries)), DEPTH))


def table(readme: Path) -> dict[str, tuple[float, float]]:
    """Set -> nDCG@10 and Recall@100, of rows that end in both."""
    lines = readme.read_text(encoding="utf-8").splitlines()
    rows = [match for line in lines if (match := _ROW.match(line))]
    return {row[1]: (float(row[2]), float(row[3])) for row in rows}


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--data", type=Path, required=True, help="the folder of BEIR folders")
    given.add_argument("--readme", type=Path, help="the file with the table (default: none)")
    given.add_argument("--sets", default=SETS, help="names with commas between, or `all`")
    options = given.parse_args()
    tokenizer, _ = read_tokenizer(fetch(BUNDLED))
    theirs = table(options.readme) if options.readme else {}
    names = options.sets.split(",")
    if options.sets == "all":
        names = sorted(path.parents[1].name for path in options.data.glob("*/qrels/test.tsv"))
    report = {}
    print("| set | words | words, once | pieces | table | words, once - table |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in names:
        (task,) = load(f"beir:{options.data / name}")
        assert not isinstance(task, Bitext)
        started = time.perf_counter()
        runs = {
            "words": run_of(task, bm25.Words(), once=False),
            "once": run_of(task, bm25.Words(), once=True),
            "pieces": run_of(task, bm25.Subwords(tokenizer), once=False),
        }
        figures = {
            column: [100 * values[name].mean for name in MEASURES]
            for column, values in measure(task, runs, MEASURES).items()
        }
        report[name] = figures
        cells = [" / ".join(f"{value:.1f}" for value in figures[column]) for column in runs]
        if name in theirs:
            cells.append(" / ".join(map(str, theirs[name])))
            less = zip(figures["once"], theirs[name], strict=True)
            cells.append(" / ".join(f"{ours - value:+.1f}" for ours, value in less))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        print(f"{name}: {time.perf_counter() - started:.1f} s", file=sys.stderr)
    save(options.json, report)


if __name__ == "__main__":
    main()
