"""Hard negatives: candidates of an encoder's heads and of BM25, less what may be a positive.

The settings are here, so that a command's help needs no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from tercet.config import MAX_LENGTH, Weights
from tercet.errors import InputError

# What ranks candidates: a head, "all" (the weighted sum of the heads), or BM25.
Source = Literal["dense", "sparse", "multi", "all", "bm25"]
SOURCES: tuple[Source, ...] = get_args(Source)


@dataclass(frozen=True)
class MineConfig:
    """How negatives are found, left out and chosen."""

    by: tuple[Source, ...] = ("dense",)  # whose candidates are united
    first: int = 2  # the range of ranks, the row's positives counted
    last: int = 200
    number: int = 15  # kept for a query
    hardest: bool = False  # the best ranks first; else drawn at random within the range
    # A candidate scores at most so much of the lowest positive's score; None: no limit.
    # Source: "TopK-PercPos" of NV-Retriever, Moreira et al. 2024, arXiv 2407.15831 (0.95 there
    # for the cosines of a dense teacher; for the other heads it is by analogy).
    limit: float | None = 0.95
    limits: Mapping[Source, float | None] = field(default_factory=dict)  # where one differs
    near: float = 0.9  # from this similarity of character shingles on, a text is a near-duplicate
    margin: float | None = 0.0  # veto: a scorer's score above the positive's less this; None: none
    scores: bool = False  # write the scorer's scores as pos_scores and neg_scores
    keep: bool = False  # add to the negatives that a row has; else they are replaced
    weights: Weights | None = None  # of "all"; None: the model's own
    seed: int = 0
    query_tokens: int = 512  # special tokens counted
    passage_tokens: int = MAX_LENGTH

    def __post_init__(self) -> None:
        unknown = [name for name in (*self.by, *self.limits) if name not in SOURCES]
        most = (self.last - self.first + 1) * len(self.by)
        choices = ", ".join(SOURCES)
        limits = [("limit", self.limit), *self.limits.items()]
        wrong = [name for name, value in limits if value is not None and not 0 < value <= 1]
        for refused, why in (
            (unknown, f"unknown source {', '.join(map(repr, unknown))}: choose from {choices}"),
            (not self.by, f"no source of candidates: choose from {choices}"),
            (len(set(self.by)) < len(self.by), f"a source is named twice: {', '.join(self.by)}"),
            (
                not 1 <= self.first <= self.last,
                f"ranks run from 1 up, the first not behind the last: got {self.first}-{self.last}",
            ),
            (
                not 1 <= self.number <= most,
                f"{self.number} negatives cannot come from the ranks {self.first}-{self.last} of "
                f"{', '.join(self.by)}: take between 1 and {most}, or more ranks",
            ),
            (
                wrong,
                f"{', '.join(wrong)}: the limit is a share of the positive's score above 0 and at "
                "most 1, such as 0.95, or none",
            ),
            (
                not 0 < self.near <= 1,
                f"near is a similarity above 0 and at most 1, got {self.near}",
            ),
            (
                self.margin is not None and not math.isfinite(self.margin),
                f"margin is a number on the scorer's scale or none: {self.margin}",
            ),
            (self.seed < 0, f"seed must be at least 0, got {self.seed}"),
            (
                min(self.query_tokens, self.passage_tokens) < 3,
                "query_tokens and passage_tokens count [CLS] and </s>: at least 3",
            ),
        ):
            if refused:
                raise InputError(why)

    def limit_of(self, source: Source) -> float:
        """The share of the positive's score that a candidate of this source may have."""
        limit = self.limits.get(source, self.limit)
        return math.inf if limit is None else limit
