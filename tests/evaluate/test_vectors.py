"""What is encoded and cut is kept by content, made again where it is damaged, and never half."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.documents.chunks import SPECIAL, Chunker
from tercet.encoder import Encoder
from tercet.errors import ModelError
from tercet.evaluate.tasks import Corpus
from tercet.evaluate.vectors import (
    EncodeOptions,
    Passages,
    VectorCache,
    chunking_of,
    cut_corpus,
    digest_of,
)
from tercet.rows import passage_text
from tests.evaluate.conftest import CHUNK, DOCUMENTS, documents, task_of, texts

DENSE = EncodeOptions(("dense",))


def encoded(cache: VectorCache, passages: list[str]) -> np.ndarray:
    made = cache.encode(passages, digest_of(passages), DENSE, lambda more: None).dense
    assert made is not None
    return np.array(made)


def cut(encoder: Encoder, folder: Path, corpus: Corpus, chunk: int = CHUNK) -> Passages:
    passages, chunking = Passages.read(corpus), chunking_of(chunk)
    return cut_corpus(passages, encoder, chunking, folder, lambda more: None)[0]


def test_a_killed_run_goes_on_and_damaged_files_are_made_again(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages, cache = texts(50, 3, 20), VectorCache(tmp_path, encoder, block=17)
    sizes: list[int] = []
    fatal = {passages[20]}
    real: Callable[..., object] = Encoder.encode

    def dying(self: Encoder, block: list[str], **options: object) -> object:
        if fatal & set(block):
            raise KeyboardInterrupt
        sizes.append(len(block))
        return real(self, block, **options)

    monkeypatch.setattr(Encoder, "encode", dying)
    with pytest.raises(KeyboardInterrupt):
        encoded(cache, passages)
    assert sizes == [17]
    fatal.clear()
    whole = encoded(cache, passages)
    assert sizes == [17, 17, 16]
    assert not list(tmp_path.rglob("blocks/*"))
    next(tmp_path.rglob("dense.npy")).write_bytes(b"no array")
    np.testing.assert_array_equal(encoded(cache, passages), whole)
    assert len(sizes) == 6
    assert not list(tmp_path.rglob(".*"))


def test_a_second_process_may_be_quicker(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages, real = texts(9, 3, 20), VectorCache.once

    def once(self: VectorCache, *arguments: Any) -> Any:
        monkeypatch.setattr(VectorCache, "once", real)
        encoded(VectorCache(tmp_path, encoder), passages)
        return real(self, *arguments)

    monkeypatch.setattr(VectorCache, "once", once)
    assert len(encoded(VectorCache(tmp_path, encoder), passages)) == 9


def test_what_decides_vectors_decides_the_cache(encoder: Encoder, tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, encoder)
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"max_length": 9},
        {"role": "query"},
        {"mcls": 4},
        {"heads": ("sparse",)},
    )
    keys = {cache.key(digest_of(["a", "b"]), replace(DENSE, **change)) for change in changes}
    keys |= {cache.key(digest_of(t), DENSE) for t in (["a"], ["ab"], ["b", "a"], ["a", "b", ""])}
    assert len(keys) == len(changes) + 4


def test_a_model_of_nan_is_refused(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = Encoder.encode

    def broken(self: Encoder, block: list[str], **options: object) -> object:
        made = real(self, block, **options)
        return replace(made, dense=np.full_like(made.dense, np.nan))

    monkeypatch.setattr(Encoder, "encode", broken)
    with pytest.raises(ModelError, match="not finite"):
        encoded(VectorCache(tmp_path, encoder), ["a"])
    assert not list((tmp_path / "vectors").glob("[!.]*"))


def test_chunks_hold_all_words_and_no_more_tokens_than_they_may(
    encoder: Encoder, tmp_path: Path
) -> None:
    rows = documents()
    made = cut(encoder, tmp_path, task_of(rows).corpus)
    of: dict[str, list[str]] = {}
    for key, text in made.corpus.read():
        of.setdefault(key, []).append(text)
    chunker = Chunker(encoder.tokenizer.backend, chunking_of(CHUNK), encoder.max_length)
    several = 0
    for key, title, text in rows:
        assert all(chunker.count(chunk) <= CHUNK - SPECIAL for chunk in of[key])
        heading = chunker.heading(title)
        if chunker.count(passage_text(title, text)) <= CHUNK - SPECIAL:
            assert of[key] == [passage_text(title, text)]
            continue
        several += len(of[key]) > 1
        assert all(chunk.startswith(heading) for chunk in of[key])
        bodies = " ".join(chunk.removeprefix(heading) for chunk in of[key])
        assert set(text.replace(".", " ").split()) == set(bodies.replace(".", " ").split())
    assert several > DOCUMENTS // 2
    assert made.lengths.tolist() == [len(chunk) for chunks in of.values() for chunk in chunks]


def test_cuts_are_kept_by_what_decides_them(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, folder = task_of(documents()).corpus, tmp_path / "chunks"
    first = cut(encoder, tmp_path, corpus)
    (place,) = folder.iterdir()
    whole = place.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Chunker, "spans", lambda *a: pytest.fail("cut again"))
        assert cut(encoder, tmp_path, corpus).digest == first.digest
    place.write_bytes(b"no array")
    assert cut(encoder, tmp_path, corpus).digest == first.digest
    assert place.read_bytes() == whole
    cut(encoder, tmp_path, corpus, 48)
    cut(encoder, tmp_path, Corpus("c", lambda: ((key, "", text) for key, text in corpus.read())))
    cut(encoder, tmp_path, task_of(documents()[:-1]).corpus)
    assert len(list(folder.iterdir())) == 4
