"""Best passages: a document counts as the best of its chunks, however they are cut or found."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.collection import Collection
from tercet.config import HEADS, Head
from tercet.documents.chunks import SPECIAL, Chunker
from tercet.encoder import Encoder
from tercet.errors import InputError
from tercet.evaluate.loaders import passage_text
from tercet.evaluate.runner import EvaluateConfig, Evaluator
from tercet.evaluate.systems import BlockSizes, top_passages
from tercet.evaluate.tasks import Corpus, Protocol, Task
from tercet.evaluate.trec import Run
from tercet.evaluate.vectors import Cut, Digest, Owners, VectorCache, chunking_of, cut_corpus
from tercet.hybrid import Ranked
from tercet.records import Document
from tercet.scores import Places, Scores, dense_scores, lexical_scores, maxsim_scores, weighted_sum
from tests.conftest import WORDS
from tests.evaluate.test_run import texts

CHUNK = 32
DOCUMENTS, QUERIES = 25, 9
COLUMNS = {"dense", "sparse", "multi", "dense+sparse", "all"}
Texts = Sequence[tuple[str, str, str]]  # id, title, text


def prose(draw: np.random.Generator, words: int) -> str:
    """Sentences and paragraphs of random words."""
    found = draw.choice(list(dict.fromkeys(WORDS)), size=words).tolist()
    ends = draw.choice([" ", ". ", ".\n\n"], size=words, p=[0.85, 0.1, 0.05]).tolist()
    return "".join(a + b for a, b in zip(found, ends, strict=True)).strip()


def documents(seed: int = 0) -> list[tuple[str, str, str]]:
    """Of a few words to ten chunks, every other with a title; in one a title that is cut."""
    draw = np.random.default_rng(seed)
    out = []
    for number, length in enumerate(draw.integers(5, 10 * CHUNK, DOCUMENTS).tolist()):
        title = prose(draw, 3).replace("\n", " ") if number % 2 else ""
        if number == 5:
            title = " ".join(prose(draw, CHUNK).split())
        out.append((f"d{number:02d}", title, prose(draw, length)))
    return out


def task_of(rows: Texts, asked: Sequence[str] | None = None) -> Task:
    def read() -> Iterator[tuple[str, str]]:
        for key, title, text in rows:
            yield key, passage_text(title, text)

    corpus = Corpus("c", read, lambda: (len(title) for _, title, _ in rows))
    queries = {f"q{at}": text for at, text in enumerate(asked or texts(QUERIES, 1, 6))}
    draw = np.random.default_rng(2)
    judged = {q: {rows[p][0]: 1 for p in draw.choice(len(rows), 3)} for q in queries}
    protocol = Protocol(rerank=len(rows), union=len(rows))
    return Task("own/long", "own", "en", corpus, queries, judged, protocol=protocol)


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, dtype="float32", device="cpu")


def evaluator(encoder: Encoder, folder: Path, **settings: Any) -> Evaluator:
    given: dict[str, Any] = {"chunk": CHUNK, "bm25": False} | settings
    few = BlockSizes(queries=4, chunk_pairs=50)
    return Evaluator(encoder, EvaluateConfig(**given), VectorCache(folder, encoder), sizes=few)


def cut(encoder: Encoder, folder: Path, corpus: Corpus, chunk: int = CHUNK) -> Cut:
    digest = Digest(text for _, text in corpus.read())
    return cut_corpus(corpus, digest, encoder, chunking_of(chunk), folder, lambda more: None)


def best_scores(encoder: Encoder, task: Task, chunks: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Column -> document -> scores of all queries, by the plain definition."""
    passages = encoder.encode([text for _, text in chunks])
    queries = encoder.encode(list(task.queries.values()), role="query", max_length=512)
    functions = {"dense": dense_scores, "sparse": lexical_scores, "multi": maxsim_scores}
    parts: dict[Head, Scores] = {head: functions[head](queries, passages) for head in HEADS}
    two: dict[Head, Scores] = {head: parts[head] for head in ("dense", "sparse")}
    every: dict[str, Scores] = {
        **dict(parts.items()),
        "dense+sparse": weighted_sum(two, encoder.weights),
        "all": weighted_sum(parts, encoder.weights),
    }
    owners = np.array([key for key, _ in chunks])
    return {
        name: {key: scores[:, owners == key].max(1) for key in dict.fromkeys(owners.tolist())}
        for name, scores in every.items()
    }


def same(one: dict[str, Run], other: dict[str, Run], atol: float = 2e-5) -> None:
    assert set(one) == set(other)
    for name, run in one.items():
        for row in range(len(run)):
            (ids, scores), (others, found) = run.of_query(row), other[name].of_query(row)
            assert ids == others, name
            np.testing.assert_allclose(scores, found, atol=atol, err_msg=name)


