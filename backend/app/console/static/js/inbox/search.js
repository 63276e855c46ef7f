// What is searched for. Typing waits a moment before the server is asked.
import { signal } from "@preact/signals";

const PAUSE_MS = 250;
export const search = signal("");
let timer = null;

export function searchSoon(text) {
  clearTimeout(timer);
  timer = setTimeout(() => { search.value = text.trim(); }, PAUSE_MS);
}

export function searchNow(text) {
  clearTimeout(timer);
  search.value = text.trim();
}
