// Messages of ours that the thread does not show yet, by conversation: [{key, text, state, error}].
import { signal } from "@preact/signals";

export const outbox = signal({});
