// The page: what is asked lives in the URL, what is found is drawn here.
//
// Requests are made by api.js, explanations drawn by why.js, documents listed by documents.js.

import { json, listen, pause } from "./api.js";
import { documentsView } from "./documents.js";
import { characters, element, figure, render, runs } from "./why.js";

const HEADS = ["dense", "sparse", "multi"];
const TYPING = 150; // ms after the last key
const RESTING = 400; // ms after the last move of a slider
const AGAIN = 3; // s between questions to a server that is away
const SHOWN = 420; // characters of a long passage
const LONG_WORD = 24; // characters; a longer one is cut
const PAGE = 10; // hits, and how many more

const at = (id) => document.getElementById(id);
const ui = {
  about: at("about"),
  blank: at("blank"),
  chosen: at("chosen"),
  filterKey: at("filter-key"),
  filterValue: at("filter-value"),
  filterValues: at("filter-values"),
  filters: at("filters"),
  hits: at("hits"),
  key: at("key"),
  keyCancel: at("key-cancel"),
  keyDialog: at("key-dialog"),
  keyForm: at("key-form"),
  keyNote: at("key-note"),
  languageList: at("language-list"),
  languages: at("languages"),
  main: at("main"),
  metadata: at("metadata"),
  more: at("more"),
  notice: at("notice"),
  query: at("query"),
  refine: at("refine"),
  reset: at("reset"),
  searchForm: at("search-form"),
  sliders: at("sliders"),
  status: at("status"),
  weaker: at("weaker"),
  weights: at("weights"),
};
const views = { search: at("search"), documents: at("documents"), compare: at("compare") };

const state = {
  view: "search",
  query: "",
  languages: [],
  filters: [], // "key=value"
  weights: null, // null: the model's
  k: PAGE,
  weak: false, // whether hits below the model's least score are shown
};
let info = null;
let found = null; // the answer that is shown
let running = null; // AbortController of the search that is under way
let timer = 0;
let typing = false; // the newest entry of the history is still being typed
let composing = false;

// The URL

function readAddress() {
  const given = new URLSearchParams(location.search);
  const numbers = (given.get("weights") ?? "").split(",").map(Number);
  const right = numbers.length === 3 && numbers.every((number) => number >= 0);
  state.view = given.get("view") in views ? given.get("view") : "search";
  state.query = given.get("q") ?? "";
  state.languages = given.getAll("language");
  state.filters = given.getAll("filter").filter((pair) => pair.includes("="));
  state.weights = right && given.has("weights") ? byHead(numbers) : null;
  state.weak = given.has("weak");
  state.k = Math.min(1000, Math.max(PAGE, Number(given.get("k")) || PAGE));
}

const byHead = (numbers) => Object.fromEntries(HEADS.map((head, i) => [head, numbers[i]]));

function address() {
  const given = new URLSearchParams();
  if (state.view !== "search") given.set("view", state.view);
  if (state.query) given.set("q", state.query);
  for (const language of state.languages) given.append("language", language);
  for (const pair of state.filters) given.append("filter", pair);
  if (state.weights) given.set("weights", HEADS.map((head) => state.weights[head]).join());
  if (state.weak) given.set("weak", 1);
  if (state.k > PAGE) given.set("k", state.k);
  return `?${given}`;
}

/** Writes the state into the URL; one entry of the history for a query, not for each letter. */
function record(letter = false) {
  if (letter && typing) history.replaceState(null, "", address());
  else if (address() !== (location.search || "?")) history.pushState(null, "", address());
  typing = letter;
}

// Views

function showView(focus = false) {
  if (!info) return;
  if (!info.index) state.view = "compare";
  for (const [name, section] of Object.entries(views)) section.hidden = name !== state.view;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    link.hidden = !info.index && link.dataset.view !== "compare";
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = views[state.view].querySelector("h1").textContent;
  document.title = `${(state.view === "search" && state.query) || heading} – Tercet`;
  if (state.view === "documents") documents.show();
  if (focus) (state.view === "search" ? ui.query : ui.main).focus();
}

function go(view) {
  state.view = view;
  record();
  showView(true);
  if (view === "search") search();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-view]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(link.dataset.view);
});

// What the server is

