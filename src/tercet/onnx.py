"""A checkpoint as an ONNX graph, written without torch, and ONNX Runtime to run it.

The graph takes token ids and their mask, (B, T) int64, and gives `dense` (B, H), `token_weights`
(B, T) and `multi_vectors` (B, T, M), as far as the checkpoint has the heads, and in memory also
`states` (B, T, H). Weights at ids that never weigh are 0; the multi-vectors of [CLS] are there,
though no part of the representation. Shapes: B texts, T tokens of the longest, H hidden, M
multi-vector size.
"""

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tercet.arrays import StoredArrays
from tercet.config import Head, Progress
from tercet.errors import InputError, ModelError
from tercet.layout import (
    MULTI,
    SPARSE,
    TYPES,
    BackboneConfig,
    Settings,
    fetch,
    fingerprint_of,
    published_shapes,
    read_beside,
    weight_files,
)
from tercet.runtime import PADDED_BUDGET, Pass, check_asked, padded_batches
from tercet.scores import threads
from tercet.tokenizer import TokenBatch, Tokenizer

OUTPUTS: dict[Head, str] = {
    "dense": "dense",
    "sparse": "token_weights",
    "multi": "multi_vectors",
}
STATES = "states"
Int8 = Literal["scaled", "stored"]
MICROSOFT = "com.microsoft"  # the domain of operators that are ONNX Runtime's own
OPSET, IR = 17, 8  # LayerNormalization is part of it; every runtime of the last years reads it

Array = npt.NDArray[Any]
_TENSOR_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "float16": 10}


# The wire form of ONNX: protocol buffers, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, value: int | float | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value & (1 << 64) - 1)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _attribute(name: str, value: Any) -> bytes:
    out = _field(1, name)
    if isinstance(value, float):
        return out + _field(2, value) + _field(20, 1)
    if isinstance(value, int):
        return out + _field(3, value) + _field(20, 2)
    if isinstance(value, str):
        return out + _field(4, value) + _field(20, 3)
    return out + b"".join(_field(8, item) for item in value) + _field(20, 7)


def _value_info(name: str, kind: str, shape: Iterable[str | int]) -> bytes:
    sizes = (_field(2, d) if isinstance(d, str) else _field(1, d) for d in shape)
    dims = b"".join(_field(1, size) for size in sizes)
    tensor = _field(1, _TENSOR_TYPES[kind]) + _field(2, dims)
    return _field(1, name) + _field(2, _field(1, tensor))


@dataclass
class Graph:
    """Nodes and constants, as they are added."""

    nodes: list[bytes] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    domains: set[str] = field(default_factory=set)

    @property
    def large(self) -> dict[str, Array]:
        """The constants that may be kept outside; from small ones shapes are inferred."""
        return {name: array for name, array in self.constants.items() if array.nbytes >= 1024}

    def constant(self, name: str, value: Any, dtype: Any = None) -> str:
        """An array that is part of the graph; gives its name."""
        self.constants[name] = np.asarray(value, dtype=dtype, order="C")
        return name

    def add(
        self, op: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Any
    ) -> str:
        """A node with one output; gives its name."""
        parts = [*(_field(1, name) for name in inputs), _field(2, output), _field(3, output)]
        parts += [_field(4, op)]
        parts += [_field(5, _attribute(*item)) for item in attributes.items()]
        if domain:
            parts.append(_field(7, domain))
            self.domains.add(domain)
        self.nodes.append(b"".join(parts))
        return output

    def model(
        self, inputs: Iterable[bytes], outputs: Iterable[bytes], external: str | None = None
    ) -> bytes:
        """The whole model; external names the file that holds the constants one after another."""
        parts = [_field(1, node) for node in self.nodes] + [_field(2, "tercet")]
        offset, large = 0, self.large
        for name, array in self.constants.items():
            dims = b"".join(_field(1, size) for size in array.shape)
            tensor = dims + _field(2, _TENSOR_TYPES[array.dtype.name]) + _field(8, name)
            if external is None or name not in large:
                tensor += _field(9, array.tobytes())
            else:
                place = {"location": external, "offset": offset, "length": array.nbytes}
                for key, value in place.items():
                    tensor += _field(13, _field(1, key) + _field(2, str(value)))
                tensor += _field(14, 1)
                offset += array.nbytes
            parts.append(_field(5, tensor))
        parts += [_field(11, value) for value in inputs] + [_field(12, value) for value in outputs]
        opsets = [_field(2, OPSET)]
        opsets += [_field(1, domain) + _field(2, 1) for domain in sorted(self.domains)]
        return b"".join(
            [
                _field(1, IR),
                _field(2, "tercet"),
                _field(7, b"".join(parts)),
                *(_field(8, opset) for opset in opsets),
            ]
        )


