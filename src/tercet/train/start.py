"""Any XLM-RoBERTa-like encoder as the start of an M3 model: three heads from what it knows already.

1. Read it: a checkpoint folder or hub id in XLM-RoBERTa's or BERT's layout, or a packed file.
2. Prune the vocabulary to balanced text, 3. extend the positions, 4. fit the heads that it lacks to
a sample of text: multi-vectors are principal components of token states less what tells languages
apart, sparse weights a least-squares fit to idf, the dense vector is [CLS], which one more layer
makes the mean of the text where that is the source's vector. Nothing is trained.
Shapes: N tokens, B texts, H hidden, M multi-vector size, V vocabulary.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from tercet.checkpoint import (
    Settings,
    TensorFiles,
    fetch,
    read_checkpoint,
    read_config,
    read_tokenizer,
    weight_files,
    write_checkpoint,
)
from tercet.encoder import batches, multiplies_bfloat16
from tercet.errors import InputError, ModelError
from tercet.model import (
    BackboneConfig,
    Inputs,
    Layer,
    M3Model,
    MultiHead,
    SparseHead,
    dense_vectors,
    from_published,
    mean_vectors,
)
from tercet.rows import tagged_texts, text_files
from tercet.tokenizer import TokenBatch, Tokenizer
from tercet.train.packed import is_packed, read_packed
from tercet.train.positions import extend_positions
from tercet.train.trim import with_rows
from tercet.train.vocabulary import (
    ALPHA,
    PRIOR,
    LanguageCounts,
    balanced_scores,
    count_languages,
    prune_tokenizer,
)

Pooling = Literal["mean", "cls"]
Watch = Callable[[str, int], None]  # what is being done, so much of it
FIT_TEXTS, FIT_TOKENS = 3000, 128  # texts of the sample, tokens of each: a minute on two cores
BATCH = 8192  # tokens
LEAST = 8  # texts of a language in the sample whose mean counts as the language's
# Directions that tell languages apart and are left out, and the share of the mean that is. Chosen
# on held-out rows: recipes/tercet-small/LOG.md. After Yang et al. 2021, arXiv 2109.04727 (LIR).
DIRECTIONS, CENTRING = 16, 0.5
COMMON = 0.05  # share of a language's tokens from which on a piece weighs nothing in the fit
RIDGE = 1e-2  # of the least squares, relative to the states' mean variance
MEAN = 3.0  # times the mean of a text's states is added to each of them by `append_mean_layer`


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


@dataclass(frozen=True)
class StartReport:
    """What each step did; fields of steps that were not asked for are None.

    tokens_per_text: of the sample, with the source's tokenizer and with the start's. cls_to_pooled:
    mean cosine of [CLS] to the source's pooled vector, less what two different texts have in
    common (0: unrelated, 1: the same). mean_to_pooled: correlation of the cosines of pairs of texts
    by the dense vector that the appended layer makes, and by the source's pooled vector less the
    directions of languages. multi_variance: share of the token states' variance in the
    multi-vectors. idf_correlation: of the sparse weights with the idf of their pieces.
    """

    source: str
    layers: int
    hidden: int
    vocabulary: tuple[int, int]
    positions: tuple[int, int]
    heads: tuple[str, ...]
    fit_texts: int
    fit_languages: int
    tokens_per_text: tuple[float, float] | None
    cls_to_pooled: float | None
    mean_to_pooled: float | None
    multi_variance: float | None
    idf_correlation: float | None
    parameters: int


def make_start(
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
) -> StartReport:
    """Writes a model with three heads to the folder target.

    vocabulary bounds the ids; the pieces are those that balanced text of all languages in rows
    needs, see `balanced_scores` for alpha, prior and even. fit names text for the heads; without it
    the rows serve. directions is the number that are left out of multi-vectors because they tell
    languages apart. Heads that the source has stay as they are. Raises InputError where target
    exists or text is lacking, ModelError for a source that cannot be read.
    """
    if target.exists():
        raise InputError(f"{target} exists already: remove it or choose another folder")
    if vocabulary is not None and not rows:
        raise InputError("a smaller vocabulary is chosen by text: give rows (--rows FILES)")
    if even and vocabulary is None:
        raise InputError("an even choice of pieces needs their number (--vocabulary N)")
    found = read_source(source, revision=revision)
    model, tokenizer = found.model, found.tokenizer
    pooled = pooling or ("cls" if model.multi is not None else found.pooling)
    before = (model.backbone.config.vocabulary, model.backbone.config.positions)
    lacks = [head for head in ("sparse", "multi") if head not in model.heads]
    if lacks and not (fit or rows):
        raise InputError(f"the {lacks[0]} head is fitted to text: give some (--fit FILES)")
    if "multi" in lacks and multi > model.backbone.config.hidden:
        raise InputError(
            f"multi-vectors of {multi} values from states of {model.backbone.config.hidden}:"
            " ask for fewer (--multi)"
        )
    old = tokenizer
    if vocabulary is not None:
        watch("choosing pieces", 0)
        files, size = text_files(list(rows)), vocabulary if even else None
        scores = balanced_scores(tokenizer, files, alpha=alpha, prior=prior, even=size)
        tokenizer, kept = prune_tokenizer(tokenizer, scores, vocabulary, name=str(source))
        model = with_rows(model, kept, tokenizer)
    extend_positions(model.backbone, positions)
    facts: dict[str, Any] = {}
    sample = FitSample()
    if fit or rows:
        watch("counting", 0)
        tagged = tagged_texts(text_files(list(fit or rows)))
        counts = count_languages(tokenizer, sample.passing(tagged))
        texts, languages = sample.drawn()
        if not texts:
            raise InputError("the files to fit the heads to hold no text")
        tokens = tokenizer.encode(texts, max_length=FIT_TOKENS)
        was = old.encode(texts, max_length=FIT_TOKENS) if old is not tokenizer else tokens
        facts["fit_texts"], facts["fit_languages"] = len(texts), len(set(languages))
        facts["tokens_per_text"] = tuple(round(len(t.ids) / len(t), 2) for t in (was, tokens))
        states = sample_states(model, tokens, watch)
        facts["cls_to_pooled"] = cls_to_pooled(states, tokens, pooled)
        goals = token_idf(counts, tokens, languages)
        if "sparse" in lacks:
            model.sparse, facts["idf_correlation"] = fit_sparse(states, tokens, goals)
        if "multi" in lacks:
            apart = language_directions(states, tokens, languages, directions)
            model.multi, facts["multi_variance"] = fit_multi(states, tokens, multi, apart)
        if len(lacks) == 2 and pooled == "mean":
            append_mean_layer(model, pooled_vectors(states, tokens), apart)
            later = sample_states(model, tokens, watch)
            facts["mean_to_pooled"] = _same_cosines(states, later, tokens, apart)
            model.sparse, facts["idf_correlation"] = fit_sparse(later, tokens, goals)
            centre(model.multi, content_states(later, tokens))
    told = {"recipe": "tercet init", "from": Path(source).name, **facts}
    if found.settings.training:
        told["before"] = dict(found.settings.training)
    settings = replace(found.settings, training=told)
    write_checkpoint(
        target, model, tokenizer, settings=settings, dtype=dtype, embeddings=embeddings
    )
    config = model.backbone.config
    return StartReport(
        source=str(source),
        layers=config.layers,
        hidden=config.hidden,
        vocabulary=(before[0], config.vocabulary),
        positions=(before[1], config.positions),
        heads=model.heads,
        fit_texts=facts.get("fit_texts", 0),
        fit_languages=facts.get("fit_languages", 0),
        tokens_per_text=facts.get("tokens_per_text"),
        cls_to_pooled=facts.get("cls_to_pooled"),
        mean_to_pooled=facts.get("mean_to_pooled"),
        multi_variance=facts.get("multi_variance"),
        idf_correlation=facts.get("idf_correlation"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def read_source(source: str | Path, *, revision: str | None = None) -> Source:
    """Reads an encoder of the XLM-RoBERTa family; raises ModelError in words where it is none.

    BERT's layout (multilingual-e5-small, paraphrase-multilingual-MiniLM-L12-v2) differs in where
    positions begin: its row 0 is our row pad_id + 1.
    """
    path = Path(source)
    if path.is_file():
        if not is_packed(path):
            raise ModelError(f"{path}: no packed encoder: give the folder of a checkpoint")
        packed = read_packed(path)
        sizes = packed.sizes
        config = BackboneConfig(
            vocabulary=sizes["rows"],
            hidden=sizes["hidden"],
            layers=sizes["layers"],
            heads=sizes["heads"],
            feed_forward=sizes["feed_forward"],
            positions=sizes["positions"],
            norm_eps=packed.norm_eps,
        )
        model = _from_bert(config, packed.tensors, packed.tokenizer)
        return Source(model, packed.tokenizer, Settings(), "mean")
    folder = fetch(source, revision)
    pooling = _pooling(folder)
    if _kind(folder) == "bert":
        config = read_config(folder / "config.json", model_type="bert")
        tokenizer, _ = read_tokenizer(folder)
        reader = TensorFiles(weight_files(folder)).reader(torch.float32)
        return Source(_from_bert(config, reader, tokenizer), tokenizer, Settings(), pooling)
    checkpoint = read_checkpoint(folder)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    if model.backbone.config.vocabulary > tokenizer.vocabulary:
        model = with_rows(model, np.arange(tokenizer.vocabulary), tokenizer)
    return Source(model, tokenizer, checkpoint.settings, pooling)


def _kind(folder: Path) -> Any:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None  # read_checkpoint says what is wrong


def _pooling(folder: Path) -> Pooling:
    """As 1_Pooling/config.json of sentence-transformers says; mean where there is none."""
    try:
        facts = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        return "cls" if facts.get("pooling_mode_cls_token") else "mean"
    except (OSError, ValueError, AttributeError):
        return "mean"


def _from_bert(config: BackboneConfig, tensors: Any, tokenizer: Tokenizer) -> M3Model:
    """A trunk without heads from tensors by published names, in BERT's order of positions."""
    state = from_published(tensors, config.layers)
    first = tokenizer.pad_id + 1
    places = state["position_embeddings.weight"]
    state["position_embeddings.weight"] = torch.cat(
        (places.new_zeros(first, places.shape[1]), places)
    )
    state["word_embeddings.weight"] = state["word_embeddings.weight"][: tokenizer.vocabulary]
    config = replace(
        config,
        vocabulary=tokenizer.vocabulary,
        positions=config.positions + first,
        pad_id=tokenizer.pad_id,
    )
    with torch.device("meta"):
        model = M3Model(config, tokenizer.weightless_ids.tolist(), sparse=False)
    expected = {name: tuple(t.shape) for name, t in model.backbone.state_dict().items()}
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise ModelError(f"{name} is {tuple(state[name].shape)}, config.json says {shape}")
    model.backbone.load_state_dict(state, assign=True)
    return model.eval()


