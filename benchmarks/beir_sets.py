"""BEIR folders and two measures: nDCG@10 and Recall@100 of a matrix of scores.

The measures are those of trec_eval: the gain is the grade, ties go to the id that sorts last, and
queries without a relevant passage do not count. Knows nothing of models or representations.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError
from tercet.scores import Scores

DEPTH = 100


@dataclass(frozen=True)
class Dataset:
    """A BEIR folder: passages in descending order of id, the judged queries and their gains."""

    name: str
    passage_ids: list[str]
    passages: list[str]
    queries: list[str]
    gains: list[dict[str, int]]  # one per query: passage id -> gain, those above 0

    def sample(self, count: int) -> "Dataset":
        """The same passages, and at most so many queries, drawn the same every time."""
        if len(self.queries) <= count:
            return self
        drawn = np.sort(np.random.default_rng(0).permutation(len(self.queries))[:count])
        return replace(
            self,
            queries=[self.queries[place] for place in drawn],
            gains=[self.gains[place] for place in drawn],
        )


def read_rows(folder: Path, stem: str) -> Iterator[dict[str, str]]:
    path = folder / f"{stem}.jsonl.gz"
    if not path.exists():
        path = folder / f"{stem}.jsonl"
    if not path.exists():
        raise InputError(
            f"{folder} has neither {stem}.jsonl nor {stem}.jsonl.gz: not a BEIR folder"
        )
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                row["_id"], row["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}, line {number}: no _id and text here") from error
            yield row


def read_gains(path: Path) -> dict[str, dict[str, int]]:
    """Query id -> passage id -> gain, without gains of 0 or less."""
    gains: dict[str, dict[str, int]] = {}
    try:
        lines = path.read_text(encoding="utf-8").strip("\n").split("\n")
    except OSError as error:
        raise InputError(f"cannot read the judgements {path}: {error.strerror}") from error
    for number, line in enumerate(lines[1:], 2):  # the first is the header
        try:
            query, passage, gain = line.split("\t")
            if int(gain) > 0:
                gains.setdefault(query, {})[passage] = int(gain)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not query, passage and whole gain") from error
    return gains


def read_dataset(folder: Path) -> Dataset:
    """Reads one folder; raises InputError where it is not a BEIR folder with a test split."""
    gains = read_gains(folder / "qrels" / "test.tsv")
    corpus = {row["_id"]: row for row in read_rows(folder, "corpus")}
    queries = {row["_id"]: row["text"] for row in read_rows(folder, "queries")}
    if missing := gains.keys() - queries.keys():
        raise InputError(f"{folder}: query {min(missing)} is judged but not in the queries")
    if not gains or not corpus:
        raise InputError(f"{folder}: no passage, or no query with a relevant passage")
    ids = sorted(corpus, reverse=True)
    return Dataset(
        name=folder.name,
        passage_ids=ids,
        passages=[passage_text(corpus[identifier]) for identifier in ids],
        queries=[queries[query] for query in gains],
        gains=list(gains.values()),
    )


def passage_text(row: dict[str, str]) -> str:
    """Title, newline, text; the text alone where the title is empty or absent."""
    return f"{row['title']}\n{row['text']}" if row.get("title") else row["text"]


def measure(
    scores: Scores, data: Dataset, first: int, *, positive: bool
) -> npt.NDArray[np.float64]:
    """nDCG@10 and Recall@100 of queries first.., (Q, P) -> (Q, 2); Jarvelin and Kekalainen 2002.

    `positive` leaves passages with no score above 0 out of the ranking.
    """
    discounts = 1 / np.log2(np.arange(2, 12))
    out = np.zeros((len(scores), 2))
    top = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    for row, ranked in enumerate(top):
        gains = data.gains[first + row]
        kept = ranked[scores[row, ranked] > 0] if positive else ranked
        found = [gains.get(data.passage_ids[i], 0) for i in kept]
        best = sorted(gains.values(), reverse=True)[:10]
        ideal = float(np.dot(best, discounts[: len(best)]))
        out[row, 0] = np.dot(found[:10], discounts[: len(found[:10])]) / ideal
        out[row, 1] = np.count_nonzero(found) / len(gains)
    return out
