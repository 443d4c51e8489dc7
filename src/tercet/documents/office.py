"""The text of office files, books, mail and notebooks, one document a file.

Word, PowerPoint and EPUB are zips of XML, which is read as it is unpacked, in memory that does not
grow with it; zipfile unpacks no more of a part than its size in the list of parts, and these sizes
are bounded before. Excel and RTF need the extra `tercet[office]`. Knows nothing of folders, chunks,
indexes or models.
"""

import datetime as dt
import json
import posixpath
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.parsers import expat

from tercet.documents.base import (
    DEEPEST,
    Reading,
    Unreadable,
    clean,
    clean_line,
    decode_as,
    title_of,
)
from tercet.documents.encodings import encoding_of, html_encoding
from tercet.documents.readers import (
    Block,
    Read,
    html_text,
    joined,
    markdown_document,
    parse_html,
    read_bytes,
    too_large,
)
from tercet.errors import InputError, MissingExtraError
from tercet.records import Document, Section
from tercet.rows import open_packed

_LARGER = 8  # times the largest text: XML beside its text, a mail with its attachments
_OLD = (
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # how encrypted office files begin, and those before 2007
)
_PAGES = (".xhtml", ".html", ".htm")
_XML = (".xml", ".rels", ".opf", *_PAGES)


@contextmanager
def _parts(path: Path, label: str, reading: Reading, what: str) -> Iterator[zipfile.ZipFile]:
    """The parts of a zip; raises Unreadable where it is encrypted, too large or not whole."""
    with path.open("rb") as file:
        if file.read(len(_OLD)) == _OLD:
            reason = f"an encrypted {what}, or one of before 2007: save it anew without a password"
            raise Unreadable(label, reason)
    try:
        with zipfile.ZipFile(path) as parts:
            unpacked = [part for part in parts.infolist() if part.filename.endswith(_XML)]
            if sum(part.file_size for part in unpacked) > _LARGER * reading.most:
                raise Unreadable(label, too_large(reading))
            if any(part.flag_bits & 1 for part in unpacked):
                raise Unreadable(label, f"an encrypted {what}: save it without its password")
            yield parts
    except (InputError, MissingExtraError, OSError, MemoryError):
        raise
    except Exception as error:  # damaged files make readers fail in any way
        reason = f"not a whole {what}: {error or type(error).__name__}"
        raise Unreadable(label, reason) from error


Event = tuple[str, str, Mapping[str, str]]  # "open" and "close" of a name; "text" and what it is


def _events(parts: zipfile.ZipFile, name: str) -> Iterator[Event]:
    """The elements of a part, as they are read; names without their spaces, text unstripped."""
    events: list[Event] = []

    def local(name: str) -> str:
        return name.rpartition("}")[2]

    def opens(name: str, attributes: Mapping[str, str]) -> None:
        keys = sorted(
            attributes, key=lambda key: "}" in key
        )  # of two ids that of a relation counts
        events.append(("open", local(name), {local(key): attributes[key] for key in keys}))

    def refuse(*_: Any) -> None:
        raise ValueError("its XML declares entities, which may grow without end")

    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartElementHandler = opens
    parser.EndElementHandler = lambda name: events.append(("close", local(name), {}))
    parser.CharacterDataHandler = lambda text: events.append(("text", text, {}))
    parser.EntityDeclHandler = refuse
    with parts.open(name) as file:
        while piece := file.read(1 << 16):
            parser.Parse(piece, False)
            yield from events
            events.clear()
        parser.Parse(b"", True)
        yield from events


def _texts(parts: zipfile.ZipFile, name: str, *wanted: str) -> dict[str, str]:
    """The text of the first of each of some elements; empty where the part is not there."""
    found: dict[str, str] = {}
    inside = ""
    for kind, value, _ in _events(parts, name) if name in parts.namelist() else ():
        if kind == "open":
            inside = value if value in wanted and value not in found else ""
        elif kind == "text" and inside:
            found[inside] = found.get(inside, "") + value
        elif kind == "close":
            inside = ""
    return {key: clean_line(value) for key, value in found.items()}


