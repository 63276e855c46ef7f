// What Chorus needs of others, as the replica that answers sees it: told from its memory, also while Redis is away.
import { ApiError } from "../api.js";
import { html } from "../html.js";
import { has, number, t, worded } from "../i18n.js";
import { Badge, Section } from "../ui.js";

const EVERY_MS = 3000;
const TIMEOUT_MS = 10_000;
const KINDS = { ok: "calm", degraded: "warm", error: "bad" };

/** /health; its 503 has a body, too. Raises `ApiError`. */
export async function localHealth() {
  const answer = await fetch("/health", { credentials: "same-origin", signal: AbortSignal.timeout(TIMEOUT_MS) }).catch(() => null);
  const found = await answer?.json().catch(() => null);
  if (found?.dependencies) return found;
  throw new ApiError({ status: answer?.status ?? 0, code: "network", message: t(answer ? "error.status_502" : "error.network") });
}

const isAnyAway = (dependencies) => Object.values(dependencies).some((row) => row.status === "error");

export function Dependencies() {
  return html`<${Section} title=${t("dependencies.title")} hint=${t("dependencies.hint")} load=${localHealth} every=${EVERY_MS} isEmpty=${() => false}>
    ${({ status, reason, dependencies }) => html`${status === "error" && reason && !isAnyAway(dependencies) && html`<p class="note">${reason}</p>`}
      <dl class="facts">${Object.entries(dependencies).map(([name, row]) => html`<div key=${name}><dt>${worded("dependency", name)}</dt>
        <dd><${Badge} kind=${KINDS[row.status] ?? ""}>${worded("dependency_state", row.status)}</${Badge}>
          ${row.status === "error" && has(`dependency.${name}_away`) ? html` ${t(`dependency.${name}_away`)}` : row.latency_ms !== undefined && html` <span class="quiet">${number(row.latency_ms, { maximumFractionDigits: 1 })} ms</span>`}</dd></div>`)}</dl>`}
  </${Section}>`;
}
