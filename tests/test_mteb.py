"""The model object for mteb; what needs mteb itself is skipped where it is not installed."""

import sys
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet import mteb as module
from tercet.checkpoint import read_checkpoint
from tercet.config import MODES, Mode, Weights
from tercet.encoder import Encoder
from tercet.errors import InputError, MissingExtraError
from tercet.mteb import MtebDense, MtebSearch, mteb_model
from tercet.scores import dense_scores, lexical_scores, maxsim_scores, weighted_sum

WORDS = "river mountain city water light history music science people world language".split()
CORPUS: list[dict[str, Any]] = [
    {"id": f"p{n}", "title": WORDS[n % 7] if n % 2 else "", "text": f"{WORDS[n % 5]} {n}"}
    for n in range(1, 40)
]
CORPUS.append(CORPUS[-1] | {"id": "the same again"})  # equal scores go by place
QUERIES: list[dict[str, Any]] = [
    {"id": f"q{n}", "text": f"{WORDS[n]} of the {WORDS[n + 3]}"} for n in range(7)
]
TEXTS = [f"{row['title']}\n{row['text']}" if row["title"] else row["text"] for row in CORPUS]


class Prompt(Enum):
    """As mteb's PromptType."""

    query = "query"
    document = "document"


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, dtype="float32")


def expected(encoder: Encoder, mode: Mode) -> np.ndarray:
    """All scores, (Q, P); the tiny model has a prefix for queries."""
    queries = encoder.encode([row["text"] for row in QUERIES], role="query")
    passages = encoder.encode(TEXTS, role="passage")
    parts: Any = {
        "dense": dense_scores(queries, passages),
        "sparse": lexical_scores(queries, passages),
        "multi": maxsim_scores(queries, passages),
    }
    return weighted_sum(parts, encoder.weights) if mode == "hybrid" else parts[mode]


def test_dense_follows_roles_and_titles(encoder: Encoder) -> None:
    model = MtebDense(encoder)
    batches = [{"text": [row["text"] for row in QUERIES[:4]]}, {"text": [QUERIES[4]["text"]]}]
    found = model.encode(batches, prompt_type=Prompt.query, batch_size=2)
    np.testing.assert_array_equal(
        found, encoder.encode([row["text"] for row in QUERIES[:5]], role="query").dense
    )
    columns = {name: [row[name] for row in CORPUS] for name in ("title", "text")}
    joined = [f"{title} {text}" for title, text in zip(*columns.values(), strict=True)]
    batch = {"text": joined, "title": columns["title"], "body": columns["text"]}
    passages = model.encode([batch], prompt_type=Prompt.document)
    np.testing.assert_array_equal(passages, encoder.encode(TEXTS).dense)
    plain = model.encode([{"text": ["river"]}])
    np.testing.assert_array_equal(plain, encoder.encode(["river"], role="plain").dense)
    asked = model.encode([{"text": ["river"]}], prompt_type=Prompt.query)
    assert not np.array_equal(plain, asked)  # the tiny model has a prefix for queries
    both = model.similarity(found, passages)
    np.testing.assert_allclose(both, expected(encoder, "dense")[:5], atol=1e-6)
    np.testing.assert_allclose(
        model.similarity_pairwise(found, passages[:5]), np.diag(both), atol=1e-6
    )
    assert model.encode([]).shape == (0, 32)
    short = MtebDense(encoder, query_length=4).encode(
        [{"text": ["river city light"]}], prompt_type=Prompt.query
    )
    np.testing.assert_array_equal(
        short, encoder.encode(["river city light"], role="query", max_length=4).dense
    )
    with pytest.raises(InputError):
        model.encode(batches, precision="int8")
    with pytest.raises(InputError, match="unknown prompt type 'passage'"):
        model.encode(batches, prompt_type="passage")


@pytest.mark.parametrize("mode", ["sparse", "multi", "hybrid"])
def test_search_ranks_the_whole_corpus(encoder: Encoder, mode: Mode) -> None:
    scores = expected(encoder, mode)
    model = MtebSearch(encoder, mode, block=16)  # three parts
    model.index(CORPUS)
    found = model.search(QUERIES, top_k=9)
    for row, query in enumerate(QUERIES):
        order = np.lexsort((np.arange(len(TEXTS)), -scores[row]))[:9]
        assert list(found[query["id"]]) == [CORPUS[at]["id"] for at in order]
        np.testing.assert_allclose(list(found[query["id"]].values()), scores[row, order], rtol=1e-5)
    with pytest.raises(InputError, match="call index first"):
        model.search(QUERIES, top_k=9)


