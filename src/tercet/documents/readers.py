"""The text of each format as plain text: one document a file, or one a row.

A reader takes a path, the label that names the file in ids and messages, and a Reading. Knows
nothing of folders, chunks, indexes or models.
"""

import codecs
import csv
import json
import logging
import re
import sys
import tomllib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import TextIOWrapper
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Literal, cast

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from selectolax.lexbor import LexborHTMLParser, LexborNode

from tercet.documents.base import (
    LONGEST,
    Note,
    Problem,
    Reading,
    Unreadable,
    clean,
    clean_line,
    decode_as,
    title_of,
    undecodable,
)
from tercet.documents.encodings import detect, encoding_of, html_encoding, unmarked
from tercet.errors import InputError, MissingExtraError
from tercet.records import Document, Section
from tercet.rows import TEXTS, field_of, kind_of, open_packed

Read = Iterator[Document | Problem]
Reader = Callable[[Path, str, Reading], Read]  # (path, label, how) -> what is in the file


def read_bytes(path: Path, label: str, reading: Reading) -> bytes:
    """What is in a file, unpacked; raises Unreadable where that is more than a text may have."""
    with open_packed(path) as file:
        raw = file.read(reading.most + 1)
    if len(raw) > reading.most:
        raise Unreadable(label, too_large(reading))
    return raw


def too_large(reading: Reading) -> str:
    """The reason in words for a text that is too large."""
    return f"more than {reading.max_mb} MB of text: split it, or raise --max-mb"


def _read_page(
    path: Path, label: str, reading: Reading, encoding_in: Callable[[bytes], str | None]
) -> tuple[str, list[Note]]:
    """The clean text of a file, and what is to be said of its encoding."""
    raw = read_bytes(path, label, reading)
    text, guessed = decode_as(raw, label, encoding_in(raw), given=reading.encoding)
    return clean(text), _guesses(label, guessed)


def _guesses(label: str, encoding: str | None) -> list[Note]:
    return [Note(label, f"read as {encoding}: --encoding names another")] if encoding else []


# Files that are one document: plain text, Markdown, HTML, PDF


def read_text(path: Path, label: str, reading: Reading) -> Read:
    """A plain text file as one document without a title."""
    text, notes = _read_page(path, label, reading, lambda raw: None)
    yield Document(id=label, text=text.strip(), source=label)
    yield from notes


_KEY = re.compile(r"[^\W\d][\w.-]*")
_FIELD = re.compile(rf"({_KEY.pattern})\s*[:=](?:\s+(.*))?")
_FRONT = 1 << 15  # characters of front matter


def read_markdown(path: Path, label: str, reading: Reading) -> Read:
    """A Markdown file as one document: its markup gone, title from front matter or a heading.

    Front matter is YAML between two lines of "---" at the top, or TOML between "+++"; title and
    language (or lang) are fields of the document, the rest is metadata. Without a title there, the
    first heading is the title; where it opens the file it is not repeated in the text. Paragraphs
    are an empty line apart, items of lists and rows of tables a line.
    """
    source, notes = _read_page(path, label, reading, lambda raw: None)
    yield markdown_document(source, label)
    yield from notes


