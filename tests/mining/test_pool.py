"""The store of texts, and the runs of characters by which two texts are alike."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tercet.curate.near_duplicates import jaccard
from tercet.mining.pool import TextStore, shingles
from tercet.split import text_key


def test_texts_come_back_by_place_each_once(tmp_path: Path) -> None:
    store = TextStore(tmp_path / "texts")
    texts = ["a", "", "Ärger\n水", "lone \ud800", "A", "a"]
    assert [store.add(text) for text in texts] == [0, 1, 2, 3, 4, 0]
    assert list(store) == texts[:5]
    assert store.add("later") == 5
    assert store[5] == "later"
    assert list(store.keys) == [text_key(text) for text in store]
    assert list(store.sizes) == [len(shingles(text)) for text in store]
    store.close()
    again = TextStore(tmp_path / "queries", unique=False)
    assert [again.add(text) for text in texts] == list(range(6))
    assert list(again) == texts
    again.close()


@given(st.text(), st.text())
def test_likeness_is_at_most_the_ratio_of_sizes(left: str, right: str) -> None:
    a, b = shingles(left), shingles(right)
    assert jaccard(a, b) == jaccard(b, a) <= min(len(a), len(b)) / max(len(a), len(b))
    assert jaccard(a, shingles(f"  {left}\n ")) == 1.0


def test_likeness_is_of_runs_of_five_characters() -> None:
    left = " ".join(f"word{n}" for n in range(100))
    right = left.replace("word50", "other")
    one, two = ({text[at : at + 5] for at in range(len(text) - 4)} for text in (left, right))
    assert jaccard(shingles(left), shingles(right)) == len(one & two) / len(one | two)
    assert jaccard(shingles("東京タワーは高い"), shingles("大阪タワーは高い")) == 1 / 3
    assert jaccard(shingles("ab"), shingles("AB")) == 1.0
    assert jaccard(shingles("ab"), shingles("abc")) == 0.0
