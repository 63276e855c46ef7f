// For operators: the replicas, the circuits between them and the outside, cache, queue and what was given up on.
import { html } from "../html.js";
import { t } from "../i18n.js";
import { pathOf, route } from "../router.js";
import { Cache } from "./cache.js";
import { Circuits } from "./circuits.js";
import { LastHour } from "./hour.js";
import { Letters } from "./letters.js";
import { Queue } from "./queue.js";
import { Rehearsal } from "./rehearsal.js";
import { Replicas } from "./replicas.js";

const PARTS = {
  overview: () => html`<${LastHour} /><${Replicas} /><${Circuits} />`,
  queue: () => html`<${Queue} /><${Letters} />`,
  cache: Cache,
  rehearsal: Rehearsal,
};

export function Screen() {
  const { account: wanted } = route.value;
  const view = wanted in PARTS ? wanted : "overview";
  const Part = PARTS[view];
  return html`<main class="page" tabindex="-1">
    <header class="page-head"><div><h1>${t("fleet.title")}</h1><p class="quiet">${t("fleet.hint")}</p></div></header>
    <nav class="tabs" aria-label=${t("fleet.parts")}>${Object.keys(PARTS).map((name) => html`<a key=${name} href=${pathOf({ screen: "fleet", account: name })} aria-current=${name === view ? "page" : null}>${t(`fleet.${name}`)}</a>`)}</nav>
    <div class="cards"><${Part} key=${view} /></div>
  </main>`;
}
