"""Trimming: the text's scores stay exactly, everything but word embeddings is kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tercet.checkpoint import EMBEDDINGS, Checkpoint, read_checkpoint
from tercet.cli import run
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError
from tercet.train import counts
from tercet.train.trim import Sample, stored_dtypes, trim
from tests.conftest import WORDS
from tests.test_sentencepiece import spm

TEXTS = [
    "the river and the sea",
    "bread, stone and fire",
    "la ciudad de agua",
    "水山 ☃ light",
    "",
    "the winter night " * 200,
]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def test_scores_are_unchanged_and_all_else_is_kept(
    tiny: Checkpoint, tiny_checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    report = trim(tiny_checkpoint, tmp_path / "small", [text])
    assert report.before.vocabulary == tiny.tokenizer.vocabulary
    assert report.after.vocabulary < report.before.vocabulary
    assert report.after.bytes < report.before.bytes
    assert (report.texts, report.changed, report.compared) == (6, 0, 6)
    assert report.values == report.scores == {"dense": 0.0, "sparse": 0.0, "multi": 0.0}

    small = read_checkpoint(tmp_path / "small")
    assert small.settings == tiny.settings
    assert small.model.heads == tiny.model.heads
    assert small.fingerprint != tiny.fingerprint
    kept = small.model.state_dict()
    for name, tensor in tiny.model.state_dict().items():
        if name != "backbone.word_embeddings.weight":
            assert torch.equal(kept[name], tensor), name
    assert small.tokenizer.weightless_ids.tolist() == [0, 2, 1, 3]
    assert small.model.get_buffer("weightless").nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert small.tokenizer.backend.token_to_id("<mask>") == small.tokenizer.vocabulary - 1
    # as queries too: the prefix of queries, "the ", keeps its pieces
    old, new = (Encoder(one).encode(["bread"], role="query").dense for one in (tiny, small))
    assert old is not None
    assert new is not None
    assert np.array_equal(old, new)
    # what the text lacks is spelled out, not lost
    assert small.tokenizer.unk_id not in small.tokenizer.contents(["mountain"])[0]
    old, new = (Encoder(one).encode(["mountain"]).dense for one in (tiny, small))
    assert old is not None
    assert new is not None
    assert not np.allclose(old, new, atol=1e-3)


def test_a_prefix_keeps_its_pieces(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("bread\n")
    facts = json.loads((folder / "tercet.json").read_text())
    facts |= {"query_prefix": "the king ", "passage_prefix": "history "}
    (folder / "tercet.json").write_text(json.dumps(facts))
    report = trim(folder, tmp_path / "small", [tmp_path / "a.txt"])
    assert (report.texts, report.changed) == (1, 0)
    vocab = read_checkpoint(tmp_path / "small").tokenizer.backend.get_vocab()
    assert {"▁the", "▁king", "▁history", "▁bread"} <= vocab.keys()
    assert "▁queen" not in vocab


def test_a_bound_on_the_vocabulary_changes_texts_and_says_so(
    tiny_checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    full = trim(tiny_checkpoint, tmp_path / "full", [text])
    report = trim(tiny_checkpoint, tmp_path / "few", [text], vocabulary=full.after.vocabulary - 8)
    assert report.after.vocabulary == full.after.vocabulary - 8
    assert 0 < report.changed < 6
    assert report.compared == 6 - report.changed
    assert set(report.values.values()) == {0.0}
    assert report.changed == sum(cut_otherwise(tiny_checkpoint, tmp_path / "few", TEXTS))
    with pytest.raises(InputError, match="single characters"):
        trim(tiny_checkpoint, tmp_path / "none", [text], vocabulary=10)
    assert not (tmp_path / "none").exists()


def cut_otherwise(before: Path, after: Path, texts: list[str]) -> list[bool]:
    """Whether each text's pieces are others, told by cutting all of them."""
    old, new = (read_checkpoint(folder).tokenizer.backend for folder in (before, after))
    return [old.encode(text).tokens != new.encode(text).tokens for text in texts]


