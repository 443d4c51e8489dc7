"""The encoder: what else is in a batch never matters, order is kept, cuts are counted."""

import copy
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, ward

from tercet.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tercet.config import PAPER_WEIGHTS, Weights
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder, max_by_id, pool_tokens, ward_clusters
from tercet.errors import InputError, ModelError
from tercet.layout import Settings
from tercet.model import Inputs, M3Model
from tercet.runtime import batches
from tercet.tokenizer import Tokenizer

TEXTS = [
    "the river and the mountain",
    "",
    "science and history of the old world, " * 12,
    "la ciudad de agua",
    "水山河光史語世界日本人",
    "<s> history </s> <mask> the the the",
    "das Wasser und die Stadt mit dem Buch",
    "  \t\n ",
    "the river and the mountain",
    "star sea ship bread stone fire winter summer tree bird horse",
]
BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> Any:
    return Encoder.load(tiny_checkpoint, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def whole(encoder: Any) -> Any:
    return encoder.encode(TEXTS)


def assert_close(left: Any, right: Any, tolerance: float = 1e-5) -> None:
    assert left.heads == right.heads
    assert len(left) == len(right)
    if left.dense is not None:
        np.testing.assert_allclose(left.dense, right.dense, rtol=0, atol=tolerance)
    if left.sparse is not None:
        np.testing.assert_allclose(
            left.sparse.toarray(), right.sparse.toarray(), rtol=tolerance, atol=tolerance
        )
    if left.multi is not None:
        np.testing.assert_array_equal(left.offsets, right.offsets)
        # float16 keeps three digits
        np.testing.assert_allclose(
            left.multi.astype(np.float32), right.multi.astype(np.float32), rtol=0, atol=1e-3
        )
    np.testing.assert_array_equal(left.lengths, right.lengths)
    np.testing.assert_array_equal(left.truncated, right.truncated)


def test_shapes_and_types(encoder: Any, whole: Any) -> None:
    assert encoder.heads == whole.heads == ("dense", "sparse", "multi")
    assert encoder.dims == {"dense": 32, "vocabulary": encoder.tokenizer.vocabulary, "multi": 16}
    assert encoder.weights == Weights(1.0, 0.5, 0.8)
    assert whole.dense.dtype == np.float32
    assert whole.dense.shape == (len(TEXTS), 32)
    assert whole.multi.dtype == np.float16
    assert whole.multi.shape[1] == 16
    assert whole.sparse.data.dtype == np.float32
    assert whole.sparse.shape == (len(TEXTS), encoder.tokenizer.vocabulary)
    assert whole.fingerprint == encoder.fingerprint
    np.testing.assert_allclose(np.linalg.norm(whole.dense, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(whole.multi.astype(np.float32), axis=1), 1.0, atol=2e-3
    )
    # [CLS] is left out, </s> is kept
    np.testing.assert_array_equal(np.diff(whole.offsets), whole.lengths - 1)


def test_the_tests_below_are_not_vacuous(whole: Any) -> None:
    assert_close(whole[[0]], whole[[8]], 1e-6)  # the same text
    apart = np.abs(whole.dense[:, None] - whole.dense[None]).max(-1)
    different = [
        (i, j) for i in range(len(TEXTS)) for j in range(i) if TEXTS[i].strip() != TEXTS[j].strip()
    ]
    assert min(apart[i, j] for i, j in different) > 1e-3
    assert whole.sparse.nnz > 30


def test_batch_mates_do_not_matter(encoder: Any, whole: Any) -> None:
    alone = Embeddings.concatenate([encoder.encode([text]) for text in TEXTS])
    assert_close(whole, alone)
    assert_close(whole, encoder.encode(TEXTS, token_budget=1))
    assert_close(whole, encoder.encode(TEXTS, token_budget=40))
    backwards = encoder.encode(TEXTS[::-1])
    assert_close(whole, backwards[::-1])


@pytest.mark.skipif(not BFLOAT16, reason="this CPU has no bfloat16 products")
def test_bfloat16(tiny_checkpoint: Path, whole: Any) -> None:
    encoder: Any = Encoder.load(tiny_checkpoint, dtype="bfloat16", device="cpu")
    assert encoder.fingerprint == whole.fingerprint
    together = encoder.encode(TEXTS)
    assert (np.sum(together.dense * whole.dense, axis=1) > 0.999).all()
    tokens = np.sum(together.multi.astype(np.float32) * whole.multi.astype(np.float32), axis=1)
    assert tokens.min() > 0.99
    for row, text in enumerate(TEXTS):
        alone = encoder.encode([text])
        assert float(alone.dense[0] @ together.dense[row]) >= 0.9999


def test_heads_are_what_was_asked(encoder: Any, whole: Any) -> None:
    only = encoder.encode(TEXTS, heads=("sparse",))
    assert only.heads == encoder.encode(TEXTS, heads="sparse").heads == ("sparse",)
    np.testing.assert_allclose(only.sparse.toarray(), whole.sparse.toarray(), atol=1e-6)
    assert encoder.encode(TEXTS, heads=("multi", "dense")).heads == ("dense", "multi")


def test_sparse_rows_hold_the_largest_weight_of_each_id(
    tiny_model: M3Model, tokenizer: Tokenizer, whole: Any
) -> None:
    for row, text in enumerate(TEXTS):
        batch = tokenizer.encode([text])
        with torch.inference_mode():
            weights = tiny_model(Inputs.of(batch), ("sparse",)).weights
        want: dict[int, float] = {}
        for token, weight in zip(batch.ids.tolist(), weights.tolist(), strict=True):
            if weight > 0 and token not in tokenizer.weightless_ids:
                want[token] = max(want.get(token, 0.0), weight)
        start, end = whole.sparse.indptr[row : row + 2]
        got = dict(
            zip(
                whole.sparse.indices[start:end].tolist(),
                whole.sparse.data[start:end].tolist(),
                strict=True,
            )
        )
        assert got == pytest.approx(want, abs=1e-5)
        assert (whole.sparse.data[start:end] > 0).all()


def test_empty_text_has_a_vector_one_token_and_no_weight(encoder: Any) -> None:
    empty = encoder.encode(["", " \n\t ", "\u200b"[:0]])
    for row in range(3):
        assert np.linalg.norm(empty.dense[row]) == pytest.approx(1.0, abs=1e-5)
        assert len(empty.tokens(row)) == 1
        assert empty.sparse.indptr[row + 1] == empty.sparse.indptr[row]
    assert empty.lengths.tolist() == [2, 2, 2]


def test_nothing_gives_nothing(encoder: Any) -> None:
    none = encoder.encode([])
    assert len(none) == 0
    assert none.heads == ("dense", "sparse", "multi")
    assert none.multi.shape == (0, 16)
    assert len(encoder.encode_spans([], [])) == 0
    assert len(encoder.encode_spans(["the river"], [[]])) == 0


def test_strange_texts(encoder: Any) -> None:
    strange = ["\ud800 half", "nul \0 inside", "\U0001f600" * 50, "a" * 20_000, "\n" * 5000 + "the"]
    rows = encoder.encode(strange)
    assert np.isfinite(rows.dense).all()
    assert rows.lengths.max() == encoder.max_length == 510  # more than it has positions for is cut
    assert rows.truncated[3]
    replaced = encoder.encode(["\ufffd half"])
    np.testing.assert_allclose(rows.dense[0], replaced.dense[0], atol=1e-6)


def test_cuts_are_counted_and_logged_once(encoder: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="tercet"):
        cut = encoder.encode(TEXTS, max_length=12)
    assert cut.lengths.max() == 12
    full = encoder.encode(TEXTS)
    np.testing.assert_array_equal(cut.truncated, full.lengths > 12)
    assert cut.truncated.any()
    assert not cut.truncated.all()
    assert [record.getMessage() for record in caplog.records] == [
        f"{int(cut.truncated.sum())} of {len(TEXTS)} texts were cut: they have more than 12 tokens"
    ]


def test_role_chooses_the_prefix(encoder: Any) -> None:
    query = encoder.encode(["river"], role="query")
    assert_close(query, encoder.encode(["the river"]))
    passage = encoder.encode(["river"])
    assert np.abs(query.dense - passage.dense).max() > 1e-3


def test_progress_ends_at_the_total(encoder: Any) -> None:
    seen: list[tuple[int, int]] = []
    rows = encoder.encode(TEXTS, token_budget=30, progress=lambda *pair: seen.append(pair))
    total = int(rows.lengths.sum())
    assert len(seen) > 3
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {of for _, of in seen} == {total}
    assert seen[-1] == (total, total)


def test_stream_is_encode_in_shards(encoder: Any, whole: Any) -> None:
    taken = []

    def texts() -> Iterator[str]:
        for text in TEXTS:
            taken.append(text)
            yield text

    shards = encoder.stream(texts(), shard=3)
    first = next(shards)
    assert len(taken) <= 4  # no more is read than a shard needs
    parts = [first, *shards]
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    assert_close(Embeddings.concatenate(parts), whole)
    assert list(encoder.stream([])) == []
    long = encoder.stream(["the river " * 6, "sea " * 12, "star", "ship"], shard_characters=100)
    assert [len(part) for part in long] == [2, 2]


def test_mcls_averages_the_states_of_every_cls(encoder: Any) -> None:
    text = "the river and the mountain of the old world with science and history"
    plain, mcls = encoder.encode([text]), encoder.encode([text], mcls=4)
    content = int(plain.lengths[0]) - 2
    inserted = -(-content // 4)
    assert inserted > 2
    assert int(mcls.lengths[0]) == content + 1 + inserted
    assert len(mcls.tokens(0)) == len(plain.tokens(0))  # every [CLS] left out
    assert np.abs(mcls.dense - plain.dense).max() > 1e-3
    # one [CLS] for as many tokens as there are is the plain encoding
    assert_close(encoder.encode([text], mcls=512), plain)


def test_pooled_vectors_and_the_largest_weights(encoder: Any, whole: Any) -> None:
    assert_close(encoder.encode(TEXTS, multi_pool=1), whole)
    pooled = encoder.encode(TEXTS, multi_pool=3, sparse_top=3)
    for row in range(len(TEXTS)):
        vectors = pool_tokens(whole.tokens(row).astype(np.float32), 3)
        np.testing.assert_allclose(pooled.tokens(row), vectors, atol=2e-3)
        full = np.sort(whole.sparse[[row]].data)[::-1][:3]
        np.testing.assert_allclose(np.sort(pooled.sparse[[row]].data)[::-1], full, atol=1e-6)
    np.testing.assert_allclose(pooled.dense, whole.dense, atol=1e-6)


SPANNED = "the river and the mountain of the old world with science and history"


def spans_of(text: str, words: int) -> list[tuple[int, int]]:
    starts = [0, *(i + 1 for i, c in enumerate(text) if c == " ")]
    ends = [*(i for i, c in enumerate(text) if c == " "), len(text)]
    return [(starts[i], ends[min(i + words, len(ends)) - 1]) for i in range(0, len(starts), words)]


def test_spans_are_pooled_from_one_pass(
    encoder: Any, tiny_model: M3Model, tokenizer: Tokenizer
) -> None:
    spans = spans_of(SPANNED, 4)
    rows = encoder.encode_spans([SPANNED, "sea", SPANNED], [spans, [(0, 3)], []])
    assert len(rows) == len(spans) + 1
    batch = tokenizer.encode([SPANNED])
    ids, places = tokenizer.with_offsets(SPANNED)
    with torch.inference_mode():
        inputs = Inputs.of(batch)
        states = tiny_model.backbone(inputs.ids, inputs.layout)
        outputs: Any = tiny_model.represent(states, inputs, ("sparse", "multi"))
    seen: list[int] = []
    for row, (start, end) in enumerate(spans):
        mine = [n for n, (a, b) in enumerate(places) if a >= start and b <= end]
        seen += mine
        assert rows.lengths[row] == len(mine) == len(rows.tokens(row))
        index = torch.tensor(mine) + 1
        mean = torch.nn.functional.normalize(states[index].mean(0), dim=-1)
        np.testing.assert_allclose(rows.dense[row], mean.numpy(), atol=1e-5)
        np.testing.assert_allclose(
            rows.tokens(row).astype(np.float32), outputs.multi[index].numpy(), atol=1e-3
        )
        weights = {ids[n]: 0.0 for n in mine}
        for n in mine:
            weights[ids[n]] = max(weights[ids[n]], float(outputs.weights[n + 1]))
        got = rows.sparse[[row]].toarray()[0]
        for token, weight in weights.items():
            assert got[token] == pytest.approx(weight, abs=1e-5)
    assert seen == list(range(len(ids)))  # every token in one span


def test_spans_over_everything_have_its_tokens(encoder: Any) -> None:
    rows = encoder.encode_spans([SPANNED], [[(0, len(SPANNED))]])
    plain = encoder.encode([SPANNED])
    np.testing.assert_allclose(rows.sparse.toarray(), plain.sparse.toarray(), atol=1e-5)
    np.testing.assert_array_equal(rows.multi, plain.multi[:-1])  # all but </s>


def test_spans_without_tokens_and_behind_the_cut(encoder: Any) -> None:
    text = "the river " * 30
    rows = encoder.encode_spans([text], [[(0, 9), (5, 5), (200, 290)]], max_length=10)
    assert rows.truncated.tolist() == [False, False, True]
    assert rows.lengths.tolist() == [2, 0, 0]
    for row in (1, 2):
        assert len(rows.tokens(row)) == 1
        assert rows.sparse[[row]].nnz == 0
        assert np.linalg.norm(rows.dense[row]) == pytest.approx(1.0, abs=1e-5)


def test_spans_count_in_the_text_without_its_prefix(encoder: Any) -> None:
    with_prefix = encoder.encode_spans(["river sea"], [[(0, 5), (6, 9)]], role="query")
    spelled_out = encoder.encode_spans(["the river sea"], [[(4, 9), (10, 13)]])
    assert_close(with_prefix, spelled_out)


BAD: dict[str, Callable[[Any], Any]] = {
    "texts are a list, not one string": lambda e: e.encode("one string"),
    "text 1 is a int": lambda e: e.encode(["a", 1]),
    "unknown head 'colbert'": lambda e: e.encode(["a"], heads=("colbert",)),
    "unknown head None": lambda e: e.encode(["a"], heads=None),
    "unknown head 5": lambda e: e.encode(["a"], heads=5),
    "unknown head 'd'": lambda e: e.encode(["a"], heads="d"),
    "no head asked for": lambda e: e.encode(["a"], heads=()),
    "unknown role": lambda e: e.encode(["a"], role="document"),
    "max_length": lambda e: e.encode(["a"], max_length=2),
    "mcls": lambda e: e.encode(["a"], mcls=0),
    "multi_pool": lambda e: e.encode(["a"], multi_pool=0),
    "sparse_top": lambda e: e.encode(["a"], sparse_top=0),
    "budget": lambda e: e.encode(["a"], token_budget=0),
    "shard": lambda e: next(e.stream(["a"], shard=0)),
    "a list, not one": lambda e: next(e.stream("abc")),
    "text 1 is a NoneType": lambda e: list(e.stream(["a", None], shard=1)),
    "shard must be": lambda e: next(e.stream(["a"], shard=1.5)),
    "pairs .start, end.": lambda e: e.encode_spans(["abc"], [[(0, 1.5)]]),
    "pairs .start, end., got": lambda e: e.encode_spans(["abc"], [[0, 1]]),
    "2 texts, but spans of 1": lambda e: e.encode_spans(["a", "b"], [[]]),
    "0 <= start <= end": lambda e: e.encode_spans(["abc"], [[(2, 1)]]),
    "device 'nonsense' is not there": lambda e: Encoder.load(e.source, device="nonsense"),
    "device 'cuda:99' is not there": lambda e: Encoder.load(e.source, device="cuda:99"),
    "dtype 'int8'": lambda e: Encoder.load(e.source, dtype="int8", device="cpu"),
    "dtype 'float16'": lambda e: Encoder.load(e.source, dtype="float16", device="cpu"),
    "dtype torch.float64": lambda e: Encoder.load(e.source, dtype=torch.float64, device="cpu"),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_said_in_words(encoder: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        BAD[words](encoder)


class Table(list[str]):
    """What a data frame is: iterating it gives the names of its columns."""

    columns = property(list)


@pytest.mark.parametrize(
    "texts",
    [
        None,
        7,
        float("nan"),
        b"the sea",
        {"a": "the sea"},
        {"the sea"},
        Table(["text"]),
        [["a"]],
        ["a", None],
        ["a", float("nan")],
        [b"a"],
        np.array([["a"]]),
        np.array("a"),
        np.array([1.5]),
    ],
)
def test_what_is_no_list_of_texts_is_refused(encoder: Any, texts: Any) -> None:
    for call in (encoder.encode, encoder.tokenize, lambda given: list(encoder.stream(given))):
        with pytest.raises(InputError, match="text"):
            call(texts)


@pytest.mark.parametrize(
    "container",
    [
        tuple,
        iter,
        deque,
        np.array,
        lambda texts: (t for t in texts),
        lambda texts: dict(enumerate(texts)).values(),
        lambda texts: dict.fromkeys(texts).keys(),
    ],
)
def test_texts_come_in_any_iterable(encoder: Any, container: Any) -> None:
    texts = ["the river", "das Wasser", ""]
    want = encoder.encode(texts)
    assert_close(encoder.encode(container(texts), max_length=np.int64(8192)), want)
    shards = encoder.stream(container(texts), shard=np.int32(2), token_budget=np.int64(9))
    assert_close(Embeddings.concatenate(shards), want)
    assert_close(
        encoder.encode_spans(container(texts), [[], np.array([[0, 3]]), []]),
        encoder.encode_spans(texts, [[], [(0, 3)], []]),
    )
    assert len(encoder.encode(container([]))) == 0


@pytest.mark.parametrize("value", [None, 64.0, "64", True, 2, np.float32(64)])
def test_lengths_are_whole_numbers(encoder: Any, value: Any) -> None:
    for call in (encoder.encode, lambda *a, **o: next(encoder.stream(*a, **o))):
        with pytest.raises(InputError, match="max_length"):
            call(["a"], max_length=value)


# Copies, forks and the end of the process


@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_a_copy_is_loaded_again(tiny_checkpoint: Path, whole: Any, copied: Any) -> None:
    encoder = Encoder.load(tiny_checkpoint, dtype="float32", device="cpu")
    encoder.weights = Weights(1, 2, 3)
    again = copied(encoder)
    assert again.runtime is not encoder.runtime
    assert (again.weights, again.dtype) == (Weights(1, 2, 3), "float32")
    assert_close(again.encode(TEXTS), whole)


def test_what_cannot_be_loaded_again_is_not_copied(
    tmp_path: Path, tiny: Checkpoint, tiny_checkpoint: Path
) -> None:
    with pytest.raises(InputError):
        pickle.dumps(Encoder(tiny))
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    data = pickle.dumps(Encoder.load(folder, device="cpu"))
    shutil.rmtree(folder)
    write_checkpoint(folder, tiny.model, tiny.tokenizer, settings=Settings())
    with pytest.raises(ModelError, match="load the same model"):
        pickle.loads(data)


def python(code: str, folder: Path, **variables: str) -> str:
    """What a process prints that has loaded the encoder `e` and runs this."""
    opening = "import os, sys, threading, time\nfrom tercet.encoder import Encoder\n"
    opening += "e = Encoder.load(sys.argv[1], device='cpu')\n"
    out = subprocess.run(
        [sys.executable, "-c", opening + code, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | variables,
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


FORK = """
def child():
    pid = os.fork()
    if not pid:
        try:
            print(len(e.encode(["a river"] * 300)), flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_encodes_or_says_that_it_cannot(tiny_checkpoint: Path) -> None:
    told = {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}
    code = FORK + "e.encode(['the water'] * 300)\nchild()\n"
    assert python(code, tiny_checkpoint, **told) == "300\n"
    code = FORK + (
        "inside, go = threading.Event(), threading.Event()\n"
        "def wait(done, total): inside.set(); go.wait()\n"
        "thread = threading.Thread(target=lambda: e.encode(['a'], progress=wait))\n"
        "thread.start(); inside.wait(); child(); go.set(); thread.join(); child()\n"
    )
    first, second = python(code, tiny_checkpoint, **told).splitlines()
    assert first.startswith("InputError this process was forked while another thread encoded")
    assert second == "300"


def test_the_process_ends_while_a_daemon_thread_encodes(tiny_checkpoint: Path) -> None:
    code = (
        "def work():\n"
        "    while True: e.encode(['the river and the mountain ' * 80] * 40)\n"
        "threading.Thread(target=work, daemon=True).start(); time.sleep(0.2)\n"
        "import atexit; atexit.register(lambda: print(len(e.encode(['a']))))\n"
    )
    for _ in range(2):  # without what ends the thread, nearly all abort
        assert python(code, tiny_checkpoint) == "1\n"


def test_a_lacking_head_is_the_error(
    tmp_path: Path, tiny_model: M3Model, tokenizer: Tokenizer
) -> None:
    bare = M3Model(tiny_model.backbone.config, tokenizer.weightless_ids.tolist(), sparse=False)
    write_checkpoint(tmp_path / "bare", bare, tokenizer, settings=Settings())
    encoder: Any = Encoder.load(tmp_path / "bare", device="cpu")
    assert encoder.heads == ("dense",)
    assert encoder.weights == PAPER_WEIGHTS
    assert "multi" not in encoder.dims
    assert encoder.encode(["the sea"], heads=encoder.heads).heads == ("dense",)
    with pytest.raises(ModelError):
        encoder.encode(["the sea"])


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("dense", "backbone.layers.1.norm2.bias"),
        ("sparse", "sparse.bias"),
        ("multi", "multi.bias"),
    ],
)
def test_vectors_that_are_not_finite_are_an_error(
    tiny_checkpoint: Path, head: Any, name: str
) -> None:
    checkpoint = read_checkpoint(tiny_checkpoint)
    encoder = Encoder(checkpoint)
    with torch.no_grad():  # as weights do that overflow
        checkpoint.model.get_parameter(name).fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        encoder.encode(["the river"], heads=(head,))
    with pytest.raises(ModelError, match="not finite"):
        encoder.encode_spans(["the river"], [[(0, 9)]], heads=(head,))


def test_source_is_absolute(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_checkpoint.parent)
    assert Encoder.load("tiny", device="cpu").source == str(tiny_checkpoint.resolve())


# Batches and reductions

LENGTHS = st.lists(st.integers(2, 600), max_size=60).map(lambda x: np.array(x, dtype=np.int64))


@given(LENGTHS, st.integers(1, 2000))
def test_batches(lengths: np.ndarray, budget: int) -> None:
    parts = list(batches(lengths, budget))
    order = np.concatenate([*parts, np.zeros(0, dtype=np.int64)])
    np.testing.assert_array_equal(order, np.argsort(-lengths, kind="stable"))
    for number, rows in enumerate(parts):
        size = lengths[rows].sum()
        assert size <= budget or len(rows) == 1
        if number + 1 < len(parts):  # as full as they can be
            assert size + lengths[parts[number + 1][0]] > budget


TOKENS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])),
    max_size=50,
)


@given(TOKENS, st.none() | st.integers(1, 4))
def test_max_by_id(tokens: list[tuple[int, int, float]], top: int | None) -> None:
    tokens = sorted(tokens, key=lambda token: token[0])
    owners, ids, weights = (np.array([t[n] for t in tokens]) for n in range(3))
    got = max_by_id(
        owners.astype(np.int64), ids.astype(np.int32), weights.astype(np.float32), (5, 10), top=top
    )
    want = np.zeros((5, 10))
    for owner, token, weight in tokens:
        want[owner, token] = max(want[owner, token], weight)
    assert (got.data > 0).all()
    assert got.to_scipy().has_canonical_format
    if top is None:
        np.testing.assert_array_equal(got.toarray(), want)
        return
    for row in range(5):
        kept = np.sort(got.toarray()[row])[::-1][:top]
        np.testing.assert_array_equal(kept, np.sort(want[row])[::-1][:top])
        assert np.count_nonzero(got.toarray()[row]) == min(top, np.count_nonzero(want[row]))


def unit(rows: int, size: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
@pytest.mark.parametrize("factor", [1, 2, 3, 1000])
def test_pool_tokens(rows: int, factor: int) -> None:
    vectors = unit(rows, 8)
    pooled = pool_tokens(vectors, factor, run=60)
    most = sum(-(-min(60, rows - first) // factor) for first in range(0, rows, 60))
    assert 1 <= len(pooled) <= most
    assert len(pooled) > 0.8 * most
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1.0, atol=1e-5)
    if factor == 1:
        np.testing.assert_array_equal(pooled, vectors)


@given(
    st.integers(2, 60),
    st.integers(1, 30),
    st.integers(1, 60),
    st.sampled_from([0.0, 0.1, 2.0]),
    st.integers(0, 999),
)
@settings(max_examples=100, deadline=None)
def test_clusters_are_those_of_scipy(
    rows: int, different: int, count: int, noise: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    vectors = unit(different, 8, seed)[draw.integers(0, different, rows)]
    vectors += noise * draw.normal(size=vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    count = min(rows - 1, count)
    got = ward_clusters(vectors, count)
    labels = fcluster(ward(vectors), count, criterion="maxclust")
    _, firsts, which = np.unique(labels, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(got, firsts[which])


def test_pooling_joins_what_is_alike() -> None:
    centres = unit(4, 16)
    noise = unit(12, 16, seed=1) * 0.05
    vectors: np.ndarray = np.repeat(centres, 3, axis=0) + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pooled = pool_tokens(vectors, 3)
    assert len(pooled) == 4
    assert (np.sum(pooled * centres, axis=1) > 0.99).all()  # in the order of their first tokens
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    assert np.isfinite(pool_tokens(opposite, 2)).all()