def test_only_candidates_are_ranked_where_they_are_given(encoder: Encoder) -> None:
    scores = expected(encoder, "multi")
    model = MtebSearch(encoder, "multi", block=16)
    model.index(CORPUS)
    candidates = {"q0": ["p30", "p2", "p17"], "q1": ["p5", "unknown"]}
    found = model.search(QUERIES, top_k=2, top_ranked=candidates)
    order = sorted((30, 2, 17), key=lambda n: -scores[0, n - 1])
    assert list(found["q0"]) == [f"p{n}" for n in order[:2]]
    assert list(found["q1"]) == ["p5"]
    assert found["q2"] == {}


def test_weights_instructions_and_conversations(encoder: Encoder) -> None:
    model = MtebSearch(encoder, "hybrid", weights=Weights(1, 0, 0))
    model.index(CORPUS)
    asked = [QUERIES[0], QUERIES[0] | {"id": "i", "instruction": "music only"}]
    found = model.search(asked, top_k=3)
    best = np.sort(expected(encoder, "dense")[0])[::-1][:3]
    np.testing.assert_allclose(list(found["q0"].values()), best, rtol=1e-5)
    assert list(found["i"].values()) != list(found["q0"].values())
    model.index(CORPUS)
    with pytest.raises(InputError):
        model.search([{"id": "c", "text": [{"role": "user"}]}], top_k=3)
    with pytest.raises(InputError):
        mteb_model(encoder, "bm25")  # type: ignore[arg-type]


def test_a_missing_mteb_is_told(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb.models.model_meta", None)
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tercet\[mteb\]'"):
        mteb_model(encoder)


@pytest.mark.parametrize("mode", MODES)
def test_mteb_evaluates_it(encoder: Encoder, tiny_checkpoint: Path, mode: Mode) -> None:
    mteb = pytest.importorskip("mteb")
    import mteb_local
    from mteb.models import EncoderProtocol, SearchProtocol

    from tercet.evaluate.tasks import Corpus, Task

    task = Task(
        name="own/tiny",
        suite="own",
        language="",
        corpus=Corpus(
            "tiny", lambda: ((row["id"], "", text) for row, text in zip(CORPUS, TEXTS, strict=True))
        ),
        queries={row["id"]: row["text"] for row in QUERIES},
        qrels={row["id"]: {f"p{n + 1}": 1, f"p{n + 9}": 2} for n, row in enumerate(QUERIES)},
    )
    model = mteb_model(encoder, mode)
    assert isinstance(model, EncoderProtocol if mode == "dense" else SearchProtocol)
    assert model.mteb_model_meta.name == f"local/{tiny_checkpoint.name}-{mode}"
    parameters = read_checkpoint(tiny_checkpoint).model.parameters()
    assert model.mteb_model_meta.n_parameters == sum(part.numel() for part in parameters)
    result = mteb.evaluate(model, mteb_local.local_task(task), cache=None, show_progress_bar=False)
    scores = expected(encoder, mode)
    gains = np.zeros_like(scores)
    for n in range(len(QUERIES)):
        gains[n, n], gains[n, n + 8] = 1, 2
    discounts = 1 / np.log2(np.arange(2, 12))
    last = np.argsort(np.argsort([row["id"] for row in CORPUS]))  # first of equals, as in TREC
    order = np.array([np.lexsort((-last, -row)) for row in scores])[:, :10]
    ideal = 2 * discounts[0] + discounts[1]
    ndcg = (np.take_along_axis(gains, order, axis=1) @ discounts / ideal).mean()
    found = result.task_results[0].scores["test"][0]["ndcg_at_10"]
    assert found == pytest.approx(ndcg, abs=1e-5)  # mteb rounds to five digits
    module.register(model.mteb_model_meta)
    again = mteb.get_model(model.mteb_model_meta.name)
    assert type(again) is type(model)
    assert again.encoder.fingerprint == encoder.fingerprint
