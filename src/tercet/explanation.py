"""Why a passage matches a query: every score, and the characters that it comes from.

`explain` encodes both sides; `highlight` takes what an index has stored and needs no model. Knows
nothing of indexes, files or documents. Shapes: S tokens of the query, T of the passage, M
multi-vector size.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tercet.bm25 import KINDS
from tercet.config import Weights
from tercet.documents.chunks import Chunker, Chunking
from tercet.documents.sentences import sentences
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.records import Span
from tercet.scores import SCORES, weighted_sum
from tercet.tokenizer import EOS, Tokenizer, sanitise

if TYPE_CHECKING:
    from tercet.encoder import Encoder

WORD_START = "▁"  # SentencePiece's mark of white space
# Words are marked from this share of the largest product on, that of the query's heaviest subword
# with itself included. Of 16 questions on examples/docs in 13 languages, articles and particles
# ("der", "una", "to", "है", "في") are at 0.02 to 0.38 of it, words of the subject from 0.41 on.
SHOWN = 0.4

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Parts:
    """Raw (unweighted) scores; None where the model lacks the head. hybrid: their weighted sum."""

    dense: float | None
    sparse: float | None
    multi: float | None
    hybrid: float


@dataclass(frozen=True)
class SharedSubword:
    """A subword of both sides: its largest weight in each, and where it stands.

    The sparse score is the sum of all products.
    """

    text: str
    query_weight: float
    passage_weight: float
    product: float
    query_spans: tuple[Span, ...]
    passage_spans: tuple[Span, ...]


@dataclass(frozen=True)
class Met:
    """The token of the passage that is most similar to one of the query; span None: not of it."""

    text: str
    span: Span | None
    similarity: float


@dataclass(frozen=True)
class QueryToken:
    """A token of the query: its sparse weight, and what it met; the multi score is their mean."""

    text: str
    span: Span | None  # None: of a prefix, the mark of a word's start, or </s>
    weight: float | None
    met: Met | None


@dataclass(frozen=True)
class Heat:
    """Characters [start, end) of a passage's token, and its similarity to the query's nearest."""

    start: int
    end: int
    value: float


@dataclass(frozen=True)
class Explanation:
    """Why a passage matches a query; spans count characters of `query` and of `passage`."""

    query: str
    passage: str
    title: str
    scores: Parts
    weights: Weights
    shared: tuple[SharedSubword, ...]  # the largest product first
    tokens: tuple[QueryToken, ...]
    heat: tuple[Heat, ...]
    sentence: Span | None  # the one that matches best


def explain(
    encoder: "Encoder",
    query: str,
    passage: str,
    title: str = "",
    *,
    weights: Weights | Iterable[float] | None = None,
) -> Explanation:
    """Takes the scores of a query and a passage apart, in one pass of the encoder over each.

    The passage is encoded as it is indexed, behind its title. weights are those of the hybrid sum,
    by default the encoder's. Of texts that are longer than the
    model reads, only the tokens that were read count. Raises InputError for an empty text.
    """
    for name, text in (("query", query), ("passage", passage)):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"the {name} is {text!r:.40}: give a text to explain")
    weights = encoder.weights if weights is None else Weights.of(weights)
    query, passage, title = sanitise(query), sanitise(passage), sanitise(title)
    tokenizer, prefix = encoder.tokenizer, encoder.settings.prefix
    heading = Chunker(tokenizer.backend, Chunking(), encoder.max_length).heading(title)
    asked = encoder.encode([query], heads=encoder.heads, role="query")
    given = encoder.encode([heading + passage], heads=encoder.heads, role="passage")
    scores = {head: SCORES[head](asked, given) for head in encoder.heads}
    raw = {head: float(score[0, 0]) for head, score in scores.items()}
    left = Tokens.of(tokenizer, prefix("query"), query).cut(_length(asked))
    right = Tokens.of(tokenizer, prefix("passage") + heading, passage).cut(_length(given))
    query_weights, passage_weights = _term_weights(asked), _term_weights(given)
    products = _products(query_weights, passage_weights)
    similar = None if asked.multi is None else _similar(asked.tokens(0), given.tokens(0))
    return Explanation(
        query=query,
        passage=passage,
        title=title,
        scores=Parts(
            raw.get("dense"),
            raw.get("sparse"),
            raw.get("multi"),
            float(weighted_sum(scores, weights)[0, 0]),
        ),
        weights=weights,
        shared=tuple(
            SharedSubword(
                _written(tokenizer, id),
                query_weights[id],
                passage_weights[id],
                product,
                left.spans_of(id),
                right.spans_of(id),
            )
            for id, product in sorted(products.items(), key=lambda item: (-item[1], item[0]))
        ),
        tokens=tuple(
            QueryToken(
                text,
                span,
                None if asked.sparse is None else query_weights.get(id, 0.0),
                None if similar is None else right.met(similar[row]),
            )
            for row, (id, span, text) in enumerate(left)
        ),
        heat=() if similar is None else right.heat(similar),
        sentence=best_sentence(passage, right, similar, products),
    )


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text in the order of its multi-vectors: all behind [CLS], </s> the last."""

    ids: list[int]
    spans: list[Span | None]  # characters of the text; None: of what stands before it, or of no one
    texts: list[str]  # as written, or the subword where there is no span

    @staticmethod
    def of(tokenizer: Tokenizer, before: str, text: str) -> "Tokens":
        """Those of a text that is encoded behind others (a prefix, a heading); no surrogates."""
        whole = before + text
        ids, offsets = tokenizer.with_offsets(whole)
        mark = tokenizer.backend.token_to_id(WORD_START)
        spans: list[Span | None] = [None]
        texts = [EOS]
        following = len(whole)
        for id, (start, end) in zip(reversed(ids), offsets[::-1].tolist(), strict=True):
            # what the normaliser joined or dropped, an accent for one, belongs to what is before it
            while end < following and not whole[end].isspace():
                end += 1
            following = start
            outside = id == mark or end <= max(start, len(before))
            own = Span(max(0, start - len(before)), end - len(before))
            spans.append(None if outside else own)
            texts.append(WORD_START if id == mark else whole[start:end])
        return Tokens([*ids, tokenizer.eos_id], spans[::-1], texts[::-1])

    def cut(self, length: int) -> "Tokens":
        """Those of a text that was encoded with so many tokens, [CLS] and </s> included."""
        if length - 1 >= len(self.ids):
            return self
        rest = slice(length - 2, -1)
        ids, spans, texts = list(self.ids), list(self.spans), list(self.texts)
        for part in (ids, spans, texts):
            del part[rest]
        return Tokens(ids, spans, texts)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[int, Span | None, str]]:
        return zip(self.ids, self.spans, self.texts, strict=True)

    def spans_of(self, id: int) -> tuple[Span, ...]:
        """Where a subword stands."""
        return tuple(span for other, span, _ in self if other == id and span is not None)

    def met(self, similar: Floats) -> Met:
        """The token that is most similar, given (T,) similarities."""
        best = int(similar.argmax())
        return Met(self.texts[best], self.spans[best], float(similar[best]))

    def heat(self, similar: Floats) -> tuple[Heat, ...]:
        """The largest of each token's similarities, given (S, T)."""
        values = zip(self.spans, similar.max(axis=0).tolist(), strict=True)
        return tuple(Heat(span.start, span.end, value) for span, value in values if span)


