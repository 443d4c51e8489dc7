"""Counts of pieces are those of whole texts, however these are cut, in blocks and in memory."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from tercet.tokenizer import Tokenizer
from tercet.train import counts
from tercet.train.counts import token_counts

WORDS = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
BOTH = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, WORDS]}
NMT = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Nmt"},
        {"type": "NFKC"},
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    ],
}
PLAIN = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Nmt"},
        {"type": "NFKC"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ],
}
Change = Callable[[dict[str, Any]], None]

# what stands beside spaces: their kin, marks, what joins or turns into spaces, special tokens
ALPHABET = "ab é  \n\t\r\u00a0\u3000\u200b\u200d\u0301\u0308´▁\ufffd\x1c\x00水ำ☃"
PARTS = st.sampled_from([*ALPHABET, "the river", "▁the", "<mask>", "</s>", " <s> ", "\ud800"])


def changed(tokenizer: Tokenizer, **parts: object) -> Tokenizer:
    content = json.loads(tokenizer.backend.to_str()) | parts
    return Tokenizer(Backend.from_str(json.dumps(content)))


def with_added(tokenizer: Tokenizer, text: str, **flags: bool) -> Tokenizer:
    content = json.loads(tokenizer.backend.to_str())
    token = content["added_tokens"][0] | {"id": tokenizer.vocabulary, "content": text}
    return changed(tokenizer, added_tokens=[*content["added_tokens"], token | flags])


def whole(tokenizer: Tokenizer, texts: list[str]) -> npt.NDArray[np.int64]:
    """Counts (B, V) of each text tokenised alone and whole."""
    size = tokenizer.vocabulary
    return np.array(
        [np.bincount(np.array(tokenizer.contents([t])[0], int), minlength=size) for t in texts]
    )


def found(tokenizer: Tokenizer, texts: list[str]) -> npt.NDArray[np.int64]:
    return np.concatenate([block.toarray() for block in token_counts(tokenizer, texts)])


def is_cut(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether less than a text was ever tokenised."""
    seen: list[str] = []
    ask = Tokenizer.contents

    def watched(self: Tokenizer, texts: list[str], **limit: int) -> list[list[int]]:
        seen.extend(texts)
        return ask(self, texts, **limit)

    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "contents", watched)
        for _ in token_counts(tokenizer, ["river stone river"]):
            pass
    assert ("river stone river" in seen) != ("river" in seen)
    return "river" in seen


@pytest.mark.parametrize("words", [BOTH, WORDS])
@pytest.mark.parametrize("normal", [None, PLAIN, NMT])
@given(texts=st.lists(st.lists(PARTS, max_size=9).map("".join), min_size=1, max_size=9))
@example(texts=["a \u0301b", "ab ", "a\n", "a  b", " a", "a ▁b", "a ▁", "a <s> b", "a\r\nb", " "])
@example(texts=["a \ufffd b", "a ´b", "a´ b", "\u200d a", "a\u00a0 b", "", "a <mask>", "水 ำ"])
@example(texts=["▁", "a ▁ b"])  # one is not cut; the other's part is not that
def test_counts_are_those_of_whole_texts(
    tokenizer: Tokenizer, texts: list[str], words: dict[str, Any], normal: dict[str, Any] | None
) -> None:
    parts = {"pre_tokenizer": words} | ({"normalizer": normal} if normal else {})
    other = changed(tokenizer, **parts)
    assert np.array_equal(found(other, texts), whole(other, texts))


def test_texts_are_cut_where_that_is_known_to_be_the_same(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for same in (
        tokenizer,
        changed(tokenizer, normalizer=PLAIN, pre_tokenizer=WORDS),
        changed(tokenizer, normalizer=NMT, pre_tokenizer=BOTH),
        with_added(tokenizer, "[QUERY]"),
    ):
        assert is_cut(same, monkeypatch)
    lower = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *PLAIN["normalizers"]]}
    for other in (
        changed(tokenizer, pre_tokenizer=WORDS),  # where no rule makes a space of a line's end
        changed(tokenizer, pre_tokenizer=WORDS | {"split": False}, normalizer=PLAIN),
        changed(tokenizer, pre_tokenizer=WORDS | {"prepend_scheme": "first"}, normalizer=PLAIN),
        changed(tokenizer, pre_tokenizer=None),
        changed(tokenizer, normalizer=None),
        changed(tokenizer, normalizer=lower),
        with_added(tokenizer, "river stone"),
        with_added(tokenizer, "[QUERY]", normalized=True),
    ):
        assert not is_cut(other, monkeypatch)
        texts = ["river  stone\nriver", "a river stone", " [QUERY] Haus"]
        assert np.array_equal(found(other, texts), whole(other, texts))


@pytest.mark.parametrize(
    ("name", "size"),
    [("BLOCK", 1), ("BLOCK", 3), ("CHARACTERS", 10), ("BATCH", 1), ("PARTS", 0), ("HELD", 5)],
)
def test_blocks_and_what_is_remembered_change_nothing(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, name: str, size: int
) -> None:
    texts = ["the river", "a river\u200b the", "", "the the the", "bread stone", "the river"] * 3
    monkeypatch.setattr(counts, "BLOCK", 4)
    monkeypatch.setattr(counts, name, size)
    blocks = list(token_counts(tokenizer, iter(texts)))
    assert len(blocks) > 1
    assert all(block.shape[1] == tokenizer.vocabulary for block in blocks)
    assert np.array_equal(np.concatenate([b.toarray() for b in blocks]), whole(tokenizer, texts))
    assert list(token_counts(tokenizer, [])) == []


def test_every_part_is_tokenised_once(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    ask = Tokenizer.contents

    def watched(self: Tokenizer, texts: list[str], **limit: int) -> list[list[int]]:
        seen.extend(texts)
        return ask(self, texts, **limit)

    monkeypatch.setattr(Tokenizer, "contents", watched)
    monkeypatch.setattr(counts, "BLOCK", 2)
    texts = ["the river\nand", "the  sea", "a \u0301", "and the sea", "a \u0301"]
    for _ in token_counts(tokenizer, texts):
        pass
    probes = ["a", "b", "a b", "a\nb"]
    assert seen[:4] == probes
    assert sorted(seen[4:]) == sorted(["", "the", "river", "and", "sea", "a", "a \u0301"])


def test_a_failure_among_the_texts_is_raised(tokenizer: Tokenizer) -> None:
    def texts():
        yield "the river"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(token_counts(tokenizer, texts()))
