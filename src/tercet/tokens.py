"""Texts to token ids: special ids, MCLS insertion, truncation that is reported.

Wraps a `tokenizers.Tokenizer` of the XLM-RoBERTa family. Knows nothing of models or batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend

from tercet.config import MAX_LENGTH
from tercet.errors import InputError, ModelError

CLS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"


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

    def contents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text without special tokens; lone surrogates become U+FFFD."""
        try:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            clean = [sanitise(text, number) for number, text in enumerate(texts)]
            encodings = self.backend.encode_batch_fast(clean, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode(
        self,
        texts: Sequence[str],
        *,
        max_length: int = MAX_LENGTH,
        mcls: int | None = None,
    ) -> TokenBatch:
        """Tokenises B texts; raises InputError on a text that is no string or a bad length."""
        return self.frame(self.contents(texts), max_length=max_length, mcls=mcls)

    def frame(
        self,
        contents: Sequence[Sequence[int]],
        *,
        max_length: int,
        mcls: int | None = None,
    ) -> TokenBatch:
        """Puts [CLS] and </s> around contents, cut so that all tokens number at most max_length."""
        if max_length < 3:
            raise InputError(f"max_length counts [CLS] and </s>: at least 3, got {max_length}")
        if mcls is not None and mcls < 1:
            raise InputError(f"mcls is the number of tokens per [CLS], at least 1, got {mcls}")
        run = mcls or max_length
        room = max_length - 1  # for [CLS]s and content, </s> apart
        limit = room - -(-room // (run + 1))
        pieces: list[npt.NDArray[np.int32]] = []
        cls: list[npt.NDArray[np.int64]] = []
        offsets = np.zeros(len(contents) + 1, dtype=np.int64)
        truncated = np.zeros(len(contents), dtype=np.bool_)
        for number, content in enumerate(contents):
            truncated[number] = len(content) > limit
            ids = np.array(content[:limit], dtype=np.int32)
            starts = np.arange(0, max(1, len(ids)), run)
            framed = np.insert(ids, starts, self.cls_id)
            pieces += [framed, np.array([self.eos_id], dtype=np.int32)]
            cls.append(offsets[number] + starts + np.arange(len(starts)))
            offsets[number + 1] = offsets[number] + len(framed) + 1
        return TokenBatch(
            ids=np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32),
            offsets=offsets,
            cls=np.concatenate(cls) if cls else np.zeros(0, dtype=np.int64),
            truncated=truncated,
        )


def sanitise(text: str, number: int = 0) -> str:
    """Replaces lone surrogates by U+FFFD; raises InputError where the text is no string."""
    if not isinstance(text, str):
        raise InputError(f"text {number} is a {type(text).__name__}, not a string")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
