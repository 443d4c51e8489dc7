"""Fixtures for every test: a tiny tokenizer and a tiny random checkpoint, made here from a seed."""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no network in tests, whatever is asked

from pathlib import Path

import pytest
import torch
from tokenizers import normalizers

from tercet.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tercet.config import Weights
from tercet.layout import BackboneConfig, Settings
from tercet.model import M3Model
from tercet.tokenizer import Tokenizer, unigram
from tests.offline import block

MEMORY = "qdrant://memory.invalid:6333"  # answered by the client's local mode

WORDS = """
the of and to in is was for on that by as it with river mountain city water light history music
science people world language year house garden school night star sea ship bread stone fire
winter summer tree bird horse book letter number king queen doctor law market road bridge
el la de que y en los del las una por con es un se su río ciudad agua luz historia mundo año casa
der die und in den von zu das mit sich des auf für ist im dem nicht ein Wasser Haus Stadt Buch
""".split()
CHARACTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-_<>/"
    "áéíóúñüäößαβγδεжзийклмнопрст水山河光史語世界日本人一二三四五तलबकनمنالكتب가나다라한국"
)

torch.set_num_threads(1)
if "TERCET_QDRANT_URL" not in os.environ:  # a server that the fixture `qdrant` uses
    block()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A Unigram tokenizer with the ids and the pipeline of XLM-RoBERTa, 300 pieces or so."""
    pieces = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    words = list(dict.fromkeys(WORDS))
    pieces += [(f"▁{word}", -4.0 - 0.01 * rank) for rank, word in enumerate(words)]
    pieces += [("▁", -6.0)]
    pieces += [(c, -9.0 - 0.01 * rank) for rank, c in enumerate(dict.fromkeys(CHARACTERS))]
    pieces += [("<mask>", 0.0)]
    return Tokenizer(unigram(pieces, [normalizers.NFKC()]))


@pytest.fixture(scope="session")
def tiny_model(tokenizer: Tokenizer) -> M3Model:
    """Two layers of 32, 2 heads, multi-vectors of 16, positions for 510 tokens; seeded."""
    config = BackboneConfig(
        vocabulary=tokenizer.vocabulary,
        hidden=32,
        layers=2,
        heads=2,
        feed_forward=64,
        positions=512,
    )
    torch.manual_seed(0)
    model = M3Model(config, tokenizer.weightless_ids.tolist(), multi=16)
    with torch.no_grad():  # so large that different texts differ by far more than rounding
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.2)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: M3Model, tokenizer: Tokenizer
) -> Path:
    """The folder of the tiny model, written in float32; never change it, copy it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    settings = Settings(weights=Weights(1.0, 0.5, 0.8), query_prefix="the ", training={"steps": 0})
    write_checkpoint(folder, tiny_model, tokenizer, settings=settings)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path) -> Checkpoint:
    """The tiny checkpoint as read."""
    return read_checkpoint(tiny_checkpoint)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: for tests that sync to disk a hundred times."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@dataclass
class Disk:
    """What is asked of the disk, in order: ("sync" or "name", path)."""

    events: list[tuple[str, Path]] = field(default_factory=list)

    def check(self) -> None:
        """Whatever takes a name was synced before, and its folder is synced after."""
        names = [number for number, (kind, _) in enumerate(self.events) if kind == "name"]
        assert names
        for number in names:
            path = self.events[number][1]
            assert ("sync", path.parent) in self.events[number + 1 :], path
            assert self.events[number - 1][0] == "sync", path


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Listens to every fsync and every file or folder that takes its name."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("asks the system for the names of open files")
    seen, fsync = Disk(), os.fsync

    def sync(file: int) -> None:
        seen.events.append(("sync", Path(os.readlink(f"/proc/self/fd/{file}"))))
        fsync(file)

    def naming(real: Callable[..., None]) -> Callable[..., None]:
        def name(source: Path, target: Path) -> None:
            real(source, target)
            seen.events.append(("name", Path(target)))

        return name

    monkeypatch.setattr(os, "fsync", sync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, naming(getattr(os, name)))
    return seen


@pytest.fixture(scope="session")
def qdrant() -> Iterator[str]:
    """The address of a Qdrant server, as far as its port: that of TERCET_QDRANT_URL (http://...),
    else the client's local mode, without a server. What tests made there is removed at the end.
    """
    client_module = pytest.importorskip("qdrant_client")
    from tercet.index import qdrant as module
    from tercet.index.qdrant import Address

    given = os.environ.get("TERCET_QDRANT_URL", "").rstrip("/")
    server = MEMORY
    with pytest.MonkeyPatch.context() as patch:
        if given:
            server = given.replace("http", "qdrant+http", 1).replace("qdrant+http:", "qdrant:")
        else:
            memory, real = client_module.QdrantClient(":memory:"), module.connect
            patch.setattr(memory, "close", lambda: None)  # other tests and processes share it
            patch.setattr(
                module,
                "connect",
                lambda at: memory if str(at).startswith(MEMORY) else real(at),
            )
        yield server
        client = module.connect(Address.parse(f"{server}/all"))
        for collection in client.get_collections().collections:
            if collection.name.startswith("tercet-test-"):
                client.delete_collection(collection.name)
