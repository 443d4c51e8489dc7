"""TREC files: what is written is read the same, in trec_eval's order; bad lines are named."""

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.errors import InputError
from tercet.evaluate.trec import Run, read_qrels, read_run, write_qrels, write_run
from tercet.hybrid import Ranked

IDS = st.text(alphabet="ab9é水-_", min_size=1, max_size=3)
SCORES = st.dictionaries(
    IDS,
    st.dictionaries(IDS, st.sampled_from([0.0, -1.5, 2.0, 2.0000001, 1e-30, 3.3e38]), max_size=6),
    min_size=1,
    max_size=5,
)


def as_dict(run: Run) -> dict[str, list[tuple[str, float]]]:
    return {
        query: list(zip(*run.of_query(number), strict=True))
        for number, query in enumerate(run.queries)
    }


@given(scores=SCORES, name=st.sampled_from(["a.run", "a.trec.gz"]))
def test_a_run_is_in_trec_eval_s_order_and_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, scores: dict[str, dict[str, float]], name: str
) -> None:
    run = Run.from_scores({"q": {"only": 1.0}, **scores})
    for query, pairs in scores.items():  # by score, then by the later id
        single = {name: np.float32(score) for name, score in pairs.items()}
        expected = sorted(single.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
        assert as_dict(run)[query] == [(name, float(score)) for name, score in expected]
    path = tmp_path_factory.mktemp("runs") / name
    write_run(path, run, "mine")
    packed = name.endswith(".gz")
    content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    assert all(line.endswith(b" mine") for line in content.splitlines())
    # a query that found nothing has no line
    assert as_dict(read_run(path)) == {q: pairs for q, pairs in as_dict(run).items() if pairs}
    assert [path.name] == [left.name for left in path.parent.iterdir()]


def test_ranks_of_places_become_ids() -> None:
    places = np.array([[2, 0, -1], [1, 3, 0]])
    scores = np.array([[0.5, 0.5, -np.inf], [0.25, 0.75, 0.25]], dtype=np.float32)
    run = Run.of(["x", "y"], ["a", "b", "c", "d"], Ranked(places, scores))
    assert as_dict(run) == {
        "x": [("c", 0.5), ("a", 0.5)],
        "y": [("d", 0.75), ("b", 0.25), ("a", 0.25)],
    }
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="'p' for query 'q'"):
            Run.from_scores({"q": {"p": bad}})


def test_outside_runs_with_tabs_and_blanks_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "other.txt.gz"
    lines = ["2\tQ0\ta b\t1\t0.5\tT", "1   Q0 d 2 0.25   T", "", "1 Q0 c 1 7 T",
             "2\tQ0\te\t2\t.5\tT"]  # fmt: skip
    path.write_bytes(gzip.compress("\r\n".join(lines).encode()))
    expected = {"2": [("e", 0.5), ("a b", 0.5)], "1": [("c", 7.0), ("d", 0.25)]}
    assert as_dict(read_run(path)) == expected
    write_run(path, read_run(path))
    assert as_dict(read_run(path)) == expected


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    for name in ("", " a", "a\tb", "a\nb", "\ud800"):
        with pytest.raises(InputError, match="id"):
            write_run(tmp_path / "x.run", Run.from_scores({"q": {name: 1.0}}))
    assert not list(tmp_path.iterdir())


JUDGED = {"q 1": {"a": 2, "b": 0}, "q2": {"a": -1, "c": 1}}


@pytest.mark.parametrize(
    "text",
    [
        None,  # as it is written here
        "query-id\tcorpus-id\tscore\nq 1\ta\t2\nq 1\tb\t0\nq2\ta\t-1\nq2\tc\t1.0\n",
        "q 1\ta\t2\nq 1\tb\t0\n\nq2\ta\t-1\nq2\tc\t1",
        "q 1\ta\t2\nq 1\tb\t0\nq 1\ta\t2.0\nq2\ta\t-1\nq2\tc\t1",  # a judgement twice
        "q 1\tQ0\ta\t2\r\nq 1\tQ0\tb\t0\r\nq2 0 a -1\r\nq2 0 c 1\r\n",
    ],
)
def test_judgements_of_beir_and_of_trec(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "qrels.tsv"
    if text is None:
        write_qrels(path, JUDGED)
    else:
        path.write_text(text, newline="")
    assert read_qrels(path) == JUDGED


@pytest.mark.parametrize(
    ("kind", "lines", "words"),
    [
        ("run", b"1 Q0 a 1 2.5 t\n\n1 Q0 b 1 nan t\n", ":3: the score 'nan' is not a finite"),
        ("run", b"1 Q0 b 1 1e39 t\n", ":1: the score '1e39'"),
        ("run", b"1 Q0 b 1 0.5\n", ":1: 5 fields"),
        ("run", b"1 Q0 a 1 2 t\n1 Q0 a 9 0.5 t\n", ":2: query '1' ranks passage 'a' a second"),
        ("run", b"\n", "empty"),
        ("run", "1 Q0 é 1 2 t\n".encode("latin-1"), ":1: byte 0xe9 is not UTF-8"),
        ("run.gz", gzip.compress(b"1 Q0 a 1 2 t\n", mtime=0)[:-9], "not readable"),
        ("run.xz", lzma.compress(b"1 Q0 a 1 2 t\n")[:20] + b"no xz", ":1: not readable"),
        ("qrels", b"q 0 a 1\nq 0 b much\n", ":2: the gain 'much' is not a whole number"),
        ("qrels", b"q 0 a 1\nq 0 b nan\n", ":2: the gain 'nan'"),
        ("qrels", b"q b 1\nq a much\n", ":2: the gain 'much'"),
        ("qrels", b"q 0 a 1\nq 0 a 2\n", ":2: passage 'a' .* a second time, 2 after 1"),
        ("qrels", b"q 0 a 1\nq 0 b 1e300\n", ":2: the gain '1e300'"),
        ("qrels", b"q 0 a 1\nq 0 b 2000000000\n", ":2: the gain '2000000000'"),
        ("qrels", b"q 0 a 1\nq 0 b inf\n", ":2: the gain 'inf'"),
        ("qrels", b"q 0 a 1\nq 0 b 1_0\n", ":2: the gain '1_0'"),
        ("qrels", "q 0 a 1\n".encode("utf-16"), "not UTF-8 but UTF-16"),
        ("qrels", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS pointer"),
        ("run", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS pointer"),
        ("qrels", b"q 0 a 1\nq b 1\n", ":2: 3 fields"),
        ("qrels", b"1 Q0 b 1 0.5 t\n", ":1: 6 fields"),
        ("qrels", b"query-id\tcorpus-id\tscore\n", "no judgement"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, kind: str, lines: bytes, words: str) -> None:
    path = tmp_path / f"bad.{kind}"
    path.write_bytes(lines)
    with pytest.raises(InputError, match=f"bad.*{words}"):
        (read_qrels if kind == "qrels" else read_run)(path)


def test_passages_under_their_query_s_id_are_left_out() -> None:
    run = Run.from_scores({"a": {"a": 3.0, "b": 2.0, "c": 1.0}, "b": {"b": 1.0}, "c": {"a": 1.0}})
    others = as_dict(run.without_own())
    assert others == {"a": [("b", 2.0), ("c", 1.0)], "b": [], "c": [("a", 1.0)]}