def best_sentence(
    text: str, tokens: Tokens, similar: Floats | None, products: Mapping[int, float]
) -> Span | None:
    """The sentence whose tokens alone match best; of equal ones the first.

    By MaxSim, given the similarities (S, T); without them by the sum of the products of shared
    subwords, where there are any.
    """
    inside: dict[Span, list[int]] = {sentence: [] for sentence in sentences(text)}
    order = list(inside)
    ends = [sentence.end for sentence in order]
    for place, span in enumerate(tokens.spans):
        if span is not None:
            inside[order[bisect_right(ends, span.start)]].append(place)

    def score(sentence: Span) -> float:
        places = inside[sentence]
        if similar is not None:
            return float(similar[:, places].max(axis=1).mean()) if places else -np.inf
        return sum(products.get(id, 0.0) for id in {tokens.ids[place] for place in places})

    best = max(order, key=score, default=None)
    return best if best is not None and (similar is not None or score(best) > 0) else None


def highlight(
    tokenizer: Tokenizer,
    text: str,
    asked: Embeddings,
    given: Embeddings,
    *,
    aligned: bool = True,
) -> tuple[Span | None, tuple[Span, ...]]:
    """The best sentence of a passage and its shared words, from representations of one text each.

    The passage was encoded to its end, whatever stood before it. Where it was cut, or where its
    vectors are not those of these tokens (aligned is False), the sentence is found by shared
    subwords alone.
    """
    tokens = Tokens.of(tokenizer, "", text)
    weights = _term_weights(asked)
    products = _products(weights, _term_weights(given))
    similar = None
    if aligned and asked.multi is not None and given.multi is not None:
        vectors = given.tokens(0)
        if len(vectors) >= len(tokens):  # a prefix and a title come before them
            similar = _similar(asked.tokens(0), vectors[-len(tokens) :])
    largest = max((*products.values(), *(weight**2 for weight in weights.values())), default=0.0)
    return (
        best_sentence(text, tokens, similar, products),
        tuple(marks(text, tokens, products, SHOWN * largest)),
    )


