"""A smaller vocabulary: the subwords that given text uses, all else of a model as it was.

1. Count the subwords of the text, each different word once.
2. Score them: by the texts that have them, or so that languages weigh alike.
3. Prune the tokenizer. There is no byte fallback, so every single character stays: what the text
   lacks is spelled out, not lost.
4. Keep those rows of the word embeddings, write the model, and compare it with the old one.

Knows nothing of training. Shapes: B texts, V vocabulary, L languages.
"""

import json
import random
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer as Backend

from tercet.checkpoint import Checkpoint, read_checkpoint, stored_dtypes, write_checkpoint
from tercet.config import Head
from tercet.embeddings import Embeddings, check_absent
from tercet.encoder import Encoder
from tercet.errors import InputError, MissingExtraError, ModelError
from tercet.layout import fetch, weight_files
from tercet.model import M3Model
from tercet.rows import tagged_texts, text_files
from tercet.scores import SCORES
from tercet.tokenizer import CLS, EOS, MASK, PAD, UNK, Tokenizer

if TYPE_CHECKING:
    import scipy.sparse as sp

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Tagged = Iterable[tuple[str, str]]  # language, text
Watch = Callable[[str, int], None]  # what is being done, texts so far

SPACE = "▁"
FIRST = (CLS, PAD, EOS, UNK)  # ids 0 to 3 in every XLM-RoBERTa vocabulary; MASK comes last
BLOCK, CHARACTERS = 1 << 16, 1 << 23  # texts and characters counted at once
# Different words of texts, and characters of them, that are remembered: with all that is made of
# them about a gigabyte (benchmarks/trim_speed.py).
WORDS, REMEMBERED = 1 << 21, 1 << 25
# A language of n tokens weighs n ** ALPHA: XLM-RoBERTa's own mixture (arXiv:1911.02116, section 3).
ALPHA = 0.3
PRIOR = 0.3  # of the scores is the tokenizer's own; a guess
ROUNDS, LEAST = 12, 3000  # in which languages are weighed anew, tokens of one that has a say
SAMPLE, LENGTH = 100, 256  # texts encoded by both models, tokens of each: a minute on a CPU


# 1. Counting

# Characters, neither marks nor controls, that a space may share a grapheme with (the others of
# Grapheme_Cluster_Break Prepend, SpacingMark and Extend: UAX 29, Unicode 16), and the two that
# SentencePiece's rules (Nmt) turn into a space.
JOINING = frozenset(
    "▁\ufffd"
    "\u0d4e\u0e33\u0eb3\uff9e\uff9f\U000111c2\U000111c3\U000113d1\U0001193f\U00011941\U00011a3a"
    "\U00011a84\U00011a85\U00011a86\U00011a87\U00011a88\U00011a89\U00011d46\U00011f02"
    "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
)


def token_counts(
    tokenizer: Tokenizer, tagged: Tagged, *, block: int = BLOCK, words: int = WORDS
) -> Iterator[tuple[list[str], "sp.csr_array"]]:
    """The languages of the next B texts, and how often each id occurs in each, (B, V) int32.

    A text is cut at its spaces where that cannot change its ids, every different word is tokenised
    once, and the counts of a text are the sums of its words'. At most `block` texts are counted at
    once, and about so many `words` remembered.
    """
    counter = _WordCounter(tokenizer)
    languages: list[str] = []
    texts: list[str] = []
    size = 0
    for language, text in tagged:
        languages.append(language)
        texts.append(text)
        size += len(text)
        if len(texts) == block or size > CHARACTERS:
            yield languages, counter.counts(texts)
            languages, texts, size = [], [], 0
            if len(counter) > words or counter.characters > REMEMBERED:
                counter = _WordCounter(tokenizer)
    if texts:
        yield languages, counter.counts(texts)


def _scipy_sparse() -> Any:
    try:
        import scipy.sparse
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "counting subwords needs scipy: pip install 'tercet[torch]'"
        ) from error
    return scipy.sparse


