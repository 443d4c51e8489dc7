"""A file encoded in parts is, to the last bit, the file encoded at once."""

import bz2
import gzip
import json
import lzma
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from tercet.bulk import EncodeJob, Show, read_texts
from tercet.cli import run as tercet
from tercet.curate.shards import Parts, Shard, merge, parts_folder, run_part
from tercet.documents.files import read_file, reader_of
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import InputError, StoreError
from tercet.records import Document

TEXTS = [f"the river {'and the sea ' * (number * 7 % 11)}{number}" for number in range(23)]
TEXTS[5] = ""


@pytest.fixture
def job(tmp_path: Path, tiny_checkpoint: Path) -> EncodeJob:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    target, file = str(tmp_path / "vectors"), str(tmp_path / "texts.txt")
    return EncodeJob(target, file, model=str(tiny_checkpoint), texts=4)


def files(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1, {}),
        (3, {}),
        (7, {"heads": ("sparse",)}),
        (2, {"heads": ("dense", "multi"), "multi_pool": 2}),
        (2, {"max_length": 9, "sparse_top": 3, "role": "query"}),
        (2, {"mcls": 4}),
    ],
)
def test_parts_make_the_whole_to_the_last_bit(
    job: EncodeJob, count: int, options: dict[str, object]
) -> None:
    job = replace(job, **options)  # type: ignore[arg-type]
    whole = replace(job, target=f"{job.target}.whole")
    told = whole.encode()
    for shard in reversed(Shard.all(count)):
        run_part(job, shard)
    again = Parts.find(Path(job.target)).job(EncodeJob, Path(job.target))
    assert again == job
    report = merge(again, count)
    assert files(job.target) == files(whole.target)
    assert report == {**told, "out": job.target, "seconds": report["seconds"]}
    assert report["texts"] == len(TEXTS)
    assert (report["truncated"] > 0) == ("max_length" in options)


def test_the_whole_is_what_the_encoder_gives(job: EncodeJob, tiny_checkpoint: Path) -> None:
    job.encode()
    got = Embeddings.load(job.target)
    want = Encoder.load(tiny_checkpoint).encode(TEXTS)
    assert got.dense is not None
    assert want.dense is not None
    np.testing.assert_allclose(got.dense, want.dense, atol=1e-5)
    np.testing.assert_array_equal(got.lengths, want.lengths)


def test_more_parts_than_blocks(job: EncodeJob) -> None:
    folder = run_part(job, Shard(7, 7))
    assert not (folder / "embeddings").exists()
    with pytest.raises(InputError, match=r"6 of 7 parts are missing: 1/7, 2/7, 3/7"):
        merge(job, 7)


