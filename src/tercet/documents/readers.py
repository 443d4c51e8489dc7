"""Paths to files to documents: which files are read, and the text of each format as plain text.

`find_files` lists files, `read_file` gives their documents and, for what cannot be read, Problems
in its place; the rest goes on. A label is the path as it was given, normalised: it names the file
in ids and messages. `decode`, `markdown_blocks`, `front_matter` and `walk_html` serve whoever reads
such files for another purpose. Knows nothing of chunks, indexes or models.
"""

import codecs
import csv
import json
import logging
import math
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token
from selectolax.lexbor import LexborHTMLParser, LexborNode

from tercet.errors import InputError, MissingExtraError
from tercet.records import Document, Scalar


@dataclass(frozen=True)
class Problem:
    """A file, or a row of one, that gave no document, and why, in words."""

    source: str  # a path, or a path with ":line"
    reason: str
    failed: bool = True  # False where nothing is wrong: the document is merely empty

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class Unreadable(InputError):
    """A file that gives no document, or none from here on; source and reason as in Problem."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = source, reason


Read = Iterator[Document | Problem]
Reader = Callable[[Path, str], Read]  # (path, label) -> what is in the file


# Cleaning and decoding

_BREAKS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_INTEGERS = range(-(1 << 63), 1 << 63)  # what an index payload can hold
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w.:-]{1,40})""", re.IGNORECASE)


def clean(text: str) -> str:
    """The text with one kind of line break, NULs as spaces and lone surrogates as U+FFFD."""
    if text.isascii() and text.isprintable():
        return text  # most short ones
    return _SURROGATES.sub("\ufffd", _BREAKS.sub("\n", text).replace("\0", " "))


def clean_line(text: str) -> str:
    """The text as one line without outer space, for titles and ids."""
    return " ".join(clean(text).split())


def decode(raw: bytes, label: str, encoding: str | None = None) -> str:
    """The bytes of a text file as text, without a byte order mark.

    UTF-8 unless a byte order mark or `encoding` says otherwise. Raises Unreadable with the line
    and the byte where they are not in that encoding.
    """
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif raw.startswith(codecs.BOM_UTF8):
        raw, encoding = raw[len(codecs.BOM_UTF8) :], "utf-8"
    try:
        return raw.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"{label}:{line}", undecodable(error)) from error


def undecodable(error: UnicodeDecodeError) -> str:
    """The reason in words for bytes that are not in the encoding they should be in."""
    byte = error.object[error.start]
    return f"byte 0x{byte:02x} is not {error.encoding}: convert the file to UTF-8"


def known_encoding(name: str) -> str | None:
    """What Python calls an encoding; None where it does not know it."""
    try:
        return codecs.lookup("cp1252" if name.lower() == "iso-8859-1" else name).name
    except LookupError:
        return None


def html_encoding(raw: bytes) -> str | None:
    """The encoding that a page names in its beginning, where Python knows it."""
    match = _CHARSET.search(raw, 0, 4096)
    return known_encoding(match[1].decode("ascii")) if match else None


