"""The demo: indexes examples/docs with the bundled model and asks it ten questions.

Run as `python examples/demo.py [--to DIR]`. Prints the top three documents for each question with
the dense, sparse and multi-vector parts of their scores, and exits 1 unless at least eight of the
ten questions have the right document among them.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tercet.collection import Collection
from tercet.errors import TercetError
from tercet.records import Hit

HERE = Path(__file__).resolve().parent
TOP = 3  # documents shown for each question
NEEDED = 8  # questions that must have the right document among them


@dataclass(frozen=True)
class Question:
    """A question, the file that answers it, and the languages of the two."""

    question: str
    language: str
    expect: str  # path of the file under examples/docs
    answer_language: str


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSON lines file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Question(**json.loads(line)) for line in lines if line.strip()]


def is_expected(hit: Hit, question: Question) -> bool:
    """Whether the hit is the document that answers the question."""
    return Path(hit.id).as_posix().endswith(f"/docs/{question.expect}")


def part(value: float | None) -> str:
    """A part of a score, or a dash where the index or the query has none."""
    return "     -" if value is None else f"{value:6.3f}"


def show(number: int, question: Question, hits: list[Hit]) -> bool:
    """Prints a question with its hits; returns whether the expected one is among them."""
    print(f"{number:2}. {question.question}  [{question.language} -> {question.answer_language}]")
    print(f"{'score':>13}  {'dense':>6} {'sparse':>6} {'multi':>6}")
    for rank, hit in enumerate(hits, 1):
        mark = "*" if is_expected(hit, question) else " "
        parts = f"{part(hit.dense)} {part(hit.sparse)} {part(hit.multi)}"
        name = hit.title or hit.text.partition("\n")[0]  # plain text files have no title
        print(f"  {mark} {rank}  {hit.score:6.3f}  {parts}  {hit.language or '-':2}  {name}")
    found = any(is_expected(hit, question) for hit in hits)
    if not found:
        print(f"    expected: {question.expect}")
    print()
    return found


def run(to: Path) -> int:
    """Indexes, asks, prints; returns how many questions have the right document in the top."""
    questions = read_questions(HERE / "questions.jsonl")
    start = time.perf_counter()
    with Collection.open(to) as collection:
        weights = collection.encoder.weights
        loaded = time.perf_counter()
        report = collection.add(HERE / "docs")
        documents = len(collection)
        added = time.perf_counter()
        answers = collection.search([question.question for question in questions], k=TOP)
        searched = time.perf_counter()
    for problem in report.skipped:
        print(f"skipped {problem}")
    print(f"{documents} documents: {report.added} added, {report.unchanged} there already")
    print(f"score = {weights.dense:g} dense + {weights.sparse:g} sparse + {weights.multi:g} multi")
    print("* marks the right document; [en -> de]: asked in English, answered in German\n")
    found = sum(
        show(number, question, hits)
        for number, (question, hits) in enumerate(zip(questions, answers, strict=True), 1)
    )
    print(f"{found} of {len(questions)} questions have the right document in the top {TOP}")
    print(
        f"{searched - start:.1f} s: loading {loaded - start:.1f} s, indexing "
        f"{added - loaded:.1f} s, {len(questions)} questions {searched - added:.2f} s"
    )
    return found


def main() -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description="Index examples/docs and ask ten questions.")
    parser.add_argument(
        "--to",
        type=Path,
        default=HERE.parent / "build" / "demo-index",
        metavar="DIR",
        help="folder of the index (default: build/demo-index)",
    )
    try:
        return 0 if run(parser.parse_args().to) >= NEEDED else 1
    except TercetError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
