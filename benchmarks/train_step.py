"""One training step beside FlagEmbedding's trainer: seconds, and memory above the weights.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --large      # 8 queries, 8 passages each: ours alone

A trunk of 2 layers of 1,024 with a vocabulary of 250,002, all three heads, unified loss with
self-distillation, AdamW, float32, random weights and ids. Each side runs in a process of its own
with a limit on its memory. "Above" is the peak of resident memory in a step less what the process
held before it, after a small first step: weights, gradients and the optimiser's moments.

Ours runs as `tercet train` would with a budget of --piece tokens at once. FlagEmbedding runs its
own model class (EncoderOnlyEmbedderM3Model) with the same optimiser, its largest tensor (texts,
tokens, vocabulary); its sub_batch_size changes nothing there.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from common import PEERS, Peak, parser, resident, save

VOCABULARY, HIDDEN, LAYERS, HEADS, WIDE = 250_002, 1024, 2, 16, 4096
TAU = 0.02


def random_ids(texts: int, tokens: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCABULARY - 1, (texts, tokens), generator=draw)
    ids[:, 0], ids[:, -1] = 0, 2
    return ids


class Ours:
    """Tercet's two-pass step."""

    def __init__(self, piece: int) -> None:
        from tercet.layout import BackboneConfig
        from tercet.model import M3Model

        torch.manual_seed(0)
        config = BackboneConfig(layers=LAYERS, positions=514)
        self.model = M3Model(config, [0, 1, 2, 3], multi=HIDDEN).train()
        torch.nn.init.normal_(self.model.backbone.word_embeddings.weight, std=0.02)
        self.model.backbone.adds_rows = True  # as `tercet train` sets it
        self.piece = piece
        self.parameters = list(self.model.parameters())

    def loss(self, queries: int, passages: int, tokens: int) -> None:
        import numpy as np

        from tercet.config import HEADS as ALL
        from tercet.tokenizer import TokenBatch
        from tercet.train.batches import Batch
        from tercet.train.config import LossConfig, TeacherConfig
        from tercet.train.distributed import World
        from tercet.train.gradcache import Representations, Side, backward
        from tercet.train.losses import batch_loss

        def batch(texts: int, seed: int) -> TokenBatch:
            offsets = np.arange(texts + 1) * tokens
            ids = random_ids(texts, tokens, seed).numpy().astype(np.int32).ravel()
            return TokenBatch(ids, offsets, offsets[:-1].copy(), np.zeros(texts, dtype=np.bool_))

        count = queries * passages
        owners = np.repeat(np.arange(queries), passages)
        collated = Batch(
            queries=batch(queries, 1),
            passages=batch(count, 2),
            positives=np.arange(queries) * passages,
            owners=owners,
            keys=np.arange(count),
            related=np.stack((owners, np.arange(count)), axis=1),
            teacher=np.full(count, np.nan, dtype=np.float32),
            query_texts=np.arange(queries),
            passage_texts=np.arange(count),
        )
        settings, world = LossConfig(temperature=TAU), World(torch.device("cpu"))

        def loss(one: Representations, other: Representations) -> torch.Tensor:
            parts = (one, other, collated, settings, TeacherConfig(), world)
            return batch_loss(*parts, total=queries, distil=True)[0]

        sides = [Side(t, most=self.piece) for t in (collated.queries, collated.passages)]
        backward(self.model, sides, ALL, loss)


