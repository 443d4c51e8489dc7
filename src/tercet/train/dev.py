"""Quick checks on held-out pairs while training: nDCG@10 of each head over all dev passages.

Knows nothing of indexes or of the evaluation suites; what it measures chooses settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.config import HEADS, Head, Weights
from tercet.embeddings import Embeddings
from tercet.encoder import encode_tokens
from tercet.errors import InputError
from tercet.hybrid import best_weights
from tercet.inference import TorchRuntime
from tercet.model import PADDING
from tercet.scores import SCORES, Scores, weighted_sum
from tercet.train.batches import frame
from tercet.train.config import SourceConfig
from tercet.train.dataset import Examples, Numbers
from tercet.train.plan import Prepared, cache_folder

MEASURE = "nDCG@10, percent"  # of all figures here
SHORT = 250  # tokens of a passage: whole long documents are not for a quick check
BUDGET = 8192  # tokens encoded at once
GRID = (0.2, 0.3, 0.5, 0.8, 1.2, 2.0)  # weights of sparse and multi beside dense at 1

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class DevSet:
    """Q questions and the P passages that all of them search."""

    name: str
    queries: Numbers  # (Q,) places in the store
    passages: Numbers  # (P,) places in the store, different
    relevant: Numbers  # (Q,) column of each question's passage


class DevChecks:
    """The figures of every trained head on the dev files, and the weights that suit them."""

    def __init__(self, ready: Prepared) -> None:
        config, self.ready = ready.config, ready
        sources = [SourceConfig(files=(path,)) for path in config.data.dev]
        self.examples = Examples.load(
            sources, ready.checkpoint.tokenizer, config.data, cache=cache_folder(config)
        )
        labels = ["score", *(source.label for source in sources)]  # the name of the mean is taken
        names = [s.label if labels.count(s.label) == 1 else s.files[0] for s in sources]
        self.sets = dev_sets(self.examples, names, most=config.run.dev_queries)
        self.scored: list[dict[Head, Scores]] = []  # of each set, when they were last encoded

    def run(self) -> dict[str, Any]:
        """Every set's and head's figure with the model as it is; score is the mean of all."""
        self.scored = []
        for dev in self.sets:
            queries, passages = self.encode(dev.queries), self.encode(dev.passages)
            heads = [head for head in HEADS if head in queries.heads and head in passages.heads]
            self.scored.append({head: SCORES[head](queries, passages) for head in heads})
        figures = self.figures(self.ready.checkpoint.settings.weights)
        values = [value for heads in figures.values() for value in heads.values()]
        return {"score": round(float(np.mean(values)), 2), **figures}

    def encode(self, places: Numbers) -> Embeddings:
        model, tokenizer = self.ready.checkpoint.model, self.ready.checkpoint.tokenizer
        contents = [self.examples.content(place) for place in places.tolist()]
        return encode_tokens(
            TorchRuntime(model, padding=PADDING, autocast=self.ready.dtype),
            frame(
                contents,
                tokenizer.cls_id,
                tokenizer.eos_id,
                min(514, model.backbone.config.max_length),
            ),
            self.ready.config.heads,
            budget=BUDGET,
            fingerprint="in training",
        )

    def figures(self, weights: Weights | None) -> Figures:
        """nDCG@10 in percent of every head (and of the weighted sum) on every set."""
        report: Figures = {}
        for dev, scores in zip(self.sets, self.scored, strict=True):
            all_scores: dict[str, Scores] = dict(scores.items())
            if weights is not None and len(scores) > 1:
                all_scores["all"] = weighted_sum(scores, weights)
            report[dev.name] = {
                name: round(100 * ndcg_at_10(matrix, dev.relevant), 1)
                for name, matrix in all_scores.items()
            }
        return report

    def tuned(self, *, anew: bool) -> tuple[Weights, Figures]:
        """The weights (dense fixed at 1) whose sum has the best mean nDCG@10, and the figures.

        Every head keeps a weight: the sets are kinds of text that were trained on, and a head that
        adds nothing there may be what finds the others. anew: the model has changed.
        """
        if anew or not self.scored:
            self.run()

        def mean(weights: Weights) -> float:
            figures = [
                100 * ndcg_at_10(weighted_sum(scores, weights), dev.relevant)
                for dev, scores in zip(self.sets, self.scored, strict=True)
            ]
            return sum(figures) / len(figures)

        weights = best_weights(mean, {"dense": (1.0,), "sparse": GRID, "multi": GRID})
        return weights, self.figures(weights)


def dev_sets(
    examples: Examples, names: Sequence[str], *, most: int = 500, seed: int = 0
) -> list[DevSet]:
    """One set per source (file) of held-out rows, by name, of at most so many questions.

    Rows with a long passage are left out; a source of them alone is kept as it is.
    """
    first = examples.positives.offsets[:-1]
    has = np.diff(examples.positives.offsets) > 0
    out = []
    for number, name in enumerate(names):
        rows = np.flatnonzero((examples.source == number) & has)
        short = rows[examples.lengths(examples.positives.values[first[rows]]) <= SHORT]
        rows = short if len(short) else rows
        if not len(rows):
            raise InputError(f"data.dev: {name}: no row with a query and a positive")
        # a source has its own draw: what other sources are there does not change it
        draw = np.random.default_rng((seed, len(rows)))
        rows = np.sort(draw.permutation(rows)[:most])
        own = examples.positives.values[first[rows]]
        different, relevant = np.unique(own, return_inverse=True)
        out.append(DevSet(name, np.asarray(examples.query[rows]), different, relevant))
    return out


def ndcg_at_10(scores: Scores, relevant: Numbers) -> float:
    """Mean nDCG@10 with one relevant passage a query: 1 / log2(1 + rank), ties against us."""
    own = scores[np.arange(len(relevant)), relevant]
    ranks = (scores >= own[:, None]).sum(1)
    return float(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0).mean())
