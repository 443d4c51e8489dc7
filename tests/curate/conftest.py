"""A tree with a source of every kind that `data pairs` reads, and a way to make rows of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tercet.curate import shards
from tercet.curate.pairs import PairsJob
from tercet.rows import check_row, read_rows

Make = Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]
LINES = 700  # more than the units that stay together in a part: every part gets some
FILES = {
    "guide.md": "---\ntitle: The river guide\nlang: en\n---\n\n"
    "Rivers carry water from the mountains to the sea, all the year.\n\n"
    "## Where rivers begin\n\nA spring or a melting glacier feeds the first stream of a river.\n\n"
    "## Usage\n\nBoats, mills and fields have used the water since people settled.\n\n"
    "## References\n\nSome book that nobody reads, in the second edition of it.\n",
    "deep/page.html": "<html lang=de><title>Brot</title><h1>Brot backen</h1>"
    "<p>Brot besteht aus Mehl, Wasser, Salz und ein wenig Geduld.</p>"
    "<h2>Der Teig ruht lange</h2><p>Über Nacht im Kühlen wird der Teig erst richtig gut.</p>",
    "deep/notes.rst": "Bridges of stone\n================\n\n"
    "A bridge of stone stands for many hundred years.\n\n"
    "How arches work\n---------------\n\nAn arch leads the weight sideways into the ground.\n",
    "tool.py": 'def area(width, height):\n    """Return the area of a rectangle."""\n'
    "    if width < 0:\n        raise ValueError(width)\n    return width * height\n",
    "articles.jsonl": "".join(
        f'{{"id": {n}, "title": "Town {n}", "text": '
        f'"Town {n} lies on the river and has a market every {n} days."}}\n'
        for n in range(LINES)
    ),
    "memory.tmx": '<tmx version="1.4"><header srclang="en"/><body>\n'
    + "".join(
        f'<tu><tuv xml:lang="en"><seg>The house number {n} is red.</seg></tuv>'
        f'<tuv xml:lang="de"><seg>Das Haus Nummer {n} ist rot.</seg></tuv></tu>\n'
        for n in range(LINES)
    )
    + "</body></tmx>",
    "messages.po": 'msgid ""\nmsgstr "Language: fr\\n"\n\nmsgid "Open the garden door"\n'
    'msgstr "Ouvrez la porte du jardin"\n',
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One source of each kind; some of many units."""
    for name, text in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "tree"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes rows in this process, in one part or in several; every row can train."""

    def call(*sources: Path, parts: int = 1, **options: Any) -> Any:
        target = tmp_path / "made" / "rows.jsonl.gz"
        job = PairsJob(sources=[str(source) for source in sources], target=str(target), **options)
        for number in range(1, parts + 1):
            shards.run_part(job, shards.Shard(number, parts))
        report = shards.merge(job, parts)
        rows = list(read_rows(target))
        for row in rows:
            check_row(row, "a row")
            assert list(row) == ["query", "pos", "neg", "lang", "source", "id"]
        assert report["rows"] == len(rows)
        return rows, report

    return call
