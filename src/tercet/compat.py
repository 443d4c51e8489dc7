"""FlagEmbedding's `BGEM3FlagModel` on Tercet's engine, for people who switch by changing an import.

    from tercet.compat import BGEM3FlagModel  # was: from FlagEmbedding import BGEM3FlagModel

Names, arguments, defaults and outputs are those of FlagEmbedding 1.4.2: 512 tokens, dense vectors
only, dictionaries keyed by id strings, float32 on CPU. What differs, on purpose: results do not
depend on what else is in a batch (there, padding can win MaxSim and so change `compute_score`);
texts that are cut are reported in the log; a head that the checkpoint lacks is an error instead of
random numbers; an option that would be ignored is refused; one device a process.

Knows nothing of indexes or collections.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from tercet.config import HEADS, Head, Role, check_count, strings
from tercet.config import Weights as HeadWeights
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder, RowCollector, encoding
from tercet.errors import InputError
from tercet.hybrid import rankers
from tercet.inference import TorchRuntime
from tercet.layout import published_sizes
from tercet.scores import maxsim_packed
from tercet.sparse import SparseRows
from tercet.tokenizer import TokenBatch, Tokenizer

Vectors = npt.NDArray[np.float32]
LexicalWeights = dict[str, np.float32]
Weights = Mapping[str, Any]  # id string to weight
Devices = str | int | torch.device | Sequence[str | int | torch.device]
# what FlagEmbedding's own callers pass on, and what it is here, whatever they say
EVER = {"convert_to_numpy": True, "show_progress_bar": False, "verbose": False}
PAIRS = 256  # whose token vectors `compute_score` holds at once


class BGEM3FlagModel:
    """FlagEmbedding's class of this name; `encoder` is the Tercet encoder that does the work.

    What integrations read of it is there too: target_devices, tokenizer, and the layers and sizes
    under model.
    """

    def __init__(
        self,
        model_name_or_path: str,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "{}{}",
        devices: Devices | None = None,
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
        device: Devices | None = None,
        **others: Any,
    ) -> None:
        """Loads a folder or a hub id; device is another name of devices.

        use_fp16 and use_bf16 choose the dtype on a GPU; on CPU it is float32, or bfloat16 where
        use_bf16 asks for it. No code of a checkpoint is ever run, whatever trust_remote_code says.
        Raises InputError for an option that Tercet cannot follow, ModelError for a checkpoint that
        cannot be loaded.
        """
        _check_others(others)
        if not normalize_embeddings:
            raise InputError("normalize_embeddings=False: Tercet's vectors are always normalised")
        if pooling_method != "cls":
            raise InputError(f"pooling_method={pooling_method!r}: an M3 model pools by 'cls'")
        if cache_dir is not None:
            raise InputError("cache_dir: set the environment variable HF_HUB_CACHE instead")
        if truncate_dim is not None:
            check_count("truncate_dim", truncate_dim)
        if None not in (device, devices) and _device(device) != _device(devices):
            raise InputError(f"device={device!r} and devices={devices!r} differ: give one of them")
        chosen = _device(devices if device is None else device)
        on_cpu = chosen == "cpu" or (chosen is None and not torch.cuda.is_available())
        dtype = "float16" if use_fp16 and not on_cpu else "float32"
        self.encoder = Encoder.load(
            model_name_or_path,
            backend="torch",
            device=chosen,
            dtype="bfloat16" if use_bf16 else dtype,
        )
        size = self.encoder.dims.get("multi")
        if colbert_dim > 0 and size not in (None, colbert_dim):
            raise InputError(f"colbert_dim={colbert_dim}, but this checkpoint's is {size}")
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

    @property
    def target_devices(self) -> list[str]:
        """The one device, by its name."""
        return [self.encoder.device]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.encoder.device)

    @property
    def tokenizer(self) -> "TokenizerView":
        """Ids of tokens; its length is the size of the vocabulary."""
        return TokenizerView(self.encoder.tokenizer)

    @property
    def model(self) -> SimpleNamespace:
        """FlagEmbedding's names of parts: model.config with its sizes, and the heads' layers."""
        runtime = self.encoder.runtime
        assert isinstance(runtime, TorchRuntime)
        own = runtime.model
        config = SimpleNamespace(**published_sizes(own.backbone.config))
        return SimpleNamespace(
            model=SimpleNamespace(config=config, device=own.device, dtype=own.dtype),
            colbert_linear=own.multi,
            sparse_linear=own.sparse,
            vocab_size=config.vocab_size,
            device=own.device,
            dtype=own.dtype,
        )

    def stop_self_pool(self) -> None:
        """Does nothing: there is no pool of processes to stop."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop_self_pool()

    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        *,
        instruction: str | None = None,
        instruction_format: str = "{}{}",
        **others: Any,
    ) -> dict[str, Any]:
        """Encodes B texts, or one: `dense_vecs` (B, D), `lexical_weights`, `colbert_vecs`.

        What was not asked for is None; for a string, each value is that of the one text. batch_size
        bounds memory: no more tokens at a time than so many texts of max_length have.
        """
        returns = (return_dense, return_sparse, return_colbert_vecs)
        told = (instruction, instruction_format)
        return self._encode(sentences, "passage", batch_size, max_length, returns, told, others)

    def encode_queries(
        self,
        queries: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """`encode` with the query's instruction and maximum length."""
        returns = (return_dense, return_sparse, return_colbert_vecs)
        told = (self.query_instruction_for_retrieval, self.query_instruction_format)
        return self._encode(queries, "query", batch_size, max_length, returns, told, others)

    def encode_corpus(
        self,
        corpus: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """`encode` with the passage's instruction and maximum length."""
        returns = (return_dense, return_sparse, return_colbert_vecs)
        told = (self.passage_instruction_for_retrieval, self.passage_instruction_format)
        return self._encode(corpus, "passage", batch_size, max_length, returns, told, others)

    def compute_score(
        self,
        sentence_pairs: Iterable[Iterable[str]] | Iterable[str],
        batch_size: int | None = None,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: Iterable[float] | None = None,
        **others: Any,
    ) -> dict[str, Any] | list[float]:
        """Scores of (query, passage) pairs by each representation, and their weighted means.

        Weights are of dense, sparse and colbert, 1 each by default. Returns lists of floats under
        colbert, sparse, dense, sparse+dense and colbert+sparse+dense; floats for one pair; an empty
        list for no pair. Instructions are not applied, as in FlagEmbedding.
        """
        _check_others(others)
        weights = HeadWeights(1.0, 1.0, 1.0).as_tuple()
        if weights_for_different_modes is not None:
            weights = HeadWeights.of(weights_for_different_modes).as_tuple()
        pairs, single = _pairs(sentence_pairs)
        if not pairs:
            return []
        scores = np.empty((3, len(pairs)))
        for start in range(0, len(pairs), PAIRS):
            block = pairs[start : start + PAIRS]
            first = self._tokens([pair[0] for pair in block], "query", max_query_length)
            second = self._tokens([pair[1] for pair in block], "passage", max_passage_length)
            (queries, _), (passages, _) = (self._run(side, batch_size) for side in (first, second))
            by, same = rankers(queries, passages), np.arange(len(block))
            scores[:, start : start + PAIRS] = [by[head].score(same, same) for head in HEADS]
        dense, sparse, colbert = scores
        both = weights[1] * sparse + weights[0] * dense
        every = weights[2] * colbert + both
        with np.errstate(invalid="ignore", divide="ignore"):  # weights of 0: nan, as there
            out = {
                "colbert": colbert,
                "sparse": sparse,
                "dense": dense,
                "sparse+dense": both / np.float64(weights[1] + weights[0]),
                "colbert+sparse+dense": every / np.float64(sum(weights)),
            }
        if single:
            return {name: float(values[0]) for name, values in out.items()}
        return {name: values.tolist() for name, values in out.items()}

    def convert_id_to_token(
        self, lexical_weights: Weights | Iterable[Weights]
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Weights by token instead of by id; one dictionary for one text."""
        rows = [lexical_weights] if isinstance(lexical_weights, Mapping) else list(lexical_weights)
        decode = self.encoder.tokenizer.backend.decode
        named = [
            {decode([int(id)], skip_special_tokens=False): weight for id, weight in row.items()}
            for row in rows
        ]
        return named[0] if len(named) == 1 else named

    def compute_lexical_matching_score(
        self,
        lexical_weights_1: Weights | Iterable[Weights],
        lexical_weights_2: Weights | Iterable[Weights],
    ) -> float | npt.NDArray[np.float64]:
        """Sum of the products of shared tokens' weights; of two lists, the (Q, P) matrix."""
        first, second = lexical_weights_1, lexical_weights_2
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            return _shared(first, second)
        if isinstance(first, Mapping) or isinstance(second, Mapping):
            raise InputError("give two dictionaries of weights, or two lists of them")
        passages = list(second)
        return np.array([[_shared(query, passage) for passage in passages] for query in first])

    def colbert_score(self, q_reps: Vectors, p_reps: Vectors) -> torch.Tensor:
        """MaxSim of one text's vectors (S, M) with another's (T, M), a tensor of no dimension."""
        return torch.tensor(maxsim_packed(q_reps, p_reps, np.array([0, len(p_reps)]))[0])

    def _encode(
        self,
        texts: str | Iterable[str],
        role: Role,
        batch_size: int | None,
        max_length: int | None,
        returns: tuple[bool | None, ...],
        told: tuple[str | None, str],  # an instruction, and its form
        others: Mapping[str, Any],
    ) -> dict[str, Any]:
        _check_others(others)
        own = (self.return_dense, self.return_sparse, self.return_colbert_vecs)
        heads = tuple(
            head
            for head, given, default in zip(HEADS, returns, own, strict=True)
            if (default if given is None else given)
        )
        if not heads:
            raise InputError("return_dense, return_sparse and return_colbert_vecs are all False")
        batch = list(strings([texts] if isinstance(texts, str) else texts))
        if told[0] is not None:
            form = told[1].replace("\\n", "\n")
            batch = [form.format(told[0], text) for text in batch]
        rows, ids = self._run(self._tokens(batch, role, max_length), batch_size, heads)
        out: dict[str, Any] = dict.fromkeys(("dense_vecs", "lexical_weights", "colbert_vecs"))
        if rows.dense is not None:
            out["dense_vecs"] = self._truncate(rows.dense)
        if rows.sparse is not None:
            out["lexical_weights"] = _lexical_weights(rows.sparse, ids)
        if rows.multi is not None:
            vectors = [np.asarray(rows.tokens(row), np.float32) for row in range(len(rows))]
            out["colbert_vecs"] = [self._truncate(text) for text in vectors]
        if isinstance(texts, str):
            return {name: None if value is None else value[0] for name, value in out.items()}
        return out

    def _tokens(self, texts: Sequence[str], role: Role, max_length: int | None) -> TokenBatch:
        own = self.query_max_length if role == "query" else self.passage_max_length
        length = own if max_length is None else max_length
        return self.encoder.tokenize(texts, max_length=length, role=role)

    @encoding()
    def _run(
        self, tokens: TokenBatch, batch_size: int | None, heads: tuple[Head, ...] = HEADS
    ) -> tuple[Embeddings, list[list[int]]]:
        """Embeddings, multi-vectors in float32, and each text's ids that weigh, in their order."""
        encoder = self.encoder
        size = check_count("batch_size", self.batch_size if batch_size is None else batch_size)
        runtime = encoder.runtime
        budget = min(runtime.budget, size * int(tokens.lengths.max(initial=1)))
        collector = RowCollector(encoder.dims, heads, len(tokens), half=False)
        weighing: list[list[int]] = [[]] * len(tokens)
        for batch in runtime.passes(tokens, heads, budget=budget, half=False):
            collector.add(batch)
            if batch.weights is not None:
                ids = np.where(batch.weights > 0, batch.tokens.ids, -1)
                for row, text in zip(
                    batch.rows, np.split(ids, batch.tokens.offsets[1:-1]), strict=True
                ):
                    weighing[row] = text[text >= 0].tolist()
        rows = collector.embeddings(tokens.lengths, tokens.truncated, encoder.fingerprint)
        return rows, weighing

    def _truncate(self, vectors: Vectors) -> Vectors:
        """The first truncate_dim numbers of each vector, normalised again."""
        if self.truncate_dim is None:
            return vectors
        cut = vectors[..., : self.truncate_dim]
        out: Vectors = cut / np.maximum(np.linalg.norm(cut, axis=-1, keepdims=True), 1e-12)
        return out


class TokenizerView:
    """What integrations use of the tokenizer that FlagEmbedding has, under the same names."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.backend, self.vocab_size = tokenizer.backend, tokenizer.vocabulary

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text; nothing is cut."""
        return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of some ids."""
        ids = [int(id) for id in ids]
        return str(self.backend.decode(ids, skip_special_tokens=skip_special_tokens))

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        """The token of each id."""
        return [self.backend.id_to_token(int(id)) for id in ids]


def _check_others(options: Mapping[str, Any]) -> None:
    """Raises InputError for an option that would be passed over."""
    for name, value in options.items():
        if name not in EVER or (name == "convert_to_numpy" and value is not True):
            raise InputError(
                f"{name}={value!r} cannot be followed: leave it out (arrays are NumPy's; other "
                "arguments are those of FlagEmbedding 1.4.2)"
            )


def _pairs(given: Any) -> tuple[list[list[str]], bool]:
    """Pairs of a query and a passage from any iterable of pairs, or of one; whether of one."""
    unfit = isinstance(given, str | bytes | Mapping | set | frozenset) or hasattr(given, "columns")
    unfit |= not isinstance(given, Iterable)
    items = [] if unfit else list(given)
    single = bool(items) and isinstance(items[0], str)
    rows = [items] if single else items
    pairs = [list(strings(row, f"pair {number}: text")) for number, row in enumerate(rows)]
    if unfit or any(len(pair) != 2 for pair in pairs):
        raise InputError("sentence_pairs are pairs of a query and a passage, in a list")
    return pairs, single


def _device(devices: Devices | None) -> str | None:
    """The one device asked for; None leaves the choice to the encoder."""
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        if len(devices) != 1:
            raise InputError(
                f"devices={devices}: Tercet uses one device a process; name one, and start a"
                " process for each"
            )
        devices = devices[0]
    if devices is None:
        return None
    return f"cuda:{devices}" if isinstance(devices, int) else str(devices)


def _lexical_weights(sparse: SparseRows, ids: Sequence[Sequence[int]]) -> list[LexicalWeights]:
    """The weight of each text's ids, keyed by id string in their order; 0 for others."""
    out: list[LexicalWeights] = []
    for own, start, end in zip(ids, sparse.indptr[:-1], sparse.indptr[1:], strict=True):
        weights = dict(zip(sparse.indices[start:end].tolist(), sparse.data[start:end], strict=True))
        named: LexicalWeights = defaultdict(np.float32)  # 0 for others, as FlagEmbedding has it
        named.update((str(token), weights[token]) for token in own)
        out.append(named)
    return out


def _shared(query: Weights, passage: Weights) -> float:
    return sum(
        float(weight) * float(passage[key]) for key, weight in query.items() if key in passage
    )
