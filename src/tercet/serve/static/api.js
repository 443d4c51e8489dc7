// Requests to the server: the key where it asks for one, waiting where it is busy, errors in words.
//
// Knows nothing of what is asked or shown; `listen` says who is told of waiting and of absence.

const KEY = "tercet-key"; // in sessionStorage: gone with the tab
const PATIENCE = 5; // times that a busy server is asked again

let listener = { askKey: async () => null, busy: () => {}, away: () => {}, back: () => {} };
let asking = null; // one dialog for all requests that wait for a key
let gone = false;

export const listen = (functions) => {
  listener = { ...listener, ...functions };
};

/** What the server answered, in its words; status 0: no answer at all. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The response to a request; raises ApiError, and AbortError when it was cancelled. */
export async function request(path, { method = "GET", body, accept, signal } = {}) {
  for (let tries = 1; ; tries++) {
    const headers = new Headers(accept ? { Accept: accept } : {});
    const key = sessionStorage.getItem(KEY);
    if (key) headers.set("Authorization", `Bearer ${key}`);
    let sent = body;
    if (body !== undefined && !(body instanceof FormData)) {
      headers.set("Content-Type", "application/json");
      sent = JSON.stringify(body);
    }
    let response;
    try {
      response = await fetch(path, { method, headers, body: sent, signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      gone = true;
      listener.away();
      throw new ApiError("The server does not answer.", 0);
    }
    if (gone) {
      gone = false;
      listener.back();
    }
    if (response.ok) return response;
    if (response.status === 401) {
      if (key === sessionStorage.getItem(KEY)) await newKey(Boolean(key));
      continue;
    }
    const seconds = Number(response.headers.get("Retry-After"));
    if ([429, 503].includes(response.status) && seconds > 0 && tries <= PATIENCE) {
      listener.busy(seconds);
      await pause(seconds, signal);
      listener.busy(0);
      continue;
    }
    throw new ApiError(await words(response), response.status);
  }
}

export const json = async (path, options) => (await request(path, options)).json();

/** The lines of an NDJSON answer, as they come. */
export async function* lines(path, options) {
  const response = await request(path, { ...options, accept: "application/x-ndjson" });
  if (!(response.headers.get("Content-Type") ?? "").includes("ndjson")) {
    yield { kind: "done", ...(await response.json()) };
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const parts = (rest + (value ?? "")).split("\n");
    rest = done ? "" : parts.pop();
    for (const line of parts) if (line.trim()) yield JSON.parse(line);
    if (done) return;
  }
}

async function newKey(wrong) {
  asking ??= listener.askKey(wrong).finally(() => {
    asking = null;
  });
  const key = await asking;
  if (!key) throw new ApiError("The server needs a key.", 401);
  if (!/^[!-~]+$/.test(key)) return newKey(true); // what no header carries
  sessionStorage.setItem(KEY, key);
}

export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

async function words(response) {
  try {
    const { error } = await response.json();
    return error.message ?? String(error);
  } catch {
    return `The server answered ${response.status} ${response.statusText}.`;
  }
}
