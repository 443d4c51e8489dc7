"""Texts to token ids: [CLS] and </s>, MCLS, truncation that is reported; files of tokenizers.

Wraps a `tokenizers.Tokenizer` of the XLM-RoBERTa family, read from tokenizer.json or from a
sentencepiece.bpe.model (without the sentencepiece library). Knows nothing of models or batches.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from tercet.config import MAX_LENGTH, check_count, strings
from tercet.errors import ModelError
from tercet.io import check_file
from tercet.sparse import packed_positions

CLS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"

READ = 8  # characters per token that are read at first of a text that may be cut
MARGIN = 64  # tokens by which what was read must go on behind a cut
SHARD_CHARACTERS = 1 << 20  # of the texts that are tokenised or encoded together, about


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
        shifts = np.cumsum([0, *(len(part.ids) for part in parts[:-1])])
        pairs = list(zip(parts, shifts, strict=True))
        return TokenBatch(
            ids=np.concatenate([part.ids for part in parts]),
            offsets=np.concatenate([[0], *(part.offsets[1:] + shift for part, shift in pairs)]),
            cls=np.concatenate([part.cls + shift for part, shift in pairs]),
            truncated=np.concatenate([part.truncated for part in parts]),
        )

    def take(self, rows: npt.NDArray[np.int64]) -> "TokenBatch":
        """These texts, in this order."""
        counts = self.lengths[rows]
        source = packed_positions(self.offsets[rows], counts)
        is_cls = np.zeros(len(self.ids), dtype=np.bool_)
        is_cls[self.cls] = True
        return TokenBatch(
            ids=self.ids[source],
            offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
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
        if isinstance(backend.model, models.Unigram):  # whose ids are places in a list
            last = backend.get_vocab_size(with_added_tokens=False) - 1
        else:
            last = max(backend.get_vocab(with_added_tokens=False).values(), default=-1)
        # the number of ids, added tokens included
        self.vocabulary = 1 + max([last, *backend.get_added_tokens_decoder()])

    @staticmethod
    def from_file(path: Path) -> "Tokenizer":
        """Reads a tokenizer.json or sentencepiece.bpe.model; raises ModelError if it is not one."""
        if path.suffix == ".model":
            return Tokenizer(read_sentencepiece(path))
        check_file(path, ModelError)
        with failures_in_words(f"{path}: not a tokenizer.json"):
            backend = Backend.from_str(path.read_text(encoding="utf-8"))
        return Tokenizer(backend)

    def _special(self, token: str) -> int:
        special_id = self.backend.token_to_id(token)
        if special_id is None:
            raise ModelError(f"the tokenizer has no {token}: not of the XLM-RoBERTa family")
        return int(special_id)

    @property
    def weightless_ids(self) -> npt.NDArray[np.int64]:
        """Ids that never weigh in the sparse head: cls, eos, pad, unk (docs/method.md, heads)."""
        return np.array([self.cls_id, self.eos_id, self.pad_id, self.unk_id], dtype=np.int64)

    def contents(self, texts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        """Ids of each text without special tokens; lone surrogates become U+FFFD.

        Where limit is given, at most so many ids, and no more of a text is read than they need.
        """
        texts = list(strings(texts))
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
        with failures_in_words("the tokenizer fails on a text"):
            try:
                encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
            except (TypeError, UnicodeEncodeError):
                clean = [sanitise(text) for text in texts]
                encodings = self.backend.encode_batch_fast(clean, add_special_tokens=False)
            return [encoding.ids for encoding in encodings]

    def with_offsets(self, text: str) -> tuple[list[int], npt.NDArray[np.int64]]:
        """Ids of a text without special tokens, and the characters [start, end) of each, (T, 2)."""
        with failures_in_words("the tokenizer fails on a text"):
            encoding = self.backend.encode(sanitise(text), add_special_tokens=False)
        return encoding.ids, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)

    def content_limit(self, max_length: int, mcls: int | None = None) -> int:
        """How many ids of content fit in max_length tokens; raises InputError on a bad length."""
        max_length = check_count("max_length, [CLS] and </s> included,", max_length, 3)
        if mcls is None:
            return max_length - 2
        mcls = check_count("mcls, the number of tokens per [CLS],", mcls)
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
        if not texts:
            return TokenBatch.of([])
        # in shards: a token being made takes far more memory than one that is stored
        shards = [
            self.frame(self.contents(shard, limit=limit), max_length=max_length, mcls=mcls)
            for shard in text_shards(texts, len(texts), limit)
        ]
        return shards[0] if len(shards) == 1 else TokenBatch.join(shards)

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


@contextmanager
def failures_in_words(what: str) -> Iterator[None]:
    """Turns whatever the library raises into a ModelError: bare Exceptions, and panics of Rust."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{what}: {str(error).strip()[:200]}") from error