async function learn() {
  info = await json("info");
  const { model, index, version } = info;
  ui.about.textContent = `Tercet ${version} · ${model.id}`;
  if (index) {
    ui.about.append(` · ${count(index.documents, "document")}, ${count(index.chunks, "passage")}`);
    drawFilters();
    drawSliders();
  }
  documents.allow(Boolean(index?.writable));
  notice(index ? "" : "This server has no index: texts can be compared, nothing can be searched.");
}

const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

function notice(text, ...children) {
  ui.notice.replaceChildren(text, ...children);
  ui.notice.hidden = !text;
}

const names = new Intl.DisplayNames(["en"], { type: "language" });

function languageName(code) {
  if (!code) return "unknown";
  try {
    return names.of(code);
  } catch {
    return code; // not a language's code, whatever else it is
  }
}

// Filters

function drawFilters() {
  const languages = Object.entries(info.index.languages ?? {}).sort((a, b) => b[1] - a[1]);
  ui.languages.hidden = languages.length < 2 && !state.languages.length;
  for (const code of state.languages) {
    if (!languages.some(([known]) => known === code)) languages.push([code, 0]);
  }
  const boxes = languages
    .filter(([code]) => code)
    .map(([code, number]) => {
      const box = element("input", { type: "checkbox", name: "language", value: code });
      box.checked = state.languages.includes(code);
      return element(
        "label",
        {},
        box,
        element("span", {}, languageName(code)),
        element("span", { class: "count" }, String(number)),
      );
    });
  ui.languageList.replaceChildren(...boxes);
  const keys = Object.keys(info.index.filters ?? {}).filter((key) => key !== "language");
  ui.metadata.hidden = !keys.length && !state.filters.length;
  ui.filterKey.replaceChildren(...keys.map((key) => element("option", { value: key }, key)));
  drawChosen();
}

function drawChosen() {
  const items = state.filters.map((pair) => {
    const text = pair.replace("=", " = ");
    const drop = element("button", { type: "button", "aria-label": `Remove the filter ${text}` }, "×");
    drop.addEventListener("click", () => {
      state.filters = state.filters.filter((other) => other !== pair);
      filtersChanged();
      ui.filterValue.focus();
    });
    return element("li", {}, element("bdi", {}, text), drop);
  });
  ui.chosen.replaceChildren(...items);
  ui.chosen.hidden = !items.length;
}

function filtersChanged() {
  state.k = PAGE;
  drawChosen();
  record();
  search();
}

/** {key: values}; a value that reads as a number or a truth value is asked for as both. */
function filterAsked() {
  const asked = {};
  if (state.languages.length) asked.language = state.languages;
  for (const pair of state.filters) {
    const [key, text] = [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)];
    const values = (asked[key] ??= []);
    values.push(text);
    if (text.trim() && Number.isFinite(Number(text))) values.push(Number(text));
    if (["true", "false"].includes(text)) values.push(text === "true");
  }
  return asked;
}

ui.filters.addEventListener("change", ({ target }) => {
  if (target.name === "language") {
    const boxes = [...ui.languageList.querySelectorAll("input:checked")];
    state.languages = boxes.map((box) => box.value);
    filtersChanged();
  }
  if (target === ui.filterKey) offerValues();
});

ui.filters.addEventListener("submit", (event) => {
  event.preventDefault();
  const value = ui.filterValue.value.trim();
  const pair = `${ui.filterKey.value}=${value}`;
  if (!value || !ui.filterKey.value) return;
  if (!state.filters.includes(pair)) state.filters.push(pair);
  ui.filterValue.value = "";
  filtersChanged();
});

/** Values of the key that the hits on the page have. */
function offerValues() {
  const key = ui.filterKey.value;
  const values = new Set((found?.hits ?? []).flatMap(({ metadata }) => metadata[key] ?? []));
  const options = [...values].map((value) => element("option", { value: String(value) }));
  ui.filterValues.replaceChildren(...options);
}

// Weights

const ownWeights = () => info.index.weights ?? info.model.weights;
const weightsNow = () => state.weights ?? ownWeights();

