// What answers cost, by day.
import { useState } from "preact/hooks";
import { api, query } from "../api.js";
import { day } from "../format.js";
import { html } from "../html.js";
import { number, t } from "../i18n.js";
import { Bars } from "../chart.js";
import { accounts } from "../session.js";
import { Section } from "../ui.js";

const SPANS = [7, 30, 90];

export function Usage({ account }) {
  const [days, setDays] = useState(30);
  const now = accounts.value.find((one) => one.id === account.id);
  return html`${now?.spent_today && html`<section class="card"><header><div><h2>${t("usage.today")}</h2><p class="quiet">${t("usage.today_hint")}</p></div></header>
      <div class="figures">${["answers", "input_tokens", "output_tokens"].map((name) => html`<div class="figure" key=${name}><b>${number(now.spent_today[name])}</b><span>${t(`usage.${name}`)}</span></div>`)}</div></section>`}
    <${Section} title=${t("usage.title")} load=${() => api("GET", `/accounts/${account.id}/usage?${query({ days })}`)} deps=${[account.id, days]} isEmpty=${(found) => !found.some((row) => row.answers || row.messages)} empty=${t("usage.none")}
      actions=${() => html`<div class="segments" role="group" aria-label=${t("usage.span")}>${SPANS.map((span) => html`<button key=${span} type="button" aria-pressed=${span === days ? "true" : "false"} onClick=${() => setDays(span)}>${t("time.days", { d: span })}</button>`)}</div>`}>
      ${(found) => {
        const rows = rowsOf(found);
        return html`<${Bars} label=${t("usage.answers")} points=${rows.map((row) => ({ at: day(row.day), value: row.answers }))} />
          <div class="table-box" tabindex="0"><table><thead><tr><th>${t("usage.day")}</th>${["answers", "messages", "prompt_tokens", "output_tokens"].map((name) => html`<th class="num" key=${name}>${t(`usage.${name}`)}</th>`)}</tr></thead>
          <tbody>${rows.filter((row) => row.answers || row.messages).toReversed().map((row) => html`<tr key=${row.day}><td>${day(row.day)}</td><td class="num">${number(row.answers)}</td><td class="num">${number(row.messages)}</td>
            <td class="num">${number(row.prompt_tokens)}</td><td class="num">${number(row.output_tokens)}</td></tr>`)}</tbody></table></div>`;
      }}
    </${Section}>`;
}

/** The oldest first. */
const rowsOf = (found) => found.toSorted((a, b) => (a.day < b.day ? -1 : 1));
