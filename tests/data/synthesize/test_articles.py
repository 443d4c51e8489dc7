"""Which articles and paragraphs are picked."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.data.synthesize.articles import Article, Picking, articles, tokens_of
from tercet.errors import InputError

SENTENCE = "The mill of {} was built of grey stone by the river in the year {}. "


def article(name: str, paragraphs: int = 12) -> str:
    """About 100 tokens a paragraph, every one its own."""
    return "\n\n".join(
        "".join(SENTENCE.format(name, 1000 + 10 * n + at) for at in range(6)).strip()
        for n in range(paragraphs)
    )


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pick(path: Path, **options: Any) -> tuple[list[Article], Counter[str]]:
    left_out: Counter[str] = Counter()
    options = {"shortest": 300, **options}
    return list(articles([path], Picking(**options), left_out)), left_out


def test_both_kinds_of_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": article("A"), "title": "Mills", "lang": "en", "source": "wiki"},
        {"query": "q", "pos": [article("B"), article("C")], "lang": "de-en"},
        {"query": "q", "pos": [article("D")], "lang": "zh-Hant"},
    ]
    found, left_out = pick(write(tmp_path / "some.jsonl", rows))
    assert [one.number for one in found] == [0, 1, 2, 3]
    assert found[0].text == f"Mills\n{article('A')}"
    assert [one.title for one in found] == ["Mills", "", "", ""]
    assert [one.lang for one in found] == ["en", "", "", "zh-Hant"]
    assert [one.source for one in found] == ["wiki", "some", "some", "some"]
    assert not left_out


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = [
        {"text": "short"},
        {"text": article("A")},
        {"text": f"  {article('A').upper()}\n"},
        {"text": "1 + 1 = 2; " * 500},
    ]
    found, left_out = pick(write(tmp_path / "some.jsonl", rows))
    assert len(found) == 1
    assert left_out == {"too short": 1, "seen before": 1, "no paragraph of prose": 1}


def test_a_paragraph_depends_on_seed_and_article_alone(tmp_path: Path) -> None:
    rows = [{"text": article(name)} for name in "ABCDEF"]
    forth, _ = pick(write(tmp_path / "forth.jsonl", rows), seed=3)
    back, _ = pick(write(tmp_path / "back.jsonl", rows[::-1]), seed=3)
    assert {one.text: one.paragraph for one in forth} == {one.text: one.paragraph for one in back}
    other, _ = pick(tmp_path / "forth.jsonl", seed=4)
    assert [one.paragraph for one in forth] != [one.paragraph for one in other]


def test_every_paragraph_has_its_chance(tmp_path: Path) -> None:
    path = write(tmp_path / "some.jsonl", [{"text": article("A", 4) + "\n\nThe end."}])
    found = {pick(path, seed=seed)[0][0].paragraph for seed in range(60)}
    assert found == set(article("A", 4).split("\n\n"))


def test_paragraphs_are_of_the_size_asked_for_and_within_reach(tmp_path: Path) -> None:
    text = f"# Head\n\nOne.\n\n{article('A', 8)}"
    path = write(tmp_path / "some.jsonl", [{"text": text}])
    for seed in range(20):
        ((one,), _) = pick(path, seed=seed, reach=300, paragraph=(150, 250))
        assert 150 <= tokens_of(one.paragraph) <= 250
        assert text.find(one.paragraph) >= 0
        assert tokens_of(text[: text.find(one.paragraph) + len(one.paragraph)]) <= 300


def test_the_limit_takes_the_first(tmp_path: Path) -> None:
    path = write(tmp_path / "some.jsonl", [{"text": article(name)} for name in "ABCDEF"])
    assert pick(path, limit=2)[0] == pick(path)[0][:2]


@pytest.mark.parametrize(
    ("row", "words"),
    [({"query": "q"}, "'pos' is missing"), ({"text": "a", "title": 3}, "'title' must be a string")],
)
def test_bad_rows_are_named(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "some.jsonl", [{"text": article("A")}, row])
    with pytest.raises(InputError, match=rf"some\.jsonl:2: {words}"):
        pick(path)


@pytest.mark.parametrize(
    "options", [{"paragraph": (9, 9)}, {"reach": 100}, {"reach": 1 << 20}, {"limit": 0}], ids=str
)
def test_values_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Picking(**options)


@given(st.text(), st.text())
def test_tokens_add_up(left: str, right: str) -> None:
    both, apart = tokens_of(left + right), tokens_of(left) + tokens_of(right)
    assert both <= apart <= both + 1
