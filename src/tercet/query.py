"""Query vectors to hits: the best chunk per document out of ranked rows of the index.

Knows nothing of texts' meaning, models or files.
"""

from collections.abc import Sequence

from tercet.config import MODES, Mode, Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.index.base import Filter, Index
from tercet.records import Hit, IndexHit
from tercet.store import Store

FETCH, MORE = 3, 4  # chunks asked for per document wanted; times that where they do not do


def check_questions(questions: Sequence[str], k: int, mode: str) -> None:
    """Refuses what cannot be asked, before a model is loaded; raises InputError."""
    if isinstance(questions, str):
        raise InputError(f"search takes a list of questions: give [{questions!r}]")
    if k < 1:
        raise InputError(f"k is {k}: ask for at least 1 document")
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")
    for number, question in enumerate(questions, 1):
        if not isinstance(question, str) or not question.strip():
            raise InputError(f"question {number} of {len(questions)} is empty: ask something")


def best_hits(
    store: Store,
    index: Index,
    queries: Embeddings,
    *,
    k: int,
    mode: Mode,
    weights: Weights,
    candidates: int | None,
    filter: Filter | None,
    chunks: bool,
) -> list[list[Hit]]:
    """For each query the hits of the k best documents (of the k best chunks), best first.

    Asks the index for more rows until there are k documents or no more rows.
    """
    out: list[list[Hit]] = [[] for _ in range(len(queries))]
    waiting = list(range(len(queries)))
    fetch = k if chunks else FETCH * k
    while waiting:
        found = index.search(
            queries[waiting],
            k=fetch,
            mode=mode,
            weights=weights,
            candidates=candidates,
            filter=filter,
        )
        short = []
        for place, rows in zip(waiting, found, strict=True):
            out[place] = _hits(store, rows, k, chunks)
            if len(out[place]) < k and len(rows) == fetch < len(index):
                short.append(place)
        waiting, fetch = short, MORE * fetch
    return out


def _hits(store: Store, rows: Sequence[IndexHit], k: int, chunks: bool) -> list[Hit]:
    stored = store.chunks([row.id for row in rows])
    out: list[Hit] = []
    seen: set[str] = set()
    for row in rows:
        chunk = stored.get(row.id)
        if chunk is None:
            continue  # on its way in or out
        document = chunk.document
        if not chunks and document.id in seen:
            continue
        seen.add(document.id)
        out.append(
            Hit(
                id=document.id,
                score=row.score,
                dense=row.dense,
                sparse=row.sparse,
                multi=row.multi,
                text=document.text,
                span=chunk.span,
                title=document.title,
                source=document.source,
                language=document.language,
                metadata=document.metadata,
            )
        )
        if len(out) == k:
            break
    return out
