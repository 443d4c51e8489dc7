"""Servers with planted defects: the doctor must name each, and pass those that have none."""

import base64
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
from tercet.evaluate.doctor.answers import read_value, token_weights
from tercet.evaluate.doctor.diagnose import diagnose_endpoint, diagnose_model
from tercet.evaluate.doctor.examine import HeadResult
from tercet.evaluate.doctor.golden import Golden, save
from tercet.evaluate.doctor.readings import Sparse
from tercet.evaluate.doctor.reference import Live, Reference
from tercet.evaluate.doctor.report import Diagnosis, machine, text
from tercet.evaluate.doctor.texts import golden_texts
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
def reference(tiny_checkpoint: Path) -> Live:
    return Live(read_checkpoint(tiny_checkpoint), "tiny", texts=TEXTS)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Model:
    return Model(tiny_checkpoint)


def diagnosed(
    model: Model, reference: Reference, api: str, defect: Defect, **options: Any
) -> Diagnosis:
    apis = ("openai", "vllm") if api == "vllm" else (api,)
    with EmbeddingServer(model, defect, apis) as server:
        return diagnose_endpoint(Endpoint(server.root, **QUICK), reference, **options)


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
    ],
)
def test_a_server_without_a_defect_is_healthy(
    model: Model, reference: Live, api: str, kinds: tuple[str, ...]
) -> None:
    found = diagnosed(model, reference, api, Defect())
    assert {head.kind: head.verdict for head in found.heads} == dict.fromkeys(kinds, "same")
    assert found.healthy(None)
    assert found.facts == ()
    assert len(head(found, "dense").texts) == len(TEXTS)


PLANTED: dict[str, tuple[str, str, Defect, str]] = {
    "cut": ("tei", "dense", Defect(limit=256), "texts are cut to 256 tokens"),
    "cut, sparse": ("tei", "sparse", Defect(limit=256), "texts are cut to 256 tokens"),
    "cut, multi": ("vllm", "multi", Defect(limit=256), "texts are cut to 256 tokens"),
    "cut at the start": ("openai", "dense", Defect(left=True), "the last 510 tokens of long texts"),
    "mean": ("openai", "dense", Defect(pool="mean"), "mean pooling instead of [CLS]"),
    "last": ("openai", "dense", Defect(pool="last"), "the last token's state instead of"),
    "no norm": ("openai", "dense", Defect(unit=False), "not normalised"),
    "dimensions": ("openai", "dense", Defect(dims=24), "only the first 24 of 32 dimensions"),
    "prompt": (
        "openai",
        "dense",
        Defect(change=lambda text: "query: " + text),
        "'query: ' is put before each text",
    ),
    "its own prompt": (
        "tei",
        "sparse",
        Defect(change=lambda text: "the " + text),
        "'the ' is put before each text",
    ),
    "lower case": ("tei", "dense", Defect(change=str.lower), "texts are lower-cased"),
    "Latin-1": (
        "openai",
        "dense",
        Defect(change=lambda text: text.encode().decode("latin-1")),
        "UTF-8 is read as Latin-1",
    ),
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
def test_a_planted_defect_is_named(model: Model, reference: Live, name: str) -> None:
    api, kind, defect, cause = PLANTED[name]
    found = diagnosed(model, reference, api, defect, kinds=(kind,))
    result = head(found, kind)
    assert result.verdict == "different"
    assert cause in says(result)
    assert result.explained is not None
    assert len(result.explained.causes) == (2 if "; and " in cause else 1)
    assert not found.healthy("int8")
    assert cause in text(found)
    json.dumps(machine(found, "int8"), allow_nan=False)


@pytest.mark.parametrize(
    ("defect", "kind"), [(Defect(special=True), "dense"), (Defect(pool="mean"), "sparse")]
)
def test_only_the_head_with_the_defect_is_blamed(
    model: Model, reference: Live, defect: Defect, kind: str
) -> None:
    found = diagnosed(model, reference, "tei", defect)
    assert head(found, kind).verdict == "same"
    assert not found.healthy("int8")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_told_from_defects(model: Model, reference: Live, dtype: torch.dtype) -> None:
    found = diagnosed(model, reference, "vllm", Defect(dtype=dtype))
    name = str(dtype).removeprefix("torch.")
    assert head(found, "dense").verdict == f"same within {name} rounding"
    assert all(result.same for result in found.heads)
    assert not found.healthy(None)


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
    model: Model, reference: Live, stranger: Path, tiny_checkpoint: Path
) -> None:
    found = diagnosed(Model(stranger), reference, "openai", Defect())
    assert "weights of another checkpoint" in says(head(found, "dense"))
    suspicious = Live(
        read_checkpoint(tiny_checkpoint),
        "tiny",
        texts=TEXTS,
        suspects=[("stranger", read_checkpoint(stranger))],
    )
    found = diagnosed(Model(stranger), suspicious, "openai", Defect())
    assert says(head(found, "dense")) == "these are the vectors of stranger"


