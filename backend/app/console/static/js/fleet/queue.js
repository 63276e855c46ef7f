import { useRef } from "preact/hooks";
import { api } from "../api.js";
import { bytes, span } from "../format.js";
import { html } from "../html.js";
import { number, t } from "../i18n.js";
import { Badge, Section } from "../ui.js";

const EVERY_MS = 2000;
const WINDOW_MS = 60_000;

export function Queue() {
  return html`<${Section} title=${t("queue.title")} hint=${t("queue.hint")} load=${() => api("GET", "/admin/queue")} every=${EVERY_MS} isEmpty=${() => false}>
      ${(queue) => html`<div class="figures">
        <${Figure} value=${number(queue.pending)} label=${t("queue.pending")} /><${Figure} value=${queue.pending ? span(queue.oldest_seconds) : "—"} label=${t("queue.oldest")} kind=${queue.oldest_seconds > 60 ? "warm" : ""} />
        <${Figure} value=${number(queue.ready)} label=${t("queue.ready")} /><${Figure} value=${number(queue.leased)} label=${t("queue.leased")} /><${Figure} value=${number(queue.dead)} label=${t("queue.dead")} kind=${queue.dead ? "warm" : ""} />
        <${Figure} value=${bytes(queue.bytes)} label=${t("queue.bytes")} /></div>
        ${queue.is_full && html`<p><${Badge} kind="bad">${t("queue.full")}</${Badge}></p>`}`}
    </${Section}>
    <${ByAccount} />`;
}

/** How many answers an account gets a minute is seen from one look to the next, over the last minute. */
function ByAccount() {
  const looks = useRef(new Map());
  const load = async () => {
    const { items } = await api("GET", "/admin/queue/accounts");
    const now = Date.now();
    for (const row of items) {
      const kept = (looks.current.get(row.account_id) ?? []).filter((look) => now - look.at < WINDOW_MS && look.answers <= row.answers_today);
      kept.push({ at: now, answers: row.answers_today });
      looks.current.set(row.account_id, kept);
      const minutes = (now - kept[0].at) / 60_000;
      row.rate = minutes ? (row.answers_today - kept[0].answers) / minutes : null;
    }
    return items;
  };
  return html`<${Section} title=${t("queue.accounts")} hint=${t("queue.accounts_hint")} load=${load} every=${EVERY_MS} empty=${t("queue.idle")}>
    ${(rows) => html`<div class="table-box" tabindex="0"><table><thead><tr><th>${t("queue.account")}</th>${["pending", "messages", "statuses", "replies", "oldest", "rate"].map((name) => html`<th class="num" key=${name}>${t(`queue.${name}`)}</th>`)}</tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${row.account_id}><td class="wrap"><bdi>${row.name}</bdi> <span class="quiet">${row.phone_number_id}</span></td>${["pending", "messages", "statuses", "replies"].map((name) => html`<td class="num" key=${name}>${number(row[name])}</td>`)}
        <td class="num">${row.oldest_seconds === null ? "—" : span(row.oldest_seconds)}</td><td class="num">${row.rate === null ? "—" : number(row.rate, { maximumFractionDigits: 1 })}</td></tr>`)}</tbody></table></div>`}
  </${Section}>`;
}

const Figure = ({ value, label, kind = "" }) => html`<div class="figure ${kind}"><b>${value}</b><span>${label}</span></div>`;
