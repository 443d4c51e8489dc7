"""JSON lines and tables whose fields are a title and a text, a question and an answer and so on.

Extracts of Wikipedia are such rows. Knows nothing of files that are no rows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

from tercet.data.pairs.base import (
    Found,
    Has,
    Left,
    Pair,
    Plan,
    Problem,
    Structure,
    Units,
    clean,
    not_decoded,
    numbered_lines,
    shorten,
)
from tercet.data.pairs.code import function_pair
from tercet.data.pairs.languages import known, of_wiki
from tercet.data.pairs.outline import pairs
from tercet.data.pairs.translations import translations
from tercet.data.pairs.wiki import is_list_of_meanings, outline_of
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
ROLES: dict[Structure, tuple[str, ...]] = {
    "instruction-output": ("instruction", "output"),
    "question-answer": ("question", "answer"),
    "code-docstring": ("docstring", "code"),
    "translations": ("translation",),
    "title-abstract": ("title", "abstract"),
    "title-body": ("title", "text"),
}
_OF_ARTICLES = ("title-body", "heading-section", "title-abstract", "question-answer")
# Conversations: the field, who speaks, and what is said.
_TURNS = (("messages", "role", "content"), ("conversations", "from", "value"))
_ASKS, _ANSWERS = ("user", "human"), ("assistant", "gpt")


def read_records(path: Path, label: str, plan: Plan, has: Has) -> Units:
    """Every row as a unit; lines that are none are Problems."""
    names = dict(plan.fields)
    if path.suffix == ".parquet" or path.is_dir():
        for number, row in numbered_rows(path):
            if has(number - 1):
                yield number - 1, list(_Record(row, f"{label}:{number}", plan, names).found())
        return
    for number, raw in numbered_lines(path, label, has):
        where = f"{label}:{number + 1}"
        if raw.strip():
            parsed = _parse(raw, where)
            if isinstance(parsed, Problem):
                yield number, [parsed]
            else:
                yield number, list(_Record(parsed, where, plan, names).found())


def _parse(raw: bytes, where: str) -> Row | Problem:
    try:
        row = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        return Problem(where, not_decoded(error))
    except (ValueError, RecursionError) as error:
        if raw.lstrip().startswith(b"<doc "):
            return Problem(where, "not JSON: run wikiextractor with --json")
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return Problem(
            where,
            f"not a JSON object a line: {reason}; `jq -c .[] FILE` writes an array so",
        )
    if isinstance(row, dict):
        return row
    return Problem(where, f"a JSON object was expected, this is a {type(row).__name__}")


@dataclass(frozen=True)
class _Record:
    """A row, and how its fields are called: names[role], a dot before one inside another."""

    row: Row
    where: str
    plan: Plan
    names: dict[str, str]

    def found(self) -> Iterator[Found]:
        """The pairs of the structures that are asked for, else of the first that fits."""
        asked = self.plan.structures
        made = [structure for structure in asked or ROLES if self.has_own_fields(structure)]
        if not asked:
            del made[1:]
        for structure in made:
            yield from self.made_of_fields(structure)
        rest = tuple(one for one in asked if one not in made and one in _OF_ARTICLES)
        if self.has("title-body") and (rest or not (asked or made)):
            yield from self.article(rest)
        elif not made:
            shown = [f"{name}{'' if value else ' (empty)'}" for name, value in self.row.items()]
            fields = f"it has {', '.join(shown[:8]) or 'nothing'}"
            yield Left("a row without the fields needed: give --field", self.where, fields)

    def has_own_fields(self, structure: Structure) -> bool:
        """Whether a structure stands in fields of its own, rather than in the text."""
        if structure == "instruction-output" and self.turns() is not None:
            return True
        return structure in ROLES and structure != "title-body" and self.has(structure)

    def value(self, role: str) -> Any:
        """What a field of a role holds, None where there is nothing."""
        for name in (self.names[role],) if role in self.names else NAMES[role]:
            value = _inside(self.row, name)
            if value not in (None, "", []):
                return value
        return None

    def text(self, role: str) -> str:
        """The text in a field, "" where it is none."""
        value = self.value(role)
        return clean(value).strip() if isinstance(value, str) else ""

    def texts(self, role: str) -> list[str]:
        """The texts in a field that is a text or a list of them."""
        value = self.value(role)
        listed = value if isinstance(value, list) else [value]
        return [clean(one).strip() for one in listed if isinstance(one, str) and one.strip()]

    def has(self, structure: Structure) -> bool:
        """Whether the row has something in all the fields of a structure."""
        return all(self.value(role) is not None for role in ROLES[structure])

    @property
    def id(self) -> str:
        """The row's own id, else file and line."""
        own = self.value("id")
        return str(own) if isinstance(own, str | int) else self.where

    @property
    def lang(self) -> str:
        """The language of the row, "" where nothing says it."""
        url = self.row.get("url")
        said = known(self.text("lang")) or of_wiki(url if isinstance(url, str) else "")
        return self.plan.lang or said

    def made_of_fields(self, structure: Structure) -> Iterator[Found]:
        """The pairs of a structure that stands in fields of its own."""
        if structure == "translations":
            sides = self.value("translation")
            told = sides.items() if isinstance(sides, dict) else ()
            named = {known(str(tag)): text for tag, text in told if isinstance(text, str)}
            yield from translations(named, self.plan, self.id)
        elif structure == "code-docstring":
            name, code = self.text("name").rpartition(".")[2], self.text("code")
            yield from function_pair(name, self.text("docstring"), code, self.plan, self.id)
        else:
            asks, answers = ROLES[structure]
            query, texts = self.text(asks), self.texts(answers)
            if structure == "instruction-output":
                query, texts = self.turns() or (query, texts)
                query = "\n".join(filter(None, (query, self.text("input"))))
            yield from self.answers(structure, query, texts)

    def answers(self, structure: Structure, query: str, texts: list[str]) -> Iterator[Found]:
        """A query and what answers it, if both are as long as they should be."""
        plan = self.plan
        kept = tuple(shorten(text, plan.max_chars) for text in texts if len(text) >= plan.min_chars)
        reason = ""
        if not query or not texts:
            reason = "a field that is no text: name one inside it, as --field answer=answers.text"
        elif not kept:
            reason = "a body shorter than asked"
        elif len(query) > plan.max_query_chars:
            reason = "a query longer than asked"
        if reason:
            yield Left(reason, self.where, f"{query[:100]}: {' / '.join(texts)[:100]}")
        else:
            yield Pair(structure, query, kept, self.id, self.lang)

    def turns(self) -> tuple[str, list[str]] | None:
        """What is asked first in a conversation, and the answer to it."""
        for field, who, what in _TURNS:
            turns = self.row.get(field)
            if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
                said = [(turn.get(who), turn.get(what)) for turn in turns]
                for (first, asked), (second, answer) in pairwise(said):
                    if first in _ASKS and second in _ANSWERS:
                        texts = [clean(one).strip() for one in (asked, answer) if _is_text(one)]
                        return (texts[0], texts[1:]) if len(texts) == 2 else ("", [])
        return None

    def article(self, structures: tuple[Structure, ...]) -> Iterator[Found]:
        """The pairs of a title and a text with headings."""
        title, text = self.text("title"), self.text("text")
        if is_list_of_meanings(title, text):
            yield Left("a list of what the title may mean", self.where, text[:200])
        else:
            plan = replace(self.plan, structures=structures)
            outline = outline_of(title, text, self.lang)
            yield from pairs(outline, plan, self.id, "title-body")


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and not value.isspace()


def _inside(value: Any, name: str) -> Any:
    """What a name with dots leads to, through lists too: a list of what is in each."""
    if isinstance(value, dict) and name in value:
        return value[name]
    first, _, rest = name.partition(".")
    inner = value.get(first) if isinstance(value, dict) else None
    if inner is None or not rest:
        return None
    if isinstance(inner, list):
        return [found for one in inner if (found := _inside(one, rest)) is not None]
    return _inside(inner, rest)