class Theirs:
    """FlagEmbedding's M3 training model."""

    def __init__(self, piece: int) -> None:
        from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import (
            EncoderOnlyEmbedderM3Model,
        )
        from transformers import XLMRobertaConfig, XLMRobertaModel

        torch.manual_seed(0)
        config = XLMRobertaConfig(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, intermediate_size=WIDE, max_position_embeddings=514,
            type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip

        class Ids:
            cls_token_id, pad_token_id, eos_token_id, unk_token_id = 0, 1, 2, 3
            padding_side = "right"

        trunk = XLMRobertaModel(config, add_pooling_layer=False)
        self.model = EncoderOnlyEmbedderM3Model(
            {
                "model": trunk,
                "colbert_linear": torch.nn.Linear(HIDDEN, HIDDEN),
                "sparse_linear": torch.nn.Linear(HIDDEN, 1),
            },
            tokenizer=Ids(),
            temperature=TAU,
            normalize_embeddings=True,
            use_self_distill=True,
            self_distill_start_step=-1,
        )
        self.model.train()
        self.parameters = list(self.model.parameters())

    def loss(self, queries: int, passages: int, tokens: int) -> None:
        def features(texts: int, seed: int) -> dict[str, torch.Tensor]:
            ids = random_ids(texts, tokens, seed)
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        out = self.model(queries=features(queries, 1), passages=features(queries * passages, 2))
        out.loss.backward()


def work(options: argparse.Namespace) -> None:
    """Runs steps of one side and prints what they took."""
    resource.setrlimit(resource.RLIMIT_DATA, (options.limit << 30, options.limit << 30))
    torch.set_num_threads(options.threads)
    side = (Ours if options.worker == "tercet" else Theirs)(options.piece)
    optimiser = torch.optim.AdamW(side.parameters, lr=1e-5, fused=True)
    for parameter in side.parameters:
        parameter.grad = torch.zeros_like(parameter)

    def step(queries: int, passages: int, tokens: int) -> None:
        optimiser.zero_grad(set_to_none=False)
        side.loss(queries, passages, tokens)
        torch.nn.utils.clip_grad_norm_(side.parameters, 1.0)
        optimiser.step()

    step(2, 1, 8)
    before, seconds, most = resident(), [], 0
    for _ in range(options.rounds):
        peak = Peak()
        peak.start()
        started = time.perf_counter()
        step(options.queries, options.passages, options.tokens)
        seconds.append(time.perf_counter() - started)
        most = max(most, peak.stop())
    memory = {"before_mb": before / 1e6, "above_mb": (most - before) / 1e6}
    print(json.dumps({"seconds": statistics.median(seconds), **memory}))


def run(name: str, python: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """One side in its own process; None where it did not fit."""
    command = [python, __file__, "--worker", name]
    for key in ("piece", "limit", "threads", "rounds", "queries", "passages", "tokens"):
        command += [f"--{key}", str(getattr(options, key))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["killed"]
        print(f"{name}: {last[0][:200]}", file=sys.stderr)
        return None
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--worker", choices=["tercet", "FlagEmbedding"])
    given.add_argument("--peers", default=str(PEERS))
    given.add_argument("--large", action="store_true", help="8 x 8 x 512, ours alone")
    given.add_argument("--queries", type=int, default=4)
    given.add_argument("--passages", type=int, default=2)
    given.add_argument("--tokens", type=int, default=512)
    given.add_argument("--piece", type=int, default=8192, help="tokens that ours encodes at once")
    given.add_argument("--limit", type=int, default=22, help="GB a process may use")
    given.add_argument("--threads", type=int, default=2)
    given.add_argument("--rounds", type=int, default=3)
    options = given.parse_args()
    if options.worker:
        work(options)
        return
    if options.large:
        options.queries = options.passages = 8
    report: dict[str, Any] = {"tercet": run("tercet", sys.executable, options)}
    if not options.large:
        report["FlagEmbedding"] = run("FlagEmbedding", options.peers, options)
    shape = f"{options.queries} x {options.passages} x {options.tokens}"
    print(f"{shape} tokens, float32, {options.threads} threads, limit {options.limit} GB")
    for name, facts in report.items():
        if facts is None:
            print(f"{name}: did not fit")
            continue
        print(
            f"{name}: {facts['seconds']:.2f} s, {facts['above_mb']:.0f} MB above"
            f" {facts['before_mb']:.0f} MB"
        )
    ours, theirs = report["tercet"], report.get("FlagEmbedding")
    if ours and theirs:
        print(
            f"time {ours['seconds'] / theirs['seconds']:.2f},"
            f" memory {ours['above_mb'] / theirs['above_mb']:.3f} of FlagEmbedding's"
        )
    save(options.json, report)


if __name__ == "__main__":
    main()
