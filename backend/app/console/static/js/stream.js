// The live stream of one account: server-sent events, read with fetch, so that a refusal can be told from a lost line.
import { signal } from "@preact/signals";
import { query, signedOut } from "./api.js";
import { onWake } from "./wake.js";

const SILENCE_MS = 40_000; // the server says something every 15 s
const SILENCE_AFTER_SLEEP_MS = 20_000;
const LISTEN_MS = 5000;
const FIRST_WAIT_MS = 1000; // until the server names another time
const LONGEST_WAIT_MS = 15_000;
const POLL_MS = 10_000;
const MAX_LINE = 256 * 1024;

/** "connecting" | "live" | "polling" (this server has no stream) | "waiting" (lost; another try follows) | "offline". */
export const streamState = signal("connecting");

/** Calls `onEvent({type, …})` for each event until the returned function is called. "reset" means: read everything anew. */
export function follow(accountId, onEvent) {
  const ended = new AbortController();
  run(accountId, onEvent, ended.signal);
  return () => ended.abort();
}

async function run(accountId, onEvent, ended) {
  let lastId = null;
  let firstWait = FIRST_WAIT_MS;
  let wait = firstWait;
  let isFirst = true;
  streamState.value = "connecting";
  while (!ended.aborted) {
    const outcome = await once(accountId, lastId, ended, {
      opened() {
        wait = firstWait;
        streamState.value = "live";
        // Without an id there was no event yet to go on from: something may have happened meanwhile.
        if (!isFirst && lastId === null) onEvent({ type: "reset" });
        isFirst = false;
      },
      id(id) {
        lastId = id;
      },
      retry(ms) {
        firstWait = wait = ms;
      },
      event: onEvent,
    });
    if (ended.aborted) return;
    if (outcome === "missing") {
      streamState.value = "polling";
      await sleep(POLL_MS, ended);
      if (!ended.aborted) onEvent({ type: "reset" });
      continue;
    }
    if (outcome === "refused") return;
    streamState.value = navigator.onLine ? "waiting" : "offline";
    await sleep(wait * (0.5 + Math.random() / 2), ended);
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  }
}

async function once(accountId, lastId, ended, on) {
  const silence = new AbortController();
  // By the clock: a timer stands still while the computer sleeps, and a line that died meanwhile tells no one.
  let heardAt = Date.now();
  const listen = (most) => Math.abs(Date.now() - heardAt) > most && silence.abort();
  const watch = setInterval(() => listen(SILENCE_MS), LISTEN_MS);
  const unwatchSleep = onWake(() => listen(SILENCE_AFTER_SLEEP_MS));
  // The browser knows at once; a line through which nothing comes any more would say nothing.
  const cut = () => silence.abort();
  window.addEventListener("offline", cut);
  const heard = () => { heardAt = Date.now(); };
  try {
    const answer = await fetch(`/events?${query({ account_id: accountId })}`, {
      headers: { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) },
      cache: "no-store",
      signal: AbortSignal.any([ended, silence.signal]),
    });
    if (!answer.ok || !answer.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      await answer.body?.cancel();
      if (answer.status === 404 || answer.ok) return "missing";
      if (answer.status === 401) signedOut.value += 1;
      return answer.status === 401 || answer.status === 403 ? "refused" : "lost";
    }
    on.opened();
    await readEvents(answer.body.pipeThrough(new TextDecoderStream()).getReader(), on, heard);
  } catch {
    // A line that was cut; the next try says more.
  } finally {
    clearInterval(watch);
    unwatchSleep();
    window.removeEventListener("offline", cut);
  }
  return "lost";
}

async function readEvents(reader, on, heard) {
  let rest = "";
  let event = { type: "message", data: [] };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    if (rest.length > MAX_LINE) throw new Error("a line without an end");
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        // The id counts from here on, also where no event comes with it.
        if (event.id !== undefined) on.id(event.id);
        if (event.data.length) on.event(parsed(event));
        event = { type: "message", data: [] };
      } else if (!line.startsWith(":")) take(event, line, on);
    }
  }
}

function take(event, line, on) {
  const colon = line.indexOf(":");
  const name = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (name === "id") event.id = value;
  else if (name === "event") event.type = value;
  else if (name === "data") event.data.push(value);
  else if (name === "retry" && /^\d{1,6}$/.test(value)) on.retry(Number(value));
}

function parsed(event) {
  try {
    return { ...JSON.parse(event.data.join("\n") || "{}"), type: event.type };
  } catch {
    return { type: event.type };
  }
}

/** Shorter when the computer is back in the net, or awake. */
function sleep(ms, ended) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      ended.removeEventListener("abort", done);
      window.removeEventListener("online", done);
      unwatchSleep();
      resolve();
    };
    const timer = setTimeout(done, ms);
    ended.addEventListener("abort", done);
    window.addEventListener("online", done);
    const unwatchSleep = onWake(done);
  });
}
