"""Golden vectors: what a checkpoint makes of our test texts, right and with the known mistakes.

A checkpoint is run when it is asked for, or was run before and stored in a folder. Knows nothing of
endpoints or verdicts. Shapes: T tokens, H hidden, M multi-vector size.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tercet.checkpoint import Checkpoint
from tercet.config import MAX_LENGTH
from tercet.errors import InputError, StoreError
from tercet.evaluate.causes import (
    KINDS,
    Cause,
    Floats,
    Kind,
    TrunkOutput,
    Variant,
    Vector,
    distance,
    read,
    variants,
)
from tercet.evaluate.parity import golden_texts
from tercet.inference import run_batches
from tercet.io import atomic_folder, json_bytes, read_json
from tercet.model import M3Model
from tercet.tokenizer import TokenBatch

Precision = Literal["float16", "bfloat16", "int8"]  # from fine to coarse
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Limits = dict[Kind, dict[Precision, float]]  # the largest error that rounding explains

FORMAT, FACTS = 1, "golden.json"
TOKENS = 1024  # of a text; of longer ones the vectors of tokens are not kept
SHORT = 256  # tokens of a text up to which every mistake is tried; cuts are tried on all
BUDGET = 4096  # tokens of a batch
SLACK = 2.0  # times the largest error of simulated rounding: kernels differ in what they round


class Trunk:
    """Runs sequences through a model in float32; what was run once is not run again."""

    def __init__(self, model: M3Model) -> None:
        """The model must be in float32 and not packed."""
        self.model = model
        self._known: dict[tuple[tuple[int, ...], Precision | None], TrunkOutput] = {}

    @torch.inference_mode()
    def run(
        self, sequences: Sequence[Sequence[int]], precision: Precision | None = None
    ) -> list[TrunkOutput]:
        """One output a sequence, in their order; numbers rounded if asked."""
        keys = [(tuple(ids), precision) for ids in sequences]
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        tokens = TokenBatch.of([ids for ids, _ in new])
        with _Rounding(precision):
            for batch in run_batches(self.model, tokens, budget=BUDGET, padding=0.0):
                texts = torch.split(batch.states, batch.tokens.lengths.tolist())
                for row, states in zip(batch.rows, texts, strict=True):
                    self._known[new[row]] = self._output(new[row][0], states)
        return [self._known[key] for key in keys]

    def _output(self, ids: Sequence[int], states: Tensor) -> TrunkOutput:
        def linear(head: nn.Linear | None) -> Floats | None:
            return None if head is None else _numpy(F.linear(states, head.weight, head.bias))

        content = states[1:-1] if len(states) > 2 else states
        pools = (states[0], states.mean(0), content.mean(0), states[-1], states.amax(0))
        logits, short = linear(self.model.sparse), len(ids) <= TOKENS
        return TrunkOutput(
            ids=np.array(ids, dtype=np.int32),
            pools=_numpy(torch.stack(pools)),
            logits=None if logits is None else logits[:, 0],
            multi=linear(self.model.multi) if short else None,
            states=_numpy(states) if short else None,
        )


def _numpy(x: Tensor) -> Floats:
    out: Floats = x.float().cpu().numpy().copy()  # a view would keep the whole batch
    return out


class _Rounding(TorchFunctionMode):
    """Rounds what layers take and give as a model of this precision does that sums in float32."""

    def __init__(self, precision: Precision | None) -> None:
        super().__init__()
        self.precision = precision

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.precision == "int8" and function is F.linear:
            x, weight, *bias = args
            return function(_int8_inputs(x), _int8_weights(weight), *bias)
        if self.precision in ("float16", "bfloat16") and function in (F.linear, F.layer_norm):
            dtype = getattr(torch, self.precision)
            rounded = [x.to(dtype).float() if isinstance(x, Tensor) else x for x in args]
            return function(*rounded, **kwargs).to(dtype).float()
        return function(*args, **kwargs)


# int8 as ONNX Runtime's dynamic quantisation does it: scales of whole tensors, sums in float32.


def _int8_weights(w: Tensor) -> Tensor:
    """One scale a tensor, symmetric."""
    scale = w.abs().amax().clamp_min(1e-12) / 127
    return (w / scale).round() * scale


def _int8_inputs(x: Tensor) -> Tensor:
    """256 steps between the smallest and the largest value of the batch, one of them 0."""
    low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
    scale = (high - low).clamp_min(1e-12) / 255
    zero = (-low / scale).round()
    return ((x / scale + zero).round().clamp(0, 255) - zero) * scale


@dataclass(frozen=True)
class About:
    """Of which checkpoint the vectors are."""

    model: str
    fingerprint: str
    dims: dict[str, int]  # dense, vocabulary, and multi where there is such a head
    kinds: tuple[Kind, ...]
    max_length: int
    weightless: tuple[int, ...]  # ids that never weigh
    prefixes: dict[str, str]  # that the model puts before texts of a role
    pieces: dict[int, str]  # subwords of the ids in the texts

    def size(self, kind: Kind) -> int:
        """Dimensions of a vector, 0 for sparse."""
        return 0 if kind == "sparse" else self.dims["multi" if kind == "multi" else "dense"]


@dataclass
class Golden:
    """The texts, and what a checkpoint makes of them, in each variant.

    outputs(variant): one a text; None where that is not tried. limits(): the largest error of a
    text that rounding explains.
    """

    about: About
    texts: dict[str, str]  # by name
    causes: list[Cause | None]  # of each variant; the first is None: as it should be
    outputs: Callable[[int], list[TrunkOutput | None]]
    limits: Callable[[], Limits]

    def expected(self, kind: Kind) -> list[Vector | None]:
        """What M3 gives for each text; None where it is not known."""
        return [
            None if output is None else read(kind, output, self.about.weightless)
            for output in self.outputs(0)
        ]

    def save(
        self, folder: Path, *, show: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Stores all variants; the folder appears whole or not at all.

        Vectors of tokens are stored for texts as they should be alone. show gets how many variants
        are done, of how many. Raises InputError where the folder exists.
        """
        if folder.exists():
            raise InputError(f"{folder} exists already: remove it or choose another folder")
        with atomic_folder(folder) as scratch:  # before the checkpoint runs: it may not be writable
            self._write(scratch, show)

    def _write(self, folder: Path, show: Callable[[int, int], None]) -> None:
        outputs: dict[int, TrunkOutput] = {}  # by identity: equal sequences are one object
        stored: list[dict[str, Any]] = []
        for variant, cause in enumerate(self.causes):
            show(variant, len(self.causes))
            made = self.outputs(variant)
            outputs |= {id(output): output for output in made if output is not None}
            stored.append({"cause": cause and asdict(cause), "rows": list(map(id, made))})
        numbers = {key: number for number, key in enumerate(outputs)}
        for facts in stored:
            facts["rows"] = [numbers.get(key) for key in facts["rows"]]
        sequences = list(outputs.values())
        plain = sorted({row for row in stored[0]["rows"] if row is not None})
        tokens_of = [row for row in plain if sequences[row].states is not None]
        content = {
            "format": FORMAT,
            "about": asdict(self.about),
            "limits": self.limits(),
            "texts": self.texts,
            "tokens_of": tokens_of,
            "variants": stored,
        }
        arrays: dict[str, list[Any]] = {
            "ids": [output.ids for output in sequences],
            "offsets": [np.cumsum([0, *(len(output.ids) for output in sequences)])],
            "pools": [output.pools[None] for output in sequences],
            "logits": [output.logits for output in sequences],
            "states": [sequences[row].states for row in tokens_of],
            "multi": [sequences[row].multi for row in tokens_of],
        }
        for name, parts in arrays.items():
            if all(part is not None for part in parts):  # else the model has no such head
                np.save(folder / f"{name}.npy", np.concatenate(parts), allow_pickle=False)
        (folder / FACTS).write_bytes(json_bytes(content))

    @staticmethod
    def read(folder: Path) -> "Golden":
        """Raises InputError where there is no such folder, StoreError where it is not whole."""
        if not (folder / FACTS).is_file():
            raise InputError(f"{folder} holds no golden vectors: make them with --make")
        try:
            facts = read_json(folder / FACTS)
            if facts["format"] != FORMAT:
                raise ValueError(f"format {facts['format']}, this Tercet reads {FORMAT}")
            about = facts["about"]
            about["pieces"] = {int(i): piece for i, piece in about["pieces"].items()}
            outputs, limits = _read_outputs(folder, facts["tokens_of"]), facts["limits"]
            rows = [
                [None if row is None else outputs[row] for row in variant["rows"]]
                for variant in facts["variants"]
            ]
            return Golden(
                about=About(**about),
                texts=facts["texts"],
                causes=[v["cause"] and Cause(**v["cause"]) for v in facts["variants"]],
                outputs=rows.__getitem__,
                limits=lambda: limits,
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{folder} is no whole folder of golden vectors: make it anew ({error})"
            ) from error


