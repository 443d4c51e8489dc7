// Draws an explanation: shared subwords, and which token of the passage each of the query's met.
//
// Knows nothing of the page around it and imports nothing: `tercet explain --html` puts this file
// and why.css into a file of its own. Spans count code points, as Python does.

/** An element with attributes (null: left out) and children (texts or nodes). */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Characters of a text, to be cut by spans: a code point outside the BMP is one. */
export const characters = (text) => Array.from(text);

const cut = (letters, span) => letters.slice(span.start, span.end).join("");
const same = (a, b) => a !== null && b !== null && a.start === b.start && a.end === b.end;
export const figure = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);

const NAMES = { "<s>": "start of the text", "</s>": "end of the text" };
const plain = (text) => (text.replace("▁", "").trim() ? text : "␣"); // the start of a word alone
const named = (text) => (text in NAMES ? `the ${NAMES[text]}` : `“${plain(text)}”`);

/**
 * Runs of a text by the spans that cover them: [{text, start, end, in: [indexes of spans]}].
 *
 * Spans may overlap; what none covers is a run with an empty list.
 */
export function runs(text, spans) {
  const letters = characters(text);
  const edges = new Set([0, letters.length]);
  for (const { start, end } of spans) edges.add(start).add(Math.min(end, letters.length));
  const sorted = [...edges].sort((a, b) => a - b);
  const opens = spans.map((_, index) => index).sort((a, b) => spans[a].start - spans[b].start);
  const open = new Set();
  const found = [];
  let next = 0;
  for (let i = 0; i + 1 < sorted.length; i++) {
    const [start, end] = [sorted[i], sorted[i + 1]];
    while (next < opens.length && spans[opens[next]].start <= start) open.add(opens[next++]);
    for (const index of open) if (spans[index].end <= start) open.delete(index);
    found.push({ text: cut(letters, { start, end }), start, end, in: [...open] });
  }
  return found;
}

/** Fills an element with an explanation, as `tercet.explain` or POST /explain gives it. */
export function render(target, explanation) {
  const parts = [scores(explanation), tokens(explanation), shared(explanation)];
  target.replaceChildren(element("div", { class: "why" }, ...parts.filter((part) => part)));
}

// The sum

function scores({ scores: found, weights }) {
  const heads = ["dense", "sparse", "multi"].filter((head) => typeof found[head] === "number");
  const terms = heads.map((head) =>
    element(
      "li",
      { class: `part ${head}` },
      element("span", { class: "name" }, head),
      ` ${figure(found[head], 3)} × ${figure(weights[head])}`,
    ),
  );
  const sum = element(
    "li",
    { class: "sum" },
    element("span", { class: "name" }, "hybrid"),
    ` ${figure(found.hybrid, 3)}`,
  );
  return element("ul", { class: "why-scores", "aria-label": "Scores and their weights" }, ...terms, sum);
}

// Tokens

