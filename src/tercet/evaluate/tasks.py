"""What is evaluated: corpora, queries and judgements, as every suite's loader gives them.

Knows nothing of files, models or measures.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tercet.config import MAX_LENGTH, PAPER_WEIGHTS, PAPER_WEIGHTS_LONG, Weights
from tercet.rows import passage_text

Rows = Iterator[tuple[str, str, str]]  # id, title ("" where there is none), text
Qrels = Mapping[str, Mapping[str, int]]  # query id -> passage id -> gain; what is absent is 0


@dataclass(frozen=True)
class Corpus:
    """The passages that queries search; read again each time, so that they need not fit in memory.

    Tasks that search the same passages share one Corpus, which is encoded once.
    """

    name: str
    rows: Callable[[], Rows]  # raises InputError on a repeated id

    def read(self) -> Iterator[tuple[str, str]]:
        """Ids and passages."""
        for key, title, text in self.rows():
            yield key, passage_text(title, text)


@dataclass(frozen=True)
class Protocol:
    """How a suite is measured, as the paper does; `None` weights are the model's own."""

    measures: tuple[str, ...] = ("nDCG@10", "Recall@100")  # names of ir_measures, or AnswerRecall@k
    query_tokens: int = 512
    passage_tokens: int = MAX_LENGTH
    # M3 paper, section 4.1 and appendix: multi-vector and "all" re-rank the best of dense,
    # dense+sparse the union of the best of each
    rerank: int = 200
    union: int = 1000
    two: Weights | None = None  # of dense+sparse
    three: Weights | None = None  # of all


# M3 paper (arXiv 2402.03216 v4), appendix on hybrid retrieval.
PAPER = Protocol(two=Weights(1.0, 0.3, 0.0), three=PAPER_WEIGHTS)
PAPER_LONG = Protocol(two=Weights(0.2, 0.8, 0.0), three=PAPER_WEIGHTS_LONG)


@dataclass(frozen=True)
class Task:
    """Queries over one corpus with judgements; one row of a report."""

    name: str  # "miracl/sw"
    suite: str  # "miracl"
    language: str  # "" where it is not known
    corpus: Corpus
    queries: Mapping[str, str]  # id -> text, in order
    qrels: Qrels = field(default_factory=dict)
    # MKQA has no judgements but strings, one of which must occur in a passage: query id -> strings
    answers: Mapping[str, tuple[str, ...]] | None = None
    protocol: Protocol = Protocol()
    languages: Mapping[str, str] = field(default_factory=dict)  # of queries, where they differ
    # what is put before a query's text in place of the model's prefix, where its row says
    prompts: Mapping[str, str] = field(default_factory=dict)
    source: str = ""  # where the files came from: a folder, or dataset@commit of the hub
    ignore_identical_ids: bool = False  # a passage under the query's own id is no hit
    notes: tuple[str, ...] = ()  # what a reader of the figures should know

    def of_languages(self, languages: Collection[str]) -> "Task | None":
        """The task with the queries of these languages alone; None where there are none."""
        if not self.languages:
            return self if self.language in languages else None
        chosen = {query for query in self.queries if self.languages.get(query) in languages}
        if not chosen:
            return None
        parts: dict[str, Any] = {
            name: {query: of for query, of in getattr(self, name).items() if query in chosen}
            for name in ("queries", "qrels", "languages", "prompts")
        }
        return replace(self, **parts)


@dataclass(frozen=True)
class Bitext:
    """Translations: side a of pair i is to find side b of pair i among all, and the other way."""

    name: str  # "tatoeba/deu"
    suite: str
    language: str
    left: tuple[str, ...]
    right: tuple[str, ...]

    def of_languages(self, languages: Collection[str]) -> "Bitext | None":
        """The pairs, where they are of one of these languages."""
        return self if self.language in languages else None
