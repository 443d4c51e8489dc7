"""Quick checks on held-out pairs while training: nDCG@10 of each head over all dev passages.

Knows nothing of indexes or of the evaluation suites; what it measures chooses settings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tercet.config import HEADS, Head, Weights
from tercet.embeddings import Embeddings
from tercet.encoder import encode_tokens
from tercet.errors import InputError
from tercet.hybrid import best_weights
from tercet.model import PADDING, M3Model
from tercet.scores import Scores, dense_scores, lexical_scores, maxsim_scores, weighted_sum
from tercet.train.batches import Framing, frame
from tercet.train.config import SourceConfig
from tercet.train.dataset import Examples, Numbers
from tercet.train.plan import Prepared, cache_folder, heads_of

Encode = Callable[[Numbers], Embeddings]  # places of texts -> their embeddings
MEASURE = "nDCG@10, percent"  # of all figures here


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
        config, tokenizer = ready.config, ready.checkpoint.tokenizer
        sources = tuple(SourceConfig(files=(path,)) for path in config.data.dev)
        examples = Examples.load(sources, tokenizer, config.data, cache=cache_folder(config))
        labels = [source.label for source in sources]
        self.sets = dev_sets(examples, labels, most=config.run.dev_queries)
        self.weights = ready.checkpoint.settings.weights
        self.encode = model_encoder(
            ready.checkpoint.model, examples, tokenizer, heads=heads_of(config), dtype=ready.dtype
        )
        self._scored: list[dict[Head, Scores]] = []

    def run(self) -> dict[str, Any]:
        """Every set's and head's figure with the model as it is; score is the mean of all."""
        self._scored = [
            head_scores(self.encode(s.queries), self.encode(s.passages)) for s in self.sets
        ]
        figures = check(self.sets, self._scored, self.weights)
        values = [value for heads in figures.values() for value in heads.values()]
        return {"score": round(float(np.mean(values)), 2), **figures}

    def tuned(self, *, anew: bool) -> tuple[Weights, dict[str, dict[str, float]]]:
        """The best weights of the sum, and the figures with them; anew: the model has changed."""
        if anew or not self._scored:
            self.run()
        weights = tune_weights(self.sets, self._scored)
        return weights, check(self.sets, self._scored, weights)


def dev_sets(
    examples: Examples, names: Sequence[str], *, most: int = 500, seed: int = 0
) -> list[DevSet]:
    """One set per source (file) of held-out rows, by name, of at most so many questions.

    Rows with a passage of more than 250 tokens are left out: whole long documents are not for a
    quick check. A source of them alone is kept as it is.
    """
    lengths = examples.lengths()
    first = examples.positives.offsets[:-1]
    has = examples.positives.counts() > 0
    out = []
    for number, name in enumerate(names):
        rows = np.flatnonzero((examples.source == number) & has)
        passages = examples.positives.values[first[rows]]
        short = rows[lengths[passages] <= 250]
        rows = short if len(short) else rows
        if not len(rows):
            continue
        # a source has its own draw: what other sources are there does not change it
        draw = np.random.default_rng((seed, len(rows)))
        rows = np.sort(draw.permutation(rows)[:most])
        own = examples.positives.values[first[rows]]
        different, relevant = np.unique(own, return_inverse=True)
        out.append(DevSet(name, np.asarray(examples.query[rows]), different, relevant))
    if not out:
        raise InputError("data.dev: no row with a query and a positive")
    return out


def ndcg_at_10(scores: Scores, relevant: Numbers) -> float:
    """Mean nDCG@10 with one relevant passage a query: 1 / log2(1 + rank), ties against us."""
    own = scores[np.arange(len(relevant)), relevant]
    ranks = (scores >= own[:, None]).sum(1)
    return float(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0).mean())


def head_scores(queries: Embeddings, passages: Embeddings) -> dict[Head, Scores]:
    """The raw score matrix (Q, P) of every head that both sides have."""
    functions = {"dense": dense_scores, "sparse": lexical_scores, "multi": maxsim_scores}
    both = [head for head in HEADS if head in queries.heads and head in passages.heads]
    return {head: functions[head](queries, passages) for head in both}


def check(
    sets: Sequence[DevSet], scored: Sequence[dict[Head, Scores]], weights: Weights | None
) -> dict[str, dict[str, float]]:
    """nDCG@10 in percent of every head (and of the weighted sum) on every set."""
    report = {}
    for dev, scores in zip(sets, scored, strict=True):
        figures: dict[str, float] = {
            head: round(100 * ndcg_at_10(matrix, dev.relevant), 1)
            for head, matrix in scores.items()
        }
        if weights is not None and len(scores) > 1:
            total = weighted_sum(scores, weights)
            figures["all"] = round(100 * ndcg_at_10(total, dev.relevant), 1)
        report[dev.name] = figures
    return report


def tune_weights(
    sets: Sequence[DevSet],
    scored: Sequence[dict[Head, Scores]],
    *,
    grid: tuple[float, ...] = (0.2, 0.3, 0.5, 0.8, 1.2, 2.0),
) -> Weights:
    """The weights (dense fixed at 1) whose sum has the best mean nDCG@10 over the dev sets.

    Every head keeps a weight: the sets are kinds of text that were trained on, and a head that
    adds nothing there may be what finds the others.
    """

    def mean(weights: Weights) -> float:
        figures = [
            100 * ndcg_at_10(weighted_sum(scores, weights), dev.relevant)
            for dev, scores in zip(sets, scored, strict=True)
        ]
        return sum(figures) / len(figures)

    return best_weights(mean, {"dense": (1.0,), "sparse": grid, "multi": grid})


def model_encoder(
    model: M3Model,
    examples: Examples,
    framing: Framing,
    *,
    heads: Sequence[Head],
    dtype: torch.dtype = torch.float32,
    max_length: int = 514,
    budget: int = 8192,
) -> Encode:
    """A function from places of stored texts to Embeddings, products in dtype.

    `Encoder` does the same from texts, with layers packed for inference alone. budget is the tokens
    of a batch.
    """
    most = min(max_length, model.backbone.config.max_length)

    def encode(places: Numbers) -> Embeddings:
        tokens = frame([examples.content(place) for place in places.tolist()], framing, most)
        return encode_tokens(
            model,
            tokens,
            heads,
            budget=budget,
            padding=PADDING,
            autocast=dtype,
            fingerprint="in training",
        )

    return encode
