"""Reads a sentencepiece.bpe.model of the XLM-RoBERTa family as a `tokenizers.Tokenizer`.

A reader for the few protobuf fields that matter, so that the sentencepiece library is not needed.
Knows nothing of our Tokenizer. Field numbers: sentencepiece's sentencepiece_model.proto; ids:
fairseq's, which XLM-RoBERTa kept (<s> 0, <pad> 1, </s> 2, <unk> 3, then the pieces, <mask> last).
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from tercet.errors import ModelError

Field = tuple[int, int | bytes]

_PIECES, _TRAINER, _NORMALISER = 1, 2, 3  # ModelProto
_TEXT, _SCORE = 1, 2  # SentencePiece
_MODEL_TYPE, _UNIGRAM = 3, 1  # TrainerSpec
_CHARSMAP = 2  # NormalizerSpec
_SPM_SPECIALS = ["<unk>", "<s>", "</s>"]  # what the pieces of an XLM-R model begin with
_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
_MASK = "<mask>"


def read_sentencepiece(path: Path) -> Tokenizer:
    """The tokenizer that tokenizer.json of the same model describes; raises ModelError."""
    try:
        pieces, charsmap = _parse(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    except (ValueError, IndexError, struct.error) as error:
        raise ModelError(f"{path}: not a whole SentencePiece model: {error}") from error
    if [text for text, _ in pieces[:3]] != _SPM_SPECIALS:
        raise ModelError(
            f"{path}: its pieces do not begin with {', '.join(_SPM_SPECIALS)}: not of the"
            " XLM-RoBERTa family"
        )
    vocab = [(text, 0.0) for text in _SPECIALS] + pieces[3:] + [(_MASK, 0.0)]
    try:
        return unigram(vocab, [normalizers.Precompiled(charsmap)] if charsmap else [])
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{path}: not a usable SentencePiece model: {error}") from error


def unigram(
    vocab: Sequence[tuple[str, float]], mapped: Sequence[normalizers.Normalizer]
) -> Tokenizer:
    """A tokenizer of the XLM-RoBERTa family from pieces with scores and normalisers.

    The vocabulary begins with <s>, <pad>, </s> and <unk> and ends with <mask>.
    """
    backend = Tokenizer(models.Unigram(list(vocab), unk_id=_SPECIALS.index("<unk>")))
    backend.normalizer = normalizers.Sequence([*mapped, normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.decoder = decoders.Metaspace()
    backend.post_processor = TemplateProcessing(
        single=["<s>", "$A", "</s>"],
        pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"],
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in _SPECIALS])
    backend.add_special_tokens([AddedToken(_MASK, lstrip=True, normalized=False)])
    return backend


def _parse(data: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """Pieces with their scores, and the normaliser's compiled character map."""
    pieces: list[tuple[str, float]] = []
    charsmap = b""
    for number, value in _fields(data):
        if number == _PIECES:
            text, score = "", 0.0
            for inner, held in _fields(_as_bytes(value)):
                if inner == _TEXT:
                    text = _as_bytes(held).decode("utf-8")
                elif inner == _SCORE:
                    (single,) = struct.unpack("<f", _as_bytes(held))
                    # seven digits name a float32; tokenizer.json has such decimals
                    score = float(f"{single:.6g}")
            pieces.append((text, score))
        elif number == _TRAINER:
            for inner, held in _fields(_as_bytes(value)):
                if inner == _MODEL_TYPE and held != _UNIGRAM:
                    raise ValueError(f"model type {held!r}, only Unigram ({_UNIGRAM}) is read")
        elif number == _NORMALISER:
            for inner, held in _fields(_as_bytes(value)):
                if inner == _CHARSMAP:
                    charsmap = _as_bytes(held)
    return pieces, charsmap


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message was expected")
    return value


def _fields(data: bytes) -> Iterator[Field]:
    """The fields of one protobuf message: (number, integer or bytes)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"cut short at byte {len(data)}")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number longer than 64 bits at byte {at}")
