"""Changes that wait for each other: batches are shared, and what each is told is as if alone."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tercet.collection import Collection
from tercet.collection.sync import BatchSize, SyncState
from tercet.encoder import Encoder
from tercet.errors import ModelError
from tercet.records import Document
from tercet.serve.processes import Reply
from tercet.serve.search import Writer


class Told(Reply):
    """A reply whose answer can be waited for, with what was told before it."""

    def __init__(self) -> None:
        super().__init__(1, self.take)
        self.answered = threading.Event()
        self.events: list[dict[str, Any]] = []
        self.answer: Any = None

    def take(self, message: Any) -> None:
        kind, _, value = message
        if kind == "event":
            assert not self.answered.is_set()
            self.events.append(value)
        else:
            self.answer = kind, value
            self.answered.set()

    def all(self) -> tuple[Any, list[dict[str, Any]], int]:
        """The answer, the changes, and how far the progress came."""
        assert self.answered.wait(30), "no answer"
        changes = [event for event in self.events if event["kind"] != "progress"]
        return self.answer, changes, max(self.progress(), default=0)

    def progress(self) -> list[int]:
        """How far it was at each step."""
        return [event["done"] for event in self.events if event["kind"] == "progress"]


@pytest.fixture(params=[0, 16], ids=["whole", "chunks"])
def made(request: pytest.FixtureRequest, memory: Path, tiny_checkpoint: Path) -> Path:
    """The folder of a collection with a document "old", of whole texts or of small chunks."""
    folder = memory / "made"
    encoder = Encoder.load(tiny_checkpoint)
    with Collection.open(folder, encoder, chunk=request.param, backend="exact") as collection:
        collection.add(Document("old", "the old bridge", language="en"))
    return folder


@pytest.fixture
def writer(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Held"]:
    held = Held(made, monkeypatch)
    yield held
    held.writer.close()


Call = tuple[Any, ...]  # a method and its arguments


class Held:
    """A writer on a copy of a collection, whose first change waits for `gate`."""

    def __init__(self, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = made.parent / f"copy-{len(list(made.parent.iterdir()))}"
        shutil.copytree(made, folder)
        self.writer = Writer(tell=print, index=str(folder), model=None, revision=None)
        self.collection = self.writer.collection
        self.begun, self.gate = threading.Event(), threading.Event()
        self.adds, add = 0, self.collection.add

        def counted(*arguments: Any, **options: Any) -> Any:
            self.begun.set()
            assert self.gate.wait(30)
            self.adds += 1
            return add(*arguments, **options)

        monkeypatch.setattr(self.collection, "add", counted)

    def tell(self, call: Call) -> Told:
        """Begins a call."""
        reply = Told()
        self.writer.handle(reply, call[0], call[1:], {})
        return reply

    def together(self, calls: list[Call]) -> list[Any]:
        """What each is told where all wait for one that comes first; `adds` are theirs alone."""
        return [reply.all() for reply in self.waiting(calls)]

    def waiting(self, calls: list[Call]) -> list[Told]:
        """The replies to calls that all wait for one that comes first."""
        self.begun.clear()
        self.gate.clear()
        self.tell(FIRST)
        assert self.begun.wait(30)
        replies, self.adds = [self.tell(call) for call in calls], -1
        self.gate.set()
        return replies

    def alone(self, calls: list[Call]) -> list[Any]:
        """What each is told where it is asked when the one before is answered."""
        self.gate.set()
        return [self.tell(call).all() for call in [FIRST, *calls]][1:]


def document(id: str, text: str, **more: Any) -> Call:
    """A call that adds a document."""
    return "add_documents", [{"id": id, "text": text, "language": "en"} | more]


FIRST = document("first", "bread and fire")
LONG = "the river and the water of the city " * 80
SEVERAL = ("add_documents", [*document("a", LONG)[1], *document("b", "a star", title="The")[1]])
BATCHES: dict[str, tuple[int, list[Call]]] = {  # how many they are, and the calls
    "different": (1, [document("c", "the sea"), SEVERAL, document("d", "a horse")]),
    "updates": (1, [document("old", "a new bridge"), document("e", LONG), document("f", "fire")]),
    "unchanged": (1, [document("old", "the old bridge"), FIRST, SEVERAL]),
    "twice": (2, [document("g", "one star"), document("h", "two stars"), document("g", LONG)]),
    "twice in one": (
        3,
        [document("i", "sea"), ("add_documents", 2 * SEVERAL[1]), document("j", "ship")],
    ),
    "blank": (3, [document("k", "sea"), document("l", " \n"), document("m", "ship")]),
    "wrong": (
        3,
        [document("n", "sea"), document("", "no id"), document("o", "book"), document("p", "tree")],
    ),
    "delete": (
        3,
        [
            *(document("q", "sea"), document("r", "ship"), ("delete", ["q", "old"])),
            *(document("q", "tree"), document("s", "book"), ("delete", ["s"])),
            document("s", "letter"),
        ],
    ),
}


@pytest.mark.parametrize(("batches", "calls"), BATCHES.values(), ids=BATCHES)
def test_what_waits_is_added_together_and_told_as_if_alone(
    batches: int,
    calls: list[Call],
    writer: Held,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = Held(made, monkeypatch)
    expected = alone.alone(calls)
    assert writer.together(calls) == expected
    assert writer.adds == batches
    assert list(writer.collection.documents()) == list(alone.collection.documents())
    for question in ("star", "river", "bridge"):
        hits, others = (
            one.collection.search([question], candidates=None)[0] for one in (writer, alone)
        )
        assert [(hit.id, hit.text) for hit in hits] == [(hit.id, hit.text) for hit in others]
    alone.writer.close()


def test_progress_within_a_shared_batch_is_each_calls_own(
    writer: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [10, 30, 20]
    calls = [document(str(size), "a star and" * (size // 10)) for size in sizes]
    add = writer.collection.add

    def told(documents: Any, *, progress: Any, **options: Any) -> Any:
        if isinstance(documents, list):  # those that share a batch
            for done in (4, 10, 25, 40, 41, 60):
                progress(SyncState(done, 60, 0))
        return add(documents, progress=None, **options)

    monkeypatch.setattr(writer.collection, "add", told)
    expected = [[4, 10, 10, 10, 10, 10], [0, 0, 15, 30, 30, 30], [0, 0, 0, 0, 1, 20]]
    replies = writer.waiting(calls)
    answers = [reply.all()[0] for reply in replies]
    assert [reply.progress() for reply in replies] == expected
    assert [(kind, facts["added"]) for kind, facts in answers] == [("done", 1)] * 3


def test_a_batch_is_shared_up_to_its_size(writer: Held) -> None:
    calls = [document(str(number), LONG) for number in range(5)]
    writer.collection.batch = BatchSize(bytes=2 * len(LONG), documents=9)
    assert all(answer == "done" for (answer, _), _, _ in writer.together(calls))
    assert writer.adds == 3
    writer.collection.batch = BatchSize(documents=4)
    calls = [document(f"more {number}", "sea") for number in range(5)]
    assert all(answer == "done" for (answer, _), _, _ in writer.together(calls))
    assert writer.adds == 2
    assert len(writer.collection) == 12


def test_a_text_that_the_model_refuses_is_one_calls_own(
    writer: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = writer.collection.encoder.encode

    def broken(texts: Any, **options: Any) -> Any:
        if any("ship" in text for text in texts):
            raise ModelError("a broken row")
        return encode(texts, **options)

    monkeypatch.setattr(writer.collection.encoder, "encode", broken)
    told = writer.together([document(word, f"a {word}") for word in ("sea", "ship", "star")])
    assert [kind for (kind, _), _, _ in told] == ["done", "failed", "done"]
    assert told[1][0][1] == ("ModelError", "a broken row")
    assert [answer["added"] for (kind, answer), _, _ in told if kind == "done"] == [1, 1]
    assert [document.id for document in writer.collection.documents()] == [
        "first", "old", "sea", "star",
    ]  # fmt: skip


def test_files_keep_their_place_among_documents(writer: Held, tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("the file")
    files = "add_files", [(str(tmp_path / "0.txt"), "a.txt")]
    calls = [
        document("a.txt", "before it"),
        document("b", "sea"),
        files,
        document("a.txt", "after"),
    ]
    changes = [[change["kind"] for change in changes] for _, changes, _ in writer.together(calls)]
    assert changes == [["added"], ["added"], ["updated"], ["updated"]]
    assert writer.adds == 3