def markdown_document(source: str, label: str) -> Document:
    """A Markdown text as a document, as `read_markdown` says."""
    fields, body = front_matter(source)
    blocks = [block for block in map(_without_tags, markdown_blocks(body)) if block.text]
    title = fields.pop("title", "")
    heading = next((block for block in blocks if block.kind == "heading"), None)
    if not title and heading is not None and len(heading.text) <= LONGEST:
        title = heading.text
        blocks = blocks[1:] if blocks[0] is heading else blocks
    text, outline = joined(blocks)
    language = fields.pop("language", "") or fields.pop("lang", "")
    return Document(
        id=label,
        text=text,
        title=title_of(title),
        source=label,
        language=language or None,
        metadata=fields,
        outline=outline,
    )


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The fields at the top of a Markdown text, names in small letters, and the text below them.

    Values are as they are written, lists and objects of these; title and language are texts. What
    stands between two rules and is no fields is text.
    """
    mark = text[: text.find("\n")].rstrip()
    ends = ("---", "...") if mark == "---" else ("+++",)
    if mark not in ("---", "+++"):
        return {}, text
    lines = text[:_FRONT].split("\n")
    last = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() in ends), 0)
    fields = _fields(lines[1:last], tomllib.loads if mark == "+++" else _yaml)
    if fields is None:
        return {}, text
    fields = {key.lower(): value for key, value in fields.items() if value not in ("", None)}
    for key in {"title", "language", "lang"} & fields.keys():
        value = fields[key]
        parts = value if isinstance(value, list) else [value]  # what is in these nests maybe
        fields[key] = " ".join([str(part) for part in parts if not isinstance(part, list | dict)])
    return fields, text[sum(len(line) + 1 for line in lines[: last + 1]) :]


def _yaml(text: str) -> Any:
    return yaml.load(text, yaml.BaseLoader)  # every value as it is written


def _fields(lines: Sequence[str], parse: Callable[[str], Any]) -> dict[str, Any] | None:
    """The fields of front matter, None where it is none."""
    if not lines or not lines[0].strip():
        return None  # an empty line: a rule, as Pandoc has it
    try:
        fields = parse("\n".join(lines))
    except (yaml.YAMLError, tomllib.TOMLDecodeError, RecursionError):
        # A colon within a title, most often. Lines that are indented, or begin a list, go on.
        outer = [line.rstrip() for line in lines if line.strip() and line[0] not in " \t#-"]
        matches = [_FIELD.fullmatch(line) for line in outer]
        if not all(matches):
            return None
        fields = {m[1]: (m[2] or "").strip().strip("\"'").strip() for m in matches if m}
    if not isinstance(fields, dict) or not all(map(_KEY.fullmatch, map(str, fields))):
        return None
    return {str(key): _written(value) for key, value in fields.items()}


def _written(value: Any) -> Any:
    """A value of TOML as YAML's are: numbers, dates and truth as text."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, list | dict) else str(value)


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
    outline: tuple[Section, ...] = ()  # of its text; of one of HTML not before `_without_tags`


def markdown_blocks(text: str, *, prose: bool = False) -> Iterator[Block]:
    """The blocks of a Markdown text as plain text, but HTML as it stands; empty ones are left out.

    prose: the lines of a paragraph are joined, and images and struck-out marks leave nothing;
    headings may be empty.
    """
    row: list[str] | None = None  # the cells of the table row that is open
    cells: list[str] = []  # as they are written
    level = items = row_linked = 0
    source = text.split("\n")
    for token in _PARSERS[prose].parse(text):
        if token.level >= _DEEPEST - 1:  # the parser leaves out what stands deeper, and all below
            raise InputError("its lists and quotations nest too deep to be read")
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
            cells = _cells(source[token.map[0]]) if token.map else []
        elif token.type == "tr_close" and row is not None:
            row += cells[len(row) :]  # which the parser leaves out: the header has no such columns
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
            outline = (Section(0, level, clean_line(plain)),) if kind == "heading" else ()
            yield Block(kind, plain, level, items > 0 or kind == "row", line, linked, outline)


def joined(blocks: Iterable[Block]) -> tuple[str, tuple[Section, ...]]:
    """The text of blocks, an empty line between them but for listed ones, and its outline."""
    parts: list[str] = []
    outline: list[Section] = []
    size, listed = 0, False
    for block in blocks:
        gap = "" if not parts else "\n" if listed and block.listed else "\n\n"
        parts += [gap, block.text]
        outline += [part._replace(start=size + len(gap) + part.start) for part in block.outline]
        size, listed = size + len(gap) + len(block.text), block.listed
    return "".join(parts), tuple(outline)


def _cells(line: str) -> list[str]:
    """The cells of a row of a table, as they are written."""
    inner = re.sub(r"^[\s>]*\|?|(?<!\\)\|\s*$", "", line)
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", inner)]


_DEEPEST = 100  # levels of nesting; a list takes two
_PARSERS = {
    False: MarkdownIt("commonmark", {"maxNesting": _DEEPEST}).enable("table"),
    True: MarkdownIt("commonmark", {"maxNesting": _DEEPEST}).enable(["table", "strikethrough"]),
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
    text, outline = html_text(parse_html(block.text))
    return replace(block, text=text, outline=outline)


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
_HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())

# Start tags that end what they need not stand in, or have no content: they do not nest.
_UNNESTED = frozenset(
    "area base br col embed hr img input link meta param source track wbr p li dd dt tr td th "
    "thead tbody tfoot option optgroup colgroup a".split()
)
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)[^>]*?(/?)>")
_STEPS = 10**9  # that the parser may take up open elements: some seconds


