"""JSON lines and tables whose fields are a title and a text, a question and an answer and so on.

Extracts of Wikipedia are such rows. Knows nothing of files that are no rows.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tercet.curate.pairs_code import function_pair
from tercet.curate.pairs_documents import article_outline, document_pairs, is_list_of_meanings
from tercet.curate.pairs_sources import (
    DOCUMENT,
    Has,
    Outcome,
    Pair,
    PairOptions,
    Skipped,
    SourceFile,
    Units,
    clean,
    first_reason,
    numbered_lines,
    shorten,
    tag_or_none,
)
from tercet.curate.pairs_translations import translation_pairs
from tercet.documents.base import Problem, undecodable
from tercet.rows import Row, numbered_rows

# The names that fields have where none are given, the most usual first.
NAMES: dict[str, tuple[str, ...]] = {
    "title": ("title", "headline"),
    "text": ("text", "body", "contents", "content", "article", "document", "passage"),
    "abstract": ("abstract", "paperAbstract"),
    "question": ("question", "query"),
    "answer": ("answer", "answers", "long_answer", "best_answer", "response"),
    "instruction": ("instruction", "prompt", "inputs"),
    "input": ("input",),
    "output": ("output", "response", "completion", "targets"),
    "docstring": ("docstring", "func_documentation_string"),
    "code": ("code", "func_code_string"),
    "name": ("func_name",),
    "translation": ("translation",),
    "lang": ("lang", "language"),
    "id": ("id", "_id", "url"),
}
# What a structure needs; without --as the first that fits is made.
ROLES: dict[str, tuple[str, ...]] = {
    "instruction-output": ("instruction", "output"),
    "question-answer": ("question", "answer"),
    "code-docstring": ("docstring", "code"),
    "translations": ("translation",),
    "title-abstract": ("title", "abstract"),
    "title-body": ("title", "text"),
}
# Conversations: the field, who speaks, and what is said.
_TURNS = (("messages", "role", "content"), ("conversations", "from", "value"))
_ASKS, _ANSWERS = ("user", "human"), ("assistant", "gpt")


def read_records(file: SourceFile, options: PairOptions, has: Has) -> Units:
    """Every row as a unit; lines that are none are Problems."""
    path, label = file.paths[0], file.label
    rows: Iterator[tuple[int, Row | Problem]]
    if path.suffix == ".parquet" or path.is_dir():
        rows = ((number - 1, row) for number, row in numbered_rows(path) if has(number - 1))
    else:
        lines = numbered_lines(path, label, has)
        rows = ((n, _parse(raw, f"{label}:{n + 1}")) for n, raw in lines if raw.strip())
    for number, row in rows:
        if isinstance(row, Problem):
            yield number, [row]
        else:
            yield number, list(_Record(row, f"{label}:{number + 1}", options).outcomes())


def _parse(raw: bytes, where: str) -> Row | Problem:
    try:
        row = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        return Problem(where, undecodable(error))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error))
    else:
        if isinstance(row, dict):
            return row
        reason = f"a {type(row).__name__}"
    hint = "`jq -c .[] FILE` writes an array so, `wikiextractor --json` its extracts"
    return Problem(where, f"not a JSON object a line ({reason}): {hint}")


@dataclass(frozen=True)
class _Record:
    """A row, by the roles of its fields."""

    row: Row
    where: str
    options: PairOptions

    def outcomes(self) -> Iterator[Outcome]:
        """The pairs of the structures that are asked for, else of the first that fits."""
        chosen = self.options.structures
        own = [structure for structure in chosen or ROLES if self.has_own_fields(structure)]
        for structure in own if chosen else own[:1]:
            yield from self.from_fields(structure)
        rest = tuple(name for name in chosen if name not in own and name in DOCUMENT)
        title, text = self.text("title"), self.text("text")
        is_article = self.value("title") is not None and self.value("text") is not None
        if is_article and (rest or not (chosen or own)):
            if is_list_of_meanings(title, text):
                yield Skipped("a list of what the title may mean", self.where, text[:200])
                return
            outline = article_outline(title, text, self.lang)
            yield from document_pairs(outline, self.options, self.id, rest or ("title-body",))
        elif not own:
            names = [f"{name}{'' if value else ' (empty)'}" for name, value in self.row.items()]
            fields = f"it has {', '.join(names[:8]) or 'nothing'}"
            yield Skipped("a row without the fields needed: give --field", self.where, fields)

    def value(self, role: str) -> Any:
        """What a field of a role holds, None where there is nothing."""
        given = self.options.fields.get(role)
        values = (_inside(self.row, name) for name in ((given,) if given else NAMES[role]))
        return next((value for value in values if value not in (None, "", [])), None)

    def texts(self, role: str) -> list[str]:
        value = self.value(role)
        texts = map(_stripped, value if isinstance(value, list) else [value])
        return [text for text in texts if text]

    def text(self, role: str) -> str:
        return _stripped(self.value(role))

    def has_own_fields(self, structure: str) -> bool:
        """Whether a structure stands in fields of its own, rather than in the text."""
        if structure == "instruction-output" and self.turns() is not None:
            return True
        roles = ROLES.get(structure, ()) if structure != "title-body" else ()
        return bool(roles) and all(self.value(role) is not None for role in roles)

    @property
    def id(self) -> str:
        own = self.value("id")
        return str(own) if isinstance(own, str | int) else self.where

    @property
    def lang(self) -> str:
        """The language of the row; of a Wikimedia address too: `https://de.wikipedia.org/...`."""
        address = str(self.row.get("url"))
        match = re.match(r"(?:https?:)?//([a-z-]{2,12})\.(?:m\.)?wik[a-z]+\.org\b", address)
        by_field, by_address = tag_or_none(self.text("lang")), tag_or_none(match and match[1])
        return self.options.lang or by_field or by_address

    def from_fields(self, structure: str) -> Iterator[Outcome]:
        """The pairs of a structure that stands in fields of its own."""
        options = self.options
        if structure == "translations":
            sides = self.value("translation")
            pairs = sides.items() if isinstance(sides, dict) else ()
            tagged = {tag_or_none(str(tag)): text for tag, text in pairs if isinstance(text, str)}
            yield from translation_pairs(tagged, options, self.id)
            return
        if structure == "code-docstring":
            name, code = self.text("name").rpartition(".")[2], self.text("code")
            yield from function_pair(name, self.text("docstring"), code, options, self.id)
            return
        query_role, answer_role = ROLES[structure]
        query, texts = self.text(query_role), self.texts(answer_role)
        if structure == "instruction-output":
            query, texts = self.turns() or (query, texts)
            query = "\n".join(filter(None, (query, self.text("input"))))
        long_enough = [text for text in texts if len(text) >= options.min_chars]
        no_text = "a field that is no text: name one inside it, as --field answer=answers.text"
        reason = first_reason(
            (not query or not texts, no_text),
            (not long_enough, "a body shorter than asked"),
            (len(query) > options.max_query_chars, "a query longer than asked"),
        )
        if reason:
            yield Skipped(reason, self.where, f"{query[:100]}: {' / '.join(texts)[:100]}")
        else:
            pos = tuple(shorten(text, options.max_chars) for text in long_enough)
            yield Pair(structure, query, pos, self.id, self.lang)

    def turns(self) -> tuple[str, list[str]] | None:
        """What is asked first in a conversation, and the answer to it."""
        for field, who, what in _TURNS:
            turns = self.row.get(field)
            if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
                for turn, reply in pairwise(turns):
                    if turn.get(who) in _ASKS and reply.get(who) in _ANSWERS:
                        query, answer = _stripped(turn.get(what)), _stripped(reply.get(what))
                        return (query, [answer]) if query and answer else ("", [])
        return None


def _stripped(value: Any) -> str:
    return clean(value).strip() if isinstance(value, str) else ""


def _inside(value: Any, name: str) -> Any:
    """What a name with dots leads to, through lists too: a list of what is in each."""
    if isinstance(value, dict) and name in value:
        return value[name]
    first, _, rest = name.partition(".")
    inner = value.get(first) if isinstance(value, dict) else None
    if inner is None or not rest:
        return None
    if isinstance(inner, list):
        return [value for item in inner if (value := _inside(item, rest)) is not None]
    return _inside(inner, rest)
