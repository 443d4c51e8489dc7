"""The tree of a run: read from TOML, set by name, and refused by name."""

import tomllib
from pathlib import Path

import pytest
import tomli_w

from tercet.errors import InputError
from tercet.train.config import RECIPES, TrainConfig, from_tree, read_tree, recipe, to_tree

FOLDER = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_file(name: str) -> None:
    assert from_tree(read_tree(FOLDER / f"{name}.toml")) == recipe(name)
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_tree_and_toml_keep_everything(name: str) -> None:
    config = recipe(name)
    assert from_tree(tomllib.loads(tomli_w.dumps(to_tree(config)))) == config


def test_fields_are_set_by_name() -> None:
    tree = {"steps": 5, "data": {"sources": [{"files": ["a"]}, {"files": ["b"]}]}}
    config = from_tree(
        tree,
        [
            "batch.rows=64",
            "optimiser.lr=1",  # a whole number where a fraction is meant
            "model=BAAI/bge-m3",
            "data.sources.1.weight=0.5",
            "loss.distil_from=3",
            'negatives.heads=["dense", "sparse"]',
            "run.tensorboard = true",
        ],
    )
    assert (config.batch.rows, config.optimiser.lr, config.model) == (64, 1.0, "BAAI/bge-m3")
    assert [source.weight for source in config.data.sources] == [1.0, 0.5]
    assert (config.loss.distil_from, config.negatives.heads) == (3, ("dense", "sparse"))
    assert config.run.tensorboard is True


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("batch.row=64", "unknown field 'row'"),
        ("batch.rows=many", "batch: rows: expected int, got 'many'"),
        ("batch.rows=1", "at least 2 rows"),
        ("batch.lengths=[5, 4]", "must rise"),
        ("optimiser.schedule=square", "optimiser: schedule: expected one of linear"),
        ("optimiser.betas=[0.9]", "expected 2 values"),
        ("loss.distil_from=5", "distil_from = 5, but the run has 5 steps"),
        ("loss.temperature=0", "loss.temperature is at least 1e-09"),
        ("loss.teacher=bert", "loss: teacher: expected one of kl_div, m3_kd"),
        ("loss.flops=-1", "loss.flops is at least 0"),
        ("loss.dense_sizes=[0]", "loss.dense_sizes and multi_sizes hold sizes of at least 1"),
        ("data.sources.3.weight=1", "no entry 3"),
        (
            "data.sources.0.heads=['colbert']",
            "heads: expected one of dense, sparse, multi, got 'colbert'",
        ),
        ("data.negatives=true", "expected int"),
        ("stage=four", "stage: expected one of"),
        ("steps", "--set takes name=value"),
        ("steps.more=1", "has no fields"),
        ("negatives.every=-1", "negatives.every is at least 0, got -1"),
        (f"batch.accumulate={10**400}", "batch.accumulate is at least 1, got 1000"),
        ("loss.flops=nan", "loss.flops is at least 0, got nan"),
        ("loss.flops=inf", "loss.flops is at least 0, got inf"),
        ("negatives.limit=1.5", "negatives.limit is at least 0.01 and at most 1, got 1.5"),
    ],
)
def test_what_is_refused_is_named(setting: str, said: str) -> None:
    tree = {"steps": 5, "batch": {"rows": 4}, "data": {"sources": [{"files": ["a"]}]}}
    from_tree(tree)
    with pytest.raises(InputError, match=said.replace("[", r"\[")):
        from_tree(tree, [setting])


def test_one_way_of_saying_how_much_takes_the_place_of_another() -> None:
    tree = {"steps": 5, "batch": {"rows": 4}}
    config = from_tree(tree, ["epochs=2", "batch.tokens=9"])
    assert (config.steps, config.epochs, config.batch.rows, config.batch.tokens) == (0, 2.0, 0, 9)
    with pytest.raises(InputError, match="exactly one of sizes, rows and tokens, not rows and tok"):
        from_tree(tree, ["batch.tokens=9", "batch.rows=4"])
    with pytest.raises(InputError):
        from_tree({**tree, "epochs": 1})


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_tree(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(InputError):
        read_tree(tmp_path / "bad.toml")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError):
        read_tree(tmp_path / "config.json")
    with pytest.raises(InputError, match="unknown recipe 'best'"):
        recipe("best")
    with pytest.raises(InputError):
        TrainConfig()
