// For operators: the replicas, the circuits between them and the outside, cache, queue and what was given up on.
import { api } from "../api.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { pathOf, route } from "../router.js";
import { Empty, Loading, Tabs, useLoad } from "../ui.js";
import { Cache } from "./cache.js";
import { Circuits } from "./circuits.js";
import { Dependencies } from "./dependencies.js";
import { LastHour } from "./hour.js";
import { Letters } from "./letters.js";
import { Queue } from "./queue.js";
import { Rehearsal } from "./rehearsal.js";
import { Replicas } from "./replicas.js";

const PARTS = {
  overview: () => html`<${Dependencies} /><${LastHour} /><${Replicas} /><${Circuits} />`,
  queue: () => html`<${Queue} /><${Letters} />`,
  cache: Cache,
  rehearsal: Rehearsal,
};

export function Screen() {
  const { account: wanted } = route.value;
  const view = wanted in PARTS ? wanted : "overview";
  const Part = PARTS[view];
  // Asked once: a public address keeps all of it back, and every part would only repeat that.
  const { error, isLoading } = useLoad(() => api("GET", "/admin/silent-numbers"), []);
  if (isLoading) return html`<main class="page" tabindex="-1"><${Loading} /></main>`;
  if (error?.isKeptBack) return html`<main class="page" tabindex="-1"><${Elsewhere} /></main>`;
  return html`<main class="page" tabindex="-1">
    <header class="page-head"><div><h1>${t("fleet.title")}</h1><p class="quiet">${t("fleet.hint")}</p></div></header>
    <${Tabs} label=${t("fleet.parts")} current=${view} links=${Object.keys(PARTS).map((name) => [name, pathOf({ screen: "fleet", account: name }), t(`fleet.${name}`)])} />
    <div class="cards"><${Part} key=${view} /></div>
  </main>`;
}

/** Where operators get in: docs/operations.md says the same. */
const Elsewhere = () => html`<${Empty} icon="fleet" title=${t("fleet.elsewhere")} hint=${t("fleet.elsewhere_hint")}>
  <dl class="facts"><div><dt>Docker Compose</dt><dd><code>ssh -L 8081:127.0.0.1:8081 ${location.hostname}</code></dd></div>
    <div><dt>Kubernetes</dt><dd><code>kubectl -n chorus port-forward service/chorus 8081:80</code></dd></div></dl>
  <p>${t("fleet.elsewhere_then", { url: "http://127.0.0.1:8081/console" })}</p></${Empty}>`;
