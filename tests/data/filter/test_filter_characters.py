"""Texts in blocks are as each would be alone; what is bared keeps words and nothing else."""

import unicodedata

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.curate.quality import (
    DENSE,
    Bare,
    Counts,
    as_text,
    code_points,
    fold,
    kinds,
    letters_alone,
    spread,
)

TEXT = st.text(st.sampled_from("aB é!.-'’ \t\n\0水木กข가あ1߁ﬁ\ud800�\x07ä̈"), max_size=12)


@settings(deadline=None)  # the first call makes the table of characters
@given(st.lists(TEXT, max_size=6))
def test_neighbours_change_nothing(texts: list[str]) -> None:
    bare = Bare.of(texts)
    assert len(bare) == len(texts)
    assert [as_text(bare.text(n)) for n in range(len(texts))] == [letters_alone(t) for t in texts]
    counts = Counts.of(texts)
    for number, text in enumerate(texts):
        alone = Counts.of([text])
        for name in ("solid", "letters", "broken"):
            assert getattr(counts, name)[number] == getattr(alone, name)[0]


@settings(deadline=None)  # the first call makes the table of characters
@given(TEXT)
def test_what_is_bared_is_bare(text: str) -> None:
    bare = letters_alone(text)
    assert bare == bare.strip()
    assert "  " not in bare
    letters = [c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalpha()]
    assert [c for c in bare if c.isalpha()] == letters


def test_words_are_parted_and_not_torn() -> None:
    assert letters_alone("Don’t say: it's  «over» (C-4)!") == "dont say its over c 4"
    assert letters_alone("你好， 世界！ Tercet 试试") == "你好世界 tercet 试试"
    assert letters_alone("हिन्दी में") == "हिन्दी में"  # marks are parts of letters
    assert letters_alone("ß ﬁ Ⅻ") == "ss fi xii"
    assert letters_alone("?!… --") == ""
    assert letters_alone("C++ (or C#), 5 < 6?", symbols=True) == "c++ or c# 5 < 6"


def test_counts_are_of_characters() -> None:
    counts = Counts.of(["a b1\t", "\x07�\n", "éก็", ""])
    assert counts.solid.tolist() == [3, 2, 3, 0]
    assert counts.letters.tolist() == [2, 0, 3, 0]
    assert counts.broken.tolist() == [0, 2, 0, 0]


def test_dense_characters_count_for_more() -> None:
    assert spread(code_points("abc")) == 3
    assert spread(code_points("水木")) == 6
    dense = [chr(c) for c in np.flatnonzero(kinds() & DENSE)]
    assert all(c in dense for c in "漢かカกขကខ")
    assert not any(c in dense for c in "a가йע1")


def test_folding_keeps_punctuation() -> None:
    assert fold("  What is\nC＋＋ ?") == "what is c++ ?"
    assert fold("What is C#?") != fold("What is C?")


def test_turkish_capitals_are_the_same_letters() -> None:
    assert (
        letters_alone("KIRILDI İKİ") == letters_alone("kırıldı iki") == letters_alone("KIRILDI IKI")
    )
