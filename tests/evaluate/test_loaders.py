"""Loaders: small files in the published and in own formats; what is wrong with a file is named."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tercet.errors import InputError
from tercet.evaluate.loaders import LANGUAGES, Suite, load, once_each
from tercet.evaluate.tasks import PAPER, PAPER_LONG, Bitext, Task

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Files = Mapping[str, bytes]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def packed(rows: list[Any]) -> bytes:
    return gzip.compress(lines(rows))


def parquet(rows: list[Any]) -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def written(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tasks(name: str, **options: Any) -> list[Task]:
    loaded = load(name, **options)
    assert all(isinstance(task, Task) for task in loaded)
    return [task for task in loaded if isinstance(task, Task)]


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


@pytest.mark.parametrize("place", ["copy", "clones", "hub"])
def test_miracl(place: str, cache: Callable[[str, Files], Path], tmp_path: Path) -> None:
    judged, docs = miracl_files("sw")
    sources = [str(tmp_path)] * 2
    if place == "copy":
        written(tmp_path, {**judged, **docs})
    elif place == "clones":
        sources = [str(written(tmp_path / "miracl", judged)),
                   str(written(tmp_path / "miracl-corpus", docs))]  # fmt: skip
    else:
        cache("miracl/miracl", judged)
        cache("miracl/miracl-corpus", docs)
        sources = [f"miracl/miracl@{COMMIT}", f"miracl/miracl-corpus@{COMMIT}"]
    (task,) = tasks("miracl:sw", local=None if place == "hub" else tmp_path)
    assert (task.name, task.language, task.protocol) == ("miracl/sw", "sw", PAPER)
    assert task.source == ", ".join(sources)
    assert task.queries == {"0": "Mji mkuu wa Kenya ni upi?", "3": "Nani aligundua  simu?"}
    assert task.qrels == {"0": {"10#0": 1, "2#0": 0}, "3": {"2#0": 1, "9#9": 1}}
    passages = list(task.corpus.read())
    assert passages == list(task.corpus.read())
    assert [name for name, _ in passages[::2]] == [f"{part}#0" for part in range(11)]
    assert passages[:2] == [("0#0", "Makala 0\nMaandishi 0."), ("0#1", "Bila kichwa.")]


def test_what_is_missing_is_named_and_how_to_get_it(
    cache: Callable[[str, Files], Path], tmp_path: Path
) -> None:
    judged, docs = miracl_files("sw")
    with pytest.raises(InputError, match=r"hub did not deliver it.*topics.*--local DIR"):
        load("miracl:sw")
    cache("miracl/miracl", judged)
    cache("miracl/miracl-corpus", {"README.md": b""})
    with pytest.raises(InputError, match=r"no miracl-corpus-v1\.0-sw/docs-\*.*--local DIR"):
        load("miracl:sw")
    copy = written(tmp_path / "copy", {**judged, **docs})
    with pytest.raises(InputError, match=r"no miracl-v1\.0-yo/topics"):
        load("miracl:sw,yo", local=copy)
    (topics,) = copy.glob("*/topics/*")
    for text, said in (("0\tyes\n3 no tab\n", r"dev\.tsv:2: no tab"), ("0\tyes\n", "first '3'")):
        topics.write_text(text)
        with pytest.raises(InputError, match=said):
            load("miracl:sw", local=copy)
    (copy / "miracl-corpus-v1.0-sw/docs-4.jsonl.gz").unlink()
    with pytest.raises(InputError, match=r"docs-4\.jsonl\.gz is missing"):
        load("miracl:sw", local=copy)


def test_mldr(tmp_path: Path) -> None:
    passages = [{"docid": f"d{n}", "text": text} for n, text in ((1, "eins"), (2, "zwei"))]
    rows = [
        {"query_id": "q1", "query": "Wer?", "positive_passages": passages[1:],
         "negative_passages": passages[:1]},
        {"query_id": "q2", "query": "Wann?", "positive_passages": passages[:1],
         "negative_passages": []},
    ]  # fmt: skip
    files: dict[str, list[Any]] = {"test": rows, "dev": rows[:1], "corpus": passages}
    written(tmp_path, {f"mldr-v1.0-de/{name}.jsonl.gz": packed(of) for name, of in files.items()})
    (task,) = tasks("mldr:de", local=tmp_path)
    assert (task.name, task.protocol) == ("mldr/de", PAPER_LONG)
    assert task.queries == {"q1": "Wer?", "q2": "Wann?"}
    assert task.qrels == {"q1": {"d1": 0, "d2": 1}, "q2": {"d1": 1}}
    assert list(task.corpus.read()) == [("d1", "eins"), ("d2", "zwei")]
    (dev,) = tasks("mldr:de@dev", local=tmp_path)
    assert (dev.name, list(dev.queries)) == ("mldr/de@dev", ["q1"])
    bad = [rows[0] | {"positive_passages": ["zwei"]}]
    written(tmp_path, {"mldr-v1.0-de/dev.jsonl.gz": packed(bad)})
    with pytest.raises(InputError, match=r"dev\.jsonl\.gz:1: an object with 'docid'"):
        load("mldr:de@dev", local=tmp_path)


NQ = [
    {"_id": "doc0", "title": "Dave Edmunds", "text": "“He” sang — I Hear You…", "metadata": {}},
    {"_id": "doc1", "title": "", "text": "Nothing", "metadata": {}},
]


def mkqa_zip(folder: Path, answers: Any = ("Dave Edmunds", " ", "Edmunds")) -> None:
    with zipfile.ZipFile(folder / "MKQA_test-data.zip", "w") as file:
        for language in LANGUAGES["mkqa"]:
            rows = [{"id": "1", "question": f"{language}?", "answers": answers},
                    {"id": "2", "question": "When?", "answers": ["1970"]}]  # fmt: skip
            file.writestr(f"qa_data/{language}.jsonl", lines(rows))


def test_mkqa(tmp_path: Path) -> None:
    written(tmp_path, {"nq/corpus.jsonl.gz": packed(NQ)})
    mkqa_zip(tmp_path)
    loaded = tasks("mkqa", local=tmp_path)
    assert [task.language for task in loaded] == list(LANGUAGES["mkqa"])
    for task in loaded:
        assert task.queries == {"1": f"{task.language}?", "2": "When?"}
        assert task.answers == {"1": ("Dave Edmunds", "Edmunds"), "2": ("1970",)}
        assert task.corpus is loaded[0].corpus  # encoded once
        assert task.protocol.measures == ("AnswerRecall@100", "AnswerRecall@20")
        assert (task.protocol.two, task.protocol.three) == (PAPER.two, PAPER.three)
    passages = [("doc0", 'dave edmunds\n"he" sang - i hear you...'), ("doc1", "nothing")]
    assert list(loaded[0].corpus.read()) == passages
    mkqa_zip(tmp_path, "A")
    with pytest.raises(InputError):
        load("mkqa:de", local=tmp_path)
    (tmp_path / "MKQA_test-data.zip").write_bytes(b"PK")
    with pytest.raises(InputError):
        load("mkqa:de", local=tmp_path)


def test_narrativeqa(tmp_path: Path) -> None:
    questions = ([("b", "Who?"), ("b", "Why?")], [("b", "Who?"), ("a", "When?")])
    for number, part in enumerate(questions):
        rows = [
            {
                "document": {"id": key, "kind": "book", "text": f"Story of {key}"},
                "question": {"text": question, "tokens": question.split()},
                "answers": [{"text": "a", "tokens": ["a"]}],
            }
            for key, question in part
        ]
        written(tmp_path, {f"data/test-0000{number}-of-00002.parquet": parquet(rows)})
    (task,) = tasks("narrativeqa", local=tmp_path)
    assert task.queries == {"0": "Who?", "1": "Why?", "2": "Who?", "3": "When?"}
    assert task.qrels == {"0": {"b": 1}, "1": {"b": 1}, "2": {"b": 1}, "3": {"a": 1}}
    assert list(task.corpus.read()) == [("b", "Story of b"), ("a", "Story of a")]
    assert (task.name, task.language, task.protocol) == ("narrativeqa", "en", PAPER_LONG)
    written(tmp_path, {"data/test-00000-of-00002.parquet": parquet([{"x": 1}])})
    with pytest.raises(InputError, match=r"parquet:1: no 'document'"):
        load("narrativeqa", local=tmp_path)


def test_the_paper_has_so_many_languages() -> None:
    sizes = {name: len(set(of)) for name, of in LANGUAGES.items()}
    assert sizes == {"miracl": 18, "mkqa": 25, "mldr": 13, "narrativeqa": 1}
    assert "en" not in LANGUAGES["mkqa"]


# Own data

CORPUS: list[dict[str, Any]] = [
    {"_id": "1", "title": "River", "text": "water of the mountain", "metadata": {"x": 1}},
    {"_id": "2", "title": "", "text": "a city law"},
    {"_id": 3, "text": "music"},
]
QUERIES: list[dict[str, Any]] = [
    {"_id": "a", "text": "law", "lang": "en"},
    {"_id": "b", "text": "Musik", "lang": "de"},
    {"_id": "c", "text": ""},
]
QRELS = "query-id\tcorpus-id\tscore\na\t2\t1\nb\t3\t2\nb\t1\t0\n"


def beir(folder: Path, split: str = "test", **changed: Any) -> Path:
    given: dict[str, Any] = {"corpus": CORPUS, "queries": QUERIES, "qrels": QRELS} | changed
    files = {f"{name}.jsonl": lines(given[name]) for name in ("corpus", "queries")}
    return written(folder, files | {f"qrels/{split}.tsv": given["qrels"].encode()})


def check_beir(task: Task) -> None:
    assert task.queries == {"a": "law", "b": "Musik"}
    assert task.languages == {"a": "en", "b": "de"}
    assert task.qrels == {"a": {"2": 1}, "b": {"3": 2, "1": 0}}
    expected = [("1", "River\nwater of the mountain"), ("2", "a city law"), ("3", "music")]
    assert list(task.corpus.read()) == list(task.corpus.read()) == expected
    assert [title for _, title, _ in task.corpus.rows()] == ["River", "", ""]


@pytest.mark.parametrize("form", ["", ".gz", ".bz2", ".xz", "parquet"])
def test_a_beir_folder_in_every_form(form: str, tmp_path: Path) -> None:
    for name, rows in (("corpus", CORPUS), ("queries", QUERIES)):
        if form == "parquet":
            fields = [{**row, "_id": str(row["_id"]), "metadata": None} for row in rows]
            written(tmp_path, {f"small/{name}/{name}-00000-of-00001.parquet": parquet(fields)})
        else:
            pack: dict[str, Callable[[bytes], bytes]] = {
                "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress
            }  # fmt: skip
            written(tmp_path, {f"small/{name}.jsonl{form}": pack[form](lines(rows))})
    qrels = {"qrels/test.tsv": QRELS.encode()}
    if form == ".gz":
        qrels = {"qrels/test.tsv.gz": gzip.compress(QRELS.encode())}
    (task,) = tasks(f"beir:{written(tmp_path / 'small', qrels)}")
    check_beir(task)
    assert (task.name, task.suite, task.language) == ("beir/small", "beir", "")


def test_a_folder_of_beir_folders(tmp_path: Path) -> None:
    for name in ("z", "a", "forum/android"):
        beir(tmp_path / name)
    beir(tmp_path / "other@split", split="dev")
    (tmp_path / "notes").mkdir()
    first, *others = tasks(f"beir:{tmp_path}")
    assert first.name == "beir/a"
    assert "left out: other@split" in first.notes[0]
    assert [task.name for task in others] == ["beir/forum/android", "beir/z"]
    assert [task.name for task in load(f"beir:{tmp_path}@dev")] == ["beir/other@split@dev"]
    check_beir(tasks(f"beir:{tmp_path}/other@split@dev")[0])
    for name, said in (("other@split", "there is dev.tsv"), ("none", "no such"), ("notes", "nei")):
        with pytest.raises(InputError, match=said):
            load(f"beir:{tmp_path}/{name}")


def test_queries_of_some_languages(tmp_path: Path) -> None:
    folder = beir(tmp_path / "mixed")
    (task,) = tasks(f"beir:{folder}", languages=["de"])
    assert task.queries == {"b": "Musik"}
    assert task.qrels == {"b": {"3": 2, "1": 0}}
    check_beir(tasks(f"beir:{folder}", languages=["de", "en"])[0])
    one = beir(tmp_path / "de", queries=[{**row, "lang": "de"} for row in QUERIES])
    (task,) = tasks(f"beir:{one}", languages=["de"])
    assert (task.language, task.languages) == ("de", {})
    with pytest.raises(InputError, match="no language 'fr': it has de, en"):
        load(f"beir:{folder}", languages=["fr"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"queries": [{"_id": "a"}]}, r"queries\.jsonl:1: 'text' must be a string"),
        ({"queries": QUERIES[:1]}, r"1 queries are judged but not here, the first 'b'"),
        ({"queries": [*QUERIES[:2], QUERIES[0]]}, r":3: query 'a' is here a second time"),
        ({"qrels": QRELS + "c\t1\t1\n"}, r"queries\.jsonl:3: query 'c' is empty"),
        ({"corpus": [*CORPUS, {"_id": "1", "text": "x"}]}, r":4: the id '1' .*corpus\.jsonl:1"),
        ({"corpus": [{"_id": "1", "text": 5}]}, r"corpus\.jsonl:1: 'text' must .* row has 5"),
        ({"corpus": [{"_id": "1", "text": None}]}, r"corpus\.jsonl:1: 'text' must .* row has null"),
        ({"corpus": [{"_id": "1"}]}, r"corpus\.jsonl:1: 'text' must be a string, .* has none"),
        ({"qrels": ""}, r"test\.tsv: empty: lines are `query 0 passage gain`"),
        ({"corpus": [{"_id": "", "text": "x"}]}, r"corpus\.jsonl:1: '_id' is empty"),
        ({"corpus": []}, "no passage"),
    ],
)
def test_bad_beir_folders(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = beir(tmp_path / "bad", **changed)
    with pytest.raises(InputError, match=words):
        list(tasks(f"beir:{folder}")[0].corpus.read())


def test_ids_of_the_same_hash_are_no_duplicates() -> None:
    class Same(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 7

    rows = [(f"f:{n}", Same(n), "", "text") for n in range(5)]
    assert len(list(once_each(lambda: iter(rows), "c"))) == 5
    with pytest.raises(InputError, match=r"f:9: the id '3' has a passage already, in f:3"):
        list(once_each(lambda: iter([*rows, ("f:9", Same(3), "", "text")]), "c"))


def test_own_pairs(tmp_path: Path) -> None:
    rows = [
        {"query": "q1", "pos": ["p1", "p2"], "neg": ["n1"], "lang": "de"},
        {"query": "q2", "pos": ["n1"], "lang": "fr"},
        {"query": "q1", "pos": ["p3"], "neg": ["p1"], "lang": "de"},
        {"query": "q1", "pos": ["p1"], "prompt": "Find code: "},  # a prompt makes another query
    ]
    (task,) = tasks(f"pairs:{written(tmp_path, {'mine.jsonl': lines(rows)})}/mine.jsonl")
    passages = dict(task.corpus.read())
    assert list(passages.values()) == ["p1", "p2", "n1", "p3"]
    assert [
        (task.prompts.get(query), text, [passages[name] for name in task.qrels[query]])
        for query, text in task.queries.items()
    ] == [(None, "q1", ["p1", "p2", "p3"]), (None, "q2", ["n1"]), ("Find code: ", "q1", ["p1"])]
    assert sorted(task.languages.values()) == ["de", "fr"]
    assert task.name == "pairs/mine"
    # the rows' order changes no id
    (turned,) = tasks(f"pairs:{written(tmp_path / 'turned', {'rows.jsonl': lines(rows[::-1])})}")
    assert dict(turned.corpus.read()) == passages
    assert turned.qrels == task.qrels


@pytest.mark.parametrize(
    ("suite", "name"),
    [
        ("beir:.", "beir/arguana"),
        ("beir:qrels/..", "beir/arguana"),
        ("pairs:.", "pairs/arguana"),
        ("pairs:rows.jsonl", "pairs/rows"),
        ("bitext:.", "arguana"),
        ("bitext:rows.jsonl", "arguana"),
    ],
)
def test_sets_in_the_working_folder_have_its_name(
    suite: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "arguana"
    rows = [{"query": "a", "pos": ["b"]}]
    written(folder, {"rows.jsonl": lines(rows)} if not suite.startswith("beir") else {})
    if suite.startswith("beir"):
        beir(folder)
    monkeypatch.chdir(folder)
    (task,) = load(suite)
    assert task.name == name
    assert isinstance(task, Bitext) or task.ignore_identical_ids == suite.startswith("beir")


def test_translations(tmp_path: Path) -> None:
    rows = [
        {"lang": "deu", "id": 0, "src": "Hallo.", "en": "Hello."},
        {"lang": "fra", "id": 0, "src": "Salut.", "tgt": "Hello."},
        {"lang": "deu", "id": 1, "query": "Ja.", "pos": ["Yes."]},
    ]
    folder = written(tmp_path / "tatoeba", {"pairs.jsonl.gz": packed(rows)})
    expected = [
        Bitext("tatoeba/deu", "bitext", "deu", ("Hallo.", "Ja."), ("Hello.", "Yes.")),
        Bitext("tatoeba/fra", "bitext", "fra", ("Salut.",), ("Hello.",)),
    ]
    assert load(f"bitext:{folder}") == load(f"bitext:{folder}/pairs.jsonl.gz") == expected
    assert load(f"bitext:{folder}", languages=["fra"]) == expected[1:]
    written(tmp_path, {"deu-eng.deu": b"Hallo.\n"})
    with pytest.raises(InputError, match="tercet data pairs"):
        load(f"bitext:{tmp_path}/deu-eng.deu")


@pytest.mark.parametrize(
    ("suite", "row", "words"),
    [
        ("pairs", {"text": "raw"}, ":1: a text alone"),
        ("pairs", {"query": "q", "pos": []}, ":1: 'pos' is empty"),
        ("bitext", {"src": "a"}, ":1: a pair is"),
        ("bitext", {"src": "a", "en": " "}, ":1: an empty side"),
        ("bitext", {"query": "a", "pos": ["b", "c"]}, ":1: a pair is"),
    ],
)
def test_bad_rows_are_named(suite: str, row: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        load(f"{suite}:{written(tmp_path, {'rows.jsonl': lines([row])})}/rows.jsonl")


@pytest.mark.parametrize(
    ("text", "suite"),
    [
        ("miracl", Suite("miracl")),
        ("miracl:sw, yo,sw", Suite("miracl", ("sw", "yo"))),
        ("mldr@dev", Suite("mldr", split="dev")),
        ("mldr:de@dev", Suite("mldr", ("de",), split="dev")),
        ("beir:/no/where", Suite("beir", path="/no/where")),
        ("beir:/no/where@dev", Suite("beir", path="/no/where", split="dev")),
        ("beir:/no@where/set", Suite("beir", path="/no@where/set")),
        ("bitext:C:/x", Suite("bitext", path="C:/x")),
    ],
)
def test_names_of_suites(text: str, suite: Suite) -> None:
    assert Suite.parse(text) == suite


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("beer:x", "no suite 'beer'"),
        ("", "no suite ''"),
        ("miracl:xx", "no language 'xx': it has ar"),
        ("mldr:", "name languages"),
        ("mldr@test2", "no split 'test2': it has test"),
        ("beir", "beir needs a path"),
        ("pairs:/no@dev", "pairs has no splits"),
    ],
)
def test_what_is_no_suite(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Suite.parse(text)
