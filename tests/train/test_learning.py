"""Runs of a few steps against the same training in plain torch: what is said to train, trains.

The plain version encodes one text at a time and loops over pairs; it shares the model's forward
pass (compared with the published layout elsewhere) and nothing of the trainer, the losses, the
optimiser's groups or the schedule.
"""

import copy
import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tercet.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tercet.config import HEADS
from tercet.model import Inputs, M3Model
from tercet.split import text_key
from tercet.train.batches import Collator
from tercet.train.config import from_tree
from tercet.train.dataset import Examples
from tercet.train.teacher import TeachConfig, TeacherVectors, teach
from tercet.train.trainer import train
from tests.conftest import WORDS

STEPS = 4
LONG = [word for word in dict.fromkeys(WORDS) if len(word) > 3]
Run = dict[str, Any]


def write_rows(path: Path, count: int, negatives: int) -> list[dict[str, Any]]:
    """Rows of different lengths, each a group of its own."""
    draw = np.random.default_rng(3)
    rows = []
    for number in range(count):
        words = draw.choice(LONG, size=10, replace=False).tolist()
        rows.append(
            {
                "query": " ".join(words[: 2 + number % 3]),
                "pos": [" ".join(words[1 : 4 + number % 5])],
                "neg": [
                    " ".join([words[0], *draw.choice(LONG, size=3 + turn).tolist()])
                    for turn in range(negatives)
                ],
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def run_tree(tmp_path: Path, tiny_checkpoint: Path, files: list[Path]) -> Run:
    return {
        "stage": "unified",
        "steps": STEPS,
        "model": str(tiny_checkpoint),
        "to": str(tmp_path / "run"),
        "device": "cpu",
        "dtype": "float32",
        "dropout": 0.0,
        "data": {
            "sources": [{"files": [str(file)]} for file in files],
            "cache": str(tmp_path / "cache"),
            "negatives": 0,
            "shuffle_segments": 0.0,
        },
        "batch": {"lengths": [64], "rows": 8},
        "loss": {"temperature": 0.3, "distillation": False},
        "optimiser": {
            "lr": 5e-3,
            "betas": [0.8, 0.99],
            "eps": 1e-3,
            "warmup": 0.0,
            "clip": 0.0,
            "weight_decay": 0.0,
        },
    }


# The same in plain torch


def encode(start: Checkpoint, text: str) -> tuple[Tensor, dict[int, Tensor], Tensor, list[Any]]:
    """Dense vector, largest weight of each id, multi-vectors, and (id, weight) of all tokens."""
    tokens = start.tokenizer.encode([text])
    out = start.model(Inputs.of(tokens), HEADS)
    assert out.dense is not None
    assert out.weights is not None
    assert out.multi is not None
    pairs = list(zip(tokens.ids.tolist(), out.weights, strict=True))
    largest: dict[int, Tensor] = {}
    for token, weight in pairs:
        if token not in largest or weight.item() > largest[token].item():
            largest[token] = weight
    return out.dense[0], largest, out.multi[1:], pairs


def unit(vectors: Tensor, size: int) -> Tensor:
    return F.normalize(vectors[..., :size], dim=-1)


def plain_loss(
    start: Checkpoint, rows: list[Run], loss: Run, *, distil: bool, teacher: Run | None = None
) -> Tensor:
    """The unified loss of one batch of these rows, pair by pair."""
    prefix = start.settings.query_prefix
    queries = [encode(start, prefix + row["query"]) for row in rows]
    texts = [text for row in rows for text in [*row["pos"], *row["neg"]]]
    passages = [encode(start, text) for text in texts]
    positives = torch.tensor([texts.index(row["pos"][0]) for row in rows])

    def matrix(of: Any) -> Tensor:
        return torch.stack([torch.stack([of(q, p) for p in passages]) for q in queries])

    def lexical(q: Any, p: Any) -> Tensor:
        shared = [q[1][token] * p[1][token] for token in q[1] if token in p[1]]
        return torch.stack(shared).sum() if shared else torch.zeros(())

    scores: dict[str, list[Tensor]] = {"dense": [], "sparse": [matrix(lexical)], "multi": []}
    for size in (32, *loss.get("dense_sizes", ())):
        scores["dense"].append(matrix(lambda q, p, n=size: unit(q[0], n) @ unit(p[0], n)))
    for size in (16, *loss.get("multi_sizes", ())):
        scores["multi"].append(
            matrix(lambda q, p, n=size: (unit(q[2], n) @ unit(p[2], n).T).amax(1).mean())
        )
    mask, taught = torch.ones(len(queries), len(passages), dtype=torch.bool), torch.zeros(())
    if teacher:
        goals = teacher_scores(teacher, [row["query"] for row in rows], texts)
        own = goals[0].gather(1, positives[:, None])
        mask = (goals[0] <= own - teacher["margin"]).scatter(1, positives[:, None], True)
        assert 0 < int((~mask).sum()) < mask.numel() / 2
        softened = (goals[0] / teacher["temperature"]).masked_fill(~mask, -1e9).softmax(1)
        for head, share in zip(HEADS, (1.0, 0.1, 1.0), strict=True):
            logs = (scores[head][0] / loss["temperature"]).masked_fill(~mask, -1e9).log_softmax(1)
            taught = taught - share / 2.1 * (softened * logs).sum(1).mean()
        cosines = [v[0] @ g for v, g in zip([*queries, *passages], goals[1], strict=True)]
        taught = teacher["scores"] * taught + teacher["dense"] * (1 - torch.stack(cosines).mean())
    for head in HEADS:
        scores[head] = [each.masked_fill(~mask, -1e9) for each in scores[head]]
    tau = loss["temperature"]
    inter = sum(w * scores[head][0] for head, w in zip(HEADS, (1.0, 0.3, 1.0), strict=True))
    assert isinstance(inter, Tensor)
    total = F.cross_entropy(inter / tau, positives)
    target = (inter / tau).softmax(1).detach()
    softer = torch.zeros(())
    for head, share in zip(HEADS, (1.0, 0.1, 1.0), strict=True):
        for each in scores[head]:
            hard = F.cross_entropy(each / tau, positives)
            soft = -(target * (each / tau).log_softmax(1)).sum(1).mean()
            total = total + share * hard / len(scores[head])
            softer = softer + share * soft / len(scores[head])
    total = total / 4
    if distil:
        total = (total + softer / 3) / 2
    for side in (queries, passages):
        sums: dict[int, Tensor] = {}
        for *_, pairs in side:
            for token, weight in pairs:
                sums[token] = sums.get(token, torch.zeros(())) + weight
        penalty = torch.stack([(each / len(side)) ** 2 for each in sums.values()]).sum()
        total = total + loss.get("flops", 0.0) * penalty
    return total + taught


def teacher_scores(
    teacher: Run, queries: list[str], passages: list[str]
) -> tuple[Tensor, list[Tensor]]:
    """The teacher's scores of all pairs, and its vectors of all texts."""
    stored = TeacherVectors.load(Path(teacher["path"]))
    keys = np.array([text_key(text) for text in [*queries, *passages]])
    vectors = torch.from_numpy(stored.dense[stored.rows(keys)].astype(np.float32))
    return vectors[: len(queries)] @ vectors[len(queries) :].T, list(vectors)


def plain_training(tree: Run, rows: list[Run]) -> dict[str, Tensor]:
    """The weights after all steps: AdamW and its schedule written out, on one whole batch."""
    start = read_checkpoint(Path(tree["model"]))
    model: M3Model = start.model
    how = tree["optimiser"]
    slow, slower = how["betas"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in model.named_parameters()}
    for step in range(STEPS):
        model.zero_grad()
        distil = tree["loss"]["distillation"] and step >= tree["loss"].get("distil_from", 0)
        taught = tree.get("teacher")
        plain_loss(start, rows, tree["loss"], distil=distil, teacher=taught).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads.values()))
        shrunk = min(1.0, how["clip"] / norm) if how["clip"] else 1.0
        warm = how["warmup"] * STEPS
        share = (step + 1) / (warm + 1) if step < warm else 1 - (step - warm) / (STEPS - warm)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name not in grads:
                    continue
                lr, decay = how["lr"], how["weight_decay"]
                if "word_embeddings" in name:
                    lr = how.get("embedding_lr", lr)
                if parameter.ndim < 2:
                    decay = 0.0
                grad = grads[name] * shrunk
                first, second = moments[name]
                first.mul_(slow).add_((1 - slow) * grad)
                second.mul_(slower).add_((1 - slower) * grad**2)
                parameter.mul_(1 - lr * share * decay)
                root = (second / (1 - slower ** (step + 1))).sqrt() + how["eps"]
                parameter.sub_(lr * share * first / (1 - slow ** (step + 1)) / root)
    keep = tree.get("blend", 1.0)
    after = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {name: keep * after[name] + (1 - keep) * before[name] for name in after}


