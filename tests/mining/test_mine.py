"""Mining on planted cases: each is dropped for its own reason, and what is good is kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.errors import InputError, ModelError
from tercet.mining import MineConfig
from tercet.mining.miner import mine
from tercet.mining.selection import REASONS
from tercet.rows import write_rows
from tercet.scores import dense_scores
from tests.mining.conftest import Mine, WordEncoder

LONG = "river stone river " + " ".join(f"filler{n}" for n in range(40))
CHANGED = LONG.replace("stone river", "stone ocean", 1)  # one word of 43, and less like the query

QUERY = "river stone"
POSITIVE = "river stone fish"  # cosine 0.816 with the query
GOOD = "river bank boat"  # 0.408
TRANSLATION = "river ufer boot"
EASY = "law market"

# What the case is, the text, and the reason for which it must go.
PLANTED = [
    ("positive", POSITIVE),
    ("duplicate", "River  STONE\nfish"),
    ("group", TRANSLATION),
    ("limit", "stone river"),  # 1.0
    ("veto", "river vetoed boat"),
]


def planted_rows() -> list[dict[str, Any]]:
    """Row 0 is what the others are about."""
    return [
        {"query": QUERY, "pos": [POSITIVE], "neg": [text for _, text in PLANTED[1:]] + [GOOD]},
        {"query": "Fluss und Stein", "pos": [POSITIVE]},  # the same paragraph, asked in German
        {"query": "Fluss und Stein", "pos": [TRANSLATION]},  # and the paragraph in German
        {"query": "who judges", "pos": [EASY]},
    ]


def veto(pairs: list[tuple[str, str]]) -> list[float]:
    return [0.9 if "vetoed" in text else 1.0 if "fish" in text else 0.1 for _, text in pairs]


def example(report: Any, reason: str, text: str, row: int = 0) -> dict[str, Any]:
    found = [e for e in report.examples.get(reason, []) if e["row"] == row and e["text"] == text]
    assert len(found) == 1, (reason, text, report.examples)
    facts: dict[str, Any] = found[0]
    return facts


def test_what_must_not_be_a_negative_goes_for_its_reason(run: Mine) -> None:
    settings: dict[str, Any] = {"first": 1, "last": 6, "number": 6, "hardest": True}
    rows, report = run(planted_rows(), scorer=veto, margin=0.5, **settings)
    assert GOOD in rows[0]["neg"]
    for reason, text in PLANTED:
        assert example(report, reason, " ".join(text.split()))["query"] == QUERY
        assert text not in rows[0]["neg"]
    assert set(report.dropped) == set(REASONS)
    assert report.found == report.kept + sum(report.dropped.values())
    assert report.kept_by == {"dense": report.kept}
    shown = report.table()
    for reason, count in report.dropped.items():
        assert f"{count:,}  {reason}" in shown
    json.dumps(report.to_json(), allow_nan=False)


def test_a_near_duplicate_or_repeat_goes_and_a_text_half_the_same_stays(run: Mine) -> None:
    half = " ".join(LONG.split()[:20]) + " river " + " ".join(f"other{n}" for n in range(22))
    rows = [{"query": QUERY, "pos": [LONG], "neg": [CHANGED, half, EASY]}]
    mined, report = run(rows, first=1, last=4, number=4, limit=None)
    example(report, "near", " ".join(CHANGED.split())[:159] + "…")
    assert sorted(mined[0]["neg"]) == sorted([half, EASY])
    mined, report = run(rows, first=1, last=4, number=4, limit=None, near=1.0)
    assert CHANGED in mined[0]["neg"]
    rows = [{"query": QUERY, "pos": [POSITIVE], "neg": [GOOD, GOOD.upper(), "Boat"]}]
    mined, report = run(rows, first=1, last=4, number=4, hardest=True)
    assert mined[0]["neg"] == [GOOD, "Boat"]
    assert report.dropped["repeat"] == 1


def test_a_limit_is_of_the_lowest_positive_that_has_a_score(run: Mine) -> None:
    rows: list[dict[str, Any]] = [
        {"query": QUERY, "pos": [POSITIVE, "law"], "neg": [GOOD, "river river stone", "boat"]}
    ]
    mined, report = run(rows, first=1, last=5, number=5, limit=0.7)
    found = example(report, "limit", "river river stone")  # 0.949; the limit is 0.571
    assert found["source"] == "dense"
    assert found["score"] > 0.7 * found["positive_score"]
    assert sorted(mined[0]["neg"]) == sorted([GOOD, "boat"])
    rows[0]["pos"].append("river law market bridge")  # 0.354
    mined, _ = run(rows, first=1, last=6, number=6, limit=0.7)
    assert mined[0]["neg"] == ["boat"]


def test_a_head_that_sees_no_positive_finds_nothing_and_forbids_nothing(run: Mine) -> None:
    rows = [{"query": "Fluss stone", "pos": ["river fish"], "neg": ["stone law", "Fluss boot"]}]
    blind = "no negative is left of 2 candidates, nothing was written: 2 of them: found only"
    with pytest.raises(InputError, match=blind):
        run(rows, first=1, last=3, number=3, by=("sparse",))
    mined, _ = run(rows, first=1, last=3, number=3, by=("sparse",), limit=None)
    assert sorted(mined[0]["neg"]) == ["Fluss boot", "stone law"]


def test_a_heading_of_many_rows_joins_nothing(run: Mine) -> None:
    rows = [
        {"query": f"common river{n}", "pos": ["Examples", f"river{n} text{n % 7} common"]}
        for n in range(420)
    ]
    mined, report = run(rows, first=1, last=420, number=3, limit=None)
    assert report.dropped["group"] == 0
    assert report.none == 0
    assert mined[3]["neg"] != mined[4]["neg"]
    joined = [{**row, "group": 7} for row in rows]
    with pytest.raises(InputError, match="of a row that shares a text or a group id"):
        run(joined, first=1, last=420, number=3, limit=None)


@pytest.mark.parametrize(("language", "related"), [("en-de", True), ("en", False)])
def test_a_translation_of_what_is_related_is_no_negative(
    run: Mine, language: str, related: bool
) -> None:
    rows = [
        {"query": "river bank", "pos": ["river stone"]},
        {"query": "stone of rivers", "pos": ["river stone", "river boat"]},
        {"query": "river boat", "pos": ["river Boot"], "lang": language},
        {"query": "who judges", "pos": ["river law judge"]},
    ]
    mined, _ = run(rows, first=1, last=4, number=4, limit=None)
    assert ("river Boot" not in mined[0].get("neg", [])) == related


def test_a_veto_takes_the_next_and_scores_are_those_of_the_scorer(run: Mine) -> None:
    rows = [{"query": QUERY, "pos": [POSITIVE], "neg": ["river vetoed boat", GOOD]}]
    settings: dict[str, Any] = {"scores": True, "first": 1, "last": 3, "hardest": True}
    asked: list[tuple[str, str]] = []

    def judge(pairs: list[tuple[str, str]]) -> list[float]:
        asked.extend(pairs)
        return veto(pairs)

    mined, report = run(rows, scorer=judge, margin=0.5, number=1, **settings)
    assert mined[0]["neg"] == [GOOD]
    assert mined[0]["pos_scores"] == [1.0]
    assert mined[0]["neg_scores"] == [0.1]
    assert report.dropped["veto"] == 1
    assert asked == [(QUERY, POSITIVE), (QUERY, "river vetoed boat"), (QUERY, GOOD)]
    mined, _ = run(rows, scorer=veto, margin=None, number=2, **settings)
    assert mined[0]["neg_scores"] == [0.9, 0.1]


def test_old_negatives_are_replaced_or_kept_and_old_scores_leave(run: Mine) -> None:
    row = {"query": QUERY, "pos": [POSITIVE], "neg": [GOOD], "neg_scores": [3.0], "pos_scores": [9]}
    rows = [row, {"query": "who judges", "pos": ["law judge"]}, {"text": "raw", "lang": "en"}]
    mined, _ = run(rows, first=1, last=3, number=3)
    assert mined[0] == {"query": QUERY, "pos": [POSITIVE], "neg": mined[0]["neg"]}
    assert sorted(mined[0]["neg"]) == sorted([GOOD, "law judge"])
    assert mined[2] == rows[2]
    mined, report = run(rows, first=1, last=3, number=3, keep=True)
    assert mined[0]["neg"] == [GOOD, "law judge"]
    assert report.dropped["listed"] == 1
    mined, _ = run(rows, first=1, last=3, number=3, keep=True, scores=True, scorer=veto)
    assert mined[0]["neg_scores"] == [0.1, 0.1]


def some_rows(count: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Rows over few words, so that much is alike."""
    rng = np.random.default_rng(seed)
    words = [f"w{n}" for n in range(30)]
    return [
        {
            "query": " ".join([*rng.choice(words, 3), f"q{n}"]),
            "pos": [" ".join([*rng.choice(words, 8), f"q{n}", f"p{n}"])],
        }
        for n in range(count)
    ]


