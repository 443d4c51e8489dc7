"""sentencepiece.bpe.model alone gives the ids that tokenizer.json gives."""

import io
import shutil
import struct
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from tercet.checkpoint import read_checkpoint
from tercet.errors import ModelError
from tercet.tokenizer import Tokenizer, read_sentencepiece

TEXTS = [
    "the river and the mountain",
    "  two   spaces \t and\ttabs\n",
    "",
    "Straße, ÀÉÎ; café!",
    "水山河光史語 世界",
    "<s> literal </s> <mask> <pad> <unk>",
    "☃ unknown \U0001f600",
]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def spm(pieces: list[tuple[str, float]], model_type: int = 1) -> bytes:
    """A SentencePiece model file, written from the published field numbers."""
    out = b""
    for text, score in pieces:
        inner = field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
        out += field(1, inner + varint(3 << 3) + varint(1))
    trainer = varint(3 << 3) + varint(model_type) + field(1, b"ignored")
    return out + field(2, trainer) + field(3, field(1, b"identity"))


@pytest.fixture(scope="module")
def pieces(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    import json

    vocab = json.loads(tokenizer.backend.to_str())["model"]["vocab"]
    kept = [(text, score) for text, score in vocab[4:-1]]
    return [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *kept]


def test_ids_are_those_of_the_tokenizer(
    tmp_path: Path, pieces: list[tuple[str, float]], tokenizer: Tokenizer
) -> None:
    path = tmp_path / "sentencepiece.bpe.model"
    path.write_bytes(spm(pieces))
    read = Tokenizer(read_sentencepiece(path))
    assert read.vocabulary == tokenizer.vocabulary
    assert (read.cls_id, read.pad_id, read.eos_id, read.unk_id) == (0, 1, 2, 3)
    assert read.backend.token_to_id("<mask>") == read.vocabulary - 1
    assert read.contents(TEXTS) == tokenizer.contents(TEXTS)
    assert read.backend.encode("the").ids == [0, *tokenizer.contents(["the"])[0], 2]
    assert read.backend.decode(read.contents(TEXTS[:1])[0]) == TEXTS[0]


def test_ids_are_those_of_sentencepiece_itself(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in TEXTS if text] * 20),
        model_writer=model,
        vocab_size=90,
        model_type="unigram",
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    path = tmp_path / "sentencepiece.bpe.model"
    path.write_bytes(model.getvalue())
    ours: Backend = read_sentencepiece(path)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for text in [*TEXTS[:5], "the café and the river"]:
        got = ours.encode(text, add_special_tokens=False).ids
        assert got == [n + 1 for n in theirs.encode(text)]  # the offset that fairseq introduced
    assert max(len(theirs.encode(text)) for text in TEXTS) > 5


def test_a_checkpoint_with_pieces_alone(
    tiny_checkpoint: Path, tmp_path: Path, pieces: list[tuple[str, float]], tokenizer: Tokenizer
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    (folder / "tokenizer.json").unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(spm(pieces))
    assert read_checkpoint(folder).tokenizer.contents(TEXTS) == tokenizer.contents(TEXTS)


def test_files_that_are_no_such_model(tmp_path: Path, pieces: list[tuple[str, float]]) -> None:
    path = tmp_path / "sentencepiece.bpe.model"
    with pytest.raises(ModelError, match="cannot be read"):
        read_sentencepiece(path)
    whole = spm(pieces)
    for data, words in (
        (whole[:-3], "not a whole SentencePiece model"),
        (b"\xff" * 40, "not a whole SentencePiece model"),
        (b"{}", "not a whole SentencePiece model|do not begin"),
        (b"", "do not begin with <unk>"),
        (spm(pieces[3:]), "do not begin with <unk>"),
        (spm(pieces, model_type=2), "model type 2"),
    ):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=words):
            read_sentencepiece(path)
