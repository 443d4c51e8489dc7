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
import tempfile
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from safetensors import safe_open
from tokenizers import Tokenizer as Backend

from tercet.checkpoint import (
    EMBEDDINGS,
    Checkpoint,
    fetch,
    load_torch,
    read_checkpoint,
    weight_files,
    write_checkpoint,
)
from tercet.config import HEADS, Head
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError
from tercet.model import M3Model
from tercet.rows import tagged_texts, text_files
from tercet.scores import dense_scores, lexical_scores, maxsim_scores
from tercet.tokenizer import CLS, EOS, MASK, PAD, UNK, Tokenizer

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
) -> Iterator[tuple[list[str], sp.csr_array]]:
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
            if counter.words > words or counter.characters > REMEMBERED:
                counter = _WordCounter(tokenizer)
    if texts:
        yield languages, counter.counts(texts)


class _WordCounter:
    """Counts the ids of texts by those of their words, which it remembers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        content = json.loads(tokenizer.backend.to_str())
        added = [str(token["content"]) for token in content["added_tokens"]]
        self.characters = 0
        self._tokenizer = tokenizer
        self._cut = _may_be_cut(content) and _cuts_at_spaces(tokenizer)
        self._numbers = _WordNumbers(added)
        self._ids = np.zeros(0, dtype=np.int32)
        self._ends = np.zeros(1, dtype=np.int64)

    @property
    def words(self) -> int:
        return len(self._numbers)

    def counts(self, texts: Sequence[str]) -> sp.csr_array:
        """How often each id occurs in each text, (B, V) int32."""
        words, ends = array("i"), array("q", [0])
        for text in texts:
            self._add(text, words)
            ends.append(len(words))
        self._tokenise()
        # a row may name a word twice: the product adds them up
        ones = np.ones(max(len(words), len(self._ids)), dtype=np.int32)
        of_texts = (ones[: len(words)], np.array(words, np.int32), np.array(ends, np.int64))
        of_words = (ones[: len(self._ids)], self._ids, self._ends)
        members = sp.csr_array(of_texts, shape=(len(texts), self.words))
        ids = sp.csr_array(of_words, shape=(self.words, self._tokenizer.vocabulary))
        return members @ ids

    def _add(self, text: str, words: "array[int]") -> None:
        """Appends the numbers of a text's words, or its own where it cannot be cut."""
        numbers = self._numbers
        if self._cut and not text.endswith((" ", "\n")):
            start = len(words)
            numbers.odd = False
            words.extend(map(numbers.__getitem__, text.replace("\n", " ").split(" ")))
            if not numbers.odd:
                return
            del words[start:]
        words.append(numbers.whole(text))

    def _tokenise(self) -> None:
        """The ids of the words that were numbered last."""
        new, self._numbers.new = self._numbers.new, []
        ids, ends = [self._ids], [self._ends]
        for first in range(0, len(new), BLOCK):
            contents = self._tokenizer.contents(new[first : first + BLOCK])
            sizes = np.fromiter(map(len, contents), dtype=np.int64, count=len(contents))
            flat = chain.from_iterable(contents)
            ids.append(np.fromiter(flat, dtype=np.int32, count=int(sizes.sum())))
            ends.append(ends[-1][-1] + np.cumsum(sizes))
        self._ids, self._ends = np.concatenate(ids), np.concatenate(ends)
        self.characters += sum(map(len, new))


class _WordNumbers(dict[str, int]):
    """The number of each word, given when it is first asked for; -1 where none may be made.

    That is a word beside whose space another rule than the space's may hold: `odd` is set then.
    """

    def __init__(self, added: Sequence[str]) -> None:
        super().__init__()
        self.odd = False
        self.new: list[str] = []  # not yet tokenised
        self._added = re.compile("|".join(map(re.escape, added)) or r"(?!)").search

    def __missing__(self, word: str) -> int:
        if _joins(word) or self._added(word):
            self.odd = True
            return -1
        return self._number(word, word)

    def whole(self, text: str) -> int:
        """The number of a text that is not cut."""
        key = f" {text}"  # no word has a space
        return self[key] if key in self else self._number(key, text)

    def _number(self, key: str, word: str) -> int:
        self.new.append(word)
        self[key] = number = len(self)
        return number


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