@pytest.mark.parametrize("multi_gb", [8.0, 0.0])
def test_a_document_counts_as_its_best_chunk(
    encoder: Encoder, tmp_path: Path, multi_gb: float
) -> None:
    task = task_of(documents())
    chunks = list(cut(encoder, tmp_path, task.corpus).corpus.read())
    assert len(chunks) > 4 * DOCUMENTS
    result, runs = evaluator(encoder, tmp_path, multi_gb=multi_gb).retrieval(task)
    assert bool(result.notes) == (multi_gb == 0)
    assert (result.passages, result.chunk, result.chunks) == (DOCUMENTS, CHUNK, len(chunks))
    assert result.cut["passages"] == 0
    assert set(runs) == COLUMNS
    for name, of in best_scores(encoder, task, chunks).items():
        for row in range(QUERIES):
            ids, scores = runs[name].of_query(row)
            expected = [of[key][row] for key in ids]
            np.testing.assert_allclose(scores, expected, atol=2e-5, err_msg=name)
            left = [of[key][row] for key in of.keys() - set(ids)]
            assert not left or (name == "sparse" and max(left) == 0)  # no shared token, no hit


def test_documents_that_fit_into_a_chunk_are_measured_as_whole(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = [(f"p{at}", "the river" if at % 2 else "", t) for at, t in enumerate(texts(40, 0, 30))]
    short.append(("p40", "the river", ""))  # a title alone
    short.append(("p41", "", " \n"))
    short.append(("p42", "river city " * 12, "  water and \n\n\n light "))  # longer than a quarter
    task = task_of(short)
    whole, ranks = evaluator(encoder, tmp_path, chunk=0, bm25=True).retrieval(task)
    real: Callable[..., Any] = Encoder.encode

    def only_queries(self: Encoder, some: list[str], **options: Any) -> Any:
        assert options["role"] == "query", "passages are encoded again"
        return real(self, some, **options)

    monkeypatch.setattr(Encoder, "encode", only_queries)
    found, others = evaluator(encoder, tmp_path, chunk=64, bm25=True).retrieval(task)
    assert found.chunks == len(short)
    assert found.as_dict()["figures"] == whole.as_dict()["figures"]
    assert found.cut == whole.cut
    same(ranks, others, atol=0)


def test_an_answer_at_the_end_is_found_by_its_chunk_alone(encoder: Encoder, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    # the answer's words stand nowhere but behind what the model reads ("the": the query's prefix)
    plain = [word for word in dict.fromkeys(WORDS) if word != "the"]
    plain, answer = plain[:-8], " ".join(plain[-8:])
    long = " ".join(draw.choice(plain, size=encoder.max_length + 200))
    rows = [("long", "", f"{long}.\n\n{answer}.")]
    rows += [(f"d{n}", "", " ".join(draw.choice(plain, size=40))) for n in range(20)]
    task = replace(task_of(rows, [answer]), qrels={"q0": {"long": 1}})
    measured = ("Success@1",)
    whole, _ = evaluator(encoder, tmp_path, chunk=0, measures=measured).retrieval(task)
    found, runs = evaluator(encoder, tmp_path, measures=measured).retrieval(task)
    assert whole.cut["passages"] == pytest.approx(1 / len(rows))
    assert found.cut["passages"] == 0
    for column in ("sparse", "dense+sparse"):  # what MaxSim thinks of a random model is chance
        assert whole.values[column]["Success@1"].mean == 0, column
        assert found.values[column]["Success@1"].mean == 1, column
    assert set(runs["dense"].of_query(0)[0]) == {key for key, _, _ in rows}  # once each
    assert len(runs["dense"].of_query(0)[0]) == len(rows)


def test_chunks_score_as_an_index_of_the_same_documents(encoder: Encoder, tmp_path: Path) -> None:
    rows = documents(4)
    task = task_of(rows)
    _, runs = evaluator(encoder, tmp_path).retrieval(task)
    with Collection.open(tmp_path / "index", encoder, backend="exact", chunk=CHUNK) as collection:
        collection.add([Document(key, text, title=title) for key, title, text in rows])
        hits = collection.search(list(task.queries.values()), k=DOCUMENTS, candidates=None)
    for row, found in enumerate(hits):
        of = dict(zip(*runs["all"].of_query(row), strict=True))
        assert {hit.id for hit in found} == set(of)
        scores = [of[hit.id] for hit in found]
        np.testing.assert_allclose([hit.score for hit in found], scores, rtol=2e-3)  # float16


def test_tuned_weights_are_those_of_best_chunks(encoder: Encoder, tmp_path: Path) -> None:
    task = task_of(documents())
    tuned = evaluator(encoder, tmp_path).tune([task])
    assert tuned.after > tuned.before
    for weights, value in ((encoder.weights, tuned.before), (tuned.weights, tuned.after)):
        result, _ = evaluator(encoder, tmp_path, weights=weights).retrieval(task)
        assert result.values["all"]["nDCG@10"].mean == pytest.approx(value, abs=1e-6)
    assert tuned != evaluator(encoder, tmp_path, chunk=0).tune([task])


def test_candidates_count_in_documents(encoder: Encoder, tmp_path: Path) -> None:
    _, runs = evaluator(encoder, tmp_path, rerank=5, union=7).retrieval(task_of(documents()))
    for row in range(QUERIES):
        dense, sparse = (runs[name].of_query(row)[0] for name in ("dense", "sparse"))
        assert len(dense) == DOCUMENTS
        assert set(runs["multi"].of_query(row)[0]) == set(dense[:5])
        assert set(runs["all"].of_query(row)[0]) == set(dense[:5])
        assert set(runs["dense+sparse"].of_query(row)[0]) == {*dense[:7], *sparse[:7]}


class Table:
    """Scores of queries and chunks as they are given; what is not above 0 is no candidate."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.asked = scores, 0

    def top(self, queries: Places, count: int) -> Ranked:
        self.asked += 1
        rows, places = np.nonzero(self.scores[queries] > 0)
        return Ranked.of(rows, places, self.scores[queries[rows], places], len(queries), count)

    def score(self, queries: Places, places: Places) -> Scores:
        return self.scores[queries, places]


def test_chunks_of_long_documents_crowd_nothing_out() -> None:
    draw = np.random.default_rng(5)
    asked = 0
    for _ in range(60):
        sizes = draw.choice([1, 2, 3, 60], size=draw.integers(1, 15))
        owners = Owners.make(np.repeat(np.arange(len(sizes)), sizes), len(sizes))
        # few levels, so that many are the same; long documents are ahead of others
        scores = draw.integers(-2, 5, size=(6, sizes.sum())).astype(np.float32)
        scores += np.where(np.repeat(sizes, sizes) == 60, 5, 0).astype(np.float32)
        table, count = Table(scores), int(draw.integers(1, 12))
        queries = draw.choice(6, 4, replace=False)
        found = top_passages(table, owners, queries, count, fetch=1)
        best = np.maximum.reduceat(scores, owners.bounds[:-1], axis=1)[queries]
        rows, places = np.nonzero(best > 0)
        wanted = Ranked.of(rows, places, best[rows, places], 4, count)
        np.testing.assert_array_equal(found.places, wanted.places)
        np.testing.assert_array_equal(found.scores, wanted.scores)
        asked = max(asked, table.asked)
    assert asked > 3  # else no crowd was there


def words(text: str) -> set[str]:
    return set(text.replace(".", " ").split())


def test_chunks_hold_all_words_and_no_more_tokens_than_they_may(
    encoder: Encoder, tmp_path: Path
) -> None:
    rows = documents()
    made = cut(encoder, tmp_path, task_of(rows).corpus)
    of: dict[str, list[str]] = {}
    for key, text in made.corpus.read():
        of.setdefault(key, []).append(text)
    chunker = Chunker(encoder.tokenizer.backend, chunking_of(CHUNK), encoder.max_length)
    several = 0
    for key, title, text in rows:
        chunks = of[key]
        assert all(chunker.count(chunk) <= CHUNK - SPECIAL for chunk in chunks)
        heading = chunker.heading(title)
        if chunker.count(passage_text(title, text)) <= CHUNK - SPECIAL:
            assert chunks == [passage_text(title, text)]
            continue
        several += len(chunks) > 1
        assert all(chunk.startswith(heading) for chunk in chunks)
        bodies = [chunk.removeprefix(heading) for chunk in chunks]
        assert words(text) == words(" ".join(bodies))
    assert several > DOCUMENTS // 2
    assert made.lengths.tolist() == [len(chunk) for chunks in of.values() for chunk in chunks]


def test_cuts_are_kept_by_what_decides_them(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, folder = task_of(documents()).corpus, tmp_path / "chunks"
    first = list(cut(encoder, tmp_path, corpus).corpus.read())
    (place,) = folder.iterdir()
    whole = place.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Chunker, "spans", lambda *a: pytest.fail("cut again"))
        assert list(cut(encoder, tmp_path, corpus).corpus.read()) == first
    place.write_bytes(b"no array")
    assert list(cut(encoder, tmp_path, corpus).corpus.read()) == first
    assert place.read_bytes() == whole
    cut(encoder, tmp_path, corpus, 48)
    cut(encoder, tmp_path, replace(corpus, titles=None))
    cut(encoder, tmp_path, task_of(documents()[:-1]).corpus)
    assert len(list(folder.iterdir())) == 4


def test_sizes_that_cannot_be(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="chunk is 15 tokens: give 0"):
        EvaluateConfig(chunk=15)
    with pytest.raises(InputError, match="give one"):
        EvaluateConfig(chunk=64, max_length=128)
    with pytest.raises(InputError, match=f"reads {encoder.max_length}"):
        chunking_of(encoder.max_length + 1, encoder)
