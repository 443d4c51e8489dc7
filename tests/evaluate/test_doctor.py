"""Servers with planted defects: the doctor must name each, and pass those that have none."""

import json
import shutil
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tercet.checkpoint import read_checkpoint, write_checkpoint
from tercet.cli import run
from tercet.encoder import Encoder
from tercet.endpoint import Endpoint, EndpointError
from tercet.errors import InputError, StoreError
from tercet.evaluate.doctor import (
    Diagnosis,
    HeadResult,
    diagnose_endpoint,
    diagnose_model,
    report_json,
    report_text,
)
from tercet.evaluate.golden import Golden, run_checkpoint
from tercet.evaluate.parity import golden_texts
from tercet.model import M3Model
from tercet.tokenizer import Tokenizer
from tests.chat_server import HTML, Reply, fails
from tests.evaluate.embedding_server import Defect, EmbeddingServer, Model

ALL = golden_texts()
NAMES = "word en de fr ru zh ar emoji combining capitals lines repeated code empty".split()
TEXTS = {name: ALL[name] for name in NAMES} | {
    # the tiny model takes 510 tokens, of which most are single characters
    "middle": ALL["over 8,192"][:400],
    "long": ALL["over 8,192"][9000:9700],
}


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading them takes 20 ms for each of 200 clients, and nothing here uses TLS."""
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *args, **options: None)


@pytest.fixture(scope="module")
def golden(tiny_checkpoint: Path) -> Golden:
    return run_checkpoint(read_checkpoint(tiny_checkpoint), "tiny", texts=TEXTS)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Model:
    return Model(tiny_checkpoint)


def quick(url: str) -> Endpoint:
    return Endpoint(url, retries=1, backoff=0.01, timeout=20.0)


def diagnosed(model: Model, golden: Golden, api: str, defect: Defect, **options: Any) -> Diagnosis:
    apis = ("openai", "vllm") if api == "vllm" else (api,)
    with EmbeddingServer(model, defect, apis) as server:
        return diagnose_endpoint(quick(server.root), golden, **options)


def head(diagnosis: Diagnosis, kind: str) -> HeadResult:
    return next(head for head in diagnosis.heads if head.kind == kind)


def says(result: HeadResult) -> str:
    assert result.explained is not None
    return "; and ".join(cause.says for cause in result.explained.causes)


@pytest.mark.parametrize(
    ("api", "kinds"),
    [
        ("openai", ("dense",)),
        ("tei", ("dense", "sparse", "states")),
        ("vllm", ("dense", "sparse", "multi")),
    ],
)
def test_a_server_without_a_defect_is_healthy(
    model: Model, golden: Golden, api: str, kinds: tuple[str, ...]
) -> None:
    diagnosis = diagnosed(model, golden, api, Defect())
    assert {head.kind: head.verdict for head in diagnosis.heads} == dict.fromkeys(kinds, "same")
    assert diagnosis.healthy("float32")
    assert len(head(diagnosis, "dense").texts) == len(TEXTS)


def in_latin(text: str) -> str:
    return text.encode().decode("latin-1")


def one_bread(text: str) -> str:
    return text.replace("🍞", ":bread:")


TWICE = Defect(before=(0, 0), behind=(2, 2), limit=508)
PLANTED: list[tuple[str, str, Defect, str]] = [
    ("tei", "dense", Defect(limit=256), "texts are cut to 256 tokens"),
    ("tei", "sparse", Defect(limit=256), "texts are cut to 256 tokens"),
    ("vllm", "multi", Defect(limit=256), "texts are cut to 256 tokens"),
    ("openai", "dense", Defect(left=True), "the last 510 tokens of long texts"),
    ("openai", "dense", Defect(pool="mean"), "mean pooling instead of [CLS]"),
    ("openai", "dense", Defect(pool="last"), "the last token's state instead of"),
    ("openai", "dense", Defect(unit=False), "not normalised"),
    ("openai", "dense", Defect(dims=24), "only the first 24 of 32 dimensions"),
    ("openai", "dense", Defect(change="query: ".__add__), "'query: ' is put before each"),
    ("tei", "sparse", Defect(change="the ".__add__), "'the ' is put before each"),
    ("tei", "dense", Defect(change=str.lower), "texts are lower-cased"),
    ("openai", "dense", Defect(change=in_latin), "UTF-8 is read as Latin-1"),
    ("openai", "dense", Defect(before=()), "[CLS] (<s>) is missing"),
    ("openai", "dense", Defect(behind=()), "</s> is missing"),
    ("tei", "states", Defect(before=(), behind=()), "and </s> are missing"),
    ("tei", "dense", TWICE, "[CLS] (<s>) and </s> are there twice"),
    ("tei", "sparse", Defect(special=True), "special tokens keep their"),
    ("tei", "sparse", Defect(summed=True), "weights of a repeated token are summed"),
    ("tei", "sparse", Defect(activation=torch.clone), "no ReLU: weights below 0 are kept"),
    ("tei", "sparse", Defect(activation=lambda x: x.relu().log1p()), "log(1 + w) of each weight"),
    ("vllm", "multi", Defect(first=0), "the vector of [CLS] is kept"),
    ("vllm", "multi", Defect(last=1), "the vector of </s> is dropped"),
    ("vllm", "multi", Defect(unit=False), "not normalised"),
    ("vllm", "multi", Defect(states=True), "the trunk's states"),
    ("openai", "dense", Defect(masked=False), "depends on the texts that it is sent"),
    ("tei", "dense", Defect(order=lambda rows: rows[1:] + rows[:1]), "another order"),
    ("tei", "sparse", Defect(order=lambda rows: rows[::-1]), "another order"),
    ("tei", "dense", Defect(broken=True), "hold no finite numbers"),
    ("tei", "sparse", Defect(broken=True), "hold no finite numbers"),
    ("tei", "dense", Defect(change=lambda text: "sea"), "all texts get the same"),
    ("openai", "dense", Defect(refuses=256), "tokens and more are refused"),
    ("openai", "dense", Defect(pool="mean", limit=256), "256 tokens; and mean pool"),
    ("openai", "dense", Defect(limit=300), "long texts are cut or changed"),
    ("vllm", "multi", Defect(limit=300), "long texts are cut or changed"),
    ("tei", "dense", Defect(change=one_bread), "only some texts differ: 'emoji'"),
    ("openai", "dense", Defect(pool="mean", dtype=torch.bfloat16), "mean pooling instead of"),
]


@pytest.mark.parametrize(("api", "kind", "defect", "cause"), PLANTED)
def test_a_planted_defect_is_named(
    model: Model, golden: Golden, api: str, kind: Any, defect: Defect, cause: str
) -> None:
    diagnosis = diagnosed(model, golden, api, defect, kinds=(kind,))
    result = head(diagnosis, kind)
    assert result.verdict == "different"
    assert cause in says(result)
    assert result.explained is not None
    assert result.explained.rest != "something else"
    assert len(result.explained.causes) == (2 if "; and " in cause else 1)
    assert not diagnosis.healthy("int8")
    assert cause in report_text(diagnosis)
    json.dumps(report_json(diagnosis, "int8"), allow_nan=False)


@pytest.mark.parametrize(
    ("defect", "kind"), [(Defect(special=True), "dense"), (Defect(pool="mean"), "sparse")]
)
def test_only_the_head_with_the_defect_is_blamed(
    model: Model, golden: Golden, defect: Defect, kind: str
) -> None:
    diagnosis = diagnosed(model, golden, "tei", defect)
    assert head(diagnosis, kind).verdict == "same"
    assert not diagnosis.healthy("int8")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_is_told_from_defects(model: Model, golden: Golden, dtype: str) -> None:
    diagnosis = diagnosed(model, golden, "vllm", Defect(dtype=getattr(torch, dtype)))
    assert head(diagnosis, "dense").verdict == f"same within {dtype} rounding"
    assert diagnosis.healthy("int8")
    assert not diagnosis.healthy("float32")


def test_coarser_types_allow_more_but_hide_no_known_defect(model: Model, golden: Golden) -> None:
    for limits in golden.limits().values():
        assert 0 < limits["float16"] < limits["bfloat16"] < limits["int8"] < 1
    kinds = golden.about.kinds
    coarse = replace(
        golden, limits=lambda: {k: {"float16": 0, "bfloat16": 0, "int8": 1} for k in kinds}
    )
    rounded = diagnosed(model, coarse, "openai", Defect(dtype=torch.float16))
    assert head(rounded, "dense").verdict == "same within int8 rounding"
    assert "mean pooling" in says(
        head(diagnosed(model, coarse, "openai", Defect(pool="mean")), "dense")
    )


@pytest.fixture(scope="module")
def stranger(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: M3Model, tokenizer: Tokenizer
) -> Path:
    """A checkpoint of the same sizes with other weights."""
    folder = tmp_path_factory.mktemp("models") / "stranger"
    other = M3Model(tiny_model.backbone.config, tokenizer.weightless_ids.tolist(), multi=16)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.2, generator=generator)
    write_checkpoint(folder, other, tokenizer)
    return folder


def test_other_weights_are_told(
    model: Model, golden: Golden, stranger: Path, tiny_checkpoint: Path
) -> None:
    diagnosis = diagnosed(Model(stranger), golden, "openai", Defect())
    assert "weights of another checkpoint" in says(head(diagnosis, "dense"))
    suspects = [("stranger", read_checkpoint(stranger))]
    suspicious = run_checkpoint(
        read_checkpoint(tiny_checkpoint), "tiny", texts=TEXTS, suspects=suspects
    )
    diagnosis = diagnosed(Model(stranger), suspicious, "openai", Defect())
    assert says(head(diagnosis, "dense")) == "these are the vectors of stranger"


def test_random_heads_are_told_from_a_wrong_trunk(tiny_checkpoint: Path, golden: Golden) -> None:
    diagnosis = diagnosed(Model(tiny_checkpoint, random_heads=True), golden, "vllm", Defect())
    assert head(diagnosis, "dense").verdict == "same"
    for kind in ("sparse", "multi"):
        assert f"the {kind} head's own weights are not" in says(head(diagnosis, kind))


def test_a_folder_that_cannot_be_made_is_told_before_the_checkpoint_runs(
    golden: Golden, tmp_path: Path
) -> None:
    def outputs(variant: int) -> list[Any]:
        raise AssertionError("the checkpoint ran")

    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file"):
        replace(golden, outputs=outputs).save(tmp_path / "file" / "golden")


def test_stored_golden_vectors_give_the_same_diagnosis(
    model: Model, golden: Golden, tmp_path: Path
) -> None:
    golden.save(tmp_path / "golden")
    stored = Golden.read(tmp_path / "golden")
    for api, defect in (("vllm", Defect(limit=256)), ("tei", Defect(summed=True, pool="mean"))):
        live, read = (diagnosed(model, g, api, defect).heads for g in (golden, stored))
        for a, b in zip(live, read, strict=True):
            assert (a.kind, a.verdict, len(a.texts)) == (b.kind, b.verdict, len(b.texts))
            np.testing.assert_allclose(a.errors, b.errors, atol=1e-6)
            if a.kind != "multi" and a.level is None:  # tokens' vectors: of right texts alone
                assert says(a) == says(b)
    with pytest.raises(InputError):
        golden.save(tmp_path / "golden")
    facts = tmp_path / "golden" / "golden.json"
    whole = facts.read_bytes()
    facts.write_bytes(whole.replace(b'"limits"', b'"limit"'))
    with pytest.raises(StoreError, match="no whole folder"):
        Golden.read(tmp_path / "golden")
    facts.write_bytes(whole)
    np.save(tmp_path / "golden" / "logits.npy", np.zeros(3, np.float32))
    with pytest.raises(StoreError, match="no whole folder"):
        Golden.read(tmp_path / "golden")
    with pytest.raises(InputError, match="--make"):
        Golden.read(tmp_path)


def test_a_folder_is_compared_too(golden: Golden, tiny_checkpoint: Path, stranger: Path) -> None:
    diagnosis = diagnose_model(Encoder.load(tiny_checkpoint, dtype="float32"), golden)
    assert {head.kind for head in diagnosis.heads} == {"dense", "sparse", "multi"}
    assert diagnosis.healthy("float32")
    assert diagnosis.facts == ()
    rounded = diagnose_model(Encoder.load(tiny_checkpoint, dtype="bfloat16"), golden)
    assert {head.verdict for head in rounded.heads} == {"same within bfloat16 rounding"}
    diagnosis = diagnose_model(Encoder.load(stranger, dtype="float32"), golden)
    assert not diagnosis.healthy("int8")
    assert "the query prefix is '' instead of 'the '" in diagnosis.facts
    assert not any("tokenizer gives" in fact for fact in diagnosis.facts)


def test_only_what_both_have_is_compared(
    model: Model, golden: Golden, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    dense = shutil.copytree(tiny_checkpoint, tmp_path / "dense")
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        (dense / name).unlink()
    encoder = Encoder.load(dense, dtype="float32")
    asked = diagnose_model(encoder, golden, kinds=("dense",))
    assert (asked.healthy("float32"), asked.facts) == (True, ())
    assert not diagnose_model(encoder, golden).healthy("float32")
    of_dense = run_checkpoint(read_checkpoint(dense), "dense", texts=TEXTS)
    with pytest.raises(InputError, match="dense has none of sparse: nothing is compared"):
        diagnosed(model, of_dense, "tei", Defect(), kinds=("sparse",))


def test_a_server_that_answers_on_every_path(model: Model, golden: Golden) -> None:
    with EmbeddingServer(model, Defect(), ("openai",)) as server:
        server.unknown = Reply({"error": "Unexpected endpoint"})  # with 200, as LM Studio has it
        assert diagnose_endpoint(quick(server.root), golden).healthy("float32")


@pytest.mark.parametrize("path", ["", "/", "/v1/", "/v1/embeddings", "/embed"])
def test_addresses_and_names(model: Model, golden: Golden, path: str) -> None:
    with EmbeddingServer(model, Defect(), ("openai",), served="this") as server:
        endpoint = quick(server.root + path)
        assert diagnose_endpoint(endpoint, golden, name="this").healthy("float32")
        assert max(len(request.get("input", "")) for request in server.requests) == 8
        with pytest.raises(EndpointError, match="`tiny` does not exist"):
            diagnose_endpoint(endpoint, golden)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (HTML, "text/html that is no JSON"),
        (Reply({"data": []}), "0 answers to 1 texts"),
        (Reply({"hello": "world"}), "no embeddings"),
        (Reply({"data": [{"index": 0, "embedding": ["a"]}]}), "no embeddings"),
        (Reply({"data": [{"index": 0, "embedding": [[1.0]]}]}), "2 dimensions"),
        (fails(429, "slow down"), "answered 429: slow down"),
        (fails(401, "no key"), "access denied"),
    ],
)
def test_faults_are_told_in_words(model: Model, golden: Golden, fault: Reply, message: str) -> None:
    with EmbeddingServer(model, Defect(), ("openai",)) as server:
        server.fault = fault
        with pytest.raises(EndpointError) as told:
            diagnose_endpoint(quick(server.root), golden, api="openai")
    assert message in str(told.value)
    assert server.root in str(told.value)


def test_the_checkpoint_is_not_run_for_a_server_that_refuses(golden: Golden, model: Model) -> None:
    def outputs(variant: int) -> Any:
        raise AssertionError

    with EmbeddingServer(model, Defect(), ("tei", "openai", "vllm")) as server:
        server.fault = fails(401, "no key")
        with pytest.raises(EndpointError):
            diagnose_endpoint(quick(server.root), replace(golden, outputs=outputs))


def test_the_command(
    model: Model,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tercet.evaluate.golden.golden_texts", lambda: TEXTS)

    def tercet(code: int, *arguments: object) -> str:
        assert run(["doctor", *map(str, arguments)]) == code
        out = capsys.readouterr()
        return out.out + out.err

    golden = tmp_path / "golden"
    made = tercet(0, "--make", golden, "--model", tiny_checkpoint)
    assert f"golden vectors of {len(TEXTS)} texts" in made
    with EmbeddingServer(model, Defect(summed=True), ("tei",)) as server:
        text = tercet(1, server.root, "--golden", golden, "--heads", "sparse")
        assert "weights of a repeated token are summed" in text
        assert "'▁the' weighs" in text
        dense = ("--golden", golden, "--heads", "dense", "--json")
        assert json.loads(tercet(0, server.root, *dense))["healthy"]
        assert "offers none of multi" in tercet(
            1, server.root, "--golden", golden, "--heads", "multi"
        )
    bfloat16 = (tiny_checkpoint, "--golden", golden, "--dtype", "bfloat16")
    tercet(0, *bfloat16)
    tercet(1, *bfloat16, "--within", "float32")
    tercet(1, "http://127.0.0.1:9", "--golden", golden, "--retries", "0")
    wrong: dict[str, tuple[object, ...]] = {
        "give a TARGET": (),
        "'all' is no list of heads": ("x", "--heads", "all"),
        "--api is for endpoints": (tiny_checkpoint, "--api", "tei"),
        "--dtype is for folders": ("http://127.0.0.1:9", "--dtype", "float32"),
        "exists already": ("--make", golden),
        "--golden stands in": ("x", "--golden", golden, "--model", "y"),
        "no address of an endpoint": ("http://", "--golden", golden),
    }
    for message, arguments in wrong.items():
        assert message in tercet(2, *arguments)
