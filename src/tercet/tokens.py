"""Texts to token ids: special ids, MCLS insertion, truncation that is reported.

Wraps a `tokenizers.Tokenizer` of the XLM-RoBERTa family. Knows nothing of models or batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend

from tercet.config import MAX_LENGTH
from tercet.errors import InputError, ModelError

CLS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"

READ = 8  # characters per token that are read at first of a text that may be cut
MARGIN = 64  # tokens by which what was read must go on behind a cut
BLOCK = 1 << 20  # characters tokenised at once


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of B texts, packed without padding.

    ids (sum T,) int32; text b owns ids[offsets[b]:offsets[b + 1]], special tokens included.
    cls (C,) int64 holds the packed positions of every [CLS] that we put there: the first token of
    each text and, under MCLS, the inserted ones. truncated (B,) bool.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    cls: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(B,) tokens per text, special ones included."""
        return np.diff(self.offsets)

    @staticmethod
    def join(parts: "Sequence[TokenBatch]") -> "TokenBatch":
        """The texts of several batches, in order."""
        shifts = np.cumsum([0, *(int(part.offsets[-1]) for part in parts)])
        shifted = list(zip(parts, shifts.tolist(), strict=False))
        return TokenBatch(
            ids=np.concatenate([part.ids for part in parts]),
            offsets=np.concatenate([[0], *(part.offsets[1:] + shift for part, shift in shifted)]),
            cls=np.concatenate([part.cls + shift for part, shift in shifted]),
            truncated=np.concatenate([part.truncated for part in parts]),
        )

    def take(self, rows: npt.NDArray[np.int64]) -> "TokenBatch":
        """These texts, in this order."""
        counts = self.lengths[rows]
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        source = np.arange(int(offsets[-1])) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        is_cls = np.zeros(len(self.ids), dtype=np.bool_)
        is_cls[self.cls] = True
        return TokenBatch(
            ids=self.ids[source],
            offsets=offsets,
            cls=np.flatnonzero(is_cls[source]),
            truncated=self.truncated[rows],
        )


class Tokenizer:
    """XLM-RoBERTa tokenisation: [CLS] text </s>, at most max_length tokens in all."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        backend.no_truncation()
        backend.no_padding()
        self.cls_id = self._special(CLS)
        self.pad_id = self._special(PAD)
        self.eos_id = self._special(EOS)
        self.unk_id = self._special(UNK)

    @staticmethod
    def from_file(path: Path) -> "Tokenizer":
        """Reads a tokenizer.json; raises ModelError where it is not one."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from error
        try:
            return Tokenizer(Backend.from_str(text))
        except ModelError:
            raise
        except Exception as error:  # tokenizers raises bare Exception for malformed JSON
            raise ModelError(f"{path}: not a tokenizer.json: {error}") from error

    def _special(self, token: str) -> int:
        found = self.backend.token_to_id(token)
        if found is None:
            raise ModelError(f"the tokenizer has no {token}: not of the XLM-RoBERTa family")
        return int(found)

    @property
    def vocabulary(self) -> int:
        """The number of ids, added tokens included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def weightless_ids(self) -> npt.NDArray[np.int64]:
        """Ids that never weigh in the sparse head: cls, eos, pad, unk (method.md, heads)."""
        return np.array([self.cls_id, self.eos_id, self.pad_id, self.unk_id], dtype=np.int64)

    def contents(self, texts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        """Ids of each text without special tokens; lone surrogates become U+FFFD.

        Where limit is given, at most so many ids, and no more of a text is read than they need.
        """
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {number} is a {type(text).__name__}, not a string")
        if limit is None:
            return self._ids(texts)
        room = READ * limit
        found = self._ids([text[:room] for text in texts])
        for number, text in enumerate(texts):
            size = room
            # the last few ids before a cut may not be those of the whole text
            while len(text) > size and len(found[number]) < limit + MARGIN:
                size *= 4
                found[number] = self._ids([text[:size]])[0]
            del found[number][limit:]
        return found

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            clean = [sanitise(text) for text in texts]
            encodings = self.backend.encode_batch_fast(clean, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def places(self, text: str) -> tuple[list[int], npt.NDArray[np.int64]]:
        """Ids of a text without special tokens, and the characters [start, end) of each, (T, 2)."""
        encoding = self.backend.encode(sanitise(text), add_special_tokens=False)
        return encoding.ids, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)

    def room(self, max_length: int, mcls: int | None = None) -> int:
        """How many ids of content fit in max_length tokens; raises InputError on a bad length."""
        if max_length < 3:
            raise InputError(f"max_length counts [CLS] and </s>: at least 3, got {max_length}")
        if mcls is None:
            return max_length - 2
        if mcls < 1:
            raise InputError(f"mcls is the number of tokens per [CLS], at least 1, got {mcls}")
        return max_length - 1 - -(-(max_length - 1) // (mcls + 1))

    def encode(
        self,
        texts: Sequence[str],
        *,
        max_length: int = MAX_LENGTH,
        mcls: int | None = None,
    ) -> TokenBatch:
        """Tokenises B texts; raises InputError on a text that is no string or a bad length."""
        limit = self.room(max_length, mcls) + 1  # one more shows that there was more
        blocks = [
            self.frame(self.contents(block, limit=limit), max_length=max_length, mcls=mcls)
            for block in _blocks(texts, READ * limit)
        ]
        return blocks[0] if len(blocks) == 1 else TokenBatch.join(blocks)

    def frame(
        self,
        contents: Sequence[Sequence[int]],
        *,
        max_length: int,
        mcls: int | None = None,
    ) -> TokenBatch:
        """Puts [CLS] and </s> around contents, cut so that all tokens number at most max_length.

        With mcls, one [CLS] before every run of so many tokens.
        """
        limit = self.room(max_length, mcls)
        run = mcls or max_length
        ids: list[int] = []
        cls: list[int] = []
        offsets = [0]
        for content in contents:
            size = min(len(content), limit)
            for start in range(0, max(1, size), run):
                cls.append(len(ids))
                ids.append(self.cls_id)
                ids += content[start : min(start + run, size)]
            ids.append(self.eos_id)
            offsets.append(len(ids))
        return TokenBatch(
            ids=np.array(ids, dtype=np.int32),
            offsets=np.array(offsets, dtype=np.int64),
            cls=np.array(cls, dtype=np.int64),
            truncated=np.array([len(content) > limit for content in contents], dtype=np.bool_),
        )


def _blocks(texts: Sequence[str], longest: int) -> Iterator[Sequence[str]]:
    """The texts in blocks of bounded size: a token being made takes far more than a kept one."""
    first = size = 0
    for number, text in enumerate(texts):
        size += min(longest, len(text)) if isinstance(text, str) else 0
        if size > BLOCK:
            yield texts[first : number + 1]
            first, size = number + 1, 0
    if first < len(texts) or not texts:
        yield texts[first:]


def sanitise(text: str) -> str:
    """Replaces lone surrogates, which no tokenizer takes, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
