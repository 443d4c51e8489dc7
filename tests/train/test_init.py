"""An encoder made into the start of an M3 model: readers, fits, and what a start must keep."""

import copy
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tercet.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError, TercetError
from tercet.model import Layout, M3Model, to_published
from tercet.tokenizer import Tokenizer
from tercet.train.init import (
    extend_positions,
    fit_multi,
    fit_sparse,
    init_model,
    language_directions,
    read_source,
    sample_states,
    sample_texts,
)
from tests.conftest import WORDS

TEXTS = [" ".join(WORDS[at : at + 9]) for at in range(0, len(WORDS) - 9, 3)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    lines = [{"text": one, "lang": ["en", "es", "de"][at % 3]} for at, one in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def bert(tmp_path: Path, tiny: Checkpoint, tiny_checkpoint: Path) -> Path:
    """The tiny trunk as BERT stores it: positions from row 0, two token types, spare word rows."""
    folder = tmp_path / "bert"
    folder.mkdir()
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    tensors = load_file(tiny_checkpoint / "model.safetensors")
    first = config["pad_token_id"] + 1
    places, words = (f"embeddings.{name}_embeddings.weight" for name in ("position", "word"))
    kinds = "embeddings.token_type_embeddings.weight"
    tensors[places] = tensors[places][first:].clone()
    tensors[words] = torch.cat((tensors[words], torch.ones(5, tensors[words].shape[1])))
    tensors[kinds] = torch.cat((tensors[kinds], torch.ones_like(tensors[kinds])))
    save_file({f"bert.{name}": tensor for name, tensor in tensors.items()},
              folder / "model.safetensors")  # fmt: skip
    config |= {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "max_position_embeddings": len(tensors[places]),
        "vocab_size": len(tensors[words]),
        "type_vocab_size": 2,
        "pad_token_id": 0,  # what BERT's config says; the tokenizer's pad is 1
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((tiny_checkpoint / "tokenizer.json").read_bytes())
    return folder


def states_of(checkpoint: Any, texts: list[str]) -> torch.Tensor:
    return sample_states(checkpoint.model.float(), checkpoint.tokenizer.encode(texts))


def test_a_start_has_all_heads_and_more_positions_and_old_texts_keep_their_states(
    bert: Path, text: Path, tmp_path: Path, tiny: Checkpoint
) -> None:
    report = init_model(
        bert, tmp_path / "start", fit=[text], positions=1000, multi=8, pooling="cls"
    )
    made, bare = read_checkpoint(tmp_path / "start"), read_source(bert)
    assert (bare.model.heads, bare.pooling) == (("dense",), "mean")
    assert torch.allclose(states_of(bare, TEXTS), states_of(tiny, TEXTS), atol=1e-5)
    assert made.model.heads == ("dense", "sparse", "multi")
    assert report.positions == (512, 1000)
    assert made.model.backbone.config.positions == 1000
    assert torch.allclose(states_of(made, TEXTS), states_of(tiny, TEXTS), atol=1e-5)
    encoder = Encoder.load(tmp_path / "start", dtype="float32")
    found = encoder.encode(TEXTS[:3])
    assert found.multi is not None
    assert found.multi.shape[1] == 8
    assert found.sparse is not None
    assert found.sparse.nnz > 0
    assert report.cls_to_pooled == 1.0
    assert report.mean_to_pooled is None


def test_a_source_that_pools_by_mean_gets_a_layer_that_makes_cls_the_mean(
    bert: Path, text: Path, tmp_path: Path, tiny: Checkpoint
) -> None:
    report = init_model(bert, tmp_path / "start", fit=[text], multi=8)
    made = read_checkpoint(tmp_path / "start")
    assert (
        report.layers == made.model.backbone.config.layers == tiny.model.backbone.config.layers + 1
    )
    assert report.cls_to_pooled is not None
    assert report.cls_to_pooled < 0.7
    assert report.mean_to_pooled is not None
    assert report.mean_to_pooled > 0.9  # 22 of its 32 components have room
    # what the heads of tokens read is as before, up to a factor for each token
    old, new = states_of(tiny, TEXTS), states_of(made, TEXTS)
    assert made.model.multi is not None
    weight = made.model.multi.weight.detach()
    before, after = (old - old.mean(1, keepdim=True)) @ weight.T, new @ weight.T
    assert torch.cosine_similarity(before, after).min() > 0.999
    # its mean is nothing to the head, by half
    content = made.tokenizer.encode(TEXTS)
    kept = np.setdiff1d(np.arange(len(content.ids)), content.cls)
    half = -0.5 * (new[torch.from_numpy(kept)].mean(0) @ weight.T)
    assert torch.allclose(made.model.multi.bias, half, atol=1e-3)


def test_a_smaller_vocabulary_keeps_the_texts_whose_pieces_stay(
    tiny_checkpoint: Path, text: Path, tmp_path: Path, tiny: Checkpoint
) -> None:
    size = tiny.tokenizer.vocabulary - 20
    report = init_model(tiny_checkpoint, tmp_path / "start", vocabulary=size, rows=[text])
    assert report.vocabulary == (tiny.tokenizer.vocabulary, size)
    made = read_checkpoint(tmp_path / "start")
    same = [
        one for one in TEXTS
        if [made.tokenizer.backend.id_to_token(at) for at in made.tokenizer.contents([one])[0]]
        == [tiny.tokenizer.backend.id_to_token(at) for at in tiny.tokenizer.contents([one])[0]]
    ]  # fmt: skip
    assert same
    assert torch.allclose(states_of(made, same), states_of(tiny, same), atol=1e-5)
    # a source that has its heads keeps them, its prefixes and the weights of its sum
    assert made.settings.query_prefix == "the "
    assert made.settings.weights == tiny.settings.weights
    for name in ("sparse", "multi"):
        ours, theirs = getattr(made.model, name), getattr(tiny.model, name)
        assert torch.equal(ours.weight, theirs.weight)


def test_directions_of_languages_are_left_out_of_multi_vectors(tiny: Checkpoint) -> None:
    tokens = tiny.tokenizer.encode(TEXTS)
    languages = ["en" if at % 2 else "de" for at in range(len(TEXTS))]
    states = torch.randn(len(tokens.ids), 32, generator=torch.Generator().manual_seed(0))
    owners = np.repeat(np.array(languages), tokens.lengths)
    states[torch.from_numpy(owners == "de")] += 5 * torch.eye(32)[3]
    apart = language_directions(states, tokens.lengths, languages, 4)
    assert apart.shape == (1, 32)  # two languages differ in one direction
    assert abs(float(apart[0, 3])) > 0.95
    head, kept = fit_multi(states, tokens, 31, apart)
    assert float((head.weight @ apart.T).detach().abs().max()) < 1e-4
    plain, more = fit_multi(states, tokens, 31, apart[:0])
    assert float((plain.weight @ apart.T).detach().abs().max()) > 0.9
    assert kept < more <= 1.0001


def test_the_sparse_fit_finds_a_linear_rarity(tiny: Checkpoint) -> None:
    tokens = tiny.tokenizer.encode(TEXTS)
    states = torch.randn(len(tokens.ids), 32, generator=torch.Generator().manual_seed(0))
    truth = torch.randn(32, generator=torch.Generator().manual_seed(1))
    goals = (states @ truth * 0.1 + 2.0).numpy().astype(np.float32)  # above 0: no ReLU in the way
    head, correlation = fit_sparse(states, tokens, goals)
    assert correlation > 0.99
    assert torch.allclose(head.weight[0], 0.1 * truth, atol=0.02)


def test_a_sample_has_every_language_alike() -> None:
    tagged = [("en", f"text {n}") for n in range(500)] + [("sw", f"andiko {n}") for n in range(9)]
    texts, languages = sample_texts(tagged, 20)
    assert languages.count("sw") == 9
    assert 9 <= languages.count("en") <= 11
    assert len(set(texts)) == len(texts)


STORED = {"attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v",
          "attention.output.dense": "ao", "intermediate.dense": "fi", "output.dense": "fo",
          "attention.output.LayerNorm": "aln", "output.LayerNorm": "oln",
          "word_embeddings.weight": "emb.word", "position_embeddings.weight": "emb.pos",
          "token_type_embeddings.weight": "emb.type",
          "LayerNorm.weight": "emb.ln.w", "LayerNorm.bias": "emb.ln.b"}  # fmt: skip


def packed(path: Path, checkpoint: Checkpoint) -> Path:
    """Writes the tiny trunk as a packed image, weights rounded to 4 bits."""
    config = checkpoint.model.backbone.config
    vocab = json.loads(checkpoint.tokenizer.backend.to_str())["model"]["vocab"]
    pieces = [piece.encode() for piece, _ in vocab]
    ends = np.cumsum([0, *map(len, pieces)]).astype("<u4")
    sizes = (config.hidden, config.layers, config.heads, config.feed_forward)
    head = b"E5S1" + struct.pack("<I", 1)
    head += struct.pack("<7i", *sizes, config.vocabulary, config.positions - 2, 2)
    head += struct.pack("<fi", config.norm_eps, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, int(ends[-1]))
    head += ends.tobytes() + np.array([score for _, score in vocab], "<f4").tobytes()
    head += b"".join(pieces) + struct.pack("<iI", 0, 0)
    stored: dict[str, bytes] = {}
    state = to_published(checkpoint.model.backbone.state_dict(), config.layers)
    for published, tensor in state.items():
        values, name = tensor.numpy(), published.removeprefix("embeddings.")
        if published.startswith("encoder."):
            number, name = published.removeprefix("encoder.layer.").split(".", 1)
            name, kind = name.rsplit(".", 1)
            name = f"l{number}.{STORED[name]}.{kind[0]}"
        else:
            name = STORED[name]
        matrix = name == "emb.word" or (name.endswith(".w") and "ln" not in name)
        values = {"emb.pos": values[2:], "emb.type": values.repeat(2, 0)}.get(name, values)
        stored[name] = blocks(values) if matrix else values.astype("<f4").tobytes()
    start = len(head) + 4 + sum(2 + len(name) + 1 + 4 + 16 for name in stored)
    listed, body = struct.pack("<i", len(stored)), b""
    for name, raw in stored.items():
        listed += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BI", 0, 0)
        listed += struct.pack("<QQ", start + len(body), len(raw))
        body += raw
    path.write_bytes(head + listed + body)
    return path


def blocks(values: np.ndarray[Any, Any]) -> bytes:
    """Q4_0: a float16 scale and 32 weights in 16 bytes."""
    out = b""
    for row in values.astype(np.float32).reshape(-1, 32):
        scale = np.float16(np.abs(row).max() / 7)
        whole = np.clip(np.round(row / np.float32(scale)) + 8, 0, 15).astype(np.uint8)
        out += scale.tobytes() + (whole[:16] | whole[16:] << 4).tobytes()
    return out


def test_a_packed_encoder_is_the_trunk_within_its_four_bits(
    tiny: Checkpoint, tmp_path: Path
) -> None:
    source = read_source(packed(tmp_path / "tiny.bin", tiny))
    assert source.tokenizer.contents(TEXTS) == tiny.tokenizer.contents(TEXTS)
    config = source.model.backbone.config
    assert config == replace(tiny.model.backbone.config, norm_eps=config.norm_eps)
    assert config.norm_eps == pytest.approx(tiny.model.backbone.config.norm_eps)
    expected = tiny.model.backbone.state_dict()
    for name, tensor in source.model.backbone.state_dict().items():
        wanted = expected[name]
        if name == "position_embeddings.weight":  # those of <s> and <pad> are never read
            tensor, wanted = tensor[2:], wanted[2:]
        exact = wanted.ndim == 1 or name.startswith("position")
        step = 0.0 if exact else wanted.abs().max() / 7
        assert torch.all((tensor - wanted).abs() <= 0.55 * step + 1e-6), name
    near = torch.nn.functional.cosine_similarity(states_of(source, TEXTS), states_of(tiny, TEXTS))
    assert float(near.mean()) > 0.9
    path = tmp_path / "tiny.bin"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a whole packed encoder"):
        read_source(path)
    path.write_bytes(b"something else")
    with pytest.raises(ModelError, match="no packed encoder: give the folder"):
        read_source(path)


@pytest.mark.parametrize("size", range(6))
@pytest.mark.parametrize("value", [-1, 0, 10**6, 2**31 - 1])
def test_a_packed_encoder_of_absurd_sizes_is_refused(
    tiny: Checkpoint, tmp_path: Path, size: int, value: int
) -> None:
    path = packed(tmp_path / "tiny.bin", tiny)
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, 8 + 4 * size, value)
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a whole packed encoder"):
        read_source(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 1),
        ("vocab_size", 10**12),
        ("max_position_embeddings", 10**12),
        ("hidden_size", 64),
    ],
)
def test_sizes_of_another_layout_are_those_of_its_tensors(
    bert: Path, name: str, value: int
) -> None:
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(ModelError, match=r"config\.json (says|asks)"):
        read_source(bert)


