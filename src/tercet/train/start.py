"""Any XLM-RoBERTa-like encoder as the start of an M3 model: three heads from what it knows already.

1. Read it: a checkpoint folder or hub id in XLM-RoBERTa's or BERT's layout, or a packed file.
2. Prune the vocabulary to balanced text, 3. extend the positions, 4. fit the heads that it lacks to
a sample of text: multi-vectors are principal components of token states, sparse weights a least-
squares fit to idf, the dense vector is [CLS]. Nothing is trained. Shapes: N tokens, B texts, H
hidden, M multi-vector size, V vocabulary.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tercet.backbone import BackboneConfig, from_published, to_published
from tercet.batching import batches
from tercet.checkpoint import (
    Settings,
    read_checkpoint,
    read_config,
    read_tokenizer,
    write_checkpoint,
)
from tercet.encoder import multiplies_bfloat16
from tercet.errors import InputError, ModelError
from tercet.heads import MultiHead, SparseHead, dense_vectors, mean_vectors
from tercet.hub import fetch
from tercet.model import Inputs, M3Model
from tercet.tensorfiles import TensorFiles, weight_files
from tercet.tokens import TokenBatch, Tokenizer
from tercet.train.packed import is_packed, read_packed
from tercet.train.positions import extend_positions
from tercet.train.texts import text_files, texts_in
from tercet.train.trim import Sample, with_rows
from tercet.train.vocabulary import balanced_scores, prune_tokenizer

Pooling = Literal["mean", "cls"]
Watch = Callable[[str, int], None]  # what is being done, so much of it
FIT_TEXTS, FIT_TOKENS = 3000, 128  # texts of the sample, tokens of each: a minute on two cores
BATCH = 8192  # tokens
RIDGE = 1e-2  # of the least squares, relative to the states' mean variance


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
    common (0: unrelated, 1: the same). multi_variance: share of the token states' variance in the
    multi-vectors. idf_correlation: of the sparse weights with the idf of their pieces.
    """

    source: str
    layers: int
    hidden: int
    vocabulary: tuple[int, int]
    positions: tuple[int, int]
    heads: tuple[str, ...]
    fit_texts: int
    tokens_per_text: tuple[float, float] | None
    cls_to_pooled: float | None
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
    fit: Sequence[Path] = (),
    revision: str | None = None,
    pooling: Pooling | None = None,
    dtype: torch.dtype = torch.float32,
    watch: Watch = lambda what, count: None,
) -> StartReport:
    """Writes a model with three heads to the folder target.

    vocabulary bounds the ids; the pieces are those that balanced text of all languages in rows
    needs. fit names text for the heads; without it the rows serve. Heads that the source has stay
    as they are. Raises InputError where target exists or text is lacking, ModelError for a source
    that cannot be read.
    """
    if target.exists():
        raise InputError(f"{target} exists already: remove it or choose another folder")
    if vocabulary is not None and not rows:
        raise InputError("a smaller vocabulary is chosen by text: give rows (--rows FILES)")
    found = read_source(source, revision=revision)
    pooled = pooling or found.pooling
    model, tokenizer = found.model, found.tokenizer
    before = (model.backbone.config.vocabulary, model.backbone.config.positions)
    lacks = [head for head in ("sparse", "multi") if head not in model.heads]
    if lacks and not (fit or rows):
        raise InputError(f"the {lacks[0]} head is fitted to text: give some (--fit FILES)")
    if multi > model.backbone.config.hidden:
        raise InputError(
            f"multi-vectors of {multi} values from states of {model.backbone.config.hidden}"
        )
    sample = Sample(FIT_TEXTS)
    for number, text in enumerate(texts_in(text_files(list(fit or rows))) if fit or rows else ()):
        sample.add(number, text)
        if number % 1000 == 0:
            watch("reading", number)
    old = tokenizer
    if vocabulary is not None:
        watch("choosing pieces", 0)
        scores = balanced_scores(tokenizer, text_files(list(rows)))
        tokenizer, kept = prune_tokenizer(tokenizer, scores, vocabulary, name=str(source))
        model = with_rows(model, kept, tokenizer)
    extend_positions(model.backbone, positions)
    facts: dict[str, Any] = {}
    if sample.texts:
        tokens = tokenizer.encode(sample.texts, max_length=FIT_TOKENS)
        was = old.encode(sample.texts, max_length=FIT_TOKENS) if old is not tokenizer else tokens
        facts["tokens_per_text"] = (
            round(len(was.ids) / len(was), 2),
            round(len(tokens.ids) / len(tokens), 2),
        )
        states = sample_states(model, tokens, watch)
        facts["cls_to_pooled"] = cls_to_pooled(states, tokens, pooled)
        if model.sparse is None:
            model.sparse, facts["idf_correlation"] = fit_sparse(states, tokens, tokenizer)
        if model.multi is None:
            model.multi, facts["multi_variance"] = fit_multi(states, tokens, multi)
    told = {"recipe": "tercet init", "from": Path(source).name, **facts}
    settings = Settings(weights=found.settings.weights, training=told)
    write_checkpoint(target, model, tokenizer, settings=settings, dtype=dtype)
    config = model.backbone.config
    return StartReport(
        source=str(source),
        layers=config.layers,
        hidden=config.hidden,
        vocabulary=(before[0], config.vocabulary),
        positions=(before[1], config.positions),
        heads=model.heads,
        fit_texts=len(sample.texts),
        **{
            name: facts.get(name)
            for name in ("tokens_per_text", "cls_to_pooled", "multi_variance", "idf_correlation")
        },
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
            raise ModelError(f"{path}: a file that is no packed encoder: give a checkpoint's folder")
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
    places = state["places.weight"]
    state["places.weight"] = torch.cat((places.new_zeros(first, places.shape[1]), places))
    state["words.weight"] = state["words.weight"][: tokenizer.vocabulary]
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


@torch.inference_mode()
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
    owners = torch.from_numpy(np.repeat(np.arange(len(tokens)), tokens.lengths))
    return mean_vectors(states, torch.arange(len(states)), owners, len(tokens))


def fit_multi(states: Tensor, tokens: TokenBatch, size: int) -> tuple[MultiHead, float]:
    """The head whose vectors are the strongest principal components of token states.

    States are normalised and centred, which the head's bias takes over; returns the share of the
    variance that is kept too. [CLS] is left out, as in the head.
    """
    kept = np.ones(len(tokens.ids), dtype=np.bool_)
    kept[tokens.cls] = False
    some = states[torch.from_numpy(kept)]
    mean = some.mean(0)
    values, directions = torch.linalg.eigh(torch.cov((some - mean).T))
    weight = directions[:, -size:].flip(1).T
    head = MultiHead(states.shape[1], size)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(-(weight @ mean))
    return head, round(float(values[-size:].sum() / values.sum()), 4)


def fit_sparse(
    states: Tensor, tokens: TokenBatch, tokenizer: Tokenizer
) -> tuple[SparseHead, float]:
    """The head whose weights are nearest to the idf of their pieces, and their correlation.

    idf = ln((B + 1) / (documents + 1)), scaled so that the rarest piece weighs 1; least squares
    over the tokens of the sample, each piece at most as often as the square root of its count, so
    that commas do not decide the fit.
    """
    ids = tokens.ids.astype(np.int64)
    owners = np.repeat(np.arange(len(tokens)), tokens.lengths)
    seen = np.unique(owners * tokenizer.vocabulary + ids) % tokenizer.vocabulary
    documents = np.bincount(seen, minlength=tokenizer.vocabulary)
    idf = np.log((len(tokens) + 1) / (documents + 1)) / np.log(len(tokens) + 1)
    content = ~np.isin(ids, tokenizer.weightless_ids)
    goal = torch.from_numpy(idf[ids[content]].astype(np.float32))
    counts = np.bincount(ids[content], minlength=tokenizer.vocabulary)
    share = torch.from_numpy(counts[ids[content]].astype(np.float32)).rsqrt()
    some = states[torch.from_numpy(content)]
    inputs = torch.cat((some, torch.ones(len(some), 1)), dim=1).double()
    weighed = inputs * share[:, None].double()
    square = weighed.T @ inputs
    ridge = RIDGE * square.diagonal()[:-1].mean() / len(square)
    square.diagonal()[:-1].add_(ridge)
    solved = torch.linalg.solve(square, weighed.T @ goal.double()).float()
    head = SparseHead(states.shape[1])
    with torch.no_grad():
        head.weight.copy_(solved[None, :-1])
        head.bias.copy_(solved[-1:])
        fitted = head(some)
    both = torch.stack((fitted, goal))
    return head, round(float(torch.corrcoef(both)[0, 1]), 4)