# As browsers cut them
_ATTRIBUTE = r"""[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>]*+))?+"""
_START = re.compile(rf"<[a-zA-Z][^\s/>]*+(?:{_ATTRIBUTE})*+")


def parse_html(text: str) -> LexborHTMLParser:
    """A page, parsed; raises InputError for one that would take minutes.

    That is one whose elements nest very deep, or have very many attributes.
    """
    if len(text) ** 2 > 16 * _STEPS:  # the parser compares the attributes of a tag with each other
        long = (match[0] for match in _START.finditer(text) if len(match[0]) > 1000)
        if sum(len(re.findall(_ATTRIBUTE, tag)) ** 2 for tag in long) > _STEPS:
            raise InputError("its elements have too many attributes to be read")
    if text.count("<") ** 2 > 2 * _STEPS:
        steps = depth = 0
        opened = Counter[str]()
        for match in _TAG.finditer(text):
            closing, name, empty = match[1], match[2].lower(), match[3]
            steps += depth
            if name in _UNNESTED or (empty and name not in _BLOCKS):
                continue
            if not closing:
                opened[name] += 1
                depth += 1
            elif opened[name]:
                opened[name] -= 1
                depth -= 1
        if steps > _STEPS:
            raise InputError(f"its elements nest too deep to be read: {depth} are never closed")
    return LexborHTMLParser(text)


def read_html(path: Path, label: str, reading: Reading) -> Read:
    """An HTML file as one document: the main text, the title, the language of its root element."""
    text, notes = _read_page(path, label, reading, html_encoding)
    page = parse_html(text)
    title = (page.head and page.head.css_first("title")) or page.css_first("h1")
    root = page.css_first("html")
    language = (root.attributes.get("lang") or "").strip() if root else ""
    name = title_of(title.text(deep=True)) if title else ""
    content, outline = html_text(page)
    yield Document(
        id=label,
        text=content,
        title=name,
        source=label,
        language=language or None,
        outline=outline,
    )
    yield from notes


def html_text(page: LexborHTMLParser) -> tuple[str, tuple[Section, ...]]:
    """The text that a reader of the page sees, and its headings.

    A line per block and an empty line per paragraph.
    Only <main> (else a lone <article>) where it holds text; never scripts, styles or forms'
    buttons; navigation only where there is nothing else.
    """
    page.strip_tags(_UNREAD)
    body = page.body
    if body is None:
        return "", ()
    articles = page.css("article")
    main = page.css_first("main") or (articles[0] if len(articles) == 1 else None)
    for root, left_out in ((main, _AROUND), (body, _AROUND), (body, frozenset[str]())):
        text, outline = _visible(root, left_out) if root is not None else ("", ())
        if text:
            return text, outline
    return "", ()


def _visible(root: LexborNode, left_out: frozenset[str]) -> tuple[str, tuple[Section, ...]]:
    parts: list[str] = []
    headings: list[list[int]] = []  # level, the first part, and the one after the last
    opened: list[list[int]] = []  # of these
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
            if tag in _HEADINGS and kind == "open":
                opened.append([int(tag[1]), len(parts), 0])
                headings.append(opened[-1])
            elif tag in _HEADINGS:
                opened.pop()[2] = len(parts)
    lines: list[str] = []  # of which no two after each other are empty, nor is the first
    numbers: list[int] = []  # of the line that each one of the page is in the text
    for line in "".join(parts).split("\n"):
        words = " ".join(line.split())
        numbers.append(len(lines))
        if words or (lines and lines[-1]):
            lines.append(words)
    starts = list(accumulate((len(line) + 1 for line in lines), initial=0))
    ends = list(accumulate(part.count("\n") for part in parts))  # the line that a part ends in
    outline: list[Section] = []
    for level, first, after in headings:
        if first < after:  # it holds any text
            top, bottom = numbers[ends[first]], numbers[ends[after - 1]]
            outline.append(Section(starts[top], level, " ".join(lines[top : bottom + 1])))
    return "\n".join(lines).rstrip("\n"), tuple(outline)


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


_LARGER = 8  # times: a PDF is mostly pictures and fonts