class _WordCounter(dict[str, int]):
    """Counts the ids of texts by those of their words, which get numbers and are remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.characters = 0
        self._tokenizer = tokenizer
        added = json.loads(tokenizer.backend.to_str())["added_tokens"]
        special = "|".join(re.escape(str(token["content"])) for token in added)
        self._special = re.compile(special or r"(?!)").search
        self._cuts = _cuts_at_spaces(tokenizer)
        self._odd = False  # whether a word was met that no text may be cut beside
        self._new: list[str] = []  # numbered, not yet tokenised
        self._ids = np.zeros(0, dtype=np.int32)  # of all words, one after the other
        self._ends = np.zeros(1, dtype=np.int64)

    def counts(self, texts: Sequence[str]) -> "sp.csr_array":
        """How often each id occurs in each text, (B, V) int32."""
        words, ends = array("i"), array("q", [0])
        for text in texts:
            self._odd = not self._cuts or text.endswith((" ", "\n"))
            start = len(words)
            if not self._odd:
                words.extend(map(self.__getitem__, text.replace("\n", " ").split(" ")))
            if self._odd:
                del words[start:]
                words.append(self._number(f" {text}", text))  # no word has a space
            ends.append(len(words))
        self._tokenise()
        sparse = _scipy_sparse()
        # a row may name a word twice: the product adds them up
        ones = np.ones(max(len(words), len(self._ids)), dtype=np.int32)
        of_texts = (ones[: len(words)], np.array(words, np.int32), np.array(ends, np.int64))
        of_words = (ones[: len(self._ids)], self._ids, self._ends)
        members = sparse.csr_array(of_texts, shape=(len(texts), len(self)))
        columns = self._tokenizer.vocabulary
        counts: sp.csr_array = members @ sparse.csr_array(of_words, shape=(len(self), columns))
        return counts

    def __missing__(self, word: str) -> int:
        """The number of a new word, -1 where a rule may hold for it together with its spaces."""
        if _joins(word) or self._special(word):
            self._odd = True
            return -1
        return self._number(word, word)

    def _number(self, key: str, text: str) -> int:
        if key not in self:
            self._new.append(text)
            self[key] = len(self)
        return self[key]

    def _tokenise(self) -> None:
        ids, ends = [self._ids], [self._ends]
        for first in range(0, len(self._new), BLOCK):
            contents = self._tokenizer.contents(self._new[first : first + BLOCK])
            sizes = np.fromiter(map(len, contents), dtype=np.int64, count=len(contents))
            flat = chain.from_iterable(contents)
            ids.append(np.fromiter(flat, dtype=np.int32, count=int(sizes.sum())))
            ends.append(ends[-1][-1] + np.cumsum(sizes))
        self._ids, self._ends = np.concatenate(ids), np.concatenate(ends)
        self.characters += sum(map(len, self._new))
        self._new = []


def _joins(word: str) -> bool:
    """Whether a space beside the word may be more than a space, or less."""
    if not word:
        return False
    first, last = word[0], word[-1]
    return (
        not (first.isprintable() and last.isprintable())  # controls and other spaces
        or unicodedata.category(first)[0] == "M"
        or first in JOINING
        or last in JOINING
    )


def _cuts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether the ids of a text are those of its words between spaces, one after the other.

    They are where whatever a space parts is normalised alone, runs of spaces are as one, and no
    piece spans two words; so with all that XLM-RoBERTa's converters wrote. A charsmap may differ in
    what spaces and ends of lines are: that is tried.
    """

    def steps(part: str, name: str) -> list[dict[str, Any]]:
        """The steps of a sequence, or the one."""
        step = content[part] or {"type": "Sequence", name: []}
        return list(step[name]) if step["type"] == "Sequence" else [step]

    content = json.loads(tokenizer.backend.to_str())
    *mapped, runs = steps("normalizer", "normalizers") or [{}]
    replaced = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": runs.get("content")}
    words = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    first, second, *both = tokenizer.contents(["a", "b", "a b", "a\nb"])
    return (
        content["model"].get("type") == "Unigram"
        and runs == replaced
        and runs["content"] in (" ", SPACE)
        and {step["type"] for step in mapped} <= {"Precompiled", "Nmt", "NFKC", "Strip"}
        and steps("pre_tokenizer", "pretokenizers")
        in ([words], [{"type": "WhitespaceSplit"}, words])
        and not any(
            token["normalized"] or len(str(token["content"]).split()) != 1
            for token in content["added_tokens"]
        )
        and all(ids == first + second for ids in both)
    )


