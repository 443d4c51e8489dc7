"""BGEM3FlagModel beside what FlagEmbedding's own class returned on the same checkpoint."""

import inspect
import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_golden import CLASS_JOB
from make_reference import SMALL, digests, write_reference

from tercet.compat import BGEM3FlagModel
from tercet.errors import InputError, ModelError

GOLDEN = Path(__file__).parent / "golden" / "flag_class.npz"
TEXTS: list[str] = CLASS_JOB["texts"]
EVERY: dict[str, Any] = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def facts(golden: dict[str, np.ndarray]) -> dict[str, Any]:
    return dict(json.loads(str(golden["facts"])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("compat") / "reference"
    write_reference(found, SMALL)
    return found


@pytest.fixture(scope="module")
def flag(folder: Path) -> BGEM3FlagModel:
    return BGEM3FlagModel(str(folder), devices="cpu")


@pytest.fixture(scope="module")
def encoded(flag: BGEM3FlagModel) -> dict[str, Any]:
    return flag.encode(TEXTS, **EVERY)


def test_the_stored_results_belong_to_this_checkpoint_and_these_texts(
    golden: dict[str, np.ndarray],
) -> None:
    stored = json.loads(str(golden["provenance"]))
    vocabulary = 459  # of the small tokenizer; a wrong one changes the digest
    now = digests(type(SMALL)(**{**vars(SMALL), "vocabulary": vocabulary}), TEXTS)
    assert {name: stored[name] for name in now} == now, "run benchmarks/make_golden.py again"


def test_representations_are_equal_and_cut_to_512_tokens(
    golden: dict[str, np.ndarray], encoded: dict[str, Any]
) -> None:
    assert encoded["dense_vecs"].dtype == np.float32
    np.testing.assert_allclose(encoded["dense_vecs"], golden["dense"], atol=1e-5)
    counts = [len(vectors) for vectors in encoded["colbert_vecs"]]
    assert max(counts) == 511
    assert counts == np.diff(golden["offsets"]).tolist()
    multi = np.concatenate(encoded["colbert_vecs"])
    assert multi.dtype == np.float32
    np.testing.assert_allclose(multi, golden["multi"], atol=1e-5)
    rows = encoded["lexical_weights"]  # keyed by id string
    for number, row in enumerate(rows):
        start, stop = golden["sparse_indptr"][number : number + 2]
        keys = [str(id) for id in golden["sparse_indices"][start:stop]]
        assert sorted(row, key=int) == keys
        weights = np.array([row[key] for key in keys])
        np.testing.assert_allclose(weights, golden["sparse_data"][start:stop], atol=1e-5)
    assert rows[0].copy()["-1"] == 0  # as in a defaultdict(int)


def test_only_dense_by_default_and_single_results_of_a_string(
    flag: BGEM3FlagModel, facts: dict[str, Any], encoded: dict[str, Any]
) -> None:
    out = flag.encode(TEXTS[:2])
    assert [name for name, value in out.items() if value is not None] == facts["default"]
    assert set(out) == {"dense_vecs", "lexical_weights", "colbert_vecs"}
    one = flag.encode(TEXTS[0], **EVERY)
    assert list(one["dense_vecs"].shape) == facts["shape of one"]
    np.testing.assert_allclose(one["dense_vecs"], encoded["dense_vecs"][0], atol=1e-6)
    assert one["lexical_weights"].keys() == encoded["lexical_weights"][0].keys()
    np.testing.assert_allclose(one["colbert_vecs"], encoded["colbert_vecs"][0], atol=1e-6)
    nothing = flag.encode([], **EVERY)
    assert nothing["dense_vecs"].shape == (0, 64)
    assert (nothing["lexical_weights"], nothing["colbert_vecs"]) == ([], [])


def test_batch_size_changes_nothing(flag: BGEM3FlagModel, encoded: dict[str, Any]) -> None:
    alone = flag.encode(TEXTS, batch_size=1, **EVERY)
    np.testing.assert_allclose(alone["dense_vecs"], encoded["dense_vecs"], atol=1e-6)


@pytest.mark.parametrize(("label", "weights"), [("", None), (" weighted", CLASS_JOB["weights"])])
def test_scores_are_equal_to_theirs_at_batch_size_1(
    flag: BGEM3FlagModel, golden: dict[str, np.ndarray], label: str, weights: list[float] | None
) -> None:
    pairs = [(TEXTS[0], text) for text in TEXTS]
    scores = flag.compute_score(pairs, weights_for_different_modes=weights)
    assert isinstance(scores, dict)
    theirs = {name: golden[f"score{label} {name}"] for name in scores}
    assert list(scores) == ["colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense"]
    assert theirs["sparse"].max() > 1
    for name, values in scores.items():
        assert all(type(value) is float for value in values)
        np.testing.assert_allclose(values, theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_scores_of_one_pair_of_nothing_and_of_no_weight(
    flag: BGEM3FlagModel, facts: dict[str, Any]
) -> None:
    assert flag.compute_score([]) == []
    one = flag.compute_score((TEXTS[0], TEXTS[1]))
    assert one == pytest.approx(facts["scores of one"], rel=1e-5)
    scores = flag.compute_score([(TEXTS[0], TEXTS[1])], weights_for_different_modes=[0, 0, 1])
    assert isinstance(scores, dict)
    assert np.isnan(scores["sparse+dense"][0])
    assert scores["colbert+sparse+dense"] == scores["colbert"]


def test_scores_of_representations(
    flag: BGEM3FlagModel, golden: dict[str, np.ndarray], encoded: dict[str, Any]
) -> None:
    rows = encoded["lexical_weights"]
    matrix = flag.compute_lexical_matching_score(rows, rows[:4])
    assert isinstance(matrix, np.ndarray)
    np.testing.assert_allclose(matrix, golden["lexical"][:, :4], rtol=1e-5, atol=1e-5)
    one = flag.compute_lexical_matching_score(rows[0], rows[1])
    assert one == pytest.approx(golden["lexical"][0, 1], rel=1e-5)
    vectors = encoded["colbert_vecs"]
    scores = [flag.colbert_score(vectors[0], other) for other in vectors]
    assert isinstance(scores[0], torch.Tensor)
    assert scores[0].shape == ()
    np.testing.assert_allclose([float(s) for s in scores], golden["colbert"], atol=1e-5)


def test_scores_of_many_pairs_hold_few_token_vectors(
    flag: BGEM3FlagModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [(TEXTS[n % 3], TEXTS[n % 5]) for n in range(15)]
    counts: list[int] = []
    tokenize = flag.encoder.tokenize

    def watched(texts: list[str], **options: Any) -> Any:
        counts.append(len(texts))
        return tokenize(texts, **options)

    monkeypatch.setattr(flag.encoder, "tokenize", watched)
    alone, many = [flag.compute_score(pair) for pair in few], flag.compute_score(few * 20)
    assert isinstance(many, dict)
    assert max(counts) <= 256
    for name, values in many.items():  # whatever else is in the batch
        want = [one[name] for one in alone if isinstance(one, dict)] * 20
        np.testing.assert_allclose(values, want, rtol=1e-5, atol=1e-6, err_msg=name)


def test_ids_to_tokens(
    flag: BGEM3FlagModel, facts: dict[str, Any], encoded: dict[str, Any]
) -> None:
    several = flag.convert_id_to_token(encoded["lexical_weights"])
    assert isinstance(several, list)
    for row, theirs in zip(several, facts["tokens"], strict=True):
        assert row == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    one = flag.convert_id_to_token(encoded["lexical_weights"][0])
    assert one == pytest.approx(facts["tokens of one"], rel=1e-4)


def test_instructions(folder: Path, golden: dict[str, np.ndarray]) -> None:
    told = BGEM3FlagModel(
        str(folder),
        devices=["cpu"],
        query_instruction_for_retrieval=CLASS_JOB["instruction"],
        query_instruction_format=CLASS_JOB["format"],
    )
    query = told.encode_queries(TEXTS[0])["dense_vecs"]
    passage = told.encode_corpus(TEXTS[0])["dense_vecs"]
    np.testing.assert_allclose(query, golden["instructed"], atol=1e-5)
    np.testing.assert_allclose(passage, golden["instructed corpus"], atol=1e-5)
    assert np.abs(query - passage).max() > 1e-3
    named = told.encode(TEXTS[0], instruction=CLASS_JOB["instruction"], instruction_format="{}{}")
    np.testing.assert_allclose(named["dense_vecs"], query, atol=1e-6)


def test_truncated_dimensions(folder: Path, golden: dict[str, np.ndarray]) -> None:
    size = CLASS_JOB["truncate_dim"]
    short = BGEM3FlagModel(str(folder), devices="cpu", truncate_dim=size)
    out = short.encode(TEXTS, return_colbert_vecs=True)
    np.testing.assert_allclose(out["dense_vecs"], golden["truncated"], atol=1e-5)
    np.testing.assert_allclose(out["colbert_vecs"][0], golden["truncated multi"], atol=1e-5)


def test_cut_texts_are_reported(flag: BGEM3FlagModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="tercet"):
        flag.encode(TEXTS, max_length=4000)
        assert "cut" not in caplog.text
        flag.encode(TEXTS)
    assert "1 of 9 texts were cut" in caplog.text


def test_bfloat16_where_asked(folder: Path, encoded: dict[str, Any]) -> None:
    half = BGEM3FlagModel(str(folder), devices="cpu", use_bf16=True)
    cosines = (half.encode(TEXTS)["dense_vecs"] * encoded["dense_vecs"]).sum(1)
    assert 0.999 <= cosines.min() < 1 - 1e-7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalize_embeddings": False}, "always normalised"),
        ({"pooling_method": "mean"}, "pools by 'cls'"),
        ({"cache_dir": "somewhere"}, "HF_HUB_CACHE"),
        ({"colbert_dim": 7}, "checkpoint's is 48"),
        ({"truncate_dim": 0}, "at least 1"),
        ({"devices": ["cpu", "cuda:0"]}, "one device"),
        ({"device": "cuda:0"}, "differ"),
        ({"devices": None, "device": "cuda:99"}, "'cuda:99' is not there"),
        ({"unknown": 1}, "unknown=1 cannot be followed"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(
    folder: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        BGEM3FlagModel(str(folder), **({"devices": "cpu"} | options))


def test_bad_calls_are_refused(flag: BGEM3FlagModel, encoded: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        flag.compute_lexical_matching_score(encoded["lexical_weights"][0], [])
    with pytest.raises(InputError, match="batch_size"):
        flag.encode(TEXTS, batch_size=0)
    with pytest.raises(InputError):
        flag.encode(TEXTS, return_dense=False)
    with pytest.raises(InputError, match="text 1 is a int"):
        flag.encode(["a", 1])  # type: ignore[list-item]
    with pytest.raises(InputError, match="text 0 is a NoneType"):
        flag.encode([None], instruction="find ")  # type: ignore[list-item]
    for call in (flag.encode, flag.encode_queries, flag.encode_corpus):
        assert call("a", convert_to_numpy=True, show_progress_bar=False)["dense_vecs"].shape == (
            64,
        )
        for option in ({"unknown": 1}, {"convert_to_numpy": False}):
            with pytest.raises(InputError):
                call("a", **option)


PAIRS = [("the river", "water"), ("das Haus", "la ciudad")]


@pytest.mark.parametrize(
    "given", [PAIRS, tuple(PAIRS), zip(*zip(*PAIRS, strict=True), strict=True), np.array(PAIRS)]
)
def test_pairs_come_in_any_iterable(flag: BGEM3FlagModel, given: Any) -> None:
    assert flag.compute_score(given) == flag.compute_score([list(pair) for pair in PAIRS])


@pytest.mark.parametrize(
    "given", ["ab", None, 7, {"a": "b"}, {("a", "b")}, ["ab", "cd", "ef"], [("a", "b", "c")]]
)
def test_what_is_no_list_of_pairs_is_refused(flag: BGEM3FlagModel, given: Any) -> None:
    with pytest.raises(InputError):
        flag.compute_score(given)


@pytest.mark.parametrize("passage", [None, float("nan"), 7, b"water", ["water"]])
def test_what_is_no_text_has_no_score(flag: BGEM3FlagModel, passage: Any) -> None:
    with pytest.raises(InputError, match="pair 1: text 1 is a"):
        flag.compute_score([("river", "water"), ("river", passage)])
    with pytest.raises(InputError):
        flag.compute_score([passage, ("river", "water")])


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, float("nan")], [1, -1, 1], [0, 0, 0], "111", 1])
def test_weights_that_weigh_nothing_are_refused(flag: BGEM3FlagModel, weights: Any) -> None:
    with pytest.raises(InputError):
        flag.compute_score([("a", "b")], weights_for_different_modes=weights)


def test_lexical_weights_come_in_any_iterable(
    flag: BGEM3FlagModel, encoded: dict[str, Any]
) -> None:
    rows = encoded["lexical_weights"]
    matrix = flag.compute_lexical_matching_score(iter(rows), iter(rows))
    np.testing.assert_array_equal(matrix, flag.compute_lexical_matching_score(rows, rows))
    assert flag.convert_id_to_token(iter(rows)) == flag.convert_id_to_token(rows)


def test_integrations_read_devices_sizes_and_the_tokenizer(folder: Path) -> None:
    with BGEM3FlagModel(str(folder), device="cpu", devices=["cpu"], verbose=True) as flag:
        assert flag.target_devices == [str(flag.device)] == ["cpu"]
        config = flag.model.model.config
        assert (config.hidden_size, flag.model.colbert_linear.out_features) == (64, 48)
        assert len(flag.tokenizer) == flag.tokenizer.vocab_size == config.vocab_size
        ids = flag.tokenizer.encode("the river")
        assert ids == flag.encoder.tokenize(["the river"]).ids.tolist()
        assert flag.tokenizer.convert_ids_to_tokens(ids)[0] == "<s>"
        assert flag.tokenizer.decode(ids, skip_special_tokens=True) == "the river"
    flag.stop_self_pool()
    again = pickle.loads(pickle.dumps(flag))
    np.testing.assert_array_equal(
        again.encode(["a"])["dense_vecs"], flag.encode(["a"])["dense_vecs"]
    )


def test_a_missing_head_is_an_error(folder: Path, tmp_path: Path) -> None:
    headless = tmp_path / "headless"
    shutil.copytree(folder, headless)
    (headless / "sparse_linear.pt").unlink()
    flag = BGEM3FlagModel(str(headless), devices="cpu")
    assert flag.encode(TEXTS[0])["dense_vecs"].shape == (64,)
    with pytest.raises(ModelError, match="sparse"):
        flag.encode(TEXTS[0], return_sparse=True)


def test_arguments_have_their_names_order_and_defaults() -> None:
    arguments = inspect.signature(BGEM3FlagModel).parameters
    positional = ", ".join(
        f"{name}={argument.default!r}"
        for name, argument in list(arguments.items())[1:]
        if argument.kind is argument.POSITIONAL_OR_KEYWORD
    )
    # FlagEmbedding 1.4.2, inference/embedder/encoder_only/m3.py, behind model_name_or_path
    assert positional == (
        "normalize_embeddings=True, use_fp16=True, use_bf16=False, "
        "query_instruction_for_retrieval=None, query_instruction_format='{}{}', devices=None, "
        "pooling_method='cls', trust_remote_code=False, cache_dir=None, colbert_dim=-1, "
        "batch_size=256, query_max_length=512, passage_max_length=512, return_dense=True, "
        "return_sparse=False, return_colbert_vecs=False, truncate_dim=None"
    )
