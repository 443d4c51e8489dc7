"""Loaders of published suites, on small files in the published formats, local and in the cache."""

import gzip
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tercet.errors import InputError
from tercet.evaluate.loaders import miracl, mkqa, mldr
from tercet.evaluate.suites import load
from tercet.evaluate.tasks import PAPER, PAPER_LONG, Task

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Files = Mapping[str, bytes]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def packed(rows: list[Any]) -> bytes:
    return gzip.compress(lines(rows))


def written(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tasks(name: str, **options: Any) -> list[Task]:
    found = load(name, **options)
    assert all(isinstance(task, Task) for task in found)
    return [task for task in found if isinstance(task, Task)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Files], Path]:
    """Puts files into a hub cache as the main branch of a dataset at COMMIT."""
    assert constants.HF_HUB_OFFLINE
    root = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))

    def put(repo: str, files: Files) -> Path:
        folder = root / f"datasets--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(COMMIT)
        return written(folder / "snapshots" / COMMIT, files)

    return put


def miracl_files(language: str) -> tuple[Files, Files]:
    """Of miracl/miracl and of miracl/miracl-corpus, which has eleven parts here."""
    base = f"miracl-v1.0-{language}"
    topics = "0\tMji mkuu wa Kenya ni upi?\n3\tNani aligundua  simu?\n"
    qrels = "0\tQ0\t10#0\t1\n0\tQ0\t2#0\t0\n3\tQ0\t2#0\t1\n3\tQ0\t9#9\t1\n"
    docs = {
        f"miracl-corpus-v1.0-{language}/docs-{part}.jsonl.gz": packed(
            [
                {"docid": f"{part}#0", "title": f"Makala {part}", "text": f"Maandishi {part}."},
                {"docid": f"{part}#1", "title": "", "text": "Bila kichwa."},
            ]
        )
        for part in range(11)
    }
    return {
        f"{base}/topics/topics.{base}-dev.tsv": topics.encode(),
        f"{base}/qrels/qrels.{base}-dev.tsv": qrels.encode(),
    }, docs


def check_miracl(task: Task) -> None:
    assert (task.name, task.language, task.protocol) == ("miracl/sw", "sw", PAPER)
    assert task.queries == {"0": "Mji mkuu wa Kenya ni upi?", "3": "Nani aligundua  simu?"}
    assert task.qrels == {"0": {"10#0": 1, "2#0": 0}, "3": {"2#0": 1, "9#9": 1}}
    passages = list(task.corpus.read())
    assert passages == list(task.corpus.read())
    assert [name for name, _ in passages[::2]] == [f"{part}#0" for part in range(11)]
    assert passages[:2] == [("0#0", "Makala 0\nMaandishi 0."), ("0#1", "Bila kichwa.")]


def test_miracl_of_a_local_copy(tmp_path: Path) -> None:
    judged, docs = miracl_files("sw")
    (task,) = tasks("miracl:sw", local=written(tmp_path, {**judged, **docs}))
    check_miracl(task)
    assert task.source == f"{tmp_path}, {tmp_path}"


def test_miracl_of_two_clones_side_by_side(tmp_path: Path) -> None:
    judged, docs = miracl_files("sw")
    written(tmp_path / "miracl", judged)
    written(tmp_path / "miracl-corpus", docs)
    check_miracl(tasks("miracl:sw", local=tmp_path)[0])


def test_miracl_of_the_hubs_cache(cache: Callable[[str, Files], Path]) -> None:
    judged, docs = miracl_files("sw")
    cache("miracl/miracl", judged)
    cache("miracl/miracl-corpus", docs)
    (task,) = tasks("miracl:sw")
    check_miracl(task)
    assert task.source == f"miracl/miracl@{COMMIT}, miracl/miracl-corpus@{COMMIT}"


def test_what_is_missing_is_named_and_how_to_get_it(
    cache: Callable[[str, Files], Path], tmp_path: Path
) -> None:
    judged, docs = miracl_files("sw")
    with pytest.raises(InputError, match=r"miracl/miracl: the hub cannot be reached.*topics\."
                       r"miracl-v1\.0-sw-dev\.tsv.*--local DIR"):  # fmt: skip
        load("miracl:sw")
    cache("miracl/miracl", judged)
    cache("miracl/miracl-corpus", {"README.md": b""})
    with pytest.raises(InputError, match=r"no miracl-corpus-v1\.0-sw/docs-\*.*--local DIR"):
        load("miracl:sw")
    with pytest.raises(InputError, match=r"no topics|no miracl-v1\.0-yo/topics"):
        load("miracl:sw,yo", local=written(tmp_path / "copy", {**judged, **docs}))
    (tmp_path / "copy/miracl-corpus-v1.0-sw/docs-4.jsonl.gz").unlink()
    with pytest.raises(InputError, match=r"docs-4\.jsonl\.gz is missing"):
        load("miracl:sw", local=tmp_path / "copy")
    with pytest.raises(InputError, match="no such folder"):
        load("miracl:sw", local=tmp_path / "nowhere")