def read_pdf(path: Path, label: str, reading: Reading) -> Read:
    """A PDF as one document, pages apart; needs the extra `tercet[pdf]`."""
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError
    except ModuleNotFoundError as error:
        raise MissingExtraError("reading PDF needs pypdf: pip install 'tercet[pdf]'") from error
    # It logs what it mends; without a handler Python would print that among our own messages.
    logging.getLogger("pypdf").addHandler(logging.NullHandler())
    if path.stat().st_size > _LARGER * reading.most:
        raise Unreadable(label, f"a PDF of more than {_LARGER * reading.max_mb} MB: raise --max-mb")
    pages: list[str] = []
    room = reading.most
    try:
        with PdfReader(path) as pdf:
            if pdf.is_encrypted and not pdf.decrypt(""):
                raise Unreadable(label, "an encrypted PDF: save it without its password")
            title = title_of(str((pdf.metadata and pdf.metadata.title) or ""))
            for page in pdf.pages:
                pages.append(clean(page.extract_text()).strip())
                room -= len(pages[-1])
                if room < 0:
                    raise Unreadable(label, too_large(reading))
    except DependencyError as error:
        raise Unreadable(label, "an encrypted PDF: pip install cryptography to read it") from error
    except (Unreadable, OSError, MemoryError):
        raise
    except Exception as error:  # damaged files make pypdf fail in any way
        what = "an encrypted PDF" if "crypt" in str(error).lower() else "not a whole PDF"
        raise Unreadable(label, f"{what}: {error or type(error).__name__}") from error
    text = "\n\n".join(page for page in pages if page)
    outline: list[Section] = []
    start = 0
    for number, page_text in enumerate(pages, 1):
        if page_text:
            outline.append(Section(start, 0, str(number)))
            start += len(page_text) + 2
    if pages and not text:
        raise Unreadable(label, "no text in the PDF: scanned pages need text recognition first")
    yield Document(id=label, text=text, title=title, source=label, outline=tuple(outline))


# Files that are many documents, one a row: JSON lines, CSV, TSV, Parquet

_PATIENCE = 100  # rows without any text, before a file is given up
_WIDE = frozenset("utf-16 utf-16-le utf-16-be utf-32 utf-32-le utf-32-be".split())
# A field of a document, and what it may be called in a row.
_FIELDS = {
    "text": TEXTS,
    "id": ("id", "_id"),
    "title": ("title",),
    "language": ("language", "lang"),
}


def read_jsonl(path: Path, label: str, reading: Reading) -> Read:
    """JSON lines, an object a line; a line that is none is a Problem, the next ones are read."""
    rows = _Rows(label, reading)
    for number, line in rows.lines(path):
        if isinstance(line, Problem):
            yield line
        elif line.strip():
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"an object was expected, this is a {type(row).__name__}")
            except (ValueError, RecursionError) as error:
                if number == 1 and line.startswith("["):
                    what = "a JSON array, not JSON lines: `jq -c .[] FILE` makes it lines"
                    raise Unreadable(label, what) from error
                yield Problem(
                    f"{label}:{number}", f"not a line of JSON: {getattr(error, 'msg', error)}"
                )
            else:
                yield rows.document(row, number)
    yield from rows.notes()