function tokens({ query, passage, title, tokens: asked, heat, sentence }) {
  if (!heat.length) return null; // the model has no such head
  const [low, high] = bounds(heat);
  const words = runs(passage, heat);
  const cells = words.map((run) => {
    const value = Math.max(...run.in.map((index) => heat[index].value), -Infinity);
    const inside = sentence && run.start >= sentence.start && run.end <= sentence.end;
    if (value === -Infinity) return element("span", { class: inside ? "best" : null }, run.text);
    const cell = element("span", { class: inside ? "heat best" : "heat" }, run.text);
    cell.style.setProperty("--heat", shade(value, low, high).toFixed(3));
    cell.heat = { value, start: run.start, end: run.end };
    return cell;
  });
  const heading = title ? element("span", { class: "why-title", dir: "auto" }, title) : null;
  const text = element("p", { class: "why-text", dir: "auto", role: "group" }, ...cells);
  text.tabIndex = 0; // its own scrolling needs the keyboard
  text.setAttribute("aria-label", "Passage");
  const told = element("p", { class: "why-told", role: "status" }, HINT);
  const options = queryOptions(query, asked);
  const list = element(
    "p",
    { class: "why-query", role: "listbox", dir: "auto", "aria-orientation": "horizontal" },
    ...options.parts,
  );
  list.setAttribute("aria-label", "Tokens of the query");

  const show = (token) => {
    const met = token ? token.met : null;
    for (const option of options.tokens) {
      option.setAttribute("aria-selected", String(option.token === token));
    }
    for (const cell of cells) cell.classList.toggle("met", inSpan(cell.heat, met && met.span));
    if (heading) heading.classList.toggle("met", Boolean(met && !met.span && !(met.text in NAMES)));
    if (met) scrollInside(text, cells.find((cell) => cell.classList.contains("met")));
    told.replaceChildren(...(token ? sentenceOf(token, title) : [HINT]));
  };
  const back = () => show(options.tokens.map((o) => o.token).find((t) => t === list.chosen) ?? null);
  listbox(list, options.tokens, (option) => {
    list.chosen = option ? option.token : null;
    back();
  });
  for (const option of options.tokens) {
    option.addEventListener("pointerenter", () => show(option.token));
    option.addEventListener("pointerleave", back);
  }
  text.addEventListener("pointerover", ({ target }) => {
    if (!target.heat) return;
    const askers = asked.filter((token) => token.met && inSpan(target.heat, token.met.span));
    for (const option of options.tokens) {
      option.setAttribute("aria-selected", String(askers.includes(option.token)));
    }
    for (const cell of cells) cell.classList.toggle("met", cell === target);
    told.replaceChildren(
      isolated(target.textContent.trim()),
      `: at most ${figure(target.heat.value)} similar to a token of the query`,
      askers.length ? ", met by " : "",
      ...askers.flatMap((token, i) => [i ? ", " : "", isolated(token.text)]),
    );
  });
  text.addEventListener("pointerleave", back);
  return element(
    "section",
    { class: "why-tokens", "aria-label": "Tokens that met" },
    element("h3", { class: "part multi" }, "Tokens that met"),
    list,
    told,
    legend(low, high),
    heading,
    text,
    table(asked),
  );
}

const HINT = "Point at a token of the query, or go through them with the arrow keys.";

/** The query as running text, so that joined letters stay joined, with an option for each token. */
function queryOptions(query, asked) {
  const letters = characters(query);
  const parts = [];
  const options = [];
  let at = 0;
  const add = (token, text) => {
    const met = token.met;
    const option = element(
      "span",
      {
        role: "option",
        tabindex: "-1",
        "aria-selected": "false",
        class: token.span ? "token" : "token special",
        "aria-label": met
          ? `${plain(token.text)}: met ${named(met.text)}, similarity ${figure(met.similarity)}`
          : `${plain(token.text)}: met nothing`,
      },
      plain(text),
    );
    option.token = token;
    options.push(option);
    parts.push(option);
  };
  const size = ({ span }) => span.end - span.start;
  const hidden = (token) => // it has no letters, or others that are part of more
    !size(token) ||
    asked.some((other) => other.span && size(other) > size(token) && inSpan(other.span, token.span));
  for (const token of asked) {
    if (token.span && token.span.start >= at && !hidden(token)) {
      if (token.span.start > at) parts.push(cut(letters, { start: at, end: token.span.start }));
      add(token, cut(letters, token.span));
      at = token.span.end;
    }
  }
  if (at < letters.length) parts.push(cut(letters, { start: at, end: letters.length }));
  for (const token of asked) {
    if (!options.some((option) => option.token === token)) {
      parts.push(" ");
      add(token, token.text);
    }
  }
  return { parts, tokens: options };
}

