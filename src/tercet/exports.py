"""Models exported as graphs, for ONNX Runtime and OpenVINO: written, and loaded again.

    model.onnx, model.onnx_data             the graph; weights of over 1 GB beside it
    openvino_model.xml, openvino_model.bin  or that, of OpenVINO
    tokenizer.json, config.json, tercet.json  as the checkpoint has them
    export.json                             kind, dtype, fingerprint, heads, sizes

The graph is that of `tercet.onnx` with its three outputs. The fingerprint is the checkpoint's: an
index made with one is searched with the other.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.config import HEADS, MAX_LENGTH, Head
from tercet.embeddings import check_absent
from tercet.errors import InputError, MissingExtraError, ModelError
from tercet.io import atomic_folder, json_bytes, write_json
from tercet.layout import (
    BUNDLED,
    EXPORT_FACTS,
    FORMAT,
    SETTINGS,
    Settings,
    published_sizes,
    read_beside,
    read_object,
    write_tokenizer,
)
from tercet.onnx import Array, GraphRuntime, Int8, OnnxRuntime, Source, m3_graph, read_source
from tercet.scores import threads
from tercet.tokenizer import Tokenizer

EXPORT = 1  # the format of export.json
KINDS = ("onnx", "openvino")
FILES = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}
GROUP = 128
INLINE = 1 << 30  # bytes of weights within model.onnx; protocol buffers end at 2 GB


@dataclass(frozen=True)
class Exported:
    """A graph that is ready to run, with what belongs to it."""

    runtime: GraphRuntime
    tokenizer: Tokenizer
    settings: Settings
    fingerprint: str


class OpenVinoRuntime(GraphRuntime):
    """A graph in OpenVINO, on the CPU."""

    name = "openvino"

    def _open(self) -> set[str]:
        core = _openvino().Core()
        options: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self.dtype == "int8":  # a scale for so many of a token's numbers
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = GROUP
        elif self.dtype == "float32":
            options["INFERENCE_PRECISION_HINT"] = "f32"
        elif self.dtype == "bfloat16":
            options["INFERENCE_PRECISION_HINT"] = "bf16"
        try:
            self._compiled = core.compile_model(str(self._model), "CPU", options)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load the model: {error}") from error
        self._request = self._compiled.create_infer_request()
        return {output.get_any_name() for output in self._compiled.outputs}

    def _run(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        self._request.infer(feed)
        return [np.array(self._request.get_tensor(name).data) for name in names]


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "OpenVINO is not installed: pip install 'tercet[openvino]'"
        ) from error
    return openvino


def export(
    source: str | Path | None,
    folder: str | Path,
    kind: str,
    *,
    int8: bool = False,
    revision: str | None = None,
) -> Source:
    """Writes a checkpoint as a graph of a kind; the folder appears whole or not at all.

    Raises ModelError for what cannot be loaded, InputError where the folder exists.
    """
    if kind not in KINDS:
        raise InputError(f"{kind!r} is no kind of export: choose from {', '.join(KINDS)}")
    target = check_absent(folder)
    ov = _openvino() if kind == "openvino" else None
    read = read_source(BUNDLED if source is None else source, revision=revision)
    form: Int8 = "scaled" if kind == "onnx" else "stored"
    graph, inputs, outputs = m3_graph(read, int8=form if int8 else None)
    inside = sum(array.nbytes for array in graph.constants.values()) <= INLINE
    with atomic_folder(target) as scratch:
        path = scratch / FILES["onnx"]
        data = None if inside else f"{path.name}_data"
        path.write_bytes(graph.model(inputs, outputs, external=data))
        if data is not None:
            with (scratch / data).open("wb") as file:
                for array in graph.large.values():
                    file.write(array.tobytes())
        if ov is not None:
            model = ov.convert_model(str(path))
            ov.save_model(model, str(scratch / FILES["openvino"]), compress_to_fp16=False)
            del model
            for part in scratch.glob("model.onnx*"):
                part.unlink()
        write_tokenizer(scratch, read.tokenizer, min(read.config.max_length, MAX_LENGTH))
        sizes = {"model_type": "xlm-roberta", **published_sizes(read.config)}
        write_json(scratch / "config.json", sizes)
        (scratch / SETTINGS).write_bytes(json_bytes({"format": FORMAT} | asdict(read.settings)))
        facts = {
            "format": EXPORT,
            "kind": kind,
            "dtype": "int8" if int8 else "float32",
            "fingerprint": read.fingerprint,
            "heads": list(read.heads),
            "dims": read.dims,
        }
        write_json(scratch / EXPORT_FACTS, facts)
    return read


def load_export(
    folder: str | Path, backend: str | None = None, *, device: object = None, dtype: object = None
) -> Exported:
    """Opens what `export` wrote.

    Raises ModelError where it is not whole, InputError for another backend, device or dtype than
    its own, MissingExtraError where what runs it is not installed.
    """
    folder = Path(folder)
    facts = read_object(folder / EXPORT_FACTS)
    try:
        if facts["format"] != EXPORT:
            raise ModelError(
                f"{folder / EXPORT_FACTS}: format {facts['format']!r}, this Tercet reads {EXPORT}"
            )
        kind, dtype_of, fingerprint = (str(facts[k]) for k in ("kind", "dtype", "fingerprint"))
        heads: tuple[Head, ...] = tuple(head for head in HEADS if head in facts["heads"])
        dims = {str(name): int(size) for name, size in facts["dims"].items()}
        path = folder / FILES[kind]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / EXPORT_FACTS}: not what an export has: {error}") from error
    asked = {"backend": (backend, kind), "device": (device, "cpu"), "dtype": (dtype, dtype_of)}
    for name, (given, own) in asked.items():
        if given is not None and str(given).removeprefix("torch.") != own:
            raise InputError(
                f"{folder} is exported for {kind} in {dtype_of} on the CPU: leave out"
                f" {name}={str(given)!r}, or load the checkpoint that it was made of"
            )
    if not path.exists():
        raise ModelError(f"{folder} has no {path.name}: export it again")
    config, tokenizer, settings, _ = read_beside(folder)
    runtime = OnnxRuntime if kind == "onnx" else OpenVinoRuntime
    made = runtime(path, config, dims, heads, dtype=dtype_of)
    return Exported(made, tokenizer, settings, fingerprint)