def test_the_seed_decides_the_draw_and_nothing_else_does(run: Mine, tmp_path: Path) -> None:
    rows = [*some_rows(30), {"text": "raw, lone \ud800"}, *some_rows(30, seed=1)]
    settings: dict[str, Any] = {"first": 1, "last": 40, "number": 5, "by": ("dense", "bm25")}
    first, report = run(rows, **settings)
    assert report.kept > 200
    assert run(rows, seed=1, **settings)[0] != first
    write_rows(tmp_path / "rows" / "a.jsonl.gz", rows[:20])
    write_rows(tmp_path / "rows" / "b.jsonl.gz", rows[20:])
    files = [tmp_path / "rows" / "a.jsonl.gz", str(tmp_path / "rows" / "b.jsonl.gz")]
    for same in (rows, [tmp_path / "rows"], files):
        assert run(same, **settings)[0] == first


def test_the_union_keeps_what_every_source_finds(run: Mine) -> None:
    rows = some_rows()
    settings: dict[str, Any] = {"first": 2, "last": 20, "number": 19, "limit": None}
    sources = ("dense", "sparse", "bm25")
    alone = [run(rows, by=(source,), **settings)[0] for source in sources]
    united, report = run(rows, by=sources, **{**settings, "number": 57})  # room for all
    assert all(report.kept_by.values())
    larger = 0
    for row, *found in zip(united, *alone, strict=True):
        sets = [set(part["neg"]) for part in found]
        assert set(row["neg"]) == set().union(*sets)
        larger += len(row["neg"]) > max(map(len, sets))
    assert larger > 50, "the sources find the same, so this proves nothing"


