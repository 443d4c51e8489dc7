"""Loaders: small files in the published and in own formats; what is wrong with a file is named."""

import gzip
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
    with pytest.raises(InputError, match=r"hub cannot be reached.*topics.*--local DIR"):
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
            "queries": {lang: f"{lang} {number}?" for lang in ("en", *LANGUAGES["mkqa"])},
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
        for language in LANGUAGES["mkqa"]
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
    assert [task.language for task in found] == list(LANGUAGES["mkqa"])
    first, last = "563260143484355911", "563260143484355915"
    for task in found:
        assert task.queries == {first: f"{task.language} 0?", last: f"{task.language} 4?"}
        assert task.answers is not None
        assert {key: set(strings) for key, strings in task.answers.items()} == {
            first: {"Dave Edmunds", "Edmunds"}, last: {"11.0 year", "1970"}
        }  # fmt: skip
        assert task.corpus is found[0].corpus  # encoded once
        assert task.protocol.measures == ("AnswerRecall@100", "AnswerRecall@20")
        assert (task.protocol.two, task.protocol.three) == (PAPER.two, PAPER.three)
    assert list(found[0].corpus.read()) == [
        ("doc0", 'dave edmunds\n"he" sang - i hear you...'),
        ("doc1", "nothing"),
    ]


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
    (tmp_path / "data").mkdir()
    for number, part in enumerate(
        ([("b", "Who?"), ("b", "Why?")], [("b", "Who?"), ("a", "When?")])
    ):
        rows = [
            {
                "document": {"id": key, "kind": "book", "text": f"Story of {key}"},
                "question": {"text": question, "tokens": question.split()},
                "answers": [{"text": "a", "tokens": ["a"]}],
            }
            for key, question in part
        ]
        name = f"data/test-0000{number}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    (task,) = tasks("narrativeqa", local=tmp_path)
    assert task.queries == {"0": "Who?", "1": "Why?", "2": "Who?", "3": "When?"}
    assert task.qrels == {"0": {"b": 1}, "1": {"b": 1}, "2": {"b": 1}, "3": {"a": 1}}
    assert list(task.corpus.read()) == [("b", "Story of b"), ("a", "Story of a")]
    assert (task.language, task.protocol) == ("en", PAPER_LONG)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "data/test-00000-of-00002.parquet")
    with pytest.raises(InputError, match=r"no column 'document\.id'"):
        load("narrativeqa", local=tmp_path)


def test_the_paper_has_so_many_languages() -> None:
    assert {name: len(set(of)) for name, of in LANGUAGES.items()} == {
        "miracl": 18, "mkqa": 25, "mldr": 13, "narrativeqa": 1
    }  # fmt: skip
    assert "en" not in LANGUAGES["mkqa"]


# Own data

CORPUS = [
    {"_id": "1", "title": "River", "text": "water of the mountain", "metadata": {}},
    {"_id": "2", "title": "", "text": "a city law"},
    {"_id": "3", "text": "music"},
]
QUERIES = [
    {"_id": "a", "text": "law", "lang": "en"},
    {"_id": "b", "text": "Musik", "lang": "de"},
    {"_id": "c", "text": ""},
]
QRELS = "query-id\tcorpus-id\tscore\na\t2\t1\nb\t3\t2\nb\t1\t0\n"


def beir(folder: Path, **changed: Any) -> Path:
    given: dict[str, Any] = {"corpus": CORPUS, "queries": QUERIES, "qrels": QRELS} | changed
    return written(
        folder,
        {
            "corpus.jsonl": lines(given["corpus"]),
            "queries.jsonl": lines(given["queries"]),
            "qrels/test.tsv": given["qrels"].encode(),
        },
    )


def check_beir(task: Task) -> None:
    assert task.queries == {"a": "law", "b": "Musik"}
    assert task.languages == {"a": "en", "b": "de"}
    assert task.qrels == {"a": {"2": 1}, "b": {"3": 2, "1": 0}}
    expected = [("1", "River\nwater of the mountain"), ("2", "a city law"), ("3", "music")]
    assert list(task.corpus.read()) == list(task.corpus.read()) == expected
    assert task.corpus.titles is not None
    assert list(task.corpus.titles()) == [5, 0, 0]


@pytest.mark.parametrize("form", ["plain", "gz", "xz", "parquet"])
def test_a_beir_folder_in_every_form(form: str, tmp_path: Path) -> None:
    folder = beir(tmp_path / "small")
    for path in [*folder.glob("*.jsonl"), *folder.glob("qrels/*")]:
        if form == "gz":
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        elif form == "xz" and path.suffix == ".jsonl":
            path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
        elif form == "parquet" and path.suffix == ".jsonl":
            pa = pytest.importorskip("pyarrow")
            pq = pytest.importorskip("pyarrow.parquet")
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            names = ("_id", "title", "text", "lang")
            table = pa.Table.from_pylist([{n: row.get(n) for n in names} for row in rows])
            (folder / path.stem).mkdir()
            pq.write_table(table, folder / path.stem / f"{path.stem}-00000-of-00001.parquet")
        else:
            continue
        path.unlink()
    (task,) = tasks(f"beir:{folder}")
    check_beir(task)
    assert (task.name, task.suite, task.language) == ("beir/small", "beir", "")