VARIANTS: dict[str, Run] = {
    "plain": {},
    "clipped": {"optimiser": {"clip": 0.05}},
    "decayed": {"optimiser": {"weight_decay": 5.0}},
    "words slower": {"optimiser": {"embedding_lr": 1e-3}},
    "words frozen": {"optimiser": {"embedding_lr": 0.0}},
    "warmed up": {"optimiser": {"warmup": 0.5}},
    "blended": {"blend": 0.3},
    "distilled": {"loss": {"distillation": True, "distil_from": 2}},
    "smaller sizes": {"loss": {"dense_sizes": [8], "multi_sizes": [4]}},
    "sizes distilled": {
        "loss": {
            "dense_sizes": [8, 16],
            "multi_sizes": [4],
            "distillation": True,
            "distil_from": 0,
        }
    },
    "few terms": {"loss": {"flops": 0.5}},
    "hard negatives": {"data": {"negatives": 2}},
    "micro-batches": {"batch": {"sub_batch_tokens": 20}, "data": {"negatives": 2}},
    "taught": {"teacher": {"dense": 0.7, "scores": 0.4, "temperature": 0.2, "margin": 0.0}},
    "two batches a step": {"batch": {"accumulate": 2}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_is_the_plain_training(tmp_path: Path, tiny_checkpoint: Path, variant: str) -> None:
    changed = VARIANTS[variant]
    negatives = changed.get("data", {}).get("negatives", 0)
    rows = write_rows(tmp_path / "rows.jsonl", 8, negatives)
    tree = run_tree(tmp_path, tiny_checkpoint, [tmp_path / "rows.jsonl"])
    for name, value in changed.items():
        tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) else value
    if variant == "taught":
        other = read_checkpoint(tiny_checkpoint)
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in other.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
        write_checkpoint(tmp_path / "other", other.model, other.tokenizer)
        files = [tmp_path / "rows.jsonl"]
        teach(files, tmp_path / "other", tmp_path / "taught", TeachConfig(directions=0))
        tree["teacher"] = {"path": str(tmp_path / "taught"), **changed["teacher"]}
    trained = read_checkpoint(train(from_tree(tree), log=lambda line: None)).model
    start = read_checkpoint(tiny_checkpoint).model.state_dict()
    expected = plain_training(tree, rows)
    moved = 0.0
    for name, parameter in trained.state_dict().items():
        if "word_embeddings" in name and variant == "words frozen":
            assert torch.equal(parameter, start[name])
        far = float((expected[name] - start[name]).abs().max())
        off = float((expected[name] - parameter).abs().max())
        assert off <= 0.01 * far + 1e-5, f"{name}: moved by {far}, {off} from the plain training"
        moved = max(moved, far)
    assert moved > 1e-3


# What is drawn


def make_collator(
    tmp_path: Path, start: Checkpoint, tiny_checkpoint: Path, **data: Any
) -> tuple[Collator, list[Run]]:
    rows = write_rows(tmp_path / "rows.jsonl", 8, 6)
    tree = run_tree(tmp_path, tiny_checkpoint, [tmp_path / "rows.jsonl"])
    tree["data"] |= data
    config = from_tree(tree)
    examples = Examples.load(
        config.data.sources, start.tokenizer, config.data, cache=tmp_path / "cache"
    )
    return Collator(examples, start.tokenizer, config.data, seed=config.seed), rows


def test_hard_negatives_are_drawn_evenly(
    tmp_path: Path, tiny: Checkpoint, tiny_checkpoint: Path
) -> None:
    collator, rows = make_collator(tmp_path, tiny, tiny_checkpoint, negatives=2)
    counts: Counter[str] = Counter()
    for step in range(300):
        batch = collator.batch(np.arange(8), step)
        for query in range(8):
            own = batch.passage_texts[batch.owners == query]
            assert len(set(own.tolist())) == 3  # the positive and two different negatives
        tokens = batch.passages
        for place in np.flatnonzero(batch.owners == 0)[1:]:
            ids = tokens.ids[tokens.offsets[place] + 1 : tokens.offsets[place + 1] - 1]
            counts[tiny.tokenizer.backend.decode(ids.tolist())] += 1
    assert set(counts) == set(rows[0]["neg"])
    assert all(60 < count < 140 for count in counts.values()), counts  # 100 are expected


def test_segments_are_shuffled_as_often_as_asked(
    tmp_path: Path, tiny: Checkpoint, tiny_checkpoint: Path
) -> None:
    def texts(share: float, steps: int) -> list[tuple[list[int], list[int]]]:
        collator, rows = make_collator(tmp_path, tiny, tiny_checkpoint, shuffle_segments=share)
        pairs = []
        for step in range(steps):
            batch = collator.batch(np.arange(8), step)
            for number, row in enumerate(rows):
                bounds = batch.passages.offsets[number : number + 2]
                drawn = batch.passages.ids[bounds[0] : bounds[1]].tolist()
                pairs.append((tiny.tokenizer.encode(row["pos"]).ids.tolist(), drawn))
        return pairs

    assert all(drawn == text for text, drawn in texts(0.0, 5))
    always = texts(1.0, 20)
    for text, drawn in always:
        assert drawn != text
        assert sorted(drawn) == sorted(text)
        assert (drawn[0], drawn[-1]) == (text[0], text[-1])
        known = set(pairwise(text))
        assert sum(pair not in known for pair in pairwise(drawn)) <= 4
    assert len({tuple(drawn) for _, drawn in always}) > 40  # another order in another step
    some = [drawn != text for text, drawn in texts(0.25, 100)]
    assert 0.18 < sum(some) / len(some) < 0.32


# What is tuned


@pytest.mark.parametrize("best", ["sparse", "multi"])
def test_a_run_tunes_the_weight_of_the_head_that_finds(
    tmp_path: Path, tiny: Checkpoint, tiny_checkpoint: Path, best: str
) -> None:
    """The other head is made useless: constant weights, or vectors that are all alike."""
    start = copy.deepcopy(tiny)
    assert start.model.sparse is not None
    assert start.model.multi is not None
    with torch.no_grad():
        if best == "sparse":
            start.model.multi.weight.zero_()
            start.model.multi.bias.fill_(1.0)
        else:
            start.model.sparse.weight.zero_()
            start.model.sparse.bias.fill_(-1.0)
    write_checkpoint(tmp_path / "start", start.model, start.tokenizer, settings=start.settings)
    write_rows(tmp_path / "rows.jsonl", 60, 0)
    tree = run_tree(tmp_path, tmp_path / "start", [tmp_path / "rows.jsonl"])
    tree |= {"steps": 1}
    tree["data"]["dev"] = [str(tmp_path / "rows.jsonl")]
    tree["optimiser"]["lr"] = 1e-9
    weights = read_checkpoint(train(from_tree(tree), log=lambda line: None)).settings.weights
    assert weights is not None
    assert (weights.sparse > weights.multi) == (best == "sparse")
    assert weights.sparse != weights.multi
