// A customer's recording or video, with its length, and nothing but its name where the browser cannot play it.
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { t } from "../i18n.js";

const known = new Map();

/** Empty words of the browser: certainly not. */
function canPlay(tag, mime) {
  const key = `${tag} ${mime}`;
  if (!known.has(key)) known.set(key, document.createElement(tag).canPlayType(mime) !== "");
  return known.get(key);
}

/** `tag`: "audio" or "video". `label` is read out in place of it. `instead` stands there if the browser cannot play it. */
export function Player({ tag, src, mime, label, instead }) {
  const [isBroken, setBroken] = useState(false);
  if (isBroken || !canPlay(tag, mime)) return html`${instead}<p class="quiet no-player">${t("media.no_player")}</p>`;
  const fail = () => setBroken(true);
  return tag === "video" ? html`<video controls preload="metadata" src=${src} aria-label=${label} onError=${fail}></video>`
    : html`<audio controls preload="metadata" src=${src} aria-label=${label} onError=${fail}></audio>`;
}