def _read_outputs(folder: Path, tokens_of: list[int]) -> list[TrunkOutput]:
    """The sequences of a folder; raises ValueError where arrays do not fit together."""
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in folder.glob("*.npy")}
    lengths = np.diff(arrays["offsets"])

    def parts(name: str, rows: Sequence[int]) -> dict[int, Any]:
        """An array's part of each sequence; empty where there is no such head."""
        if name not in arrays:
            return {}
        ends = np.cumsum(lengths[rows])
        if len(arrays[name]) != ends[-1]:
            raise ValueError(f"{name}.npy has {len(arrays[name])} rows, not {ends[-1]}")
        return dict(zip(rows, np.split(arrays[name], ends[:-1]), strict=True))

    every = range(len(lengths))
    ids, logits = parts("ids", every), parts("logits", every)
    states, multi = parts("states", tokens_of), parts("multi", tokens_of)
    return [
        TrunkOutput(
            ids[row], arrays["pools"][row], logits.get(row), multi.get(row), states.get(row)
        )
        for row in every
    ]


def run_checkpoint(
    checkpoint: Checkpoint,
    name: str,
    *,
    texts: dict[str, str] | None = None,
    prefixes: Sequence[str] = (),
    suspects: Sequence[tuple[str, Checkpoint]] = (),
) -> Golden:
    """Golden vectors of a checkpoint that is run when they are asked for.

    Checkpoints are read in float32; suspects, by name, may be what is really served.
    """
    texts = golden_texts() if texts is None else texts
    model, tokenizer, settings = checkpoint.model, checkpoint.tokenizer, checkpoint.settings
    trunk, longest = Trunk(model), min(model.backbone.config.max_length, MAX_LENGTH)
    own = {"query": settings.query_prefix, "passage": settings.passage_prefix}
    tried = [(trunk, v) for v in variants(tokenizer, longest, [*prefixes, *own.values()])]
    for other, suspect in suspects:
        limit = min(suspect.model.backbone.config.max_length, MAX_LENGTH)
        cause = Cause(f"these are the vectors of {other}", f"serve {name}")
        right = variants(suspect.tokenizer, limit, ())[0]
        tried.append((Trunk(suspect.model), replace(right, cause=cause)))
    plain = [list(tried[0][1].tokens(text)) for text in texts.values()]
    runs: list[tuple[Trunk, Variant, list[list[int] | None]]] = []
    for runner, variant in tried:
        sequences = [
            list(variant.tokens(text)) or None if variant.everywhere or len(ids) <= SHORT else None
            for text, ids in zip(texts.values(), plain, strict=True)
        ]
        changes = any(a is not None and a != b for a, b in zip(sequences, plain, strict=True))
        if changes or variant.cause is None or runner is not trunk:
            runs.append((runner, variant, sequences))

    def outputs(variant: int) -> list[TrunkOutput | None]:
        runner, _, sequences = runs[variant]
        given = [ids for ids in sequences if ids is not None]
        made = iter(runner.run(given))
        return [None if ids is None else next(made) for ids in sequences]

    dims = {"dense": model.backbone.config.hidden, "vocabulary": model.backbone.config.vocabulary}
    if model.multi is not None:
        dims["multi"] = model.multi.out_features
    about = About(
        model=name,
        fingerprint=checkpoint.fingerprint,
        dims=dims,
        kinds=tuple(kind for kind in KINDS if kind in model.heads or kind == "states"),
        max_length=longest,
        weightless=tuple(int(i) for i in tokenizer.weightless_ids),
        prefixes=own,
        pieces={i: str(tokenizer.backend.id_to_token(i)) for row in plain for i in row},
    )
    limits = cache(lambda: _simulate_rounding(trunk, plain, about))
    return Golden(about, texts, [variant.cause for _, variant, _ in runs], outputs, limits)


def _simulate_rounding(trunk: Trunk, sequences: list[list[int]], about: About) -> Limits:
    """The largest errors when everything is rounded, and some slack."""
    short = [ids for ids in sequences if len(ids) <= TOKENS]
    exact = trunk.run(short)
    limits: Limits = {kind: {} for kind in about.kinds}
    for precision in PRECISIONS:
        rounded = trunk.run(short, precision)
        for kind in about.kinds:
            errors = [0.0]
            for pair in zip(rounded, exact, strict=True):
                answer, expected = (read(kind, output, about.weightless) for output in pair)
                if answer is not None and expected is not None:
                    errors.append(distance(answer, expected))
            limits[kind][precision] = SLACK * max(errors)
    return limits
