"""What evaluation sets hold, and that shared stretches are found wherever they lie, no others."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tercet.curate.decontamination import (
    BLOCK,
    SAME,
    EvaluationText,
    MinOverlap,
    Overlap,
    OverlapIndex,
    Passages,
    evaluation_files,
    read_evaluation,
)
from tercet.curate.quality import code_points, count_letters, normalize
from tercet.errors import InputError

QUERY = "how many points did the panthers defense surrender in that season and who led the league"
PASSAGE = (
    "The Panthers defense gave up just 308 points, ranking sixth in the league, while also leading "
    "the NFL in interceptions with 24 and boasting four Pro Bowl selections."
)
CHINESE = (
    "教育的目的在于充分发展人的个性并加强对人权和基本自由的尊重，"
    "教育应促进各国各种族之间的了解容忍和友谊，并应促进联合国维护和平的各项活动。"
)


def index(folder: Path, texts: Sequence[str], least: MinOverlap | None = None) -> OverlapIndex:
    folder.mkdir(parents=True, exist_ok=True)
    found = [EvaluationText(text, "set", "set/q.jsonl", n) for n, text in enumerate(texts, 1)]
    OverlapIndex.build(found, least or MinOverlap(), folder)
    return OverlapIndex(folder)


def one(overlap: OverlapIndex, text: str) -> Overlap | None:
    return overlap.find([text])[0]


def longest(left: str, right: str) -> int:
    """The longest common run, by all starts."""
    return max(
        (end - start for start in range(len(left)) for end in range(start, len(left) + 1)
         if left[start:end] in right),
        default=0,
    )  # fmt: skip


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), characters=st.integers(12, 15))
def test_exactly_the_runs_that_are_long_enough(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, characters: int
) -> None:
    letters = st.text("水木山河", min_size=0, max_size=60)
    known = data.draw(st.lists(letters, min_size=1, max_size=4))
    source = data.draw(st.sampled_from(known))
    start = data.draw(st.integers(0, len(source)))
    size = data.draw(st.integers(0, 20))
    text = data.draw(letters) + source[start : start + size] + data.draw(letters)
    least = MinOverlap(characters=characters)
    overlap = index(tmp_path_factory.mktemp("index"), known, least)
    # dense letters, so that characters alone decide; of a whole evaluation text 10/13 are enough
    run = max(longest(one, text) for one in known)
    enough = max(least.gram, characters * 10 / 13)
    whole = any(one in text and len(one) >= enough for one in known)
    same = any(one == text and 3 * len(one) >= SAME for one in known)
    match = one(overlap, text)
    assert (match is not None) == (run >= characters or whole or same)
    if match is not None:
        assert match.shared in text
        assert any(match.shared in one for one in known)


@pytest.mark.parametrize("before", ["", "It is said: ", "An introduction of many words. " * 9])
@pytest.mark.parametrize("after", ["", " And so on.", " And so on, for many pages." * 9])
def test_a_copied_passage_is_found_anywhere(tmp_path: Path, before: str, after: str) -> None:
    overlap = index(tmp_path, ["nothing like it at all", QUERY, PASSAGE, CHINESE])
    for text, line in ((PASSAGE, 3), (CHINESE, 4), (QUERY, 2)):
        for copy in (text, text.upper(), text.replace(" ", " \n"), text.replace(",", " – ")):
            match = one(overlap, before + copy + after)
            assert match is not None
            assert match.where == f"set/q.jsonl:{line}"
            assert match.whole == (not before and not after)


def test_parts_count_from_thirteen_words_on(tmp_path: Path) -> None:
    overlap = index(tmp_path, [PASSAGE])
    words = PASSAGE.split()
    for count in range(1, len(words)):
        part = "Somebody wrote, " + " ".join(words[3 : 3 + count]) + ", we are told"
        found = len(words[3 : 3 + count])
        assert (one(overlap, part) is not None) == (found >= 13), found
    # of a script without spaces fifty characters
    overlap = index(tmp_path / "chinese", [CHINESE])
    bare = normalize(CHINESE)
    for count in (30, 49, 50, 60):
        assert (one(overlap, f"前言{bare[2 : 2 + count]}后记") is not None) == (count >= 50)


def test_common_phrases_are_no_copy(tmp_path: Path) -> None:
    overlap = index(tmp_path, [QUERY, PASSAGE, "On the other hand", "Thank you very much!"])
    for text in (
        "ranking sixth in the league, while also leading",  # ten words
        "Thank you very much!",  # too short to be anybody's
        "On the other hand, thank you very much.",
        "the panthers the panthers the panthers the panthers the panthers the panthers",
        "",
    ):
        assert one(overlap, text) is None


def test_equal_texts_count_from_twenty_letters_on(tmp_path: Path) -> None:
    known = ["Where is the red house?", "red house", "红色的房子在哪里呢", "红色的房子"]
    overlap = index(tmp_path, known)
    for text in known:
        match = one(overlap, f"«{text.upper()}»")
        size = count_letters(code_points(normalize(text)))
        assert (match is not None and match.whole) == (size >= SAME), text


def test_a_short_run_does_not_hide_a_long_one(tmp_path: Path) -> None:
    words = PASSAGE.split()
    # the beginning stands in another text too, which goes on otherwise
    other = " ".join(words[:10]) + " but nobody knew it then"
    overlap = index(tmp_path, [other, PASSAGE])
    match = one(overlap, "As it was said. " + " ".join(words[:20]))
    assert match is not None
    assert match.where.endswith(":2")


def test_blocks_change_nothing(tmp_path: Path) -> None:
    overlap = index(tmp_path, ["z" * BLOCK, PASSAGE, CHINESE])
    texts = [PASSAGE, "short", "", CHINESE, "x" * BLOCK, f"a {PASSAGE} b", QUERY]
    wheres = [match and match.where for match in overlap.find(texts)]
    passage, chinese = "set/q.jsonl:2", "set/q.jsonl:3"
    assert wheres == [passage, None, None, chinese, None, passage, None]
    assert overlap.find(texts) == [one(overlap, text) for text in texts]
    assert overlap.find([]) == []


def test_sets_of_short_texts_alone(tmp_path: Path) -> None:
    overlap = index(tmp_path, ["a very short question of mine", ""])
    assert one(overlap, "A very short question, of mine.") is not None
    assert one(overlap, PASSAGE) is None
    with pytest.raises(InputError, match="no text"):
        index(tmp_path / "none", [])
    with pytest.raises(InputError):
        MinOverlap(characters=3)


# evaluation sets


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def beir(folder: Path, *, suffix: str = ".jsonl", judged: bool = True) -> Path:
    lines(folder / f"queries{suffix}", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(3)])
    corpus = [{"_id": f"d{n}", "title": "T", "text": f"passage {n}"} for n in range(3)]
    lines(folder / f"corpus{suffix}", corpus)
    qrels = {"test": "q0\td1\t1\nq0\td2\t0\n", "dev": "q1\td1\t2\n", "train": "q2\td0\t1\n"}
    for name, body in qrels.items() if judged else ():
        (folder / "qrels").mkdir(exist_ok=True)
        (folder / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + body)
    return folder


def texts(source: Path, passages: Passages = "relevant") -> list[str]:
    return [text.text for text in read_evaluation(source, passages=passages)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_beir_folder_gives_what_is_measured(tmp_path: Path, suffix: str) -> None:
    folder = beir(tmp_path / "set", suffix=suffix)
    queries = ["query 0", "query 1"]  # query 2 is for training
    assert texts(folder) == [*queries, "passage 1"]
    assert texts(folder, "none") == queries
    assert texts(folder, "all") == [*queries, "passage 0", "passage 1", "passage 2"]
    first = next(iter(read_evaluation(folder)))
    assert (first.name, first.path, first.line) == ("set", str(folder / f"queries{suffix}"), 1)
    unjudged = beir(tmp_path / "other", judged=False)
    assert texts(unjudged) == ["query 0", "query 1", "query 2"]
    assert len(texts(unjudged, "all")) == 6


def test_rows_translations_and_folders_of_sets(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query": "q", "pos": ["p1", "p2"], "neg": ["n"], "lang": "de"},
        {"text": "raw"},
    ]
    assert texts(lines(tmp_path / "held.jsonl", rows)) == ["q", "p1", "p2", "raw"]
    pairs = [{"lang": "afr", "id": 0, "src": "Goeiemôre.", "en": "Good morning."}]
    lines(tmp_path / "sets" / "a" / "pairs.jsonl.gz", pairs)
    beir(tmp_path / "sets" / "b")
    (tmp_path / "sets" / "c").mkdir()
    assert {text.name for text in read_evaluation(tmp_path / "sets")} == {"a", "b"}
    of_sets = ["Goeiemôre.", "Good morning.", *texts(tmp_path / "sets" / "b")]
    assert texts(tmp_path / "sets") == of_sets
    assert len(evaluation_files(tmp_path / "sets")) == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no evaluation set here"),
        (
            {"queries.jsonl": '{"_id": "a", "text": "t"}\n{"_id": "b"}\n'},
            r"queries\.jsonl:2: .*'_id'",
        ),
        (
            {"queries.jsonl": '{"_id": "a", "text": "t"}\n', "qrels/test.tsv": "a\n"},
            r"test\.tsv:1: ",
        ),
        (
            {
                "queries.jsonl": '{"_id": "a", "text": "t"}\n',
                "qrels/test.tsv": "a\td\u2028\t1\nb\n",
            },
            r"test\.tsv:2: ",
        ),
        (
            {"queries.jsonl": '{"_id": "a", "text": "t"}\n', "qrels/test.tsv": "a\td\t1\n\udcff\n"},
            r"test\.tsv:2: byte 0xff is not UTF-8",
        ),
        ({"pairs.jsonl": '{"src": "a", "en": "b"}\n{"id": 3}\n'}, r"pairs\.jsonl:2: no text"),
        ({"pairs.jsonl": "nonsense\n"}, r"pairs\.jsonl:1: not readable"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, body in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(body, errors="surrogateescape")
    with pytest.raises(InputError, match=message):
        texts(tmp_path)


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such evaluation set"):
        texts(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError):
        texts(tmp_path / "notes.txt")
