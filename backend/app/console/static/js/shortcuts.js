// The keyboard: single keys while nothing is being typed. `?` lists them.
import { useEffect } from "preact/hooks";
import { html } from "./html.js";
import { t } from "./i18n.js";
import { go } from "./router.js";
import { openDialog } from "./ui.js";

const LISTED = [
  ["keys.everywhere", [["?", "help"], ["g i", "inbox"], ["g b", "bot"], ["g a", "account"], ["g f", "fleet"]]],
  ["nav.inbox", [["j", "next"], ["k", "previous"], ["/", "search"], ["r", "reply"], ["t", "take"], ["Esc", "back"]]],
  ["keys.writing", [["Enter", "send"], ["Shift Enter", "line"], ["Esc", "stop"]]],
  ["keys.picture", [["+", "larger"], ["-", "smaller"], ["0", "fit"], ["1", "full"], ["Esc", "close"]]],
];
const GOES = { i: "inbox", b: "bot", a: "account", f: "fleet" };
const PAIR_MS = 1200;

const handlers = new Map();

/** Own keys of a screen: {key: function}. Returns the function that takes them back. */
export function useKeys(keys, deps) {
  useEffect(() => {
    for (const [key, work] of Object.entries(keys)) handlers.set(key, work);
    return () => {
      for (const [key, work] of Object.entries(keys)) if (handlers.get(key) === work) handlers.delete(key);
    };
  }, deps);
}

export const showShortcuts = () => openDialog(t("keys.title"), () => html`<div class="keys">${LISTED.map(([title, rows]) => html`
  <section key=${title}><h3>${t(title)}</h3><dl>${rows.map(([keys, name]) => html`<div key=${name}><dt>${keys.split(" ").map((key) => html`<kbd key=${key}>${key}</kbd>`)}</dt>
    <dd>${t(`keys.${name}`)}</dd></div>`)}</dl></section>`)}</div>`);

/** Enter ends a text, Shift and Enter a line. A keyboard on the screen has no such Shift: there Enter ends a line. */
export const endsText = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(hover: none) and (pointer: coarse)").matches;

const isTyping = (target) => target.closest?.("input, textarea, select, [contenteditable], dialog");

export function Shortcuts({ account, screens }) {
  useEffect(() => {
    let first = null;
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || isTyping(event.target)) return;
      const isPair = first && event.timeStamp - first < PAIR_MS;
      first = null;
      const screen = isPair && GOES[event.key];
      if (screen) {
        if (screens.includes(screen)) go({ screen, account: screen === "fleet" ? "" : account });
      } else if (event.key === "g") first = event.timeStamp;
      else if (event.key === "?") showShortcuts();
      else if (handlers.has(event.key)) handlers.get(event.key)();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, [account, screens.join()]);
  return null;
}
