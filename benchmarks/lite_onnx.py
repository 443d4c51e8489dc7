"""Turns a checkpoint in the reference layout into the ONNX backbone that bge-m3-lite runs.

bge-m3-lite downloads ready graphs of one published model, checked by digest, so it cannot be
given another checkpoint as it is. Its shipped graph has, per layer, one fused Attention, two
SkipLayerNormalization and one BiasGelu (its fuse.py), the attention then cut into chunks by its
own functions. Here the fused graph is written down directly, with the checkpoint's weights, and
then handed to those same functions: what is timed is bge-m3-lite's code on our weights.

The same graph is what ONNX Runtime's optimizer for transformers makes of an exported encoder, so
`--dynamic` writes its int8 by `quantize_dynamic` too: the trunk as a careful user of plain ONNX
Runtime would run it, for any size of the trunk.

Runs in the peers' environment; imports nothing of ours.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bge_m3_lite import fuse as lite_fuse
from bge_m3_lite import quantize as lite_quantize
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file  # NumPy has no float8

MICROSOFT = "com.microsoft"
OPSET = 17  # LayerNormalization is part of it; ReduceMax still takes axes as an attribute


class Graph:
    """Nodes and constants of the graph, as they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **options: Any) -> str:
        name = options.pop("name", output)
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **options))
        return output


def fused_graph(folder: Path) -> Any:
    """The fused, unchunked ONNX model of the checkpoint in `folder`."""
    config = json.loads((folder / "config.json").read_text())
    stored = load_file(folder / "model.safetensors")
    tensors = {name: value.float().numpy() for name, value in stored.items()}
    g = Graph()

    def embeddings() -> str:
        pad = config["pad_token_id"]
        g.constant("pad", np.array(pad, dtype=np.int64))
        g.constant("axis1", np.array(1, dtype=np.int64))
        for name in ("word", "position"):
            g.constant(name, tensors[f"embeddings.{name}_embeddings.weight"])
        g.constant("type", tensors["embeddings.token_type_embeddings.weight"][0])
        # position = (running count of tokens that are not padding) + padding index
        g.add("Equal", ["input_ids", "pad"], "is_pad")
        g.add("Not", ["is_pad"], "is_token")
        g.add("Cast", ["is_token"], "one", to=TensorProto.INT64)
        g.add("CumSum", ["one", "axis1"], "count")
        g.add("Mul", ["count", "one"], "counted")
        g.add("Add", ["counted", "pad"], "positions")
        g.add("Gather", ["word", "input_ids"], "word_rows")
        g.add("Gather", ["position", "positions"], "position_rows")
        g.add("Add", ["word_rows", "position_rows"], "summed")
        g.add("Add", ["summed", "type"], "summed_all")
        g.constant("ln.weight", tensors["embeddings.LayerNorm.weight"])
        g.constant("ln.bias", tensors["embeddings.LayerNorm.bias"])
        parts = ["summed_all", "ln.weight", "ln.bias"]
        epsilon = config["layer_norm_eps"]
        return g.add("LayerNormalization", parts, "embedded", epsilon=epsilon)

    def skip_norm(p: str, theirs: str, branch: str, residual: str) -> str:
        parts = [
            g.constant(f"{p}/{kind}", tensors[f"{theirs}.{name}"])
            for kind, name in (
                ("gamma", "LayerNorm.weight"),
                ("beta", "LayerNorm.bias"),
                ("bias", "dense.bias"),
            )
        ]
        return g.add(
            "SkipLayerNormalization",
            [branch, residual, *parts],
            f"{p}/out",
            domain=MICROSOFT,
            epsilon=config["layer_norm_eps"],
        )

    def matmul(name: str, theirs: str, x: str) -> str:
        weight = g.constant(f"{name}/weight", tensors[f"{theirs}.weight"].T)
        return g.add("MatMul", [x, weight], f"{name}/out", name=f"{name}/MatMul")

    def layer(i: int, x: str) -> str:
        theirs = f"encoder.layer.{i}"
        p = f"/encoder/layer.{i}"
        parts = [f"{theirs}.attention.self.{name}" for name in ("query", "key", "value")]
        weight = np.concatenate([tensors[f"{part}.weight"].T for part in parts], axis=1)
        bias = np.concatenate([tensors[f"{part}.bias"] for part in parts])
        g.constant(f"{p}/qkv/weight", weight)
        g.constant(f"{p}/qkv/bias", bias)
        mixed = g.add(
            "Attention",
            [x, f"{p}/qkv/weight", f"{p}/qkv/bias", "mask32"],
            f"{p}/attended",
            name=f"Attention_{i}",
            domain=MICROSOFT,
            num_heads=config["num_attention_heads"],
        )
        name = f"{p}/attention/output"
        branch = matmul(f"{name}/dense", f"{theirs}.attention.output.dense", mixed)
        x = skip_norm(f"{name}/norm", f"{theirs}.attention.output", branch, x)
        up = matmul(f"{p}/intermediate/dense", f"{theirs}.intermediate.dense", x)
        up_bias = g.constant(f"{p}/up/bias", tensors[f"{theirs}.intermediate.dense.bias"])
        fed = g.add("BiasGelu", [up, up_bias], f"{p}/fed", domain=MICROSOFT)
        branch = matmul(f"{p}/output/dense", f"{theirs}.output.dense", fed)
        return skip_norm(f"{p}/output/norm", f"{theirs}.output", branch, x)

    g.add("Cast", ["attention_mask"], "mask32", to=TensorProto.INT32)
    x = embeddings()
    for i in range(config["num_hidden_layers"]):
        x = layer(i, x)
    g.add("Identity", [x], "token_embeddings")
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        g.nodes,
        "bge-m3",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info(
                "token_embeddings", TensorProto.FLOAT, [*shape, config["hidden_size"]]
            )
        ],
        g.constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def save(model: Any, path: Path) -> None:
    """Writes graph and weights as two files, the weights outside of the graph."""
    lite_quantize.write_external_data(model, path.with_name(path.name + "_data"))
    onnx.save_model(model, str(path))


def quantize_dynamic(plain: Path, out: Path) -> None:
    """Weights in int8, activations in uint8 as they come: ONNX Runtime's recipe for AVX512-VNNI."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    # The inference of shapes knows nothing of fused operators: whatever it leaves open is float32.
    options = {"DefaultTensorType": TensorProto.FLOAT}
    quantize(plain, out, weight_type=QuantType.QInt8, extra_options=options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the checkpoint")
    parser.add_argument("out", type=Path, help="folder for model.onnx (and model_int8.onnx)")
    parser.add_argument("--int8", action="store_true", help="the int8 backbone too (minutes)")
    parser.add_argument(
        "--dynamic", action="store_true", help="only model_dynamic.onnx, for plain ONNX Runtime"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.int8 or args.dynamic:
        plain = args.out / "unchunked.onnx"
        save(fused_graph(args.model), plain)
        if args.dynamic:
            quantize_dynamic(plain, args.out / "model_dynamic.onnx")
        else:
            lite_quantize.quantize(
                plain,
                args.out / "model_int8.onnx",
                tokenizer_path=args.model / "sentencepiece.bpe.model",
            )
        for path in (plain, plain.with_name(plain.name + "_data")):
            path.unlink()
    if args.dynamic:
        return
    model = fused_graph(args.model)
    lite_fuse._chunk_attention(model, lite_quantize.ATTENTION_CHUNK)
    save(model, args.out / "model.onnx")


if __name__ == "__main__":
    main()
