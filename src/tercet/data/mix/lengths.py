"""How long rows are, in characters or in tokens, and which length group they fall to.

A row is as long as its longest text, because that decides what a batch costs; see method.md,
"Efficient batching" (M3 paper, section 3.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tercet.errors import InputError
from tercet.rows import Record
from tercet.tokenizer import Tokenizer

Unit = Literal["characters", "tokens"]

# Upper bounds, in tokens (M3 paper, table 8); of characters four times these, which is about what
# a token of XLM-RoBERTa has in languages of the Latin script.
TOKENS = (500, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8192)
BOUNDS: dict[Unit, tuple[int, ...]] = {
    "tokens": TOKENS,
    "characters": tuple(4 * bound for bound in TOKENS),
}
SPECIAL = 2  # [CLS] and </s>, which training counts


@dataclass(frozen=True)
class Groups:
    """Length groups by their upper bounds; the last one takes all that is longer, too."""

    unit: Unit
    bounds: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises InputError where bounds do not rise."""
        rising = list(self.bounds) == sorted(set(self.bounds))
        whole = all(isinstance(bound, int) for bound in self.bounds)
        if not (self.bounds and whole and rising and self.bounds[0] > 0):
            raise InputError(
                f"lengths must be whole numbers that rise, got {', '.join(map(str, self.bounds))}"
            )

    def of(self, records: Sequence[Record], tokenizer: Tokenizer | None) -> list[int]:
        """The group of each row; tokenizer: where the unit is tokens."""
        texts = [(record.query, *record.pos, *record.neg) for record in records]
        if tokenizer is None:
            longest = [max(map(len, some)) for some in texts]
        else:
            flat = [text for some in texts for text in some]
            sizes = map(len, tokenizer.contents(flat, limit=self.bounds[-1]))
            longest = [max(next(sizes) for _ in some) + SPECIAL for some in texts]
        found = np.searchsorted(self.bounds, longest, side="left")
        numbers: list[int] = found.clip(max=len(self.bounds) - 1).tolist()
        return numbers

    def name(self, group: int) -> str:
        """Of a group's files: names sort from short to long."""
        width = max(5, len(str(self.bounds[-1])))
        first = self.bounds[group - 1] + 1 if group else 1
        last = group == len(self.bounds) - 1
        upto = "up" if last else f"{self.bounds[group]:0{width}d}"
        return f"{self.unit}-{first:0{width}d}-{upto}"

    def told(self, group: int) -> str:
        """Of a group, for people."""
        first = self.bounds[group - 1] + 1 if group else 1
        upto = "and more" if group == len(self.bounds) - 1 else f"to {self.bounds[group]:,}"
        return f"{first:,} {upto}"
