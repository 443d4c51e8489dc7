"""Split batches: the gradients of a plain pass, dropout on, whatever the sub-batches are."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tercet.config import HEADS, Head
from tercet.model import M3Model
from tercet.tokenizer import Tokenizer
from tercet.train.config import LossConfig
from tercet.train.distributed import World
from tercet.train.gradcache import Representations, Side, backward, encode
from tercet.train.losses import Columns, unified
from tercet.train.scores import lexical, maxsim

WORDS = "the river city Wasser light mundo stone history night year casa bread fire".split()


@pytest.fixture
def model(tiny_model: M3Model) -> M3Model:
    fresh = copy.deepcopy(tiny_model).train()
    fresh.backbone.set_dropout(0.2)
    return fresh


def batches(tokenizer: Tokenizer, most: int | None) -> list[Side]:
    draw = np.random.default_rng(0)
    texts = [
        [" ".join(draw.choice(WORDS, size=int(size))) for size in sizes]
        for sizes in ([2, 5, 3, 1, 4], [9, 30, 2, 14, 6, 21, 1, 8])
    ]
    return [Side(tokenizer.encode(some), most=most) for some in texts]


def loss_of(heads: tuple[Head, ...]) -> Any:
    own = torch.zeros(5, 8, dtype=torch.bool)
    own[torch.arange(5), torch.arange(5)] = True
    columns = Columns(torch.arange(5), torch.ones_like(own), own, None, 5)

    def loss(queries: Representations, passages: Representations) -> Tensor:
        scores: dict[Head, list[Tensor]] = {}
        q: Any = queries
        p: Any = passages
        if "dense" in heads:
            scores["dense"] = [q.dense @ p.dense.T]
        if "sparse" in heads:
            sides = [(side.weights, side.ids, side.owners, len(side)) for side in (q, p)]
            scores["sparse"] = [lexical(*sides[0], *sides[1])]
        if "multi" in heads:
            scores["multi"] = [maxsim(q.multi, q.multi_owners, len(q), p.multi, p.starts, p.counts)]
        return unified(scores, columns, LossConfig(temperature=0.2), distil=True)[0]

    return loss


def whole(model: M3Model, side: Side, heads: tuple[Head, ...]) -> dict[Head, Tensor]:
    """Each head's output for all micro-batches, with their graph where there is one."""
    parts = [encode(model, micro, heads) for micro in side.micro_batches]
    return {head: torch.cat([part[head] for part in parts]) for head in heads}


def plain(model: M3Model, sides: list[Side], heads: tuple[Head, ...]) -> Tensor:
    """All sub-batches with their graph at once, as no machine could hold a large batch."""
    encoded = [side.representations(whole(model, side, heads)) for side in sides]
    loss: Tensor = loss_of(heads)(*encoded)
    loss.backward()
    return loss.detach()


def gradients(model: M3Model) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def worst(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    whole = float(torch.stack([g.norm() for g in theirs.values()]).norm())
    return max(
        float((ours[n] - g).norm()) / max(float(g.norm()), 1e-3 * whole) for n, g in theirs.items()
    )


@pytest.mark.parametrize(
    "heads", [("dense",), ("sparse",), ("multi",), ("dense", "multi"), HEADS], ids=str
)
@pytest.mark.parametrize("most", [1, 40])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_those_of_the_plain_pass(
    model: M3Model, tokenizer: Tokenizer, heads: Any, most: int, checkpointing: bool
) -> None:
    sides = batches(tokenizer, most)
    assert len(sides[1].micro_batches) > 1
    torch.manual_seed(7)
    expected = plain(model, sides, heads)
    wanted = gradients(model)
    model.zero_grad()
    model.backbone.checkpointing = checkpointing
    torch.manual_seed(7)
    loss = backward(model, sides, heads, loss_of(heads))
    torch.testing.assert_close(loss, expected)
    assert worst(gradients(model), wanted) < 1e-5
    # other dropout gives other gradients: the comparison above can fail
    model.zero_grad()
    torch.manual_seed(8)
    backward(model, sides, heads, loss_of(heads))
    assert worst(gradients(model), wanted) > 1e-2


def test_without_dropout_the_cut_does_not_show(model: M3Model, tokenizer: Tokenizer) -> None:
    model.backbone.set_dropout(0.0)
    found = []
    for most in (None, 200, 30, 1):
        model.zero_grad()
        loss = backward(model, batches(tokenizer, most), HEADS, loss_of(HEADS))
        found.append((loss, gradients(model)))
    for loss, grads in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        assert worst(grads, found[0][1]) < 1e-5


def test_the_random_stream_goes_on_as_after_one_pass(model: M3Model, tokenizer: Tokenizer) -> None:
    after = []
    for run in (plain, None):
        torch.manual_seed(7)
        sides = batches(tokenizer, 40)
        if run is None:
            backward(model, sides, HEADS, loss_of(HEADS))
        else:
            run(model, sides, HEADS)
        after.append(torch.rand(3))
    assert torch.equal(after[0], after[1])


def test_a_batch_keeps_the_order_of_its_texts(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    texts = ["the river", "city", "light of the night and the year"]
    tokens = tokenizer.encode(texts)
    side = Side(tokens, most=5)
    with torch.no_grad():
        got = side.representations(whole(tiny_model, side, HEADS))
        for number, text in enumerate(texts):
            alone = Side(tokenizer.encode([text]), most=None)
            one = encode(tiny_model, alone.micro_batches[0], HEADS)
            assert got.dense is not None
            torch.testing.assert_close(got.dense[number], one["dense"][0])
            span = slice(got.starts[number], got.starts[number] + got.counts[number])
            assert got.multi is not None
            torch.testing.assert_close(got.multi[span], one["multi"])
            assert (got.multi_owners[span] == number).all()
            own = got.owners == number
            assert got.ids[own].tolist() == alone.ids.tolist()
            assert got.weights is not None
            torch.testing.assert_close(got.weights[own], one["sparse"])


def test_one_process_is_a_world_of_its_own() -> None:
    world = World.start("cpu")
    rows = torch.ones(2, 3, requires_grad=True)
    assert world.gather(rows) is rows
    assert (world.size, world.first, world.share(3), world.all(4)) == (1, True, 3, [4])


def test_rows_added_in_place_are_the_gradient_of_a_lookup(
    model: M3Model, tokenizer: Tokenizer
) -> None:
    model.backbone.set_dropout(0.0)
    found = []
    for adds in (False, True):
        model.zero_grad()
        model.backbone.adds_rows = adds
        for _ in range(2):  # the second time there is a gradient to add to
            backward(model, batches(tokenizer, 40), HEADS, loss_of(HEADS))
        found.append(gradients(model))
    assert found[0]["backbone.word_embeddings.weight"].abs().max() > 0
    assert worst(found[1], found[0]) < 1e-5