def test_what_cannot_start_is_told_in_words(
    tiny_checkpoint: Path, bert: Path, text: Path, tmp_path: Path
) -> None:
    for source, options, words in (
        (tiny_checkpoint, {"vocabulary": 100}, "give rows"),
        (tiny_checkpoint, {"even": True, "rows": [text]}, "--vocabulary N"),
        (bert, {}, "fitted to text: give some"),
        (bert, {"fit": [text], "multi": 99}, "multi-vectors of 99 values from states of 32"),
        (bert, {"fit": [text], "multi": 20}, "no room for the mean"),
        (tmp_path / "nowhere", {"fit": [text]}, "no such folder"),
    ):
        with pytest.raises(TercetError, match=words):
            init_model(source, tmp_path / "a", **options)
        assert not (tmp_path / "a").exists()
    with pytest.raises(InputError):
        init_model(bert, text.parent, fit=[text])


# positions


def test_old_texts_keep_their_states_and_learned_rows_repeat(
    tiny_model: M3Model, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model, first = copy.deepcopy(tiny_model), tiny_model.backbone
    old = model.backbone.position_embeddings.weight  # rows 0 and 1 (pad), then 510 learned ones
    extend_positions(model.backbone, 512)
    assert model.backbone.position_embeddings.weight is old
    extend_positions(model.backbone, 1300)
    table = model.backbone.position_embeddings.weight
    assert torch.equal(table, torch.cat((old, old[2:], old[2 : 2 + 278])))
    assert table.requires_grad == old.requires_grad
    lengths = [510, 3, 40]
    ids = torch.randint(5, first.config.vocabulary, (sum(lengths),))
    with torch.inference_mode():
        assert torch.equal(first(ids, Layout(lengths)), model.backbone(ids, Layout(lengths)))
        long = model.backbone(torch.randint(5, 100, (1298,)), Layout([1298]))
    assert long.isfinite().all()
    write_checkpoint(tmp_path / "long", model, tokenizer)
    read = read_checkpoint(tmp_path / "long").model.backbone
    assert torch.equal(read.position_embeddings.weight, table)
