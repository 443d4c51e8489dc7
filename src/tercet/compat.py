"""FlagEmbedding's `BGEM3FlagModel` on Tercet's engine, for people who switch by changing an import.

    from tercet.compat import BGEM3FlagModel  # was: from FlagEmbedding import BGEM3FlagModel

Names, arguments, defaults and outputs are those of FlagEmbedding 1.4.2: 512 tokens, dense vectors
only, dictionaries keyed by id strings, float32 on CPU. What differs, on purpose: results do not
depend on what else is in a batch (there, padding can win MaxSim and so change `compute_score`);
texts that are cut are reported in the log; a head that the checkpoint lacks is an error instead of
random numbers; an option that would be ignored is refused; one device a process.

A door: knows nothing of indexes or collections.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tercet.config import Head, Role
from tercet.encoder import Encoder, default_budget, run_batches
from tercet.errors import InputError
from tercet.scores import maxsim_packed

log = logging.getLogger("tercet")

Vectors = npt.NDArray[np.float32]
LexicalWeights = dict[str, np.float32]
Weights = Mapping[str, Any]  # id string to weight
Pair = tuple[str, str] | list[str]
PAIRS = 256  # whose token vectors `compute_score` holds at once


@dataclass
class _Found:
    """Representations of B texts, by row: dense (D,), weights by id string, multi (T - 1, M)."""

    dense: dict[int, Vectors] = field(default_factory=dict)
    weights: dict[int, LexicalWeights] = field(default_factory=dict)
    multi: dict[int, Vectors] = field(default_factory=dict)


class BGEM3FlagModel:
    """FlagEmbedding's class of this name; `encoder` is the Tercet encoder that does the work."""

    def __init__(
        self,
        model_name_or_path: str,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "{}{}",
        devices: str | int | list[str] | list[int] | None = None,
        pooling_method: str = "cls",
        trust_remote_code: bool = False,
        cache_dir: str | None = None,
        colbert_dim: int = -1,
        batch_size: int = 256,
        query_max_length: int = 512,
        passage_max_length: int = 512,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        truncate_dim: int | None = None,
        *,
        passage_instruction_for_retrieval: str | None = None,
        passage_instruction_format: str = "{}{}",
    ) -> None:
        """Loads a folder or a hub id.

        use_fp16 and use_bf16 choose the dtype on a GPU; on CPU it is float32, or bfloat16 where
        use_bf16 asks for it. No code of a checkpoint is ever run, whatever trust_remote_code says.
        Raises InputError for an option that Tercet cannot follow, ModelError for a checkpoint that
        cannot be loaded.
        """
        if not normalize_embeddings:
            raise InputError("normalize_embeddings=False: Tercet's vectors are always normalised")
        if pooling_method != "cls":
            raise InputError(f"pooling_method={pooling_method!r}: an M3 model pools by 'cls'")
        if cache_dir is not None:
            raise InputError("cache_dir: set the environment variable HF_HUB_CACHE instead")
        if truncate_dim is not None and truncate_dim < 1:
            raise InputError(f"truncate_dim must be at least 1, got {truncate_dim}")
        device = _device(devices)
        self.encoder = Encoder.load(
            model_name_or_path,
            device=device,
            dtype=_dtype(device, use_fp16=use_fp16, use_bf16=use_bf16),
        )
        found = self.encoder.dims.get("multi")
        if colbert_dim > 0 and found not in (None, colbert_dim):
            raise InputError(f"colbert_dim={colbert_dim}, but this checkpoint's is {found}")
        self.query_instruction_for_retrieval = query_instruction_for_retrieval
        self.query_instruction_format = query_instruction_format
        self.passage_instruction_for_retrieval = passage_instruction_for_retrieval
        self.passage_instruction_format = passage_instruction_format
        self.batch_size = batch_size
        self.query_max_length = query_max_length
        self.passage_max_length = passage_max_length
        self.return_dense = return_dense
        self.return_sparse = return_sparse
        self.return_colbert_vecs = return_colbert_vecs
        self.truncate_dim = truncate_dim

    def encode(
        self,
        sentences: str | Sequence[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        *,
        instruction: str | None = None,
        instruction_format: str = "{}{}",
    ) -> dict[str, Any]:
        """Encodes B texts, or one: `dense_vecs` (B, D), `lexical_weights`, `colbert_vecs`.

        What was not asked for is None; for a string, each value is that of the one text. batch_size
        bounds memory: no more tokens at a time than so many texts of max_length have.
        """
        return self._encode(
            sentences,
            "passage",
            batch_size,
            self.passage_max_length if max_length is None else max_length,
            self.return_dense if return_dense is None else return_dense,
            self.return_sparse if return_sparse is None else return_sparse,
            self.return_colbert_vecs if return_colbert_vecs is None else return_colbert_vecs,
            instruction,
            instruction_format,
        )

    def encode_queries(
        self,
        queries: str | Sequence[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> dict[str, Any]:
        """`encode` with the query's instruction and maximum length."""
        return self._encode(
            queries,
            "query",
            batch_size,
            self.query_max_length if max_length is None else max_length,
            self.return_dense if return_dense is None else return_dense,
            self.return_sparse if return_sparse is None else return_sparse,
            self.return_colbert_vecs if return_colbert_vecs is None else return_colbert_vecs,
            self.query_instruction_for_retrieval,
            self.query_instruction_format,
        )

    def encode_corpus(
        self,
        corpus: str | Sequence[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> dict[str, Any]:
        """`encode` with the passage's instruction and maximum length."""
        return self.encode(
            corpus,
            batch_size,
            max_length,
            return_dense,
            return_sparse,
            return_colbert_vecs,
            instruction=self.passage_instruction_for_retrieval,
            instruction_format=self.passage_instruction_format,
        )

    def compute_score(
        self,
        sentence_pairs: Sequence[Pair] | Pair,
        batch_size: int | None = None,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: Sequence[float] | None = None,
    ) -> dict[str, Any] | list[float]:
        """Scores of (query, passage) pairs by each representation, and their weighted means.

        Weights are of dense, sparse and colbert, 1 each by default. Returns lists of floats under
        colbert, sparse, dense, sparse+dense and colbert+sparse+dense; floats for one pair; an empty
        list for no pair. Instructions are not applied, as in FlagEmbedding.
        """
        if not sentence_pairs:
            return []
        single = isinstance(sentence_pairs[0], str)
        pairs = [sentence_pairs] if single else sentence_pairs
        if any(len(pair) != 2 for pair in pairs):
            raise InputError("sentence_pairs are pairs of a query and a passage")
        weights = [1.0, 1.0, 1.0]
        if weights_for_different_modes is not None:
            weights = [float(weight) for weight in weights_for_different_modes]
        if len(weights) != 3:
            raise InputError(f"three weights are needed (dense, sparse, colbert), got {weights}")
        heads: tuple[Head, ...] = ("dense", "sparse", "multi")
        first, second = ([str(pair[side]) for pair in pairs] for side in (0, 1))
        longest = self.query_max_length if max_query_length is None else max_query_length
        other = self.passage_max_length if max_passage_length is None else max_passage_length
        found: list[tuple[float, float, float]] = []
        for start in range(0, len(pairs), PAIRS):
            block = slice(start, start + PAIRS)
            queries = self._run(first[block], heads, "query", batch_size, longest)
            passages = self._run(second[block], heads, "passage", batch_size, other)
            found += [
                (
                    float(queries.dense[row] @ passages.dense[row]),
                    _shared(queries.weights[row], passages.weights[row]),
                    _maxsim(queries.multi[row], passages.multi[row]),
                )
                for row in range(len(first[block]))
            ]
        dense, sparse, colbert = np.array(found).T
        both = weights[1] * sparse + weights[0] * dense
        every = weights[2] * colbert + both
        with np.errstate(invalid="ignore", divide="ignore"):  # weights of 0: nan, as there
            scores = {
                "colbert": colbert,
                "sparse": sparse,
                "dense": dense,
                "sparse+dense": both / np.float64(weights[1] + weights[0]),
                "colbert+sparse+dense": every / np.float64(sum(weights)),
            }
        if single:
            return {name: float(values[0]) for name, values in scores.items()}
        return {name: [float(value) for value in values] for name, values in scores.items()}

    def convert_id_to_token(
        self, lexical_weights: Weights | Sequence[Weights]
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Weights by token instead of by id; one dictionary for one text."""
        several = [lexical_weights] if isinstance(lexical_weights, Mapping) else lexical_weights
        decode = self.encoder.tokenizer.backend.decode
        named = [
            {decode([int(id)], skip_special_tokens=False): weight for id, weight in row.items()}
            for row in several
        ]
        return named[0] if len(named) == 1 else named

    def compute_lexical_matching_score(
        self,
        lexical_weights_1: Weights | Sequence[Weights],
        lexical_weights_2: Weights | Sequence[Weights],
    ) -> float | npt.NDArray[np.float64]:
        """Sum of the products of shared tokens' weights; of two lists, the (Q, P) matrix."""
        one, other = lexical_weights_1, lexical_weights_2
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            return _shared(one, other)
        if isinstance(one, Mapping) or isinstance(other, Mapping):
            raise InputError("give two dictionaries of weights, or two lists of them")
        return np.array([[_shared(query, passage) for passage in other] for query in one])

    def colbert_score(self, q_reps: Vectors, p_reps: Vectors) -> torch.Tensor:
        """MaxSim of one text's vectors (S, M) with another's (T, M), a tensor of no dimension."""
        return torch.tensor(_maxsim(q_reps, p_reps))

    def _encode(
        self,
        texts: str | Sequence[str],
        role: Role,
        batch_size: int | None,
        max_length: int,
        dense: bool,
        sparse: bool,
        multi: bool,
        instruction: str | None,
        instruction_format: str,
    ) -> dict[str, Any]:
        asked: list[tuple[Head, bool]] = [("dense", dense), ("sparse", sparse), ("multi", multi)]
        heads = tuple(head for head, wanted in asked if wanted)
        if not heads:
            raise InputError("return_dense, return_sparse and return_colbert_vecs are all False")
        single = isinstance(texts, str)
        several = [texts] if isinstance(texts, str) else list(texts)
        if instruction is not None:
            form = instruction_format.replace("\\n", "\n")
            several = [form.format(instruction, text) for text in several]
        found = self._run(several, heads, role, batch_size, max_length)
        rows = range(len(several))
        dense_vecs, colbert_vecs = None, None
        if dense:
            stacked = np.empty((len(rows), self.encoder.dims["dense"]), dtype=np.float32)
            for row in rows:
                stacked[row] = found.dense[row]
            dense_vecs = self._truncate(stacked)
        if multi:
            colbert_vecs = [self._truncate(found.multi[row]) for row in rows]
        out = {
            "dense_vecs": dense_vecs,
            "lexical_weights": [found.weights[row] for row in rows] if sparse else None,
            "colbert_vecs": colbert_vecs,
        }
        if single:
            return {name: None if value is None else value[0] for name, value in out.items()}
        return out

    def _run(
        self,
        texts: list[str],
        heads: tuple[Head, ...],
        role: Role,
        batch_size: int | None,
        max_length: int,
    ) -> _Found:
        """One pass over the texts, token by token: multi-vectors keep their float32."""
        encoder = self.encoder
        limit = min(max_length, encoder.max_length)
        texts_at_once = self.batch_size if batch_size is None else batch_size
        budget = min(default_budget(encoder.device), texts_at_once * limit)
        tokens = encoder.tokenize(texts, max_length=limit, role=role)
        found = _Found()
        for batch in run_batches(encoder.model, tokens, heads, budget=budget):
            out, offsets = batch.outputs, batch.tokens.offsets.tolist()
            multi_mask = out.multi_mask.cpu().numpy()
            if out.dense is not None:
                found.dense.update(zip(batch.rows.tolist(), out.dense.cpu().numpy(), strict=True))
            for place, row in enumerate(batch.rows.tolist()):
                own = slice(offsets[place], offsets[place + 1])
                if out.weights is not None:
                    weights = out.weights[own].cpu().numpy()
                    found.weights[row] = _by_id(batch.tokens.ids[own], weights)
                if out.multi is not None:
                    found.multi[row] = out.multi[own].cpu().numpy()[multi_mask[own]]
        return found

    def _truncate(self, vectors: Vectors) -> Vectors:
        """The first truncate_dim numbers of each vector, normalised again."""
        if self.truncate_dim is None:
            return vectors
        cut = vectors[..., : self.truncate_dim]
        out: Vectors = cut / np.maximum(np.linalg.norm(cut, axis=-1, keepdims=True), 1e-12)
        return out


def _device(devices: str | int | list[str] | list[int] | None) -> str | None:
    """The one device asked for; None leaves the choice to the encoder."""
    if isinstance(devices, list):
        if len(devices) != 1:
            raise InputError(
                f"devices={devices}: Tercet uses one device a process; name one, and start a"
                " process for each"
            )
        devices = devices[0]
    return f"cuda:{devices}" if isinstance(devices, int) else devices


def _dtype(device: str | None, *, use_fp16: bool, use_bf16: bool) -> torch.dtype:
    on_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    if use_bf16:
        return torch.bfloat16
    return torch.float16 if use_fp16 and not on_cpu else torch.float32


def _by_id(ids: npt.NDArray[np.int32], weights: Vectors) -> LexicalWeights:
    """The largest weight of each id, keyed by id string in the order of the text; 0 elsewhere."""
    found: LexicalWeights = defaultdict(int)  # type: ignore[arg-type]  # as FlagEmbedding has it
    for place in np.flatnonzero(weights > 0):
        key, weight = str(ids[place]), weights[place]
        if key not in found or weight > found[key]:
            found[key] = weight
    return found


def _shared(one: Weights, other: Weights) -> float:
    return sum(float(weight) * float(other[key]) for key, weight in one.items() if key in other)


def _maxsim(query: Vectors, passage: Vectors) -> float:
    offsets = np.array([0, len(passage)])
    return float(maxsim_packed(query, passage, offsets)[0])
