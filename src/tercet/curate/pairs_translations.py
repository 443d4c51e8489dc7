"""Translations into pairs: memories (TMX), catalogues of messages (PO), files aligned by line.

Knows nothing of other sources.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from xml.parsers import expat

from tercet.curate.pairs_sources import (
    LARGEST,
    Has,
    Outcome,
    Pair,
    PairOptions,
    Skipped,
    SourceFile,
    Units,
    clean,
    covers,
    first_reason,
    has_word,
    need,
    numbered_lines,
    parse_tag,
    read_bytes,
    tag_or_none,
)
from tercet.documents.base import Problem, Unreadable, decode, undecodable
from tercet.documents.encodings import encoding_of
from tercet.errors import InputError
from tercet.rows import open_packed


def translation_pairs(
    texts: Mapping[str, str], options: PairOptions, where: str
) -> Iterator[Outcome]:
    """Pairs between the texts, by language tag, the source language first.

    Without directions from the source to every other one.
    """
    tags = [tag for tag in texts if tag]
    directions = options.directions or [(tag, other) for tag in tags[:1] for other in tags[1:]]
    has = f"it has {', '.join(tags) or 'none'}"
    if not directions:
        yield Skipped("a unit in one language alone", where, has)
    for direction in directions:
        # the tag itself, else the first that it covers
        ends = [
            next((tag for tag in (side, *tags) if tag in tags and covers(side, tag)), "")
            for side in direction
        ]
        if not all(ends):
            missing = f"no {direction[ends.index('')]}, {has}"
            yield Skipped("a unit without a language asked for", where, missing)
            continue
        source, target = ends
        yield _translation_pair(texts, source, target, options, where)
        if options.both:
            yield _translation_pair(texts, target, source, options, where)


def _translation_pair(
    texts: Mapping[str, str], source: str, target: str, options: PairOptions, where: str
) -> Outcome:
    query, positive = clean(texts[source]).strip(), clean(texts[target]).strip()
    is_long = len(query) > options.max_query_chars or len(positive) > options.max_chars
    has_words = has_word(query) and has_word(positive)
    longer = max(len(query), len(positive))
    reason = first_reason(
        (not query or not positive, "a translation with an empty side"),
        (query == positive, "a translation whose sides are the same"),
        (not has_words, "a translation without a word on a side"),
        (longer < options.min_translation, "a translation shorter than asked"),
        (is_long, "a translation longer than asked"),
    )
    if reason:
        return Skipped(reason, where, f"{source}: {query[:100]} / {target}: {positive[:100]}")
    return Pair("translations", query, (positive,), where, row_tag(source, target))


def row_tag(source: str, target: str) -> str:
    """The tag of a row whose query and positive are in these languages.

    The region of the second is left out: `en-pt-BR` would read as one language, Brazilian.
    """
    return f"{source}-{target.partition('-')[0]}"


# Files that are aligned line by line, as Moses and most parallel corpora come


def read_aligned(file: SourceFile, options: PairOptions, has: Has) -> Units:
    """Every line as a unit; raises Unreadable where one file has more lines than another.

    Empty lines at the end do not count.
    """

    def lines(path: Path) -> Iterator[tuple[int, bytes]]:
        return numbered_lines(path, path.name, lambda number: True)

    lengths, filled = dict.fromkeys(file.paths, 0), dict.fromkeys(file.paths, 0)
    for path in file.paths:
        for number, raw in lines(path):
            lengths[path] = number + 1
            filled[path] = number + 1 if raw.strip() else filled[path]
    short, long = min(lengths, key=lengths.__getitem__), max(filled, key=filled.__getitem__)
    if filled[long] > lengths[short]:
        raise Unreadable(
            f"{file.label}:{lengths[short] + 1}",
            f"{short.name} ends after {lengths[short]} lines, {long.name} goes on: they are not "
            "aligned line by line",
        )
    for number, row in enumerate(zip(*map(lines, file.paths), strict=False)):
        if has(number):
            raws = [raw for _, raw in row]
            yield number, list(_line_unit(raws, file, options, number + 1))


def _line_unit(
    lines: Sequence[bytes], file: SourceFile, options: PairOptions, number: int
) -> Iterator[Outcome]:
    texts: dict[str, str] = {}
    for raw, tag, path in zip(lines, file.tags, file.paths, strict=True):
        try:
            texts[tag] = raw.decode()
        except UnicodeDecodeError as error:
            yield Problem(f"{path.name}:{number}", undecodable(error))
            return
    if any(text.strip() for text in texts.values()):
        yield from translation_pairs(texts, options, f"{file.label}:{number}")
    else:
        yield Skipped("an empty line in all files", f"{file.label}:{number}")


# Catalogues of messages (PO)

_CHARSET = re.compile(rb'"Content-Type:[^"\n]*charset=([\w.:-]+)', re.IGNORECASE)
_STRING = re.compile(r'\s*(?:#~\s*)?(?:msg\w+(?:\[\d+\])?\s*)?"')
_LINE = re.compile(r"\(line (\d+)\)")


def read_po(file: SourceFile, options: PairOptions, has: Has) -> Units:
    """Every message as a unit; raises Unreadable where the file is no catalogue.

    Raises MissingExtraError without polib.
    """
    need("polib")
    import polib

    path, label = file.paths[0], file.label
    raw = read_bytes(path, label)
    match = _CHARSET.search(raw)
    encoding = (encoding_of(match[1].decode()) if match else None) or "utf-8"
    for number, row in enumerate(decode(raw, label, encoding).split("\n"), 1):
        if _STRING.match(row) and not re.search(r'"\s*$', row[row.index('"') + 1 :]):
            # polib would cut its last character
            raise Unreadable(f"{label}:{number}", "not PO: a string without its closing quote")
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    try:
        catalogue = polib.pofile(str(path), encoding=encoding)
    except OSError as error:  # which polib raises for what it cannot parse
        line = _LINE.search(str(error))
        raise Unreadable(f"{label}:{line[1]}" if line else label, f"not PO: {error}") from error
    source, target = _po_languages(catalogue.metadata, path, label, options)
    for number, entry in enumerate(catalogue):
        where = f"{label}:{entry.linenum}"
        yield number, list(_message_unit(entry, source, target, options, where))


def _po_languages(
    header: dict[str, str], path: Path, label: str, options: PairOptions
) -> tuple[str, str]:
    """The languages of messages and of translations, as the header, the place or options say.

    The place is `de/LC_MESSAGES/x.po`, `po/de.po` or `x.de.po`.
    """
    source = tag_or_none(header.get("X-Source-Language")) or "en"  # as gettext's manual asks
    in_folder = len(path.parts) > 2 and path.parts[-2] == "LC_MESSAGES"
    place = path.parts[-3].partition(".")[0] if in_folder else path.stem.rpartition(".")[2]
    target = tag_or_none(header.get("Language", "").partition(".")[0]) or tag_or_none(place)
    if len(options.directions) == 1:
        sides = options.directions[0]
        target = target or next((side for side in sides if not covers(side, source)), "")
        if any(covers(side, target) for side in sides):
            source = next((side for side in sides if not covers(side, target)), source)
    if not target:
        reason = "its language is not said in its header: give --direction, as en-de"
        raise Unreadable(label, reason)
    return source, target


def _message_unit(
    entry: Any, source: str, target: str, options: PairOptions, where: str
) -> Iterator[Outcome]:
    forms = [entry.msgstr_plural[number] for number in sorted(entry.msgstr_plural)]
    is_key = not re.search(r"\s", entry.msgid) and re.search(r"\w[._]\w", entry.msgid)
    reason = first_reason(
        (entry.obsolete, "an obsolete message"),
        ("fuzzy" in entry.flags, "a fuzzy translation"),
        (not (entry.msgstr or any(forms)), "a message without translation"),
        (bool(is_key), "a message that is a key"),
    )
    if reason:
        yield Skipped(reason, where, entry.msgid[:100])
        return
    if len(forms) != 1:  # the first is for one, the last for many
        singular = {source: entry.msgid, target: forms[0] if forms else entry.msgstr}
        yield from translation_pairs(singular, options, where)
    if forms:
        plural = {source: entry.msgid_plural, target: forms[-1]}
        yield from translation_pairs(plural, options, where)


# Translation memories (TMX). Entities that a file declares are refused rather than expanded, and
# nothing outside it is read.


def read_tmx(file: SourceFile, options: PairOptions, has: Has) -> Units:
    """Every <tu> as a unit; raises Unreadable at the line where the file is not TMX any more."""
    memory, block, size = _Memory(file.label, has), b"-", 0
    with open_packed(file.paths[0]) as stream:
        while block:
            block, fault = stream.read(1 << 16), None
            size = 0 if memory.builder is None else size + len(block)
            try:
                if size > LARGEST:
                    memory.refuse(f"a unit of more than {LARGEST >> 20} MB")
                memory.parser.Parse(block, not block)
            except expat.ExpatError as error:
                reason = f"not well-formed XML: {expat.ErrorString(error.code)}"
                fault = Unreadable(f"{file.label}:{error.lineno}", reason)
            except Unreadable as error:
                fault = error
            for number, line, source, unit in memory.units:  # whole before a fault: kept
                where = f"{file.label}:{line}"
                yield number, list(_memory_unit(unit, source, options, where))
            memory.units.clear()
            if fault is not None:
                raise fault


class _Memory:
    """Takes the events of the parser and keeps each <tu> that is to be read as an element."""

    def __init__(self, label: str, has: Has) -> None:
        self.label, self.has = label, has
        self.units: list[tuple[int, int, str, ET.Element]] = []  # line, source language
        self.number, self.line, self.source = -1, 0, ""  # of the unit
        self.begun = False
        self.builder: ET.TreeBuilder | None = None  # of a unit that is to be read
        self.parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.text
        parser.EntityDeclHandler = lambda name, *_: self.refuse(
            f"it declares an entity ({name}): entities are not expanded"
        )
        # an entity that no declaration was read for: those of HTML are meant
        parser.SkippedEntityHandler = lambda name, _: self.text(html.unescape(f"&{name};"))
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self.begun and name != "tmx":
            self.refuse(f"not TMX: its root is <{name}>")
        self.begun = True
        if name == "header":
            self.source = tag_or_none(attributes.get("srclang"))
        elif name == "tu":
            self.number, self.line = self.number + 1, self.parser.CurrentLineNumber
            self.builder = ET.TreeBuilder() if self.has(self.number) else None
        if self.builder is not None:
            self.builder.start(name, attributes)

    def text(self, text: str) -> None:
        if self.builder is not None:
            self.builder.data(text)

    def end(self, name: str) -> None:
        if self.builder is not None:
            self.builder.end(name)
            if name == "tu":
                self.units.append((self.number, self.line, self.source, self.builder.close()))
                self.builder = None

    def refuse(self, reason: str) -> None:
        raise Unreadable(f"{self.label}:{self.parser.CurrentLineNumber}", reason)


def _memory_unit(
    unit: ET.Element, source: str, options: PairOptions, where: str
) -> Iterator[Outcome]:
    source = tag_or_none(unit.get("srclang")) or source
    texts: dict[str, str] = {}
    for variant in unit.iter("tuv"):
        try:
            tag = parse_tag(variant.get("xml:lang") or variant.get("lang") or "")
        except InputError as error:
            yield Problem(where, f"a <tuv> without a language in xml:lang: {error}")
            continue
        for segment in variant.iter("seg"):
            texts.setdefault(tag, _segment_text(segment))
    first = [tag for tag in texts if covers(source, tag)][:1]
    ordered = {tag: texts[tag] for tag in (*first, *texts)}
    yield from translation_pairs(ordered, options, where)


def _segment_text(node: ET.Element) -> str:
    """The text of a node without that of markup, which is what codes of TMX hold."""
    parts = [node.text or ""]
    for child in node:
        if child.tag in ("lb", "br"):
            parts.append(" ")
        elif child.tag not in ("bpt", "ept", "ph", "it", "ut", "sub"):
            parts.append(_segment_text(child))
        parts.append(child.tail or "")
    return "".join(parts)
