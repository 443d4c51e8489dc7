"""Rows with known defects among real ones: near-copies, copied evaluation texts, decoys.

A part of `curation.py`. Every planted row says in "planted" what it is; the rows around it are
real. Nothing is planted that the real rows hold already: they are filtered first.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tercet.curate.quality import DENSE, character_classes, code_points, normalize

Row = dict[str, Any]

RARE = "zqvx"  # what a changed word becomes, with a number: no text has it
# Near-copies and the part of the words of their passages that is changed. At a tenth it is a matter
# of taste whether that is the same text: counted, but not in precision and recall.
STRENGTHS = {"1 word": 0.0, "1%": 0.01, "3%": 0.03, "10%": 0.1, "30%": 0.3}
Cases = Iterator[tuple[Row, bool | None]]


def words_of(text: str) -> list[str]:
    """Words with the space behind them; single characters where there are no spaces."""
    parts = text.split(" ")
    if len(parts) > len(text) / 25:
        return [f"{part} " for part in parts[:-1]] + parts[-1:]
    return list(text)


def changed(draw: random.Random, text: str, share: float) -> str:
    """A text with this share of its words changed, left out or put in twice; one at least."""
    words = words_of(text)
    places = [at for at, word in enumerate(words) if any(map(str.isalpha, word))]
    for place in draw.sample(places, max(1, round(share * len(places)))):
        how = draw.random()
        if how < 0.5:
            words[place] = f"{RARE}{draw.randrange(10_000)} "
        else:
            words[place] = "" if how < 0.75 else words[place] * 2
    return "".join(words)


def retyped(draw: random.Random, text: str) -> str:
    """A text in other case, punctuation and white space; the same words."""
    text = text.replace(",", " -").replace("“", '"').replace("”", '"').replace(".", " .")
    return text.upper() if draw.random() < 0.3 else text.replace(" ", "  ", 3)


def near_cases(rows: Sequence[Row], draw: random.Random, each: int) -> Cases:
    """Planted rows and whether they should go, from real ones that have long positives."""
    long = [row for row in rows if len(_text(row)) >= 400]

    def some() -> list[Row]:
        return draw.sample(long, each)

    for row in some():
        yield _with(row, "another typing", lambda text: retyped(draw, text)), True
    for name, share in STRENGTHS.items():
        for row in some():
            copy: Row = {**row, "planted": f"{name} of the passage"}
            if "text" in row:
                copy["text"] = changed(draw, row["text"], share)
            else:
                copy["pos"] = [changed(draw, text, share) for text in row["pos"]]
            yield copy, None if share == 0.1 else share < 0.1
    # decoys: what a plain similarity of whole rows would drop
    pairs = [row for row in rows if "pos" in row]
    mixed = draw.sample(pairs, 3 * each)
    for row, other in zip(mixed[:each], mixed[each:], strict=False):
        yield {**row, "query": other["query"], "planted": "another query, same passage"}, False
    for row, other in zip(mixed[each:], mixed[2 * each :], strict=False):
        yield {**row, "pos": other["pos"], "planted": "same query, another passage"}, False
    short = [row for row in pairs if len(words_of(row["query"])) >= 4 and len(row["query"]) < 150]
    for row in draw.sample(short, each):
        query = changed(draw, row["query"], 0.0)
        yield {**row, "query": query, "planted": "1 word of a short query"}, False


def _text(row: Row) -> str:
    text: str = row["text"] if "text" in row else max(row["pos"], key=len)
    return text


def _with(row: Row, name: str, edit: Callable[[str], str]) -> Row:
    out = {**row, "planted": name}
    if "text" in row:
        return {**out, "text": edit(row["text"])}
    return {**out, "query": edit(row["query"]), "pos": [edit(text) for text in row["pos"]]}


def copied_cases(
    rows: Sequence[Row], known: Sequence[str], draw: random.Random, each: int
) -> Cases:
    """Rows that hold evaluation texts, or parts of them, and whether they should go."""
    known = [text for text in known if "```" not in text]  # of code hardly a word is left
    long = [text for text in known if len(text) >= 300]
    share = {text: _dense(text) for text in long}
    spaced = [text for text in long if share[text] == 0 and len(text.split()) >= 40]
    dense = [text for text in long if share[text] > 0.9]
    short = [text for text in known if 25 <= len(text) < 120]
    phrases = [
        phrase
        for phrase, count in Counter(
            " ".join(words[at : at + 6])
            for text in spaced
            for words in [text.split()]
            for at in range(len(words) - 6)
        ).most_common(4 * each)
        if count > 1
    ]

    def inside(name: str, piece: str) -> Row:
        row = draw.choice(rows)
        words = words_of(_text(row))
        at = draw.randrange(len(words) + 1)
        text = "".join(words[:at]) + f" {piece} " + "".join(words[at:])
        field = {"text": text} if "text" in row else {"pos": [text, *row["pos"][1:]]}
        return {**row, **field, "planted": name}

    def run(text: str, words: int) -> str:
        parts = normalize(text).split()  # so that "-" is no word
        at = draw.randrange(len(parts) - words) if len(parts) > words else 0
        return " ".join(parts[at : at + words])

    def cut(text: str, size: int) -> str:
        at = draw.randrange(len(text) - size)
        return text[at : at + size]

    def pick(texts: Sequence[str]) -> list[str]:
        return draw.sample(texts, min(each, len(texts)))

    for text in pick(long):
        yield inside("whole passage in a longer text", text), True
    for text in pick(long):
        yield inside("whole passage, typed otherwise", retyped(draw, text)), True
    for text in pick(spaced):
        yield inside("25 words", run(text, 25)), True
    for text in pick(spaced):
        yield inside("15 words", run(text, 15)), True
    for text in pick(dense):
        yield inside("80 characters without spaces", cut(normalize(text), 80)), True
    for text in pick(short):
        yield (
            {**draw.choice(rows), "planted": "a query, or sentence, as the query"}
            | _asks(retyped(draw, text)),
            True,
        )
    for text in pick(spaced):
        yield inside("passage, every tenth word changed", changed(draw, text, 0.1)), True
    for phrase in pick(phrases):
        yield inside("decoy: a common phrase of 6 words", phrase), False
    for text in pick(spaced):
        yield inside("decoy: 8 words of a passage", run(text, 8)), False
    for text in pick(spaced):
        shuffled = text.split()
        draw.shuffle(shuffled)
        yield inside("decoy: the words of a passage shuffled", " ".join(shuffled)), False
    for text in pick(dense):
        yield inside("decoy: 25 characters without spaces", cut(text, 25)), False


def _dense(text: str) -> float:
    """The part of the letters that are of a script without spaces."""
    codes = code_points(normalize(text))
    return float(((character_classes()[codes] & DENSE) > 0).mean()) if len(codes) else 0.0


def _asks(query: str) -> Row:
    return {"query": query, "pos": ["A passage that answers it, in words of its own."]}