def _may_be_cut(content: dict[str, Any]) -> bool:
    """Whether the ids of a text are those of its words between spaces, one after the other.

    They are where whatever a space parts is normalised alone, runs of spaces are as one, and no
    piece spans two words; so with all that XLM-RoBERTa's converters wrote.
    """
    normal = _steps(content["normalizer"], "normalizers")
    split = _steps(content["pre_tokenizer"], "pretokenizers")
    runs = [
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": space}
        for space in (" ", SPACE)
    ]
    words = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    return (
        content["model"].get("type") == "Unigram"
        and normal[-1:] in ([runs[0]], [runs[1]])
        and {step["type"] for step in normal[:-1]} <= {"Precompiled", "Nmt", "NFKC", "Strip"}
        and split in ([words], [{"type": "WhitespaceSplit"}, words])
        and not any(
            token["normalized"] or len(str(token["content"]).split()) != 1
            for token in content["added_tokens"]
        )
    )


def _steps(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The steps of a sequence, or the one."""
    if step is None:
        return []
    return list(step[name]) if step["type"] == "Sequence" else [step]


def _cuts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether spaces and ends of lines are nothing but what parts words: a charsmap may differ."""
    first, second, *both = tokenizer.contents(["a", "b", "a b", "a\nb"])
    return all(ids == first + second for ids in both)


@dataclass(frozen=True)
class LanguageCounts:
    """How often each id occurs in the text of each of L languages: counts (L, V) int64."""

    languages: tuple[str, ...]
    counts: sp.csr_array

    @staticmethod
    def empty(vocabulary: int) -> "LanguageCounts":
        return LanguageCounts((), sp.csr_array((0, vocabulary), dtype=np.int64))

    def plus(self, languages: Sequence[str], block: sp.csr_array) -> "LanguageCounts":
        """With the counts (B, V) of texts in these languages."""
        numbers = {language: row for row, language in enumerate(self.languages)}
        rows = [numbers.setdefault(language, len(numbers)) for language in languages]
        member = (np.ones(len(rows), dtype=np.int64), (rows, np.arange(len(rows))))
        added = sp.csr_array(member, shape=(len(numbers), len(rows))) @ block
        known = self.counts.copy()
        known.resize(added.shape)
        return LanguageCounts(tuple(numbers), known + added)


def count_languages(tokenizer: Tokenizer, tagged: Tagged) -> LanguageCounts:
    """Counts the ids of (language, text) pairs, each occurrence once."""
    counts = LanguageCounts.empty(tokenizer.vocabulary)
    for languages, block in token_counts(tokenizer, tagged):
        counts = counts.plus(languages, block)
    return counts


# 2. Scoring


def balanced(found: LanguageCounts, probabilities: Scores, *, alpha: float, prior: float) -> Scores:
    """A score of each id in which languages weigh by (their tokens) ** alpha, (V,), sum 1.

    `prior` is the share of the tokenizer's probability of each id, (V,); ids that it gives none
    (special tokens) have none. Raises InputError where alpha or prior is not in 0 to 1.
    """
    for name, value in (("alpha", alpha), ("prior", prior)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} is from 0 to 1, got {value}")
    first = probabilities / probabilities.sum()
    counts = sp.csr_array(found.counts.multiply(probabilities > 0))
    tokens = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    weights = np.where(tokens > 0, np.maximum(tokens, 1) ** alpha, 0.0)
    if not weights.any():
        return np.asarray(first, dtype=np.float64)
    seen = counts.T @ (weights / np.maximum(tokens, 1)) / weights.sum()
    return np.asarray((1 - prior) * seen + prior * first, dtype=np.float64)


def evened(
    found: LanguageCounts,
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
    counts = sp.csr_array(found.counts.multiply(probabilities > 0))
    tokens = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    rows = np.flatnonzero(tokens >= LEAST)
    if not len(rows):
        return balanced(found, probabilities, alpha=0.0, prior=prior)
    shares = sp.csr_array(counts[rows].multiply(1 / tokens[rows][:, None]))
    weights = np.ones(len(rows))
    first = probabilities / probabilities.sum()
    for _ in range(ROUNDS):
        seen = shares.T @ (weights / weights.sum())
        scores = np.asarray((1 - prior) * seen + prior * first, dtype=np.float64)
        out = free.copy()
        out[np.argsort(-np.where(free, scores, 0), kind="stable")[:room]] = False
        lost = shares @ out.astype(np.float64)
        weights *= np.sqrt(np.maximum(lost, 1e-3) / max(lost.mean(), 1e-3))
    return scores


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
    found = count_languages(tokenizer, tagged_texts(files))
    if even is None:
        return balanced(found, probabilities, alpha=alpha, prior=prior)
    subwords = (tokenizer.backend.id_to_token(id) or "" for id in range(tokenizer.vocabulary))
    free = ~np.array([_stays(subword) for subword in subwords]) & (probabilities > 0)
    room = max(0, even - int((~free).sum()))
    return evened(found, probabilities, free, room, prior=prior)


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
    vocab: list[list[Any]] = model["vocab"]
    subwords = [str(subword) for subword, _ in vocab]
    log_probs = dict(zip(subwords, (float(log) for _, log in vocab), strict=True))
    added = {str(token["content"]): int(token["id"]) for token in content["added_tokens"]}
    behind = {token: id for token, id in added.items() if token not in log_probs}
    old = {subword: id for id, subword in enumerate(subwords)} | behind
    if len(old) != len(scores):
        raise InputError(f"{name}: {len(scores)} scores for a vocabulary of {len(old)}")
    last = [MASK] if MASK in old else []
    special = {*FIRST, *last}
    must = {
        id
        for id, subword in enumerate(subwords)
        if subword not in special and (_stays(subword) or subword in added)
    }
    lowest = min(range(len(vocab)), key=lambda id: float(vocab[id][1]))
    must |= {lowest} if subwords[lowest] not in special else set()
    extra = [token for token in behind if token not in special]
    room = size - len(special) - len(must) - len(extra)
    if room < 0:
        raise InputError(f"{size} ids are too few: {len(must)} single characters must stay")
    ranked = np.argsort(-scores[: len(subwords)], kind="stable").tolist()
    chosen = [
        id for id in ranked if scores[id] > 0 and id not in must and subwords[id] not in special
    ]
    new = [[token, log_probs.get(token, 0.0)] for token in FIRST]
    new += [vocab[id] for id in sorted({*must, *chosen[:room]})]
    new += [[token, log_probs.get(token, 0.0)] for token in last]
    order = [str(subword) for subword, _ in new] + extra
    ids = {subword: id for id, subword in enumerate(order)}
    content["added_tokens"] = [
        {**token, "id": ids[str(token["content"])]} for token in content["added_tokens"]
    ]
    content["model"] = {**model, "vocab": new, "unk_id": ids[UNK]}
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
    if target.exists():
        raise InputError(f"{target} exists already: remove it or choose another folder")
    found = text_files(files)
    folder = fetch(source, revision)
    checkpoint = read_checkpoint(folder)
    old, settings = checkpoint.tokenizer, checkpoint.settings
    prefixes = sorted({settings.query_prefix, settings.passage_prefix})
    chosen = Reservoir(sample)

    def prefixed() -> Iterator[tuple[str, str]]:
        """Every text behind every prefix that the model puts before texts, with its language."""
        for language, text in tagged_texts(found):
            if chosen.seen % 1000 == 0:
                watch("counting", chosen.seen)
            chosen.add(text)
            yield from ((language, prefix + text) for prefix in prefixes)

    with tempfile.TemporaryFile() as file:
        ids = TextIds(file) if vocabulary is not None else None  # else all that is used stays
        scores = score_ids(old, prefixed(), balance=balance, ids=ids)
        if not chosen.seen:
            raise InputError(f"no text in {', '.join(str(path) for path in found)}")
        name = f"the tokenizer of {folder}"
        new, rows = prune_tokenizer(old, scores, vocabulary or old.vocabulary, name=name)
        gone = np.ones(old.vocabulary, dtype=np.bool_)
        gone[rows] = False
        changed = 0 if ids is None else ids.texts_with(gone, len(prefixes))

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
        """The next text of the stream."""
        self.seen += 1
        if len(self.texts) < self.size:
            self.texts.append(text)
        elif (place := self._draw.randrange(self.seen)) < self.size:
            self.texts[place] = text


def score_ids(
    tokenizer: Tokenizer, tagged: Tagged, *, balance: bool = False, ids: "TextIds | None" = None
) -> Ids | Scores:
    """The number of texts that each id occurs in or, with balance, its balanced score, (V,).

    The ids of each text go to `ids`, too.
    """
    frequency = np.zeros(tokenizer.vocabulary, dtype=np.int64)
    counts = LanguageCounts.empty(tokenizer.vocabulary)
    for languages, block in token_counts(tokenizer, tagged):
        frequency += np.bincount(block.indices, minlength=len(frequency))
        if ids is not None:
            ids.add(block)
        if balance:
            counts = counts.plus(languages, block)
    if not balance:
        return frequency
    return balanced(counts, subword_probabilities(tokenizer), alpha=ALPHA, prior=0.0)


class TextIds:
    """The different ids of each text, in an open file: 4 bytes each."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._blocks = 0

    def add(self, block: sp.csr_array) -> None:
        """Those of the next texts, from a block of `token_counts`."""
        np.save(self._file, block.indptr)
        np.save(self._file, block.indices.astype(np.int32))
        self._blocks += 1

    def texts_with(self, gone: npt.NDArray[np.bool_], each: int) -> int:
        """How many texts, of so many rows each, have any of the ids that are marked, (V,)."""
        self._file.seek(0)
        marks = np.zeros(0, dtype=np.bool_)
        for _ in range(self._blocks):
            ends, ids = np.load(self._file), np.load(self._file)
            before = np.concatenate(([0], np.cumsum(gone[ids])))
            marks = np.concatenate((marks, before[ends[1:]] > before[ends[:-1]]))
        return int(marks.reshape(-1, each).any(axis=1).sum())


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


def stored_dtypes(folder: Path) -> tuple[torch.dtype, torch.dtype | None]:
    """The dtypes that hold a checkpoint's weights as they are, as `write_checkpoint` takes them.

    The first is that of all weights, float32 where they do not share one; the second that of the
    embeddings where these are in float8.
    """
    kinds: set[str] = set()
    heads = [path for path in folder.glob("*_linear.*") if path.suffix in (".pt", ".safetensors")]
    for path in [*weight_files(folder), *heads]:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                kinds |= {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
        else:
            kinds |= {str(tensor.dtype) for tensor in load_torch(path).values()}
    embeddings = EMBEDDINGS if "F8_E5M2" in kinds else None
    kinds.discard("F8_E5M2")
    for dtype, names in (
        (torch.float16, {"F16", "torch.float16"}),
        (torch.bfloat16, {"BF16", "torch.bfloat16"}),
    ):
        if kinds and kinds <= names:
            return dtype, embeddings
    return torch.float32, None


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
    if before is None or after is None:
        return values, {}
    if before.dense is not None and after.dense is not None:
        values["dense"] = _largest(before.dense, after.dense)
    if before.sparse is not None and after.sparse is not None:
        values["sparse"] = float(abs(before.sparse[:, rows] - after.sparse).max())
    if before.multi is not None and after.multi is not None:
        values["multi"] = _largest(before.multi, after.multi)
    functions = {"dense": dense_scores, "sparse": lexical_scores, "multi": maxsim_scores}
    scores = {
        head: _largest(functions[head](before, before), functions[head](after, after))
        for head in HEADS
        if head in values
    }
    return values, scores


def _largest(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> float:
    if not left.size:
        return 0.0
    return float(np.abs(left.astype(np.float32) - right.astype(np.float32)).max())
