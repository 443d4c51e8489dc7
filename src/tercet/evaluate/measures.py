"""Measures of runs, per query and averaged: those of `ir_measures`, and answers found (MKQA).

Needs the extra `tercet[evaluate]`. Queries without a relevant passage are left out; queries that a
run lacks count 0. Both are counted. Knows nothing of models or files.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError, MissingExtraError
from tercet.evaluate.answers import Answers, joined_tokens
from tercet.evaluate.tasks import Bitext, Task
from tercet.evaluate.trec import Run
from tercet.scores import Places

BLOCK = 256  # queries measured at once: ir_measures takes a run as dictionaries
ACCURACY = ("Accuracy left-right", "Accuracy right-left")  # of a Bitext
_ANSWERS = re.compile(r"AnswerRecall@([1-9]\d*)")
COMMON = "nDCG@10, Recall@100, RR@10, AP, P@10, Success@5, AnswerRecall@100"


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

    def mean_by(self, groups: Mapping[str, str]) -> dict[str, float]:
        """The mean of each group of queries, such as those of one language; the rest are ""."""
        of: dict[str, list[float]] = {}
        for query, value in zip(self.queries, self.values.tolist(), strict=True):
            of.setdefault(groups.get(query, ""), []).append(value)
        return {name: float(np.mean(values)) for name, values in sorted(of.items())}


@dataclass(frozen=True)
class Averages:
    """Means of one measure over the tasks of a suite."""

    tasks: float  # each task once
    by_language: Mapping[str, float]  # over a language's tasks
    languages: float  # each language once


def check_measures(names: Sequence[str]) -> None:
    """Raises InputError for an unknown name, before any work is done."""
    for name in names:
        if not _ANSWERS.fullmatch(name):
            _parse(name)


def check_task(task: Task, names: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Measures on judgements, and the depths of those on answers.

    Raises InputError for an unknown measure, or one that the task has no judgements for.
    """
    check_measures(names)
    depths = {
        name: int(match[1]) for name in names if (match := _ANSWERS.fullmatch(name)) is not None
    }
    judged = [name for name in names if name not in depths]
    if judged and task.answers is not None:
        raise InputError(
            f"{task.name} has answer strings, no judgements: measure AnswerRecall@k, not "
            f"{judged[0]}"
        )
    if depths and task.answers is None:
        raise InputError(f"{task.name} has no answer strings: {next(iter(depths))} needs them")
    return judged, depths


def measure(
    task: Task, runs: Mapping[str, Run], names: Sequence[str] | None = None
) -> dict[str, dict[str, Values]]:
    """Run name -> measure -> values; the measures are the task's own where none are named.

    Reads the task's corpus once where an AnswerRecall@k is among them. Raises InputError for an
    unknown measure, or one that the task has no judgements for.
    """
    wanted = task.protocol.measures if names is None else names
    judged, depths = check_task(task, wanted)
    found: dict[str, dict[str, Values]] = {}
    ranks = first_answers(task, runs, max(depths.values())) if depths else {}
    for run_name, run in runs.items():
        of = _judged(task, run, judged) if judged else {}
        if depths:
            queries, skipped = _answerable(task)
            missing = len(set(queries) - set(_found(run)))
            for name, depth in depths.items():
                values = (ranks[run_name] <= depth).astype(np.float64)
                of[name] = Values(name, queries, values, missing, skipped)
        found[run_name] = {name: of[name] for name in wanted}
    return found


def average(tasks: Iterable[tuple[str, float]]) -> Averages:
    """From the language and mean of each task; a NaN mean (no query counts) is left out."""
    means = [(language, mean) for language, mean in tasks if not np.isnan(mean)]
    of: dict[str, list[float]] = {}
    for language, mean in means:
        of.setdefault(language, []).append(mean)
    by_language = {language: float(np.mean(some)) for language, some in sorted(of.items())}
    return Averages(
        tasks=float(np.mean([mean for _, mean in means])) if means else float("nan"),
        by_language=by_language,
        languages=float(np.mean(list(by_language.values()))) if means else float("nan"),
    )


def bitext_accuracy(task: Bitext, to_right: Places, to_left: Places) -> dict[str, Values]:
    """Accuracy in both directions, pair by pair.

    to_right (n,): place of the right side found for each left one; to_left the other way. A text
    that stands there several times is right wherever it is found.
    """
    pairs = tuple(str(number) for number in range(len(task.left)))
    out = {}
    for name, places, texts in (
        (ACCURACY[0], to_right, task.right),
        (ACCURACY[1], to_left, task.left),
    ):
        hits = [texts[place] == text for place, text in zip(places.tolist(), texts, strict=True)]
        out[name] = Values(name, pairs, np.array(hits, dtype=np.float64))
    return out