def test_random_heads_are_told_from_a_wrong_trunk(tiny_checkpoint: Path, reference: Live) -> None:
    found = diagnosed(Model(tiny_checkpoint, random_heads=True), reference, "vllm", Defect())
    assert head(found, "dense").same
    for kind in ("sparse", "multi"):
        assert f"the {kind} head's own weights are not" in says(head(found, kind))


def test_golden_vectors_give_the_same_diagnosis(
    model: Model, reference: Live, tmp_path: Path
) -> None:
    save(reference, tmp_path / "golden")
    golden = Golden(tmp_path / "golden")
    assert not list((tmp_path / "golden").glob("*.pkl"))
    for defect in (Defect(limit=256), Defect(summed=True, pool="mean")):
        first, second = (
            diagnosed(model, some, "vllm", defect).heads for some in (reference, golden)
        )
        for a, b in zip(first, second, strict=True):
            assert (a.kind, a.verdict, len(a.texts)) == (b.kind, b.verdict, len(b.texts))
            np.testing.assert_allclose(a.errors, b.errors, atol=1e-6)
            if a.kind != "multi" and not a.same:
                assert says(a) == says(b)
            if a.kind == "multi" and not a.same:  # vectors of tokens are stored of right ones alone
                assert "all of them have 255 vectors" in says(b)
    with pytest.raises(InputError, match="exists already"):
        save(reference, tmp_path / "golden")
    (tmp_path / "golden" / "logits.npy").unlink()
    np.save(tmp_path / "golden" / "logits.npy", np.zeros(3, np.float32))
    with pytest.raises(StoreError, match="make it anew"):
        Golden(tmp_path / "golden")
    with pytest.raises(InputError, match="--make"):
        Golden(tmp_path)


def test_a_folder_is_compared_too(reference: Live, tiny_checkpoint: Path, stranger: Path) -> None:
    plain = Encoder.load(tiny_checkpoint, dtype="float32")
    found = diagnose_model(plain, reference)
    assert {head.kind for head in found.heads} == {"dense", "sparse", "multi"}
    assert found.healthy(None)
    assert found.facts == ()
    rounded = diagnose_model(Encoder.load(tiny_checkpoint, dtype="bfloat16"), reference)
    assert {head.verdict for head in rounded.heads} == {"same within bfloat16 rounding"}
    found = diagnose_model(Encoder.load(stranger, dtype="float32"), reference)
    assert not found.healthy("int8")
    facts = [fact.says for fact in found.facts]
    assert "the query prefix is '' instead of 'the '" in facts
    assert not any("tokenizer gives" in fact for fact in facts)


def test_an_index_is_followed_and_base64_is_tried(model: Model, reference: Live) -> None:
    with EmbeddingServer(model, Defect(), ("openai",)) as server:
        found = diagnose_endpoint(Endpoint(server.root + "/v1/embeddings", **QUICK), reference)
        assert found.healthy(None)
        sent = [request for request in server.requests if "encoding_format" in request]
        assert {request["encoding_format"] for request in sent} == {"float", "base64"}
        assert max(len(request["input"]) for request in sent) == 8

    def turned(rows: list[Any]) -> list[Any]:  # bytes in the wrong order
        raw = [base64.b64decode(r)[::-1] if isinstance(r, str) else r for r in rows]
        return [base64.b64encode(r).decode() if isinstance(r, bytes) else r for r in raw]

    broken = Defect(order=turned)
    found = diagnosed(model, reference, "openai", broken)
    assert ["base64" in fact.says for fact in found.facts] == [True]
    assert head(found, "dense").same
    assert not found.healthy("int8")


