"""What answers are compared with: a checkpoint that is run, or golden vectors that were stored.

Both give, for each variant of how texts become tokens, what the trunk gives. Knows nothing of
endpoints or verdicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from tercet.checkpoint import Checkpoint, read_checkpoint
from tercet.config import MAX_LENGTH
from tercet.encoder import BUNDLED
from tercet.errors import InputError
from tercet.evaluate.doctor.compare import SLACK, error
from tercet.evaluate.doctor.readings import KINDS, Answer, Cause, Kind, readings
from tercet.evaluate.doctor.sequences import (
    PRECISIONS,
    TOKENS,
    Distortion,
    Ids,
    Precision,
    Raw,
    Trunk,
)
from tercet.evaluate.doctor.texts import golden_texts
from tercet.evaluate.doctor.variants import NONE, Framer, Variant, plainly, sequence, variants

SHORT = 256  # tokens of a text up to which every variant is tried

Limits = dict[Kind, dict[Precision, float]]


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
    pieces: dict[int, str]  # of the ids in the texts

    def size(self, kind: Kind) -> int:
        """Dimensions of a vector, 0 for sparse."""
        if kind == "sparse":
            return 0
        return self.dims["multi" if kind == "multi" else "dense"]


class Reference(Protocol):
    """The texts, and what a checkpoint makes of them."""

    about: About
    texts: dict[str, str]  # by name
    causes: list[Cause | None]  # of each variant; the first is None: as it should be

    def raws(self, variant: int) -> list[Raw | None]:
        """What the trunk gives for each text in a variant; None where that is not tried."""

    def limits(self) -> Limits:
        """The largest error of a text that rounding explains, by kind and precision."""


@dataclass(frozen=True)
class _Run:
    """A variant of the texts, ready to be run."""

    trunk: Trunk
    distortion: Distortion
    sequences: list[Ids | None]


class Live:
    """A checkpoint that is run when asked."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        name: str,
        *,
        texts: dict[str, str] | None = None,
        prefixes: Sequence[str] = (),
        suspects: Sequence[tuple[str, Checkpoint]] = (),
    ) -> None:
        """Checkpoints are read in float32; suspects, by name, may be what is really served."""
        self.texts = golden_texts() if texts is None else texts
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        config, trunk = model.backbone.config, Trunk(model)
        framer = Framer(tokenizer, min(config.max_length, MAX_LENGTH))
        settings = checkpoint.settings
        own = {"query": settings.query_prefix, "passage": settings.passage_prefix}
        self._runs: list[_Run] = []
        self._limits: Limits | None = None
        self.causes: list[Cause | None] = []
        for variant in variants(framer, [*prefixes, *own.values()]):
            self._add(trunk, variant, framer)
        for other, suspect in suspects:
            limit = min(suspect.model.backbone.config.max_length, MAX_LENGTH)
            cause = Cause(f"these are the vectors of {other}", f"serve {name}")
            plain = Variant(cause, plainly, everywhere=True)
            self._add(Trunk(suspect.model), plain, Framer(suspect.tokenizer, limit))
        ids = {int(i) for some in self._runs[0].sequences if some is not None for i in some}
        dims = {"dense": config.hidden, "vocabulary": config.vocabulary}
        if model.multi is not None:
            dims["multi"] = model.multi.out_features
        self.about = About(
            model=name,
            fingerprint=checkpoint.fingerprint,
            dims=dims,
            kinds=tuple(kind for kind in KINDS if kind in model.heads or kind == "states"),
            max_length=framer.max_length,
            weightless=tuple(int(i) for i in tokenizer.weightless_ids),
            prefixes=own,
            pieces={i: str(tokenizer.backend.id_to_token(i)) for i in sorted(ids)},
        )

    def _add(self, trunk: Trunk, variant: Variant, framer: Framer) -> None:
        """Keeps a variant, unless it changes no text."""
        plain = self._runs[0] if self._runs else None
        found: list[Ids | None] = []
        for number, text in enumerate(self.texts.values()):
            known = None if plain is None else plain.sequences[number]
            tried = variant.everywhere or known is None or len(known) <= SHORT
            found.append(sequence(variant, framer, text) if tried else None)
        if plain is not None and trunk is plain.trunk and variant.distortion == NONE:
            both = zip(found, plain.sequences, strict=True)
            if all(a is None or (b is not None and np.array_equal(a, b)) for a, b in both):
                return
        self._runs.append(_Run(trunk, variant.distortion, found))
        self.causes.append(variant.cause)

    def raws(self, variant: int) -> list[Raw | None]:
        run = self._runs[variant]
        found = iter(run.trunk.run([s for s in run.sequences if s is not None], run.distortion))
        return [None if some is None else next(found) for some in run.sequences]

    def limits(self) -> Limits:
        if self._limits is None:
            self._limits = self._simulated()
        return self._limits

    def _simulated(self) -> Limits:
        """Errors of texts up to 1,024 tokens when everything is rounded, and some slack."""
        plain = self._runs[0]
        short = [some for some in plain.sequences if some is not None and len(some) <= TOKENS]
        right = plain.trunk.run(short)
        out: Limits = {kind: {} for kind in self.about.kinds}
        for precision in PRECISIONS:
            rounded = plain.trunk.run(short, Distortion(precision=precision))
            for kind in self.about.kinds:
                both = zip(
                    expected(rounded, kind, self.about),
                    expected(right, kind, self.about),
                    strict=True,
                )
                errors = [error(a, b) for a, b in both if a is not None and b is not None]
                out[kind][precision] = SLACK * max(errors, default=0.0)
        return out


def expected(raws: Sequence[Raw | None], kind: Kind, about: About) -> list[Answer | None]:
    """What M3 gives for these sequences; None where it is not known."""
    size = about.size(kind)
    right = readings(kind, np.array(about.weightless), size, size)[0]
    return [None if raw is None else right.read(raw, NOTHING) for raw in raws]


NOTHING: Answer = np.zeros(0, dtype=np.float32)  # is not looked at by M3's own readings


def read_reference(
    source: str | Path | None, revision: str | None = None, device: str = "cpu"
) -> Checkpoint:
    """A checkpoint as `Live` takes it; no source is the model that comes with Tercet.

    Raises InputError for a device that is not there, ModelError for what cannot be loaded.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as absent:
        first = str(absent).strip().split("\n", 1)[0]
        raise InputError(f"device {device!r} is not there: {first}") from absent
    where = BUNDLED if source is None else source
    return read_checkpoint(where, revision=revision, device=device)