def _judged(task: Task, run: Run, names: Sequence[str]) -> dict[str, Values]:
    """Values of measures that ir_measures has."""
    measures: dict[Any, list[str]] = {}
    for name in names:  # of which two may mean the same
        measures.setdefault(_parse(name), []).append(name)
    judged = [query for query in task.queries if query in task.qrels]
    queries = tuple(q for q in judged if any(gain > 0 for gain in task.qrels[q].values()))
    places = {query: place for place, query in enumerate(queries)}
    numbers = _found(run)
    values = {name: np.zeros(len(queries)) for name in names}
    for first in range(0, len(queries), BLOCK):
        some = [query for query in queries[first : first + BLOCK] if query in numbers]
        if not some:
            continue
        found = {query: dict(zip(*run.of_query(numbers[query]), strict=True)) for query in some}
        gains = {query: dict(task.qrels[query]) for query in some}
        for result in _pipeline().iter_calc(list(measures), gains, found):
            for name in measures[result.measure]:
                values[name][places[result.query_id]] = result.value
    missing = sum(query not in numbers for query in queries)
    skipped = len(task.queries) - len(queries)
    return {name: Values(name, queries, values[name], missing, skipped) for name in names}


def _found(run: Run) -> dict[str, int]:
    """The queries that found something, with their numbers: a file has no line of the others."""
    return {run.queries[number]: number for number in np.flatnonzero(np.diff(run.starts)).tolist()}


def _answerable(task: Task) -> tuple[tuple[str, ...], int]:
    """The queries that have answers, and the number of those that have none."""
    assert task.answers is not None
    queries = tuple(query for query in task.queries if task.answers.get(query))
    return queries, len(task.queries) - len(queries)


def first_answers(task: Task, runs: Mapping[str, Run], depth: int) -> dict[str, Places]:
    """Run name -> rank, from 1, of the first passage with an answer; depth + 1 where none has.

    (Q,), Q the queries with answers, in order. Reads the corpus once.
    """
    assert task.answers is not None
    queries, _ = _answerable(task)
    answers = [Answers(task.answers[query]) for query in queries]
    places = {query: place for place, query in enumerate(queries)}
    ranks = np.full((len(runs), len(queries)), depth + 1, dtype=np.int64)
    numbers: dict[str, int] = {}  # of the passages found
    parts = []  # of passage, run, query, rank: one column a pair
    for row, run in enumerate(runs.values()):
        best = run.top(depth)
        sizes = np.diff(best.starts)
        passage = [numbers.setdefault(name, len(numbers)) for name in best.passages]
        query = np.repeat([places.get(name, -1) for name in best.queries], sizes)
        rank = np.arange(len(passage)) - np.repeat(best.starts[:-1], sizes) + 1
        pairs = np.stack((np.array(passage, np.int64), np.full(len(rank), row), query, rank))
        parts.append(pairs[:, query >= 0])
    found = np.concatenate(parts, axis=1)
    found = found[:, np.argsort(found[0], kind="stable")]
    ends = np.searchsorted(found[0], np.arange(len(numbers) + 1))
    for name, text in task.corpus.read():
        number = numbers.get(name)
        if number is None:
            continue
        tokens = joined_tokens(text)
        known: dict[int, bool] = {}  # by query: the runs of a task find much the same
        for row, asked, rank in found[1:, ends[number] : ends[number + 1]].T.tolist():
            if rank < ranks[row, asked]:
                if asked not in known:
                    known[asked] = answers[asked].in_tokens(tokens)
                if known[asked]:
                    ranks[row, asked] = rank
    return dict(zip(runs, ranks, strict=True))


def _parse(name: str) -> Any:
    ir_measures = _library()
    problem = ""
    try:
        parsed = ir_measures.parse_measure(name)
        cutoff = parsed.params.get("cutoff", 1)
        if not isinstance(cutoff, int) or cutoff < 1:
            problem = f"{cutoff!r} is no number of ranks"
        elif not _pipeline().supports(parsed):
            problem = "it needs a library that is not installed"
        elif not isinstance(parsed.aggregator(), ir_measures.MeanAgg):
            problem = "it counts, and has no mean over queries"
    except NameError:
        problem = "its name is unknown"
    except (ValueError, KeyError, TypeError):
        problem = "it is not of the form nDCG@10 or SetF(beta=2)"
    except AssertionError:  # how the library refuses parameters
        problem = "a parameter is missing or wrong, such as the 10 in nDCG@10"
    if problem:
        raise InputError(f"no measure {name!r}: {problem}; common ones are {COMMON}")
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
            "measures need ir_measures: pip install 'tercet[evaluate]'"
        ) from error
    return ir_measures
