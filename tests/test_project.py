"""The project as a whole: its pages, its version, its sizes, and what an import costs."""

import ast
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from tercet.cli import tercet

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tercet"
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"])
LARGEST = 96_000_000  # bytes of all bundled weights


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def commands(command: click.Command, path: str = "tercet") -> list[str]:
    """The commands of a tree that do something."""
    if isinstance(command, click.Group):
        return [
            name
            for key, child in command.commands.items()
            for name in commands(child, f"{path} {key}")
        ]
    return [path]


def test_the_readme_is_short_and_links_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("\n") <= 150
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(links(readme))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for link in links(page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_pages_have_every_command() -> None:
    pages = " ".join(" ".join(page.read_text(encoding="utf-8").split()) for page in PAGES)
    for path in commands(tercet):
        assert path in pages, path


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_say_what_they_do(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


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
