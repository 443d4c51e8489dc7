"""The search page: its files by themselves, and in a browser before a server of the tiny model.

In a browser where Chromium and Playwright are; axe-core is used where TERCET_AXE names its
axe.min.js.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import Running, start, stop

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
        for path in (STATIC / "app.js", STATIC / "documents.js")
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


NODE = """
import { runs } from "./why.mjs";
const text = "a😀 שלום b𝒳c";
const letters = Array.from(text);
let seed = 7;
const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
const out = [];
for (let i = 0; i < 300; i++) {
  const spans = Array.from({ length: random(5) }, () => {
    const start = random(letters.length);
    return { start, end: start + random(letters.length - start + 1) };
  });
  const found = runs(text, spans);
  const over = (at) => (span, j) => (span.start <= at && at < span.end ? [j] : []);
  const covered = letters.map((_, at) => spans.flatMap(over(at)));
  const told = found.flatMap((run) => Array.from(run.text, () => [...run.in].sort()));
  out.push(found.map((run) => run.text).join("") === text &&
    JSON.stringify(told) === JSON.stringify(covered));
}
console.log(JSON.stringify(out));
"""


def test_spans_count_code_points_and_may_overlap(tmp_path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("no node")
    shutil.copy(STATIC / "why.js", tmp_path / "why.mjs")
    (tmp_path / "run.mjs").write_text(NODE, encoding="utf-8")
    done = subprocess.run([node, "run.mjs"], cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(done.stdout) == [True] * 300


# In a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LONG = "The river and the water of the city. " + "The light of the night was for the bird. " * 20
DOCUMENTS = [
    ("river", "en", LONG, "the river", {"year": 1883}),
    ("bread", "en", "bread and fire in the house", "", {"year": 1900}),
    ("Wasser", "de", "das Wasser und die Stadt für ein Buch 😀 im Haus", "das Buch", {}),
    ("كتاب", "ar", "من الكتاب 😀 water من", "كتاب", {}),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


def served(folder: Path, checkpoint: Path, **env: str) -> Running:
    running = start(str(folder), "--model", str(checkpoint), env=env)
    names = ("id", "language", "text", "title", "metadata")
    documents = [dict(zip(names, row, strict=True)) for row in DOCUMENTS]
    key = {"authorization": f"Bearer {env['TERCET_KEYS']}"} if env else {}
    report = running.ask("POST", "/documents", {"documents": documents}, headers=key)
    assert report.json["added"] == len(DOCUMENTS), report.body
    return running


@pytest.fixture(scope="module")
def site(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with DOCUMENTS."""
    running = served(tmp_path_factory.mktemp("page") / "index", tiny_checkpoint)
    yield f"http://127.0.0.1:{running.port}/"
    stop(running)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab; nothing that it does may be an error, or refused by the policy."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(20_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda told: wrong.extend([told.text] if told.type == "error" else []))
    page.expected = []  # what the console may say
    yield page
    context.close()
    assert not [text for text in wrong if not any(part in text for part in page.expected)]


def ids(page: Any) -> list[str]:
    """The hits, in their order."""
    keys = page.evaluate("[...document.querySelectorAll('li.hit')].map((item) => item.hit.id)")
    return [str(key) for key in keys]


def true_at_last(page: Any, script: str) -> None:
    """Waits for it; Playwright's own waiting needs eval, which the policy refuses."""
    for _ in range(200):
        if page.evaluate(script):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {script}")