def test_the_served_name_is_found(model: Model, reference: Live) -> None:
    with EmbeddingServer(model, Defect(), ("openai",), models=("served-as-this",)) as server:
        assert diagnose_endpoint(Endpoint(server.root, **QUICK), reference).healthy(None)
        named = {request["model"] for request in server.requests if "model" in request}
        assert named == {"served-as-this"}
        with pytest.raises(EndpointError, match="`wrong` does not exist"):
            diagnose_endpoint(Endpoint(server.root, **QUICK), reference, name="wrong")
    with (
        EmbeddingServer(model, Defect(), ("openai",), models=("one", "two")) as server,
        pytest.raises(InputError, match="name one with --name: one, two"),
    ):
        diagnose_endpoint(Endpoint(server.root, **QUICK), reference)


FAULTS: dict[str, tuple[Reply, str]] = {
    "HTML": (HTML, "text/html that is no JSON"),
    "torn JSON": (NO_JSON, "that is no JSON"),
    "nothing": (Reply({"data": []}), "0 answers to 1 texts"),
    "nonsense": (Reply({"hello": "world"}), "an answer without embeddings: {'hello': 'world'}"),
    "words": (Reply({"data": [{"index": 0, "embedding": ["a"]}]}), "it holds 'a' where a number"),
    "busy": (fails(429, "slow down"), "answered 429: slow down"),
    "failing": (fails(500, "out of memory"), "answered 500: out of memory"),
    "locked": (fails(401, "no key"), "access denied"),
    "slow": (Reply(b"[]", delay=2.0), "no answer within 0.5 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_in_words(model: Model, reference: Live, fault: str) -> None:
    reply, message = FAULTS[fault]
    with EmbeddingServer(model, Defect(), ("openai",)) as server:
        server.faults_of = {"/v1/embeddings": reply, "/embeddings": reply}
        endpoint = Endpoint(server.root, retries=1, backoff=0.01, timeout=0.5)
        with pytest.raises(EndpointError) as told:
            diagnose_endpoint(endpoint, reference, api="openai")
    assert message in str(told.value)
    assert server.root in str(told.value)


def test_nobody_there(reference: Live) -> None:
    with pytest.raises(EndpointError, match="connection refused"):
        diagnose_endpoint(Endpoint("http://127.0.0.1:9", **QUICK), reference)


def test_values_of_many_forms_are_read() -> None:
    dense = np.array([0.5, -1.0], np.float32)
    for value in ([0.5, -1], "AAAAPwAAgL8="):
        found = read_value(value)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, dense)
    forms: list[Any] = [
        [{"index": 9, "value": 0.5}, {"index": 4, "value": 1.0}],
        [{"token_id": 4, "weight": 1.0, "token": "x"}, {"token_id": 9, "weight": 0.5}],
        {"9": 0.5, "4": 1.0},
        {"indices": [4, 9], "values": [1.0, 0.5]},
    ]
    for form in forms:
        found = read_value(form)
        assert isinstance(found, Sparse)
        assert (found.ids.tolist(), found.weights.tolist()) == ([4, 9], [1.0, 0.5])
    pairs = token_weights([[0.5], [0.25], [1.0]], [0, 7, 8, 7, 2])
    assert (pairs.ids.tolist(), pairs.weights.tolist()) == ([7, 8], [1.0, 0.25])
    with pytest.raises(ValueError, match="3 weights for a text of 2 tokens"):
        token_weights([1, 2, 3], [0, 2])
    for bad in ([[1.0], [1.0, 2.0]], [True], "no", {"a": 1}, 7, [{"index": 1}]):
        with pytest.raises(ValueError):  # noqa: PT011 - what it says is the same in none
            read_value(bad)


def test_the_command(
    model: Model,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tercet.evaluate.doctor.reference.golden_texts", lambda: TEXTS)

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
    assert tercet(tiny_checkpoint, "--golden", golden, "--dtype", "float32")[0] == 0
    assert tercet(tiny_checkpoint, "--golden", golden, "--dtype", "bfloat16")[0] == 0
    strict = tercet(
        tiny_checkpoint, "--golden", golden, "--dtype", "bfloat16", "--within", "float32"
    )
    assert strict[0] == 1
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