def marks(text: str, tokens: Tokens, products: Mapping[int, float], least: float) -> list[Span]:
    """The words that hold a shared subword of a product of at least `least`, touching ones as one.

    More than half of a word's characters must be of shared subwords: an ending alone is none. In
    scripts without spaces a token is a word.
    """
    hot = {id for id, product in products.items() if product >= least}
    if not hot:
        return []
    kinds = text.translate(KINDS)
    words: list[list[int]] = []  # their tokens
    end = 0
    for place, span in enumerate(tokens.spans):
        if span is None or kinds[span.start : span.end].isspace():
            continue
        # within a word or before a mark; never between two characters of a script without spaces
        if (
            words
            and span.start == end
            and kinds[end - 1 : end + 1] in ("ww", "mw", "wm", "mm", "pm")
        ):
            words[-1].append(place)
        else:
            words.append([place])
        end = span.end
    out: list[Span] = []
    for word in words:
        ids = [tokens.ids[place] for place in word]
        if hot.isdisjoint(ids):
            continue
        spans = [span for span in (tokens.spans[place] for place in word) if span]
        shared = sum(s.end - s.start for s, id in zip(spans, ids, strict=True) if id in products)
        start, end = spans[0].start, spans[-1].end
        if 2 * shared <= end - start:
            continue
        while kinds[start] == " ":
            start += 1
        while kinds[end - 1] == " ":
            end -= 1
        if out and out[-1].end >= start:
            start = out.pop().start
        out.append(Span(start, end))
    return out


def _similar(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> Floats:
    """(S, T) of the vectors of one query (S, M) and one passage (T, M)."""
    similar: Floats = left.astype(np.float32) @ right.astype(np.float32).T
    return similar


def _term_weights(one: Embeddings) -> dict[int, float]:
    """Token ids of one text and their weights; none where the head is absent."""
    if one.sparse is None:
        return {}
    return dict(zip(one.sparse.indices.tolist(), one.sparse.data.tolist(), strict=True))


def _products(left: Mapping[int, float], right: Mapping[int, float]) -> dict[int, float]:
    """The products of the weights of shared tokens."""
    return {id: weight * right[id] for id, weight in left.items() if id in right}


def _length(one: Embeddings) -> int:
    assert one.lengths is not None
    return int(one.lengths[0])


def _written(tokenizer: Tokenizer, id: int) -> str:
    """A subword without the mark of a word's start."""
    subword = tokenizer.backend.id_to_token(id) or ""
    return subword.replace(WORD_START, " ").strip() or WORD_START
