"""The plain text of an article into an Outline: headings as the usual dumps leave them.

Knows nothing of JSON or of pairs.
"""

import re

from tercet.data.pairs.base import line
from tercet.data.pairs.outline import Outline

_WIKI = re.compile(r"(={2,6})\s*(\S.*?)\s*\1\s*")  # == History ==
_MARKDOWN = re.compile(r"(#{1,6})\s+(\S.*)")
_MARKED = re.compile(r"(?m)^(?:={2,6}\s*\S.*?={2,6}|#{2,6}\s+\S.*)\s*$")
_ENDS = (".", "!", "?", "…", ":", ";", ",", "。", "！", "？", "：", "；", "、", "।", "؟", "۔")
LONGEST = 80  # characters of a line that may be a heading
_LIST = 200  # characters of the line before a list of meanings


def outline_of(title: str, text: str, lang: str = "") -> Outline:
    """The outline of an article, given clean text.

    Headings are lines such as `== History ==` or `## History`. Without any, they are what dumps
    without markup leave: a short line that stands alone, with no mark at its end, before a text.
    """
    outline = Outline(title, lang)
    text = text.strip()
    first, _, rest = text.partition("\n")
    if line(first) == outline.title:
        text = rest.strip()
    if _MARKED.search(text):
        _marked(outline, text)
    else:
        _bare(outline, text)
    return outline


def is_list_of_meanings(title: str, text: str) -> bool:
    """Whether an article only says what its title may mean: `Mercury may refer to:`, and a list."""
    first, _, rest = text.strip().partition("\n")
    if line(first) == title:
        first, _, rest = rest.strip().partition("\n")
    name = title.partition(" (")[0].casefold()
    return (
        len(first) <= _LIST
        and first.rstrip().endswith((":", "："))
        and first.casefold().startswith(name)
    )


def _marked(outline: Outline, text: str) -> None:
    block: list[str] = []
    for number, row in enumerate(text.split("\n"), 1):
        match = _WIKI.fullmatch(row) or _MARKDOWN.fullmatch(row)
        if match or not row.strip():
            outline.block("\n".join(block))
            block = []
        else:
            block.append(row.strip())
        if match:
            outline.heading(len(match[1]), match[2], number)
    outline.block("\n".join(block))


def _bare(outline: Outline, text: str) -> None:
    """Blocks are an empty line apart; some short ones in a row are headings of rising level."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text)]
    level = 1
    for number, block in enumerate(blocks):
        followed = number + 1 < len(blocks)
        if number and followed and _may_be_heading(block):
            level += 1
            outline.heading(level, block)
        else:
            level = 1
            outline.block("\n".join(row.strip() for row in block.split("\n")))


def _may_be_heading(block: str) -> bool:
    return len(block) <= LONGEST and "\n" not in block and not block.endswith(_ENDS)