def _related(parts: zipfile.ZipFile, name: str) -> dict[str, tuple[str, str]]:
    """Of the relations of a part by their id: the last step of the kind, and the part."""
    folder, base = posixpath.split(name)
    listed = posixpath.join(folder, "_rels", f"{base}.rels")
    out: dict[str, tuple[str, str]] = {}
    for kind, value, given in _events(parts, listed) if listed in parts.namelist() else ():
        if (kind, value) == ("open", "Relationship") and given.get("TargetMode") != "External":
            target = posixpath.normpath(posixpath.join("/", folder, given["Target"]))
            out[given["Id"]] = given["Type"].rpartition("/")[2], target.lstrip("/")
    return out


def _main(parts: zipfile.ZipFile) -> str:
    """The part that a package is about."""
    return next(part for kind, part in _related(parts, "").values() if kind == "officeDocument")


def _bounded(blocks: Iterable[Block], label: str, reading: Reading) -> Iterator[Block]:
    """Blocks with text; raises Unreadable where that is more than a text may have."""
    size = 0
    for block in blocks:
        size += len(block.text)
        if size > reading.most:
            raise Unreadable(label, too_large(reading))
        if block.text:
            yield block


# Word and PowerPoint

_UNSEEN = frozenset("Fallback moveFrom rPr rt sectPr tblPr trPr tcPr".split())
_AROUND = ("sldNum", "dt", "ftr")  # kinds of shapes that stand on every slide
_OUTLINE = tuple(map(str, range(DEEPEST)))
_BREAKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def _paragraphs(events: Iterable[Event], levels: Mapping[str, int]) -> Iterator[Block]:
    """The paragraphs and rows of tables in WordprocessingML or DrawingML, as blocks.

    levels: of the styles that are headings; a slide's title has the level 1. Of what is there once
    more for old programs, was moved away, or says how a character is read, nothing is left.
    """
    opened: list[list[str]] = []  # texts of paragraphs, which stand within each other in boxes
    level = unseen = properties = rows = 0
    shape: int | None = 0  # level of the paragraphs of a shape; None: on every slide
    row: list[str] = []
    cell: list[str] = []
    seen = False  # within an element of text
    for kind, value, given in events:
        if unseen or (kind == "open" and value in _UNSEEN):
            unseen += {"open": 1, "close": -1}.get(kind, 0)
        elif kind == "text":
            if seen and opened:
                opened[-1].append(value)
        elif kind == "open":
            seen = value == "t"
            if value == "p":
                opened.append([])
                level = shape or 0
            elif value == "pPr":
                properties += 1
            elif properties and value == "pStyle":
                level = levels.get(given.get("val", ""), level)
            elif properties and value == "outlineLvl":
                level = _level(given.get("val", ""))
            elif value == "ph":
                form = given.get("type", "")
                shape = None if form in _AROUND else int(form in ("title", "ctrTitle"))
            elif value == "tr":
                rows += 1
                row = [] if rows == 1 else row
            elif value == "tc" and rows == 1:
                cell = []
            elif value in _BREAKS and opened:
                opened[-1].append(_BREAKS[value])
        else:
            seen = False
            if value == "pPr":
                properties -= 1
            elif value == "sp":
                shape = 0
            elif value == "tc" and rows == 1:
                row.append(" ".join(filter(None, cell)))
            elif value == "tr":
                rows -= 1
                if not rows and any(row):
                    yield Block("row", " | ".join(row), listed=True)
            elif value == "p" and opened:
                text = clean("".join(opened.pop())).strip()
                if shape is None:
                    continue
                if rows:
                    cell.append(clean_line(text))
                elif level and text:
                    heading = Section(0, level, clean_line(text))
                    yield Block("heading", text, level, outline=(heading,))
                else:
                    yield Block("text", text)


def _level(number: str) -> int:
    """The level of a heading, given one less; 0: none."""
    return int(number) + 1 if number in _OUTLINE else 0


def _heading_styles(parts: zipfile.ZipFile, name: str) -> dict[str, int]:
    """The levels of Word's styles that are headings, by name, outline or what they are based on."""
    levels: dict[str, int] = {}
    based: dict[str, str] = {}
    style = ""
    for kind, value, given in _events(parts, name):
        if kind != "open":
            continue
        said = given.get("val", "")
        if value == "style":
            style = given.get("styleId", "")
        elif value == "name" and (match := re.fullmatch(r"(?i)title|heading ([1-6])", said)):
            levels[style] = int(match[1] or 1)
        elif value == "outlineLvl" and _level(said):
            levels.setdefault(style, _level(said))
        elif value == "basedOn":
            based[style] = said
    for style in based:
        above, steps = style, 0
        while above not in levels and above in based and steps < len(based):
            above, steps = based[above], steps + 1
        if above in levels:
            levels[style] = levels[above]
    return levels


