// Messages of ours that the thread does not show yet, by conversation: [{key, text, state, error}].
import { signal } from "@preact/signals";

export const outbox = signal({});

/** Files that are chosen and not sent yet, by conversation: they are there again when the reader comes back to it. */
export const attached = new Map();