def searched(page: Any, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("li.hit")


slow = pytest.mark.slow
IDLE = "document.getElementById('hits').ariaBusy !== 'true'"


@slow
def test_results_come_as_one_types_and_the_query_is_in_the_url(page: Any, site: str) -> None:
    asked: list[str] = []
    page.on("request", lambda r: asked.extend([r.post_data] if "/search" in r.url else []))
    page.goto(site)
    page.wait_for_selector("#blank:not([hidden])")
    page.keyboard.type("the river", delay=20)  # the box has the focus
    true_at_last(page, "document.title.startsWith('the river') && document.querySelector('li.hit')")
    assert [json.loads(body)["query"] for body in asked][-1] == "the river"
    assert len(asked) < len("the river")  # not one for each letter
    assert page.inner_text("#status").startswith("4 hits")
    assert page.url == f"{site}?q=the+river"
    page.keyboard.press("Enter")
    page.fill("#query", "bread")
    true_at_last(page, "document.title.startsWith('bread')")
    page.go_back()
    true_at_last(page, "document.getElementById('query').value === 'the river'")
    assert page.url == f"{site}?q=the+river"


@slow
def test_an_older_answer_never_replaces_a_newer_one(page: Any, site: str) -> None:
    held: list[Any] = []
    failed: list[str] = []

    def first(route: Any) -> None:
        if not held:
            held.append(route)
        else:
            route.continue_()

    page.on("requestfailed", lambda request: failed.append(request.post_data))
    page.route("**/search", first)
    page.goto(site)
    page.wait_for_selector("#blank:not([hidden])")
    page.fill("#query", "the river")
    page.wait_for_timeout(400)
    assert held
    page.fill("#query", "bread and fire")
    page.wait_for_selector("li.hit")
    assert [json.loads(body)["query"] for body in failed] == ["the river"]  # it was cancelled
    assert page.evaluate("document.querySelector('li.hit').hit !== undefined")
    assert page.inner_text("#status").startswith("4 hits")


@slow
def test_what_an_input_method_composes_is_asked_when_it_is_complete(page: Any, site: str) -> None:
    asked: list[str] = []
    page.on("request", lambda r: asked.extend([r.post_data] if "/search" in r.url else []))
    page.goto(site)
    page.wait_for_selector("#blank:not([hidden])")
    page.focus("#query")
    session = page.context.new_cdp_session(page)
    for text in ("に", "にほ", "日本"):
        composed = {"text": text, "selectionStart": len(text), "selectionEnd": len(text)}
        session.send("Input.imeSetComposition", composed)
        page.wait_for_timeout(250)
    assert not asked
    session.send("Input.insertText", {"text": "日本"})
    page.wait_for_selector("li.hit")
    assert [json.loads(body)["query"] for body in asked] == ["日本"]


@slow
def test_weights_rank_at_once_and_ask_when_they_rest(page: Any, site: str) -> None:
    searched(page, f"{site}?q=the+river+and+the+water")
    before = ids(page)
    held: list[Any] = []
    page.route("**/search", lambda route: held.append(route))
    move = """([head, value]) => { const slider = document.getElementById(`weight-${head}`);
      slider.value = value; slider.dispatchEvent(new Event("input", { bubbles: true })); }"""
    orders = set()
    for dense, sparse, multi in ((2, 0, 0), (0, 2, 0), (0, 0, 2), (0, 1, 0.5)):
        for head, value in (("dense", dense), ("sparse", sparse), ("multi", multi)):
            page.evaluate(move, [head, value])
        told = page.evaluate(
            "[...document.querySelectorAll('li.hit')].map((i) => [i.hit, i.score])"
        )
        scores = [score for _, score in told]
        assert scores == sorted(scores, reverse=True)
        for hit, score in told:
            parts = dense * hit["dense"] + sparse * hit["sparse"] + multi * hit["multi"]
            assert score == pytest.approx(parts + (hit.get("exact") or 0))
        orders.add(tuple(ids(page)))
    assert len(orders) > 1
    page.wait_for_timeout(700)
    assert [json.loads(route.request.post_data)["weights"] for route in held] == [
        {"dense": 0, "sparse": 1, "multi": 0.5}
    ]
    held[0].continue_()
    page.unroute("**/search")
    true_at_last(page, IDLE)
    assert "weights=0%2C1%2C0.5" in page.url
    page.click("#reset")
    true_at_last(page, "!location.search.includes('weights')")
    true_at_last(page, IDLE)
    assert ids(page) == before
    assert page.input_value("#weight-sparse") == "0.5"  # the model's own


@slow
def test_filters_are_in_the_url_and_numbers_are_found(page: Any, site: str) -> None:
    searched(page, f"{site}?q=water")
    page.check("input[value=de]")
    true_at_last(page, "document.querySelectorAll('li.hit').length === 1")
    assert ids(page) == ["Wasser"]
    page.reload()
    page.wait_for_selector("li.hit")
    assert ids(page) == ["Wasser"]
    assert page.is_checked("input[value=de]")
    page.uncheck("input[value=de]")
    true_at_last(page, "document.querySelectorAll('li.hit').length === 4")
    page.select_option("#filter-key", "year")
    page.fill("#filter-value", "1883")
    page.click("#filter-add")
    true_at_last(page, "document.querySelectorAll('li.hit').length === 1")
    assert ids(page) == ["river"]
    assert "filter=year%3D1883" in page.url
    page.click("#chosen button")
    true_at_last(page, "document.querySelectorAll('li.hit').length === 4")


@slow
def test_all_of_it_by_the_keyboard(page: Any, site: str) -> None:
    searched(page, f"{site}?q=the+river")
    focused = "() => document.activeElement.closest('li.hit')?.hit.id ?? document.activeElement.id"
    page.keyboard.press("/")
    assert page.evaluate(focused) == "query"
    order = ids(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == order[1]
    page.keyboard.press("Enter")
    page.wait_for_selector(".why-query [role=option]")
    button = page.locator("li.hit").nth(1).locator(".why-button")
    assert button.get_attribute("aria-expanded") == "true"
    page.locator(".why-query [role=option]").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".why-query [aria-selected=true]").count() == 1
    assert "similarity" in page.inner_text(".why-told")
    assert page.locator(".why-text .met, .why-title.met").count() >= 1 or "end of the" in (
        page.inner_text(".why-told")
    )
    page.keyboard.press("Escape")
    assert button.get_attribute("aria-expanded") == "false"
    assert page.evaluate(focused) == order[1]
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "query"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == "query"


@slow
def test_an_explanation_is_in_the_text_of_the_passage(page: Any, site: str) -> None:
    searched(page, f"{site}?q=water+😀+من")
    item = page.locator("li.hit", has_text="من الكتاب").first
    item.locator(".why-button").click()
    text = item.locator(".why-text")
    text.wait_for()
    assert text.inner_text() == "من الكتاب 😀 water من"
    assert text.evaluate("(node) => getComputedStyle(node).direction") == "rtl"
    assert item.locator("h2").evaluate("(node) => getComputedStyle(node).direction") == "rtl"
    heat = text.locator(".heat")
    assert {part.strip() for part in heat.all_inner_texts()} >= {"😀", "water"}
    shades = heat.evaluate_all("(all) => all.map((n) => +n.style.getPropertyValue('--heat'))")
    assert min(shades) == 0
    assert max(shades) == 1
    body = {"query": "water 😀 من", "passage": "من الكتاب 😀 water من", "title": "كتاب"}
    told = page.context.request.post(f"{site}explain", data=body).json()
    assert told["shared"]
    products = [f"{one['product']:.3f}" for one in told["shared"]]
    assert item.locator(".why-shared tbody td:last-child").all_inner_texts() == products
    assert item.locator(".why-query [role=option]").count() == len(told["tokens"])
    assert item.locator(".why-tokens tbody tr").count() == len(told["tokens"])
    assert "".join(item.locator(".why-query").inner_text().split()).startswith("water😀من")


@slow
def test_the_best_sentence_and_matched_words_are_marked(page: Any, site: str) -> None:
    searched(page, f"{site}?q=bread+fire+water+😀")
    body = {"query": "bread fire water 😀"}
    for hit in page.context.request.post(f"{site}search", data=body).json()["hits"]:
        text, sentence = hit["text"], hit["sentence"]
        item = page.locator("li.hit").nth(ids(page).index(hit["id"]))
        if len(text) > 400:
            item.locator("text=Whole passage").click()
        marked = [text[mark["start"] : mark["end"]] for mark in hit["marks"]]
        assert item.locator("mark").all_inner_texts() == marked
        best = text[sentence["start"] : sentence["end"]]
        assert item.locator(".passage .best").inner_text() == best
    assert page.locator("mark").count()


@slow
def test_a_long_passage_is_shown_in_part_until_all_is_wanted(page: Any, site: str) -> None:
    searched(page, f"{site}?q=the+river")
    item = page.locator("li.hit", has_text="the river").first
    assert len(item.locator(".passage").inner_text()) < 450
    assert item.locator(".passage").inner_text().endswith(" …")
    item.locator("text=Whole passage").click()
    assert " ".join(item.locator(".passage").inner_text().split()) == LONG.strip()
    bread = page.locator("li.hit", has_text="bread").first
    assert bread.locator("text=Whole passage").is_hidden()


@slow
def test_files_go_in_with_their_problems_and_out_when_confirmed(
    page: Any, site: str, tmp_path: Path
) -> None:
    (tmp_path / "night.md").write_text("# the night\n\nthe star of the night", encoding="utf-8")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 and no more")
    page.goto(f"{site}?view=documents")
    page.wait_for_selector("#document-list li")
    page.set_input_files("#files", [tmp_path / "night.md", tmp_path / "broken.pdf"])
    page.wait_for_selector("#uploads-stop", state="hidden")
    page.wait_for_selector("text=2 of 2 files done, 1 with a problem")
    night, broken = page.locator("#upload-list > li").all()
    assert night.locator(".state").inner_text() == "added"
    assert broken.locator(".state").inner_text() == "not indexed"
    assert broken.locator(".problems li").inner_text()
    row = page.locator("#document-list li", has_text="the night")
    row.wait_for()
    row.get_by_role("button", name="Delete", exact=False).first.click()
    assert page.evaluate("document.activeElement.textContent") == "Keep"
    page.keyboard.press("Escape")
    assert row.locator("text=Delete for good").is_hidden()
    row.get_by_role("button", name="Delete", exact=False).first.click()
    row.locator("text=Delete for good").click()
    row.wait_for(state="detached")
    page.reload()
    page.wait_for_selector("#document-list li")
    assert page.locator("#document-list li").count() == len(DOCUMENTS)


@slow
def test_files_are_dropped_anywhere(page: Any, site: str) -> None:
    page.goto(site)
    page.wait_for_selector("#blank:not([hidden])")
    drop = """(kind) => {
      const data = new DataTransfer();
      data.items.add(new File(["the bird and the star"], "bird.txt", { type: "text/plain" }));
      const event = new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
      return !document.body.dispatchEvent(event);
    }"""
    page.evaluate(drop, "dragenter")
    assert page.locator("#veil").is_visible()
    assert page.evaluate(drop, "dragover")  # the page takes it, the browser does not open it
    assert page.evaluate(drop, "drop")
    assert page.locator("#veil").is_hidden()
    page.wait_for_selector("text=1 of 1 files done")
    assert page.url.endswith("?view=documents")
    row = page.locator("#document-list li", has_text="bird.txt")
    row.get_by_role("button", name="Delete bird.txt").click()
    row.locator("text=Delete for good").click()
    row.wait_for(state="detached")


@slow
def test_a_busy_server_is_asked_again_and_one_that_is_away_comes_back(page: Any, site: str) -> None:
    page.expected = ["429", "ERR_INTERNET_DISCONNECTED"]
    times: list[int] = []

    def busy_once(route: Any) -> None:
        times.append(1)
        if len(times) > 1:
            route.continue_()
            return
        error = {"error": {"message": "the queue is full", "code": "overloaded"}}
        route.fulfill(status=429, headers={"Retry-After": "1"}, json=error)

    page.route("**/search", busy_once)
    page.goto(f"{site}?q=water")
    page.wait_for_selector("text=The server is busy")
    page.wait_for_selector("li.hit")
    assert len(times) == 2
    page.context.set_offline(True)
    page.fill("#query", "the water")
    page.wait_for_selector("#notice:has-text('does not answer')")
    page.context.set_offline(False)
    page.wait_for_selector("#notice", state="hidden")
    true_at_last(page, "document.title.startsWith('the water')")
    assert page.locator("li.hit").count() == 4


@slow
def test_a_key_is_asked_for_until_it_is_right(
    page: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    page.expected = ["401"]
    running = served(tmp_path / "index", tiny_checkpoint, TERCET_KEYS="open-sesame")
    try:
        page.goto(f"http://127.0.0.1:{running.port}/?q=water")
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "wrong-key")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=The key was not accepted")
        page.fill("#key", "open-sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("li.hit")
        page.reload()
        page.wait_for_selector("li.hit")  # kept in the tab
    finally:
        stop(running)


@slow
def test_a_server_without_an_index_compares_texts(page: Any, tiny_checkpoint: Path) -> None:
    running = start("--model", str(tiny_checkpoint))
    try:
        page.goto(f"http://127.0.0.1:{running.port}/")
        page.wait_for_selector("#compare:not([hidden])")
        assert page.locator("nav a:visible").all_inner_texts() == ["Compare two texts"]
        page.fill("#compare-query", "the water")
        page.fill("#compare-passage", "the river and the water")
        page.click("#compare-form button")
        page.wait_for_selector("#compare-why .why-shared tbody tr")
        assert page.locator("#compare-why .why-text").inner_text() == "the river and the water"
    finally:
        stop(running)


@slow
def test_an_empty_index_says_what_to_do(page: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    running = start(str(tmp_path / "index"), "--model", str(tiny_checkpoint))
    try:
        page.goto(f"http://127.0.0.1:{running.port}/")
        page.click("#blank a")
        page.wait_for_selector("#drop:not([hidden])")
        assert page.inner_text("#documents-status") == "No documents."
    finally:
        stop(running)


@slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_overflows_and_axe_finds_nothing_serious(
    browser: Any, site: str, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    try:
        page = context.new_page()
        for query, ready in (
            ("?q=water+من", "li.hit"),
            ("?view=documents", "#document-list li"),
            ("?view=compare", "#compare-form"),
        ):
            page.goto(site + query)
            page.wait_for_selector(ready)
            if ready == "li.hit":
                page.locator("li.hit", has_text="the river").locator(".why-button").click()
                page.wait_for_selector(".why-text")
                scrolls = "(text) => text.scrollHeight > text.clientHeight"
                assert page.locator(".why-text").evaluate(scrolls) or width > 360
                page.locator(".why-query [role=option]").first.focus()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            if axe := os.environ.get("TERCET_AXE"):
                page.evaluate(Path(axe).read_text(encoding="utf-8"))
                found = page.evaluate("axe.run().then((result) => result.violations)")
                assert not [
                    (rule["id"], [node["target"] for node in rule["nodes"]])
                    for rule in found
                    if rule["impact"] in ("serious", "critical")
                ]
    finally:
        context.close()