class LanguageCounts(NamedTuple):
    """How often each id occurs in the text of each of L languages: counts (L, V) int64."""

    languages: tuple[str, ...]
    counts: "sp.csr_array"


def count_languages(tokenizer: Tokenizer, tagged: Tagged) -> LanguageCounts:
    """Counts the ids of (language, text) pairs, each occurrence once."""
    sparse = _scipy_sparse()
    numbers: dict[str, int] = {}
    counts = sparse.csr_array((0, tokenizer.vocabulary), dtype=np.int64)
    for languages, block in token_counts(tokenizer, tagged):
        rows = [numbers.setdefault(language, len(numbers)) for language in languages]
        member = (np.ones(len(rows), dtype=np.int64), (rows, np.arange(len(rows))))
        added = sparse.csr_array(member, shape=(len(numbers), len(rows))) @ block
        counts.resize(added.shape)
        counts = counts + added
    return LanguageCounts(tuple(numbers), counts)


# 2. Scoring


def balanced(
    counted: LanguageCounts, probabilities: Scores, *, alpha: float, prior: float
) -> Scores:
    """A score of each id in which languages weigh by (their tokens) ** alpha, (V,), sum 1.

    `prior` is the share of the tokenizer's probability of each id, (V,); ids that it gives none
    (special tokens) have none. Raises InputError where alpha or prior is not in 0 to 1.
    """
    for name, value in (("alpha", alpha), ("prior", prior)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} is from 0 to 1, got {value}")
    tokens, shares = _shares(counted, probabilities)
    weights = np.where(tokens > 0, np.maximum(tokens, 1) ** alpha, 0.0)
    return _weighed(shares, weights, probabilities, prior)


def evened(
    counted: LanguageCounts,
    probabilities: Scores,
    free: npt.NDArray[np.bool_],
    room: int,
    *,
    prior: float,
) -> Scores:
    """A score of each id, (V,), whose best `room` free ids leave out as much of each language.

    Languages weigh more the more of their tokens are left out, over ROUNDS; those of fewer than
    LEAST tokens have no say. free (V,) are the ids that need not stay anyway; prior as in
    `balanced`.
    """
    tokens, shares = _shares(counted, probabilities)
    rows = np.flatnonzero(tokens >= LEAST)
    if not len(rows):
        return balanced(counted, probabilities, alpha=0.0, prior=prior)
    shares = shares[rows]
    weights = np.ones(len(rows))
    for _ in range(ROUNDS):
        scores = _weighed(shares, weights, probabilities, prior)
        out = free.copy()
        out[np.argsort(-np.where(free, scores, 0), kind="stable")[:room]] = False
        lost = shares @ out.astype(np.float64)
        weights *= np.sqrt(np.maximum(lost, 1e-3) / max(lost.mean(), 1e-3))
    return scores


def _shares(counted: LanguageCounts, probabilities: Scores) -> tuple[Scores, "sp.csr_array"]:
    """(L,) tokens of each language, and (L, V) the share of each id, special tokens left out."""
    counts = counted.counts.multiply(probabilities > 0).tocsr()
    tokens = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    return tokens, counts.multiply(1 / np.maximum(tokens, 1)[:, None]).tocsr()


