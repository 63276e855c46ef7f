// A computer that slept, or a tab that the browser froze: its timers stood still, and what it shows is old.
import { signal } from "@preact/signals";

const TICK_MS = 5000;
const JUMP_MS = 15_000;

/** Changes at midnight. What words like "today" depend on it reads. */
export const today = signal(new Date().toDateString());

const listeners = new Set();
let last = Date.now();

/** Calls `work` when the page is in view again, or when its clock has jumped. Returns the function that ends it. */
export function onWake(work) {
  listeners.add(work);
  return () => listeners.delete(work);
}

function woke() {
  last = Date.now();
  today.value = new Date().toDateString();
  for (const work of [...listeners]) work();
}

setInterval(() => {
  const now = Date.now();
  if (Math.abs(now - last - TICK_MS) > JUMP_MS) woke();
  last = now;
  today.value = new Date(now).toDateString();
}, TICK_MS);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && woke());
window.addEventListener("pageshow", (event) => event.persisted && woke());