def test_ranks_bound_what_is_taken(run: Mine, encoder: WordEncoder) -> None:
    rows = some_rows(20)
    texts = [row["pos"][0] for row in rows]
    mined, _ = run(rows, first=3, last=6, number=4, limit=None, hardest=True)
    scores = dense_scores(encoder.encode([r["query"] for r in rows]), encoder.encode(texts))
    for n, row in enumerate(mined):
        ranked = np.lexsort((np.arange(20), -scores[n]))[2:6]
        assert row["neg"] == [texts[place] for place in ranked if place != n]


def test_a_corpus_replaces_the_rows_texts(run: Mine, tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    folder.mkdir()
    lines = [{"_id": "1", "title": "River", "text": "stone bank"}, {"_id": "2", "text": POSITIVE}]
    write_rows(folder / "corpus.jsonl.gz", lines)
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "not a passage"}\n')
    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "river"}\n{"text": " "}\n')
    rows = planted_rows()[:1]
    mined, report = run(rows, corpus=[folder, more], first=1, last=3, number=3, limit=None)
    assert report.texts == 3
    assert sorted(mined[0]["neg"]) == ["River\nstone bank", "river"]
    assert report.dropped["positive"] == 1
    without, _ = run(rows, corpus=[more, more], first=1, last=1, number=1)  # the positive is not in
    assert without[0]["neg"] == ["river"]
    more.write_text('{"title": "no text"}\n')
    with pytest.raises(InputError, match=r"more\.jsonl:1: .*'text'"):
        run(rows, corpus=[more])
    with pytest.raises(InputError):
        (folder / "corpus.jsonl.gz").unlink()
        run(rows, corpus=[folder])


def test_what_cannot_be_mined_is_told(run: Mine, tmp_path: Path) -> None:
    class Broken(WordEncoder):
        def encode(self, texts: Any, heads: Any = ("dense",)) -> Any:
            found = super().encode(texts, heads)
            assert found.dense is not None
            found.dense[0] = np.nan
            return found

    few: dict[str, Any] = {"first": 1, "last": 6, "number": 2}
    rows = planted_rows()
    (tmp_path / "bad.jsonl").write_text('{"query": "x", "pos": ["y"]}\n\n{"query": 1}\n')
    for wrong, settings, words in (
        ([{"text": "raw"}], few, "nothing to mine"),
        (rows, {}, "7 texts to choose from, fewer than the ranks 2-200"),
        ([rows[0], {"query": "x", "pos": []}], few, "row 2: 'pos' is empty"),
        ([tmp_path / "bad.jsonl"], few, r"bad\.jsonl:3: 'query'"),
        (str(tmp_path / "bad.jsonl"), few, "a list of files"),
        (rows, few | {"scores": True}, "give one"),
        (rows, few | {"scorer": lambda pairs: [1.0]}, "one number for each pair"),
    ):
        with pytest.raises(InputError, match=words):
            run(wrong, **settings)
    config, to = MineConfig(**few), tmp_path / "out.jsonl"
    with pytest.raises(InputError):
        mine(rows, WordEncoder(), to=tmp_path / "out.parquet")
    with pytest.raises(ModelError, match="not finite"):
        mine(rows, Broken(), to=to, config=config)
    for by, words in (("sparse", "no sparse head: take .* dense, bm25"), ("all", "but one head")):
        with pytest.raises(InputError, match=words):
            one_head = WordEncoder(("dense",))
            mine(rows, one_head, to=to, config=replace(config, by=(by,)))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"limit": 95}, "share of the positive's score"),
        ({"limits": {"bm25": 0.0}}, "bm25: the limit"),
        ({"by": ()}, "no source"),
        ({"by": ("dens",)}, "unknown source 'dens'"),
        ({"by": ("dense", "dense")}, "twice"),
        ({"first": 9, "last": 8}, "ranks run from 1"),
        ({"number": 399, "by": ("dense", "bm25")}, "between 1 and 398"),
        ({"near": 0}, "near is"),
        ({"margin": float("nan")}, "margin is"),
        ({"seed": -1}, "seed"),
        ({"query_tokens": 2}, "query_tokens"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        MineConfig(**settings)