@pytest.mark.parametrize("balance", [False, True])
def test_changed_texts_are_counted_without_cutting_all_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balance: bool
) -> None:
    facts = json.loads((folder / "tercet.json").read_text())
    facts |= {"query_prefix": "the king ", "passage_prefix": "die"}  # glued to the first word
    (folder / "tercet.json").write_text(json.dumps(facts))
    texts = [f"{WORDS[n % 40]} {WORDS[n * n % 97]}" for n in range(60)] + ["", "☃ Haus"]
    rows = [{"text": text, "lang": "de" if n % 7 else "es"} for n, text in enumerate(texts)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    full = trim(folder, tmp_path / "full", [path], sample=0).after.vocabulary
    monkeypatch.setattr(counts, "BLOCK", 7)  # two prefixes: a text's two rows may be parted
    found = []
    for less in (1, 5, 20, 30):
        target = tmp_path / f"less-{less}"
        report = trim(folder, target, [path], vocabulary=full - less, balance=balance, sample=99)
        otherwise = [
            any(marks)
            for marks in zip(
                *(
                    cut_otherwise(folder, target, [prefix + text for text in texts])
                    for prefix in ("the king ", "die")
                ),
                strict=True,
            )
        ]
        assert report.changed == sum(otherwise)
        assert set(report.values.values()) <= {0.0}
        found.append(report.changed)
    assert 0 < found[0] < found[1] < found[2] < len(texts)


def test_small_languages_keep_their_pieces_when_balanced(folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "the river and the sea", "lang": "en"}] * 50
    rows += [{"text": "the mountain city", "lang": "en"}] * 3 + [{"text": "Wasser", "lang": "de"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    full = trim(folder, tmp_path / "full", [path], sample=0).after.vocabulary

    def lost(balance: bool) -> set[str]:
        target = tmp_path / f"balanced-{balance}"
        trim(folder, target, [path], vocabulary=full - 1, balance=balance, sample=0)
        both = [
            set(read_checkpoint(one).tokenizer.backend.get_vocab())
            for one in (tmp_path / "full", target)
        ]
        return both[0] - both[1]

    assert lost(balance=False) == {"▁Wasser"}
    assert len(lost(balance=True) & {"▁mountain", "▁city"}) == 1


def test_missing_heads_stay_missing(folder: Path, text: Path, tmp_path: Path) -> None:
    (folder / "colbert_linear.pt").unlink()
    report = trim(folder, tmp_path / "small", [text])
    assert report.values.keys() == {"dense", "sparse"}
    small = read_checkpoint(tmp_path / "small")
    assert small.model.heads == ("dense", "sparse")
    assert not (tmp_path / "small" / "colbert_linear.pt").exists()


def test_a_sentencepiece_model_alone_is_enough(
    tiny: Checkpoint, folder: Path, text: Path, tmp_path: Path
) -> None:
    vocab = json.loads(tiny.tokenizer.backend.to_str())["model"]["vocab"][4:-1]
    first = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    (folder / "sentencepiece.bpe.model").write_bytes(spm([*first, *map(tuple, vocab)]))
    (folder / "tokenizer.json").unlink()
    report = trim(folder, tmp_path / "small", [text])
    assert report.changed == 0
    assert set(report.values.values()) == {0.0}
    assert (tmp_path / "small" / "tokenizer.json").exists()
    small = read_checkpoint(tmp_path / "small").tokenizer
    assert small.vocabulary < tiny.tokenizer.vocabulary
    assert small.backend.encode("the").ids[0] == 0


@pytest.mark.parametrize(
    ("dtype", "embeddings"),
    [(torch.float16, None), (torch.bfloat16, None), (torch.bfloat16, EMBEDDINGS)],
)
def test_weights_stay_in_their_dtype(
    folder: Path, text: Path, tmp_path: Path, dtype: torch.dtype, embeddings: torch.dtype | None
) -> None:
    tensors = {n: t.to(dtype) for n, t in load_file(folder / "model.safetensors").items()}
    if embeddings is not None:
        for name in ("word", "position"):
            table = f"embeddings.{name}_embeddings.weight"
            tensors[table] = tensors[table].to(embeddings)
    save_file(tensors, folder / "model.safetensors")
    assert stored_dtypes(folder) == (torch.float32, None)  # the heads still are
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        head = torch.load(folder / name, weights_only=True)
        torch.save({key: tensor.to(dtype) for key, tensor in head.items()}, folder / name)
    assert stored_dtypes(folder) == (dtype, embeddings)
    report = trim(folder, tmp_path / "small", [text])
    assert set(report.values.values()) == {0.0}
    stored = load_file(tmp_path / "small" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }


def test_surplus_rows_and_torch_files_are_read(folder: Path, text: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    tensors[name] = torch.cat((tensors[name], torch.zeros(7, tensors[name].shape[1])))
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] += 7
    (folder / "config.json").write_text(json.dumps(config))
    report = trim(folder, tmp_path / "small", [text])
    assert report.before.vocabulary == config["vocab_size"]
    assert set(report.values.values()) == {0.0}


def test_another_pad_id_is_refused(folder: Path, text: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["pad_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="<pad> is id 2"):
        trim(folder, tmp_path / "small", [text])
    assert not (tmp_path / "small").exists()


def test_what_cannot_be_trimmed_is_refused(
    tiny_checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="no text in"):
        trim(tiny_checkpoint, tmp_path / "small", [tmp_path / "empty.txt"])
    with pytest.raises(ModelError, match="no such folder"):
        trim(tmp_path / "absent", tmp_path / "small", [text])
    with pytest.raises(InputError, match="exists already"):
        trim(tiny_checkpoint, text, [text])


def test_the_sample_is_spread_and_bounded(
    tiny_checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Sample(50)
    for number in range(1000):
        sample.add(number, str(number))
    drawn = sorted(int(text) for text in sample.texts)
    assert len(set(drawn)) == 50
    assert 350 < np.mean(drawn) < 650
    monkeypatch.setattr(counts, "BLOCK", 2)
    report = trim(tiny_checkpoint, tmp_path / "small", [text], sample=2)
    assert report.compared == 2
    report = trim(tiny_checkpoint, tmp_path / "none", [text], sample=0)
    assert (report.compared, report.values) == (0, {})


def test_the_command_balances_a_bounded_vocabulary_alone(
    tiny_checkpoint: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["trim", str(tiny_checkpoint), "--rows", str(text), "--to", str(tmp_path / "small")]
    assert run([*asked, "--balanced"]) == 2
    assert "--vocabulary" in capsys.readouterr().err
    assert run([*asked, "--balanced", "--vocabulary", "158", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["after"]["vocabulary"] == 158
