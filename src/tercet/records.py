"""The plain records of search: documents that are indexed, their chunks, and hits.

Knows nothing of tokens, models, indexes or files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Scalar = str | int | float | bool
Value = Scalar | list[Scalar]  # of a list, a filter matches any member
Payload = Mapping[str, Value]


class Section(NamedTuple):
    """Where a section or a page of a document begins."""

    start: int  # character of the document's text
    level: int  # of its heading, 1 (the highest) to 6; 0: a page
    label: str  # the heading, or the number of the page


@dataclass(frozen=True)
class Document:
    """A text to be indexed, under an id that stays the same when its text changes."""

    id: str
    text: str
    title: str = ""
    source: str = ""  # where it was read from: a path, or a path with "#line"
    language: str | None = None
    metadata: Payload = field(default_factory=dict)  # what `--filter key=value` sees
    outline: tuple[Section, ...] = ()  # in the order of the text


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a text: a chunk of a document, a sentence, a word."""

    start: int
    end: int


@dataclass(frozen=True)
class IndexHit:
    """A stored row that answers a query, with the raw (unweighted) parts of its score.

    A part is None where the index stores no such representation or the query had none; a
    sparse part of 0.0 means that no token was shared.
    """

    id: int
    score: float
    dense: float | None = None
    sparse: float | None = None
    multi: float | None = None


@dataclass(frozen=True)
class Hit:
    """A document (or one chunk of it) that answers a query."""

    id: str  # the document's id
    score: float
    dense: float | None
    sparse: float | None
    multi: float | None
    text: str  # the chunk's text
    span: Span  # where the chunk stands in the document's text
    title: str = ""
    source: str = ""
    language: str | None = None
    metadata: Payload = field(default_factory=dict)
    exact: float | None = None  # share of the query's identifiers that it holds; None: it has none
    headings: tuple[str, ...] = ()  # under which the chunk stands, the highest first
    page: int | None = None  # on which it starts, from 1
    sentence: Span | None = None  # of `text`, the one that matches best; None: not looked for
    marks: tuple[Span, ...] = ()  # words of `text` that the query shares