def _weighed(shares: "sp.csr_array", weights: Scores, own: Scores, prior: float) -> Scores:
    """The mean of languages' shares (L, V), of which the tokenizer's own are the part `prior`."""
    own = own / own.sum()
    if not weights.any():
        return own
    seen = shares.T @ (weights / weights.sum())
    return np.asarray((1 - prior) * seen + prior * own, dtype=np.float64)


def subword_probabilities(tokenizer: Tokenizer) -> Scores:
    """The Unigram tokenizer's probability of each id, 0 for special and added tokens, (V,).

    Raises ModelError where there is no Unigram model.
    """
    content = json.loads(tokenizer.backend.to_str())
    model = content["model"]
    if model.get("type") != "Unigram":
        raise ModelError("only Unigram tokenizers have a probability of each subword")
    out = np.zeros(tokenizer.vocabulary)
    out[: len(model["vocab"])] = np.exp([float(log) for _, log in model["vocab"]])
    out[[int(token["id"]) for token in content["added_tokens"]]] = 0.0
    out[tokenizer.weightless_ids] = 0.0
    return out


def balanced_scores(
    tokenizer: Tokenizer,
    files: Iterable[Path],
    *,
    alpha: float = ALPHA,
    prior: float = PRIOR,
    even: int | None = None,
) -> Scores:
    """A score of each id, by which `prune_tokenizer` ranks, from rows with languages, (V,).

    See `balanced`, or `evened` where even is the size of the pruned vocabulary; the files are those
    of `text_files`, read once.
    """
    probabilities = subword_probabilities(tokenizer)
    counted = count_languages(tokenizer, tagged_texts(files))
    if even is None:
        return balanced(counted, probabilities, alpha=alpha, prior=prior)
    subwords = (tokenizer.backend.id_to_token(id) or "" for id in range(tokenizer.vocabulary))
    free = ~np.array([_stays(subword) for subword in subwords]) & (probabilities > 0)
    room = max(0, even - int((~free).sum()))
    return evened(counted, probabilities, free, room, prior=prior)


# 3. The tokenizer


def _stays(subword: str) -> bool:
    """Whether a subword is a single character, which is kept whatever its count."""
    return len(subword.removeprefix(SPACE)) <= 1


def prune_tokenizer(
    tokenizer: Tokenizer, scores: Ids | Scores, size: int, *, name: str = "the tokenizer"
) -> tuple[Tokenizer, Ids]:
    """A Unigram tokenizer with at most size ids, those of the highest scores (V,), and their rows.

    Rows are the old id of every new one. Special and added tokens and single characters are kept
    whatever their score; so is the subword of the lowest log-probability, from which that of the
    unknown follows. A text whose subwords all stay is then cut as before, and no other: the best
    path is still there, with its score and all that it is compared with on the way among fewer. Ids
    keep their order. Raises ModelError where there is no Unigram model, InputError where size has
    no room for what must stay.
    """
    content = json.loads(tokenizer.backend.to_str())
    model = content["model"]
    if model.get("type") != "Unigram":
        raise ModelError(f"{name}: only Unigram tokenizers can be pruned")
    log_probs: dict[str, float] = dict(model["vocab"])
    added = {str(token["content"]): int(token["id"]) for token in content["added_tokens"]}
    subwords = list(log_probs)
    old = added | {subword: id for id, subword in enumerate(subwords)}
    if len(old) != len(scores):
        raise InputError(f"{name}: {len(scores)} scores for a vocabulary of {len(old)}")
    last = [MASK] if MASK in old else []
    special = {*FIRST, *last}
    extra = [token for token in added if token not in log_probs and token not in special]
    lowest = min(subwords, key=log_probs.__getitem__)
    stay = {
        subword for subword in subwords if _stays(subword) or subword in (lowest, *added)
    } - special
    room = size - len(special) - len(stay) - len(extra)
    if room < 0:
        raise InputError(f"{size} ids are too few: {len(stay)} single characters must stay")
    ranked = np.argsort(-scores[: len(subwords)], kind="stable").tolist()
    free = [
        subwords[id]
        for id in ranked
        if scores[id] > 0 and subwords[id] not in stay and subwords[id] not in special
    ]
    stay.update(free[:room])
    order = [*FIRST, *(subword for subword in subwords if subword in stay), *last]
    vocab = [[subword, log_probs.get(subword, 0.0)] for subword in order]
    order += extra
    ids = {subword: id for id, subword in enumerate(order)}
    content["added_tokens"] = [
        {**token, "id": ids[str(token["content"])]} for token in content["added_tokens"]
    ]
    content["model"] = {**model, "vocab": vocab, "unk_id": ids[UNK]}
    rows = np.array([old[subword] for subword in order], dtype=np.int64)
    return Tokenizer(Backend.from_str(json.dumps(content))), rows