def _document(label: str, blocks: Iterable[Block], title: str) -> Document:
    text, outline = joined(blocks)
    heading = next((section.label for section in outline if section.level), "")
    return Document(label, text, title_of(title or heading), label, outline=outline)


def read_docx(path: Path, label: str, reading: Reading) -> Read:
    """A Word document: paragraphs, rows of tables, headings by their styles, notes at the end."""
    with _parts(path, label, reading, "Word document") as parts:
        main = _main(parts)
        related = dict(_related(parts, main).values())
        levels = _heading_styles(parts, related["styles"]) if "styles" in related else {}
        texts = [main, *(related[kind] for kind in ("footnotes", "endnotes") if kind in related)]
        blocks = (block for name in texts for block in _paragraphs(_events(parts, name), levels))
        title = _texts(parts, "docProps/core.xml", "title").get("title", "")
        yield _document(label, _bounded(blocks, label, reading), title)


def read_pptx(path: Path, label: str, reading: Reading) -> Read:
    """A presentation: the slides as pages, their titles as headings, what the speaker noted."""

    def slides() -> Iterator[Block]:
        for number, slide in enumerate(order, 1):
            page: tuple[Section, ...] = (Section(0, 0, str(number)),)
            notes = [part for kind, part in _related(parts, slide).values() if kind == "notesSlide"]
            for name in (slide, *notes):
                for block in _paragraphs(_events(parts, name), {}):
                    if block.text:
                        listed, outline = block.kind != "heading", page + block.outline
                        yield replace(block, listed=listed, outline=outline)
                        page = ()

    with _parts(path, label, reading, "presentation") as parts:
        main = _main(parts)
        related = _related(parts, main)
        order = [
            related[given["id"]][1] if given["id"] in related else ""
            for kind, value, given in _events(parts, main)
            if (kind, value) == ("open", "sldId")
        ]
        title = _texts(parts, "docProps/core.xml", "title").get("title", "")
        yield _document(label, _bounded(slides(), label, reading), title)


# Excel

_CELLS = 50_000_000  # of a workbook, empty ones counted


def read_xlsx(path: Path, label: str, reading: Reading) -> Read:
    """A workbook: sheets as headings, rows as lines; needs the extra `tercet[office]`."""
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "reading .xlsx needs openpyxl: pip install 'tercet[office]'"
        ) from error

    def rows(workbook: Any) -> Iterator[Block]:
        cells = 0
        for sheet in workbook.worksheets:
            sheet.reset_dimensions()  # which may be any
            heading: tuple[Section, ...] = (Section(0, 1, clean_line(sheet.title)),)
            for row in sheet.iter_rows(values_only=True):
                cells += len(row) + 1
                if cells > _CELLS:
                    raise Unreadable(label, f"more than {_CELLS:,} cells: split it")
                values = [clean_line(_value(value)) for value in row if value is not None]
                if values and heading:
                    yield Block("heading", heading[0].label, 1, outline=heading)
                    heading = ()
                yield Block("row", " | ".join(values), listed=True)

    with _parts(path, label, reading, "workbook") as parts:
        title = _texts(parts, "docProps/core.xml", "title").get("title", "")
        with warnings.catch_warnings(action="ignore"):  # of what it leaves out: styles, checks
            workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
            with closing(workbook):
                document = _document(label, _bounded(rows(workbook), label, reading), title)
        yield document


def _value(value: Any) -> str:
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        value = value.date()
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)


# EPUB

_EMPTY = re.compile(r"<(title|script|style|iframe|textarea)\b([^<>]*)/>")  # to HTML they are open


