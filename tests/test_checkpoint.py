"""Checkpoints: what is written is read again the same, in every layout; what is broken is named."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tercet.checkpoint import EMBEDDINGS, Checkpoint, read_checkpoint, write_checkpoint
from tercet.config import Weights
from tercet.errors import InputError, ModelError, TercetError
from tercet.layout import SETTINGS, Settings, fetch
from tercet.model import Inputs, M3Model
from tercet.tokenizer import Tokenizer

TEXTS = ["the river and the mountain", "", "la ciudad de agua, 水山河", "<s> history </s> <mask>"]


def outputs(checkpoint: Checkpoint, heads: tuple[str, ...] = ("dense", "sparse", "multi")):
    batch = Inputs.of(checkpoint.tokenizer.encode(TEXTS))
    with torch.inference_mode():
        return checkpoint.model(batch, heads)


def assert_same(left, right, tolerance: float = 1e-6) -> None:
    for name in ("dense", "weights", "multi"):
        torch.testing.assert_close(
            getattr(left, name), getattr(right, name), rtol=0.0, atol=tolerance
        )


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def test_written_is_read_the_same(tiny: Checkpoint, tiny_model: M3Model) -> None:
    for (name, want), got in zip(
        tiny_model.state_dict().items(), tiny.model.state_dict().values(), strict=True
    ):
        assert torch.equal(want, got), name
    assert tiny.model.heads == ("dense", "sparse", "multi")
    assert not tiny.model.training
    assert tiny.settings == Settings(Weights(1.0, 0.5, 0.8), "the ", "", {"steps": 0})
    dense = outputs(tiny).dense
    assert (dense[0] - dense[2]).abs().max() > 0.01  # else the tests below would be vacuous


def with_prefix(folder: Path, prefix: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    renamed = {prefix + name: tensor for name, tensor in tensors.items()}
    save_file(renamed | {"lm_head.bias": torch.zeros(3)}, folder / "model.safetensors")


def to_bin(folder: Path, *, zipped: bool = True) -> Path:
    path = folder / "pytorch_model.bin"
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()
    return path


def to_shards(folder: Path, *, lost: int | None = None) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"model-{number:05}-of-00002.safetensors"
        if number != lost:
            save_file({name: tensors[name] for name in part}, folder / shard)
        index |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def copy_names(folder: Path, old: str, new: str) -> None:
    """The tensors whose names begin with old once more, beginning with new."""
    tensors = load_file(folder / "model.safetensors")
    again = {
        new + name.removeprefix(old): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith(old)
    }
    save_file(tensors | again, folder / "model.safetensors")


def wrapped(folder: Path, prefix: str, trunk: str = "model.") -> None:
    """A whole M3 state dict under one prefix, as wrappers of models save it."""
    tensors = {f"{trunk}{k}": v for k, v in load_file(folder / "model.safetensors").items()}
    for name in ("sparse_linear", "colbert_linear"):
        head = torch.load(folder / f"{name}.pt", weights_only=True)
        (folder / f"{name}.pt").unlink()
        tensors |= {f"{name}.{key}": tensor for key, tensor in head.items()}
    (folder / "model.safetensors").unlink()
    torch.save({prefix + k: v for k, v in tensors.items()}, folder / "pytorch_model.bin")


def move_heads(folder: Path, *, inside: bool, also: str | None = None) -> None:
    """The heads as safetensors, or among the trunk's tensors; there a second time under `also`."""
    tensors = load_file(folder / "model.safetensors")
    for name in ("sparse_linear", "colbert_linear"):
        head = torch.load(folder / f"{name}.pt", weights_only=True)
        (folder / f"{name}.pt").unlink()
        if not inside:
            save_file(head, folder / f"{name}.safetensors")
        tensors |= {f"{name}.{key}": tensor for key, tensor in head.items()}
        if also is not None:
            tensors |= {f"{also}{name}.{key}": tensor.clone() for key, tensor in head.items()}
    if inside:
        save_file(tensors, folder / "model.safetensors")


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "roberta.": lambda f: with_prefix(f, "roberta."),
    "model.roberta.": lambda f: with_prefix(f, "model.roberta."),
    "pytorch_model.bin": to_bin,
    "pytorch_model.bin of old": lambda f: to_bin(f, zipped=False),
    "shards": to_shards,
    "heads as safetensors": lambda f: move_heads(f, inside=False),
    "heads inside": lambda f: move_heads(f, inside=True),
    "module.": lambda f: wrapped(f, "module."),
    "model.module.": lambda f: wrapped(f, "model.module.", ""),
    "_orig_mod.": lambda f: wrapped(f, "_orig_mod.", "module.roberta."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_the_same(folder: Path, tiny: Checkpoint, layout: str) -> None:
    LAYOUTS[layout](folder)
    assert_same(outputs(read_checkpoint(folder)), outputs(tiny))


def test_embeddings_are_stored_in_a_dtype_of_their_own(
    tmp_path: Path, tiny: Checkpoint, tiny_model: M3Model, tokenizer: Tokenizer
) -> None:
    small = tmp_path / "small"
    write_checkpoint(small, tiny_model, tokenizer, dtype=torch.bfloat16, embeddings=EMBEDDINGS)
    stored = load_file(small / "model.safetensors")
    tables = {name for name, tensor in stored.items() if tensor.dtype == torch.float8_e5m2}
    assert tables == {f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position")}
    rest = {tensor.dtype for name, tensor in stored.items() if name not in tables}
    assert rest == {torch.bfloat16}
    read = read_checkpoint(small)
    words = tiny_model.backbone.word_embeddings.weight.detach()
    assert torch.equal(
        read.model.backbone.word_embeddings.weight, words.to(torch.float8_e5m2).float()
    )
    assert_same(outputs(read), outputs(tiny), 0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stored_dtypes(
    tmp_path: Path, tiny: Checkpoint, tiny_model: M3Model, tokenizer: Tokenizer, dtype: torch.dtype
) -> None:
    write_checkpoint(tmp_path / "other", tiny_model, tokenizer, dtype=dtype)
    read = read_checkpoint(tmp_path / "other")
    assert {p.dtype for p in read.model.parameters()} == {torch.float32}
    assert_same(outputs(read), outputs(tiny), 1e-6 if dtype == torch.float64 else 0.1)


def test_a_missing_head_is_disabled_and_asking_is_the_error(folder: Path) -> None:
    (folder / "colbert_linear.pt").unlink()
    read = read_checkpoint(folder)
    assert read.model.heads == ("dense", "sparse")
    assert outputs(read, ("dense", "sparse")).multi is None
    with pytest.raises(ModelError):
        outputs(read)


def test_fingerprint(
    folder: Path, tiny: Checkpoint, tiny_model: M3Model, tokenizer: Tokenizer
) -> None:
    assert read_checkpoint(folder, dtype=torch.bfloat16).fingerprint == tiny.fingerprint
    facts = json.loads((folder / "tercet.json").read_text())
    facts["weights"]["dense"] = 2.0  # of the scores, not of the vectors
    (folder / "tercet.json").write_text(json.dumps(facts))
    assert read_checkpoint(folder).fingerprint == tiny.fingerprint
    facts["passage_prefix"] = "la "
    (folder / "tercet.json").write_text(json.dumps(facts))
    assert read_checkpoint(folder).fingerprint != tiny.fingerprint
    (folder / "tercet.json").unlink()
    assert read_checkpoint(folder).settings == Settings()
    head = torch.load(folder / "sparse_linear.pt", weights_only=True)
    before = read_checkpoint(folder).fingerprint
    torch.save(head | {"bias": head["bias"] + 1e-3}, folder / "sparse_linear.pt")
    assert read_checkpoint(folder).fingerprint != before


def change(path: Path, **facts: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def truncate(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def drop_tensor(path: Path, name: str) -> None:
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path)


def fill(path: Path, name: str, value: float) -> None:
    """Puts a value that is no number in the middle of a tensor."""
    tensors = load_file(path)
    tensors[name].view(-1)[3] = value
    save_file(tensors, path)


def lose(path: Path) -> None:
    """A link to what is not there, as a hub cache that was cleared has."""
    path.unlink()
    path.symlink_to("lost")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def shards_of(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def packed_zip(path: Path) -> None:
    """The same file with its entries compressed, as torch never writes them."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name, data)


def head(weight: Any, bias: Any = None) -> Callable[[Path], object]:
    bias = torch.zeros(1) if bias is None else bias
    return lambda f: torch.save({"weight": weight, "bias": bias}, f / "sparse_linear.pt")


NORM = "encoder.layer.1.output.LayerNorm.weight"
BREAKS: dict[str, Callable[[Path], object]] = {
    "model.safetensors: corrupt": lambda f: truncate(f / "model.safetensors"),
    "corrupt or truncated safetensors": lambda f: (f / "model.safetensors").write_bytes(b"{}"),
    "pytorch_model.bin": lambda f: truncate(to_bin(f)),
    "is corrupt, or holds more": lambda f: torch.save({"a": Path("x")}, to_bin(f)),
    "no state dict": lambda f: torch.save([torch.zeros(3)], to_bin(f)),
    f"no tensor '{NORM}'": lambda f: drop_tensor(f / "model.safetensors", NORM),
    "config.json: model_type is 'bert'": lambda f: change(f / "config.json", model_type="bert"),
    "config.json: hidden_act": lambda f: change(f / "config.json", hidden_act="relu"),
    "hidden_size must be a whole number": lambda f: change(f / "config.json", hidden_size="32"),
    "not a multiple": lambda f: change(f / "config.json", num_attention_heads=5),
    r"is \(64, 32\), but config.json says \(48, 32\)": lambda f: change(
        f / "config.json", intermediate_size=48
    ),
    "config.json: cannot be read as JSON": lambda f: truncate(f / "config.json"),
    "has no config.json": lambda f: (f / "config.json").unlink(),
    "model-00002-of-00002": lambda f: to_shards(f, lost=2),
    "has no weights": lambda f: (f / "model.safetensors").unlink(),
    "neither tokenizer.json": lambda f: (f / "tokenizer.json").unlink(),
    "not a tokenizer.json": lambda f: truncate(f / "tokenizer.json"),
    "not of one model": lambda f: change(f / "config.json", vocab_size=40),
    "sparse_linear.pt: weight is": lambda f: torch.save(
        {"weight": torch.zeros(2, 32), "bias": torch.zeros(2)}, f / "sparse_linear.pt"
    ),
    r"colbert_linear.pt: weight is \(16, 31\)": lambda f: torch.save(
        {"weight": torch.zeros(16, 31), "bias": torch.zeros(16)}, f / "colbert_linear.pt"
    ),
    r"colbert_linear.pt: .* and bias is \(4,\)": lambda f: torch.save(
        {"weight": torch.zeros(16, 32), "bias": torch.zeros(4)}, f / "colbert_linear.pt"
    ),
    "a head is a weight and a bias": lambda f: torch.save(
        {"weight": torch.zeros(16, 32)}, f / "colbert_linear.pt"
    ),
    "colbert_linear.pt: corrupt": lambda f: truncate(f / "colbert_linear.pt"),
    "tercet.json: format 99": lambda f: change(f / "tercet.json", format=99),
    "tercet.json: .*argument 'prefix'": lambda f: change(f / "tercet.json", prefix="x"),
    "tercet.json: the dense weight": lambda f: change(f / "tercet.json", weights={"dense": -1}),
    "min_score is 'x', not a finite": lambda f: change(f / "tercet.json", min_score="x"),
    "query_prefix is 3, not a string": lambda f: change(f / "tercet.json", query_prefix=3),
    "passage_prefix has more than 4,096": lambda f: change(
        f / "tercet.json", passage_prefix="a " * 2500
    ),
    "training is 5, not an object": lambda f: change(f / "tercet.json", training=5),
    f"model.safetensors: {NORM} .* not finite": lambda f: fill(
        f / "model.safetensors", NORM, float("nan")
    ),
    "word_embeddings.weight .* not finite": lambda f: fill(
        f / "model.safetensors", "embeddings.word_embeddings.weight", -float("inf")
    ),
    "sparse_linear.pt: weight .* not finite": head(torch.full((1, 32), float("nan"))),
    "model.safetensors is not a regular file": lambda f: pipe(f / "model.safetensors"),
    "tokenizer.json is not a regular file": lambda f: pipe(f / "tokenizer.json"),
    "tercet.json is not a regular file": lambda f: pipe(f / "tercet.json"),
    "colbert_linear.pt: .*No such file": lambda f: lose(f / "colbert_linear.pt"),
    r"weight is \(\) and": head(torch.tensor(1.0)),
    r"weight is \(0, 32\)": lambda f: torch.save(
        {"weight": torch.zeros(0, 32), "bias": torch.zeros(0)}, f / "colbert_linear.pt"
    ),
    "no plain tensor": head(torch.zeros(1, 32).to_sparse()),
    "weight is no plain tensor": head(torch.zeros(1, 32, device="meta")),
    "does not hold floating-point": head(torch.zeros(1, 32, dtype=torch.int32)),
    "larger than the numbers that are stored": head(torch.zeros(1, 1).expand(1, 32)),
    "its tensors are packed": lambda f: packed_zip(f / "sparse_linear.pt"),
    "shards: '../outside.safetensors'": lambda f: shards_of(f, {"a": "../outside.safetensors"}),
    "shards: '/etc/passwd'": lambda f: shards_of(f, {"a": "/etc/passwd"}),
    "shards: '..'": lambda f: shards_of(f, {"a": ".."}),
    "shards: ''": lambda f: shards_of(f, {"a": ""}),
    "shards: 5": lambda f: shards_of(f, {"a": 5}),
    "shards: unhashable": lambda f: shards_of(f, {"a": []}),
    "not an index of shards": lambda f: shards_of(f, [1]),
    "names config.json, no safetensors": lambda f: shards_of(f, {"a": "config.json"}),
    "names no shards": lambda f: shards_of(f, {}),
    "has more layers than the 1": lambda f: change(f / "config.json", num_hidden_layers=1),
    "nested too deeply": lambda f: (f / "config.json").write_text('{"a":' * 10**6),
    "several heads": lambda f: move_heads(f, inside=True, also="b."),
    "several models": lambda f: copy_names(f, "embeddings", "b.embeddings"),
}

SIZES: list[tuple[str, object]] = [
    *(
        (name, value)
        for name in ("hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size",
                     "max_position_embeddings")
        for value in (10**6, 10**9, 10**12, 10**30)
    ),
    *(("layer_norm_eps", value) for value in (float("nan"), float("inf"), 0, -1.0, 5)),
    *(("hidden_dropout_prob", value) for value in (float("nan"), -1, 5)),
    *(("num_attention_heads", value) for value in (0, -4, 10**30)),
    *(("pad_token_id", value) for value in (-1, 511, 10**9)),
    ("max_position_embeddings", 2),
]  # fmt: skip


@pytest.mark.parametrize("words", BREAKS)
def test_what_is_broken_is_named(folder: Path, words: str) -> None:
    BREAKS[words](folder)
    with pytest.raises(ModelError, match=words):
        read_checkpoint(folder)


@pytest.mark.parametrize(("name", "value"), SIZES)
def test_absurd_sizes_are_refused_before_anything_is_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    def build(*sizes: object, **options: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr("tercet.checkpoint.M3Model", build)
    ours = {"hidden_size": {"num_attention_heads": 1}}.get(name, {})
    change(folder / "config.json", **ours, **{name: value})
    with pytest.raises(ModelError, match=r"config\.json"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "sparse_linear.pt", SETTINGS]
)
def test_a_pointer_of_git_lfs_is_called_that(folder: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelError, match=rf"{name} is a Git LFS pointer"):
        read_checkpoint(folder)


def test_writing_is_whole_or_not_at_all(
    tmp_path: Path, tiny_model: M3Model, tokenizer: Tokenizer
) -> None:
    bad = Settings(training={"loss": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(tmp_path / "out", tiny_model, tokenizer, settings=bad)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError):
        write_checkpoint(tmp_path / "out", tiny_model, tokenizer)


@pytest.mark.parametrize("embeddings", [None, EMBEDDINGS])
def test_transformers_reads_what_we_write(
    tmp_path: Path, tiny: Checkpoint, embeddings: torch.dtype | None
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "written"
    write_checkpoint(folder, tiny.model, tiny.tokenizer, embeddings=embeddings)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.cls_token == "<s>"
    assert tokenizer.mask_token == "<mask>"
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ours = tiny.tokenizer.encode(TEXTS)
    result = outputs(read_checkpoint(folder))
    for row, text in enumerate(TEXTS):
        inputs = tokenizer(text, return_tensors="pt")
        want = ours.ids[ours.offsets[row] : ours.offsets[row + 1]]
        assert inputs["input_ids"][0].tolist() == want.tolist()
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state[0]
        torch.testing.assert_close(
            torch.nn.functional.normalize(states[0], dim=-1), result.dense[row], rtol=0, atol=1e-5
        )


# Hub ids

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds the tiny model as `someone/tiny`, its main branch at COMMIT."""
    assert constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_checkpoint, model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return model


def test_a_cached_model_is_read_offline(cache: Path, tiny: Checkpoint) -> None:
    read = read_checkpoint("someone/tiny")
    assert read.folder == cache / "snapshots" / COMMIT
    assert read.fingerprint == tiny.fingerprint
    assert fetch("someone/tiny", COMMIT) == read.folder


def test_weights_of_a_cached_model_may_be_a_torch_file(cache: Path, tiny: Checkpoint) -> None:
    to_bin(cache / "snapshots" / COMMIT)
    assert_same(outputs(read_checkpoint("someone/tiny")), outputs(tiny))


@pytest.mark.parametrize(
    ("source", "revision", "words"),
    [
        ("someone/tiny", COMMIT[::-1], "someone/tiny: .*cannot be reached"),
        ("someone/else", None, "someone/else: no such folder here"),
        ("../outside", None, "no such folder"),
        ("a/b/c", None, "no such folder"),
        ("has space/x", None, "no such folder"),
        ("bad--name/x..y", None, "neither a folder nor a hub id"),
        (__file__, None, "is a file"),
    ],
)
def test_what_is_neither_folder_nor_model(
    cache: Path, source: str, revision: str | None, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        fetch(source, revision)


def test_folders_have_no_revisions(tmp_path: Path) -> None:
    assert fetch(tmp_path) == tmp_path
    with pytest.raises(InputError):
        fetch(tmp_path, "main")


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        ("save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
        ("torch.save", RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")),
        ("json_bytes", OSError(28, "No space left on device")),
    ],
)
def test_a_model_that_cannot_be_written_is_named(
    writer: str,
    error: Exception,
    tiny_model: M3Model,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(f"tercet.checkpoint.{writer}", fail)
    with pytest.raises(TercetError, match=r"out: the model cannot be written: .*(space|pos)"):
        write_checkpoint(tmp_path / "out", tiny_model, tokenizer)
    assert list(tmp_path.iterdir()) == []
