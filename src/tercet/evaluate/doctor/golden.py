"""Golden vectors in a folder: JSON and .npy, good for comparing without the checkpoint.

Knows nothing of endpoints or verdicts.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tercet.errors import InputError, StoreError
from tercet.evaluate.doctor.readings import KINDS, Cause
from tercet.evaluate.doctor.reference import About, Limits, Reference
from tercet.evaluate.doctor.sequences import Raw
from tercet.io import atomic_folder

FORMAT, FACTS = 1, "golden.json"


def save(reference: Reference, folder: Path) -> None:
    """Stores what a reference gives in all variants; the folder appears whole or not at all.

    Vectors of tokens are stored for texts as they should be alone. Raises InputError where the
    folder exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already: remove it or choose another folder")
    numbers: dict[int, int] = {}  # of a Raw by its identity: equal sequences are one object
    raws: list[Raw] = []
    told: list[dict[str, Any]] = []
    for variant, cause in enumerate(reference.causes):
        rows: list[int | None] = []
        for raw in reference.raws(variant):
            if raw is not None and id(raw) not in numbers:
                numbers[id(raw)] = len(raws)
                raws.append(raw)
            rows.append(None if raw is None else numbers[id(raw)])
        told.append({"cause": None if cause is None else asdict(cause), "rows": rows})
    plain = sorted({row for row in told[0]["rows"] if row is not None})
    tokens_of = [row for row in plain if raws[row].states is not None]
    facts = {
        "format": FORMAT,
        "about": asdict(reference.about),
        "limits": reference.limits(),
        "texts": reference.texts,
        "tokens_of": tokens_of,
        "variants": told,
    }
    lengths = [len(raw.ids) for raw in raws]
    some = [raws[row] for row in tokens_of]
    arrays: dict[str, Any] = {
        "ids": np.concatenate([raw.ids for raw in raws]),
        "offsets": np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        "pools": np.stack([raw.pools for raw in raws]),
        "logits": [raw.logits for raw in raws],
        "states": [raw.states for raw in some],
        "multi": [raw.multi for raw in some],
    }
    with atomic_folder(folder) as scratch:
        for name, array in arrays.items():
            if isinstance(array, list):
                if any(part is None for part in array):
                    continue  # the model has no such head
                array = np.concatenate(array)
            with open(scratch / f"{name}.npy", "wb") as file:
                np.save(file, array, allow_pickle=False)
        text = json.dumps(facts, ensure_ascii=False, indent=1, allow_nan=False)
        (scratch / FACTS).write_text(text + "\n", encoding="utf-8")


class Golden:
    """Golden vectors of a folder, as a `Reference`."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError where there is no such folder, StoreError where it is not whole."""
        if not (folder / FACTS).is_file():
            raise InputError(f"{folder} holds no golden vectors: make them with --make")
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise StoreError(f"{folder}: format {facts['format']}, this Tercet reads {FORMAT}")
            about = facts["about"]
            about["pieces"] = {int(i): piece for i, piece in about["pieces"].items()}
            about["weightless"] = tuple(about["weightless"])
            about["kinds"] = tuple(kind for kind in KINDS if kind in about["kinds"])
            self.about = About(**about)
            self.texts: dict[str, str] = facts["texts"]
            self._limits: Limits = facts["limits"]
            self.causes: list[Cause | None] = [
                None if told["cause"] is None else Cause(**told["cause"])
                for told in facts["variants"]
            ]
            self._rows: list[list[int | None]] = [told["rows"] for told in facts["variants"]]
            self._raws = _raws(folder, facts["tokens_of"])
            used = {row for rows in self._rows for row in rows if row is not None}
            whole = all(len(rows) == len(self.texts) for rows in self._rows)
            if not whole or used != set(range(len(self._raws))):
                raise ValueError("the variants do not fit the texts and vectors")
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise StoreError(
                f"{folder} is no whole folder of golden vectors: make it anew ({error})"
            ) from error

    def raws(self, variant: int) -> list[Raw | None]:
        return [None if row is None else self._raws[row] for row in self._rows[variant]]

    def limits(self) -> Limits:
        return self._limits


def _raws(folder: Path, tokens_of: list[int]) -> list[Raw]:
    """The sequences of a folder; raises ValueError where arrays do not fit together."""
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in folder.glob("*.npy")}
    offsets = arrays["offsets"]
    starts = dict(zip(tokens_of, np.cumsum([0, *np.diff(offsets)[tokens_of]]), strict=False))
    ends = {"ids": offsets[-1], "pools": len(offsets) - 1, "logits": offsets[-1]}
    ends |= dict.fromkeys(("states", "multi"), np.diff(offsets)[tokens_of].sum())
    for name, array in arrays.items():
        if name != "offsets" and len(array) != ends[name]:
            raise ValueError(f"{name}.npy has {len(array)} rows instead of {ends[name]}")
    out = []
    for number in range(len(offsets) - 1):
        mine = slice(int(offsets[number]), int(offsets[number + 1]))
        kept = slice(0, 0)
        if number in starts:
            kept = slice(int(starts[number]), int(starts[number]) + mine.stop - mine.start)
        out.append(
            Raw(
                ids=arrays["ids"][mine],
                pools=arrays["pools"][number],
                logits=arrays["logits"][mine] if "logits" in arrays else None,
                multi=arrays["multi"][kept] if "multi" in arrays and number in starts else None,
                states=arrays["states"][kept] if number in starts else None,
            )
        )
    return out
