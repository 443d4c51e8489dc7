"""Texts to token ids: [CLS] and </s>, MCLS, truncation that is reported; files of tokenizers.

Wraps a `tokenizers.Tokenizer` of the XLM-RoBERTa family, read from tokenizer.json or from a
sentencepiece.bpe.model (without the sentencepiece library). Knows nothing of models or batches.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

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
    def of(sequences: "Sequence[Sequence[int] | npt.NDArray[np.integer]]") -> "TokenBatch":
        """Texts of these ids, each of which begins with its one [CLS]."""
        offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
        return TokenBatch(
            ids=np.fromiter((i for ids in sequences for i in ids), np.int32, int(offsets[-1])),
            offsets=offsets,
            cls=offsets[:-1],
            truncated=np.zeros(len(sequences), dtype=np.bool_),
        )

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
        """Reads a tokenizer.json or sentencepiece.bpe.model; raises ModelError if it is not one."""
        if path.suffix == ".model":
            return Tokenizer(read_sentencepiece(path))
        try:
            backend = Backend.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises bare Exception for malformed JSON
            raise ModelError(f"{path}: not a tokenizer.json: {error}") from error
        return Tokenizer(backend)

    def _special(self, token: str) -> int:
        special_id = self.backend.token_to_id(token)
        if special_id is None:
            raise ModelError(f"the tokenizer has no {token}: not of the XLM-RoBERTa family")
        return int(special_id)

    @property
    def vocabulary(self) -> int:
        """The number of ids, added tokens included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def weightless_ids(self) -> npt.NDArray[np.int64]:
        """Ids that never weigh in the sparse head: cls, eos, pad, unk (docs/method.md, heads)."""
        return np.array([self.cls_id, self.eos_id, self.pad_id, self.unk_id], dtype=np.int64)

    def contents(self, texts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        """Ids of each text without special tokens; lone surrogates become U+FFFD.

        Where limit is given, at most so many ids, and no more of a text is read than they need.
        """
        check_texts(texts)
        if limit is None:
            return self._ids(texts)
        ids = self._ids([text[: READ * limit] for text in texts])
        for row, text in enumerate(texts):
            size = READ * limit
            # the last few ids before a cut may not be those of the whole text
            while len(text) > size and len(ids[row]) < limit + MARGIN:
                size *= 4
                ids[row] = self._ids([text[:size]])[0]
            del ids[row][limit:]
        return ids

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            clean = [sanitise(text) for text in texts]
            encodings = self.backend.encode_batch_fast(clean, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def with_offsets(self, text: str) -> tuple[list[int], npt.NDArray[np.int64]]:
        """Ids of a text without special tokens, and the characters [start, end) of each, (T, 2)."""
        encoding = self.backend.encode(sanitise(text), add_special_tokens=False)
        return encoding.ids, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)

    def content_limit(self, max_length: int, mcls: int | None = None) -> int:
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
        limit = self.content_limit(max_length, mcls) + 1  # one more shows that there was more
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
        limit = self.content_limit(max_length, mcls)
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


def check_texts(texts: Sequence[str]) -> None:
    """Raises InputError naming the first that is no string."""
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {row} is a {type(text).__name__}, not a string")


def _blocks(texts: Sequence[str], longest: int) -> Iterator[Sequence[str]]:
    """The texts in blocks of bounded size: a token being made takes far more than a kept one."""
    first = size = 0
    for row, text in enumerate(texts):
        size += min(longest, len(text)) if isinstance(text, str) else 0
        if size > BLOCK:
            yield texts[first : row + 1]
            first, size = row + 1, 0
    if first < len(texts) or not texts:
        yield texts[first:]


def sanitise(text: str) -> str:
    """Replaces lone surrogates, which no tokenizer takes, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# sentencepiece.bpe.model: the few protobuf fields that matter. Field numbers are those of
# sentencepiece_model.proto; ids are fairseq's, which XLM-RoBERTa kept (<s> 0, <pad> 1, </s> 2,
# <unk> 3, then the subwords, <mask> last).
_PIECES, _TRAINER, _NORMALISER = 1, 2, 3  # ModelProto
_TEXT, _SCORE = 1, 2  # SentencePiece
_MODEL_TYPE, _UNIGRAM = 3, 1  # TrainerSpec
_CHARSMAP = 2  # NormalizerSpec
_SPM_SPECIALS = [UNK, CLS, EOS]  # what the subwords of an XLM-R model begin with
_SPECIALS = [CLS, PAD, EOS, UNK]


def read_sentencepiece(path: Path) -> Backend:
    """The tokenizer that tokenizer.json of the same model describes; raises ModelError."""
    try:
        subwords, charsmap = _parse(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    except (ValueError, IndexError, struct.error) as error:
        raise ModelError(f"{path}: not a whole SentencePiece model: {error}") from error
    if [text for text, _ in subwords[:3]] != _SPM_SPECIALS:
        raise ModelError(
            f"{path}: its subwords do not begin with {', '.join(_SPM_SPECIALS)}: not of the"
            " XLM-RoBERTa family"
        )
    vocab = [(text, 0.0) for text in _SPECIALS] + subwords[3:] + [(MASK, 0.0)]
    try:
        return unigram(vocab, [normalizers.Precompiled(charsmap)] if charsmap else [])
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{path}: not a usable SentencePiece model: {error}") from error


def unigram(
    vocab: Sequence[tuple[str, float]], mapped: Sequence[normalizers.Normalizer]
) -> Backend:
    """A tokenizer of the XLM-RoBERTa family from subwords with scores, and normalisers.

    The vocabulary begins with <s>, <pad>, </s> and <unk> and ends with <mask>.
    """
    backend = Backend(models.Unigram(list(vocab), unk_id=_SPECIALS.index(UNK)))
    backend.normalizer = normalizers.Sequence([*mapped, normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.decoder = decoders.Metaspace()
    backend.post_processor = TemplateProcessing(
        single=[CLS, "$A", EOS],
        pair=[CLS, "$A", EOS, EOS, "$B", EOS],
        special_tokens=[(CLS, 0), (EOS, 2)],
    )
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in _SPECIALS])
    backend.add_special_tokens([AddedToken(MASK, lstrip=True, normalized=False)])
    return backend


def _parse(data: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """Subwords with their scores, and the normaliser's compiled character map."""
    subwords: list[tuple[str, float]] = []
    charsmap = b""
    for field, value in _fields(data):
        if field not in (_PIECES, _TRAINER, _NORMALISER):
            continue
        inner = dict(_fields(_as_bytes(value)))
        if field == _PIECES:
            text = _as_bytes(inner.get(_TEXT, b"")).decode("utf-8")
            (score,) = struct.unpack("<f", _as_bytes(inner.get(_SCORE, bytes(4))))
            # seven digits name a float32; tokenizer.json has such decimals
            subwords.append((text, float(f"{score:.6g}")))
        elif field == _TRAINER and inner.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
            kind = inner[_MODEL_TYPE]
            raise ValueError(f"model type {kind!r}, only Unigram ({_UNIGRAM}) is read")
        elif field == _NORMALISER:
            charsmap = _as_bytes(inner.get(_CHARSMAP, b""))
    return subwords, charsmap


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message was expected")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one protobuf message: (number, integer or bytes)."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + size > len(data):
            raise ValueError(f"cut short at byte {len(data)}")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError(f"a number longer than 64 bits at byte {position}")