def read_csv(path: Path, label: str, reading: Reading) -> Read:
    """Separated values under a header line; in a .tsv a quotation mark is a character.

    Commas, or semicolons or tabs where the header has more of these. A row that is no such row is
    a Problem, the next ones are read.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses fields above 128 KB
    rows = _Rows(label, reading)
    parse = _tabbed if kind_of(path) == ".tsv" else _separated
    header: list[str] = []
    for number, row in parse(rows.lines(path), label, reading.most):
        if isinstance(row, Problem):
            yield row
        elif not header and any(row):
            header = [clean_line(name).lower() for name in row]
            rows.check_columns(header)
        elif any(row) and len(row) > len(header):
            reason = f"{len(row)} fields where the header names {len(header)}"
            yield Problem(f"{label}:{number}", reason)
        elif any(row):
            yield rows.document(dict(zip(header, row, strict=False)), number)
    rows.check_columns(header)
    yield from rows.notes()


Lines = Iterator[tuple[int, str | Problem]]
Records = Iterator[tuple[int, list[str] | Problem]]


def _tabbed(lines: Lines, label: str, most: int) -> Records:
    for number, line in lines:
        yield number, line if isinstance(line, Problem) else line.rstrip("\r\n").split("\t")


_DELIMITER = re.compile(r"(?:sep=(.))?\s*", re.IGNORECASE)  # above a header, as Excel writes it


def _separated(lines: Lines, label: str, most: int) -> Records:
    """Rows of CSV with the line each begins at; a quoted field may go on over lines."""
    source = _with_line_breaks(lines)
    again: deque[tuple[int, str | Problem]] = deque()  # lines after one that turned out bad
    delimiter = ""
    while (item := again.popleft() if again else next(source, None)) is not None:
        number, line = item
        if isinstance(line, Problem):
            yield number, line
            continue
        if not delimiter:
            if (named := _DELIMITER.fullmatch(line)) is not None:
                delimiter = named[1] or ""
                continue
            bare = re.sub('"[^"]*"', "", line)
            delimiter = max(",;\t", key=bare.count)
        row = _row(line, delimiter)
        more: list[tuple[int, str | Problem]] = []
        if row is None:  # a quoted field that goes on
            parts, size, quotes = [line], len(line), line.count('"')
            while quotes % 2 and size < most:
                following = again.popleft() if again else next(source, None)
                if following is None:
                    break
                more.append(following)
                if isinstance(following[1], Problem):
                    break
                parts.append(following[1])
                size += len(parts[-1]) + 64  # bytes of a line's own, however short
                quotes += parts[-1].count('"')
            row = _row("".join(parts), delimiter) or "a quotation mark that is not closed"
        if isinstance(row, str):
            again.extendleft(reversed(more))
            yield number, Problem(f"{label}:{number}", f"not a row of CSV: {row}")
        else:
            yield number, row


def _with_line_breaks(lines: Lines) -> Lines:
    """The lines, numbered anew where some end in a carriage return alone."""
    count = 0
    for _, line in lines:
        parts = [line] if isinstance(line, Problem) else re.split("(?<=\r)(?!\n)(?=.)", line)
        for part in parts:
            count += 1
            yield count, part


def _row(text: str, delimiter: str) -> list[str] | str | None:
    """The fields of one row, the reason why it is none, or None where a quoted field goes on."""
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        return None if "unexpected end of data" in str(error) else str(error)


def read_parquet(path: Path, label: str, reading: Reading) -> Read:
    """A Parquet file, read in batches of rows; needs the extra `tercet[parquet]`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "reading Parquet needs pyarrow: pip install 'tercet[parquet]'"
        ) from error
    rows = _Rows(label, reading)

    def is_plain(kind: Any) -> bool:
        return not (pa.types.is_nested(kind) or pa.types.is_binary(kind))

    def is_read(kind: Any) -> bool:  # lists of numbers with a point are vectors
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            return is_plain(kind)
        return is_plain(kind.value_type) and not pa.types.is_floating(kind.value_type)

    try:
        with pq.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if is_read(field.type)]
            rows.check_columns([name.lower() for name in columns])
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=columns):
                try:
                    values = batch.to_pylist()
                except (ValueError, OverflowError):  # a date that Python cannot hold
                    texts = [
                        column.cast(pa.string()) if pa.types.is_temporal(column.type) else column
                        for column in batch.columns
                    ]
                    values = pa.RecordBatch.from_arrays(texts, columns).to_pylist()
                for row in values:
                    number += 1
                    lowered = {clean_line(name).lower(): value for name, value in row.items()}
                    yield rows.document(lowered, number)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise Unreadable(label, f"not a whole Parquet file: {error}") from error
    yield from rows.notes()


