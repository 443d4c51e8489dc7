"""The demo: indexes examples/docs with the bundled model and asks it ten questions.

Run as `python examples/demo.py [--to DIR]`. Prints the top three documents for each question with
the dense, sparse and multi-vector parts of their scores, and exits 1 unless at least eight of the
ten questions have the right document among them.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from tercet.collection import Collection
from tercet.errors import TercetError
from tercet.records import Hit

HERE = Path(__file__).resolve().parent
TOP = 3  # documents shown for each question
NEEDED = 8  # questions that must have the right document among them


def part(value: float | None) -> str:
    """A part of a score, or a dash where the index or the query has none."""
    return "     -" if value is None else f"{value:6.3f}"


def show(number: int, question: dict[str, str], hits: list[Hit]) -> bool:
    """Prints a question with its hits; returns whether the expected one is among them."""
    languages = f"{question['language']} -> {question['answer_language']}"
    print(f"{number:2}. {question['question']}  [{languages}]")
    print(f"{'score':>13}  {'dense':>6} {'sparse':>6} {'multi':>6}")
    expected = [Path(hit.id).as_posix().endswith(f"/docs/{question['expect']}") for hit in hits]
    for rank, (hit, is_expected) in enumerate(zip(hits, expected, strict=True), 1):
        parts = f"{part(hit.dense)} {part(hit.sparse)} {part(hit.multi)}"
        name = hit.title or hit.text.partition("\n")[0]  # plain text files have no title
        mark = "*" if is_expected else " "
        print(f"  {mark} {rank}  {hit.score:6.3f}  {parts}  {hit.language or '-':2}  {name}")
    print("" if any(expected) else f"    expected: {question['expect']}\n")
    return any(expected)


def run(to: Path) -> int:
    """Indexes, asks, prints; returns how many questions have the right document in the top."""
    lines = (HERE / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines if line.strip()]
    start = time.perf_counter()
    with Collection.open(to) as collection:
        weights = collection.encoder.weights
        loaded = time.perf_counter()
        report = collection.add(HERE / "docs")
        documents = len(collection)
        added = time.perf_counter()
        answers = collection.search([question["question"] for question in questions], k=TOP)
        searched = time.perf_counter()
    for problem in report.skipped:
        print(f"skipped {problem}")
    print(f"{documents} documents: {report.added} added, {report.unchanged} there already")
    print(f"score = {weights.dense:g} dense + {weights.sparse:g} sparse + {weights.multi:g} multi")
    print("* marks the right document; [en -> de]: asked in English, answered in German\n")
    right = sum(map(show, range(1, len(questions) + 1), questions, answers))
    print(f"{right} of {len(questions)} questions have the right document in the top {TOP}")
    print(
        f"{searched - start:.1f} s: loading {loaded - start:.1f} s, indexing "
        f"{added - loaded:.1f} s, {len(questions)} questions {searched - added:.2f} s"
    )
    return right


def main() -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description="Index examples/docs and ask ten questions.")
    default = HERE.parent / "build" / "demo-index"
    help_text = "folder of the index (default: build/demo-index)"
    parser.add_argument("--to", type=Path, default=default, metavar="DIR", help=help_text)
    try:
        return 0 if run(parser.parse_args().to) >= NEEDED else 1
    except TercetError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