# 4. The model


@dataclass(frozen=True)
class Sizes:
    """Of a checkpoint: ids, and bytes of the files with the trunk's weights."""

    vocabulary: int
    bytes: int


@dataclass(frozen=True)
class PruneReport:
    """What was taken away, and what the text's scores say.

    texts were read, of which `changed` are cut into other subwords than before; `compared` of a
    sample, cut as before, were encoded by both models. values: the largest difference of any number
    in a head's representations; scores: of any score of one text against another.
    """

    before: Sizes
    after: Sizes
    texts: int
    changed: int
    compared: int
    values: dict[Head, float]
    scores: dict[Head, float]


def prune_vocab(
    source: str | Path,
    target: Path,
    files: Sequence[Path],
    *,
    vocabulary: int | None = None,
    balance: bool = False,
    revision: str | None = None,
    sample: int = SAMPLE,
    watch: Watch = lambda what, count: None,
) -> PruneReport:
    """Writes a checkpoint with only the subwords that the files' texts use; see `PruneReport`.

    Every layer, head and setting stays; one model at a time is in memory. vocabulary bounds the
    number of ids; then rare subwords go too, and texts change. Rare is what few texts have or, with
    balance, what is rare in languages that weigh (their tokens) ** ALPHA. Raises InputError where
    target exists or there is no text, ModelError where the model cannot be read.
    """
    check_absent(target)
    sources = text_files(files)
    folder = fetch(source, revision)
    checkpoint = read_checkpoint(folder)
    old, settings = checkpoint.tokenizer, checkpoint.settings
    prefixes = sorted({settings.query_prefix, settings.passage_prefix})
    chosen = Reservoir(sample)

    def texts() -> Iterator[tuple[str, str]]:
        for language, text in tagged_texts(sources):
            if chosen.seen % 1000 == 0:
                watch("counting", chosen.seen)
            chosen.add(text)
            yield language, text

    def prefixed(tagged: Tagged) -> Iterator[tuple[str, str]]:
        """Every text behind every prefix that the model puts before texts, with its language."""
        for language, text in tagged:
            yield from ((language, prefix + text) for prefix in prefixes)

    scores = score_ids(old, prefixed(texts()), balance=balance)
    if not chosen.seen:
        raise InputError(f"no text in {', '.join(str(path) for path in sources)}")
    name = f"the tokenizer of {folder}"
    new, rows = prune_tokenizer(old, scores, vocabulary or old.vocabulary, name=name)
    changed = 0
    if vocabulary is not None:  # else all that is used stays
        gone = np.ones(old.vocabulary, dtype=np.bool_)
        gone[rows] = False
        changed = texts_with(old, prefixed(tagged_texts(sources)), gone, len(prefixes))

    passages = [settings.passage_prefix + text for text in chosen.texts]
    both = zip(chosen.texts, old.contents(passages), new.contents(passages), strict=True)
    same = [text for text, left, right in both if left == rows[right].tolist()]
    before = _encode(checkpoint, same)
    old_sizes = Sizes(checkpoint.model.backbone.config.vocabulary, _bytes(folder))
    dtype, embeddings = stored_dtypes(folder)
    model = with_rows(checkpoint.model, rows, new)
    del checkpoint  # and with it the old table
    write_checkpoint(target, model, new, settings=settings, dtype=dtype, embeddings=embeddings)
    del model
    after = _encode(read_checkpoint(target), same)
    values, differences = _compare(before, after, rows)
    new_sizes = Sizes(len(rows), _bytes(target))
    return PruneReport(old_sizes, new_sizes, chosen.seen, changed, len(same), values, differences)