function drawSliders() {
  const heads = HEADS.filter((head) => info.model.heads.includes(head));
  const rows = heads.map((head) => {
    const id = `weight-${head}`;
    const most = Math.max(2, Math.ceil(2 * ownWeights()[head]));
    const slider = element("input", { id, type: "range", min: 0, max: most, step: 0.05 });
    slider.name = head;
    return element(
      "div",
      { class: `slider ${head}` },
      element("label", { for: id }, head),
      slider,
      element("output", { for: id }),
    );
  });
  ui.sliders.replaceChildren(...rows);
  setSliders();
}

function setSliders() {
  for (const slider of ui.sliders.querySelectorAll("input")) {
    slider.value = weightsNow()[slider.name];
    tellSlider(slider);
  }
  ui.reset.disabled = !state.weights;
}

function tellSlider(slider) {
  slider.parentElement.querySelector("output").textContent = figure(Number(slider.value));
}

ui.weights.addEventListener("input", ({ target }) => {
  state.weights = { ...weightsNow(), [target.name]: Number(target.value) };
  tellSlider(target);
  ui.reset.disabled = false;
  rank();
  later(RESTING, () => {
    record();
    search();
  });
});

ui.weights.addEventListener("reset", (event) => {
  event.preventDefault(); // to the model's, not to what the page was made with
  state.weights = null;
  setSliders();
  rank();
  record();
  search();
});

// Searching

function later(ms, what) {
  clearTimeout(timer);
  timer = setTimeout(what, ms);
}

async function search() {
  clearTimeout(timer);
  running?.abort();
  running = null;
  if (!info?.index || state.view !== "search") return;
  document.title = `${state.query || "Search"} – Tercet`;
  const asked = state.query.trim();
  if (!asked) {
    found = null;
    ui.hits.replaceChildren();
    busy(false);
    blank();
    return;
  }
  const mine = (running = new AbortController());
  const { k } = state;
  const least = state.weak ? null : leastScore();
  busy(true);
  try {
    const answer = await json("search", {
      method: "POST",
      body: { query: asked, k, weights: state.weights, filter: filterAsked(), min_score: least },
      signal: mine.signal,
    });
    if (running !== mine) return;
    draw(answer);
    ui.more.hidden = answer.hits.length < k || k >= 1000;
    ui.weaker.hidden = least === null || answer.hits.length >= k;
  } catch (error) {
    if (running !== mine || error.name === "AbortError") return;
    if (!error.status) return; // told as absence; what was found stays
    found = null;
    ui.hits.replaceChildren();
    for (const part of [ui.blank, ui.more, ui.weaker]) part.hidden = true;
    tell(error.message, true);
  } finally {
    if (running === mine) busy(false);
  }
}

const busy = (is) => {
  ui.hits.setAttribute("aria-busy", String(is));
  ui.searchForm.classList.toggle("busy", is);
};

function tell(text, wrong = false) {
  ui.status.textContent = text;
  ui.status.classList.toggle("wrong", wrong);
}

/** The score below which hits are noise; null where that is not known of these weights. */
function leastScore() {
  const { model, index } = info;
  const own = HEADS.every((head) => (index.weights ?? model.weights)[head] === model.weights[head]);
  return state.weights === null && own ? (model.min_score ?? null) : null;
}

ui.weaker.addEventListener("click", () => {
  state.weak = true;
  record();
  search();
  ui.query.focus();
});

/** What stands there where there are no hits. */
function blank() {
  ui.more.hidden = ui.weaker.hidden = true;
  const { documents: number, languages, writable } = info.index;
  const add = writable
    ? element("a", { href: "?view=documents", "data-view": "documents" }, "Add documents")
    : "";
  let lines = [];
  if (!number) {
    tell("");
    lines = ["The index is empty. ", add];
  } else if (!found) {
    tell("");
    const codes = Object.keys(languages ?? {}).filter((code) => code);
    const many = codes.length > 1 ? ` in ${codes.length} languages` : "";
    lines = [`${count(number, "document")}${many}. `, add];
  } else {
    const filtered = state.languages.length || state.filters.length;
    lines = [filtered ? "Nothing matches with these filters." : "Nothing here answers that."];
  }
  ui.blank.replaceChildren(element("p", {}, ...lines));
  ui.blank.hidden = false;
}

// Hits

