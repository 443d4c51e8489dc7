"""`tercet explain`: why a passage, a part of a file, or the hits of an index match a query."""

import base64
import hashlib
import html as markup
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from tercet.cli.options import Json, Model, Opt, Revision, command, echo, emit
from tercet.config import HEADS
from tercet.errors import InputError, printable

if TYPE_CHECKING:
    from tercet.encoder import Encoder
    from tercet.explanation import Explanation, Met

STATIC = Path(__file__).parent.parent / "serve" / "static"  # what draws explanations
ROWS = 20  # shared subwords that a terminal shows
# Backgrounds of tokens, from the median of the passage's similarities to its largest.
HEAT = (None, 230, 222, 215, 208)
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; {policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1 dir="auto">{title}</h1>
{sections}
</main>
<script type="application/json" id="explanations">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""
STYLE = """
body { margin: 0 auto; max-width: 56rem; padding: 1.5rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 var(--sans); overflow-wrap: anywhere; }
h1 { font: 600 1.6rem/1.3 var(--serif); }
h2 { margin: 2.5rem 0 0.8rem; font: 600 1.1rem/1.4 var(--serif); }
"""
DRAW = """
{
  const told = JSON.parse(document.getElementById("explanations").textContent);
  const places = document.querySelectorAll("main > section > div");
  told.forEach((explanation, place) => render(places[place], explanation));
}
"""


@dataclass(frozen=True)
class Passage:
    """A text to explain, and what it is called."""

    text: str
    title: str = ""
    name: str = ""


@command()
def explain(
    query: str,
    passage: str | None = None,
    *,
    index: str | None = None,
    k: Annotated[int, Opt(min=1, flag="-k")] = 3,
    whole: bool = False,
    html: Path | None = None,
    model: Model = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Explain why a passage matches a query.

    Shows the score of each representation and its share of the sum, the subwords that both sides
    share with their sparse weights, the token that each token of the query met in MaxSim, and on
    the passage how similar each of its tokens is to the query. PASSAGE is a text, or a file, of
    which the best chunk is explained; with --index the best hits are.

    \b
    Examples:
      tercet explain "how do bees talk?" "Bees dance in the dark of the hive."
      tercet explain "wie lange brütet der Igel" examples/docs/nature/igel.md
      tercet explain --index my-index -k 5 "Mülltrennung" --html why.html
      tercet explain "error E14" manual.pdf --whole --json

    Options:
      query QUERY:
      passage [PASSAGE|FILE]:
      index DIR|ADDRESS: Explain the best hits of this index.
      k: Hits of the index to explain.
      whole: Explain all of a file, as far as the model reads, and not its best chunk.
      html FILE: Write a page that shows it in a browser, without a server.
    """
    if (passage is None) == (index is None):
        raise click.UsageError("give a PASSAGE, a FILE or --index DIR, and one of them alone")
    from tercet.documents.base import readable

    query = readable(query)
    if not query.strip():
        raise click.UsageError("the query is empty: ask something")
    if index is not None:
        told = list(_of_index(index, query, k, model, revision))
    else:
        from tercet.encoder import Encoder
        from tercet.explanation import explain as take_apart

        passages = _passages(passage or "")
        encoder = Encoder.load(model, revision=revision)
        best = _best(encoder, query, passages, whole=whole)
        told = [(best, take_apart(encoder, query, best.text, best.title))]
    if html is not None:
        from tercet.io import atomic_write

        with atomic_write(html) as file:
            file.write(_page(query, told).encode())
    if as_json:
        for of, explanation in told:
            emit({**asdict(explanation), "source": of.name})
    elif html is not None:
        echo(f"{html}: {len(told)} explained")
    elif not told:
        echo("no hits")
    else:
        for of, explanation in told:
            _show(of, explanation)


def _of_index(
    index: str, query: str, k: int, model: str | None, revision: str | None
) -> "Iterator[tuple[Passage, Explanation]]":
    from tercet.collection import Collection
    from tercet.documents.chunks import Chunker
    from tercet.encoder import Encoder
    from tercet.explanation import explain as take_apart

    given = None if model is None and revision is None else Encoder.load(model, revision=revision)
    with Collection.open(index, given, read_only=True) as collection:
        hits = collection.search([query], k=k)[0]
        encoder: Any = collection.encoder
        chunking, weights = collection.settings.chunking, collection.weights
        chunker = Chunker(encoder.tokenizer.backend, chunking, encoder.max_length)
        for hit in hits:
            title = chunker.heading(hit.title).removesuffix("\n")  # as it was indexed
            name = hit.id if hit.source in ("", hit.id) else f"{hit.id}  {hit.source}"
            told = take_apart(encoder, query, hit.text, title, weights=weights)
            yield Passage(hit.text, hit.title, name), told


def _passages(given: str) -> list[Passage]:
    """A text as it was given, or the documents of a file.

    Raises InputError where a file cannot be read, or is not there.
    """
    from tercet.documents.base import Problem, prepare, readable
    from tercet.documents.files import READERS, find_files, read_file
    from tercet.rows import kind_of

    if os.path.isdir(given):
        raise InputError(f"{given} is a folder: give a file, or index it and use --index")
    if not os.path.isfile(given) and (" " in given or kind_of(given) not in READERS):
        return [Passage(readable(given))]
    for item in find_files([given]):
        if isinstance(item, Problem):
            raise InputError(str(item))
    problem: Problem | None = None
    documents = []
    for read in read_file(Path(given)):
        document = read if isinstance(read, Problem) else prepare(read)
        if isinstance(document, Problem):
            problem = document
        else:
            documents.append(Passage(document.text, document.title, document.id))
    if not documents:
        raise InputError(str(problem or f"{given}: no text to explain"))
    return documents


def _best(encoder: "Encoder", query: str, passages: Sequence[Passage], *, whole: bool) -> Passage:
    """The passage, or chunk of one, with the highest hybrid sum."""
    from tercet.documents.chunks import Chunker, Chunking
    from tercet.scores import SCORES, weighted_sum

    chunker = Chunker(encoder.tokenizer.backend, Chunking(), encoder.max_length)
    parts = list(passages)
    if not whole:
        parts = [
            Passage(of.text[span.start : span.end], of.title, of.name)
            for of in passages
            for span in chunker.spans(of.text, of.title)
        ]
    if len(parts) == 1:
        return parts[0]
    asked = encoder.encode([query], heads=encoder.heads, role="query")
    given = encoder.encode(
        [chunker.heading(part.title) + part.text for part in parts], heads=encoder.heads
    )
    scores = {head: SCORES[head](asked, given) for head in encoder.heads}
    return parts[int(weighted_sum(scores, encoder.weights)[0].argmax())]


# For a browser


def _page(query: str, told: "Sequence[tuple[Passage, Explanation]]") -> str:
    """One page of explanations that loads nothing and lets nothing else run."""
    script = (STATIC / "why.js").read_text(encoding="utf-8") + DRAW
    style = (STATIC / "why.css").read_text(encoding="utf-8") + STYLE
    data = json.dumps([asdict(explanation) for _, explanation in told], ensure_ascii=False)
    sections = [
        f'<section><h2 dir="auto">{markup.escape(of.title or of.name)}</h2><div></div></section>'
        if of.title or of.name
        else "<section><div></div></section>"
        for of, _ in told
    ]
    return PAGE.format(
        policy=f"script-src '{_hash(script)}'; style-src '{_hash(style)}'",
        title=markup.escape(query),
        style=style,
        sections="\n".join(sections) or "<p>No hits.</p>",
        data=data.replace("<", "\\u003c"),
        script=script,
    )


def _hash(text: str) -> str:
    """What a policy names an inline script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# For a terminal


def _show(of: Passage, told: "Explanation") -> None:
    if of.name:
        echo(" ".join(of.name.split()))
    if told.title:
        echo(" ".join(told.title.split()), bold=True)
    total = told.scores.hybrid
    for head in HEADS:
        score = getattr(told.scores, head)
        if score is not None:
            part = score * getattr(told.weights, head)
            share = f"{part / total:4.0%}" if total > 0 else "   -"
            weight = getattr(told.weights, head)
            echo(f"  {head:6}  {score:6.3f} x {weight:<5g} = {part:6.3f}  {share}")
    echo(f"  hybrid{total:25.3f}")
    if told.scores.sparse is not None:
        echo()
        if told.shared:
            echo("shared subwords", bold=True)
            rows: list[tuple[str, ...]] = [("", "query", "passage", "product")]
            for shared in told.shared[:ROWS]:
                numbers = (shared.query_weight, shared.passage_weight, shared.product)
                rows.append((shared.text, *(f"{number:.3f}" for number in numbers)))
            _table(rows)
            if len(told.shared) > ROWS:
                echo(f"  and {len(told.shared) - ROWS} more")
        else:
            echo("no shared subwords")
    met = [(token.text, token.met) for token in told.tokens if token.met is not None]
    if met:
        echo()
        echo("tokens that met", bold=True)
        pairs = [(text, _told(other, told.title), f"{other.similarity:.3f}") for text, other in met]
        _table(pairs, words=2)
    echo()
    _show_passage(told)
    echo()


def _told(met: "Met", title: str) -> str:
    """A token of the passage; whether it stands in the title."""
    outside = met.span is None and title and met.text not in ("</s>", "▁")
    return f"{met.text} (title)" if outside else met.text


def _table(rows: Sequence[tuple[str, ...]], words: int = 1) -> None:
    """Rows in columns, the first ones of words, the others of numbers."""
    from rich.cells import cell_len

    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = [
            cell + " " * (width - cell_len(cell)) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        echo(f"  {'  '.join(cells)}".rstrip())


def _show_passage(told: "Explanation") -> None:
    """The passage, its best sentence underlined and its tokens in the colour of their heat."""
    text, sentence = told.passage, told.sentence
    values = sorted(heat.value for heat in told.heat)
    low, high = (values[len(values) // 2], values[-1]) if values else (0.0, 1.0)
    colours: list[int | None] = [None] * len(text)
    for heat in told.heat:
        share = max(0.0, heat.value - low) / (high - low) if high > low else 1.0
        for place in range(heat.start, heat.end):
            colours[place] = HEAT[round(share * (len(HEAT) - 1))]
    looks = [
        (colour, sentence is not None and sentence.start <= place < sentence.end)
        for place, colour in enumerate(colours)
    ]
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or looks[place] != looks[start]:
            colour, inside = looks[start]
            ink = None if colour is None else "black"
            echo(text[start:place], fg=ink, bg=colour, underline=inside or None, nl=False)
            start = place
    echo()
