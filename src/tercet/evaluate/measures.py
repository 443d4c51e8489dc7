"""Measures of runs, per query and averaged: nDCG, Recall, P and Success to a rank, as trec_eval has
them; answers found (MKQA); by other names those of `ir_measures`.

These others need the extra `tercet[evaluate]`. Queries without a relevant passage are left out;
queries that a run lacks count 0. Both are counted. Knows nothing of models or files.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError, MissingExtraError
from tercet.evaluate.tasks import Bitext, Task
from tercet.evaluate.trec import Run
from tercet.scores import Places

ACCURACY = ("Accuracy left-right", "Accuracy right-left")  # of a Bitext
_ANSWERS = re.compile(r"AnswerRecall@([1-9]\d*)")
_OWN = re.compile(r"(nDCG|Recall|R|P|Success)@([1-9]\d*)")
_WITHOUT = "nDCG@k, Recall@k, P@k, Success@k and AnswerRecall@k"
_COMMON = "nDCG@10, Recall@100, RR@10, AP, P@10, Success@5, AnswerRecall@100"


@dataclass(frozen=True)
class Values:
    """One measure of one run on one task, query by query."""

    measure: str
    queries: tuple[str, ...]  # that count, in the task's order: the same for every run
    values: npt.NDArray[np.float64]  # (Q,)
    missing: int = 0  # of them, those for which the run has no passage: 0 each
    skipped: int = 0  # judged or asked queries without a relevant passage: not among them

    @property
    def mean(self) -> float:
        """NaN where no query counts."""
        return float(self.values.mean()) if len(self.values) else float("nan")


def check_measures(names: Sequence[str]) -> None:
    """Raises InputError for an unknown name, or none, before any work is done."""
    if not names:
        raise InputError(f"no measure is named: common ones are {_COMMON}")
    for name in names:
        if not (_ANSWERS.fullmatch(name) or _OWN.fullmatch(name)):
            _parse(name)


def check_task(task: Task, names: Sequence[str]) -> None:
    """Raises InputError for an unknown measure, or one that the task has no judgements for."""
    check_measures(names)
    for name in names:
        if bool(_ANSWERS.fullmatch(name)) != (task.answers is not None):
            problem = "has no answer strings: AnswerRecall@k needs them"
            if task.answers is not None:
                problem = f"has answer strings, no judgements: measure AnswerRecall@k, not {name}"
            raise InputError(f"{task.name} {problem}")


def measure(
    task: Task, runs: Mapping[str, Run], names: Sequence[str] | None = None
) -> dict[str, dict[str, Values]]:
    """Run name -> measure -> values; the measures are the task's own where none are named.

    Reads the task's corpus once where they are AnswerRecall@k. Raises InputError for an unknown
    measure, or one that the task has no judgements for.
    """
    names = task.protocol.measures if names is None else names
    check_task(task, names)
    if task.answers is None:
        return {run_name: _judged(task, run, names) for run_name, run in runs.items()}
    depths = {name: int(name.partition("@")[2]) for name in names}
    queries = tuple(query for query in task.queries if task.answers.get(query))
    skipped = len(task.queries) - len(queries)
    ranks = _first_answers(task, queries, runs, max(depths.values()))
    out: dict[str, dict[str, Values]] = {}
    for run_name, run in runs.items():
        missing = len(set(queries) - _present(run).keys())
        values = {name: (ranks[run_name] <= k).astype(np.float64) for name, k in depths.items()}
        out[run_name] = {
            name: Values(name, queries, of, missing, skipped) for name, of in values.items()
        }
    return out


def bitext_accuracy(task: Bitext, to_right: Places, to_left: Places) -> dict[str, Values]:
    """Accuracy in both directions, pair by pair.

    to_right (n,): place of the right side that is best for each left one; to_left the other way. A
    text that stands there several times is right wherever it is.
    """
    pairs = tuple(str(number) for number in range(len(task.left)))
    sides = ((ACCURACY[0], to_right, task.right), (ACCURACY[1], to_left, task.left))
    out = {}
    for name, places, texts in sides:
        hits = [texts[place] == text for place, text in zip(places.tolist(), texts, strict=True)]
        out[name] = Values(name, pairs, np.array(hits, dtype=np.float64))
    return out


def _judged(task: Task, run: Run, names: Sequence[str], block: int = 256) -> dict[str, Values]:
    """Values by judgements; ir_measures takes a run as dictionaries, so in blocks."""
    own = {name: match for name in names if (match := _OWN.fullmatch(name))}
    measures: dict[Any, list[str]] = {}
    for name in names:  # of which two may mean the same
        if name not in own:
            measures.setdefault(_parse(name), []).append(name)
    judged = (query for query in task.queries if query in task.qrels)
    queries = tuple(q for q in judged if any(gain > 0 for gain in task.qrels[q].values()))
    places = {query: place for place, query in enumerate(queries)}
    numbers = _present(run)
    values = {name: np.zeros(len(queries)) for name in names}
    present = [query for query in queries if query in numbers]
    deepest = max((int(match[2]) for match in own.values()), default=0)
    for query in present if own else ():
        of = task.qrels[query]
        hits = run.of_query(numbers[query])[0][:deepest]
        ranked = np.array([of.get(passage, 0) for passage in hits])
        gains = -np.sort([-gain for gain in of.values() if gain > 0])
        for name, match in own.items():
            values[name][places[query]] = _of_query(match[1], int(match[2]), ranked, gains)
    for first in range(0, len(present) if measures else 0, block):
        part = present[first : first + block]
        runs = {query: dict(zip(*run.of_query(numbers[query]), strict=True)) for query in part}
        qrels = {query: dict(task.qrels[query]) for query in part}
        for result in _pipeline().iter_calc(list(measures), qrels, runs):
            for name in measures[result.measure]:
                values[name][places[result.query_id]] = result.value
    missing, skipped = len(queries) - len(present), len(task.queries) - len(queries)
    return {name: Values(name, queries, values[name], missing, skipped) for name in names}


Gains = npt.NDArray[np.int64]


def _of_query(kind: str, k: int, ranked: Gains, gains: Gains) -> float:
    """A measure of one query, given the gains of its run and those above 0, the largest first.

    nDCG has the gains as they are and log2(1 + rank) (Jarvelin and Kekalainen 2002).
    """
    if kind == "nDCG":
        discounts = 1 / np.log2(np.arange(2, k + 2))
        got, best = (np.maximum(of[:k], 0) @ discounts[: len(of)] for of in (ranked, gains))
        return float(got / best)
    found = int(np.count_nonzero(ranked[:k] > 0))
    of = {"P": k, "Success": max(1, found)}.get(kind, len(gains))
    return float(found / of)


def _present(run: Run) -> dict[str, int]:
    """The queries that have a passage, with their numbers: a file has no line of the others."""
    return {run.queries[number]: number for number in np.flatnonzero(np.diff(run.starts)).tolist()}


def _parse(name: str) -> Any:
    ir_measures = _library()
    try:
        parsed = ir_measures.parse_measure(name)
        cutoff = parsed.params.get("cutoff", 1)
        mean = isinstance(parsed.aggregator(), ir_measures.MeanAgg)  # others count
        usable = mean and isinstance(cutoff, int) and cutoff > 0 and _pipeline().supports(parsed)
    # how the library refuses names, forms and parameters
    except (NameError, ValueError, KeyError, TypeError, AssertionError):
        usable = False
    if not usable:
        raise InputError(
            f"no measure {name!r} that has a mean over queries and needs no other library; common "
            f"ones are {_COMMON}"
        )
    return parsed


def _pipeline() -> Any:
    """What measures: the library's own choice, without gdeval, a Perl script that it would run."""
    library = _library()
    names = ("pytrec_eval", "cwl_eval", "compat", "pyndeval", "judged", "msmarco", "accuracy")
    return library.providers.FallbackProvider([getattr(library, name) for name in names])