def test_parts_of_two_models_are_not_joined(
    job: EncodeJob, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    job = replace(job, model=str(model))
    run_part(job, Shard(1, 2))
    settings = json.loads((model / "tercet.json").read_text())
    (model / "tercet.json").write_text(json.dumps({**settings, "passage_prefix": "sea "}))
    run_part(job, Shard(2, 2))
    with pytest.raises(InputError, match=r"00002-of-00002 was encoded by another model than"):
        merge(job, 2)
    assert not Path(job.target).exists()
    assert parts_folder(Path(job.target)).exists()


def test_a_target_that_exists_is_told_before_work_begins(job: EncodeJob) -> None:
    Path(job.target).mkdir()
    for begin in (job.encode, lambda: run_part(job, Shard(1, 2))):
        with pytest.raises(InputError, match="vectors exists already"):
            begin()
    assert not parts_folder(Path(job.target)).exists()


def test_progress_reaches_the_end_of_the_file(job: EncodeJob) -> None:
    seen: list[tuple[int, int, int]] = []
    replace(job, show=lambda *now: seen.append(now)).encode()
    size = sum(map(len, TEXTS))
    assert seen == sorted(seen)
    assert len(seen) == -(-len(TEXTS) // 4)
    assert seen[-1][:2] == (size, size)


class Stopped(Exception):
    """Stands for whatever ends a run."""


def stop_after(blocks: int) -> Show:
    """Ends a run when so many blocks are done."""
    left = iter(range(blocks))

    def show(*_: int) -> None:
        if next(left, None) is None:
            raise Stopped

    return show


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The blocks that go through the model."""
    blocks: list[list[str]] = []
    encode = Encoder.encode

    def counted(self: Encoder, texts: list[str], **options: Any) -> Embeddings:
        blocks.append(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(Encoder, "encode", counted)
    return blocks


@pytest.mark.parametrize("shard", [None, Shard(2, 2)])
@pytest.mark.parametrize("options", [{}, {"heads": ("sparse",)}, {"heads": ("dense", "multi")}])
def test_a_run_that_ended_is_gone_on_with(
    job: EncodeJob, encoded: list[list[str]], shard: Shard | None, options: dict[str, Any]
) -> None:
    job = replace(job, **options)

    def begin(job: EncodeJob) -> Path:
        if shard is None:
            job.encode()
            return Path(job.target)
        return run_part(job, shard) / "embeddings"

    whole = begin(replace(job, target=f"{job.target}.whole"))
    number = len(encoded)
    for stop in (0, 1):
        with pytest.raises(Stopped):
            begin(replace(job, show=stop_after(stop)))
    partial = Path(f"{job.target}.partial")
    if shard is not None:
        partial = Path(f"{job.target}.parts") / f"{shard.folder}.partial"
    for path in partial.rglob("*.npy"):  # a kill leaves what was not synced
        path.write_bytes(path.read_bytes() + bytes(1000))
    with (partial / "blocks.jsonl").open("a") as journal:
        journal.write('["cut sho')
    encoded.clear()
    assert files(begin(job)) == files(whole)
    assert len(encoded) == number - 2  # each of the two was kept
    assert not partial.exists()


def test_only_what_is_the_same_is_gone_on_with(job: EncodeJob, encoded: list[list[str]]) -> None:
    def begin(job: EncodeJob, blocks: int) -> None:
        encoded.clear()
        if job.file:
            with pytest.raises(Stopped):
                replace(job, show=stop_after(blocks)).encode()

    begin(job, 3)
    file = Path(job.file)
    texts = file.read_text().splitlines()
    texts[9] = "another text"  # of the third block
    file.write_text("\n".join(texts) + "\n")
    begin(job, 4)
    assert [block[0] for block in encoded] == [texts[8], texts[12], texts[16]]
    begin(replace(job, max_length=9), 0)
    assert encoded[0] == texts[:4]
    file.write_text("\n".join(texts[:4]) + "\n")
    encoded.clear()
    replace(job, max_length=9).encode()
    assert (encoded, len(Embeddings.load(job.target))) == ([], 4)


def test_two_runs_do_not_share_a_folder(job: EncodeJob) -> None:
    def second(*_: int) -> None:
        with pytest.raises(StoreError):
            job.encode()

    replace(job, show=second).encode()
    assert len(Embeddings.load(job.target)) == len(TEXTS)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.zst", ".JSONL.XZ"])
def test_rows_are_read_as_they_are_indexed(
    tmp_path: Path, suffix: str, tiny_checkpoint: Path
) -> None:
    rows = [
        {"text": "a ship", "title": "The sea"},
        {"contents": "a ship", "id": 3},
        {"text": "", "body": 12},
        {"text": "a\nship", "title": None},
    ]
    content = "\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\n \n"
    path = tmp_path / f"rows{suffix}"
    packings: dict[str, Any] = {".gz": gzip.compress, ".XZ": lzma.compress, ".bz2": bz2.compress}
    packings[".zst"] = zstandard.compress
    path.write_bytes(packings.get(path.suffix, bytes)(content.encode()))
    assert list(read_texts(path)) == ["The sea\na ship", "a ship", "12", "a\nship"]
    assert reader_of(path)
    documents = [item for item in read_file(path, "x") if isinstance(item, Document)]
    assert [f"{d.title}\n{d.text}".strip() for d in documents] == list(read_texts(path))
    if suffix != ".jsonl":
        out = str(tmp_path / "v")
        assert tercet(["encode", str(path), "--out", out, "--model", str(tiny_checkpoint)]) == 0
        assert len(Embeddings.load(out)) == 4


def test_the_commands(
    job: EncodeJob, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = tercet(arguments)
        return code, *capsys.readouterr()

    options = (job.file, "--out", job.target, "--model", str(tiny_checkpoint))
    code, out, _ = call("encode", *options, "--shard", "2/2", "--json")
    assert code == 0
    assert json.loads(out)["folder"] == f"{job.target}.parts/00002-of-00002"
    code, _, complaint = call("data", "merge", job.target)
    assert code == 1
    assert "1 of 2 parts are missing: 1/2" in complaint
    code, out, _ = call("encode", *options, "--shard", "1/2")
    assert f"tercet data merge {job.target}" in out
    code, out, _ = call("data", "merge", f"{job.target}.parts", "--json")
    assert code == 0
    assert json.loads(out)["texts"] == len(TEXTS)
    assert len(Embeddings.load(job.target)) == len(TEXTS)
    for wrong in (["--shard", "3/2"], ["--shard", "1/2", "--workers", "2"], ["--workers", "0"]):
        assert call("encode", *options[:2], f"{job.target}2", *wrong)[0] == 2
