"""Tokens: framing, MCLS, cuts that are reported and never change what stands before them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import InputError, ModelError
from tercet.tokenizer import TokenBatch, Tokenizer

TEXTS = ["the river", "", "la ciudad de agua " * 9, "水山河", "<s> </s> <mask> <pad>"]


def rows(batch: TokenBatch) -> list[list[int]]:
    return [part.tolist() for part in np.split(batch.ids, batch.offsets[1:-1])]


def test_frames_are_what_the_post_processor_makes(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode(TEXTS)
    for row, text in zip(rows(batch), TEXTS, strict=True):
        content = tokenizer.backend.encode(text, add_special_tokens=False).ids
        assert row == [tokenizer.cls_id, *content, tokenizer.eos_id]
    assert batch.cls.tolist() == batch.offsets[:-1].tolist()
    assert batch.lengths.sum() == len(batch.ids)
    assert not batch.truncated.any()
    assert len(batch) == len(TEXTS)


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
    order = np.array([3, 0, 4, 2, 1])
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


def test_weightless_ids(tokenizer: Tokenizer) -> None:
    names = [str(tokenizer.backend.id_to_token(int(n))) for n in tokenizer.weightless_ids]
    assert sorted(names) == ["</s>", "<pad>", "<s>", "<unk>"]


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ModelError, match="not a tokenizer"):
        Tokenizer.from_file(path)
    path.write_text('{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}')
    with pytest.raises(ModelError, match="has no <s>"):
        Tokenizer.from_file(path)
    path.write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.from_file(path)
