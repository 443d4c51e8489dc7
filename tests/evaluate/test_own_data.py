"""Own data: BEIR folders, pairs and translations; what is wrong with a file is named."""

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from tercet.errors import InputError
from tercet.evaluate.loaders import passages
from tercet.evaluate.suites import Suite, load
from tercet.evaluate.tasks import Bitext, Task

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


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def beir(folder: Path, **changed: Any) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", CORPUS), ("queries", QUERIES)):
        (folder / f"{name}.jsonl").write_bytes(lines(changed.get(name, rows)))
    (folder / "qrels/test.tsv").write_text(changed.get("qrels", QRELS))
    return folder


def task(name: str, **options: Any) -> Task:
    (found,) = load(name, **options)
    assert isinstance(found, Task)
    return found


def check(found: Task) -> None:
    assert found.queries == {"a": "law", "b": "Musik"}
    assert found.languages == {"a": "en", "b": "de"}
    assert found.qrels == {"a": {"2": 1}, "b": {"3": 2, "1": 0}}
    expected = [("1", "River\nwater of the mountain"), ("2", "a city law"), ("3", "music")]
    assert list(found.corpus.read()) == list(found.corpus.read()) == expected


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
    found = task(f"beir:{folder}")
    check(found)
    assert (found.name, found.suite, found.language) == ("beir/small", "beir", "")


def test_a_folder_of_beir_folders(tmp_path: Path) -> None:
    for name in ("z", "a", "other@split"):
        beir(tmp_path / name)
    (tmp_path / "other@split/qrels/test.tsv").rename(tmp_path / "other@split/qrels/dev.tsv")
    (tmp_path / "notes").mkdir()
    beir(tmp_path / "forum/android")
    first, *others = load(f"beir:{tmp_path}")
    assert isinstance(first, Task)
    assert (first.name, first.notes) == (
        "beir/a",
        ("beside it without a qrels/test.tsv, and left out: other@split",),
    )
    assert [found.name for found in others] == ["beir/forum/android", "beir/z"]
    assert [found.name for found in load(f"beir:{tmp_path}@dev")] == ["beir/other@split@dev"]
    check(task(f"beir:{tmp_path}/other@split@dev"))
    with pytest.raises(InputError, match=r"no qrels/test\.tsv: there is dev\.tsv"):
        load(f"beir:{tmp_path}/other@split")


def test_one_language_of_all_queries_is_the_tasks(tmp_path: Path) -> None:
    folder = beir(tmp_path / "de", queries=[{**row, "lang": "de"} for row in QUERIES])
    found = task(f"beir:{folder}", languages=["de"])
    assert (found.language, found.languages) == ("de", {})
    with pytest.raises(InputError, match="nothing in the language 'fr': there is de"):
        load(f"beir:{folder}", languages=["fr"])


def test_queries_of_some_languages(tmp_path: Path) -> None:
    folder = beir(tmp_path / "mixed")
    found = task(f"beir:{folder}", languages=["de"])
    assert found.queries == {"b": "Musik"}
    assert found.qrels == {"b": {"3": 2, "1": 0}}
    check(task(f"beir:{folder}", languages=["de", "en"]))
    with pytest.raises(InputError, match="nothing in the language 'fr': there is de, en"):
        load(f"beir:{folder}", languages=["fr"])


