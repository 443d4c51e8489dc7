"""A BEIR folder as a retrieval task of mteb, without network, beside `tercet evaluate` on it.

    PYTHONPATH=src .venv-peers/bin/python benchmarks/mteb_local.py beir/xquad-en

Both read the same texts. Dense must agree to rounding. Multi agrees where Tercet ranks the whole
corpus again, as mteb does; by the paper's protocol it ranks the 200 best of dense. What is left is
how equal scores are ordered. Runs where mteb is installed.
"""

import time
from pathlib import Path
from typing import Any

import mteb
import torch
from common import parser, save
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from tercet.encoder import Encoder
from tercet.evaluate.loaders import load_beir
from tercet.evaluate.runner import EvaluateConfig, Evaluator
from tercet.evaluate.tasks import Task
from tercet.evaluate.vectors import VectorCache
from tercet.mteb import mteb_model


def local_task(task: Task) -> AbsTaskRetrieval:
    """The same passages, queries and judgements as a task object of mteb."""

    class Local(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name=task.name.replace("/", "-"),
            description=f"The BEIR folder {task.source}",
            dataset={"path": task.source, "revision": "local"},
            type="Retrieval",
            category="t2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, num_proc: int | None = None, **options: Any) -> None:
            passages = [{"id": key, "text": text, "title": ""} for key, text in task.corpus.read()]
            queries = [{"id": key, "text": text} for key, text in task.queries.items()]
            split = {
                "corpus": Dataset.from_list(passages),
                "queries": Dataset.from_list(queries),
                "relevant_docs": {q: dict(gains) for q, gains in task.qrels.items()},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Local()


def main() -> None:
    given = parser(__doc__)
    given.add_argument("folders", nargs="+", type=Path, help="BEIR folders")
    given.add_argument("--model", help="folder or hub id; the bundled model without")
    given.add_argument("--modes", default="dense,multi", help="of dense, sparse, multi, hybrid")
    given.add_argument("--max-length", type=int, default=512)
    given.add_argument("--cache", type=Path, default=Path(".work/mteb-cache"))
    args = given.parse_args()
    torch.set_num_threads(1)
    encoder = Encoder.load(args.model, device="cpu")
    rows = []
    print(f"{'task':24}{'':8}{'mteb':>8}{'tercet':>8}{'re-ranking 200':>16}{'s':>7}")
    for folder in args.folders:
        (task,) = load_beir(folder)
        size = sum(1 for _ in task.corpus.read())
        ours = {}
        for name, rerank in (("all", size), ("paper", None)):
            config = EvaluateConfig(bm25=False, max_length=args.max_length, rerank=rerank)
            found, _ = Evaluator(VectorCache(args.cache, encoder), config).retrieval(task)
            ours[name] = {c: 100 * m["nDCG@10"].mean for c, m in found.values.items()}
        for mode in args.modes.split(","):
            model = mteb_model(encoder, mode, max_length=args.max_length)
            start = time.monotonic()
            result = mteb.evaluate(model, local_task(task), cache=None, show_progress_bar=False)
            seconds = time.monotonic() - start
            score = 100 * result.task_results[0].scores["test"][0]["ndcg_at_10"]
            column = "all" if mode == "hybrid" else mode
            row = [task.name, mode, score, ours["all"][column], ours["paper"][column], seconds]
            print("{:24}{:8}{:8.3f}{:8.3f}{:16.3f}{:7.1f}".format(*row), flush=True)
            rows.append(row)
    save(args.json, rows)


if __name__ == "__main__":
    main()
