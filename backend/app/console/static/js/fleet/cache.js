import { useState } from "preact/hooks";
import { api } from "../api.js";
import { bytes, percent } from "../format.js";
import { html } from "../html.js";
import { number, t } from "../i18n.js";
import { Badge, Button, Field, Section, tell } from "../ui.js";

const EVERY_MS = 3000;

/** Of the replica that answers; beside it what each replica told with its last heartbeat, where it does. */
export function Cache() {
  return html`<${Section} title=${t("cache.title")} hint=${t("cache.hint")} load=${() => api("GET", "/admin/cache")} every=${EVERY_MS} isEmpty=${() => false}>
      ${(cache) => {
        const asked = cache.hits + cache.shared_hits + cache.misses;
        return html`<div class="figures">
            <${Figure} value=${asked ? percent(cache.hits / asked) : "—"} label=${t("cache.memory")} />
            <${Figure} value=${asked ? percent((cache.hits + cache.shared_hits) / asked) : "—"} label=${t("cache.all_hits")} />
            <${Figure} value=${number(cache.entries)} label=${t("cache.entries")} /><${Figure} value=${bytes(cache.bytes)} label=${t("cache.bytes")} />
            <${Figure} value=${number(cache.owed)} label=${t("cache.owed")} kind=${cache.owed ? "warm" : ""} /></div>
          <p><${Badge} kind=${cache.trusted ? "calm" : "warm"}>${t(cache.trusted ? "cache.trusted" : "cache.untrusted")}</${Badge}> <${Badge} kind=${cache.shared ? "calm" : "warm"}>${t(cache.shared ? "cache.shared" : "cache.alone")}</${Badge}></p>
          <dl class="facts two">${["hits", "shared_hits", "misses", "coalesced", "loads", "load_failures", "stale", "refreshes", "refused_fills", "bypassed", "invalidations", "received", "gaps", "flushes", "evictions"].map((name) => html`<div key=${name}><dt>${t(`cache.${name}`)}</dt><dd>${number(cache[name])}</dd></div>`)}</dl>`;
      }}
    </${Section}>
    <${Invalidate} />`;
}

const Figure = ({ value, label, kind = "" }) => html`<div class="figure ${kind}"><b>${value}</b><span>${label}</span></div>`;

function Invalidate() {
  const [pattern, setPattern] = useState("");
  const submit = async (event) => {
    event?.preventDefault();
    const { invalidated } = await api("POST", "/admin/cache/invalidate", { pattern: pattern.trim() });
    tell(t("cache.invalidated", { n: invalidated }));
  };
  return html`<section class="card"><header><div><h2>${t("cache.forget")}</h2><p class="quiet">${t("cache.forget_hint")}</p></div></header>
    <form class="inline" onSubmit=${(event) => event.preventDefault()}><${Field} label=${t("cache.pattern")} render=${(attributes) => html`<input type="text" maxlength="500" placeholder="bot_profile:*" value=${pattern} onInput=${(event) => setPattern(event.target.value)} ...${attributes} />`} />
      <${Button} disabled=${!pattern.trim()} onClick=${submit}>${t("cache.forget")}</${Button}></form></section>`;
}