/** One stop of the Tab key; arrows, Home and End move, as the text runs. */
function listbox(list, options, choose) {
  if (options.length) options[0].tabIndex = 0;
  list.addEventListener("keydown", (event) => {
    const now = options.indexOf(document.activeElement);
    const forward = getComputedStyle(list).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    const backward = forward === "ArrowLeft" ? "ArrowRight" : "ArrowLeft";
    const next = {
      [forward]: now + 1,
      [backward]: now - 1,
      Home: 0,
      End: options.length - 1,
    }[event.key];
    if (now < 0 || next === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    options[Math.min(options.length - 1, Math.max(0, next))].focus();
  });
  list.addEventListener("focusin", ({ target }) => {
    for (const option of options) option.tabIndex = option === target ? 0 : -1;
    choose(options.includes(target) ? target : null);
  });
  list.addEventListener("focusout", ({ relatedTarget }) => {
    if (!list.contains(relatedTarget)) choose(null);
  });
}

const inSpan = (cell, span) =>
  Boolean(cell && span && cell.start < span.end && cell.end > span.start);

function sentenceOf(token, title) {
  if (!token.met) return [isolated(token.text), " met nothing."];
  const { text, span, similarity } = token.met;
  const special = text in NAMES;
  return [
    special || !(token.text in NAMES) ? isolated(token.text) : named(token.text),
    " met ",
    special ? named(text) : isolated(text),
    !span && title && !special ? " in the title" : "",
    ", similarity ",
    element("strong", {}, figure(similarity)),
    token.weight > 0 ? `; its own sparse weight is ${figure(token.weight)}` : "",
    ".",
  ];
}

const isolated = (text) => element("bdi", { class: "quoted" }, text in NAMES ? named(text) : plain(text));

/** Scrolls a text that has a height of its own, never the page. */
function scrollInside(box, cell) {
  if (!cell || box.scrollHeight <= box.clientHeight) return;
  const outer = box.getBoundingClientRect();
  const inner = cell.getBoundingClientRect();
  if (inner.top < outer.top) box.scrollTop -= outer.top - inner.top + 8;
  if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom + 8;
}

// The scale begins at the passage's median: half of the tokens are about as similar to anything.
function bounds(heat) {
  const values = heat.map(({ value }) => value).sort((a, b) => a - b);
  if (!values.length) return [0, 1];
  const low = values[Math.floor(values.length / 2)];
  const high = values[values.length - 1];
  return high > low ? [low, high] : [low - 1, high];
}

const shade = (value, low, high) => Math.min(1, Math.max(0, (value - low) / (high - low)));

function legend(low, high) {
  return element(
    "p",
    { class: "why-legend" },
    "Similarity of the passage’s tokens ",
    element("span", { class: "number" }, figure(low)),
    element("span", { class: "ramp", "aria-hidden": "true" }),
    element("span", { class: "number" }, figure(high)),
  );
}

function table(asked) {
  const rows = asked.map(({ text, weight, met }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, isolated(text)),
      element("td", {}, met ? isolated(met.text) : "–"),
      element("td", { class: "number" }, met ? figure(met.similarity) : "–"),
      element("td", { class: "number" }, weight > 0 ? figure(weight) : "–"),
    ),
  );
  return element(
    "details",
    {},
    element("summary", {}, "As a table"),
    scrolled(
      ["token of the query", "token it met", "similarity", "sparse weight"],
      rows,
      "Tokens of the query and the tokens that they met",
    ),
  );
}

function scrolled(heads, rows, label) {
  const cells = heads.map((text, index) =>
    element("th", { scope: "col", class: index > heads.length - 3 ? "number" : null }, text),
  );
  const head = element("thead", {}, element("tr", {}, ...cells));
  return element(
    "div",
    { class: "scrolled", tabindex: "0", role: "region", "aria-label": label },
    element("table", {}, head, element("tbody", {}, ...rows)),
  );
}

// Shared subwords

function shared({ shared: words, scores: found }) {
  if (typeof found.sparse !== "number") return null;
  const section = element(
    "section",
    { class: "why-shared", "aria-label": "Shared subwords" },
    element("h3", { class: "part sparse" }, "Shared subwords"),
  );
  if (!words.length) {
    section.append(element("p", {}, "Query and passage share none: the sparse part is 0."));
    return section;
  }
  const largest = Math.max(...words.map(({ product }) => product), 1e-9);
  const rows = words.map(({ text, query_weight, passage_weight, product, passage_spans }) => {
    const bar = element("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", (product / largest).toFixed(3));
    const times = passage_spans.length > 1 ? ` ${passage_spans.length}×` : "";
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, isolated(text), element("small", {}, times)),
      element("td", { class: "bars" }, bar),
      element("td", { class: "number" }, `${figure(query_weight)} × ${figure(passage_weight)}`),
      element("td", { class: "number" }, figure(product, 3)),
    );
  });
  section.append(
    scrolled(["subword", "", "query × passage", "product"], rows, "Shared subwords and their weights"),
  );
  section.querySelector("thead th:nth-child(2)").replaceWith(element("td"));
  return section;
}
