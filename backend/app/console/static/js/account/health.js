// Is the number able to work? In Meta's words, and in ours.
import { api } from "../api.js";
import { ago, dateAndTime } from "../format.js";
import { html } from "../html.js";
import { t, worded } from "../i18n.js";
import { Badge, Button, Section, Time } from "../ui.js";

const REFRESH_MS = 60_000;
const KINDS = { healthy: "calm", ok: "calm", attention: "warm", unhealthy: "bad", bad: "bad", closed: "calm", half_open: "warm", open: "bad" };

export function Health({ account }) {
  const path = `/accounts/${account.id}/health`;
  let refresh = false;
  const load = () => api("GET", refresh ? `${path}?refresh=true` : path).finally(() => { refresh = false; });
  return html`<${Section} title=${t("health.title")} hint=${t("health.hint")} load=${load} deps=${[account.id]} every=${REFRESH_MS}
      actions=${(_data, reload) => html`<${Button} kind="small" icon="refresh" onClick=${() => { refresh = true; return reload(); }}>${t("health.check")}</${Button}>`} isEmpty=${() => false}>
    ${(health) => html`<div class="health">
      <p class="verdict"><${Badge} kind=${KINDS[health.verdict] ?? ""}>${health.verdict ? worded("verdict", health.verdict) : t("health.never")}</${Badge}>
        <span class="quiet">${health.checked_at ? t("health.checked", { ago: ago(health.checked_at) }) : ""}</span></p>
      ${health.failure && html`<p class="note">${t("health.failure", { why: health.failure })}</p>`}
      ${health.problems?.map((problem) => html`<p key=${problem.code} class="problem-line"><${Badge} kind="warm">${worded("problem", problem.code)}</${Badge}> ${problem.words}</p>`)}
      <dl class="facts">
        <${Part} name="token" part=${health.token} facts=${[["expires_at", health.token?.expires_at && dateAndTime(health.token.expires_at)], ["scopes", health.token?.scopes?.join(", ")]]} />
        <${Part} name="number" part=${health.number} facts=${["display_phone_number", "verified_name", "quality_rating", "messaging_limit_tier", "status", "name_status", "can_send_message", "throughput"].map((name) => [name, health.number?.[name]])} />
        <${Part} name="subscription" part=${health.subscription} facts=${[["waba_id", health.subscription?.waba_id], ["app_id", health.subscription?.app_id]]} />
        ${health.circuit && html`<div><dt>${t("health.circuit")}</dt><dd><${Badge} kind=${KINDS[health.circuit.state] ?? ""}>${worded("sending", health.circuit.state)}</${Badge}> <span class="quiet">${health.circuit.why || health.circuit.last_failure || ""}</span></dd></div>`}
        <div><dt>${t("health.last_inbound")}</dt><dd>${health.last_inbound_at ? html`<${Time} at=${health.last_inbound_at} format=${ago} />` : t("health.no_inbound")}</dd></div>
        ${health.last_notice && html`<div><dt>${t("health.notice")}</dt><dd>${health.last_notice.words} <span class="quiet"><${Time} at=${health.last_notice.at} format=${dateAndTime} /></span></dd></div>`}
      </dl></div>`}
  </${Section}>`;
}

function Part({ name, part, facts }) {
  const known = facts.filter(([, value]) => value);
  return html`<div><dt>${t(`health.${name}`)}</dt><dd>
    <${Badge} kind=${KINDS[part?.state] ?? ""}>${worded("state", part?.state ?? "unknown")}</${Badge}>
    ${known.length > 0 && html`<span class="pairs-line">${known.map(([label, value]) => html`<span key=${label}><span class="quiet">${worded("health", label)}</span> ${String(value)}</span>`)}</span>`}
    ${part?.said && html`<p>${t("thread.meta_says", { words: part.said.words, code: String(part.said.code ?? "?") })}</p>`}
    ${part?.unknown && html`<p class="quiet">${part.unknown}</p>`}</dd></div>`;
}
