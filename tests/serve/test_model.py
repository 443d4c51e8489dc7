"""Passes of the model: whose texts are in them, and what one request's failure does to others."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.embeddings import Embeddings
from tercet.errors import ModelError
from tercet.serve.model import Model
from tercet.serve.processes import Reply
from tercet.tokenizer import TokenBatch


class Kept(Reply):
    """A reply whose answer can be waited for."""

    def __init__(self) -> None:
        super().__init__(1, self.take)
        self.answered = threading.Event()
        self.kind = ""
        self.value: Any = None
        self.when = 0.0

    def take(self, message: Any) -> None:
        self.kind, _, self.value = message
        self.when = time.monotonic()
        self.answered.set()

    def wait(self) -> Any:
        assert self.answered.wait(30), "no answer"
        return self.value


@pytest.fixture
def passes() -> list[tuple[int, int, float]]:
    return []


@pytest.fixture
def model(tiny_checkpoint: Path, passes: list[Any]) -> Iterator[Model]:
    made = Model(tell=passes.append, model=str(tiny_checkpoint), budget=64)
    yield made
    made.close()


def ask(model: Model, texts: list[str], **options: Any) -> Kept:
    reply = Kept()
    model.handle(reply, "encode", (texts,), {"heads": ("dense", "sparse", "multi")} | options)
    return reply


def held(model: Model, monkeypatch: pytest.MonkeyPatch, bad: int = -1) -> threading.Event:
    """Begins a pass of one text that ends when the event is set: what comes meanwhile waits.

    Later passes with the token `bad` fail.
    """
    gate, begun, embed = threading.Event(), threading.Event(), model._embed

    def wait(tokens: TokenBatch, heads: Any) -> Embeddings:
        begun.set()
        gate.wait(30)
        if bad in tokens.ids:
            raise ModelError("a broken row")
        return embed(tokens, heads)

    monkeypatch.setattr(model, "_embed", wait)
    ask(model, ["the"])
    assert begun.wait(30)
    return gate


def test_requests_share_passes_and_get_their_own_rows(
    model: Model, passes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = held(model, monkeypatch)
    texts = [[f"{word} and fire", f"{word} of the night"] for word in ("river", "star", "bread")]
    replies = [ask(model, pair) for pair in texts]
    gate.set()
    for pair, reply in zip(texts, replies, strict=True):
        rows: Any = reply.wait()
        alone: Any = model.encoder.encode(pair)
        assert reply.kind == "done"
        np.testing.assert_allclose(rows.dense, alone.dense, atol=0.03)
        np.testing.assert_allclose(rows.sparse.toarray(), alone.sparse.toarray(), atol=0.1)
        np.testing.assert_allclose(rows.tokens(1), alone.tokens(1), atol=0.1)
    assert [texts for texts, _, _ in passes] == [1, 6]


def test_a_long_request_does_not_hold_up_a_short_one(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = held(model, monkeypatch)
    long = ask(model, ["river water " * 20] * 40)
    short = ask(model, ["bread"])
    gate.set()
    assert len(long.wait()) == 40
    assert len(short.wait()) == 1
    assert short.when < long.when


def test_a_failure_is_one_requests_own(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = model.encoder.tokenizer.contents(["ship"])[0][0]
    gate = held(model, monkeypatch, bad)
    replies = [ask(model, [text]) for text in ("the", "river", "ship", "star")]
    gate.set()
    for reply in replies:
        reply.wait()
    assert [reply.kind for reply in replies] == ["done", "done", "failed", "done"]
    assert replies[2].value == ("ModelError", "a broken row")
    assert len(ask(model, ["bread"]).wait()) == 1


def test_who_has_left_costs_no_pass(
    model: Model, passes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = held(model, monkeypatch)
    gone, stays = ask(model, ["river"] * 50), ask(model, ["star"])
    gone.cancelled = True
    gate.set()
    stays.wait()
    assert sum(texts for texts, _, _ in passes) == 2
    assert gone.kind == ""
