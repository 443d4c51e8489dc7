"""Markdown into an Outline: headings, and what is read under them.

Knows nothing of pairs.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tercet.data.pairs.base import clean, decode, read_bytes
from tercet.data.pairs.html import add_html, fragment
from tercet.data.pairs.languages import known
from tercet.data.pairs.outline import Outline

_FIELD = re.compile(r"(title|language|lang)\s*[:=]\s*(.+)", re.IGNORECASE)
_ANCHOR = re.compile(r"\s*\{[#:.][^{}]*\}\s*$")  # of a heading: {#name}, {:.class}
# Lines of site generators: a fence of a box, a template's tag.
_TEMPLATE = re.compile(r"(?m)^[ \t]*(?::{3,}.*|\{%.*%\}|\{\{[<%].*[>%]\}\})[ \t]*$")
_PARSER = MarkdownIt("commonmark").enable("table").enable("strikethrough")


def read_markdown(path: Path, label: str) -> Outline:
    """The outline of a file; title and language are in its front matter if it has one."""
    return outline_of(clean(decode(read_bytes(path, label), label)))


def outline_of(text: str) -> Outline:
    """The outline of a text."""
    fields, start = _front_matter(text)
    outline = Outline(fields.get("title", ""), known(fields.get("lang") or fields.get("language")))
    body = "\n" * text.count("\n", 0, start) + _TEMPLATE.sub("", text[start:])
    row: list[str] | None = None  # the cells of the row of a table that is open
    level = items = linked = 0
    for token in _PARSER.parse(body):
        if token.type in ("list_item_open", "list_item_close"):
            items += token.nesting
        elif token.type == "heading_open":
            level = int(token.tag[1:])
        elif token.type == "heading_close":
            level = 0
        elif token.type == "tr_open":
            row, linked = [], 0
        elif token.type == "tr_close" and row is not None:
            outline.block(" | ".join(row).strip(" |"), listed=True, linked=linked)
            row = None
        elif token.type == "inline":
            plain, links = _inline(token.children or ())
            if level:
                number = token.map[0] + 1 if token.map else 0
                outline.heading(level, _ANCHOR.sub("", plain), number)
            elif row is not None:
                row.append(plain)
                linked += links
            else:
                outline.block(plain, listed=items > 0, linked=links)
        elif token.type in ("fence", "code_block"):
            outline.block(token.content)
        elif token.type == "html_block" and (node := fragment(token.content)) is not None:
            add_html(outline, node)
    return outline


def _front_matter(text: str) -> tuple[dict[str, str], int]:
    """Title and language between two lines of "---" or "+++" at the top, and where these end."""
    mark = text[:3]
    end = text.find(f"\n{mark}", 3) if mark in ("---", "+++") else -1
    if end < 0 or text[3 : text.index("\n", 3)].strip():
        return {}, 0
    fields = {}
    for row in text[3:end].split("\n"):
        if match := _FIELD.fullmatch(row.strip()):
            fields[match[1].lower()] = match[2].strip().strip("\"'").strip()
    after = text.find("\n", end + 1)
    return fields, len(text) if after < 0 else after + 1


def _inline(tokens: Sequence[Token]) -> tuple[str, int]:
    """The text of a run, without images and tags, and how many of its characters are in links."""
    parts: list[str] = []
    linked = within = 0
    for token in tokens:
        if token.type in ("link_open", "link_close"):
            within += token.nesting
        elif token.type in ("softbreak", "hardbreak"):
            parts.append("\n" if token.type == "hardbreak" else " ")
        elif token.type in ("text", "code_inline", "text_special"):
            parts.append(token.content)
            linked += len(token.content) if within else 0
    return "".join(parts).strip(), linked
