"""Tiny files of office programs, made by hand: no more than their readers need."""

import json
import zipfile
from collections.abc import Mapping
from email.message import EmailMessage
from io import BytesIO

TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
ML = "application/vnd.openxmlformats-officedocument"
CORE = "http://schemas.openxmlformats.org/package/2006/metadata/core-properties"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
SLIDES = "http://schemas.openxmlformats.org/presentationml/2006/main"
HEAD = '<p:ph type="title"/>'
SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def packed(files: Mapping[str, str | bytes]) -> bytes:
    """A zip of these files."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def relations(*targets: tuple[str, str]) -> str:
    """Relations r1, r2, ... of (kind, target)."""
    rows = "".join(
        f'<Relationship Id="r{n}" Type="{kind if "://" in kind else f"{OFFICE}/{kind}"}" '
        f'Target="{target}"/>'
        for n, (kind, target) in enumerate(targets, 1)
    )
    return f'<Relationships xmlns="{RELATIONS}">{rows}</Relationships>'


def office(main: str, kinds: Mapping[str, str], parts: Mapping[str, str], title: str) -> bytes:
    """A package whose parts have content types; the first of `kinds` is its main one."""
    overrides = "".join(
        f'<Override PartName="/{name}" ContentType="{kind}"/>' for name, kind in kinds.items()
    )
    core = (
        f'<cp:coreProperties xmlns:cp="{CORE}" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>{title}</dc:title></cp:coreProperties>"
    )
    return packed(
        {
            "[Content_Types].xml": f'<Types xmlns="{TYPES}"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="xml" ContentType="application/xml"/>'
            '<Override PartName="/docProps/core.xml" '
            'ContentType="application/vnd.openxmlformats-package.core-properties+xml"/>'
            f"{overrides}</Types>",
            "_rels/.rels": relations(
                ("officeDocument", main),
                (f"{RELATIONS}/metadata/core-properties", "docProps/core.xml"),
            ),
            "docProps/core.xml": core,
            **parts,
        }
    )


def docx(
    *paragraphs: tuple[int, str], table: list[list[str]] | None = None, title: str = ""
) -> bytes:
    """A Word document of (level of heading or 0, text)."""

    def paragraph(level: int, text: str) -> str:
        style = f'<w:pPr><w:pStyle w:val="Heading{level}"/></w:pPr>' if level else ""
        return f"<w:p>{style}<w:r><w:t>{text}</w:t></w:r></w:p>"

    rows = "".join(
        f"<w:tr>{''.join(f'<w:tc>{paragraph(0, cell)}</w:tc>' for cell in row)}</w:tr>"
        for row in table or []
    )
    body = "".join(paragraph(*of) for of in paragraphs) + (f"<w:tbl>{rows}</w:tbl>" if rows else "")
    styles = "".join(
        f'<w:style w:styleId="Heading{n}"><w:name w:val="heading {n}"/></w:style>'
        for n in range(1, 7)
    )
    main, kind = "word/document.xml", f"{ML}.wordprocessingml"
    return office(
        main,
        {main: f"{kind}.document.main+xml", "word/styles.xml": f"{kind}.styles+xml"},
        {
            main: f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>',
            "word/styles.xml": f'<w:styles xmlns:w="{WORD}">{styles}</w:styles>',
            "word/_rels/document.xml.rels": relations(("styles", "styles.xml")),
        },
        title,
    )


def shape(number: int, kind: str, text: str) -> str:
    """A shape of a slide."""
    lines = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in text.split("\n"))
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="{number}" name="s{number}"/><p:cNvSpPr/><p:nvPr>{kind}'
        f'</p:nvPr></p:nvSpPr><p:spPr><a:xfrm><a:off x="0" y="{number}"/><a:ext cx="9" cy="9"/>'
        f"</a:xfrm></p:spPr><p:txBody><a:bodyPr/>{lines}</p:txBody></p:sp>"
    )


def pptx(*slides: tuple[str, str], title: str = "") -> bytes:
    """A presentation of (title, text)."""

    names = [f"ppt/slides/slide{n}.xml" for n in range(1, len(slides) + 1)]
    spaces = f'xmlns:p="{SLIDES}" xmlns:a="{DRAWING}" xmlns:r="{OFFICE}"'
    parts = {
        name: f"<p:sld {spaces}><p:cSld><p:spTree><p:nvGrpSpPr><p:cNvPr id='1' name=''/>"
        "<p:cNvGrpSpPr/><p:nvPr/></p:nvGrpSpPr><p:grpSpPr/>"
        f"{shape(2, HEAD, head)}{shape(3, '', text)}"
        "</p:spTree></p:cSld></p:sld>"
        for name, (head, text) in zip(names, slides, strict=True)
    }
    listed = "".join(f'<p:sldId r:id="r{n}" id="{255 + n}"/>' for n in range(1, len(slides) + 1))
    main, kind = "ppt/presentation.xml", f"{ML}.presentationml"
    return office(
        main,
        {main: f"{kind}.presentation.main+xml", **dict.fromkeys(names, f"{kind}.slide+xml")},
        {
            main: f"<p:presentation {spaces}><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>",
            "ppt/_rels/presentation.xml.rels": relations(
                *(("slide", name.removeprefix("ppt/")) for name in names)
            ),
            **parts,
        },
        title,
    )


def xlsx(sheets: Mapping[str, list[list[str | int]]], title: str = "") -> bytes:
    """A workbook of sheets by their names, rows of texts and numbers."""

    def cell(value: str | int) -> str:
        if isinstance(value, int):
            return f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'

    names = [f"xl/worksheets/sheet{n}.xml" for n in range(1, len(sheets) + 1)]
    parts = {
        name: f'<worksheet xmlns="{SHEETS}"><sheetData>'
        + "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
        + "</sheetData></worksheet>"
        for name, rows in zip(names, sheets.values(), strict=True)
    }
    listed = "".join(
        f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets, 1)
    )
    main, kind = "xl/workbook.xml", f"{ML}.spreadsheetml"
    return office(
        main,
        {main: f"{kind}.sheet.main+xml", **dict.fromkeys(names, f"{kind}.worksheet+xml")},
        {
            main: f'<workbook xmlns="{SHEETS}" xmlns:r="{OFFICE}"><sheets>{listed}</sheets>'
            "</workbook>",
            "xl/_rels/workbook.xml.rels": relations(
                *(("worksheet", name.removeprefix("xl/")) for name in names)
            ),
            **parts,
        },
        title,
    )


def epub(*chapters: str, title: str = "", language: str = "en") -> bytes:
    """A book whose chapters are the bodies of pages."""
    names = [f"c{n}.xhtml" for n in range(1, len(chapters) + 1)]
    items = "".join(
        f'<item id="i{n}" href="{name}" media-type="application/xhtml+xml"/>'
        for n, name in enumerate(names, 1)
    )
    items += '<item id="nav" properties="nav" href="nav.xhtml" media-type="application/xhtml+xml"/>'
    spine = '<itemref idref="nav"/>' + "".join(
        f'<itemref idref="i{n}"/>' for n in range(1, len(names) + 1)
    )
    return packed(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container version="1.0" '
            'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
            'full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/>'
            "</rootfiles></container>",
            "OEBPS/nav.xhtml": "<html><body><nav><h1>Contents</h1></nav></body></html>",
            "OEBPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
            '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<dc:title>{title}</dc:title><dc:language>{language}</dc:language></metadata>"
            f"<manifest>{items}</manifest><spine>{spine}</spine></package>",
            **{
                f"OEBPS/{name}": '<?xml version="1.0" encoding="utf-8"?>\n'
                '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head>'
                f"<body>{body}</body></html>"
                for name, body in zip(names, chapters, strict=True)
            },
        }
    )


def eml(subject: str, text: str, *, html: str = "", attachment: str = "") -> bytes:
    """A mail."""
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "Ann <a@x.test>", "b@y.test"
    message["Date"] = "Mon, 02 Feb 2026 10:00:00 +0100"
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    if attachment:
        message.add_attachment(attachment, filename="notes.txt")
    return message.as_bytes()


def ipynb(*cells: tuple[str, str]) -> bytes:
    """A notebook of ("markdown" or "code", source)."""
    rows = [
        {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
        | ({"outputs": [{"output_type": "stream", "text": ["printed"]}], "execution_count": 1}
           if kind == "code" else {})
        for kind, source in cells
    ]  # fmt: skip
    return json.dumps({"cells": rows, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()
