"""Servers with planted defects: the doctor must name each, and pass those that have none."""

import json
import ssl
from collections.abc import Callable
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
from tercet.evaluate.golden import Golden, golden_texts, run_checkpoint
from tercet.model import M3Model
from tercet.tokenizer import Tokenizer
from tests.chat_server import HTML, NO_JSON, Reply, fails
from tests.evaluate.embedding_server import Defect, EmbeddingServer, Model

ALL = golden_texts()
NAMES = "word en de fr ru zh ar emoji combining capitals lines repeated code empty".split()
TEXTS = {name: ALL[name] for name in NAMES} | {
    # the tiny model takes 510 tokens, of which most are single characters
    "middle": ALL["over 8,192"][:400],
    "long": ALL["over 8,192"][9000:9700],
}
QUICK: dict[str, Any] = {"retries": 1, "backoff": 0.01, "timeout": 20.0}


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


def diagnosed(model: Model, golden: Golden, api: str, defect: Defect, **options: Any) -> Diagnosis:
    apis = {"vllm": ("openai", "vllm"), "flag": ("openai", "flag")}.get(api, (api,))
    with EmbeddingServer(model, defect, apis) as server:
        return diagnose_endpoint(Endpoint(server.root, **QUICK), golden, **options)


def head(found: Diagnosis, kind: str) -> HeadResult:
    return next(head for head in found.heads if head.kind == kind)


def says(result: HeadResult) -> str:
    assert result.explained is not None
    return "; and ".join(cause.says for cause in result.explained.causes)


@pytest.mark.parametrize(
    ("api", "kinds"),
    [
        ("openai", ("dense",)),
        ("tei", ("dense", "sparse", "states")),
        ("vllm", ("dense", "sparse", "multi")),
        ("flag", ("dense",)),
    ],
)
def test_a_server_without_a_defect_is_healthy(
    model: Model, golden: Golden, api: str, kinds: tuple[str, ...]
) -> None:
    found = diagnosed(model, golden, api, Defect())
    assert {head.kind: head.verdict for head in found.heads} == dict.fromkeys(kinds, "same")
    assert found.healthy(None)
    assert len(head(found, "dense").texts) == len(TEXTS)


def in_latin(text: str) -> str:
    return text.encode().decode("latin-1")


