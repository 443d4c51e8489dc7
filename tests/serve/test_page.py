"""The search page: its files by themselves."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

STATIC = Path(__file__).resolve().parents[2] / "src" / "tercet" / "serve" / "static"
FILES = sorted(path for path in STATIC.iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
PAGE = (STATIC / "index.html").read_text(encoding="utf-8")
LARGEST = 100_000  # bytes of all files


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def name(path: Path) -> str:
    return path.name


def test_every_id_that_a_script_asks_for_is_in_the_page() -> None:
    ids = [attributes["id"] for _, attributes in Tags(PAGE).found if "id" in attributes]
    assert len(ids) == len(set(ids)), "an id twice"
    asked = {
        match
        for path in SCRIPTS
        for match in re.findall(r"""\bat\(["'](.+?)["']\)""", path.read_text(encoding="utf-8"))
    }
    assert len(asked) > 30
    assert asked <= set(ids), asked - set(ids)


def test_labels_and_descriptions_lead_to_ids() -> None:
    tags = Tags(PAGE).found
    ids = {attributes.get("id") for _, attributes in tags}
    for tag, attributes in tags:
        for key in ("for", "aria-labelledby", "aria-describedby", "list"):
            assert key not in attributes or attributes[key] in ids, (tag, attributes)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_is_loaded_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    text = text.replace("http://www.w3.org/2000/svg", "").replace("^https?:", "")
    assert not re.search(r"""(https?:)?//[a-z0-9.-]+\.[a-z]{2}|@import|url\(""", text)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_content_security_policy_refuses_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".html", ".svg"):
        for tag, attributes in Tags(text).found:
            assert tag != "style", path
            assert tag != "script" or attributes.get("src"), path
            assert not {key for key in attributes if key == "style" or key.startswith("on")}, tag
    if path.suffix == ".js":
        assert not re.search(r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML", text)
        attribute = r"""([{,]\s*["']?|setAttribute\(["'])(style|on(?!ce)[a-z]+)["']?[:,]"""
        assert not re.search(attribute, text)


def test_the_explanation_stands_alone() -> None:
    why = (STATIC / "why.js").read_text(encoding="utf-8")
    assert not re.search(r"\bimport\b\s*[({\"'*\w]|\bfetch\(|getElementById", why)
    assert "export function render(" in why
    styles = (STATIC / "why.css").read_text(encoding="utf-8")
    made = set(re.findall(r"(--[\w-]+):", styles))
    set_by_script = set(re.findall(r'setProperty\("(--[\w-]+)"', why))
    assert set(re.findall(r"var\((--[\w-]+)", styles)) <= made | set_by_script


def test_scripts_import_what_is_there() -> None:
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        for names, file in re.findall(r'import \{([^}]+)\} from "\./([\w.]+)"', text):
            other = (STATIC / file).read_text(encoding="utf-8")
            for imported in names.split(","):
                assert re.search(
                    rf"export [\w*\s]*(function\*?|const|class) {imported.strip()}\b", other
                ), (path.name, imported)


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_are_javascript(path: Path, tmp_path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("no node")
    module = shutil.copy(path, tmp_path / f"{path.stem}.mjs")
    done = subprocess.run([node, "--check", module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_files_are_small() -> None:
    assert 0 < sum(path.stat().st_size for path in FILES) <= LARGEST
