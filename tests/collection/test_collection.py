"""A collection adds, finds, filters, deletes, and is opened, refused and rebuilt as it says."""

import datetime as dt
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import huggingface_hub
import numpy as np
import pytest
from hashed import HashedEncoder

from tercet.collection import Collection
from tercet.collection.sync import Change, SyncState
from tercet.config import MODES, Weights
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError, StoreError
from tercet.explanation import explain
from tercet.index import GraphOptions
from tercet.records import Document, Span
from tercet.scores import dense_scores, lexical_scores, maxsim_scores

CORPUS = [
    Document("bread", "Bread is baked from flour and water.", "Baking", language="en"),
    Document("river", "The river carries cold water to the sea.", metadata={"kind": "nature"}),
    Document("moon", "The moon turns around the earth.", metadata={"kind": "sky", "year": 1969}),
]


@pytest.fixture(params=["exact", "graph"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def filled(collection: Collection) -> Collection:
    collection.add(CORPUS)
    return collection


def long_text(sentences: int, about: str) -> str:
    return " ".join(f"Sentence {number} says more about {about}." for number in range(sentences))


def test_a_word_alone_does_not_outrank_an_answer(tmp_path: Path) -> None:
    encoder = Encoder.load()
    answer = "The washing machine makes 72 decibels of noise when it spins."
    documents = [Document(text, text) for text in ("fine", "hello", "loud", answer)]
    with Collection.open(tmp_path / "c", encoder) as collection:
        collection.add(documents)
        [noise, word] = collection.search(["noise", "fine"], k=4)
        assert collection.min_score == encoder.min_score
        assert 0 < (encoder.min_score or 0) < noise[0].score
    assert noise[0].text == answer
    assert word[0].text == "fine"
    [hello] = [hit for hit in noise if hit.text == "hello"]
    query, passage = encoder.encode(["noise"], role="query"), encoder.encode(["hello"])
    assert passage.lengths is not None
    factor = 1 - 0.2 * (7 - passage.lengths[0]) / 6
    for score, exact in ((hello.dense, dense_scores), (hello.multi, maxsim_scores)):
        assert score == pytest.approx(factor * exact(query, passage)[0, 0], abs=2e-3)


def test_documents_are_found_by_another_process_until_they_are_deleted(
    memory: Path, encoder: HashedEncoder, backend: Any
) -> None:
    with Collection.open(memory / "c", encoder, backend=backend) as collection:
        report = collection.add(CORPUS)
        assert (report.added, report.updated, report.chunks, len(collection)) == (3, 0, 3, 3)
    with Collection.open(memory / "c", encoder) as collection:
        for mode in MODES:
            answers = collection.search(["cold river sea", "flour for bread"], k=2, mode=mode)
            assert [hits[0].id for hits in answers] == ["river", "bread"], mode
        hit = collection.search(["flour"], k=1)[0][0]
        assert (hit.text, hit.title) == (CORPUS[0].text, "Baking")
        assert (hit.span, hit.language) == (Span(0, len(CORPUS[0].text)), "en")
        parts = np.array([hit.dense, hit.sparse, hit.multi])
        assert hit.score == pytest.approx(parts @ encoder.weights.as_tuple(), abs=1e-4)
        assert collection.delete(["river", "nobody"]) == 1
        assert "river" not in collection
        assert len(collection.index) == len(collection) == 2
        assert {hit.id for hit in collection.search(["cold river"])[0]} == {"bread", "moon"}
        info = collection.info()
        assert (info.documents, info.chunks) == (2, 2)
        assert info.settings.fingerprint == encoder.fingerprint
        assert min(info.bytes[name] for name in ("dense", "sparse", "multi", "documents")) > 0


def test_only_what_changed_is_encoded_with_its_title(
    filled: Collection, encoder: HashedEncoder
) -> None:
    assert encoder.texts == ["Baking\n" + CORPUS[0].text, CORPUS[1].text, CORPUS[2].text]
    encoder.texts.clear()
    changed = replace(CORPUS[1], text="The lake lies still.")
    report = filled.add([CORPUS[0], changed, CORPUS[2]])
    assert (report.added, report.updated, report.unchanged) == (0, 1, 2)
    assert encoder.texts == [changed.text]
    assert filled.search(["lake"], k=1)[0][0].id == "river"
    assert all(hit.text != CORPUS[1].text for hit in filled.search(["river"])[0])
    report = filled.add([Document("a", "first"), Document("a", "second")])
    assert (report.added, report.updated, len(filled)) == (1, 1, 4)
    assert filled.search(["second"], k=1)[0][0].text == "second"  # as given last


def test_the_best_chunk_stands_for_its_document(memory: Path, encoder: HashedEncoder) -> None:
    many = [Document(f"d{n}", long_text(60, "rivers") + f" Only mark{n}.") for n in range(4)]
    with Collection.open(memory, encoder, backend="exact", chunk=32, overlap=4) as collection:
        collection.add([*many, *CORPUS])
        hits = collection.search(["more about rivers"], k=6)[0]
        assert len({hit.id for hit in hits}) == len(hits) == 6  # beyond the chunks of four
        chunks = collection.search(["more about rivers"], k=6, chunks=True)[0]
        assert len({hit.id for hit in chunks}) < 6
        assert hits[0] == chunks[0]
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        best = collection.search(["mark2"], k=1)[0][0]
        assert best.id == "d2"
        assert best.text == many[2].text[best.span.start : best.span.end]
        assert best.text.endswith("Only mark2.")
        for mode in ("dense", "multi", "hybrid"):  # every document where k is large
            hits = collection.search(["rivers"], k=50, mode=mode, candidates=1)[0]
            assert len({hit.id for hit in hits}) == 7


def test_filters_and_weights_decide(filled: Collection) -> None:
    filters: list[tuple[Any, set[str]]] = [
        ({"kind": ["sky", "nature"]}, {"moon", "river"}),
        ({"language": "en"}, {"bread", "moon", "river"}),
        ({"year": 1969, "kind": "sky"}, {"moon"}),
        ({"year": 1970}, set()),
    ]
    for filter, ids in filters:
        assert {hit.id for hit in filled.search(["water"], filter=filter)[0]} == ids
    (hit,) = filled.search(["moon"], k=1, weights=Weights(0, 1, 0))[0]
    assert hit.score == hit.sparse
    filled.keep_weights(Weights(1, 0, 0))
    (hit,) = filled.search(["moon"], k=1)[0]
    assert hit.score == hit.dense
    assert filled.info().filters == {"kind": 2, "language": 3, "year": 1}
    wrong: tuple[Any, ...] = (5, "kind", [("kind", "b")])
    for given in wrong:
        with pytest.raises(InputError, match="a filter is a dict"):
            filled.search(["river"], filter=given)
    with pytest.raises(InputError, match="'kin' to filter by: the keys are kind, language, year"):
        filled.search(["water"], filter={"kind": "sky", "kin": "sky"})


def test_what_holds_the_identifiers_of_a_query_stands_first(
    collection: Collection, encoder: HashedEncoder
) -> None:
    encoder.weights = Weights(1, 0.05, 0.5)
    near = Document("near", "The display of the machine shows error E15 or E141.")
    titled = Document("titled", "A full sieve.", title="e-14")
    deep = Document("deep", long_text(200, "machines") + " Fault e 14: blocked. " + near.text * 9)
    collection.add([near, titled, deep, *CORPUS])
    question = "machine error E14"
    by_sum = collection.search([question], mode="dense")[0]
    assert (by_sum[0].id, by_sum[0].exact) == ("near", None)
    [exact, plain] = collection.search([question, "machine error"])
    assert {hit.id: hit.exact for hit in exact if hit.exact} == {"titled": 1.0, "deep": 1.0}
    assert {hit.id for hit in exact[:2]} == {"titled", "deep"}
    assert "Fault e 14" in next(hit.text for hit in exact if hit.id == "deep")
    for hit in (*exact, *plain):
        parts = np.array([hit.dense, hit.sparse, hit.multi])
        total = parts @ encoder.weights.as_tuple() + (hit.exact or 0)
        assert hit.score == pytest.approx(total, abs=1e-4)
    assert {hit.exact for hit in plain} == {None}
    assert plain[0].id == "near"
    both = collection.search(["E14 or E15"], k=20, candidates=1)[0]
    assert {hit.id: hit.exact for hit in both} == (
        {"near": 0.5, "titled": 0.5, "deep": 1.0} | dict.fromkeys(("bread", "river", "moon"), 0.0)
    )
    assert [hit.score for hit in both] == sorted((hit.score for hit in both), reverse=True)


def test_queries_that_are_encoded_already_need_no_model(
    memory: Path, encoder: HashedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = ["cold river", "flour"]
    with Collection.open(memory / "c", encoder) as collection:
        collection.add(CORPUS)
        want = collection.search(queries, weights=(1, 0.5, 2))
    vectors = encoder.encode(queries, role="query")
    monkeypatch.setattr("tercet.collection._load", lambda source: pytest.fail("loads a model"))
    with Collection.open(memory / "c", read_only=True) as collection:
        assert collection.search(queries, vectors=vectors, weights=(1, 0.5, 2)) == want
        assert collection.search(queries[1:], vectors=vectors[[1]], weights=(1, 0.5, 2)) == want[1:]
        (hit,) = collection.search(queries[:1], vectors=vectors[[0]], k=1, mode="dense")[0]
        assert (hit.id, hit.score) == ("river", hit.dense)
        with pytest.raises(InputError, match="keeps no weights of the hybrid sum, and its model"):
            collection.search(queries, vectors=vectors)
        with pytest.raises(InputError, match="2 vectors for 1 questions: give one each"):
            collection.search(queries[:1], vectors=vectors, weights=(1, 0.5, 2))
        with pytest.raises(
            StoreError, match="vectors of the model 'hashed-0-fingerprint', not of 'other'"
        ):
            others = replace(vectors, fingerprint="other")
            collection.search(queries, vectors=others, weights=(1, 0.5, 2))
    with Collection.open(memory / "c", encoder) as collection:
        own = collection.search(queries)
        monkeypatch.setattr(encoder, "encode", lambda *_, **__: pytest.fail("asks the model"))
        assert collection.search(queries, vectors=vectors) == own
        collection.keep_weights((1, 0.5, 2))
    with Collection.open(memory / "c", read_only=True) as collection:
        assert collection.search(queries, vectors=vectors) == want


def test_hits_below_the_least_score_are_left_out(
    filled: Collection, encoder: HashedEncoder
) -> None:
    for mode in MODES:
        hits = filled.search(["cold water of a river"], mode=mode)[0]
        least = hits[1].score if len(hits) > 1 else hits[0].score
        kept = filled.search(["cold water of a river"], mode=mode, min_score=least)[0]
        assert kept == [hit for hit in hits if hit.score >= least]
        assert kept
    assert filled.search(["river"], min_score=1e6) == [[]]
    encoder.min_score = 0.5
    assert filled.min_score == 0.5
    filled.keep_weights((1, 0.5, 2))  # it belongs to others
    assert filled.min_score is None


def test_a_filter_takes_the_values_that_metadata_takes(collection: Collection) -> None:
    values: list[Any] = [
        dt.date(2024, 1, 2), np.datetime64("2024-01-02"), Decimal("1.5"), UUID(int=1), 2**80,
        np.float32(1.5), np.array([1, 2]), {"a", "b"}, {"part": {"of": "it"}}, float("nan"), " a ",
    ]  # fmt: skip
    rows = [Document(f"d{n}", "Water.", metadata={f"k{n}": v}) for n, v in enumerate(values)]
    collection.add(rows)
    for row in rows:
        assert [hit.id for hit in collection.search(["water"], filter=row.metadata)[0]] == [row.id]
    nothings: list[Any] = [None, [], [None], {}, b"a", Path("a"), 1j]
    for nothing in nothings:
        with pytest.raises(InputError, match=r"names no value|'k0' is"):
            collection.search(["water"], filter={"k0": nothing})


def test_a_path_that_is_not_there_is_an_error(collection: Collection, tmp_path: Path) -> None:
    typos: list[Any] = ["typo", ["typo", tmp_path / "typo.txt"]]
    for typo in typos:
        with pytest.raises(InputError, match="typo: no such file or folder"):
            collection.add(typo)
    (tmp_path / "a.txt").write_text("a river")
    report = collection.add([tmp_path / "typo.txt", tmp_path / "a.txt"])  # the rest goes on
    assert (report.added, [problem.failed for problem in report.skipped]) == (1, [True])
    assert [document.id for document in collection.documents()] == [(tmp_path / "a.txt").as_posix()]


def test_inputs_come_in_any_iterable(filled: Collection) -> None:
    want = filled.search(["moon", "bread"], k=2, weights=Weights(1, 0.5, 2))
    for queries in (iter(["moon", "bread"]), np.array(["moon", "bread"])):
        got = filled.search(queries, k=np.int64(2), weights=(1, 0.5, 2))  # type: ignore[arg-type]
        assert got == want
    assert filled.add(Document("one", "A single document.")).added == 1
    filled.keep_weights((1, float(np.float32(0.5)), 2))
    assert filled.weights == Weights(1, 0.5, 2)
    assert 5 not in filled
    assert None not in filled
    assert filled.delete({"one"}) == 1


def test_what_cannot_be_asked_is_refused(filled: Collection) -> None:
    assert filled.search([]) == []
    wrong_options: list[dict[str, Any]] = [
        *({"k": k} for k in (0, 1.5, None, True)),
        *({"candidates": count} for count in (0, 1.5)),
        *({"weights": weights} for weights in ((1, 1), (np.nan, 1, 1), (), "111")),
        *({"queries": queries} for queries in ([" "], "text", None, [None], {"a": "b"}, b"text")),
        *({"min_score": least} for least in ("1", float("nan"))),
        {"mode": "best"},
    ]
    for wrong in wrong_options:
        with pytest.raises(InputError):
            filled.search(**{"queries": ["x"], **wrong})
    for ids in ("bread", None, [7], b"bread"):
        with pytest.raises(InputError):
            filled.delete(ids)  # type: ignore[arg-type]
    wrong_items: list[Any] = [[CORPUS[0], "a.txt"], ["a.txt", CORPUS[0]], [Document("e", None)]]  # type: ignore[arg-type]
    wrong_items += [None, 7, b"a.txt", {"e": "text"}, [None], [{"id": "e"}]]
    for items in wrong_items:
        with pytest.raises(InputError):
            filled.add(items)


def test_strange_texts_are_stored_and_found(collection: Collection) -> None:
    texts = ["lone \ud800 surrogate", "nul \0 character", "x" * 100_000, "\u200bmark\u200b", "…!"]
    assert collection.search(["anything"]) == [[]]
    report = collection.add([Document(f"d{n}", text) for n, text in enumerate(texts)])
    assert report.added == len(texts)
    assert collection.search(["lone surrogate"], k=1)[0][0].text == "lone \ufffd surrogate"
    assert collection.add([Document("d0", texts[0])]).unchanged == 1
    empty = collection.add([Document("e", " \0 ", source="e.txt")])
    assert [(problem.source, problem.failed) for problem in empty.skipped] == [("e.txt", False)]


def test_a_long_text_comes_in_bounded_pieces(
    memory: Path, encoder: HashedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    encode = encoder.encode

    def measured(texts: list[str], **options: Any) -> Any:
        sizes.append(sum(map(len, texts)))
        return encode(texts, **options)

    monkeypatch.setattr(encoder, "encode", measured)
    with Collection.open(memory, encoder, backend="exact", heads=["sparse"]) as collection:
        text = long_text(9000, "rivers") + " At the end a zebra."
        assert collection.add([Document("long", text)]).chunks > 100
        assert max(sizes) < 300_000 < sum(sizes)
        hits = collection.search(["zebra"], k=1, mode="sparse")[0]
        assert hits[0].text.endswith("zebra.")


def test_whole_documents_are_one_row_and_truncation_is_told(
    memory: Path, encoder: HashedEncoder
) -> None:
    told: list[Change] = []
    with Collection.open(memory, encoder, backend="exact", chunk=0) as collection:
        documents = [Document("long", "word " * 9000), Document("fits", "word " * 8000)]
        report = collection.add(documents, report=told.append)
    assert (report.chunks, report.truncated) == (2, 1)
    assert [change.id for change in told if change.kind == "truncated"] == ["long"]


@pytest.mark.parametrize("sentences", [4, 3000])
def test_late_chunks_are_rows_of_a_pass_over_their_surroundings(
    memory: Path, encoder: HashedEncoder, sentences: int
) -> None:
    text = long_text(sentences, "rivers") + " Only here stands mark."
    with Collection.open(
        memory, encoder, backend="exact", chunk=32, overlap=4, late_chunking=True
    ) as collection:
        report = collection.add([Document("a", text, "A title")])
        assert report.truncated == 0
        assert (report.chunks > 500) == (sentences > 500)
        assert len(encoder.texts) == (1 if sentences < 1000 else 3)
        assert all(passed.startswith("A title\nSentence") for passed in encoder.texts)
        for question, begin, end, shared in (
            ("mark", "", "Only here stands mark.", 1.0),
            ("sentence 0", "Sentence 0 ", "", 2.0),
        ):
            hit = collection.search([question], k=1)[0][0]
            assert hit.text == text[hit.span.start : hit.span.end]
            assert hit.text.startswith(begin)
            assert hit.text.endswith(end)
            assert hit.sparse == shared  # the row is that of the chunk, not of its neighbour
        # another model reads less at once: passes are cut as it reads, whatever was before
        encoder.texts.clear()
        encoder.max_length = 132
        collection.rebuild()
        assert len(encoder.texts) > len(text) // 1000
        assert max(len(passed.split()) for passed in encoder.texts) < 132


def test_progress_grows_to_the_end(memory: Path, encoder: HashedEncoder) -> None:
    seen: list[SyncState] = []
    for name in ("a", "b"):
        (memory / f"{name}.txt").write_text(long_text(4000, name))
    with Collection.open(memory / "c", encoder, backend="exact") as collection:
        collection.add([memory / "a.txt", memory / "b.txt"], progress=seen.append)
    sizes = sum((memory / f"{name}.txt").stat().st_size for name in ("a", "b"))
    assert {state.total for state in seen} == {sizes}
    assert seen[-1].done == sizes
    assert len(seen) > 4
    for before, after in pairwise(seen):
        assert before.done <= after.done
        assert before.tokens <= after.tokens


def test_options_are_fixed_when_it_is_made(memory: Path, encoder: HashedEncoder) -> None:
    path = memory / "c"
    wrong_options: list[dict[str, Any]] = [
        {"chunk": 3},
        {"chunk": 8193},
        *({name: value} for name in ("chunk", "overlap") for value in (-1, 64.0, "x")),
        *({"late_chunking": value} for value in (0, "no")),
        *({"multi_pool": value} for value in (0, 1.5, "x")),
        {"heads": ["multi"]},
        {"heads": ["x"]},
        {"backend": "x"},
        {"dtype": "float8"},
    ]
    for wrong in wrong_options:
        with pytest.raises(InputError):
            Collection.open(path, encoder, **wrong)
    with pytest.raises(InputError):
        Collection.open(path, HashedEncoder(heads=("dense",)), heads=["sparse"])
    assert not (path / "documents.sqlite").exists()
    Collection.open(path, encoder, backend="exact", chunk=64).close()
    with Collection.open(path, encoder, chunk=64) as collection:
        assert collection.settings.overlap == 8
    with pytest.raises(InputError, match="chunk = 64, not 128"):
        Collection.open(path, encoder, chunk=128)


def test_usearch_that_was_installed_since_is_used_by_the_next_call(
    memory: Path, encoder: HashedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [Document(str(n), f"Text {n}") for n in range(30)]
    for there in (False, True):
        monkeypatch.setattr("tercet.index.graph.HNSW", there)
        with Collection.open(memory / "c", encoder, graph=GraphOptions(rows=10)) as collection:
            assert collection.add(documents).unchanged == (30 if there else 0)
        graphs = [path.name for path in (memory / "c").rglob("graph-*")]
        assert graphs == [f"graph-{1 + there:06d}"]
        assert bool(list((memory / "c").rglob("dense.usearch"))) == there


def test_another_models_vectors_are_refused_until_rebuilt(
    memory: Path, encoder: HashedEncoder, backend: Any
) -> None:
    with Collection.open(memory, encoder, backend=backend) as collection:
        collection.add(CORPUS)
    other = HashedEncoder(seed=1)
    with pytest.raises(StoreError, match="another model"):
        Collection.open(memory, other)
    seen: list[SyncState] = []
    with Collection.open(
        memory, other, rebuild=True, heads=["sparse"], progress=seen.append
    ) as collection:
        assert (seen[-1].done, seen[-1].total) == (3, 3)
        assert len(other.texts) == 3  # each once
        assert collection.settings.fingerprint == other.fingerprint
        assert collection.search(["moon"], k=1, mode="sparse")[0][0].id == "moon"
        collection.add([Document("new", "something new")])
    with Collection.open(memory, other) as collection:
        assert collection.settings.heads == ("sparse",)
        assert len(collection.index) == 4
    assert len(list(memory.glob("index-*"))) == 1


def test_a_damaged_index_is_named_and_made_again(
    filled: Collection, encoder: HashedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            filled.rebuild()
    assert filled.search(["moon"], k=1)[0][0].id == "moon"  # a failed rebuild changes nothing
    assert len(list(filled.path.glob("index-*"))) == 1
    filled.close()
    (filled.path / "index-000001" / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="rebuild=True"):
        Collection.open(filled.path, encoder)
    with Collection.open(filled.path, encoder, rebuild=True) as again:
        assert again.search(["moon"], k=1)[0][0].id == "moon"


def test_where_there_is_none_and_none_may_be_made(memory: Path, encoder: HashedEncoder) -> None:
    with pytest.raises(StoreError):
        Collection.open(memory / "c", encoder, create=False)
    assert not (memory / "c").exists()
    (memory / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"notes\.txt"):
        Collection.open(memory, encoder)
    with pytest.raises(StoreError):
        Collection.open(memory / "notes.txt", encoder)


def test_a_second_owner_is_told_the_first_ones_pid(memory: Path, encoder: HashedEncoder) -> None:
    Collection.open(memory, encoder, backend="exact").close()
    code = (
        "import sys; from pathlib import Path; from tercet.index.store import Lock\n"
        "lock = Lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(memory)]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"held\n"
    with pytest.raises(StoreError, match=f"process {owner.pid}"):
        Collection.open(memory, encoder)
    owner.kill()
    owner.communicate()
    assert (memory / "lock").read_text().strip() == str(owner.pid)  # stale, and no lock
    Collection.open(memory, encoder).close()


def test_a_closed_collection_says_so(collection: Collection) -> None:
    collection.close()
    collection.close()
    for call in (
        lambda: len(collection),
        lambda: collection.search(["x"]),
        lambda: collection.add([]),
        collection.info,
        collection.rebuild,
    ):
        with pytest.raises(StoreError):
            call()


# With a real model


@pytest.mark.parametrize(("late", "pool"), [(False, 1), (True, 1), (False, 3), (True, 3)])
def test_a_real_model_is_recorded_loaded_again_and_finds_its_own_texts(
    memory: Path, tiny_checkpoint: Path, backend: Any, late: bool, pool: int
) -> None:
    encoder = Encoder.load(tiny_checkpoint, dtype="float32")
    places = ["city", "river", "garden", "mountain", "bridge"]
    documents = [
        Document(place, " ".join(f"The {place} of the {other} in winter." for other in places * 4))
        for place in places
    ]
    with Collection.open(
        memory / "c", encoder, backend=backend, chunk=64, late_chunking=late, multi_pool=pool
    ) as collection:
        report = collection.add(documents)
        assert report.truncated == 0
        assert report.chunks > 2 * len(documents)
    question = "the garden of the city"
    query = encoder.encode([question], role="query")
    with Collection.open(memory / "c") as collection:  # loads the model that it was made with
        assert collection.search([question], k=1)[0]
        assert collection.encoder.source == str(tiny_checkpoint)
    with Collection.open(memory / "c", encoder) as collection:
        hits = collection.search([question], k=99, chunks=True, candidates=None)[0]
    assert len(hits) == report.chunks
    for document in documents:
        mine = [hit for hit in hits if hit.id == document.id]
        spans = [(hit.span.start, hit.span.end) for hit in mine]
        if late:  # such a document fits in one pass
            rows = encoder.encode_spans([document.text], [spans], multi_pool=pool)
        else:
            rows = encoder.encode(
                [document.text[start:end] for start, end in spans], multi_pool=pool
            )
        for part, name in (
            (dense_scores(query, rows), "dense"),
            (lexical_scores(query, rows), "sparse"),
            (maxsim_scores(query, rows), "multi"),
        ):
            assert [getattr(hit, name) for hit in mine] == pytest.approx(part[0], abs=3e-3), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "int8"},
        {"heads": ["dense", "sparse"]},
        {"late_chunking": True},
        {"multi_pool": 2},
    ],
)
def test_hits_are_highlighted_from_what_is_stored(
    memory: Path, tiny_checkpoint: Path, options: Any
) -> None:
    encoder = Encoder.load(tiny_checkpoint, dtype="float32")
    texts = [
        "The history of music. A river of stone carries cold water! The people of the house.",
        "The river is wide (water). Winter and summer light the city. Bread is a book.",
        "Das Wasser ist im Haus. Die Stadt und das Buch. El agua de la ciudad.",
    ]
    question, encode = "cold water of the river", encoder.encode
    questions = ["a book and bread", question]
    vectors = encode(questions, role="query")
    with Collection.open(memory / "c", encoder, chunk=64, overlap=0, **options) as collection:
        collection.add([Document(str(n), text, f"Title {n}") for n, text in enumerate(texts)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoder, "encode", None)
            plain = collection.search([question], vectors=vectors[1:])[0]
            hits = collection.search([question], vectors=vectors[1:], highlight=True)[0]
            several = collection.search(questions, vectors=vectors, highlight=True)
    assert several[1] == hits
    assert {hit.marks for hit in several[0]} != {hit.marks for hit in hits}
    assert [(hit.sentence, hit.marks) for hit in plain] == [(None, ())] * len(texts)
    assert [replace(hit, sentence=None, marks=()) for hit in hits] == plain
    for hit in hits:
        told = explain(encoder, question, hit.text, hit.title)
        if options.keys() & {"late_chunking", "multi_pool", "heads"}:  # by shared subwords
            assert (hit.sentence is None) == (not any(s.passage_spans for s in told.shared))
        else:
            assert hit.sentence == told.sentence
        for mark in hit.marks:
            assert re.fullmatch(r"\w+", hit.text[mark.start : mark.end])
            before, after = hit.text[: mark.start][-1:], hit.text[mark.end :][:1]
            assert not re.match(r"\w", before + after)
    first = next(hit for hit in hits if hit.id == "0")
    marked = [first.text[mark.start : mark.end] for mark in first.marks]
    assert "water" in marked
    assert first.sentence is not None


def test_chunks_of_a_real_tokenizer_are_never_truncated(
    memory: Path, tiny_checkpoint: Path
) -> None:
    encoder = Encoder.load(tiny_checkpoint, dtype="float32")
    title = "The history of the long bridge " * 20
    text = "水山 the river; " * 400 + "\n\n" + "x" * 3000 + " word" * 500 + " 🙂" * 300
    with Collection.open(memory, encoder, backend="exact") as collection:
        assert collection.settings.chunk == 510  # as much as this model reads
        report = collection.add([Document("a", text, title)])
        assert report.chunks > 8
        assert report.truncated == 0
    with pytest.raises(InputError):
        Collection.open(memory / "d", encoder, chunk=511)


@pytest.mark.parametrize(
    "source", ["somebody/evil", "../evil", "http://evil.example/m", "a/b/c", ""]
)
@pytest.mark.parametrize("how", ["search", "rebuild"])
def test_a_folder_asks_no_hub_for_the_model_that_it_names(
    memory: Path, encoder: HashedEncoder, source: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def snapshot_download(name: str, *, local_files_only: bool = False, **options: Any) -> Any:
        asked.append(local_files_only)
        raise huggingface_hub.errors.LocalEntryNotFoundError("no copy")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with Collection.open(memory / "c", encoder, backend="exact") as made:
        made.add(CORPUS)
        with made._store.transaction() as store:
            store.set_fact("settings", {**asdict(made.settings), "source": source})
    with (
        pytest.raises(ModelError, match=f"--model {re.escape(source)}"),
        Collection.open(memory / "c", rebuild=how == "rebuild") as opened,
    ):
        opened.search(["a question"])
    assert all(asked)
    assert len(asked) == (source == "somebody/evil")
    with Collection.open(memory / "c", encoder) as opened:  # whose model the user names
        assert opened.search(["flour"], k=1)[0][0].id == "bread"


@pytest.mark.parametrize("change", ["add", "delete", "rebuild", "keep_weights"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_gone_is_not_changed(
    memory: Path, encoder: HashedEncoder, change: str, replaced: bool
) -> None:
    calls: dict[str, Callable[[Collection], Any]] = {
        "add": lambda opened: opened.add([Document("new", "A new text.")]),
        "delete": lambda opened: opened.delete(["moon"]),
        "rebuild": lambda opened: opened.rebuild(),
        "keep_weights": lambda opened: opened.keep_weights((1, 1, 1)),
    }
    with Collection.open(memory / "c", encoder) as opened:
        opened.add(CORPUS)
        (memory / "c").rename(memory / "moved")
        if replaced:
            shutil.copytree(memory / "moved", memory / "c")
        with pytest.raises(StoreError, match="removed, moved or replaced while it was open"):
            calls[change](opened)
    with Collection.open(memory / "moved", encoder) as moved:
        assert {document.id for document in moved.documents()} == {"bread", "river", "moon"}


def test_a_folder_that_goes_in_the_middle_of_a_change_is_told(
    memory: Path, encoder: HashedEncoder
) -> None:
    def documents() -> Iterator[Document]:
        yield CORPUS[0]
        shutil.rmtree(memory / "c")
        yield CORPUS[1]

    with Collection.open(memory / "c", encoder) as opened:
        opened.add(CORPUS[2:])
        with pytest.raises(StoreError, match="removed, moved"):
            opened.add(documents())
        with pytest.raises(StoreError, match=r"documents\.sqlite.* removed or moved"):
            opened.search(["bread"])


def test_a_collection_that_is_closed_is_whole_without_the_log(collection: Collection) -> None:
    collection.add(CORPUS)
    collection.search(["bread"])
    collection.close()
    assert not list(collection.path.glob("*-wal"))