def test_bad_lines_of_miracl(tmp_path: Path) -> None:
    judged, docs = miracl_files("sw")
    copy = written(tmp_path, {**judged, **docs})
    (topics,) = copy.glob("*/topics/*")
    topics.write_text("0\tyes\n3 no tab\n")
    with pytest.raises(InputError, match=r"dev\.tsv:2: no tab"):
        load("miracl:sw", local=copy)
    topics.write_text("0\tyes\n")
    with pytest.raises(InputError, match=r"1 queries are judged but not here, the first '3'"):
        load("miracl:sw", local=copy)


def test_mldr(tmp_path: Path) -> None:
    rows = [
        {
            "query_id": "q-de-1",
            "query": "Wer schrieb das?",
            "positive_passages": [{"docid": "doc-de-2", "text": "zwei"}],
            "negative_passages": [{"docid": "doc-de-1", "text": "eins"}],
        },
        {
            "query_id": "q-de-2",
            "query": "Wann?",
            "positive_passages": [{"docid": "doc-de-1", "text": "eins"}],
            "negative_passages": [],
        },
    ]
    corpus = [{"docid": f"doc-de-{n}", "text": text} for n, text in ((1, "eins"), (2, "zwei"))]
    copy = written(
        tmp_path,
        {
            "mldr-v1.0-de/test.jsonl.gz": packed(rows),
            "mldr-v1.0-de/dev.jsonl.gz": packed(rows[:1]),
            "mldr-v1.0-de/corpus.jsonl.gz": packed(corpus),
        },
    )
    (task,) = tasks("mldr:de", local=copy)
    assert (task.name, task.protocol) == ("mldr/de", PAPER_LONG)
    assert task.queries == {"q-de-1": "Wer schrieb das?", "q-de-2": "Wann?"}
    assert task.qrels == {"q-de-1": {"doc-de-1": 0, "doc-de-2": 1}, "q-de-2": {"doc-de-1": 1}}
    assert list(task.corpus.read()) == [("doc-de-1", "eins"), ("doc-de-2", "zwei")]
    (dev,) = tasks("mldr:de@dev", local=copy)
    assert (dev.name, list(dev.queries)) == ("mldr/de@dev", ["q-de-1"])


NQ = [
    {"_id": "doc0", "title": "Dave Edmunds", "text": "“He” sang — I Hear You…", "metadata": {}},
    {"_id": "doc1", "title": "", "text": "Nothing", "metadata": {}},
]


def mkqa_rows() -> list[dict[str, Any]]:
    """As published on GitHub: an id that is a number, answers with kinds, aliases or none."""
    answers: list[list[dict[str, Any]]] = [
        [{"type": "entity", "entity": "Q545186", "text": "Dave Edmunds", "aliases": ["Edmunds"]}],
        [{"type": "unanswerable", "entity": None, "text": None}],
        [{"type": "long_answer", "text": None}],
        [{"type": "binary", "text": "yes"}],
        [{"type": "number_with_unit", "text": "11.0 year"}, {"type": "date", "text": "1970"}],
        [{"type": "entity", "text": "A"}, {"type": "binary", "text": "no"}],
    ]
    return [
        {
            "example_id": 563260143484355911 + number,
            "queries": {lang: f"{lang} {number}?" for lang in ("en", *mkqa.LANGUAGES)},
            "query": f"en {number}?",
            "answers": {"en": given, "ru": [{"type": "entity", "text": "не по-английски"}]},
        }
        for number, given in enumerate(answers)
    ]