class Reservoir:
    """A fixed number of texts drawn evenly from a stream of unknown length; the same every time."""

    def __init__(self, size: int, draw: random.Random | None = None) -> None:
        self.size, self.seen = size, 0
        self.texts: list[str] = []
        self._draw = random.Random(0) if draw is None else draw

    def add(self, text: str) -> None:
        self.seen += 1
        if len(self.texts) < self.size:
            self.texts.append(text)
        elif (place := self._draw.randrange(self.seen)) < self.size:
            self.texts[place] = text


def score_ids(tokenizer: Tokenizer, tagged: Tagged, *, balance: bool = False) -> Ids | Scores:
    """The number of texts that each id occurs in or, with balance, its balanced score, (V,)."""
    if balance:
        counts = count_languages(tokenizer, tagged)
        return balanced(counts, subword_probabilities(tokenizer), alpha=ALPHA, prior=0.0)
    frequency = np.zeros(tokenizer.vocabulary, dtype=np.int64)
    for _, block in token_counts(tokenizer, tagged):
        frequency += np.bincount(block.indices, minlength=len(frequency))
    return frequency


def texts_with(
    tokenizer: Tokenizer, tagged: Tagged, ids: npt.NDArray[np.bool_], variants: int
) -> int:
    """How many texts have any of the ids that are marked, (V,), in one of their variants.

    The variants of a text, so many, come one after the other.
    """
    marks = [block @ ids.astype(np.int32) > 0 for _, block in token_counts(tokenizer, tagged)]
    return int(np.concatenate(marks).reshape(-1, variants).any(axis=1).sum())


def with_rows(model: M3Model, rows: Ids, tokenizer: Tokenizer) -> M3Model:
    """The model with these rows of its word embeddings alone, all else shared with the old one."""
    config = replace(model.backbone.config, vocabulary=len(rows))
    if config.pad_id != tokenizer.pad_id:  # positions count from there
        raise ModelError(
            f"the model's <pad> is id {config.pad_id}, in XLM-RoBERTa's order of special ids it is"
            f" {tokenizer.pad_id}: its vocabulary cannot be trimmed"
        )
    with torch.device("meta"):
        small = M3Model(
            config,
            tokenizer.weightless_ids.tolist(),
            sparse=model.sparse is not None,
            multi=None if model.multi is None else model.multi.out_features,
        )
    state = model.state_dict()
    name = "backbone.word_embeddings.weight"
    state[name] = state[name][torch.from_numpy(rows)]
    small.load_state_dict(state, assign=True)
    return small.eval()


def _encode(checkpoint: Checkpoint, texts: Sequence[str]) -> Embeddings | None:
    encoder = Encoder(checkpoint)
    return encoder.encode(texts, heads=encoder.heads, max_length=LENGTH) if texts else None


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in weight_files(folder))


def _compare(
    before: Embeddings | None, after: Embeddings | None, rows: Ids
) -> tuple[dict[Head, float], dict[Head, float]]:
    """Largest differences of two models' representations of the same texts, and of their scores."""
    values: dict[Head, float] = {}
    scores: dict[Head, float] = {}
    if before is None or after is None:
        return values, scores
    for head in after.heads:
        old, new = getattr(before, head), getattr(after, head)
        if head == "sparse":
            old, new = old.to_scipy()[:, rows], new.to_scipy()
        values[head] = _largest(old, new)
        scores[head] = _largest(SCORES[head](before, before), SCORES[head](after, after))
    return values, scores


def _largest(left: Any, right: Any) -> float:
    return float(abs(left.astype(np.float32) - right.astype(np.float32)).max())
