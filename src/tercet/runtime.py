"""What runs a model for the encoder: the protocol, the arrays of one pass, batches of tokens.

Shapes: N tokens of a batch, B texts, H hidden, M multi-vector size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tercet.config import Head, Progress, check_count
from tercet.errors import ModelError
from tercet.layout import BackboneConfig
from tercet.tokenizer import TokenBatch

Ints = npt.NDArray[np.integer]
Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

# Texts that are padded together are padded by at most this share.
PADDING = 0.05
CPU_BUDGET, GPU_BUDGET = 4096, 1 << 16  # tokens of a batch; measured on CPU
PADDED_BUDGET = 1024  # of one that is padded: on CPU small ones cost less than padding does


@dataclass(frozen=True)
class Pass:
    """What one pass gives for some texts, given by their rows; None where it was not asked for.

    dense (B, H) unit rows; weights (N,) >= 0, 0 at ids that never weigh; multi (N, M) unit rows,
    float16 or float32, those of [CLS] among them; states (N, H) of the last layer.
    """

    rows: Rows
    tokens: TokenBatch
    dense: Vectors | None = None
    weights: Vectors | None = None
    multi: npt.NDArray[Any] | None = None
    states: Vectors | None = None

    @property
    def owners(self) -> Rows:
        """(N,) the text of each token, counted within the batch."""
        return np.repeat(np.arange(len(self.rows)), self.tokens.lengths)


class Runtime(Protocol):
    """A model that is ready to run."""

    @property
    def name(self) -> str:
        """torch, onnxruntime or openvino."""

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that the model has."""

    @property
    def dims(self) -> Mapping[str, int]:
        """Sizes of the representations: dense, vocabulary, and multi where there is that head."""

    @property
    def config(self) -> BackboneConfig:
        """The sizes of the trunk."""

    @property
    def dtype(self) -> str:
        """What products are computed in: float32, bfloat16, float16 or int8."""

    @property
    def device(self) -> str:
        """Where: cpu, cuda:0."""

    @property
    def budget(self) -> int:
        """Tokens of a batch that suit it."""

    def passes(
        self,
        tokens: TokenBatch,
        heads: Sequence[Head],
        *,
        budget: int | None = None,
        half: bool = True,
        states: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Pass]:
        """Passes over B texts in batches of at most `budget` tokens, longest texts first.

        half gives multi-vectors in float16. progress is called with the tokens done and their
        total. Raises ModelError for what the model does not give.
        """


def check_asked(heads: Sequence[Head], own: Sequence[Head]) -> None:
    """Raises ModelError for a head that a model does not have."""
    absent = [head for head in heads if head not in own]
    if absent:
        raise ModelError(
            f"this model has no {absent[0]} head: ask for {', '.join(own)} only, or load"
            " a checkpoint with its sparse_linear and colbert_linear files"
        )


def batches(lengths: Ints, budget: int) -> Iterator[Rows]:
    """Row numbers from the longest text to the shortest, at most `budget` tokens or one text each.

    Equal ones keep their order. Longest first: what does not fit in memory shows at once, and time
    left is never told too low. Raises InputError where the budget is below 1.
    """
    budget = check_count("token_budget, the tokens of a batch,", budget)
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    ends = np.cumsum(lengths[order], dtype=np.int64)
    first, used = 0, 0
    while first < len(order):
        last = max(first + 1, int(np.searchsorted(ends, used + budget, side="right")))
        yield order[first:last]
        first, used = last, int(ends[last - 1])


def padded_batches(lengths: Ints, budget: int, padding: float = PADDING) -> Iterator[Rows]:
    """As `batches`, each with texts that are padded to their longest by at most a share of it."""
    for rows in batches(lengths, budget):
        own = lengths[rows].astype(np.int64)  # none longer than the one before
        first = 0
        while first < len(rows):
            wide = int(own[first]) * np.arange(1, len(rows) - first + 1)
            fits = wide <= (1 + padding) * np.cumsum(own[first:])
            last = first + (len(fits) if fits.all() else int(fits.argmin()))
            yield rows[first:last]
            first = last