PLANTED: dict[str, tuple[str, str, Defect, str]] = {
    "cut": ("tei", "dense", Defect(limit=256), "texts are cut to 256 tokens"),
    "cut, sparse": ("tei", "sparse", Defect(limit=256), "texts are cut to 256 tokens"),
    "cut, multi": ("vllm", "multi", Defect(limit=256), "texts are cut to 256 tokens"),
    "cut at the start": ("openai", "dense", Defect(left=True), "the last 510 tokens of long texts"),
    "mean": ("openai", "dense", Defect(pool="mean"), "mean pooling instead of [CLS]"),
    "last": ("openai", "dense", Defect(pool="last"), "the last token's state instead of"),
    "no norm": ("openai", "dense", Defect(unit=False), "not normalised"),
    "dimensions": ("openai", "dense", Defect(dims=24), "only the first 24 of 32 dimensions"),
    "prompt": ("openai", "dense", Defect(change="query: ".__add__), "'query: ' is put before each"),
    "own prompt": ("tei", "sparse", Defect(change="the ".__add__), "'the ' is put before each"),
    "lower case": ("tei", "dense", Defect(change=str.lower), "texts are lower-cased"),
    "Latin-1": ("openai", "dense", Defect(change=in_latin), "UTF-8 is read as Latin-1"),
    "no [CLS]": ("openai", "dense", Defect(before=()), "[CLS] (<s>) is missing"),
    "no </s>": ("openai", "dense", Defect(behind=()), "</s> is missing"),
    "no special tokens": ("tei", "states", Defect(before=(), behind=()), "and </s> are missing"),
    "two of each": (
        "tei",
        "dense",
        Defect(before=(0, 0), behind=(2, 2), limit=508),
        "[CLS] (<s>) and </s> are there twice",
    ),
    "positions": ("tei", "dense", Defect(positions=0), "position ids start at 0 instead of 2"),
    "special tokens weigh": ("tei", "sparse", Defect(special=True), "special tokens keep their"),
    "sums": ("tei", "sparse", Defect(summed=True), "weights of a repeated token are summed"),
    "no ReLU": ("tei", "sparse", Defect(relu=False), "no ReLU: weights below 0 are kept"),
    "SPLADE": ("tei", "sparse", Defect(log1p=True), "log(1 + w) of each weight"),
    "[CLS] kept": ("vllm", "multi", Defect(first=0), "the vector of [CLS] is kept"),
    "</s> dropped": ("vllm", "multi", Defect(last=1), "the vector of </s> is dropped"),
    "tokens not normalised": ("vllm", "multi", Defect(unit_tokens=False), "not normalised"),
    "no head": ("vllm", "multi", Defect(states=True), "the trunk's states"),
    "padding": ("openai", "dense", Defect(masked=False), "depends on the texts that it is sent"),
    "order": ("tei", "dense", Defect(order=lambda rows: rows[1:] + rows[:1]), "another order"),
    "order, sparse": ("tei", "sparse", Defect(order=lambda rows: rows[::-1]), "another order"),
    "NaN": ("tei", "dense", Defect(broken=float("nan")), "hold no finite numbers"),
    "NaN, sparse": ("tei", "sparse", Defect(broken=float("nan")), "hold no finite numbers"),
    "one vector": ("tei", "dense", Defect(change=lambda text: "sea"), "all texts get the same"),
    "refused": ("openai", "dense", Defect(refuses=256), "tokens and more are refused"),
    "two at once": ("openai", "dense", Defect(pool="mean", limit=256), "256 tokens; and mean pool"),
    "an odd length": ("openai", "dense", Defect(limit=300), "long texts are cut or changed"),
    "an odd length, multi": ("vllm", "multi", Defect(limit=300), "all of them have 299 vectors"),
    "some texts": (
        "tei",
        "dense",
        Defect(change=lambda text: text.replace("🍞", ":bread:")),
        "only some texts differ: 'emoji'",
    ),
    "in bfloat16": (
        "openai",
        "dense",
        Defect(pool="mean", dtype=torch.bfloat16),
        "mean pooling instead of [CLS]",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_is_named(model: Model, golden: Golden, name: str) -> None:
    api, kind, defect, cause = PLANTED[name]
    found = diagnosed(model, golden, api, defect, kinds=(kind,))
    result = head(found, kind)
    assert result.verdict == "different"
    assert cause in says(result)
    assert result.explained is not None
    assert len(result.explained.causes) == (2 if "; and " in cause else 1)
    assert not found.healthy("int8")
    assert cause in report_text(found)
    json.dumps(report_json(found, "int8"), allow_nan=False)


@pytest.mark.parametrize(
    ("defect", "kind"), [(Defect(special=True), "dense"), (Defect(pool="mean"), "sparse")]
)
def test_only_the_head_with_the_defect_is_blamed(
    model: Model, golden: Golden, defect: Defect, kind: str
) -> None:
    found = diagnosed(model, golden, "tei", defect)
    assert head(found, kind).verdict == "same"
    assert not found.healthy("int8")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_told_from_defects(model: Model, golden: Golden, dtype: torch.dtype) -> None:
    found = diagnosed(model, golden, "vllm", Defect(dtype=dtype))
    name = str(dtype).removeprefix("torch.")
    assert head(found, "dense").verdict == f"same within {name} rounding"
    assert all(result.same for result in found.heads)
    assert found.healthy("int8")
    assert not found.healthy(None)


def test_coarser_types_allow_more(golden: Golden) -> None:
    for limits in golden.limits().values():
        assert 0 < limits["float16"] < limits["bfloat16"] < limits["int8"] < 1
    assert golden.limits() == golden.limits()
    before = golden.expected("dense")[0]
    np.testing.assert_array_equal(before, golden.expected("dense")[0])  # weights are exact again


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
    found = diagnosed(Model(stranger), golden, "openai", Defect())
    assert "weights of another checkpoint" in says(head(found, "dense"))
    suspects = [("stranger", read_checkpoint(stranger))]
    suspicious = run_checkpoint(
        read_checkpoint(tiny_checkpoint), "tiny", texts=TEXTS, suspects=suspects
    )
    found = diagnosed(Model(stranger), suspicious, "openai", Defect())
    assert says(head(found, "dense")) == "these are the vectors of stranger"


def test_random_heads_are_told_from_a_wrong_trunk(tiny_checkpoint: Path, golden: Golden) -> None:
    found = diagnosed(Model(tiny_checkpoint, random_heads=True), golden, "vllm", Defect())
    assert head(found, "dense").same
    for kind in ("sparse", "multi"):
        assert f"the {kind} head's own weights are not" in says(head(found, kind))


def test_golden_vectors_give_the_same_diagnosis(
    model: Model, golden: Golden, tmp_path: Path
) -> None:
    golden.save(tmp_path / "golden")
    stored = Golden.read(tmp_path / "golden")
    for defect in (Defect(limit=256), Defect(summed=True, pool="mean")):
        first, second = (diagnosed(model, some, "vllm", defect).heads for some in (golden, stored))
        for a, b in zip(first, second, strict=True):
            assert (a.kind, a.verdict, len(a.texts)) == (b.kind, b.verdict, len(b.texts))
            np.testing.assert_allclose(a.errors, b.errors, atol=1e-6)
            if a.kind != "multi" and not a.same:
                assert says(a) == says(b)
            if a.kind == "multi" and not a.same:  # vectors of tokens are stored of right ones alone
                assert "all of them have 255 vectors" in says(b)
    with pytest.raises(InputError):
        golden.save(tmp_path / "golden")
    np.save(tmp_path / "golden" / "logits.npy", np.zeros(3, np.float32))
    with pytest.raises(StoreError):
        Golden.read(tmp_path / "golden")
    with pytest.raises(InputError):
        Golden.read(tmp_path)


def test_a_folder_is_compared_too(golden: Golden, tiny_checkpoint: Path, stranger: Path) -> None:
    found = diagnose_model(Encoder.load(tiny_checkpoint, dtype="float32"), golden)
    assert {head.kind for head in found.heads} == {"dense", "sparse", "multi"}
    assert found.healthy(None)
    assert found.facts == ()
    rounded = diagnose_model(Encoder.load(tiny_checkpoint, dtype="bfloat16"), golden)
    assert {head.verdict for head in rounded.heads} == {"same within bfloat16 rounding"}
    found = diagnose_model(Encoder.load(stranger, dtype="float32"), golden)
    assert not found.healthy("int8")
    facts = [fact.says for fact in found.facts]
    assert "the query prefix is '' instead of 'the '" in facts
    assert not any("tokenizer gives" in fact for fact in facts)


@pytest.mark.parametrize("path", ["", "/", "/v1/", "/v1/embeddings", "/embed"])
def test_addresses_and_names(model: Model, golden: Golden, path: str) -> None:
    with EmbeddingServer(model, Defect(), ("openai",), served="this") as server:
        endpoint = Endpoint(server.root + path, **QUICK)
        assert diagnose_endpoint(endpoint, golden, name="this").healthy(None)
        assert max(len(request.get("input", "")) for request in server.requests) == 8
        with pytest.raises(EndpointError, match="`tiny` does not exist"):
            diagnose_endpoint(endpoint, golden)


FAULTS: dict[str, tuple[Reply, str]] = {
    "HTML": (HTML, "text/html that is no JSON"),
    "torn JSON": (NO_JSON, "that is no JSON"),
    "nothing": (Reply({"data": []}), "0 answers to 1 texts"),
    "nonsense": (Reply({"hello": "world"}), "no embeddings"),
    "words": (Reply({"data": [{"index": 0, "embedding": ["a"]}]}), "no embeddings"),
    "tokens": (Reply({"data": [{"index": 0, "embedding": [[1.0]]}]}), "2 dimensions"),
    "busy": (fails(429, "slow down"), "answered 429: slow down"),
    "failing": (fails(500, "out of memory"), "answered 500: out of memory"),
    "locked": (fails(401, "no key"), "access denied"),
    "slow": (Reply(b"[]", delay=2.0), "no answer within 0.5 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_in_words(model: Model, golden: Golden, fault: str) -> None:
    reply, message = FAULTS[fault]
    with EmbeddingServer(model, Defect(), ("openai",)) as server:
        server.faults_of = {"/v1/embeddings": reply, "/embeddings": reply}
        endpoint = Endpoint(server.root, retries=1, backoff=0.01, timeout=0.5)
        with pytest.raises(EndpointError) as told:
            diagnose_endpoint(endpoint, golden, api="openai")
    assert message in str(told.value)
    assert server.root in str(told.value)


def test_the_command(
    model: Model,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tercet.evaluate.golden.golden_texts", lambda: TEXTS)

    def tercet(*arguments: object) -> tuple[int, str, str]:
        code = run(["doctor", *map(str, arguments)])
        out = capsys.readouterr()
        return code, out.out, out.err

    golden = tmp_path / "golden"
    code, out, _ = tercet("--make", golden, "--model", tiny_checkpoint)
    assert code == 0
    assert f"golden vectors of {len(TEXTS)} texts" in out
    with EmbeddingServer(model, Defect(summed=True), ("tei",)) as server:
        code, out, _ = tercet(server.root, "--golden", golden, "--heads", "sparse")
        assert code == 1
        assert "weights of a repeated token are summed" in out
        assert "'▁the' weighs" in out
        code, out, _ = tercet(server.root, "--golden", golden, "--heads", "dense", "--json")
        assert code == 0
        assert json.loads(out)["healthy"]
        code, _, err = tercet(server.root, "--golden", golden, "--heads", "multi")
        assert code == 1
        assert "offers none of multi" in err
    bfloat16 = (tiny_checkpoint, "--golden", golden, "--dtype", "bfloat16")
    assert tercet(*bfloat16)[0] == 0
    assert tercet(*bfloat16, "--within", "float32")[0] == 1
    assert tercet("http://127.0.0.1:9", "--golden", golden, "--retries", "0")[0] == 1
    wrong: dict[str, Callable[[], tuple[int, str, str]]] = {
        "give a TARGET": tercet,
        "unknown head 'all'": lambda: tercet("x", "--heads", "all"),
        "--api is for endpoints": lambda: tercet(tiny_checkpoint, "--api", "tei"),
        "--dtype is for folders": lambda: tercet("http://127.0.0.1:9", "--dtype", "float32"),
        "exists already": lambda: tercet("--make", golden),
        "--golden stands in": lambda: tercet("x", "--golden", golden, "--model", "y"),
        "no address of an endpoint": lambda: tercet("http://", "--golden", golden),
    }
    for message, call in wrong.items():
        code, _, err = call()
        assert (code, message in err) == (2, True), err