def _library() -> Any:
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError(
            f"measures other than {_WITHOUT} need ir_measures: pip install 'tercet[evaluate]'"
        ) from error
    return ir_measures


# Whether an answer string occurs in a passage, as MKQA is measured. Passages are lower-cased and
# their quotes and dashes made plain (the reference's evaluation of the M3 model); then passages and
# answers become NFD and are cut into runs of letters, digits and marks, and single other characters
# (the DPR and Contriever evaluations). An answer occurs where its tokens stand in a row.

_PLAIN: dict[str, str] = {
    # controls that Unicode does not count as blank
    "".join(map(chr, [*range(0x01, 0x09), 0x0E, 0x0F, *range(0x11, 0x1C), 0xAD])): "",
    "\x0b\x0c\x85": " ",
    "‐‑⁃‒–—―−－⁻": "-",
    "“”„‟": '"',
    "‘’‚‛՚Ꞌꞌ＇`´′‵": "'",
    "″‶": "''",
    "‴‷": "'''",
    "⁗": "''''",
    "…": "...",
    "⁄∕": "/",
}
_TABLE = str.maketrans({old: new for olds, new in _PLAIN.items() for old in olds})


def plain(text: str) -> str:
    """A passage as MKQA's evaluation encodes and reads it: lower case, plain quotes and dashes."""
    return text.lower().translate(_TABLE).replace(" . . . ", " ... ")