def text_shards(
    texts: Iterable[str], size: int, limit: int, *, characters: int = SHARD_CHARACTERS
) -> Iterator[list[str]]:
    """Texts encoded together: at most `size`, or so many characters (of `limit` tokens a text)."""
    shard: list[str] = []
    used = 0
    for text in strings(texts):
        shard.append(text)
        used += min(READ * limit, len(text))
        if len(shard) == size or used >= characters:
            yield shard
            shard, used = [], 0
    if shard:
        yield shard


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
    check_file(path, ModelError)
    with failures_in_words(f"{path}: not a whole SentencePiece model of the XLM-RoBERTa family"):
        subwords, charsmap = _parse(path.read_bytes())
        if [text for text, _ in subwords[:3]] != _SPM_SPECIALS:
            raise ValueError(f"its subwords do not begin with {', '.join(_SPM_SPECIALS)}")
        vocab = [(text, 0.0) for text in _SPECIALS] + subwords[3:] + [(MASK, 0.0)]
        return unigram(vocab, [normalizers.Precompiled(charsmap)] if charsmap else [])


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
    backend.post_processor = framing(_SPECIALS.index(CLS), _SPECIALS.index(EOS))
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in _SPECIALS])
    backend.add_special_tokens([AddedToken(MASK, lstrip=True, normalized=False)])
    return backend


def framing(cls_id: int, eos_id: int) -> TemplateProcessing:
    """[CLS] text </s>, for those who tokenise with tokenizer.json itself."""
    return TemplateProcessing(
        single=[CLS, "$A", EOS],
        pair=[CLS, "$A", EOS, EOS, "$B", EOS],
        special_tokens=[(CLS, cls_id), (EOS, eos_id)],
    )


def _parse(data: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """Subwords with their scores, and the normaliser's compiled character map."""
    subwords: list[tuple[str, float]] = []
    charsmap = b""
    for field, value in _fields(data):
        if field not in (_PIECES, _TRAINER, _NORMALISER):
            continue
        inner = dict(_fields(value))
        if field == _PIECES:
            (score,) = struct.unpack("<f", inner.get(_SCORE, bytes(4)))
            # seven digits name a float32; tokenizer.json has such decimals
            subwords.append((inner.get(_TEXT, b"").decode("utf-8"), float(f"{score:.6g}")))
        elif field == _TRAINER and inner.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
            raise ValueError(f"model type {inner[_MODEL_TYPE]!r}, only Unigram ({_UNIGRAM})")
        elif field == _NORMALISER:
            charsmap = inner.get(_CHARSMAP, b"")
    return subwords, charsmap


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of one protobuf message: (number, integer or bytes)."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        field, wire = key >> 3, key & 7
        if wire in (0, 2):
            value, position = _varint(data, position)
            if wire == 0:
                yield field, value
                continue
        elif wire in (1, 5):
            value = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + value > len(data):
            raise ValueError(f"cut short at byte {len(data)}")
        yield field, data[position : position + value]
        position += value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError(f"a number longer than 64 bits at byte {position}")
