"""Tokens: framing, MCLS, cuts that are reported, tokenizers read from SentencePiece models."""

import base64
import io
import json
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tercet.errors import InputError, ModelError
from tercet.layout import read_tokenizer
from tercet.tokenizer import TokenBatch, Tokenizer, read_sentencepiece

TEXTS = [
    "the river",
    "",
    "la ciudad de agua " * 9,
    "水山河光史語 世界",
    "<s> literal </s> <mask> <pad> <unk>",
    "  two   spaces \t and\ttabs\n",
    "Straße, ÀÉÎ; café! ☃ unknown \U0001f600",
]


def rows(batch: TokenBatch) -> list[list[int]]:
    return [part.tolist() for part in np.split(batch.ids, batch.offsets[1:-1])]


def test_frames_are_what_the_post_processor_makes(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode(TEXTS)
    assert rows(batch) == [tokenizer.backend.encode(text).ids for text in TEXTS]
    assert batch.cls.tolist() == batch.offsets[:-1].tolist()
    assert batch.lengths.sum() == len(batch.ids)
    assert not batch.truncated.any()
    assert len(batch) == len(TEXTS)
    names = {str(tokenizer.backend.id_to_token(int(n))) for n in tokenizer.weightless_ids}
    assert names == {"</s>", "<pad>", "<s>", "<unk>"}


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    max_length=st.integers(3, 30),
    mcls=st.none() | st.integers(1, 12),
)
@settings(max_examples=200, deadline=None)
def test_frames_keep_content_and_count_every_token(
    tokenizer: Tokenizer, sizes: list[int], max_length: int, mcls: int | None
) -> None:
    contents = [list(range(10, 10 + size)) for size in sizes]
    batch = tokenizer.frame(contents, max_length=max_length, mcls=mcls)
    is_cls = np.zeros(len(batch.ids), dtype=bool)
    is_cls[batch.cls] = True
    assert (batch.ids[is_cls] == tokenizer.cls_id).all()
    assert (batch.lengths <= max_length).all()
    for number, content in enumerate(contents):
        some = slice(batch.offsets[number], batch.offsets[number + 1])
        ids, marks = batch.ids[some], is_cls[some]
        assert marks[0]
        assert ids[-1] == tokenizer.eos_id
        kept = ids[:-1][~marks[:-1]].tolist()
        assert kept == content[: len(kept)]
        assert batch.truncated[number] == (len(kept) < len(content))
        runs = np.diff([*np.flatnonzero(marks), len(ids) - 1]) - 1  # content behind each [CLS]
        assert (runs[:-1] == (mcls or 0)).all()
        assert len(runs) == (1 if mcls is None else max(1, -(-len(kept) // mcls)))
        if batch.truncated[number]:  # no more would have fitted
            more = len(kept) + 1
            assert more + 1 + (1 if mcls is None else -(-more // mcls)) > max_length


@given(st.text(alphabet="abc the水山 \n\u3000é", max_size=300), st.integers(3, 40))
@example(" " * 300 + "the river", 3)
@settings(max_examples=100, deadline=None)
def test_reading_no_more_than_needed_changes_nothing(
    tokenizer: Tokenizer, text: str, limit: int
) -> None:
    (whole,) = tokenizer.contents([text * 30])
    (some,) = tokenizer.contents([text * 30], limit=limit)
    assert some == whole[:limit]


def test_join_and_take(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode(TEXTS, max_length=8, mcls=2)
    assert batch.truncated.any()
    halves = [tokenizer.encode(part, max_length=8, mcls=2) for part in (TEXTS[:2], TEXTS[2:])]
    joined = TokenBatch.join(halves)
    for name in ("ids", "offsets", "cls", "truncated"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(batch, name))
    order = np.array([3, 0, 6, 4, 2, 1, 5])
    taken = batch.take(order)
    assert rows(taken) == [rows(batch)[n] for n in order]
    assert (taken.ids[taken.cls] == tokenizer.cls_id).all()
    assert len(taken.cls) == len(batch.cls)
    np.testing.assert_array_equal(taken.truncated, batch.truncated[order])
    back = taken.take(np.argsort(order))
    np.testing.assert_array_equal(back.ids, batch.ids)


def test_surrogates_become_the_replacement_character(tokenizer: Tokenizer) -> None:
    bad, good = tokenizer.contents(["the \ud800 river \udfff", "the \ufffd river \ufffd"])
    assert bad == good


def test_places_are_characters_of_the_text(tokenizer: Tokenizer) -> None:
    text = "the 水山 river"
    ids, places = tokenizer.with_offsets(text)
    assert ids == tokenizer.contents([text])[0]
    for token, (start, end) in zip(ids, places.tolist(), strict=True):
        piece = str(tokenizer.backend.id_to_token(token))
        # a lone space mark stands where the character behind it stands
        assert piece == "▁" or text[start:end] == piece.replace("▁", "")
    assert (np.diff(places, axis=0) >= 0).all()
    assert tokenizer.with_offsets("")[1].shape == (0, 2)


@pytest.mark.parametrize(("texts", "words"), [([3], "text 0 is a int"), (["a", None], "text 1")])
def test_texts_that_are_none(tokenizer: Tokenizer, texts: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tokenizer.encode(texts)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ModelError):
        Tokenizer.from_file(path)
    path.write_text('{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}')
    with pytest.raises(ModelError, match="has no <s>"):
        Tokenizer.from_file(path)
    for content in ("", "{", "[" * 10**5, "null", "\0" * 9):
        path.write_text(content)
        with pytest.raises(ModelError, match=r"tokenizer\.json: not a tokenizer"):
            Tokenizer.from_file(path)


CHARSMAPS = [b"abc", b"\xff\xff\xff\x7f" + bytes(100), b"\x10\0\0\0" + b"\xff" * 16 + b"abc\0"]


@pytest.mark.parametrize("charsmap", [*CHARSMAPS, bytes(range(256)) * 4])
def test_panics_become_sentences(tokenizer: Tokenizer, tmp_path: Path, charsmap: bytes) -> None:
    content = json.loads(tokenizer.backend.to_str())
    packed = base64.b64encode(charsmap).decode()
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": packed}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with suppress(ModelError):  # some maps are only never used
        read = Tokenizer.from_file(path)
        read.encode(["the river", "ciudad \u212b"])
        read.with_offsets("the river \u212b")


def test_a_tokenizer_that_fails_on_a_text_says_so(tokenizer: Tokenizer, tmp_path: Path) -> None:
    content = json.loads(tokenizer.backend.to_str())
    content["model"]["unk_id"] = None
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    read = Tokenizer.from_file(path)
    for call in (read.encode, read.contents, lambda texts: read.with_offsets(texts[0])):
        with pytest.raises(ModelError, match="the tokenizer fails on a text"):
            call(["\u2603"])


@pytest.mark.parametrize("kind", ["Unigram", "WordLevel"])
def test_the_vocabulary_ends_with_the_largest_id(
    tokenizer: Tokenizer, tmp_path: Path, kind: str
) -> None:
    content = json.loads(tokenizer.backend.to_str())
    assert tokenizer.vocabulary == tokenizer.backend.get_vocab_size()
    if kind == "Unigram":
        content["added_tokens"].append({**content["added_tokens"][0], "id": 10**6, "content": "b"})
    else:
        words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "b": 10**6}
        content |= {"model": {"type": kind, "vocab": words, "unk_token": "<unk>"}}
        content["added_tokens"] = []
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    read = Tokenizer.from_file(path)
    assert read.vocabulary > max(read.contents(["b"])[0])


# SentencePiece models


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
    vocab = json.loads(tokenizer.backend.to_str())["model"]["vocab"]
    subwords = [(text, score) for text, score in vocab[4:-1]]
    return [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *subwords]


def test_ids_are_those_of_the_tokenizer(
    tmp_path: Path, pieces: list[tuple[str, float]], tokenizer: Tokenizer
) -> None:
    path = tmp_path / "sentencepiece.bpe.model"
    path.write_bytes(spm(pieces))
    read = Tokenizer(read_sentencepiece(path))
    assert read.vocabulary == tokenizer.vocabulary
    assert (read.cls_id, read.pad_id, read.eos_id, read.unk_id) == (0, 1, 2, 3)
    assert read.backend.token_to_id("<mask>") == read.vocabulary - 1
    assert rows(read.encode(TEXTS)) == rows(tokenizer.encode(TEXTS))
    assert read.backend.encode("the").ids == tokenizer.backend.encode("the").ids
    assert read.backend.decode(read.contents(TEXTS[:1])[0]) == TEXTS[0]
    of_folder, file = read_tokenizer(tmp_path)
    assert (of_folder.vocabulary, file) == (read.vocabulary, path)


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
    ours = read_sentencepiece(path)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for text in [*TEXTS[:4], "the café and the river"]:
        got = ours.encode(text, add_special_tokens=False).ids
        assert got == [n + 1 for n in theirs.encode(text)]  # the offset that fairseq introduced
    assert max(len(theirs.encode(text)) for text in TEXTS) > 5


def test_files_that_are_no_such_model(tmp_path: Path, pieces: list[tuple[str, float]]) -> None:
    path = tmp_path / "sentencepiece.bpe.model"
    with pytest.raises(ModelError):
        read_sentencepiece(path)
    whole = spm(pieces)
    for data, words in (
        (whole[:-3], "cut short"),
        (b"\xff" * 40, "longer than 64 bits"),
        (b"{}", "wire type"),
        (spm(pieces[3:]), "do not begin with <unk>"),
        (spm(pieces, model_type=2), "model type 2"),
    ):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=rf"bpe\.model: .*{words}"):
            read_sentencepiece(path)