function draw(answer) {
  const kept = new Map();
  if (found?.query === answer.query) {
    for (const item of ui.hits.children) kept.set(item.hitKey, item);
  }
  found = answer;
  const items = answer.hits.map((hit) => {
    const key = `${hit.span.start} ${hit.id}`;
    const item = kept.get(key) ?? hitItem(hit, answer.query);
    item.hitKey = key;
    item.hit = hit;
    return item;
  });
  const asked = state.weights;
  for (const item of items) drawParts(item, answer.weights);
  place(items);
  scale();
  offerValues();
  const number = answer.hits.length;
  if (!number) blank();
  else ui.blank.hidden = true;
  if (asked) setSliders();
  tell(number ? `${count(number, "hit")} in ${figure(answer.took_ms, 0)} ms` : "No hit");
}

/** Orders the hits that are here by the weights of the sliders, before the server has answered. */
function rank() {
  if (!found?.hits.length) return;
  const weights = weightsNow();
  const items = [...ui.hits.children];
  for (const item of items) drawParts(item, weights);
  place(items.sort((a, b) => b.score - a.score));
  scale();
}

const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Puts items into the list in this order; those that move are seen to move. */
function place(items) {
  const before = [...ui.hits.children];
  if (items.length === before.length && items.every((item, i) => item === before[i])) return;
  const tops = new Map(before.map((item) => [item, item.getBoundingClientRect().top]));
  const focused = document.activeElement;
  ui.hits.replaceChildren(...items);
  if (ui.hits.contains(focused) && focused !== document.activeElement) {
    focused.focus({ preventScroll: true });
  }
  if (still.matches) return;
  for (const item of items) {
    const moved = tops.has(item) ? tops.get(item) - item.getBoundingClientRect().top : 0;
    if (!moved) continue;
    const frames = [{ transform: `translateY(${moved}px)` }, { transform: "none" }];
    item.animate(frames, { duration: 180, easing: "ease-out" });
  }
}

let made = 0;

function hitItem(hit, query) {
  const name = `hit-${++made}`;
  const why = element(
    "button",
    { type: "button", class: "why-button", "aria-expanded": "false", "aria-controls": `${name}-why` },
    "Why",
  );
  const panel = element("div", { id: `${name}-why`, class: "panel", hidden: true });
  const passage = element("p", { class: "passage", dir: "auto", lang: hit.language });
  const whole = element("button", { type: "button", "aria-expanded": "false" }, "Whole passage");
  whole.hidden = !drawPassage(passage, hit, false);
  whole.addEventListener("click", () => {
    const open = whole.getAttribute("aria-expanded") !== "true";
    whole.setAttribute("aria-expanded", String(open));
    drawPassage(passage, hit, open);
  });
  const title = element(
    "h2",
    { id: name, dir: "auto", lang: hit.language },
    hit.title || hit.headings?.at(-1) || hit.id,
  );
  const article = element(
    "article",
    { tabindex: "-1", "aria-labelledby": name },
    title,
    placeOf(hit),
    passage,
    element("div", { class: "row" }, why, whole),
    element("ul", { class: "parts", "aria-label": "Score" }),
    panel,
  );
  const item = element("li", { class: "hit" }, article);
  item.toggle = (open) => toggleWhy(item, { why, panel, query, hit }, open);
  why.addEventListener("click", () => item.toggle());
  return item;
}

/** Language, headings, page and source. */
function placeOf({ title, headings, page, source, language, id }) {
  const parts = [];
  if (language) parts.push(element("span", {}, languageName(language)));
  const path = (headings ?? []).filter((heading, i) => i || heading !== title);
  if (path.length) {
    const steps = path.flatMap((heading, i) => [i ? " › " : "", element("bdi", {}, heading)]);
    parts.push(element("span", {}, ...steps));
  }
  if (page) parts.push(element("span", {}, `page ${page}`));
  parts.push(sourceOf(source || id));
  return element("p", { class: "place" }, ...parts);
}

const WEB = /^https?:\/\//;

/** A link to a page, or the last steps of a path. */
function sourceOf(from) {
  if (WEB.test(from)) {
    return element("a", { href: from, rel: "noreferrer", target: "_blank" }, from);
  }
  const short = from.split("/").slice(-3).join("/");
  return element("bdi", { title: short === from ? null : from }, short);
}

