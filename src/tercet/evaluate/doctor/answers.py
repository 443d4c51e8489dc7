"""Values in the JSON of embedding servers to vectors, weights and vectors of tokens.

Knows nothing of requests, checkpoints or verdicts.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

from tercet.evaluate.doctor.readings import Answer, Sparse
from tercet.evaluate.doctor.sequences import Floats

_ID, _WEIGHT = ("index", "token_id", "id"), ("value", "weight")


def read_value(value: Any) -> Answer:
    """A flat list or base64: dense (D,); pairs or a map of ids: sparse; a list of lists: (T, D).

    Pairs are {"index", "value"} as in TEI or {"token_id", "weight"} as in vLLM; a map is
    {"id": weight} as in SGLang, or {"indices", "values"}. null and what is no finite number become
    NaN. Raises ValueError for anything else.
    """
    if isinstance(value, str):
        return _base64(value)
    if value is None:
        return np.zeros(0, dtype=np.float32)
    if isinstance(value, dict):
        return _mapped(value)
    if not isinstance(value, list):
        raise ValueError(f"it is {_shown(value)}")
    if value and all(isinstance(part, dict) for part in value):
        return _pairs(value)
    if value and all(isinstance(part, list) for part in value):
        if len({len(part) for part in value}) > 1:
            raise ValueError("its vectors are of different sizes")
        return np.stack([_vector(part) for part in value])
    return _vector(value)


def read_sparse(value: Any) -> Sparse:
    """The same, an empty list being a text without weights."""
    found = Sparse.of([], []) if value in ([], {}, None) else read_value(value)
    if not isinstance(found, Sparse):
        raise ValueError(f"it is no list of token ids and weights but {_shown(value)}")
    return found


def token_weights(value: Any, ids: Sequence[int]) -> Sparse:
    """Weights of the tokens of a text, in order, as vLLM's token_classify gives them.

    They are those of the ids, with or without the first and the last one; the largest of an id
    stays. Raises ValueError where there are more weights than ids.
    """
    weights = _vector(
        [part[0] if isinstance(part, list) and part else part for part in value or []]
    )
    if len(weights) > len(ids):
        raise ValueError(f"it has {len(weights)} weights for a text of {len(ids)} tokens")
    first = 0 if len(weights) == len(ids) else 1
    merged: dict[int, float] = {}
    for token, weight in zip(ids[first : first + len(weights)], weights.tolist(), strict=True):
        merged[int(token)] = max(weight, merged.get(int(token), -np.inf))
    return Sparse.of(list(merged), list(merged.values()))


def _base64(text: str) -> Floats:
    """Numbers of 4 bytes, little-endian, as OpenAI sends them."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"it is {_shown(text)}, which is no base64") from error
    if len(raw) % 4:
        raise ValueError(f"it is base64 of {len(raw)} bytes, which are no float32 numbers")
    return np.frombuffer(raw, dtype="<f4").astype(np.float32)


def _vector(value: list[Any]) -> Floats:
    if set(map(type, value)) <= {int, float}:
        return np.array(value, dtype=np.float32)
    out = np.empty(len(value), dtype=np.float32)
    for number, part in enumerate(value):
        if isinstance(part, bool) or not (part is None or isinstance(part, int | float)):
            raise ValueError(f"it holds {_shown(part)} where a number should be")
        out[number] = np.nan if part is None else part
    return out


def _mapped(value: dict[str, Any]) -> Sparse:
    if value.keys() >= {"indices", "values"}:
        ids, weights = value["indices"], value["values"]
        if not isinstance(ids, list) or not isinstance(weights, list) or len(ids) != len(weights):
            raise ValueError("its indices and values do not fit together")
    else:
        ids, weights = list(value), list(value.values())
    return _sparse(ids, weights)


def _pairs(value: list[dict[str, Any]]) -> Sparse:
    key, weight = (next((n for n in some if n in value[0]), "") for some in (_ID, _WEIGHT))
    if not all(key in pair and weight in pair for pair in value):
        raise ValueError(f"it holds {_shown(value[0])}, which is no token id with its weight")
    return _sparse([pair[key] for pair in value], [pair[weight] for pair in value])


def _sparse(ids: list[Any], weights: list[Any]) -> Sparse:
    try:
        numbers = [int(i) for i in ids]
    except (TypeError, ValueError) as error:
        raise ValueError(f"its keys are no token ids: {_shown(ids[0])}") from error
    return Sparse.of(numbers, _vector(weights).tolist())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
