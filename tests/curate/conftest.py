"""A tree with a source of every kind, and a way to make rows of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tercet.curate import shards
from tercet.curate.pairs import PairsJob
from tercet.rows import check_row, read_rows

Made = tuple[list[dict[str, Any]], dict[str, Any]]
Make = Callable[..., Made]
LINES = 700  # more than the units that stay together in a part: every part gets some

GUIDE = """\
---
title: The river guide
lang: en
---

Rivers carry water from the mountains to the sea, all the year.

## Where rivers begin

A spring or a melting glacier feeds the first stream of a river.

## Usage

Boats, mills and fields have used the water since people settled.

## References

Some book that nobody reads, in the second edition of it.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One source of each kind; some of many units."""
    root = tmp_path / "tree"
    (root / "deep").mkdir(parents=True)
    (root / "guide.md").write_text(GUIDE)
    (root / "deep" / "page.html").write_text(
        "<html lang=de><title>Brot</title><h1>Brot backen</h1>"
        "<p>Brot besteht aus Mehl, Wasser, Salz und ein wenig Geduld.</p>"
        "<h2>Der Teig ruht lange</h2><p>Über Nacht im Kühlen wird der Teig erst richtig gut.</p>"
    )
    (root / "deep" / "notes.rst").write_text(
        "Bridges of stone\n================\n\nA bridge of stone stands for many hundred years.\n\n"
        "How arches work\n---------------\n\nAn arch leads the weight sideways into the ground.\n"
    )
    (root / "tool.py").write_text(
        'def area(width, height):\n    """Return the area of a rectangle."""\n'
        "    if width < 0:\n        raise ValueError(width)\n    return width * height\n"
    )
    with (root / "articles.jsonl").open("w") as file:
        for number in range(LINES):
            text = f"Town number {number} lies on the river and has a market every {number} days."
            file.write(json.dumps({"id": number, "title": f"Town {number}", "text": text}) + "\n")
    units = "".join(
        f'<tu><tuv xml:lang="en"><seg>The house number {number} is red.</seg></tuv>'
        f'<tuv xml:lang="de"><seg>Das Haus Nummer {number} ist rot.</seg></tuv></tu>\n'
        for number in range(LINES)
    )
    (root / "memory.tmx").write_text(
        f'<tmx version="1.4"><header srclang="en"/><body>\n{units}</body></tmx>'
    )
    (root / "messages.po").write_text(
        'msgid ""\nmsgstr "Language: fr\\n"\n\nmsgid "Open the garden door"\n'
        'msgstr "Ouvrez la porte du jardin"\n'
    )
    return root


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes rows in this process, in one part or in several; every row can train."""

    def call(*sources: Path, parts: int = 1, **options: Any) -> Made:
        target = tmp_path / "made" / "rows.jsonl.gz"
        job = PairsJob(sources=[str(source) for source in sources], target=str(target), **options)
        for number in range(1, parts + 1):
            shards.run_part(job, shards.Shard(number, parts))
        report = shards.merge(job, parts)
        rows = list(read_rows(target))
        for number, row in enumerate(rows, 1):
            check_row(row, f"row {number}")
            assert list(row) == ["query", "pos", "neg", "lang", "source", "id"]
        assert report["rows"] == len(rows)
        return rows, report

    return call