/** The passage with its marks, from its best sentence on; whether more of it could be shown. */
function drawPassage(target, { text, sentence, marks }, all) {
  const letters = characters(text);
  const { length } = letters;
  const start = all || !sentence || sentence.start < 60 || length <= SHOWN ? 0 : sentence.start;
  const most = Math.min(Math.max(start + SHOWN, sentence?.end ?? 0), start + 2 * SHOWN);
  let end = all || length <= SHOWN ? length : most;
  if (letters[end]?.trim() && end !== sentence?.end) { // inside a word
    const space = letters.slice(end - LONG_WORD, end).findLastIndex((letter) => !letter.trim());
    if (space >= 0) end += space - LONG_WORD;
  }
  const shown = { start, end: Math.min(end, length) };
  const best = sentence ?? { start: 0, end: 0 };
  target.classList.toggle("short", !all);
  const pieces = runs(text, [shown, best, ...(marks ?? [])]).filter((run) => run.in.includes(0));
  const line = element("span", { class: "best" });
  const nodes = [];
  for (const run of pieces) {
    const marked = run.in.some((index) => index > 1);
    const node = marked ? element("mark", {}, run.text) : run.text;
    if (!run.in.includes(1)) nodes.push(node);
    else {
      if (!line.hasChildNodes()) nodes.push(line);
      line.append(node);
    }
  }
  if (shown.start) nodes.unshift("… ");
  if (shown.end < length) nodes.push(" …");
  target.replaceChildren(...nodes);
  return length > SHOWN;
}

/** The weighted parts of the score as bars; figures are computed from what the server gave. */
function drawParts(item, weights) {
  const { hit } = item;
  const terms = HEADS.filter((head) => typeof hit[head] === "number").map((head) => ({
    head,
    value: hit[head] * weights[head],
    from: `${figure(hit[head], 3)} × ${figure(weights[head])}`,
  }));
  if (hit.exact) terms.push({ head: "exact", value: hit.exact, from: "an exact match" });
  item.score = terms.reduce((sum, { value }) => sum + value, 0);
  item.terms = terms;
  const rows = terms.map(({ head, value, from }) =>
    element(
      "li",
      { class: head, title: `${head}: ${from}` },
      element("span", { class: "name" }, head),
      element("span", { class: "track", "aria-hidden": "true" }, element("span", { class: "bar" })),
      element("span", { class: "number" }, figure(value)),
    ),
  );
  const total = element(
    "li",
    { class: "total" },
    element("span", { class: "name" }, "score"),
    element("span", { class: "number" }, figure(item.score)),
  );
  item.querySelector(".parts").replaceChildren(total, ...rows);
}

/** One scale for the bars of all hits. */
function scale() {
  const items = [...ui.hits.children];
  const largest = Math.max(1e-9, ...items.flatMap(({ terms }) => terms.map(({ value }) => value)));
  for (const { terms, children } of items) {
    children[0].querySelectorAll(".parts .bar").forEach((bar, i) => {
      bar.style.setProperty("--share", Math.max(0, terms[i].value / largest).toFixed(3));
    });
  }
}

async function toggleWhy(item, { why, panel, query, hit }, open = panel.hidden) {
  why.setAttribute("aria-expanded", String(open));
  panel.hidden = !open;
  if (!open || panel.querySelector(".why")) return;
  await explain(panel, { query, passage: hit.text, title: hit.title ?? "" });
  panel.querySelector(".why-text")?.setAttribute("lang", hit.language ?? "");
}

async function explain(target, body) {
  target.replaceChildren(element("p", { role: "status" }, "Looking why …"));
  try {
    render(target, await json("explain", { method: "POST", body }));
  } catch (error) {
    target.replaceChildren(element("p", { class: "wrong", role: "alert" }, error.message));
  }
}

ui.more.addEventListener("click", async () => {
  const first = state.k;
  state.k += PAGE;
  record();
  await search();
  ui.hits.children[first]?.firstElementChild.focus();
});

// Typing

ui.query.addEventListener("compositionstart", () => {
  composing = true;
});

ui.query.addEventListener("compositionend", () => {
  composing = false;
  asType();
});

ui.query.addEventListener("input", () => {
  if (!composing) asType();
});

