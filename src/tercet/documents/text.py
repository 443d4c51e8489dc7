"""Readers of files that are one document each: plain text, Markdown, HTML, PDF.

Turns markup into plain text with paragraphs apart; knows nothing of chunks or indexes.
"""

import codecs
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from selectolax.lexbor import LexborHTMLParser, LexborNode

from tercet.documents.base import Problem, Read, Unreadable, clean, clean_line, decode
from tercet.errors import MissingExtraError
from tercet.records import Document

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
_CELLS = frozenset(("td", "th"))
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w.:-]{1,40})""", re.IGNORECASE)
_FIELD = re.compile(r"([A-Za-z_][\w.-]*)\s*:\s*(.*)")


def read_text(path: Path, label: str) -> Read:
    """A plain text file as one document without a title."""
    yield Document(id=label, text=clean(decode(path.read_bytes(), label)).strip(), source=label)


def read_markdown(path: Path, label: str) -> Read:
    """A Markdown file as one document: its markup gone, title from front matter or a heading.

    Front matter is what stands between two lines of "---" at the top, one "key: value" a line;
    title and language (or lang) are fields of the document, the rest is metadata. Without a title
    there, the first heading is the title; where it opens the file it is not repeated in the text.
    """
    fields, body = _front_matter(clean(decode(path.read_bytes(), label)))
    blocks, heading, leads = _markdown_blocks(body)
    title = fields.pop("title", "")
    if not title and heading:
        title = heading
        if leads:
            blocks = blocks[2:]
    language = fields.pop("language", "") or fields.pop("lang", "")
    yield Document(
        id=label,
        text="".join(blocks),
        title=clean_line(title),
        source=label,
        language=language or None,
        metadata=fields,
    )


def _front_matter(text: str) -> tuple[dict[str, str], str]:
    """The fields at the top of a Markdown text, and the text below them."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return {}, text
    end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        return {}, text  # a thematic break, not front matter
    fields: dict[str, str] = {}
    for line in lines[1:end]:
        match = _FIELD.fullmatch(line.strip())
        if match and (value := match[2].strip().strip("\"'").strip()):
            fields[match[1].lower()] = value
    return fields, "\n".join(lines[end + 1 :])


def _markdown_blocks(text: str) -> tuple[list[str], str, bool]:
    """The plain blocks, separators between them, the first heading, and whether it leads.

    Paragraphs are an empty line apart, items of lists and rows of tables a line.
    """
    blocks: list[str] = []
    heading, leads, listed = "", False, False
    row: list[str] | None = None  # the cells of the table row that is open
    within: list[str] = []  # the open blocks around the token
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        plain = ""
        if token.nesting == 1:
            within.append(token.type)
            row = [] if token.type == "tr_open" else row
        elif token.nesting == -1:
            within.pop()
            if token.type == "tr_close" and row is not None:
                plain, row = " | ".join(row), None
        elif row is not None:
            row.append(_markdown_plain(token))
        else:
            plain = _markdown_plain(token)
            if within and within[-1] == "heading_open" and plain and not heading:
                heading, leads = plain, not blocks
        if plain:
            now_listed = "list_item_open" in within or "table_open" in within
            if blocks:
                blocks.append("\n" if listed and now_listed else "\n\n")
            blocks.append(plain)
            listed = now_listed
    return blocks, heading, leads


def _markdown_plain(token: Token) -> str:
    """The text of a leaf block: inline content, code as it stands, HTML without its tags."""
    if token.type == "inline":
        return _inline_text(token.children or ()).strip()
    if token.type in ("fence", "code_block"):
        return token.content.strip("\n")
    if token.type == "html_block":
        return html_text(LexborHTMLParser(token.content))
    return ""


def _inline_text(tokens: Sequence[Token]) -> str:
    parts = []
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif token.type != "html_inline":
            parts.append(token.content)  # of an image: its description; of a link's ends: nothing
    return "".join(parts)


def read_html(path: Path, label: str) -> Read:
    """An HTML file as one document: the main text, the title, the language of its root element."""
    raw = path.read_bytes()
    page = LexborHTMLParser(clean(decode(raw, label, _charset(raw))))
    title = page.css_first("head title") or page.css_first("h1")
    root = page.css_first("html")
    language = (root.attributes.get("lang") or "").strip() if root else ""
    name = clean_line(title.text(deep=True)) if title else ""
    yield Document(
        id=label, text=html_text(page), title=name, source=label, language=language or None
    )


def _charset(raw: bytes) -> str | None:
    """The encoding that the page names, where Python knows it."""
    match = _CHARSET.search(raw, 0, 4096)
    if match is None:
        return None
    name = match[1].decode("ascii")
    try:
        return codecs.lookup("cp1252" if name.lower() == "iso-8859-1" else name).name
    except LookupError:
        return None


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
    for kind, tag, content in _walk(root, left_out):
        if kind == "text" and (content.strip() or (content and not breaks)):
            if breaks and parts:
                parts.append("\n" * breaks)
            parts.append(content)
            breaks = 0
        elif tag in _CELLS and kind == "close":
            parts.append(" ")
        elif tag in _BLOCKS:
            breaks = max(breaks, 2 if tag in _PARAGRAPHS else 1)
    lines = [" ".join(line.split()) for line in "".join(parts).split("\n")]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip()


def _walk(root: LexborNode, left_out: frozenset[str]) -> Iterator[tuple[str, str, str]]:
    """(kind, tag, text) in document order, without recursion: pages can nest without end."""
    node: LexborNode | None = root
    end = root.mem_id  # comparing nodes compares their whole HTML
    preformatted = 0
    while node is not None:
        tag = node.tag or ""
        if node.is_text_node:
            content = node.text_content or ""
            # Outside <pre> a line break in the source is a space.
            yield "text", "", content if preformatted else content.replace("\n", " ")
        elif tag not in left_out:
            yield "open", tag, ""
            preformatted += tag == "pre"
            if (child := node.first_child) is not None:
                node = child
                continue
            yield "close", tag, ""
            preformatted -= tag == "pre"
        while node is not None and node.mem_id != end and node.next is None:
            node = node.parent
            if node is not None:
                yield "close", node.tag or "", ""
                preformatted -= node.tag == "pre"
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
        yield Problem(label, "no text in the PDF: scanned pages need text recognition first")
        return
    yield Document(id=label, text=text, title=title, source=label)
