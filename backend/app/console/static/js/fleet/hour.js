// The last hour in four strips, from what the replicas already count.
import { api } from "../api.js";
import { Bars } from "../chart.js";
import { clock } from "../format.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { Section } from "../ui.js";

const EVERY_MS = 15_000;
const STRIPS = [["answers", "answers", ""], ["p95", "p95_seconds", "calm"], ["errors", "http_5xx", "bad"], ["refused", "refused", "warm"]];

export function LastHour() {
  return html`<${Section} title=${t("hour.title")} hint=${t("hour.hint")} load=${async () => (await api("GET", "/admin/last-hour")).minutes} every=${EVERY_MS} empty=${t("hour.none")}>
    ${(minutes) => html`<div class="strips">${STRIPS.map(([name, field, kind]) => html`<${Bars} key=${name} kind=${kind} height=${56} label=${t(`hour.${name}`)} points=${minutes.map((minute) => ({ at: clock(minute.at), value: minute[field] }))} />`)}</div>`}
  </${Section}>`;
}