def test_a_folder_of_beir_folders(tmp_path: Path) -> None:
    for name in ("z", "a", "other@split", "forum/android"):
        beir(tmp_path / name)
    (tmp_path / "other@split/qrels/test.tsv").rename(tmp_path / "other@split/qrels/dev.tsv")
    (tmp_path / "notes").mkdir()
    first, *others = tasks(f"beir:{tmp_path}")
    assert first.name == "beir/a"
    assert "left out: other@split" in first.notes[0]
    assert [found.name for found in others] == ["beir/forum/android", "beir/z"]
    assert [found.name for found in load(f"beir:{tmp_path}@dev")] == ["beir/other@split@dev"]
    check_beir(tasks(f"beir:{tmp_path}/other@split@dev")[0])
    with pytest.raises(InputError, match=r"no qrels/test\.tsv: there is dev\.tsv"):
        load(f"beir:{tmp_path}/other@split")


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
        ({"queries": [{"_id": "a"}]}, r"queries\.jsonl:1: a row needs 'text', this one has _id"),
        ({"queries": QUERIES[:1]}, r"1 queries are judged but not here, the first 'b'"),
        ({"queries": [*QUERIES[:2], QUERIES[0]]}, r":3: query 'a' is here a second time"),
        ({"qrels": QRELS + "c\t1\t1\n"}, r"queries\.jsonl:3: query 'c' is empty"),
        ({"qrels": QRELS + "b\t1\t1\n"}, r"test\.tsv:5: passage '1' is judged .* a second time"),
        ({"corpus": [*CORPUS, {"_id": "1", "text": "x"}]}, r":4: the id '1' .*corpus\.jsonl:1"),
        ({"corpus": [{"_id": "1"}]}, r"corpus\.jsonl:1: a row needs 'text'"),
        ({"corpus": [{"_id": "1", "text": 5}]}, r"corpus\.jsonl:1: 'text' must be a string"),
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

    rows = [(f"f:{n}", Same(n), "text") for n in range(5)]
    assert len(list(once_each(lambda: iter(rows), "c"))) == 5
    with pytest.raises(InputError, match=r"f:9: the id '3' has a passage already, in f:3"):
        list(once_each(lambda: iter([*rows, ("f:9", Same(3), "text")]), "c"))


def pairs(task: Task) -> list[tuple[str | None, str, list[str]]]:
    """Prompt, query and relevant passages."""
    passages = dict(task.corpus.read())
    return [
        (task.prompts.get(query), text, [passages[name] for name in task.qrels[query]])
        for query, text in task.queries.items()
    ]


def test_own_pairs(tmp_path: Path) -> None:
    rows = [
        {"query": "q1", "pos": ["p1", "p2"], "neg": ["n1"], "lang": "de"},
        {"query": "q2", "pos": ["n1"], "lang": "fr"},
        {"query": "q1", "pos": ["p3"], "neg": ["p1"], "lang": "de"},
        {"query": "q1", "pos": ["p1"], "prompt": "Find code: "},  # a prompt makes another query
    ]
    (task,) = tasks(f"pairs:{written(tmp_path, {'mine.jsonl': lines(rows)})}/mine.jsonl")
    assert [text for _, text in task.corpus.read()] == ["p1", "p2", "n1", "p3"]
    expected = [
        (None, "q1", ["p1", "p2", "p3"]),
        (None, "q2", ["n1"]),
        ("Find code: ", "q1", ["p1"]),
    ]
    assert pairs(task) == expected
    assert sorted(task.languages.values()) == ["de", "fr"]
    assert task.name == "pairs/mine"
    # the rows' order changes no id
    (turned,) = tasks(f"pairs:{written(tmp_path / 'turned', {'rows.jsonl': lines(rows[::-1])})}")
    assert dict(turned.corpus.read()) == dict(task.corpus.read())
    assert turned.qrels == task.qrels


def bitexts(name: str, **options: Any) -> dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return {
        task.name: (task.language, task.left, task.right)
        for task in load(name, **options)
        if isinstance(task, Bitext)
    }


def test_translations_in_rows(tmp_path: Path) -> None:
    rows = [
        {"lang": "deu", "id": 0, "src": "Hallo.", "en": "Hello."},
        {"lang": "fra", "id": 0, "src": "Salut.", "tgt": "Hello."},
        {"lang": "deu", "id": 1, "query": "Ja.", "pos": ["Yes."]},
    ]
    folder = written(tmp_path / "tatoeba", {"pairs.jsonl.gz": packed(rows)})
    expected = {
        "tatoeba/deu": ("deu", ("Hallo.", "Ja."), ("Hello.", "Yes.")),
        "tatoeba/fra": ("fra", ("Salut.",), ("Hello.",)),
    }
    assert bitexts(f"bitext:{folder}") == bitexts(f"bitext:{folder}/pairs.jsonl.gz") == expected
    assert list(bitexts(f"bitext:{folder}", languages=["fra"])) == ["tatoeba/fra"]


def test_translations_in_aligned_files(tmp_path: Path) -> None:
    sides = {"deu-eng.deu": "Hallo.\nJa.\n", "deu-eng.eng": "Hello.\r\nYes.\r\n",
             "fra-eng.fra": "Salut.", "fra-eng.eng": "Hello."}  # fmt: skip
    written(tmp_path, {f"tatoeba.{name}": text.encode() for name, text in sides.items()})
    pair = (("Hallo.", "Ja."), ("Hello.", "Yes."))
    found = bitexts(f"bitext:{tmp_path}")
    assert found[f"{tmp_path.name}/deu-eng"] == ("deu-eng", *pair)
    assert len(found) == 2
    left, right = tmp_path / "tatoeba.deu-eng.deu", tmp_path / "tatoeba.deu-eng.eng"
    assert [*bitexts(f"bitext:{left},{right}").values()] == [("", *pair)]
    for text, said in (("Hello.\n", "has 2 lines, .* has 1"), ("Hello.\n\n", "eng:2: an empty")):
        right.write_text(text)
        with pytest.raises(InputError, match=said):
            load(f"bitext:{tmp_path}")
    right.unlink()
    with pytest.raises(InputError, match="the other side of deu-eng is missing"):
        load(f"bitext:{tmp_path}")


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
