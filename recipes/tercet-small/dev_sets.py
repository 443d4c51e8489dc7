"""Held-out rows of `tercet data split` to small BEIR folders, on which every choice is made.

`python dev_sets.py SPLIT/dev --to DIR` writes qa-LANG (a question and its paragraph), titles-LANG,
xl (a sentence and its English version among others and paragraphs), mixed (a sentence and its
versions in 15 other languages among all of them: what a bias toward one's own language costs),
cloze (the beginning of a paragraph in a language with little text, and its rest), halves (300
characters of a paragraph, and what follows: long questions), long (whole documents) and deep (a
line from far inside a document, which is left without it).
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from tercet.io import atomic_write
from tercet.rows import Row, read_rows

QUERIES = 150  # of a set
QA = "en fi ja th no am he zh-Hant zh ar".split()
TITLES = "en ja de es".split()
MIXED = "en ar de el es hi ru th tr vi zh-CN sw yo fi ka ha".split()
CLOZE = "am ha ig yo sw zu xh wo rw sn ln lg ti so om ny tn st ts ss ee".split()
FIRST = 60  # characters of a paragraph that ask for the rest
HALF = 300  # characters of a long question
DEEP, DOCUMENTS, SHARE = 10_000, 40, 0.7  # characters of so many documents; asked about from there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dev", type=Path, help="the folder dev/ of `tercet data split`")
    parser.add_argument("--to", type=Path, required=True, help="folder of the sets")
    given = parser.parse_args()
    pairs_by_language = defaultdict(list)
    for row in rows(given.dev, "qa_all"):
        pairs_by_language[f"qa-{row['lang']}"].append(row)
    for row in rows(given.dev, "pairs_unsup"):
        pairs_by_language[f"titles-{row['lang']}"].append(row)
    wanted = [f"qa-{name}" for name in QA] + [f"titles-{name}" for name in TITLES]
    # languages with few paragraphs search among those of all
    paragraphs = [r["pos"][0] for name in QA for r in pairs_by_language[f"qa-{name}"]]
    for name in wanted:
        own = ((r["query"], r["pos"][0]) for r in pairs_by_language[name])
        write_pairs(given.to / name, own, paragraphs if name.startswith("qa-") else ())
    write_pairs(
        given.to / "long", ((r["query"], r["pos"][0]) for r in rows(given.dev, "long_docs"))
    )
    write_pairs(given.to / "deep", deep(rows(given.dev, "long_docs")))
    write_pairs(given.to / "cloze", cloze(rows(given.dev, "raw_paragraphs")))
    write_pairs(given.to / "halves", halves(rows(given.dev, "raw_paragraphs")))
    write_sentences(given.to, rows(given.dev, "parallel_ntrex"), paragraphs)


def rows(folder: Path, stem: str) -> Iterable[Row]:
    """The rows of a file of the split."""
    (path,) = folder.glob(f"{stem}.jsonl*")
    return read_rows(path)


def cloze(found: Iterable[Row]) -> Iterable[tuple[str, str]]:
    """Beginning and rest of paragraphs in the languages of CLOZE."""
    for row in found:
        text = row["text"]
        at = text.find(" ", FIRST)
        if row["lang"] in CLOZE and 0 < at < len(text) - FIRST:
            yield text[:at], text[at + 1 :]


def halves(found: Iterable[Row]) -> Iterable[tuple[str, str]]:
    """Parts of longer paragraphs in any language, the first one as a long question."""
    for row in found:
        text = row["text"]
        at = text.find(" ", HALF)
        if HALF < at < len(text) - HALF:
            yield text[:at], text[at + 1 : at + 2 * HALF]


def deep(found: Iterable[Row]) -> Iterable[tuple[str, str]]:
    """A line of 60 to 200 characters far inside a document, and the document without it."""
    texts = dict.fromkeys(row["pos"][0][:DEEP] for row in found if len(row["pos"][0]) >= DEEP)
    for text in list(texts)[:DOCUMENTS]:
        lines = text.split("\n")
        read = 0
        for number, line in enumerate(lines):
            read += len(line) + 1
            if read > SHARE * DEEP and 60 <= len(line) <= 200:
                yield line, "\n".join(lines[:number] + lines[number + 1 :])
                break


def write_pairs(folder: Path, pairs: Iterable[tuple[str, str]], others: Iterable[str] = ()) -> None:
    """One set: the first QUERIES questions among the passages of all pairs, and others."""
    passages: dict[str, str] = {}
    for passage in others:
        passages.setdefault(passage, f"p{len(passages)}")
    queries: dict[str, str] = {}
    qrels: dict[str, list[str]] = {}
    for query, passage in pairs:
        place = passages.setdefault(passage, f"p{len(passages)}")
        if len(queries) < QUERIES and query not in queries.values():
            name = f"q{len(queries)}"
            queries[name], qrels[name] = query, [place]
    write(folder, {name: text for text, name in passages.items()}, queries, qrels)


def write_sentences(folder: Path, found: Iterable[Row], paragraphs: Iterable[str]) -> None:
    """xl and mixed, from sentences that all languages share."""
    versions: dict[str, dict[str, str]] = defaultdict(dict)
    for row in found:
        language, _, other = row["lang"].rpartition("-")
        if other == "en":
            english = row["pos"][0]
            versions[english]["en"] = english
            versions[english][language] = row["query"]
    some = list(versions.values())
    pool = {f"{n}-{name}": v[name] for n, v in enumerate(some) for name in v if name in MIXED}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in pool:
        groups[name.partition("-")[0]].append(name)
    qrels = {
        name: [other for other in groups[name.partition("-")[0]] if other != name] for name in pool
    }
    asked = dict(list(pool.items())[::3])
    # the asking sentence itself is in the pool, as the best answer to itself
    write(folder / "mixed", pool, asked, {name: [name, *qrels[name]] for name in asked})
    english = {f"{n}-en": v["en"] for n, v in enumerate(some)}
    english |= {f"p{n}": text for n, text in enumerate(dict.fromkeys(paragraphs))}
    others = {f"{n}-{name}": v[name] for n, v in enumerate(some) for name in v if name != "en"}
    asked = dict(list(others.items())[::12])
    answers = {name: [f"{name.partition('-')[0]}-en"] for name in asked}
    write(folder / "xl", english, asked, answers)


def write(
    folder: Path,
    corpus: Mapping[str, str],
    queries: Mapping[str, str],
    qrels: Mapping[str, list[str]],
) -> None:
    """A BEIR folder."""
    for name, texts in (("corpus", corpus), ("queries", queries)):
        with atomic_write(folder / f"{name}.jsonl.gz") as file:
            for identifier, text in texts.items():
                line = {"_id": identifier, "text": text}
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
    with atomic_write(folder / "qrels" / "test.tsv") as file:
        file.write(b"query-id\tcorpus-id\tscore\n")
        for query, places in qrels.items():
            file.writelines(f"{query}\t{place}\t1\n".encode() for place in places)


if __name__ == "__main__":
    main()