@pytest.mark.parametrize("kind", ["github", "github gz", "zip", "unpacked"])
def test_mkqa_of_every_form(kind: str, tmp_path: Path) -> None:
    rows = mkqa_rows()
    given = {0: ["Edmunds", "Dave Edmunds"], 4: ["11.0 year", "1970"]}
    prepared = {
        language: [
            {"id": str(rows[n]["example_id"]), "lang": language, "question": f"{language} {n}?",
             "answers": answers}
            for n, answers in given.items()
        ]
        for language in mkqa.LANGUAGES
    }  # fmt: skip
    written(tmp_path, {"nq/corpus.jsonl.gz": packed(NQ)})
    if kind.startswith("github"):
        name, write = ("mkqa.jsonl", lines) if kind == "github" else ("mkqa.jsonl.gz", packed)
        written(tmp_path, {name: write(rows)})
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "MKQA_test-data.zip", "w") as file:
            for language, some in prepared.items():
                file.writestr(f"qa_data/{language}.jsonl", lines(some))
    else:
        written(tmp_path, {f"{lang}.jsonl": lines(some) for lang, some in prepared.items()})
    found = tasks("mkqa", local=tmp_path)
    assert [task.language for task in found] == list(mkqa.LANGUAGES)
    assert len(found) == 25
    assert "en" not in mkqa.LANGUAGES
    first, last = "563260143484355911", "563260143484355915"
    for task in found:
        assert task.queries == {first: f"{task.language} 0?", last: f"{task.language} 4?"}
        assert task.answers is not None
        assert set(task.answers[first]) == {"Dave Edmunds", "Edmunds"}
        assert set(task.answers[last]) == {"11.0 year", "1970"}
        assert task.corpus is found[0].corpus  # encoded once
        assert task.protocol.measures == ("AnswerRecall@100", "AnswerRecall@20")
        assert (task.protocol.two, task.protocol.three) == (PAPER.two, PAPER.three)
    assert list(found[0].corpus.read()) == [
        ("doc0", 'dave edmunds\n"he" sang - i hear you...'),
        ("doc1", "nothing"),
    ]


def test_mkqa_with_the_passages_of_the_hubs_layout(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    written(tmp_path, {"mkqa.jsonl": lines(mkqa_rows())})
    (tmp_path / "corpus").mkdir()
    for part in (0, 1):
        table = pa.Table.from_pylist([{k: NQ[part][k] for k in ("_id", "title", "text")}])
        pq.write_table(table, tmp_path / f"corpus/corpus-0000{part}-of-00002.parquet")
    (task,) = tasks("mkqa:zh_cn", local=tmp_path)
    assert [name for name, _ in task.corpus.read()] == ["doc0", "doc1"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"mkqa.jsonl": b'{"example_id": 1}\n'}, "not MKQA"),
        ({"mkqa.jsonl": b"{\n"}, r"mkqa\.jsonl:1: not readable as JSON"),
        ({"MKQA_test-data.zip": b"PK"}, "not a whole zip file"),
        ({"de.jsonl": b'{"id": "1", "question": "?", "answers": "A"}\n'}, "list of strings"),
        ({}, r"no MKQA_test-data\.zip"),
    ],
)
def test_bad_files_of_mkqa(files: Files, words: str, tmp_path: Path) -> None:
    written(tmp_path, {"corpus.jsonl": lines(NQ), **files})
    with pytest.raises(InputError, match=words):
        load("mkqa:de", local=tmp_path)


def test_narrativeqa(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    def row(document: str, question: str) -> dict[str, Any]:
        return {
            "document": {
                "id": document,
                "kind": "gutenberg",
                "url": "http://x",
                "file_size": 3,
                "word_count": 2,
                "start": "The",
                "end": "end",
                "summary": {"text": "s", "tokens": ["s"], "url": "u", "title": "t"},
                "text": f"Story of {document}",
            },
            "question": {"text": question, "tokens": question.split()},
            "answers": [{"text": "a", "tokens": ["a"]}],
        }

    parts = [[row("b", "Who?"), row("b", "Why?")], [row("b", "Who?"), row("a", "When?")]]
    (tmp_path / "data").mkdir()
    for number, rows in enumerate(parts):
        name = f"data/test-0000{number}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    (task,) = tasks("narrativeqa", local=tmp_path)
    assert task.queries == {"0": "Who?", "1": "Why?", "2": "Who?", "3": "When?"}
    assert task.qrels == {"0": {"b": 1}, "1": {"b": 1}, "2": {"b": 1}, "3": {"a": 1}}
    assert list(task.corpus.read()) == [("b", "Story of b"), ("a", "Story of a")]
    assert (task.language, task.protocol) == ("en", PAPER_LONG)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "data/test-00000-of-00002.parquet")
    with pytest.raises(InputError, match=r"no column document\.id"):
        load("narrativeqa", local=tmp_path)


def test_the_paper_has_so_many_languages() -> None:
    assert len(set(miracl.LANGUAGES)) == 18
    assert len(set(mkqa.LANGUAGES)) == 25
    assert len(set(mldr.LANGUAGES)) == 13
