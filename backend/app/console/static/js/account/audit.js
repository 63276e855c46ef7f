// Who changed what, when, and from where.
import { useState } from "preact/hooks";
import { api, query } from "../api.js";
import { dateAndTime } from "../format.js";
import { html } from "../html.js";
import { t, worded } from "../i18n.js";
import { Button, Section, Time } from "../ui.js";

const PAGE = 50;

/** `only`: which entries to show. */
export function Audit({ account, title, hint, only = () => true }) {
  const [more, setMore] = useState({ items: [], cursor: undefined });
  const load = async () => {
    const page = await api("GET", `/accounts/${account.id}/audit?${query({ limit: PAGE })}`);
    setMore({ items: [], cursor: page.next_cursor });
    return page.items;
  };
  const older = async () => {
    const page = await api("GET", `/accounts/${account.id}/audit?${query({ limit: PAGE, cursor: more.cursor })}`);
    setMore({ items: [...more.items, ...page.items], cursor: page.next_cursor });
  };
  return html`<${Section} title=${title} hint=${hint} load=${load} deps=${[account.id]} empty=${t("audit.none")} isEmpty=${(items) => !items.some(only) && !more.cursor}>
    ${(items) => html`<ol class="audit">${[...items, ...more.items].filter(only).map((entry) => html`<li key=${entry.id ?? entry.at}><${Entry} entry=${entry} /></li>`)}</ol>
      ${more.cursor && html`<div class="buttons start"><${Button} kind="small" onClick=${older}>${t("ui.more")}</${Button}></div>`}`}
  </${Section}>`;
}

function Entry({ entry }) {
  const changes = changesOf(entry);
  const where = [entry.address ?? entry.client_address, entry.request_id].filter(Boolean).join(" · ");
  return html`<p><b>${worded("audit", entry.action)}</b> <span class="quiet">${whoOf(entry)} · <${Time} at=${entry.at ?? entry.created_at} format=${dateAndTime} /></span></p>
    ${changes.length > 0 && html`<details><summary>${t("audit.fields", { n: changes.length })}</summary><dl class="facts">${changes.map(([name, before, after]) => html`<div key=${name}><dt>${name}</dt>
      <dd>${before !== undefined && html`<del dir="auto">${shown(before)}</del> `}${after !== undefined && html`<ins dir="auto">${shown(after)}</ins>`}</dd></div>`)}</dl>${where && html`<p class="quiet">${where}</p>`}</details>`}`;
}

const whoOf = (entry) => {
  const who = entry.who ?? entry.actor;
  return typeof who === "string" ? who : who?.name ?? who?.id ?? who?.kind ?? t("audit.unknown");
};

/** [name, before, after] of each field; secrets have neither. */
function changesOf(entry) {
  const { changes } = entry;
  if (Array.isArray(changes)) return changes.map((one) => (typeof one === "string" ? [one] : [one.field ?? one.name, one.before ?? one.old, one.after ?? one.new]));
  return Object.entries(changes ?? {}).map(([name, one]) => (one && typeof one === "object" && !Array.isArray(one) ? [name, one.before ?? one.old, one.after ?? one.new] : [name, undefined, one]));
}

const MAX_SHOWN = 400;

function shown(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)} …` : text;
}