class _Rows:
    """The rows of one file as documents."""

    def __init__(self, label: str, reading: Reading) -> None:
        self._label, self._reading = label, reading
        self._texts = _FIELDS["text"]
        if reading.text_field is not None:
            self._texts = (clean_line(reading.text_field).lower(),)
        self._with_text: bool | None = None  # whether rows have a text, as the first one shows
        self._without = 0  # rows that hold none
        self._joined: dict[str, None] = {}
        self._guessed: str | None = None

    def lines(self, path: Path) -> Lines:
        """The lines of a file, maybe packed, as text with their ends; too long ones Problems."""
        most, label = self._reading.most, self._label
        with open_packed(path) as file:
            encoding = self._encoding(file.read(1 << 16))
        with open_packed(path) as file:
            if encoding in _WIDE:
                yield from self._wide_lines(
                    TextIOWrapper(cast(IO[bytes], file), encoding, newline="\n")
                )
                return
            number = 0
            while line := file.readline(most + 1):
                number += 1
                if len(line) > most:
                    yield number, Problem(f"{label}:{number}", too_large(self._reading))
                    while line and not line.endswith(b"\n"):
                        line = file.readline(most)
                    continue
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                try:
                    yield number, line.decode(encoding, "tercet")
                except UnicodeDecodeError as error:
                    yield number, Problem(f"{label}:{number}", undecodable(error))

    def _wide_lines(self, file: TextIOWrapper) -> Lines:
        number, most = 0, self._reading.most // 4
        try:
            while line := file.readline(most + 1):
                number += 1
                if len(line) > most:
                    raise Unreadable(f"{self._label}:{number}", too_large(self._reading))
                yield number, line.removeprefix("\ufeff")
        except UnicodeError as error:
            where = f"{self._label}:{number + 1}"
            raise Unreadable(where, f"not {file.encoding}: {error}") from error

    def _encoding(self, head: bytes) -> str:
        if (marked := unmarked(head)) is not None:
            return marked
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)  # which may end in a character
        except UnicodeDecodeError as error:
            if self._reading.encoding is not None:
                return encoding_of(self._reading.encoding) or "utf-8"
            self._guessed = detect(head, error.start)
        return self._guessed or "utf-8"

    def check_columns(self, names: Sequence[str]) -> None:
        """Raises Unreadable where no column can be the text."""
        chosen = self._reading.text_field is not None
        if not names or (chosen and self._texts[0] not in names):
            raise Unreadable(self._label, self._no_text("column", names))

    def _no_text(self, what: str, names: Iterable[str]) -> str:
        listed = ", ".join([str(name)[:80] or '""' for name in names][:20]) or "none"
        expected = ", ".join(self._texts)
        return f"no {what} named {expected}: the {what}s are {listed}; --text-field names another"

    def document(self, row: Mapping[str, Any], number: int) -> Document | Problem:
        """The document that a row holds, or the Problem with it.

        Without an id of its own it is named after its place, as in "file.csv#12". Without a text,
        where the first row has none either, all that hold text are joined as "name: value". Its
        other plain values are metadata, dates as text.
        """
        where, folded = f"{self._label}:{number}", {key.lower(): row[key] for key in row}
        has_text = any(name in folded for name in self._texts)
        fields = {**_FIELDS, "text": self._texts}
        try:
            values = {field: field_of(folded, names) for field, names in fields.items()}
        except InputError as error:
            return Problem(where, str(error))
        taken = {name for names in fields.values() for name in names}
        if not has_text:
            texts = {
                key: value
                for key, value in row.items()
                if isinstance(value, str)
                and key.lower() not in taken
                and any(map(str.isalpha, value))
            }
            if self._with_text or self._reading.text_field is not None or not texts:
                self._without += 1
                if self._with_text is None and self._without > _PATIENCE:
                    raise Unreadable(self._label, self._no_text("field", row))
                return Problem(where, self._no_text("field", row))
            self._with_text = False
            self._joined.update(dict.fromkeys(texts))
            values["text"] = "\n".join(f"{key}: {value.strip()}" for key, value in texts.items())
        elif self._with_text is None:
            self._with_text = True
        if len(values["text"]) > self._reading.most:
            return Problem(where, too_large(self._reading))
        if len(values["id"]) > LONGEST:
            return Problem(where, f"its id has more than {LONGEST:,} characters")
        return Document(
            id=clean_line(values["id"]) or f"{self._label}#{number}",
            text=clean(values["text"]).strip(),
            title=title_of(values["title"]),
            source=f"{self._label}#{number}",
            language=clean_line(values["language"][:LONGEST]) or None,
            metadata={key: value for key, value in row.items() if key.lower() not in taken},
        )

    def notes(self) -> Iterator[Note]:
        """What is to be said of the file."""
        yield from _guesses(self._label, self._guessed)
        if self._joined:
            names = ", ".join([name[:80] for name in self._joined][:20])
            yield Note(
                self._label,
                f"no field named {', '.join(self._texts)}: the text of a row is all of its fields "
                f"with text ({names}); --text-field names one",
            )
