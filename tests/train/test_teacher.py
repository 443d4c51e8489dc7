"""Teachers: vectors kept once, targets of texts and tokens, and a student that follows them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from tercet.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tercet.errors import InputError
from tercet.layout import Settings
from tercet.model import M3Model
from tercet.split import text_key
from tercet.tokenizer import Tokenizer
from tercet.train import init, teacher
from tercet.train.batches import Collator
from tercet.train.config import TeacherConfig, TrainConfig, from_tree
from tercet.train.distributed import World
from tercet.train.gradcache import Side
from tercet.train.init import init_model, pooled_vectors, sample_states
from tercet.train.losses import Known, pull, unlike
from tercet.train.plan import prepare
from tercet.train.teacher import TeachConfig, TeacherVectors, teach
from tercet.train.trainer import make_targets, train
from tests.conftest import WORDS

ENGLISH = [" ".join(WORDS[at : at + 6]) for at in range(0, 60, 2)]
GERMAN = [" ".join((WORDS + WORDS)[at : at + 6]) for at in range(len(WORDS) - 35, len(WORDS) - 5)]
PLAIN = TeachConfig(directions=0)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32, whatever this machine could do."""
    for module in (teacher, init):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda: False)


@pytest.fixture
def model(tiny_model: M3Model, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """The tiny model without a prefix."""
    write_checkpoint(tmp_path / "model", tiny_model, tokenizer)
    return tmp_path / "model"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Translations in both orders, questions, and raw texts."""
    path = tmp_path / "rows.jsonl"
    made: list[dict[str, Any]] = []
    for at in range(10):
        made.append({"query": GERMAN[at], "pos": [ENGLISH[at]], "lang": "de-en"})
        made.append({"query": ENGLISH[10 + at], "pos": [GERMAN[10 + at]], "lang": "en-de"})
        made.append({"query": ENGLISH[20 + at][:12], "pos": [ENGLISH[20 + at]], "lang": "en"})
    made += [{"text": text, "lang": "de"} for text in GERMAN[20:]]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def config(rows: Path, source: Path, taught: Path, to: Path, **changes: Any) -> TrainConfig:
    return from_tree({
        "stage": "align",
        "steps": 30,
        "model": str(source),
        "to": str(to),
        "device": "cpu",
        "dtype": "float32",
        "dropout": 0.0,
        "data": {"sources": [{"files": [str(rows)]}], "cache": str(to.parent / "cache"),
                 "query_tokens": 32, "passage_tokens": 64, "shuffle_segments": 0.0},
        "batch": {"lengths": [64], "rows": 16},
        "optimiser": {"lr": 3e-3, "frozen": ["words", "positions", "multi"]},
        "teacher": {"path": str(taught), "rarity": 1.0},
        **changes,
    })  # fmt: skip


@pytest.fixture
def taught(rows: Path, model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "taught"
    teach([rows], model, folder, PLAIN, student=model)
    return folder


def row_of(folder: Path, text: str) -> tuple[TeacherVectors, int]:
    """What a folder holds, and the row of a text in it."""
    found = TeacherVectors.load(folder)
    return found, int(found.rows(np.array([text_key(text)]))[0])


def test_a_text_has_the_teachers_vectors(
    rows: Path, taught: Path, model: Path, tmp_path: Path, tiny: Checkpoint
) -> None:
    found, row = row_of(taught, GERMAN[3])
    states = sample_states(tiny.model, tiny.tokenizer.encode([GERMAN[3]]))
    assert tiny.model.multi is not None
    wanted = torch.nn.functional.normalize(states[0], dim=-1).detach().numpy()
    assert np.allclose(found.dense[row], wanted, atol=2e-3)
    span = slice(int(found.token_offsets[row]), int(found.token_offsets[row + 1]))
    assert np.allclose(found.tokens[span], tiny.model.multi(states)[1:].detach().numpy(), atol=3e-3)
    assert found.rarity[span][-1] == 0  # </s>
    assert (found.rarity[span][:-1] > 0).any()

    mean = TeachConfig(pooling="mean", passage_prefix="the water ", directions=0)
    teach([rows], model, tmp_path / "mean", mean)
    found, row = row_of(tmp_path / "mean", GERMAN[25])
    assert not len(found.tokens)
    tokens = tiny.tokenizer.encode(["the water " + GERMAN[25]])
    wanted = pooled_vectors(sample_states(tiny.model, tokens), tokens)[0].numpy()
    assert np.allclose(found.dense[row], wanted, atol=2e-3)


def test_tokens_of_another_vocabulary_take_the_vector_of_the_token_that_covers_them(
    rows: Path, model: Path, tmp_path: Path, tiny: Checkpoint
) -> None:
    small = tmp_path / "small"
    size = tiny.tokenizer.vocabulary - 60
    init_model(model, small, vocabulary=size, rows=[rows], alpha=1.0, prior=0.0)
    student = read_checkpoint(small).tokenizer
    text = next(t for t in ENGLISH + GERMAN if len(student.contents([t])[0]) > 6)
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "the of"}) + "\n")
    prefixed = TeachConfig(passage_prefix="river city ", directions=0)
    teach([path], model, tmp_path / "taught", prefixed, student=small)
    found, row = row_of(tmp_path / "taught", text)
    vectors = found.tokens[found.token_offsets[row] : found.token_offsets[row + 1]]
    _, mine = student.with_offsets(text)
    assert len(vectors) == len(mine) + 1
    tokens = tiny.tokenizer.encode(["river city " + text])
    assert tiny.model.multi is not None
    theirs = tiny.model.multi(sample_states(tiny.model, tokens))[3:].detach().numpy()
    _, spans = tiny.tokenizer.with_offsets(text)
    for at, (_, end) in enumerate(mine.tolist()):
        owner = next(n for n, (_, last) in enumerate(spans.tolist()) if end <= last)
        assert np.allclose(vectors[at], theirs[owner], atol=3e-3)
    assert np.allclose(vectors[-1], theirs[-1], atol=3e-3)


def test_what_tells_languages_apart_is_taken_out(rows: Path, model: Path, tmp_path: Path) -> None:
    def distance(folder: Path) -> float:
        found = TeacherVectors.load(folder)
        keys = [np.array([text_key(t) for t in some]) for some in (GERMAN, ENGLISH)]
        means = [found.dense[found.rows(key)].astype(np.float32).mean(0) for key in keys]
        return float(np.linalg.norm(means[0] - means[1]))

    teach([rows], model, tmp_path / "with", PLAIN)
    teach([rows], model, tmp_path / "without", TeachConfig(directions=1))
    assert distance(tmp_path / "without") < 0.5 * distance(tmp_path / "with")


def test_a_killed_run_goes_on(rows: Path, model: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 32:
            raise KeyboardInterrupt

    def look(done: int, total: int) -> None:
        assert {path: path.stat().st_mtime_ns for path in written} == written

    with pytest.raises(KeyboardInterrupt):
        teach([rows], model, tmp_path / "taught", PLAIN, student=model, block=16, watch=stop)
    assert not (tmp_path / "taught").exists()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".taught.parts/*/*.npz")}
    assert len(written) == 2
    teach([rows], model, tmp_path / "taught", PLAIN, student=model, block=16, watch=look)
    assert not list(tmp_path.glob(".*"))
    teach([rows], model, tmp_path / "again", PLAIN, student=model)
    both = [TeacherVectors.load(tmp_path / name) for name in ("taught", "again")]
    assert np.array_equal(both[0].keys, both[1].keys)
    assert np.allclose(both[0].tokens, both[1].tokens, atol=1e-3)


def reports(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [line for line in lines if "loss" in line]


def test_translations_are_drawn_to_their_english_side(
    rows: Path, taught: Path, model: Path, tmp_path: Path
) -> None:
    run = config(rows, model, taught, tmp_path / "run")
    ready = prepare(run, World.start("cpu"))
    targets = make_targets(ready)
    for row in range(len(ready.examples)):
        if not ready.examples.parallel[row]:
            continue
        query = ready.examples.query[row]
        answer = ready.examples.positives[row][0]
        english = query if row % 3 == 1 else answer
        own = targets.own[english]
        assert targets.dense[query] == targets.dense[answer] == own
    _, goal = targets.of(np.array([ready.examples.query[0]]))
    assert np.allclose(goal[0], targets.vectors.dense[targets.own[ready.examples.positives[0][0]]])


def test_a_raw_text_has_no_english_side(
    rows: Path, taught: Path, model: Path, tmp_path: Path
) -> None:
    for tag in ("de", "de-en"):
        raw = [{"text": text, "lang": tag} for text in GERMAN[20:]]
        for count in (0, 1):  # of pairs after them
            lines = [*raw, *([{"query": ENGLISH[0], "pos": [ENGLISH[20]]}] * count)]
            rows.write_text("".join(json.dumps(row) + "\n" for row in lines))
            ready = prepare(config(rows, model, taught, tmp_path / "run"), World.start("cpu"))
            targets = make_targets(ready)
            assert np.array_equal(targets.dense, targets.own)


def test_align_draws_a_damaged_student_back_to_its_teacher(
    rows: Path, taught: Path, model: Path, tmp_path: Path, tiny: Checkpoint
) -> None:
    damaged = read_checkpoint(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in damaged.model.backbone.layers.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    write_checkpoint(tmp_path / "damaged", damaged.model, damaged.tokenizer)
    run = config(rows, tmp_path / "damaged", taught, tmp_path / "run", steps=60)
    healed = read_checkpoint(train(run, log=lambda line: None))
    tokens = tiny.tokenizer.encode(ENGLISH[:8])

    def near(checkpoint: Checkpoint) -> tuple[float, float]:
        states = sample_states(checkpoint.model, tokens)
        wanted = sample_states(tiny.model, tokens)
        first = torch.from_numpy(tokens.offsets[:-1])
        assert checkpoint.model.multi is not None
        assert tiny.model.multi is not None
        multi = (checkpoint.model.multi(states) * tiny.model.multi(wanted)).sum(-1)
        return (
            float(cosine_similarity(states[first], wanted[first]).mean()),
            float(multi.detach().mean()),
        )

    before, after = near(damaged), near(healed)
    assert 1 - after[0] < 0.7 * (1 - before[0])
    assert 1 - after[1] < 0.7 * (1 - before[1])
    lines = reports(tmp_path / "run")
    for name in ("teacher_dense", "teacher_tokens", "teacher_rarity"):
        assert lines[-1][name] < lines[0][name]
    # what is frozen stays
    assert torch.equal(
        healed.model.backbone.word_embeddings.weight, damaged.model.backbone.word_embeddings.weight
    )
    assert torch.equal(healed.model.multi.weight, damaged.model.multi.weight)  # type: ignore[union-attr]


def test_relations_are_the_divergence_of_likeness() -> None:
    draw = torch.Generator().manual_seed(0)
    goal, other = torch.nn.functional.normalize(torch.randn(2, 5, 8, generator=draw), dim=-1)
    assert torch.allclose(unlike(goal, goal, 0.1), torch.zeros(5), atol=1e-6)
    wanted, given = (goal @ goal.T / 0.1).softmax(-1), (other @ goal.T / 0.1).softmax(-1)
    assert torch.allclose(unlike(other, goal, 0.1), (wanted * (wanted / given).log()).sum(-1))


@pytest.mark.parametrize("known", [0, 1, 3])
def test_every_device_sums_the_same_distances_whatever_its_teacher_knows(known: int) -> None:
    goal = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    side: Any = SimpleNamespace(dense=goal, ids=torch.zeros(3), multi=None, weights=None)
    targets: Any = SimpleNamespace(
        of=lambda texts: (torch.arange(known), goal[:known]), vectors=SimpleNamespace(tokens=())
    )
    weights = TeacherConfig(path="taught", relations=1.0)
    _, facts = pull(targets, weights, [(side, np.arange(3))], World.start("cpu"))
    assert facts.keys() == {"teacher_dense", "teacher_relations"}
    assert all(abs(float(fact)) < 1e-5 for fact in facts.values())


@pytest.mark.parametrize(
    ("stage", "part", "weights"),
    [
        ("align", "teacher_dense", {}),
        ("align", "teacher_relations", {"relations": 1.0, "dense": 0.0, "temperature": 0.1}),
        ("unified", "teacher_scores", {"scores": 1.0, "dense": 0.0, "margin": 0.05}),
    ],
)
def test_every_part_of_a_teacher_is_learned(
    rows: Path, model: Path, tmp_path: Path, stage: str, part: str, weights: dict[str, float]
) -> None:
    teach([rows], model, tmp_path / "taught", PLAIN)  # without tokens
    changes: dict[str, Any] = {"teacher": {"path": str(tmp_path / "taught"), **weights}}
    if stage == "unified":
        pairs = [json.loads(line) for line in rows.read_text().splitlines()[2:30:3]]
        rows.write_text("".join(json.dumps(row) + "\n" for row in pairs))
        loss = {"dense_loss": 1e-3, "sparse_loss": 1e-3, "multi_loss": 1e-3, "distillation": False}
        changes |= {"loss": loss, "batch": {"lengths": [64], "rows": 10}}
    run = config(rows, model, tmp_path / "taught", tmp_path / "run", stage=stage, **changes)
    train(run, log=lambda line: None)
    found = [line[part] for line in reports(tmp_path / "run") if part in line]
    assert found[-1] < 0.9 * found[0]
    assert "teacher_tokens" not in reports(tmp_path / "run")[0]


def test_a_passage_that_the_teacher_prefers_is_no_negative() -> None:
    scores = torch.tensor([[0.9, 0.95, 0.2], [0.1, 0.8, 0.79]])
    pairs = torch.ones(2, 3, dtype=torch.bool)
    pairs[1, 2] = False
    known = Known(scores, pairs, torch.tensor([True, True]), torch.tensor([0, 1]))
    assert known.above(0.0).tolist() == [[False, True, False], [False, False, False]]
    assert known.above(0.05).tolist() == [[False, True, False], [False, False, False]]
    assert known.above(0.75).tolist() == [[False, True, True], [True, False, False]]
    blind = Known(scores, pairs, torch.tensor([False, True]), torch.tensor([0, 1]))
    assert not blind.above(0.0)[0].any()


def test_wrong_teachers_are_told_in_words(
    rows: Path, taught: Path, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"set teacher\.path"):
        config(rows, model, taught, tmp_path / "run", teacher={"dense": 1.0})
    with pytest.raises(InputError, match=r"set data\.shuffle_segments = 0"):
        config(rows, model, taught, tmp_path / "run",
               data={"sources": [{"files": [str(rows)]}]})  # fmt: skip
    for frozen, words in (
        ("word", "'word' is none of words, positions"),
        ("layers 0-1", "is none of"),
        ("layers 2-3", "of a model of 2 layers"),
        (["words", "positions", "layers", "sparse", "multi"], "leaves nothing that the stage"),
    ):
        with pytest.raises(InputError, match=words):
            frozen_part = {"optimiser": {"frozen": [frozen] if isinstance(frozen, str) else frozen}}
            train(config(rows, model, taught, tmp_path / "run", **frozen_part), log=print)
    with pytest.raises(InputError):
        TeacherVectors.load(tmp_path)
    with pytest.raises(InputError):
        teach([rows], model, taught, PLAIN)
    checkpoint = read_checkpoint(model)
    settings = Settings(query_prefix="the ")
    prefixed = tmp_path / "prefixed"
    write_checkpoint(prefixed, checkpoint.model, checkpoint.tokenizer, settings=settings)
    with pytest.raises(InputError):
        train(config(rows, prefixed, taught, tmp_path / "run"), log=lambda line: None)
    with pytest.raises(InputError, match="device 'quantum' is not there"):
        teach([rows], model, tmp_path / "none", TeachConfig(device="quantum"))
    bare = tmp_path / "empty.jsonl"
    bare.write_text("")
    with pytest.raises(InputError):
        teach([bare], model, tmp_path / "none", PLAIN)


def test_a_student_that_is_the_teacher_has_no_distance_to_it(
    rows: Path, taught: Path, model: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """In whatever order texts lie."""
    run = config(rows, model, taught, tmp_path / "run",
                 teacher={"path": str(taught), "rarity": 1.0, "dense": 0.0})  # fmt: skip
    ready = prepare(run, World.start("cpu"))
    targets = make_targets(ready)
    places = np.arange(len(ready.examples.keys))[::-1].copy()
    batch = Side(Collator(ready.examples, tokenizer, run.data, seed=0).texts(places, 0), most=None)
    vectors = targets.vectors
    weights, multi = [], []
    for text in batch.order:
        row = targets.own[places[text]]
        span = slice(*vectors.token_offsets[row : row + 2])
        weights += [9.0, *vectors.rarity[span].tolist()]  # [CLS] first
        multi.append(torch.from_numpy(vectors.tokens[span].astype(np.float32)))
    heads = {"sparse": torch.tensor(weights), "multi": torch.cat(multi)}
    encoded = batch.representations(heads)  # type: ignore[arg-type]
    _, facts = pull(targets, run.teacher, [(encoded, places)], World.start("cpu"))
    assert float(facts["teacher_rarity"]) == 0.0
    assert float(facts["teacher_tokens"]) < 1e-3


def test_a_long_text_is_read_in_windows(model: Path, tmp_path: Path, tiny: Checkpoint) -> None:
    text = " ".join(ENGLISH[:8])
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": ENGLISH[9]}) + "\n")
    (ids,) = tiny.tokenizer.contents([text])
    assert len(ids) > 3 * 14
    windowed = TeachConfig(max_length=16, windows=True, directions=0)
    teach([path], model, tmp_path / "taught", windowed, student=model)
    found, row = row_of(tmp_path / "taught", text)
    dense, inner = [], []
    assert tiny.model.multi is not None
    for at in range(0, len(ids), 14):
        states = sample_states(tiny.model, tiny.tokenizer.frame([ids[at : at + 14]], max_length=16))
        dense.append(torch.nn.functional.normalize(states[0], dim=-1))
        multi = tiny.model.multi(states).detach()
        inner.append(multi[1:-1])
    mean = torch.nn.functional.normalize(torch.stack(dense).mean(0), dim=-1)
    assert np.allclose(found.dense[row], mean.detach().numpy(), atol=2e-3)
    vectors = found.tokens[found.token_offsets[row] : found.token_offsets[row + 1]]
    assert np.allclose(vectors, torch.cat((*inner, multi[-1:])).numpy(), atol=3e-3)
    # without windows the text is cut
    teach([path], model, tmp_path / "cut", TeachConfig(max_length=16, directions=0), student=model)
    cut = TeacherVectors.load(tmp_path / "cut")
    assert np.diff(cut.token_offsets).max() == 15
