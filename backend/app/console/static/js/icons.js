// Line icons, drawn for this console: 20 units square.
import { html } from "./html.js";

const PATHS = {
  inbox: "M3 4.5h14v8.2a1.3 1.3 0 0 1-1.3 1.3H9l-4 3v-3h-.7A1.3 1.3 0 0 1 3 12.7z",
  bot: "M10 2.5v2.5M4.5 7.5a2 2 0 0 1 2-2h7a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2h-7a2 2 0 0 1-2-2zM2.5 9.5v2.5M17.5 9.5v2.5M7.8 9.6v.8M12.2 9.6v.8M8 13h4",
  account: "M3 8.5 4.3 3.5h11.4L17 8.5M4 8.5v8h12v-8M3 8.5a2.3 2.3 0 0 0 4.6 0 2.4 2.4 0 0 0 4.8 0 2.3 2.3 0 0 0 4.6 0M8 16.5v-4h4v4",
  fleet: "M3 4h14v4.5H3zM3 11.5h14V16H3zM6 6.2h.1M6 13.7h.1M9 6.2h5M9 13.7h5",
  search: "M9 15A6 6 0 1 0 9 3a6 6 0 0 0 0 12zM13.5 13.5 17 17",
  send: "M3 10 17 3.5 13 17l-3.2-5.3zM9.8 11.7 17 3.5",
  back: "M12.5 4 6.5 10l6 6",
  clip: "m13.8 7.5-5.4 5.4a1.6 1.6 0 0 1-2.3-2.3L12 4.8a2.8 2.8 0 0 1 4 4l-6.3 6.3a4.2 4.2 0 0 1-6-6l5.2-5.2",
  check: "m4 10.5 4 4 8-9",
  person: "M10 10a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4zM3.8 17a6.2 6.2 0 0 1 12.4 0",
  bell: "M5.5 8.5a4.5 4.5 0 0 1 9 0c0 4.2 1.8 5 1.8 5H3.7s1.8-.8 1.8-5M8.4 16a1.7 1.7 0 0 0 3.2 0",
  alert: "M10 3.5 18 17H2zM10 8.5v4M10 14.6v.2",
  close: "M5 5l10 10M15 5 5 15",
  more: "M4.5 10h.1M10 10h.1M15.5 10h.1",
  place: "M10 17.5s5.5-5 5.5-9a5.5 5.5 0 1 0-11 0c0 4 5.5 9 5.5 9zM10 10.3a1.8 1.8 0 1 0 0-3.6 1.8 1.8 0 0 0 0 3.6z",
  file: "M5 2.5h6.5L15 6v11.5H5zM11 2.5V6.5h4",
  image: "M3 4h14v12H3zM3 13.5l4-4 4 4 2.5-2.5 3.5 3M12.8 7.6h.1",
  sound: "M4 8.5v3M7 6v8M10 3.5v13M13 6v8M16 8.5v3",
  clock: "M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM10 6v4.2l2.8 1.8",
  plus: "M10 4v12M4 10h12",
  help: "M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM8 8a2 2 0 1 1 2.9 1.8c-.6.3-.9.7-.9 1.4M10 13.6v.1",
  leave: "M8 3.5H4v13h4M8.5 10H17M13.5 6.5 17 10l-3.5 3.5",
  down: "m5 7.5 5 5 5-5",
  refresh: "M16 6.5A7 7 0 1 0 17 10M16.5 3v3.8h-3.8",
};

/** Decoration: the words beside it, or the button's label, say what it means. */
export const Icon = ({ name, size = 20 }) => html`
  <svg class="icon" width=${size} height=${size} viewBox="0 0 20 20" fill="none" stroke="currentColor" stroke-width="1.6"
    stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