function asType() {
  if (ui.query.value === state.query) return;
  state.query = ui.query.value;
  state.k = PAGE;
  state.weak = false;
  record(true);
  later(TYPING, search);
}

ui.searchForm.addEventListener("submit", (event) => {
  event.preventDefault();
  typing = false;
  state.query = ui.query.value;
  record();
  search();
});

ui.query.addEventListener("blur", () => {
  typing = false;
});

window.addEventListener("popstate", () => {
  readAddress();
  ui.query.value = state.query;
  typing = false;
  if (info?.index) {
    drawFilters();
    setSliders();
  }
  showView();
  search();
});

// Keys

const editable = (node) => node.closest("input, textarea, select, [contenteditable]") !== null;

document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  const { key, target } = event;
  if (key === "/" && !editable(target) && info?.index && !ui.keyDialog.open) {
    event.preventDefault();
    if (state.view !== "search") go("search");
    ui.query.focus();
    ui.query.select();
    return;
  }
  if (state.view !== "search") return;
  const item = target.closest("li.hit");
  const inPanel = target.closest(".panel") !== null;
  if (key === "Escape" && item) {
    const open = item.querySelector("[aria-expanded]").getAttribute("aria-expanded") === "true";
    if (open) {
      item.toggle(false);
      item.firstElementChild.focus();
    } else ui.query.focus();
  } else if (key === "Enter" && item && target === item.firstElementChild) {
    item.toggle();
  } else if (["ArrowDown", "ArrowUp"].includes(key) && !inPanel && (item || target === ui.query)) {
    const items = [...ui.hits.children];
    const next = items.indexOf(item) + (key === "ArrowDown" ? 1 : -1);
    if (!item && key === "ArrowUp") return;
    event.preventDefault();
    if (next < 0) ui.query.focus();
    else items[Math.min(next, items.length - 1)]?.firstElementChild.focus();
  }
});

// Comparing two texts

const compare = {
  form: at("compare-form"),
  heading: at("compare-heading"),
  passage: at("compare-passage"),
  query: at("compare-query"),
  status: at("compare-status"),
  title: at("compare-title-of"),
  why: at("compare-why"),
};

compare.form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const [query, passage, title] = [compare.query.value, compare.passage.value, compare.title.value];
  if (!query.trim() || !passage.trim()) {
    compare.status.textContent = "Give a query and a passage.";
    return;
  }
  compare.status.textContent = "";
  await explain(compare.why, { query, passage, title });
  compare.heading.hidden = false;
  if (compare.why.querySelector(".why")) compare.status.textContent = "Explained below.";
});

// The server's key, its absence, its return

let polling = false;

listen({
  askKey(wrong) {
    ui.keyNote.textContent = wrong
      ? "The key was not accepted."
      : "It is kept in this tab until it is closed.";
    ui.key.value = "";
    ui.keyDialog.returnValue = "";
    ui.keyDialog.showModal();
    return new Promise((resolve) => {
      const closed = () => resolve(ui.keyDialog.returnValue === "ok" ? ui.key.value : null);
      ui.keyDialog.addEventListener("close", closed, { once: true });
    });
  },
  busy(seconds) {
    if (state.view === "search") {
      tell(seconds ? `The server is busy: asking again in ${seconds} s.` : "");
    }
  },
  async away() {
    notice("The server does not answer. It is asked again every few seconds.");
    if (polling) return;
    polling = true;
    while (polling) {
      await pause(AGAIN);
      await begin();
    }
  },
  back() {
    polling = false;
    notice("");
  },
});

ui.keyCancel.addEventListener("click", () => ui.keyDialog.close());

// Documents

const documents = documentsView({
  languageName,
  open: () => go("documents"),
  changed: () => learn().catch(() => {}), // `away` has told it
});

async function begin() {
  try {
    await learn();
  } catch (error) {
    if (!error.status) return;
    const again = element("button", { type: "button" }, "Try again");
    again.addEventListener("click", begin);
    notice(`${error.message} `, again);
    return;
  }
  showView();
  search();
}

readAddress();
ui.query.value = state.query;
if (matchMedia("(width < 54rem)").matches) ui.refine.open = false;
await begin();
if (state.view === "search" && !state.query) ui.query.focus();
