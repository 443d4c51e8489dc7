"""Pruning: subwords counted and scored, what the text uses kept, and the text's vectors exactly."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from tercet.checkpoint import EMBEDDINGS, Checkpoint, read_checkpoint, stored_dtypes
from tercet.cli import run
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError
from tercet.tokenizer import Tokenizer, unigram
from tercet.train.prune_vocab import (
    LanguageCounts,
    Reservoir,
    balanced,
    balanced_scores,
    count_languages,
    evened,
    prune_tokenizer,
    prune_vocab,
    score_ids,
    subword_probabilities,
    token_counts,
)
from tests.conftest import WORDS

TEXTS = ["the river and the sea", "bread, stone and fire", "la ciudad de agua", "水山 ☃ light", "",
         "the winter night " * 200]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def untagged(texts: list[str]) -> list[tuple[str, str]]:
    return [("", text) for text in texts]


def singles(tokenizer: Tokenizer) -> int:
    return sum(len(subword.removeprefix("▁")) <= 1 for subword in tokenizer.backend.get_vocab())


# counting

METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
BOTH = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
RUNS = {"type": "Replace", "pattern": {"Regex": " {2,}"}}
FIRST = [{"type": "Nmt"}, {"type": "NFKC"}]
STRIP = {"type": "Strip", "strip_left": False, "strip_right": True}
NMT = {"type": "Sequence", "normalizers": [*FIRST, STRIP, RUNS | {"content": "▁"}]}
PLAIN = {"type": "Sequence", "normalizers": [*FIRST, RUNS | {"content": " "}]}
LOWER = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *PLAIN["normalizers"]]}

# what stands beside spaces: their kin, marks, what joins or turns into spaces, special tokens
ALPHABET = "ab é  \n\t\r\u00a0\u3000\u200b\u200d\u0301\u0308´▁\ufffd\x1c\x00水ำ☃"
PARTS = st.sampled_from([*ALPHABET, "the river", "▁the", "<mask>", "</s>", " <s> ", "\ud800"])


def changed(tokenizer: Tokenizer, **parts: object) -> Tokenizer:
    content = json.loads(tokenizer.backend.to_str()) | parts
    return Tokenizer(Backend.from_str(json.dumps(content)))


def with_added(tokenizer: Tokenizer, text: str, **flags: bool) -> Tokenizer:
    content = json.loads(tokenizer.backend.to_str())
    token = content["added_tokens"][0] | {"id": tokenizer.vocabulary, "content": text}
    return changed(tokenizer, added_tokens=[*content["added_tokens"], token | flags])


def whole(tokenizer: Tokenizer, texts: list[str]) -> npt.NDArray[np.int64]:
    """Counts (B, V) of each text tokenised alone and whole."""
    size = tokenizer.vocabulary
    ids = [np.array(tokenizer.contents([text])[0], int) for text in texts]
    return np.array([np.bincount(own, minlength=size) for own in ids])


def counted(tokenizer: Tokenizer, texts: list[str], **sizes: int) -> npt.NDArray[np.int64]:
    blocks = [block for _, block in token_counts(tokenizer, untagged(texts), **sizes)]
    return np.concatenate([block.toarray() for block in blocks])


def tokenised(tokenizer: Tokenizer, texts: list[str], **sizes: int) -> list[str]:
    """What the tokenizer is given, its four probes left out."""
    given: list[str] = []

    class Watched(Tokenizer):
        def contents(self, texts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
            given.extend(texts)
            return super().contents(texts, limit=limit)

    counted(Watched(tokenizer.backend), texts, **sizes)
    return [text for text in given if text not in ("a", "b", "a b", "a\nb")]


@pytest.mark.parametrize("words", [BOTH, METASPACE])
@pytest.mark.parametrize("normal", [None, PLAIN, NMT])
@given(
    texts=st.lists(st.lists(PARTS, max_size=9).map("".join), min_size=1, max_size=9),
    sizes=st.sampled_from([{}, {"block": 1}, {"block": 4, "words": 0}]),
)
@example(texts=["a \u0301b", "ab ", "a\n", "a  b", " a", "a ▁b", "a ▁", "a <s> b", " "], sizes={})
@example(texts=["a \ufffd b", "a ´b", "a´ b", "\u200d a", "a\u00a0 b", "", "水 ำ"], sizes={})
@example(texts=["▁", "a ▁ b", "a <mask>", "a\r\nb"], sizes={})
def test_counts_are_those_of_whole_texts(
    tokenizer: Tokenizer,
    texts: list[str],
    sizes: dict[str, int],
    words: dict[str, Any],
    normal: dict[str, Any] | None,
) -> None:
    other = changed(tokenizer, pre_tokenizer=words, **({"normalizer": normal} if normal else {}))
    assert np.array_equal(counted(other, texts, **sizes), whole(other, texts))


def test_texts_are_cut_only_where_that_is_known_to_be_the_same(tokenizer: Tokenizer) -> None:
    for same in (
        tokenizer,
        changed(tokenizer, normalizer=PLAIN, pre_tokenizer=METASPACE),
        changed(tokenizer, normalizer=NMT, pre_tokenizer=BOTH),
        with_added(tokenizer, "[QUERY]"),
    ):
        assert "river" in tokenised(same, ["river stone"])
    for other in (
        changed(tokenizer, pre_tokenizer=METASPACE),  # no rule makes a space of a line's end
        changed(tokenizer, pre_tokenizer=METASPACE | {"split": False}, normalizer=PLAIN),
        changed(tokenizer, pre_tokenizer=METASPACE | {"prepend_scheme": "first"}, normalizer=PLAIN),
        changed(tokenizer, pre_tokenizer=None),
        changed(tokenizer, normalizer=None),
        changed(tokenizer, normalizer=LOWER),
        with_added(tokenizer, "river stone"),
        with_added(tokenizer, "[QUERY]", normalized=True),
    ):
        assert tokenised(other, ["river stone"]) == ["river stone"]
        texts = ["river  stone\nriver", "a river stone", " [QUERY] Haus"]
        assert np.array_equal(counted(other, texts), whole(other, texts))
    texts = ["the river\nand", "the  sea", "Haus \u0301", "and the sea", "Haus \u0301"]
    once = ["", "the", "river", "and", "sea", "Haus", "Haus \u0301"]
    assert sorted(tokenised(tokenizer, texts, block=2)) == sorted(once)


def test_ids_are_counted_by_language_and_by_text(tokenizer: Tokenizer) -> None:
    tagged = [("en", "the river and the sea"), ("de", "das Haus"), ("en", "☃ the river"),
              ("", "the")]  # fmt: skip
    counts = whole(tokenizer, [text for _, text in tagged])
    found = count_languages(tokenizer, iter(tagged))
    assert found.languages == ("en", "de", "")
    assert np.array_equal(found.counts.toarray(), [counts[0] + counts[2], counts[1], counts[3]])
    assert np.array_equal(score_ids(tokenizer, tagged), (counts > 0).sum(0))
    empty = count_languages(tokenizer, [])
    assert (empty.languages, empty.counts.shape) == ((), (0, tokenizer.vocabulary))


# scores


def test_probabilities_leave_out_special_tokens(tokenizer: Tokenizer) -> None:
    probabilities = subword_probabilities(tokenizer)
    special = [tokenizer.backend.token_to_id(token) or 0
               for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]  # fmt: skip
    assert np.flatnonzero(probabilities == 0).tolist() == sorted(special)
    the = tokenizer.backend.token_to_id("▁the")
    assert probabilities[the] == pytest.approx(np.exp(-4.0))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("prior", [0.0, 0.5, 1.0])
def test_a_language_weighs_a_power_of_its_tokens(alpha: float, prior: float) -> None:
    counts = np.array([[60.0, 30, 10, 0, 7], [0, 0, 4, 4, 1]])
    own = np.array([0.4, 0.2, 0.1, 0.1, 0.0])  # the last is a special token
    found = LanguageCounts(("en", "de"), sp.csr_array(counts))
    tokens = counts[:, :4].sum(1)
    weights = tokens**alpha / (tokens**alpha).sum()
    seen = (counts[:, :4] / tokens[:, None] * weights[:, None]).sum(0)
    expected = [*((1 - prior) * seen + prior * own[:4] / own.sum()), 0.0]
    assert balanced(found, own, alpha=alpha, prior=prior) == pytest.approx(expected)
    none = LanguageCounts((), sp.csr_array((0, 5)))
    assert balanced(none, own, alpha=alpha, prior=prior) == pytest.approx(own / own.sum())
    for wrong in ({"alpha": 1.5, "prior": 0.3}, {"alpha": 0.3, "prior": -0.1}):
        with pytest.raises(InputError, match="from 0 to 1"):
            balanced(found, own, **wrong)


def test_languages_lose_alike_where_the_vocabulary_is_even() -> None:
    few, many = [int(60_000 * 0.7**n) for n in range(15)], [1500 - 20 * n for n in range(30)]
    counts = np.array([few + [0] * 30, [0] * 15 + many, [0] * 44 + [2999]])
    found = LanguageCounts(("few", "many", "small"), sp.csr_array(counts))
    own, free = np.full(45, 1 / 45), np.ones(45, dtype=np.bool_)
    free[[20, 30]] = False  # these stay anyway

    def apart(scores: npt.NDArray[np.float64]) -> float:
        out = free.copy()
        out[np.argsort(-np.where(free, scores, 0), kind="stable")[:18]] = False
        lost = counts[:2, out].sum(1) / counts[:2].sum(1)
        return float(abs(lost[0] - lost[1]))

    assert apart(evened(found, own, free, 18, prior=0.0)) < 0.1
    assert apart(balanced(found, own, alpha=0.0, prior=0.0)) > 0.3
    small = LanguageCounts(("small",), found.counts[[2]])  # has no say
    assert np.allclose(evened(small, own, free, 4, prior=0.2),
                       balanced(small, own, alpha=0.0, prior=0.2))  # fmt: skip


def test_subwords_are_chosen_for_balanced_languages(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "the river and the sea", "lang": "en"}] * 900
    rows += [{"text": "the mountain city", "lang": "en"}] * 25
    rows += [{"query": "das Wasser", "pos": ["the river"], "lang": "de-en"}] * 5
    path = write(tmp_path / "rows.jsonl", rows)
    size = singles(tokenizer) + 5 + 6  # of ▁the ▁river ▁and ▁sea, ▁mountain ▁city, ▁das ▁Wasser

    def kept(**options: Any) -> set[str]:
        scores = balanced_scores(tokenizer, [path], **options)
        small, rows = prune_tokenizer(tokenizer, scores, size)
        assert small.vocabulary == len(rows) == size
        return set(small.backend.get_vocab())

    assert {"▁das", "▁Wasser"} <= kept(prior=0.0, alpha=0.3)
    assert {"▁mountain", "▁city"} <= kept(prior=0.0, alpha=1.0)
    assert "▁of" in kept(prior=1.0, alpha=0.3) - kept(prior=0.0, alpha=0.3)
    assert kept(prior=0.0, even=size)
    small = [("en", "the river and the sea")] * 50 + [("en", "the city")] * 3 + [("de", "Wasser")]
    for balance, lost in ((False, "▁Wasser"), (True, "▁city")):
        scores = score_ids(tokenizer, small, balance=balance)
        smaller, _ = prune_tokenizer(tokenizer, scores, singles(tokenizer) + 5 + 5)
        vocab = smaller.backend.get_vocab()
        assert {"▁Wasser", "▁city"} - vocab.keys() == {lost}


# the tokenizer


def test_a_pruned_tokenizer_spells_out_what_it_lost(tokenizer: Tokenizer) -> None:
    scores = score_ids(tokenizer, untagged(["the river and the sea", "the river", "bread"]))
    small, rows = prune_tokenizer(tokenizer, scores, singles(tokenizer) + 5 + 2)
    assert small.vocabulary == len(rows) == singles(tokenizer) + 5 + 2
    assert [small.cls_id, small.pad_id, small.eos_id, small.unk_id] == [0, 1, 2, 3]
    assert small.backend.token_to_id("<mask>") == small.vocabulary - 1
    subwords = [small.backend.id_to_token(id) for id in small.contents(["the river bread"])[0]]
    assert subwords == ["▁the", "▁river", "▁", "b", "r", "e", "a", "d"]
    for new, old in enumerate(rows.tolist()):
        assert small.backend.id_to_token(new) == tokenizer.backend.id_to_token(old)
    assert (np.diff(rows) > 0).all()  # so vectors by id keep their order


def test_added_tokens_stay_behind_the_subwords(tokenizer: Tokenizer) -> None:
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_tokens([AddedToken("[QUERY]", normalized=False), AddedToken("▁the")])
    more = Tokenizer(backend)
    scores = score_ids(more, untagged(["bread"]))
    small, rows = prune_tokenizer(more, scores, more.vocabulary)
    assert small.backend.token_to_id("[QUERY]") == small.vocabulary - 1
    assert rows[-1] == more.vocabulary - 1
    assert small.backend.token_to_id("▁the") is not None
    text = ["[QUERY] bread"]
    assert rows[small.contents(text)[0]].tolist() == more.contents(text)[0]


@pytest.mark.parametrize("lowest", ["▁queen", "<mask>"])
def test_the_lowest_log_prob_stays_for_the_unknowns_sake(tokenizer: Tokenizer, lowest: str) -> None:
    model = json.loads(tokenizer.backend.to_str())["model"]
    vocab = [[subword, -50.0 if subword == lowest else log] for subword, log in model["vocab"]]
    other = changed(tokenizer, model=model | {"vocab": vocab})
    small, _ = prune_tokenizer(other, np.zeros(len(vocab), dtype=np.int64), 1000)
    log_probs = dict(json.loads(small.backend.to_str())["model"]["vocab"])
    assert log_probs[lowest] == min(log_probs.values()) == -50.0
    assert "▁king" not in log_probs


# Many equal scores, so that paths tie; "d" and "z" are no subwords, so they are unknown.
SUBWORDS = ["▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab", "ba", "zz", "bd", "db", "▁z",
            "aa", "cd"]  # fmt: skip
LOGS = dict.fromkeys(SUBWORDS, -15.0) | {"▁": -1.0, "c": -1.0, "abc": -1.0}


@given(
    logs=st.lists(st.sampled_from([-1.0, -2.0, -2.5, -3.0, -15.0]), min_size=16, max_size=16),
    special=st.sampled_from([0.0, -2.0, -20.0]),
    kept=st.sets(st.sampled_from(SUBWORDS)),
    texts=st.lists(st.text("abcdz ", max_size=12), min_size=1, max_size=8),
)
# ab cd is better than abc and an unknown only while a special token has the lowest score
@example(logs=list(LOGS.values()), special=-20.0, kept=set(SUBWORDS), texts=["cabcd"])
def test_texts_change_that_have_a_subword_that_went_and_no_others(
    logs: list[float], special: float, kept: set[str], texts: list[str]
) -> None:
    vocab = [(token, special) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    vocab += [*zip(SUBWORDS, logs, strict=True), ("<mask>", 0.0)]
    old = Tokenizer(unigram(vocab, []))
    scores = np.array([subword in kept for subword, _ in vocab], dtype=np.int64)
    new, rows = prune_tokenizer(old, scores, 100)
    for text in texts:
        before, after = old.contents([text])[0], new.contents([text])[0]
        assert (rows[after].tolist() != before) == (not set(before) <= set(rows.tolist()))


def test_what_cannot_be_pruned_is_refused(tokenizer: Tokenizer) -> None:
    scores = score_ids(tokenizer, untagged(["the river"]))
    with pytest.raises(InputError):
        prune_tokenizer(tokenizer, scores, 20)
    with pytest.raises(InputError):
        prune_tokenizer(tokenizer, scores[:-1], 200)
    vocab = {token: id for id, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])}
    bpe = changed(tokenizer, model={"type": "BPE", "vocab": vocab, "merges": []}, added_tokens=[])
    for refuse in (subword_probabilities, lambda other: prune_tokenizer(other, scores, 200)):
        with pytest.raises(ModelError, match="only Unigram"):
            refuse(bpe)


# the model


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write(tmp_path / "text.jsonl", [{"text": text} for text in TEXTS])


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def edit(path: Path, **facts: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_scores_are_unchanged_and_all_else_is_kept(
    tiny: Checkpoint, tiny_checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    report = prune_vocab(tiny_checkpoint, tmp_path / "small", [text])
    assert report.before.vocabulary == tiny.tokenizer.vocabulary > report.after.vocabulary
    assert report.after.bytes < report.before.bytes
    assert (report.texts, report.changed, report.compared) == (6, 0, 6)
    assert report.values == report.scores == {"dense": 0.0, "sparse": 0.0, "multi": 0.0}

    small = read_checkpoint(tmp_path / "small")
    assert small.settings == tiny.settings
    assert small.model.heads == tiny.model.heads
    assert small.fingerprint != tiny.fingerprint
    state = small.model.state_dict()
    for name, tensor in tiny.model.state_dict().items():
        if name != "backbone.word_embeddings.weight":
            assert torch.equal(state[name], tensor), name
    assert small.model.get_buffer("weightless").nonzero().flatten().tolist() == [0, 1, 2, 3]
    # as queries too: the prefix of queries, "the ", keeps its subwords
    old, new = (Encoder(one).encode(["bread"], role="query").dense for one in (tiny, small))
    assert np.array_equal(old, new)  # type: ignore[arg-type]
    # what the text lacks is spelled out, not lost
    assert small.tokenizer.unk_id not in small.tokenizer.contents(["mountain"])[0]
    old, new = (Encoder(one).encode(["mountain"]).dense for one in (tiny, small))
    assert not np.allclose(old, new, atol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("balance", [False, True])
def test_a_bound_on_the_vocabulary_changes_texts_and_says_so(
    folder: Path, tmp_path: Path, balance: bool
) -> None:
    prefixes = {"query_prefix": "the king ", "passage_prefix": "die"}  # glued to the first word
    edit(folder / "tercet.json", **prefixes)
    texts = [f"{WORDS[n % 40]} {WORDS[n * n % 97]}" for n in range(60)] + ["", "☃ Haus"]
    rows = [{"text": text, "lang": "de" if n % 7 else "es"} for n, text in enumerate(texts)]
    path = write(tmp_path / "rows.jsonl", rows)
    full = prune_vocab(folder, tmp_path / "full", [path], sample=0)
    assert (full.changed, full.compared, full.values) == (0, 0, {})
    vocab = read_checkpoint(tmp_path / "full").tokenizer.backend.get_vocab()
    assert {"▁the", "▁king"} <= vocab.keys()
    old = read_checkpoint(folder).tokenizer.backend
    changes = []
    for less in (1, 5, 20, 30):
        target, size = tmp_path / f"less-{less}", full.after.vocabulary - less
        report = prune_vocab(folder, target, [path], vocabulary=size, balance=balance, sample=9)
        assert report.after.vocabulary == size
        new = read_checkpoint(target).tokenizer.backend
        other = [
            any(old.encode(p + t).tokens != new.encode(p + t).tokens for p in prefixes.values())
            for t in texts
        ]
        assert report.changed == sum(other)
        assert report.compared <= 9
        assert set(report.values.values()) <= {0.0}
        changes.append(report.changed)
    assert 0 < changes[0] < changes[1] < changes[2] < len(texts)
    with pytest.raises(InputError):
        prune_vocab(folder, tmp_path / "none", [path], vocabulary=10)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("dtype", "embeddings"),
    [(torch.float16, None), (torch.bfloat16, None), (torch.bfloat16, EMBEDDINGS)],
)
def test_weights_stay_in_their_dtype(
    folder: Path, text: Path, tmp_path: Path, dtype: torch.dtype, embeddings: torch.dtype | None
) -> None:
    tensors = {n: t.to(dtype) for n, t in load_file(folder / "model.safetensors").items()}
    for name in ("word", "position") if embeddings is not None else ():
        table = f"embeddings.{name}_embeddings.weight"
        tensors[table] = tensors[table].to(embeddings)
    save_file(tensors, folder / "model.safetensors")
    assert stored_dtypes(folder) == (torch.float32, None)  # the heads still are
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        head = torch.load(folder / name, weights_only=True)
        torch.save({key: tensor.to(dtype) for key, tensor in head.items()}, folder / name)
    assert stored_dtypes(folder) == (dtype, embeddings)
    report = prune_vocab(folder, tmp_path / "small", [text])
    assert set(report.values.values()) == {0.0}
    stored = load_file(tmp_path / "small" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }


def test_surplus_rows_missing_heads_and_torch_files_are_read(
    folder: Path, text: Path, tmp_path: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    tensors[name] = torch.cat((tensors[name], torch.zeros(7, tensors[name].shape[1])))
    (folder / "model.safetensors").unlink()
    (folder / "colbert_linear.pt").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    edit(folder / "config.json", vocab_size=len(tensors[name]))
    report = prune_vocab(folder, tmp_path / "small", [text])
    assert report.before.vocabulary == len(tensors[name])
    assert report.values == {"dense": 0.0, "sparse": 0.0}
    assert read_checkpoint(tmp_path / "small").model.heads == ("dense", "sparse")


def test_models_and_texts_that_cannot_be_used_are_refused(
    folder: Path, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError):
        prune_vocab(folder, tmp_path / "small", [tmp_path / "empty.txt"])
    with pytest.raises(ModelError):
        prune_vocab(tmp_path / "absent", tmp_path / "small", [text])
    with pytest.raises(InputError):
        prune_vocab(folder, text, [text])
    edit(folder / "config.json", pad_token_id=2)
    with pytest.raises(ModelError, match="<pad> is id 2"):
        prune_vocab(folder, tmp_path / "small", [text])
    assert not (tmp_path / "small").exists()


def test_a_reservoir_is_spread_and_bounded() -> None:
    sample = Reservoir(50, random.Random(1))
    for number in range(1000):
        sample.add(str(number))
    drawn = sorted(int(text) for text in sample.texts)
    assert len(set(drawn)) == 50
    assert 350 < np.mean(drawn) < 650


def test_the_command_balances_a_bounded_vocabulary_alone(
    tiny_checkpoint: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["trim", str(tiny_checkpoint), "--rows", str(text), "--to", str(tmp_path / "small")]
    assert run([*command, "--balanced"]) == 2
    assert "--vocabulary" in capsys.readouterr().err
    assert run([*command, "--balanced", "--vocabulary", "158", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["after"]["vocabulary"] == 158