def test_a_prompt_makes_another_query(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "pos": ["p1"], "prompt": "Find code: "},
        {"query": "q", "pos": ["p2"]},
        {"query": "q", "pos": ["p3"], "prompt": "Find code: "},
    ]
    (tmp_path / "rows.jsonl").write_bytes(lines(rows))
    found = task(f"pairs:{tmp_path / 'rows.jsonl'}")
    passages = dict(found.corpus.read())
    asked = [
        (found.prompts.get(query), text, [passages[name] for name in found.qrels[query]])
        for query, text in found.queries.items()
    ]
    assert asked == [("Find code: ", "q", ["p1", "p3"]), (None, "q", ["p2"])]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"queries": [{"_id": "a"}]}, r"queries\.jsonl:1: a row needs 'text', this one has _id"),
        ({"queries": QUERIES[:1]}, r"1 queries are judged but not here, the first 'b'"),
        ({"queries": [*QUERIES[:2], QUERIES[0]]}, r":3: query 'a' is here a second time"),
        ({"qrels": QRELS + "c\t1\t1\n"}, r"queries\.jsonl:3: query 'c' is empty"),
        ({"qrels": QRELS + "b\t1\t1\n"}, r"test\.tsv:5: passage '1' is judged .* a second time"),
        ({"qrels": QRELS + "b\t2\thigh\n"}, r"test\.tsv:5: the gain 'high'"),
    ],
)
def test_bad_queries_and_judgements_are_named(
    changed: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = beir(tmp_path / "bad", **changed)
    with pytest.raises(InputError, match=words):
        load(f"beir:{folder}")


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        ([*CORPUS, {"_id": "1", "text": "x"}], r"corpus\.jsonl:4: the id '1' .*corpus\.jsonl:1"),
        ([{"_id": "1"}], r"corpus\.jsonl:1: a row needs 'text'"),
        ([{"_id": "1", "text": 5}], r"corpus\.jsonl:1: 'text' must be a string, not 5"),
        ([{"_id": "", "text": "x"}], r"corpus\.jsonl:1: '_id' is empty"),
        ([], "no passage"),
    ],
)
def test_bad_passages_are_named(corpus: list[Any], words: str, tmp_path: Path) -> None:
    folder = beir(tmp_path / "bad", corpus=corpus)
    with pytest.raises(InputError, match=words):
        list(task(f"beir:{folder}").corpus.read())


def test_titles_are_told_where_files_have_them(tmp_path: Path) -> None:
    corpus = task(f"beir:{beir(tmp_path / 'set')}").corpus
    assert corpus.titles is not None
    both = zip(corpus.read(), corpus.titles(), strict=True)
    assert [text[:size] for (_, text), size in both] == ["River", "", *[""] * (len(CORPUS) - 2)]


def test_ids_of_the_same_hash_are_no_duplicates() -> None:
    class Same(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 7

    rows = [(f"f:{n}", Same(n), "text") for n in range(5)]
    assert len(list(passages.once_each(lambda: iter(rows), "c"))) == 5
    with pytest.raises(InputError, match=r"f:9: the id '3' has a passage already, in f:3"):
        list(passages.once_each(lambda: iter([*rows, ("f:9", Same(3), "text")]), "c"))


def test_own_pairs(tmp_path: Path) -> None:
    rows = [
        {"query": "q1", "pos": ["p1", "p2"], "neg": ["n1"], "lang": "de"},
        {"query": "q2", "pos": ["n1"], "lang": "fr"},
        {"query": "q1", "pos": ["p3"], "neg": ["p1"], "lang": "de"},
    ]
    path = tmp_path / "mine.jsonl.gz"
    path.write_bytes(gzip.compress(lines(rows)))
    found = task(f"pairs:{path}")
    passages = dict(found.corpus.read())
    assert list(passages.values()) == ["p1", "p2", "n1", "p3"]
    relevant = {
        found.queries[query]: {passages[name]: gain for name, gain in gains.items()}
        for query, gains in found.qrels.items()
    }
    assert relevant == {"q1": {"p1": 1, "p2": 1, "p3": 1}, "q2": {"n1": 1}}
    assert sorted(found.languages.values()) == ["de", "fr"]
    assert found.name == "pairs/mine"
    # the rows' order changes no id
    (tmp_path / "turned").mkdir()
    (tmp_path / "turned/rows.jsonl").write_bytes(lines(rows[::-1]))
    turned = task(f"pairs:{tmp_path / 'turned'}")
    assert dict(turned.corpus.read()) == passages
    assert turned.qrels == found.qrels


@pytest.mark.parametrize(
    ("row", "words"),
    [({"text": "raw"}, ":1: a text alone"), ({"query": "q", "pos": []}, ":1: 'pos' is empty")],
)
def test_bad_pairs_are_named(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines([row]))
    with pytest.raises(InputError, match=words):
        load(f"pairs:{path}")


def bitexts(name: str, **options: Any) -> dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]:
    found = load(name, **options)
    assert all(isinstance(one, Bitext) for one in found)
    return {one.name: (one.language, one.left, one.right)
            for one in found if isinstance(one, Bitext)}  # fmt: skip