def label_of(path: str | Path) -> str:
    """The path as ids and messages show it: normalised, "/" between parts, valid Unicode."""
    plain = os.path.normpath(path).replace(os.sep, "/")
    return clean(plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def _scalar(value: Any) -> Scalar | None:
    """A metadata value as an index can hold it; None for what it cannot (lists, objects, null)."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value in _INTEGERS else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return clean(value).strip() if isinstance(value, str) else None


def _is_blank(text: str) -> bool:
    """Whether nothing in the text can be read: white space, control and format marks only."""
    return all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


def prepare(document: Document) -> Document | Problem:
    """The document as it is stored: clean text, a title alone as the text, plain metadata.

    Character spans count in this text. A Problem where nothing is left to read; raises InputError
    where a field is of a wrong type or the id cannot be stored.
    """
    name = f"document {document.id!r}"
    for field in ("id", "text", "title", "source"):
        if not isinstance(getattr(document, field), str):
            kind = type(getattr(document, field)).__name__
            raise InputError(f"{name}: its {field} is a {kind}, not a string")
    if not document.id or clean(document.id) != document.id:
        raise InputError(
            f"{name}: an id needs at least one character and can hold no NUL, lone surrogate or "
            f"line break other than \\n"
        )
    metadata: dict[str, Scalar] = {}
    for key, value in document.metadata.items():
        plain = _scalar(value)
        if plain is None or not isinstance(key, str) or not clean_line(key):
            raise InputError(
                f"{name}: metadata {key!r} is {value!r}: a key must be a text, a value a string, a "
                f"number or true/false"
            )
        metadata[clean_line(key)] = plain
    text, title = clean(document.text), clean_line(document.title)
    source = clean(document.source) or document.id
    if _is_blank(text):
        text, title = title, ""
    if _is_blank(text):
        return Problem(source, "empty: no text to index", failed=False)
    language = clean_line(document.language or "") or None
    return replace(
        document, text=text, title=title, source=source, language=language, metadata=metadata
    )


# Files that are one document: plain text, Markdown, HTML, PDF


def read_text(path: Path, label: str) -> Read:
    """A plain text file as one document without a title."""
    yield Document(id=label, text=clean(decode(path.read_bytes(), label)).strip(), source=label)


_FIELD = re.compile(r"([A-Za-z_][\w.-]*)\s*[:=]\s*(.*)")


def read_markdown(path: Path, label: str) -> Read:
    """A Markdown file as one document: its markup gone, title from front matter or a heading.

    Front matter is what stands between two lines of "---" (or "+++") at the top, a field a line;
    title and language (or lang) are fields of the document, the rest is metadata. Without a title
    there, the first heading is the title; where it opens the file it is not repeated in the text.
    Paragraphs are an empty line apart, items of lists and rows of tables a line.
    """
    fields, body = front_matter(clean(decode(path.read_bytes(), label)))
    blocks = [block for block in map(_without_tags, markdown_blocks(body)) if block.text]
    title = fields.pop("title", "")
    heading = next((block for block in blocks if block.kind == "heading"), None)
    if not title and heading is not None:
        title = heading.text
        blocks = blocks[1:] if blocks[0] is heading else blocks
    parts = [block.text for block in blocks[:1]]
    for before, block in pairwise(blocks):
        parts += ["\n" if before.listed and block.listed else "\n\n", block.text]
    language = fields.pop("language", "") or fields.pop("lang", "")
    yield Document(
        id=label,
        text="".join(parts),
        title=clean_line(title),
        source=label,
        language=language or None,
        metadata=fields,
    )


def front_matter(text: str) -> tuple[dict[str, str], str]:
    """The fields at the top of a Markdown text, and the text below them."""
    lines = text.split("\n")
    mark = lines[0].rstrip()
    rules = [number for number, line in enumerate(lines) if line.rstrip() == mark][:2]
    if mark not in ("---", "+++") or len(rules) < 2:
        return {}, text  # a thematic break, not front matter
    matches = (_FIELD.fullmatch(line.strip()) for line in lines[1 : rules[1]])
    fields = {match[1].lower(): match[2].strip().strip("\"'").strip() for match in matches if match}
    return {key: value for key, value in fields.items() if value}, "\n".join(lines[rules[1] + 1 :])


Kind = Literal["heading", "text", "row", "code", "html"]


@dataclass(frozen=True)
class Block:
    """A piece of a page that stands apart."""

    kind: Kind
    text: str
    level: int = 0  # of a heading, 1 is the highest
    listed: bool = False  # in a list, or a row of a table
    line: int = 0  # in the source, from 1; 0: not known
    linked: int = 0  # of the characters, those in links


def markdown_blocks(text: str, *, prose: bool = False) -> Iterator[Block]:
    """The blocks of a Markdown text as plain text, but HTML as it stands; empty ones are left out.

    prose: the lines of a paragraph are joined, and images and struck-out marks leave nothing;
    headings may be empty.
    """
    row: list[str] | None = None  # the cells of the table row that is open
    level = items = row_linked = 0
    for token in _PARSERS[prose].parse(text):
        kind: Kind = "text"
        plain, linked = "", 0
        if token.type == "heading_open":
            level = int(token.tag[1:])
        elif token.type == "heading_close":
            level = 0
        elif token.type in ("list_item_open", "list_item_close"):
            items += token.nesting
        elif token.type == "tr_open":
            row, row_linked = [], 0
        elif token.type == "tr_close" and row is not None:
            kind, plain, linked, row = "row", " | ".join(row), row_linked, None
        elif token.type == "inline":
            plain, linked = _inline_text(token.children or (), prose)
            kind = "heading" if level else kind
        elif token.type in ("fence", "code_block"):
            kind, plain = "code", token.content.strip("\n")
        elif token.type == "html_block":
            kind, plain = "html", token.content
        if row is not None and token.nesting == 0:
            row.append(plain)
            row_linked += linked
        elif plain or (prose and kind == "heading"):
            line = token.map[0] + 1 if token.map else 0
            yield Block(kind, plain, level, items > 0 or kind == "row", line, linked)


_PARSERS = {
    False: MarkdownIt("commonmark").enable("table"),
    True: MarkdownIt("commonmark").enable(["table", "strikethrough"]),
}


def _inline_text(tokens: Sequence[Token], prose: bool) -> tuple[str, int]:
    """The text of a run, and how many of its characters are in links."""
    parts: list[str] = []
    linked = links = 0
    for token in tokens:
        links += token.nesting if token.type in ("link_open", "link_close") else 0
        if token.type in ("softbreak", "hardbreak"):
            parts.append(" " if prose and token.type == "softbreak" else "\n")
        elif token.type != "html_inline" and not (prose and token.type == "image"):
            parts.append(token.content)  # of an image: its description; of a link's ends: nothing
            linked += len(token.content) if links else 0
    return "".join(parts).strip(), linked


def _without_tags(block: Block) -> Block:
    """The block; one of HTML as the text that a reader sees."""
    if block.kind != "html":
        return block
    return replace(block, text=html_text(LexborHTMLParser(block.text)))


# Elements whose text nobody reads as part of the page, and those that only lead around a site.
_UNREAD = "script style template noscript svg iframe object select button head".split()
_AROUND = frozenset("nav aside footer".split())
_BLOCKS = frozenset(
    "address article aside blockquote body br button caption center dd details dialog div dl dt "
    "fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li "
    "main menu nav ol optgroup option p pre search section summary table tbody tfoot thead tr "
    "ul".split()
)
_PARAGRAPHS = frozenset(
    "article blockquote dl figure h1 h2 h3 h4 h5 h6 hr main ol p pre section table ul".split()
)


def read_html(path: Path, label: str) -> Read:
    """An HTML file as one document: the main text, the title, the language of its root element."""
    raw = path.read_bytes()
    page = LexborHTMLParser(clean(decode(raw, label, html_encoding(raw))))
    title = page.css_first("head title") or page.css_first("h1")
    root = page.css_first("html")
    language = (root.attributes.get("lang") or "").strip() if root else ""
    name = clean_line(title.text(deep=True)) if title else ""
    yield Document(
        id=label, text=html_text(page), title=name, source=label, language=language or None
    )


def html_text(page: LexborHTMLParser) -> str:
    """The text that a reader of the page sees, a line per block and an empty line per paragraph.

    Only <main> (else a lone <article>) where it holds text; never scripts, styles or forms'
    buttons; navigation only where there is nothing else.
    """
    page.strip_tags(_UNREAD)
    body = page.body
    if body is None:
        return ""
    articles = page.css("article")
    main = page.css_first("main") or (articles[0] if len(articles) == 1 else None)
    for root, left_out in ((main, _AROUND), (body, _AROUND), (body, frozenset[str]())):
        text = _visible(root, left_out) if root is not None else ""
        if text:
            return text
    return ""


def _visible(root: LexborNode, left_out: frozenset[str]) -> str:
    parts: list[str] = []
    breaks = 0  # line breaks that are due before the next text; neighbours' do not add up
    preformatted = 0
    for kind, node in walk_html(root, lambda node: node.tag in left_out):
        tag = node.tag or ""
        if kind == "text":
            content = node.text_content or ""
            # Outside <pre> a line break in the source is a space.
            content = content if preformatted else content.replace("\n", " ")
            if content.strip() or (content and not breaks):
                parts.append("\n" * breaks if parts else "")
                parts.append(content)
                breaks = 0
        elif tag in ("td", "th") and kind == "close":
            parts.append(" ")
        elif tag in _BLOCKS:
            breaks = max(breaks, 2 if tag in _PARAGRAPHS else 1)
            preformatted += (tag == "pre") * (1 if kind == "open" else -1)
    lines = [" ".join(line.split()) for line in "".join(parts).split("\n")]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip()


def walk_html(
    root: LexborNode, skip: Callable[[LexborNode], bool]
) -> Iterator[tuple[Literal["open", "close", "text"], LexborNode]]:
    """Elements opening and closing, and text nodes, in document order; without what is skipped.

    Never recursive: pages can nest without end.
    """
    node: LexborNode | None = root
    end = root.mem_id  # comparing nodes compares their whole HTML
    while node is not None:
        if node.is_text_node:
            yield "text", node
        elif not skip(node):
            yield "open", node
            if (child := node.first_child) is not None:
                node = child
                continue
            yield "close", node
        while node is not None and node.mem_id != end and node.next is None:
            node = node.parent
            if node is not None:
                yield "close", node
        node = None if node is None or node.mem_id == end else node.next


def read_pdf(path: Path, label: str) -> Read:
    """A PDF as one document, pages apart; needs the extra `tercet[pdf]`."""
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ModuleNotFoundError as error:
        raise MissingExtraError("reading PDF needs pypdf: pip install 'tercet[pdf]'") from error
    # It logs what it mends; without a handler Python would print that among our own messages.
    logging.getLogger("pypdf").addHandler(logging.NullHandler())
    # Damaged files make pypdf fail in any of these ways besides its own.
    damage = (PyPdfError, ValueError, TypeError, KeyError, IndexError, AttributeError)
    try:
        pdf = PdfReader(path)
        pages = [clean(page.extract_text()).strip() for page in pdf.pages]
        title = clean_line(str((pdf.metadata and pdf.metadata.title) or ""))
    except (*damage, RecursionError, NotImplementedError) as error:
        raise Unreadable(label, f"not a whole PDF: {error or type(error).__name__}") from error
    text = "\n\n".join(page for page in pages if page)
    if pages and not text:
        raise Unreadable(label, "no text in the PDF: scanned pages need text recognition first")
    yield Document(id=label, text=text, title=title, source=label)


# Files that are many documents, one a row: JSON lines, CSV, TSV, Parquet

# A field of a document, and what it may be called in a row.
_FIELDS = {
    "text": ("text", "contents", "body"),
    "id": ("id", "_id"),
    "title": ("title",),
    "language": ("language", "lang"),
}
_LONGEST = 1024  # characters of a metadata string: longer ones are nothing to filter by


def read_jsonl(path: Path, label: str) -> Read:
    """JSON lines, an object a line; a line that is none is a Problem, the next ones are read."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
                if not isinstance(row, dict):
                    raise ValueError(f"an object was expected, this is a {type(row).__name__}")
            except UnicodeDecodeError as error:
                yield Problem(f"{label}:{number}", undecodable(error))
            except (ValueError, RecursionError) as error:
                yield Problem(f"{label}:{number}", f"not a line of JSON: {error}")
            else:
                yield _row_document(row, label, number)


def read_csv(path: Path, label: str) -> Read:
    """Comma-separated values under a header line; tab-separated ones where the name says .tsv."""
    csv.field_size_limit(sys.maxsize)  # the default refuses fields above 128 KB
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open("rb") as file:
        rows = csv.reader(_decoded_lines(file, label), delimiter=delimiter, strict=True)
        try:
            header = [clean_line(name).lower() for name in next(rows, [])]
            _check_columns(header, label)
            for row in rows:
                if len(row) > len(header):
                    source = f"{label}:{rows.line_num}"
                    yield Problem(source, f"{len(row)} fields where the header names {len(header)}")
                elif any(row):
                    named = dict(zip(header, row, strict=False))
                    yield _row_document(named, label, rows.line_num)
        except csv.Error as error:
            source = f"{label}:{rows.line_num}"
            raise Unreadable(source, f"not separated values: {error}") from error


def _decoded_lines(file: IO[bytes], label: str) -> Iterator[str]:
    """The lines of a UTF-8 file; raises Unreadable with the number of one that is not."""
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise Unreadable(f"{label}:{number}", undecodable(error)) from error


def _check_columns(names: list[str], label: str) -> None:
    if not any(name in names for name in _FIELDS["text"]):
        columns = ", ".join(name or '""' for name in names[:20]) or "none"
        expected = ", ".join(_FIELDS["text"])
        raise Unreadable(label, f"no column named {expected}: the columns are {columns}")


def read_parquet(path: Path, label: str) -> Read:
    """A Parquet file, read in batches of rows; needs the extra `tercet[parquet]`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "reading Parquet needs pyarrow: pip install 'tercet[parquet]'"
        ) from error
    try:
        with pq.ParquetFile(path) as file:
            fields = [field for field in file.schema_arrow if not pa.types.is_nested(field.type)]
            columns = [field.name for field in fields if not pa.types.is_binary(field.type)]
            _check_columns([name.lower() for name in columns], label)
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    lowered = {clean_line(name).lower(): value for name, value in row.items()}
                    yield _row_document(lowered, label, number)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise Unreadable(label, f"not a whole Parquet file: {error}") from error


def _row_document(row: Mapping[str, Any], label: str, number: int) -> Document | Problem:
    """The document that a row holds, or the Problem with it.

    Without an id of its own it is named after its place, as in "file.csv#12". Its other plain
    values are metadata, dates as text.
    """
    if not any(key in row for key in _FIELDS["text"]):
        return Problem(f"{label}:{number}", f"no field named {', '.join(_FIELDS['text'])}")
    values: dict[str, str] = {}
    for field, names in _FIELDS.items():
        value = next((row[name] for name in names if row.get(name) not in (None, "")), "")
        if isinstance(value, list | dict):
            kind = type(value).__name__
            return Problem(f"{label}:{number}", f"the {field} is a {kind}, not a string")
        values[field] = str(value)
    taken = {name for names in _FIELDS.values() for name in names}
    metadata: dict[str, Scalar] = {}
    for key, value in row.items():
        plain = _scalar(value.isoformat() if hasattr(value, "isoformat") else value)
        if key in taken or plain in (None, "") or len(str(plain)) > _LONGEST:
            continue
        if plain is not None and (name := clean_line(key)):
            metadata[name] = plain
    return Document(
        id=clean_line(values["id"]) or f"{label}#{number}",
        text=clean(values["text"]).strip(),
        title=clean_line(values["title"]),
        source=f"{label}#{number}",
        language=clean_line(values["language"]) or None,
        metadata=metadata,
    )


# Finding files and reading them

READERS: Mapping[str, Reader] = {
    ".txt": read_text,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".pdf": read_pdf,
}


@dataclass(frozen=True)
class SourceFile:
    """A file to be read."""

    path: Path  # absolute
    label: str
    size: int  # bytes
    mtime_ns: int  # when it was last changed, as the file system tells


def find_files(paths: Iterable[str | Path]) -> Iterator[SourceFile | Problem]:
    """The readable kinds of files under folders, and files as given, each once, in a fixed order.

    Hidden files and folders are passed over, links to folders are not followed. In a folder other
    kinds of files are passed over too; named alone, they are a Problem. So are a path that is not
    there, a folder that cannot be listed, and one that holds no file of a readable kind.
    """
    kinds = " ".join(READERS)
    seen: set[Path] = set()
    for path in paths:
        if os.path.isdir(path):
            items = _walk(path)
            if not items:
                reason = f"no file that can be read: looked for {kinds}"
                items = [Problem(label_of(path), reason)]
        elif Path(path).suffix.lower() not in READERS and os.path.exists(path):
            items = [Problem(label_of(path), f"not a kind of file that is read: {kinds}")]
        else:
            items = [_stat(path)]
        for item in items:
            if isinstance(item, Problem) or item.path not in seen:
                yield item
            if isinstance(item, SourceFile):
                seen.add(item.path)


def _walk(folder: str | Path) -> list[SourceFile | Problem]:
    items: list[SourceFile | Problem] = []

    def note(error: OSError) -> None:
        label = label_of(error.filename or folder)
        items.append(Problem(label, f"the folder cannot be read: {error.strerror}"))

    for where, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        items += [
            _stat(os.path.join(where, name))
            for name in sorted(names)
            if not name.startswith(".") and Path(name).suffix.lower() in READERS
        ]
    return items


def _stat(path: str | Path) -> SourceFile | Problem:
    try:
        facts = os.stat(path)
    except OSError as error:
        return Problem(label_of(path), f"cannot be read: {error.strerror}")
    absolute = Path(os.path.abspath(path))
    return SourceFile(absolute, label_of(path), facts.st_size, facts.st_mtime_ns)


def read_file(path: Path, label: str) -> Read:
    """The documents of one file, streamed; what cannot be read comes as a Problem in its place.

    The metadata of each gains the path (its label) and the suffix of the file.
    """
    suffix = path.suffix.lower()
    about = {"path": label, "suffix": suffix}
    try:
        for item in READERS[suffix](path, label):
            if isinstance(item, Document):
                item = replace(item, metadata={**about, **item.metadata})
            yield item
    except Unreadable as error:
        yield Problem(error.source, error.reason)
    except MissingExtraError as error:
        yield Problem(label, str(error))
    except OSError as error:
        yield Problem(label, f"cannot be read: {error.strerror or error}")
