"""Pruning keeps what the corpus uses, every single character, and the places of special ids."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from tercet.errors import InputError, ModelError
from tercet.tokenizer import Tokenizer, unigram
from tercet.train import counts as counting
from tercet.train.vocabulary import (
    LanguageCounts,
    Scores,
    balanced,
    balanced_scores,
    count_languages,
    document_frequency,
    evened,
    probabilities,
    prune_tokenizer,
    pruned,
)

TEXTS = ["the river and the sea", "the river", "bread", "水山 river ☃ 日本", "de la ciudad"]


def singles(tokenizer: Tokenizer) -> int:
    return sum(len(piece.removeprefix("▁")) <= 1 for piece in tokenizer.backend.get_vocab())


def test_a_pruned_tokenizer_spells_out_what_it_lost(tokenizer: Tokenizer) -> None:
    counts = document_frequency(tokenizer, ["the river and the sea", "the river", "bread"])
    size = singles(tokenizer) + 5 + 2
    small, _ = prune_tokenizer(tokenizer, counts, size)
    assert small.vocabulary == size
    assert [small.cls_id, small.pad_id, small.eos_id, small.unk_id] == [0, 1, 2, 3]
    assert small.backend.token_to_id("<mask>") == small.vocabulary - 1
    pieces = [small.backend.id_to_token(i) for i in small.contents(["the river bread"])[0]]
    assert pieces == ["▁the", "▁river", "▁", "b", "r", "e", "a", "d"]


def test_the_corpus_itself_is_cut_as_before(tokenizer: Tokenizer) -> None:
    counts = document_frequency(tokenizer, TEXTS)
    small, rows = prune_tokenizer(tokenizer, counts, tokenizer.vocabulary)
    assert small.vocabulary == len(rows) < tokenizer.vocabulary
    for new, old in enumerate(rows.tolist()):
        assert small.backend.id_to_token(new) == tokenizer.backend.id_to_token(old)
    assert (np.diff(rows) > 0).all()  # so vectors by id keep their order
    for after, before in zip(small.contents(TEXTS), tokenizer.contents(TEXTS), strict=True):
        assert rows[after].tolist() == before
    other = small.contents(["mountain"])[0]
    assert rows[other].tolist() != tokenizer.contents(["mountain"])[0]


def test_documents_are_counted_once_in_any_block(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = document_frequency(tokenizer, TEXTS)
    place = tokenizer.backend.token_to_id
    assert counts[place("▁the")] == 2
    assert counts[place("▁river")] == 3
    for name, size in (("BLOCK", 2), ("CHARACTERS", 10)):
        monkeypatch.setattr(counting, name, size)
        assert np.array_equal(document_frequency(tokenizer, TEXTS), counts)


def test_added_tokens_stay_behind_the_pieces(tokenizer: Tokenizer) -> None:
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_tokens([AddedToken("[QUERY]", normalized=False), AddedToken("▁the")])
    more = Tokenizer(backend)
    assert more.vocabulary == tokenizer.vocabulary + 1
    small, rows = prune_tokenizer(more, document_frequency(more, ["bread"]), more.vocabulary)
    assert small.backend.token_to_id("[QUERY]") == small.vocabulary - 1
    assert rows[-1] == more.vocabulary - 1
    assert small.backend.token_to_id("▁the") is not None
    text = ["[QUERY] bread"]
    assert rows[small.contents(text)[0]].tolist() == more.contents(text)[0]


def test_the_lowest_score_stays_for_the_unknowns_sake(tokenizer: Tokenizer) -> None:
    content = json.loads(tokenizer.backend.to_str())
    number = next(n for n, (piece, _) in enumerate(content["model"]["vocab"]) if piece == "▁queen")
    content["model"]["vocab"][number][1] = -50.0
    counts = np.zeros(tokenizer.vocabulary, dtype=np.int64)
    kept = [piece for piece, _ in pruned(content, counts, 1000).content["model"]["vocab"]]
    assert "▁queen" in kept
    assert "▁king" not in kept


def test_special_tokens_keep_a_lowest_score(tokenizer: Tokenizer) -> None:
    content = json.loads(tokenizer.backend.to_str())
    vocab = content["model"]["vocab"]
    assert vocab[-1][0] == "<mask>"
    vocab[-1][1] = -50.0
    small = pruned(content, np.zeros(len(vocab), dtype=np.int64), 1000).content["model"]["vocab"]
    assert min(score for _, score in small) == -50.0


# Many equal scores, so that paths tie; "d" and "z" are no pieces, so they are unknown.
PIECES = (
    "▁",
    "a",
    "b",
    "c",
    "ab",
    "bc",
    "abc",
    "▁a",
    "▁ab",
    "ba",
    "zz",
    "bd",
    "db",
    "▁z",
    "aa",
    "cd",
)
SCORES = dict.fromkeys(PIECES, -15.0) | {"▁": -1.0, "c": -1.0, "abc": -1.0}


@given(
    scores=st.lists(st.sampled_from([-1.0, -2.0, -2.5, -3.0, -15.0]), min_size=16, max_size=16),
    special=st.sampled_from([0.0, -2.0, -20.0]),
    kept=st.sets(st.sampled_from(PIECES)),
    texts=st.lists(st.text("abcdz ", max_size=12), min_size=1, max_size=8),
)
# ab cd is better than abc and an unknown only while a special token has the lowest score
@example(scores=list(SCORES.values()), special=-20.0, kept=set(PIECES), texts=["cabcd"])
def test_texts_change_that_have_a_piece_that_went_and_no_others(
    scores: list[float], special: float, kept: set[str], texts: list[str]
) -> None:
    vocab = [(token, special) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    vocab += [*zip(PIECES, scores, strict=True), ("<mask>", 0.0)]
    old = Tokenizer(unigram(vocab, []))
    counts = np.array([piece in kept for piece, _ in vocab], dtype=np.int64)
    new, rows = prune_tokenizer(old, counts, 100)
    for text in texts:
        before, after = old.contents([text])[0], new.contents([text])[0]
        assert (rows[after].tolist() != before) == (not set(before) <= set(rows.tolist()))


def test_what_cannot_be_pruned_is_refused(tokenizer: Tokenizer) -> None:
    counts = document_frequency(tokenizer, ["the river"])
    with pytest.raises(InputError, match="single characters"):
        prune_tokenizer(tokenizer, counts, 20)
    with pytest.raises(InputError, match="counts for a vocabulary"):
        prune_tokenizer(tokenizer, counts[:-1], 200)
    with pytest.raises(ModelError, match="only Unigram"):
        pruned({"model": {"type": "BPE"}}, counts, 200)


TAGGED = [
    ("en", "the river and the sea"),
    ("de", "das Wasser und das Haus"),
    ("en", "☃ the river"),
    ("es", "la ciudad"),
    ("", "the"),
]


def test_ids_are_counted_by_language_in_any_block(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {name: np.zeros(tokenizer.vocabulary, dtype=np.int64) for name, _ in TAGGED}
    for name, text in TAGGED:
        for number in tokenizer.contents([text])[0]:
            expected[name][number] += 1
    assert expected["en"][tokenizer.backend.token_to_id("▁the")] == 3
    for name, size in (("CHARACTERS", 1 << 20), ("BLOCK", 2), ("CHARACTERS", 10)):
        monkeypatch.setattr(counting, name, size)
        found = count_languages(tokenizer, iter(TAGGED))
        assert set(found.languages) == expected.keys()
        for row, language in enumerate(found.languages):
            assert np.array_equal(found.counts[[row]].toarray()[0], expected[language])
    nothing = count_languages(tokenizer, [])
    assert (nothing.languages, nothing.counts.shape) == ((), (0, tokenizer.vocabulary))


def test_probabilities_leave_out_special_tokens(tokenizer: Tokenizer) -> None:
    found = probabilities(tokenizer)
    place = tokenizer.backend.token_to_id
    for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>"):
        assert found[place(token)] == 0
    assert (found > 0).sum() == len(found) - 5
    assert found[place("▁the")] == pytest.approx(np.exp(-4.0))


def test_small_languages_weigh_more_than_their_text(tokenizer: Tokenizer) -> None:
    place = tokenizer.backend.token_to_id
    large, small, neither = place("▁river"), place("▁Haus"), place("▁king")
    own = probabilities(tokenizer)
    found = count_languages(tokenizer, [("en", "river " * 10_000), ("de", "Haus"), ("", "☃")])

    def scores(alpha: float, prior: float = 0.0) -> tuple[float, ...]:
        score = balanced(found, own, alpha=alpha, prior=prior)
        assert score.sum() == pytest.approx(1.0)
        assert (score[own == 0] == 0).all()
        return tuple(float(score[number]) for number in (large, small, neither))

    many = int(found.counts[[found.languages.index("en")]].sum())
    few = int(found.counts[[found.languages.index("de")]].sum())
    assert (many, few) == (10_000, 1)
    # by words alone as the text has them; of equal weight; and between, 10_000 ** 0.3 to 1
    # (the snowman is unknown, so its language has only the piece of a space)
    spaces = 1
    assert scores(1.0) == pytest.approx((many / (many + few + spaces), few / (many + few + 1), 0))
    assert scores(0.0) == pytest.approx((1 / 3, 1 / 3, 0))
    assert scores(0.3) == pytest.approx((many**0.3 / (many**0.3 + 2), 1 / (many**0.3 + 2), 0))
    first, last = scores(0.3, 0.0), scores(0.3, 1.0)
    assert last == pytest.approx([own[number] / own.sum() for number in (large, small, neither)])
    for half, left, right in zip(scores(0.3, 0.5), first, last, strict=True):
        assert half == pytest.approx((left + right) / 2)
    for wrong in ({"alpha": 1.5, "prior": 0.3}, {"alpha": 0.3, "prior": -0.1}):
        with pytest.raises(InputError, match="from 0 to 1"):
            balanced(found, own, **wrong)
    empty = LanguageCounts((), found.counts[[]])
    assert np.allclose(balanced(empty, own, alpha=0.3, prior=0.3), own / own.sum())


def test_pieces_are_chosen_for_balanced_languages(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": "the river and the sea", "lang": "en"}] * 200
    rows += [{"text": "the mountain city", "lang": "en"}] * 5
    rows += [{"query": "das Wasser", "pos": ["the river"], "lang": "de-en"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    size = singles(tokenizer) + 5 + 6  # of ▁the ▁river ▁and ▁sea, ▁mountain ▁city, ▁das ▁Wasser
    wanted = {"▁das", "▁Wasser"}

    def kept(prior: float, alpha: float) -> set[str]:
        scores = balanced_scores(tokenizer, [path], alpha=alpha, prior=prior)
        small, rows = prune_tokenizer(tokenizer, scores, size)
        assert small.vocabulary == len(rows) == size
        return set(small.backend.get_vocab())

    assert wanted <= kept(0.0, 0.3)
    assert {"▁mountain", "▁city"} <= kept(0.0, 1.0)
    assert "▁of" not in kept(0.0, 0.3)
    assert "▁of" in kept(1.0, 0.3)


def test_languages_lose_alike_where_the_vocabulary_is_even() -> None:
    """Four pieces each, no two languages share one, and one has its tokens in fewer of them."""
    counts = np.array([[2000, 1500, 1000, 500, 0, 0, 0, 0], [0, 0, 0, 0, 9000, 500, 300, 200],
                       [9, 0, 0, 0, 0, 0, 0, 0]])  # fmt: skip
    found = LanguageCounts(("en", "de", "xx"), sp.csr_array(counts))
    own, free = np.full(8, 1 / 8), np.ones(8, dtype=np.bool_)
    free[7] = False  # stays anyway
    scores = evened(found, own, free, 4, prior=0.0)
    kept = set(np.argsort(-np.where(free, scores, 0), kind="stable")[:4].tolist())
    assert kept == {0, 1, 2, 4}  # 10% and 8% lost
    plain = balanced(found, own, alpha=1.0, prior=0.0)
    assert set(np.argsort(-plain)[:4].tolist()) == {0, 1, 2, 4}
    more = sp.csr_array(counts * np.array([[1], [100], [1]]))
    many = LanguageCounts(("en", "de", "xx"), more)
    assert 2 not in np.argsort(-balanced(many, own, alpha=1.0, prior=0.0))[:4]
    again = evened(many, own, free, 4, prior=0.0)
    assert set(np.argsort(-np.where(free, again, 0), kind="stable")[:4].tolist()) == kept
    small = LanguageCounts(("xx",), sp.csr_array(counts[2:]))
    assert np.allclose(evened(small, own, free, 4, prior=0.0),
                       balanced(small, own, alpha=0.0, prior=0.0))  # fmt: skip


def test_a_language_of_many_pieces_loses_no_more_than_one_of_few() -> None:
    few = [int(60_000 * 0.7**at) for at in range(15)]
    many = [1500 - 20 * at for at in range(30)]
    found = LanguageCounts(
        ("few", "many"), sp.csr_array(np.array([few + [0] * 30, [0] * 15 + many]))
    )
    own, free = np.full(45, 1 / 45), np.ones(45, dtype=np.bool_)

    def apart(scores: Scores) -> float:
        out = np.argsort(-scores, kind="stable")[20:]
        counts = found.counts.toarray()
        lost = counts[:, out].sum(1) / counts.sum(1)
        return float(abs(lost[0] - lost[1]))

    assert apart(evened(found, own, free, 20, prior=0.0)) < 0.1
    assert apart(balanced(found, own, alpha=0.0, prior=0.0)) > 0.3


def test_an_even_vocabulary_keeps_its_size(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "the river and the sea", "lang": "en"}] * 900
    rows += [{"text": "das Wasser", "lang": "de"}] * 1800
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    size = singles(tokenizer) + 5 + 4
    scores = balanced_scores(tokenizer, [path], prior=0.0, even=size)
    small, kept = prune_tokenizer(tokenizer, scores, size)
    assert small.vocabulary == len(kept) == size
    assert {"▁das", "▁Wasser"} & set(small.backend.get_vocab())