def read_epub(path: Path, label: str, reading: Reading) -> Read:
    """A book: its pages in their order, with their headings, its title and language."""

    def pages() -> Iterator[Block]:
        for name in order:
            if name in encrypted:
                raise Unreadable(label, "an encrypted book: its text cannot be read")
            raw = parts.read(name)
            page = clean(decode_as(raw, label, html_encoding(raw))[0])
            text, outline = html_text(parse_html(_EMPTY.sub(r"<\1\2></\1>", page)))
            yield Block("text", text, outline=outline)

    with _parts(path, label, reading, "book") as parts:
        container = _events(parts, "META-INF/container.xml")
        main = next(of["full-path"] for kind, name, of in container if name == "rootfile")
        facts = _texts(parts, main, "title", "language")
        items: dict[str, str] = {}
        order: list[str] = []
        for kind, value, given in _events(parts, main):
            contents = "nav" in given.get("properties", "").split()  # the list of its pages
            if (kind, value) == ("open", "item") and not contents:
                href = posixpath.join(posixpath.dirname(main), unquote(given.get("href", "")))
                items[given["id"]] = posixpath.normpath(href)
            elif (kind, value) == ("open", "itemref") and given["idref"] in items:
                order.append(items[given["idref"]])
        order = [name for name in order if name.endswith(_PAGES)]
        locked = "META-INF/encryption.xml"
        encrypted = {
            unquote(given["URI"])
            for kind, value, given in (_events(parts, locked) if locked in parts.namelist() else ())
            if (kind, value) == ("open", "CipherReference")
        }
        document = _document(label, _bounded(pages(), label, reading), facts.get("title", ""))
        yield replace(document, language=facts.get("language") or None)


# RTF


def read_rtf(path: Path, label: str, reading: Reading) -> Read:
    """A file of Rich Text, without headings; needs the extra `tercet[office]`."""
    try:
        from striprtf.striprtf import rtf_to_text
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "reading .rtf needs striprtf: pip install 'tercet[office]'"
        ) from error
    raw = read_bytes(path, label, reading)
    if not raw.startswith(b"{\\rtf"):
        raise Unreadable(label, "not Rich Text: it does not begin with {\\rtf")
    source = raw.decode("latin-1")
    plain: Any = rtf_to_text
    title = re.search(r"\{\\title ([^{}]*)\}", source[: 1 << 16])
    yield Document(
        id=label,
        text=clean(plain(source, errors="replace")).strip(),
        title=title_of(plain(f"{{\\rtf1 {title[1]}}}", errors="replace")) if title else "",
        source=label,
    )


# Mail


def read_eml(path: Path, label: str, reading: Reading) -> Read:
    """A mail: its text, else its page, without attachments; from, to and date are metadata."""
    with open_packed(path) as file:
        raw = file.read(_LARGER * reading.most + 1)
    if len(raw) > _LARGER * reading.most:
        reason = f"a mail of more than {_LARGER * reading.max_mb} MB: raise --max-mb"
        raise Unreadable(label, reason)
    message = message_from_bytes(raw, _class=EmailMessage, policy=policy.default)
    if message.get_content_type() in ("multipart/encrypted", "application/pkcs7-mime"):
        raise Unreadable(label, "an encrypted mail: save it decrypted")
    body = message.get_body(("plain", "html"))
    content, given = b"", None
    if body is not None:
        payload = body.get_payload(decode=True)
        content = payload if isinstance(payload, bytes) else b""
        given = encoding_of(str(body.get_content_charset("utf-8")))
    if len(content) > reading.most:
        raise Unreadable(label, too_large(reading))
    text = clean(decode_as(content, label, given)[0])
    outline: tuple[Section, ...] = ()
    if body is not None and body.get_content_subtype() == "html":
        text, outline = html_text(parse_html(text))
    about: dict[str, Any] = {key: clean_line(str(message.get(key, ""))) for key in ("from", "to")}
    about["date"] = getattr(message.get("date"), "datetime", None)
    yield Document(
        id=label,
        text=text.strip(),
        title=title_of(str(message.get("subject", ""))),
        source=label,
        metadata=about,
        outline=outline,
    )


# Notebooks


def read_ipynb(path: Path, label: str, reading: Reading) -> Read:
    """A notebook: its texts as Markdown and its code, without what it printed."""
    try:
        cells = json.loads(read_bytes(path, label, reading))["cells"]
        given = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise Unreadable(label, "not a notebook of the format 4: save it anew") from error
    longest = max((len(run) for _, text in given for run in re.findall("~+", text)), default=2)
    fence = "~" * (longest + 1)
    sources = [
        f"{fence}\n{text}\n{fence}" if kind == "code" else text
        for kind, text in given
        if kind in ("code", "markdown")
    ]
    yield markdown_document("\n\n".join(sources), label)
