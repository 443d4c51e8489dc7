"""The store of texts, and how alike two texts are."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tercet.mining.texts import TextStore, jaccard, shingles
from tercet.split import text_key


def test_texts_come_back_by_place_each_once(tmp_path: Path) -> None:
    store = TextStore(tmp_path / "texts")
    texts = ["a", "", "Ärger\n水", "lone \ud800", "A", "a"]
    assert [store.add(text) for text in texts] == [0, 1, 2, 3, 4, 0]
    assert list(store) == texts[:5]
    assert store.add("later") == 5
    assert store[5] == "later"
    assert list(store.keys) == [text_key(store[place]) for place in range(6)]
    assert list(store.sizes) == [len(shingles(store[place])) for place in range(6)]
    store.close()
    again = TextStore(tmp_path / "queries", unique=False)
    assert [again.add(text) for text in texts] == list(range(6))
    assert list(again) == texts
    again.close()


@given(st.text(), st.text())
def test_likeness_is_symmetric_and_at_most_the_ratio_of_sizes(left: str, right: str) -> None:
    a, b = shingles(left), shingles(right)
    found = jaccard(a, b)
    assert found == jaccard(b, a)
    assert found <= min(len(a), len(b)) / max(len(a), len(b))
    assert jaccard(a, shingles(f"  {left}\n ")) == 1.0


def test_likeness_in_every_script() -> None:
    long = " ".join(f"word{n}" for n in range(100))
    assert jaccard(shingles(long), shingles(long.replace("word50", "other"))) > 0.95
    assert jaccard(shingles(long), shingles(long[: len(long) // 2])) < 0.6
    assert (
        jaccard(shingles("東京タワーは1958年に建てられた"), shingles("大阪城は1583年に建てられた"))
        < 0.6
    )
    assert jaccard(shingles("chapter 1"), shingles("chapter 2")) < 0.9
    assert jaccard(shingles("ab"), shingles("AB")) == 1.0
    assert jaccard(shingles("ab"), shingles("abc")) == 0.0
