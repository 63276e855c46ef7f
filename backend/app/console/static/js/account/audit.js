// Who changed what, when, and from where.
import { useState } from "preact/hooks";
import { api, query } from "../api.js";
import { dateAndTime } from "../format.js";
import { html } from "../html.js";
import { has, number, t, worded } from "../i18n.js";
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
    ${(items) => html`<ol class="audit">${[...items, ...more.items].filter(only).map((entry) => html`<li key=${entry.id}><${Entry} entry=${entry} /></li>`)}</ol>
      ${more.cursor && html`<div class="buttons start"><${Button} kind="small" onClick=${older}>${t("ui.more")}</${Button}></div>`}`}
  </${Section}>`;
}

function Entry({ entry }) {
  const changes = Object.entries(entry.changes ?? {});
  const where = [entry.subject, entry.address, entry.request_id].filter(Boolean).join(" · ");
  const about = aboutOf(entry);
  return html`<p class="wrap"><b>${worded("audit", entry.action)}</b>${about && html` <bdi>${about}</bdi>`} <span class="quiet">${whoOf(entry)} · <${Time} at=${entry.at} format=${dateAndTime} /></span></p>
    <details><summary>${changes.length ? namesOf(changes) : t("audit.details")}</summary><dl class="facts">${changes.map(([name, change]) => html`<div key=${name}><dt>${worded("bot", name)}</dt>
      <dd>${change?.changed === true ? t("audit.secret") : html`${change?.old !== undefined && change.old !== null && html`<del dir="auto">${shown(change.old)}</del> `}${change?.new !== undefined && change.new !== null && html`<ins dir="auto">${shown(change.new)}</ins>`}`}</dd></div>`)}</dl>
      ${where && html`<p class="quiet wrap">${where}</p>`}</details>`;
}

const MAX_NAMED = 3;

/** Which key, webhook or person; the first that says it. */
function aboutOf({ action, subject, changes }) {
  const named = ["name", "url", "role"].map((field) => changes?.[field]?.new ?? changes?.[field]?.old).find((value) => typeof value === "string");
  if (!action.startsWith("member.")) return action.startsWith("profile.") ? null : named && has(`role.${named}`) ? t(`role.${named}`) : named;
  return named ? `${subject} (${worded("role", named)})` : subject;
}

function namesOf(changes) {
  const names = changes.slice(0, MAX_NAMED).map(([name]) => worded("bot", name));
  return names.join(", ") + (changes.length > MAX_NAMED ? ` + ${number(changes.length - MAX_NAMED)}` : "");
}

const whoOf = (entry) => (entry.actor_kind === "user" || !entry.actor_kind ? entry.actor_id : `${worded("actor", entry.actor_kind)} ${entry.actor_id === entry.actor_kind ? "" : entry.actor_id}`);

const MAX_SHOWN = 400;

function shown(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)} …` : text;
}
