"""A collection whose vectors are in Qdrant: changed through its folder, searched by its address."""

import secrets
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hashed import HashedEncoder

from tercet.cli import run
from tercet.collection import Collection, published
from tercet.config import MODES, Weights
from tercet.errors import InputError, StoreError
from tercet.index.qdrant import QdrantIndex
from tercet.records import Document

CORPUS = [
    Document("bread", "Bread is baked from flour and water.", "Baking", language="en"),
    Document("river", "The river carries cold water to the sea.", metadata={"kind": "nature"}),
    Document("moon", "The moon turns around the earth.", metadata={"kind": "sky", "year": 1969}),
    Document("long", " ".join(f"Part {n} tells of water and ships." for n in range(90))),
]
QUESTIONS = ["cold water of a river", "who turns around the earth", "ships E14", "part 7"]


@pytest.fixture
def address(qdrant: str) -> str:
    return f"{qdrant}/tercet-test-{secrets.token_hex(8)}"


@pytest.fixture
def remote(memory: Path, encoder: HashedEncoder, address: str) -> Iterator[Collection]:
    with Collection.open(memory / "r", encoder, index_url=address, chunk=64) as opened:
        opened.add(CORPUS)
        yield opened


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published is looked at again at every search."""
    monkeypatch.setattr(published, "LOOK_AGAIN", -1.0)


def plain(ranked: Any) -> Any:
    """Hits without what float16 rounds."""
    return [
        [replace(hit, score=0, dense=None, sparse=None, multi=None) for hit in hits]
        for hits in ranked
    ]


def test_the_address_alone_finds_what_the_folder_finds(
    remote: Collection, memory: Path, encoder: HashedEncoder, address: str
) -> None:
    with (
        Collection.open(memory / "local", encoder, chunk=64) as local,
        Collection.open(memory / "r", read_only=True) as beside,
        Collection.open(address, encoder, read_only=True) as away,
    ):
        beside._encoder = encoder
        local.add(CORPUS)
        for mode in MODES:
            for options in ({}, {"chunks": True, "k": 3}, {"filter": {"kind": ["sky", "nature"]}}):
                want = local.search(QUESTIONS, mode=mode, **options)
                for other in (remote, beside, away):
                    have = other.search(QUESTIONS, mode=mode, **options)
                    assert plain(have) == plain(want)
                    for one, two in zip(chain(*want), chain(*have), strict=True):
                        assert two.score == pytest.approx(one.score, abs=2e-3)
        marked = away.search(QUESTIONS, highlight=True)
        assert marked[0][0].marks == local.search(QUESTIONS, highlight=True)[0][0].marks != ()
        info, here = away.info(), local.info()
        assert (info.documents, info.chunks) == (here.documents, here.chunks)
        assert (info.filters, info.languages) == (here.filters, here.languages)
        assert info.path == address
        with pytest.raises(InputError, match="the keys are kind, language, year"):
            away.search(["water"], filter={"colour": "red"})
        for after in ("", "long"):
            assert list(away.documents(after=after)) == list(local.documents(after=after))
        with pytest.raises(StoreError, match="looked up where the folder is"):
            _ = "river" in away
        with pytest.raises(StoreError, match="read_only"):
            away.add(CORPUS)
        away.verify()


@pytest.mark.usefixtures("at_once")
def test_changes_are_seen_by_address(
    remote: Collection, encoder: HashedEncoder, address: str
) -> None:
    with Collection.open(address, encoder, read_only=True) as away:
        assert away.search(["moon"])[0][0].id == "moon"
        remote.delete(["moon"])
        assert (len(away), away.info().filters["kind"]) == (3, 1)
        remote.add([replace(CORPUS[1], text="The river is frozen."), Document("sun", "The sun.")])
        remote.keep_weights(Weights(1, 0.5, 0.25))
        assert len(away) == 4
        assert away.weights == Weights(1, 0.5, 0.25)
        found = {hit.id: hit.text for hit in away.search(["river moon sun"])[0]}
        assert "moon" not in found
        assert found["river"] == "The river is frozen."
        remote.rebuild()
        assert away.search(["sun"])[0][0].id == "sun"
        assert away.settings.index == "index-000002"
        remote._encoder = HashedEncoder(seed=1)
        remote.rebuild()
        with pytest.raises(StoreError, match="rebuilt with another model"):
            away.search(["sun"])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_index_moves_there_and_back_without_a_model(
    memory: Path,
    encoder: HashedEncoder,
    address: str,
    dtype: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tercet.collection.sync.COPIED", 3)
    asked = encoder.encode(QUESTIONS, role="query")
    filters: tuple[Any, ...] = ({}, {"kind": "sky"}, {"year": 1969}, {"language": "en"})

    def answers(source: Any) -> Any:
        with Collection.open(source, read_only=True) as opened:
            assert opened._encoder is None
            opened.verify()
            return [
                opened.search(QUESTIONS, vectors=asked, weights=(1, 1, 1), filter=filter, k=9)
                for filter in filters
            ]

    with Collection.open(memory / "c", encoder, dtype=dtype, chunk=64) as local:
        local.add(CORPUS)
        chunks = local.info().chunks
    want = answers(memory / "c")
    states: list[Any] = []
    with Collection.open(memory / "c", index_url=address, progress=states.append) as moved:
        assert isinstance(moved.index, QdrantIndex)
        assert moved.index.spec.dtype == dtype
        assert moved._encoder is None
    assert (states[-1].done, states[-1].total, states[-1].tokens) == (chunks, chunks, 0)
    assert len(states) == -(-chunks // 3) > 3
    assert not list((memory / "c").glob("index-*"))
    for place in (memory / "c", address):
        for before, after in zip(want, answers(place), strict=True):
            assert plain(after) == plain(before)
            for one, two in zip(chain(*before), chain(*after), strict=True):
                assert two.score == pytest.approx(one.score, abs=2e-3)
    other = f"{address}-other"
    with Collection.open(memory / "c") as back:
        back.move(address)
        back.move(other)
        assert list(map(plain, answers(other))) == list(map(plain, want))
        with pytest.raises(StoreError, match="there is no such collection"):
            answers(address)
        back.move("folder")
        assert not isinstance(back.index, QdrantIndex)
    assert [path.name for path in (memory / "c").glob("index-*")] == ["index-000005"]
    assert list(map(plain, answers(memory / "c"))) == list(map(plain, want))
    with pytest.raises(StoreError, match="there is no such collection"):
        answers(other)


def test_what_a_move_back_could_not_remove_is_still_ones_own(
    memory: Path, encoder: HashedEncoder, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collection.open(memory / "c", encoder, index_url=address) as collection:
        collection.add(CORPUS)
        want = plain(collection.search(QUESTIONS))
        with monkeypatch.context() as patch:
            patch.setattr(QdrantIndex, "drop", lambda _: None)
            collection.move("folder")
        collection.move(address)
        assert plain(collection.search(QUESTIONS)) == want


def test_a_move_that_fails_changes_nothing_and_is_tried_again(
    memory: Path, encoder: HashedEncoder, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tercet.collection.sync.COPIED", 2)
    with Collection.open(memory / "c", encoder) as local:
        local.add(CORPUS)
        want = plain(local.search(QUESTIONS))
        add, calls = QdrantIndex._add, 0

        def dies(self: QdrantIndex, *arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise KeyboardInterrupt
            add(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(QdrantIndex, "_add", dies)
            patch.setattr(QdrantIndex, "drop", lambda _: None)  # as in a process that was killed
            with pytest.raises(KeyboardInterrupt):
                local.move(address)
        assert plain(local.search(QUESTIONS)) == want
        with pytest.raises(StoreError, match="there is no such collection"):
            Collection.open(address, encoder, read_only=True)
        local.move(address)
        assert plain(local.search(QUESTIONS)) == want
        local.index.delete(local._store.rows(1)[:1])
        with pytest.raises(
            StoreError, match=r"lacks rows of its documents\. The documents are safe"
        ):
            local.move("folder")
        assert isinstance(local.index, QdrantIndex)


def test_a_folder_is_opened_again(memory: Path, encoder: HashedEncoder, address: str) -> None:
    with Collection.open(memory / "c", encoder) as local:
        local.add(CORPUS)
        want = plain(local.search(QUESTIONS))
    with Collection.open(memory / "c", encoder, index_url=address, rebuild=True) as moved:
        assert isinstance(moved.index, QdrantIndex)
        assert plain(moved.search(QUESTIONS)) == want
    assert not list((memory / "c").glob("index-*"))
    with Collection.open(memory / "c", encoder) as again:
        assert isinstance(again.index, QdrantIndex)
        again.add([Document("sun", "The sun.")])
        with pytest.raises(StoreError, match="a collection of another folder"):
            Collection.open(memory / "d", encoder, index_url=address)
    with Collection.open(address, encoder, read_only=True) as away:
        assert len(away) == 5


def test_what_a_dead_process_left_is_finished(
    memory: Path, encoder: HashedEncoder, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collection.open(memory / "c", encoder, index_url=address) as collection:
        collection.add(CORPUS[:2])
        with monkeypatch.context() as patch:
            patch.setattr(collection.index._client, "upsert", _fails)  # type: ignore[attr-defined]
            with pytest.raises(StoreError, match="no Qdrant answers"):
                collection.add(CORPUS[2:3])
        assert len(collection) == 2
        collection.index.delete(collection._store.rows(1)[:1])
    with Collection.open(memory / "c", encoder) as again:
        assert len(again) == 3
        assert len(again.index) == again._store.counts()[1]
    with Collection.open(address, encoder, read_only=True) as away:
        assert away.search(["moon"])[0][0].id == "moon"


def _fails(*_: Any, **__: Any) -> None:
    from qdrant_client.http.exceptions import ResponseHandlingException

    raise ResponseHandlingException(ConnectionError("refused"))


def test_an_address_is_searched_alone(address: str, memory: Path, encoder: HashedEncoder) -> None:
    with pytest.raises(InputError, match="is searched alone"):
        Collection.open(address, encoder)
    with pytest.raises(StoreError, match="there is no such collection"):
        Collection.open(address, encoder, read_only=True)
    with pytest.raises(InputError, match="is no address of a Qdrant collection"):
        Collection.open(memory / "c", encoder, index_url="qdrant://localhost")
    assert not (memory / "c").exists()
    for wrong in ("http://localhost:6333/c", Path("http://localhost:6333/c"), Path(address)):
        for read_only in (True, False):
            with pytest.raises(InputError, match="cannot be opened: give a folder, or the address"):
                Collection.open(wrong, encoder, read_only=read_only)


def test_commands(
    address: str, memory: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = memory / "water.md"
    text.write_text("# Water\n\nThe river carries water to the sea.\n")
    model, folder = ["--model", str(tiny_checkpoint)], str(memory / "c")
    assert run(["index", str(text), "--to", folder, "--index", address, *model]) == 0
    assert run(["search", "--index", address, "--json", *model, "river"]) == 0
    assert "water.md" in capsys.readouterr().out
    assert run(["search", "--index", folder, *model, "river"]) == 0
    assert "The river carries" in capsys.readouterr().out
    assert run(["info", address]) == 0
    assert "documents  1" in " ".join(capsys.readouterr().out.split(" ")).replace("   ", "  ")
    assert run(["ls", address]) == 0
    assert capsys.readouterr().out.startswith(f"{text}\ten\tWater\t")
    assert run(["explain", "--index", address, *model, "river", "-k", "1"]) == 0
    assert "water.md" in capsys.readouterr().out
    assert run(["rm", address, "water.md"]) == 1
    assert "tercet rm FOLDER ID" in capsys.readouterr().err
    assert run(["index", str(text), "--to", address, *model]) == 2
    assert "--to is a folder" in capsys.readouterr().err
    assert run(["index", str(text), "--to", folder, "--index", "qdrant://x", *model]) == 2
    assert run(["index", "--to", folder, "--index", "folder"]) == 0
    assert (memory / "c" / "index-000002").is_dir()
    assert run(["index", "--to", folder, "--index", address]) == 0
    assert run(["search", "--index", address, "--json", *model, "river"]) == 0
    assert run(["index", "--to", str(memory / "none"), "--index", address]) == 2
    assert "missing argument" in capsys.readouterr().err
