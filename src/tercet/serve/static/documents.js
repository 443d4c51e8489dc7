// The documents of the index: dropped or chosen files go in, with their progress; any goes out.
//
// Knows nothing of searching; who made it is told when the index has changed.

import { json, lines } from "./api.js";
import { element } from "./why.js";

const PAGE = 50;

const at = (id) => document.getElementById(id);

/** The view; `open` brings it up, `changed` is called when the index is another. */
export function documentsView({ languageName, open, changed }) {
  const ui = {
    drop: at("drop"),
    files: at("files"),
    list: at("document-list"),
    next: at("next"),
    pages: at("pages"),
    previous: at("previous"),
    status: at("documents-status"),
    stop: at("uploads-stop"),
    uploadList: at("upload-list"),
    uploads: at("uploads"),
    uploadsStatus: at("uploads-status"),
    veil: at("veil"),
  };
  let writable = false;
  let cursors = [""]; // of the pages up to this one
  let after = null; // where the next one begins
  let queue = [];
  let sending = null; // AbortController of all files that wait
  let sent = { done: 0, wrong: 0 };

  // The list

  async function show() {
    try {
      const asked = new URLSearchParams({ after: cursors.at(-1), limit: PAGE });
      const page = await json(`documents?${asked}`);
      after = page.next;
      ui.list.replaceChildren(...page.documents.map(row));
      ui.status.textContent = page.documents.length ? "" : "No documents.";
    } catch (error) {
      ui.status.textContent = error.message;
    }
    ui.pages.hidden = cursors.length === 1 && after === null;
    ui.previous.disabled = cursors.length === 1;
    ui.next.disabled = after === null;
  }

  ui.next.addEventListener("click", async () => {
    cursors.push(after);
    await show();
    ui.list.querySelector("button")?.focus({ preventScroll: true });
    ui.list.scrollIntoView({ block: "start" });
  });

  ui.previous.addEventListener("click", async () => {
    cursors.pop();
    await show();
  });

  function row(item) {
    const drop = element(
      "button",
      { type: "button", "aria-label": `Delete ${item.title || item.id}` },
      "Delete",
    );
    drop.hidden = !writable;
    const sure = element("button", { type: "button", class: "danger" }, "Delete for good");
    const keep = element("button", { type: "button" }, "Keep");
    const question = element("span", { class: "row", hidden: true, role: "group" }, sure, keep);
    question.setAttribute("aria-label", `Delete ${item.title || item.id}?`);
    const language = item.language && languageName(item.language);
    const facts = [language, item.title ? item.source || item.id : null].filter(Boolean);
    const made = element(
      "li",
      {},
      element(
        "span",
        { class: "document" },
        element("bdi", { class: "title", lang: item.language }, item.title || item.id),
        element("small", {}, element("bdi", {}, facts.join(" · "))),
      ),
      drop,
      question,
    );
    const ask = (asking) => {
      drop.hidden = asking;
      question.hidden = !asking;
      (asking ? keep : drop).focus();
    };
    drop.addEventListener("click", () => ask(true));
    keep.addEventListener("click", () => ask(false));
    question.addEventListener("keydown", ({ key }) => key === "Escape" && ask(false));
    sure.addEventListener("click", async () => {
      const next = made.nextElementSibling ?? made.previousElementSibling;
      sure.disabled = keep.disabled = true;
      try {
        await json(`documents/${encodeURIComponent(item.id)}`, { method: "DELETE" });
      } catch (error) {
        if (error.status !== 404) {
          ui.status.textContent = error.message;
          sure.disabled = keep.disabled = false;
          return;
        }
      }
      made.remove();
      ui.status.textContent = `${item.title || item.id} was deleted.`;
      (next?.querySelector("button:not([hidden])") ?? ui.files).focus();
      changed();
    });
    return made;
  }

  // Files

  function upload(files) {
    if (!writable || !files.length) return;
    open();
    if (!queue.length && !sending) {
      ui.uploadList.replaceChildren();
      sent = { done: 0, wrong: 0 };
    }
    ui.uploads.hidden = false;
    for (const { file, name } of files) {
      const bar = element("progress", { max: "1", value: "0", "aria-label": name });
      const state = element("span", { class: "state" }, "waits");
      const problems = element("ul", { class: "problems", hidden: true });
      const item = element("li", {}, element("bdi", {}, name), bar, state, problems);
      ui.uploadList.append(item);
      queue.push({ file, name, item, bar, state, problems });
    }
    if (!sending) work();
  }

  /** One file after the other, since the server adds one after the other. */
  async function work() {
    sending = new AbortController();
    ui.stop.hidden = false;
    tell();
    while (queue.length) {
      const job = queue[0];
      const well = await send(job, sending.signal);
      queue.shift();
      sent.done += 1;
      sent.wrong += well ? 0 : 1;
      tell();
    }
    sending = null;
    ui.stop.hidden = true;
    cursors = [""];
    changed();
    show();
  }

  const tell = () => {
    const all = sent.done + queue.length;
    const wrong = sent.wrong ? `, ${sent.wrong} with a problem` : "";
    ui.uploadsStatus.textContent = `${sent.done} of ${all} files done${wrong}`;
  };

  /** Whether a file was taken without a problem. */
  async function send({ file, name, item, bar, state, problems }, signal) {
    let wrong = 0;
    const problem = (text) => {
      wrong += 1;
      problems.append(element("li", {}, element("bdi", {}, text)));
      problems.hidden = false;
    };
    const named = (id, reason) => (id === name ? reason : `${id}: ${reason}`);
    state.textContent = "is sent";
    bar.removeAttribute("value"); // how far is not known yet
    try {
      const body = new FormData();
      body.append("file", file, name);
      let report = null;
      for await (const line of lines("documents", { method: "POST", body, signal })) {
        if (line.kind === "progress") {
          state.textContent = "is indexed";
          if (line.total) bar.value = line.done / line.total;
        } else if (["skipped", "note", "truncated"].includes(line.kind)) {
          problem(named(line.id, line.reason || "longer than the model reads: cut"));
        } else if (line.kind === "error") throw new Error(line.message);
        else if (line.kind === "done") report = line;
      }
      if (!report) throw new Error("The server stopped before it was done.");
      if (!wrong) for (const { source, reason } of report.skipped) problem(named(source, reason));
      bar.value = 1;
      state.textContent = outcome(report);
    } catch (error) {
      bar.value = 0;
      const stopped = error.name === "AbortError";
      state.textContent = stopped ? "stopped" : "not indexed";
      if (!stopped) problem(error.message);
      else wrong += 1;
    }
    item.classList.toggle("wrong", wrong > 0);
    return !wrong;
  }

  function outcome({ added, updated, unchanged, skipped }) {
    const parts = Object.entries({ added, updated, unchanged }).filter(([, number]) => number);
    if (!parts.length) return skipped.length ? "not indexed" : "nothing in it";
    return parts.map(([word, number]) => (number > 1 ? `${number} ${word}` : word)).join(", ");
  }

  ui.stop.addEventListener("click", () => sending?.abort(new DOMException("", "AbortError")));

  ui.files.addEventListener("change", () => {
    upload([...ui.files.files].map((file) => ({ file, name: file.name })));
    ui.files.value = ""; // the same file may be chosen again
  });

  const carries = (event) => writable && event.dataTransfer?.types.includes("Files");

  document.addEventListener("dragenter", (event) => {
    if (carries(event)) ui.veil.hidden = false;
  });

  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) ui.veil.hidden = true;
  });

  document.addEventListener("dragover", (event) => {
    if (carries(event)) event.preventDefault();
  });

  document.addEventListener("drop", async (event) => {
    ui.veil.hidden = true;
    if (!carries(event)) return;
    event.preventDefault();
    upload(await dropped(event.dataTransfer));
  });

  return {
    show,
    allow(yes) {
      writable = yes;
      ui.drop.hidden = !yes;
    },
  };
}

/** The files of a drop by their paths, those in folders among them. */
async function dropped(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...data.files].map((file) => ({ file, name: file.name }));
  const files = [];
  for (let entry = entries.shift(); entry; entry = entries.shift()) {
    if (entry.isFile) {
      const file = await new Promise((done, fail) => entry.file(done, fail));
      files.push({ file, name: entry.fullPath.replace(/^\//, "") });
    } else {
      const reader = entry.createReader();
      for (;;) { // a reader gives a hundred or so at a time
        const part = await new Promise((done, fail) => reader.readEntries(done, fail));
        if (!part.length) break;
        entries.push(...part);
      }
    }
  }
  return files;
}