def test_translations_in_rows(tmp_path: Path) -> None:
    rows = [
        {"lang": "deu", "id": 0, "src": "Hallo.", "en": "Hello."},
        {"lang": "fra", "id": 0, "src": "Salut.", "en": "Hello."},
        {"lang": "deu", "id": 1, "query": "Ja.", "pos": ["Yes."]},
    ]
    folder = tmp_path / "tatoeba"
    folder.mkdir()
    (folder / "pairs.jsonl.gz").write_bytes(gzip.compress(lines(rows)))
    expected = {
        "tatoeba/deu": ("deu", ("Hallo.", "Ja."), ("Hello.", "Yes.")),
        "tatoeba/fra": ("fra", ("Salut.",), ("Hello.",)),
    }
    assert bitexts(f"bitext:{folder}") == bitexts(f"bitext:{folder}/pairs.jsonl.gz") == expected
    assert list(bitexts(f"bitext:{folder}", languages=["fra"])) == ["tatoeba/fra"]


def test_translations_in_aligned_files(tmp_path: Path) -> None:
    (tmp_path / "tatoeba.deu-eng.deu").write_text("Hallo.\nJa.\n")
    (tmp_path / "tatoeba.deu-eng.eng").write_bytes(b"Hello.\r\nYes.\r\n")
    (tmp_path / "tatoeba.fra-eng.fra").write_text("Salut.")
    (tmp_path / "tatoeba.fra-eng.eng").write_text("Hello.")
    found = bitexts(f"bitext:{tmp_path}")
    pair = (("Hallo.", "Ja."), ("Hello.", "Yes."))
    assert found[f"{tmp_path.name}/deu-eng"] == ("deu-eng", *pair)
    assert len(found) == 2
    left, right = tmp_path / "tatoeba.deu-eng.deu", tmp_path / "tatoeba.deu-eng.eng"
    (two,) = bitexts(f"bitext:{left},{right}").values()
    assert two == ("", *pair)
    right.write_text("Hello.\n")
    with pytest.raises(InputError, match=r"has 2 lines, .* has 1"):
        load(f"bitext:{tmp_path}")
    right.write_text("Hello.\n\n")
    with pytest.raises(InputError, match=r"deu-eng\.eng:2: an empty side"):
        load(f"bitext:{tmp_path}")
    right.unlink()
    with pytest.raises(InputError, match="the other side of deu-eng is missing"):
        load(f"bitext:{tmp_path}")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"src": "a"}, ":1: a pair is"),
        ({"src": "a", "en": " "}, ":1: an empty side"),
        ({"query": "a", "pos": ["b", "c"]}, ":1: a pair is"),
    ],
)
def test_bad_translations_are_named(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines([row]))
    with pytest.raises(InputError, match=words):
        load(f"bitext:{path}")


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
        ("pairs:", "pairs needs a path"),
        ("pairs:/no@dev", "pairs has no splits"),
    ],
)
def test_what_is_no_suite(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Suite.parse(text)


def test_a_local_copy_is_for_published_suites(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is local anyway"):
        load(f"beir:{tmp_path}", local=tmp_path)
    with pytest.raises(InputError, match="neither a BEIR folder nor a folder of them"):
        load(f"beir:{tmp_path}")
    with pytest.raises(InputError, match="miracl:sw has no language 'de'"):
        load("miracl:sw", local=tmp_path, languages=["de"])
