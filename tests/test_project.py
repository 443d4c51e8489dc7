"""The project as a whole: its map, its version, its sizes, and what an import costs."""

import ast
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tercet"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400  # lines of a module
LARGEST = 48_000_000  # bytes of the models in the package


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def entry(path: Path) -> str:
    """How the map of the README names a file: a package by its folder, a model by its folder."""
    relative = path.relative_to(PACKAGE)
    if relative.parts[0] == "models" and len(relative.parts) > 2:
        return f"{Path(*relative.parts[:2]).as_posix()}/"
    if relative.name == "__init__.py" and relative.parent != Path():
        return f"{relative.parent.as_posix()}/"
    return relative.as_posix()


def test_the_map_names_every_file_once_and_none_else() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"(?ms)^## Map of `src/tercet`\n(.*?)(^## |\Z)", readme)
    assert section is not None
    lines = re.findall(r"^ *(\S+) {2,}\S.*$", section[1], re.MULTILINE)
    files = {
        entry(path)
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(lines) == len(set(lines))
    assert set(lines) == files


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_are_short_and_say_what_they_do(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST
    assert ast.get_docstring(ast.parse(text))


def test_the_changelog_is_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == version("tercet")


def test_the_models_are_small() -> None:
    models = PACKAGE / "models"
    sizes = [path.stat().st_size for path in models.rglob("*") if path.is_file()]
    assert sizes, "the package has no model"
    assert sum(sizes) <= LARGEST


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = "import sys, tercet; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "tercet" in loaded
    assert not {"torch", "numpy", "scipy"} & set(loaded)


def test_the_documents_name_no_place_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    homes = re.compile(r"(?<![\w.])/(home|root|Users|work)/\w")
    for file in filter(None, listed.stdout.split("\0")):
        path = ROOT / file
        if path.suffix in (".md", ".py", ".toml", ".txt", ".json", ""):
            found = homes.search(path.read_text(encoding="utf-8")) if path.is_file() else None
            assert found is None, f"{file} names {found and found[0]}"