def tokens(text: str) -> list[str]:
    """The tokens of a text, in lower case."""
    return [token.lower() for token in _pattern().findall(unicodedata.normalize("NFD", text))]


def joined(words: Iterable[str]) -> str:
    """Tokens with a line break, which is never one, around each, so that `in` finds whole ones."""
    return "\n" + "".join(f"{token}\n" for token in words)


def answer_tokens(answers: Iterable[str]) -> list[str]:
    """The `joined` tokens of each answer that has any."""
    return [joined(words) for answer in answers if (words := tokens(answer))]


@cache
def _pattern() -> re.Pattern[str]:
    """Runs of letters, numbers and marks, or one character that is no separator and no control."""

    def kind(code: int) -> str:
        major = unicodedata.category(chr(code))[0]
        return "word" if major in "LNM" else "" if major in "ZC" else "other"

    classes = {"word": "", "other": "", "": ""}
    for name, codes in groupby(range(sys.maxunicode + 1), kind):
        first, *others = codes
        classes[name] += f"\\U{first:08x}-\\U{(others or [first])[-1]:08x}"
    return re.compile(f"[{classes['word']}]+|[{classes['other']}]")


def _first_answers(
    task: Task, queries: Sequence[str], runs: Mapping[str, Run], depth: int
) -> dict[str, Places]:
    """Run name -> rank (Q,), from 1, of the first passage with an answer; depth + 1: none has."""
    assert task.answers is not None
    rows = {query: row for row, query in enumerate(queries)}
    answers = {query: answer_tokens(task.answers[query]) for query in queries}
    ranks = {name: np.full(len(queries), depth + 1, dtype=np.int64) for name in runs}
    hits: dict[str, list[tuple[str, str, int]]] = {}  # passage -> query, run, rank
    for name, run in runs.items():
        for number, query in enumerate(run.queries):
            if query in rows:
                for rank, passage in enumerate(run.of_query(number)[0][:depth], 1):
                    hits.setdefault(passage, []).append((query, name, rank))
    for passage, text in task.corpus.read():
        if passage not in hits:
            continue
        words = joined(tokens(plain(text)))
        has: dict[str, bool] = {}  # by query: the runs of a task rank much the same
        for query, name, rank in hits[passage]:
            if rank < ranks[name][rows[query]]:
                if query not in has:
                    has[query] = any(answer in words for answer in answers[query])
                if has[query]:
                    ranks[name][rows[query]] = rank
    return ranks