@torch.no_grad()
def sample_states(model: M3Model, tokens: TokenBatch, watch: Watch = lambda w, n: None) -> Tensor:
    """Last states of every token of a batch, (N, H) float32, in the batch's order."""
    out = torch.empty(len(tokens.ids), model.backbone.config.hidden)
    done = 0
    for some in batches(tokens.lengths, BATCH):
        batch = tokens.take(some)
        inputs = Inputs.of(batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
            found = model.backbone(inputs.ids, inputs.layout)
        places = np.concatenate(
            [np.arange(tokens.offsets[one], tokens.offsets[one + 1]) for one in some]
        )
        out[torch.from_numpy(places)] = found.float()
        done += len(some)
        watch("states", done)
    return out


def cls_to_pooled(states: Tensor, tokens: TokenBatch, pooling: Pooling) -> float:
    """Mean cosine of [CLS] states to the pooled vectors, both less their mean over the texts."""
    first = torch.from_numpy(tokens.offsets[:-1])
    dense = dense_vectors(states, first)
    pooled = dense if pooling == "cls" else pooled_vectors(states, tokens)
    both = [torch.nn.functional.normalize(v - v.mean(0), dim=-1) for v in (dense, pooled)]
    return round(float((both[0] * both[1]).sum(-1).mean()), 4)


def pooled_vectors(states: Tensor, tokens: TokenBatch) -> Tensor:
    """The normalised mean of each text's states, special tokens included: (N, H) -> (B, H)."""
    owners = torch.from_numpy(np.repeat(np.arange(len(tokens)), tokens.lengths)).to(states.device)
    every = torch.arange(len(states), device=states.device)
    return mean_vectors(states, every, owners, len(tokens))


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


def _same_cosines(before: Tensor, after: Tensor, tokens: TokenBatch, apart: Tensor) -> float:
    """Correlation of cosines of pairs of texts by [CLS] after, and by the mean before."""
    pooled = pooled_vectors(before, tokens)
    goal = torch.nn.functional.normalize(pooled - pooled @ apart.T @ apart, dim=-1)
    dense = dense_vectors(after, torch.from_numpy(tokens.offsets[:-1]))
    above = torch.ones(len(dense), len(dense), dtype=torch.bool).triu(1)
    both = torch.stack([(vectors @ vectors.T)[above] for vectors in (dense, goal)])
    return round(float(torch.corrcoef(both)[0, 1]), 4)


def content_states(states: Tensor, tokens: TokenBatch) -> Tensor:
    """The states that have a multi-vector: all but [CLS]."""
    kept = np.ones(len(tokens.ids), dtype=np.bool_)
    kept[tokens.cls] = False
    return states[torch.from_numpy(kept)]


def centre(head: MultiHead | None, states: Tensor) -> None:
    """Makes CENTRING of the mean of states (N, H) nothing to the head, by its bias."""
    assert head is not None
    with torch.no_grad():
        head.bias.copy_(-CENTRING * (head.weight @ states.mean(0)))


class FitSample:
    """Texts drawn from a stream, as many of each language as FIT_TEXTS in all allows."""

    def __init__(self, size: int = FIT_TEXTS) -> None:
        self.size = size
        self._held: dict[str, list[str]] = {}
        self._seen: dict[str, int] = {}
        self._draw = random.Random(0)

    def passing(self, tagged: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """The same pairs of language and text; a part of them is kept here."""
        for language, text in tagged:
            held = self._held.setdefault(language, [])
            seen = self._seen[language] = self._seen.get(language, 0) + 1
            if len(held) < self.size:
                held.append(text)
            elif (place := self._draw.randrange(seen)) < self.size:
                held[place] = text
            yield language, text

    def drawn(self) -> tuple[list[str], list[str]]:
        """The texts, and the language of each."""
        each = self.size
        while each > 1 and sum(min(each, len(held)) for held in self._held.values()) > self.size:
            each -= max(1, each // 16)
        texts, languages = [], []
        for language, held in sorted(self._held.items()):
            some = self._draw.sample(held, min(each, len(held)))
            texts += some
            languages += [language] * len(some)
        return texts[: self.size], languages[: self.size]


def language_directions(
    states: Tensor, tokens: TokenBatch, languages: Sequence[str], count: int
) -> Tensor:
    """Unit directions in which the mean states of languages differ most, (at most count, H).

    Languages with fewer than LEAST texts are left out; none are found in fewer than two languages.
    Source: Yang et al. 2021, arXiv 2109.04727.
    """
    names = [name for name in sorted(set(languages)) if languages.count(name) >= LEAST]
    owners = np.repeat(np.array(languages), tokens.lengths)
    if count < 1 or len(names) < 2:
        return states.new_zeros(0, states.shape[1])
    means = torch.stack([states[torch.from_numpy(owners == name)].mean(0) for name in names])
    return directions_apart(means, count)


def directions_apart(means: Tensor, count: int) -> Tensor:
    """Unit directions in which some means (L, H) differ most, strongest first, at most L - 1."""
    _, _, directions = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    apart: Tensor = directions[: min(count, len(means) - 1)]
    return apart


def fit_multi(
    states: Tensor, tokens: TokenBatch, size: int, apart: Tensor
) -> tuple[MultiHead, float]:
    """The head whose vectors are the strongest principal components of token states.

    Without the directions `apart` (K, H), and CENTRING of the mean, which the head's bias takes
    over; [CLS] is left out, as in the head. Returns the share of the variance that is kept too.
    """
    some = content_states(states, tokens)
    spread = torch.cov(some.T)
    without = torch.eye(states.shape[1]) - apart.T @ apart
    values, found = torch.linalg.eigh(without @ spread @ without)
    weight = found[:, -size:].flip(1).T @ without
    head = MultiHead(states.shape[1], size)
    with torch.no_grad():
        head.weight.copy_(weight)
    centre(head, some)
    return head, round(float(values[-size:].sum() / spread.trace()), 4)


def token_idf(
    counts: LanguageCounts, tokens: TokenBatch, languages: Sequence[str]
) -> npt.NDArray[np.float32]:
    """How rare each token is in the text of its own language, (N,): -ln of its share, scaled.

    COMMON and more weighs 0, a piece seen once in a million 1.
    """
    number = {language: row for row, language in enumerate(counts.languages)}
    dense = sp.csr_array(counts.counts)
    totals = np.asarray(dense.sum(axis=1), dtype=np.float64).ravel()
    out = []
    for text, language in enumerate(languages):
        ids = tokens.ids[tokens.offsets[text] : tokens.offsets[text + 1]]
        row = dense[[number[language]]].toarray()[0]
        out.append((row[ids] + 0.5) / (totals[number[language]] + 1.0))
    rarity = -np.log(np.concatenate(out))
    scaled = (rarity + np.log(COMMON)) / np.log(1e6 * COMMON)
    found: npt.NDArray[np.float32] = scaled.clip(0, 1).astype(np.float32)
    return found


def fit_sparse(
    states: Tensor, tokens: TokenBatch, goals: npt.NDArray[np.float32]
) -> tuple[SparseHead, float]:
    """The head whose weights are nearest to goals (N,) by ridge regression, and the correlation.

    Special tokens are left out; a piece counts as the square root of its occurrences, so that
    commas do not decide the fit.
    """
    ids = tokens.ids.astype(np.int64)
    content = np.ones(len(ids), dtype=np.bool_)
    content[tokens.cls] = content[tokens.offsets[1:] - 1] = False
    goal = torch.from_numpy(goals[content])
    share = torch.from_numpy(np.bincount(ids[content])[ids[content]].astype(np.float32)).rsqrt()
    some = states[torch.from_numpy(content)]
    inputs = torch.cat((some, torch.ones(len(some), 1)), dim=1).double()
    weighed = inputs * share[:, None].double()
    square = weighed.T @ inputs
    square.diagonal()[:-1].add_(RIDGE * square.diagonal()[:-1].mean() / len(square))
    solved = torch.linalg.solve(square, weighed.T @ goal.double()).float()
    head = SparseHead(states.shape[1])
    with torch.no_grad():
        head.weight.copy_(solved[None, :-1])
        head.bias.copy_(solved[-1:])
        fitted = head(some)
    found = float(torch.corrcoef(torch.stack((fitted, goal)))[0, 1])
    return head, round(found, 4) if found == found else 0.0  # nan: no weight differs