# The graph of an M3 model


@dataclass(frozen=True)
class Source:
    """A checkpoint whose weights are read as arrays when a graph is built."""

    config: BackboneConfig
    tokenizer: Tokenizer
    settings: Settings
    fingerprint: str
    trunk: StoredArrays
    sparse: Mapping[str, Array] | None
    multi: Mapping[str, Array] | None

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that there are."""
        own = {"dense": True, "sparse": self.sparse is not None, "multi": self.multi is not None}
        return tuple(head for head in OUTPUTS if own[head])

    @property
    def dims(self) -> dict[str, int]:
        """Sizes of the representations."""
        dims = {"dense": self.config.hidden, "vocabulary": self.config.vocabulary}
        return dims if self.multi is None else dims | {"multi": len(self.multi["weight"])}


def read_source(
    source: str | Path, *, revision: str | None = None, download: bool = True
) -> Source:
    """A folder or a hub id; raises ModelError naming the file and what is wrong with it."""
    folder = fetch(source, revision, download=download)
    config, tokenizer, settings, tokenizer_file = read_beside(folder)
    files = weight_files(folder)
    trunk = StoredArrays(files)
    for name, shape in published_shapes(config):
        if name not in trunk:
            raise ModelError(f"{files[0]}: has no tensor {name!r}, which config.json asks for")
        if name != TYPES and trunk.shape(name) != shape:
            raise ModelError(
                f"{files[0]}: {name} is {trunk.shape(name)}, but config.json says {shape}"
            )
    heads: list[Mapping[str, Array] | None] = []
    others = []
    for name in (SPARSE, MULTI):
        own = [folder / f"{name}.safetensors", folder / f"{name}.pt"]
        file = next((path for path in own if os.path.lexists(path)), None)
        tensors = trunk.under(f"{name}.") if file is None else dict(StoredArrays([file]))
        if tensors and {"weight", "bias"} != tensors.keys():
            raise ModelError(f"{file or files[0]}: a head is a weight and a bias")
        heads.append(tensors or None)
        others += [] if file is None else [file]
    fingerprint = fingerprint_of(config, settings, [*files, *sorted(others), tokenizer_file])
    return Source(config, tokenizer, settings, fingerprint, trunk, *heads)


def m3_graph(
    source: Source, *, states: bool = False, int8: Int8 | None = None
) -> tuple[Graph, list[bytes], list[bytes]]:
    """The graph of a checkpoint, and what goes in and comes out.

    int8 stores the layers' weights so, with a scale for each output. "scaled" has them multiplied
    so too, by operators of ONNX Runtime, a token's numbers divided by the largest of them before;
    "stored" leaves that to what runs the graph, as OpenVINO does.
    """
    g, config, trunk = Graph(), source.config, source.trunk
    hidden, heads = config.hidden, config.heads

    def weight(name: str, dtype: Any = np.float32) -> Array:
        return trunk[name].astype(dtype, copy=False)

    def norm(name: str, theirs: str, x: str) -> str:
        parts = [g.constant(f"{name}.{k}", weight(f"{theirs}.{k}")) for k in ("weight", "bias")]
        return g.add("LayerNormalization", [x, *parts], name, epsilon=config.norm_eps)

    def linear(name: str, weights: Array, bias: Array, x: str) -> str:
        product = f"{name}.product"
        if int8 is None or not name.startswith("layer"):
            matrix = g.constant(f"{name}.weight", weights.T, np.float32)
            g.add("MatMul", [x, matrix], product)
        else:
            scales = np.maximum(np.abs(weights).max(axis=1), 1e-12) / 127
            codes = np.rint(weights / scales[:, None]).T
            stored = [
                g.constant(f"{name}.weight", codes, np.int8),
                g.constant(f"{name}.scales", scales, np.float32),
            ]
            if int8 == "stored":
                matrix = g.add("DequantizeLinear", stored, f"{name}.matrix", axis=1)
                g.add("MatMul", [x, matrix], product)
            else:
                size = g.add(
                    "ReduceMax", [g.add("Abs", [x], f"{name}.abs")], f"{name}.size", axes=[-1]
                )
                small = g.add(
                    "Div", [x, g.add("Max", [size, "tiny"], f"{name}.least")], f"{name}.small"
                )
                scaled = g.add(
                    "DynamicQuantizeMatMul", [small, *stored], f"{name}.int8", domain=MICROSOFT
                )
                g.add("Mul", [scaled, size], product)
        return g.add("Add", [product, g.constant(f"{name}.bias", bias, np.float32)], name)

    def published(name: str, theirs: str, x: str) -> str:
        return linear(name, weight(f"{theirs}.weight"), weight(f"{theirs}.bias"), x)

    def unit(name: str, x: str) -> str:
        length = g.add("ReduceL2", [x], f"{name}.length", axes=[-1], keepdims=1)
        least = g.add("Max", [length, "tiny"], f"{name}.least")
        return g.add("Div", [x, least], name)

    def embeddings() -> str:
        # positions are counted from pad_id + 1; a <pad> has row pad_id and is not counted
        for table in ("word", "position"):
            stored = weight(f"embeddings.{table}_embeddings.weight")
            with np.errstate(over="ignore"):
                short = stored.astype(np.float16)  # half the size
            fits = int8 is not None or np.array_equal(short, stored)
            g.constant(table, short if fits else stored)
        g.constant("type", weight(TYPES)[0])
        g.constant("pad", config.pad_id, np.int64)
        is_pad = g.add("Equal", ["input_ids", "pad"], "is_pad")
        is_token = g.add("Not", [is_pad], "is_token")
        one = g.add("Cast", [is_token], "one", to=7)
        count = g.add("CumSum", [one, g.constant("axis1", 1, np.int64)], "count")
        counted = g.add("Mul", [count, one], "counted")
        positions = g.add("Add", [counted, "pad"], "positions")
        rows = []
        for table, ids in (("word", "input_ids"), ("position", positions)):
            chosen = g.add("Gather", [table, ids], f"{table}.stored")
            rows.append(g.add("Cast", [chosen], f"{table}.rows", to=1))
        summed = g.add("Add", rows, "summed")
        typed = g.add("Add", [summed, "type"], "typed")
        return norm("embedded", "embeddings.LayerNorm", typed)

    def attention(p: str, theirs: str, x: str) -> str:
        parts = [f"{theirs}.{name}" for name in ("query", "key", "value")]
        weights = [weight(f"{part}.weight") for part in parts]
        biases = [weight(f"{part}.bias") for part in parts]
        scale = (hidden // heads) ** -0.5
        weights[0], biases[0] = weights[0] * scale, biases[0] * scale
        qkv = linear(f"{p}.qkv", np.concatenate(weights), np.concatenate(biases), x)
        split = g.add("Reshape", [qkv, "split_heads"], f"{p}.split")  # (B, T, 3, heads, d)
        turned = g.add("Transpose", [split], f"{p}.turned", perm=[2, 0, 3, 1, 4])
        q, k, v = (
            g.add("Gather", [turned, number], f"{p}.{name}", axis=0)
            for number, name in (("zero", "q"), ("one_", "k"), ("two", "v"))
        )
        keys = g.add("Transpose", [k], f"{p}.keys", perm=[0, 1, 3, 2])
        scores = g.add("MatMul", [q, keys], f"{p}.scores")
        masked = g.add("Add", [scores, "mask_bias"], f"{p}.masked")
        shares = g.add("Softmax", [masked], f"{p}.shares", axis=-1)
        mixed = g.add("MatMul", [shares, v], f"{p}.mixed")
        back = g.add("Transpose", [mixed], f"{p}.back", perm=[0, 2, 1, 3])
        return g.add("Reshape", [back, "join_heads"], f"{p}.joined")

    def gelu(p: str, x: str) -> str:
        scaled = g.add("Div", [x, "root_two"], f"{p}.scaled")
        erf = g.add("Erf", [scaled], f"{p}.erf")
        shifted = g.add("Add", [erf, "one_float"], f"{p}.shifted")
        doubled = g.add("Mul", [x, shifted], f"{p}.doubled")
        return g.add("Mul", [doubled, "half"], f"{p}.gelu")

    def layer(number: int, x: str) -> str:
        theirs, p = f"encoder.layer.{number}", f"layer{number}"
        mixed = attention(f"{p}.attention", f"{theirs}.attention.self", x)
        out = published(f"{p}.out", f"{theirs}.attention.output.dense", mixed)
        x = norm(
            f"{p}.norm1",
            f"{theirs}.attention.output.LayerNorm",
            g.add("Add", [out, x], f"{p}.sum1"),
        )
        up = gelu(f"{p}.up", published(f"{p}.up", f"{theirs}.intermediate.dense", x))
        down = published(f"{p}.down", f"{theirs}.output.dense", up)
        return norm(
            f"{p}.norm2", f"{theirs}.output.LayerNorm", g.add("Add", [down, x], f"{p}.sum2")
        )

    for name, value in (("zero", 0), ("one_", 1), ("two", 2)):
        g.constant(name, value, np.int64)
    for name, number in (("tiny", 1e-12), ("root_two", 2**0.5), ("one_float", 1.0), ("half", 0.5)):
        g.constant(name, number, np.float32)
    g.constant("split_heads", [0, 0, 3, heads, hidden // heads], np.int64)
    g.constant("join_heads", [0, 0, hidden], np.int64)
    mask = g.add("Cast", ["attention_mask"], "mask", to=1)
    bias = g.add("Mul", [g.add("Sub", [mask, "one_float"], "unseen"), "much"], "flat_bias")
    g.constant("much", 1e4, np.float32)
    g.add("Unsqueeze", [bias, g.constant("axes12", [1, 2], np.int64)], "mask_bias")
    x = embeddings()
    for number in range(config.layers):
        x = layer(number, x)
    g.add("Identity", [x], STATES)
    outputs = []
    first = g.add("Gather", [x, "zero"], "first", axis=1)
    unit(OUTPUTS["dense"], first)
    outputs.append(_value_info(OUTPUTS["dense"], "float32", ["batch", hidden]))
    if source.sparse is not None:
        raw = linear("sparse", source.sparse["weight"], source.sparse["bias"], x)
        flat = g.add("Squeeze", [raw, g.constant("last_axis", [-1], np.int64)], "sparse.flat")
        positive = g.add("Relu", [flat], "sparse.positive")
        weighs = np.ones(config.vocabulary, dtype=np.uint8)
        weighs[source.tokenizer.weightless_ids] = 0
        chosen = g.add("Gather", [g.constant("weighs", weighs), "input_ids"], "weighing")
        factor = g.add("Mul", [g.add("Cast", [chosen], "weighing.float", to=1), "mask"], "factor")
        g.add("Mul", [positive, factor], OUTPUTS["sparse"])
        outputs.append(_value_info(OUTPUTS["sparse"], "float32", ["batch", "sequence"]))
    if source.multi is not None:
        unit(OUTPUTS["multi"], linear("multi", source.multi["weight"], source.multi["bias"], x))
        size = len(source.multi["weight"])
        outputs.append(_value_info(OUTPUTS["multi"], "float32", ["batch", "sequence", size]))
    if states:
        outputs.append(_value_info(STATES, "float32", ["batch", "sequence", hidden]))
    inputs = [
        _value_info(name, "int64", ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    return g, inputs, outputs


# Running it


class GraphRuntime(ABC):
    """Runs the graph of a checkpoint on the CPU; what runs graphs is opened by a subclass."""

    name, device = "", "cpu"
    budget = PADDED_BUDGET

    def __init__(
        self,
        model: bytes | Path,
        config: BackboneConfig,
        dims: Mapping[str, int],
        heads: tuple[Head, ...],
        *,
        dtype: str = "float32",
        constants: Mapping[str, Array] | None = None,
    ) -> None:
        """model is a graph or its file; constants are those that a graph in memory has outside."""
        self.config, self.dims, self.heads, self.dtype = config, dims, heads, dtype
        self._model, self._constants = model, constants or {}
        self._pid = os.getpid()
        self._outputs = self._open()

    @abstractmethod
    def _open(self) -> set[str]:
        """Loads the graph; gives the names of what it can give."""

    @abstractmethod
    def _run(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        """The outputs of these names."""

    def passes(
        self,
        tokens: TokenBatch,
        heads: Sequence[Head],
        *,
        budget: int | None = None,
        half: bool = True,
        states: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Pass]:
        """As `Runtime.passes`."""
        check_asked(heads, self.heads)
        if self._pid != os.getpid():  # a fork has none of its parent's threads
            self._pid, self._outputs = os.getpid(), self._open()
        averages = "dense" in heads and len(tokens.cls) != len(tokens)  # the [CLS] of MCLS
        states |= averages
        if states and STATES not in self._outputs:
            raise ModelError(
                "an exported model gives no states, which late chunking and several [CLS] need: "
                "use the checkpoint that it was made of"
            )
        names = [OUTPUTS[head] for head in heads if not (averages and head == "dense")]
        names += [STATES] if states else []
        done = 0
        for rows in padded_batches(tokens.lengths, self.budget if budget is None else budget):
            batch = tokens.take(rows)
            mask = np.arange(int(batch.lengths.max())) < batch.lengths[:, None]
            ids = np.full(mask.shape, self.config.pad_id, dtype=np.int64)
            ids[mask] = batch.ids
            feed = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
            given = dict(zip(names, self._run(names, feed), strict=True)) if names else {}
            packed = {
                name: array if name == OUTPUTS["dense"] else array[mask]
                for name, array in given.items()
            }
            dense, multi = packed.get(OUTPUTS["dense"]), packed.get(OUTPUTS["multi"])
            if averages:
                dense = _means(packed[STATES], batch)
            if multi is not None:
                multi = multi.astype(np.float16 if half else np.float32, copy=False)
            yield Pass(
                rows,
                batch,
                dense=dense,
                weights=packed.get(OUTPUTS["sparse"]),
                multi=multi,
                states=packed.get(STATES),
            )
            done += len(batch.ids)
            if progress is not None:
                progress(done, len(tokens.ids))


class OnnxRuntime(GraphRuntime):
    """A graph in ONNX Runtime."""

    name = "onnxruntime"

    def _open(self) -> set[str]:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads()
        options.inter_op_num_threads = 1
        # threads that wait do not keep a core from others
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._constants:
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in self._constants.values()]
            options.add_external_initializers(list(self._constants), values)
        model = str(self._model) if isinstance(self._model, Path) else self._model
        try:
            self._session = ort.InferenceSession(model, options)
        except Exception as error:  # ONNX Runtime raises classes of its own
            raise ModelError(f"ONNX Runtime cannot load the model: {error}") from error
        return {output.name for output in self._session.get_outputs()}

    def _run(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        out: list[Array] = self._session.run(names, feed)
        return out


def _means(states: npt.NDArray[np.float32], batch: TokenBatch) -> npt.NDArray[np.float32]:
    """The normalised mean of each text's [CLS] states, (B, H)."""
    owners = np.searchsorted(batch.offsets[1:], batch.cls, side="right")
    sums = np.zeros((len(batch), states.shape[1]), dtype=np.float32)
    np.add.at(sums, owners, states[batch.cls])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    out: npt.NDArray[np.float32] = sums / np.maximum(lengths, 1e-12)
    return out


@dataclass(frozen=True)
class OnnxCheckpoint:
    """A checkpoint that runs without torch."""

    runtime: OnnxRuntime
    tokenizer: Tokenizer
    settings: Settings
    fingerprint: str


def load_onnx(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    download: bool = True,
) -> OnnxCheckpoint:
    """A folder or a hub id, its weights read once, for ONNX Runtime on the CPU.

    Raises ModelError for what cannot be loaded, InputError for another device or dtype.
    """
    if device not in (None, "cpu") or dtype not in (None, "float32"):
        raise InputError(
            f"device {device!r} and dtype {dtype!r}: without torch Tercet computes in float32 on "
            "the CPU; pip install 'tercet[torch]' for others"
        )
    read = read_source(source, revision=revision, download=download)
    graph, inputs, outputs = m3_graph(read, states=True)
    model = graph.model(inputs, outputs, external="memory")
    runtime = OnnxRuntime(model, read.config, read.dims, read.heads, constants=graph.large)
    return OnnxCheckpoint(runtime, read.tokenizer, read.settings, read.fingerprint)
