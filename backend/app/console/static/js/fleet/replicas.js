import { useRef } from "preact/hooks";
import { api } from "../api.js";
import { ago, moment } from "../format.js";
import { html } from "../html.js";
import { number, t, worded } from "../i18n.js";
import { Badge, Section, Time } from "../ui.js";

const EVERY_MS = 3000;
const KINDS = { ready: "calm", ok: "calm", starting: "warm", draining: "warm", degraded: "warm", error: "bad" };

const GONE_MS = 10 * 60_000;
const BEAT_SECONDS = 2;

export function Replicas() {
  const seen = useRef(new Map());
  // One that ended is not in the list any more: this page remembers for a while what it has seen.
  const load = async () => {
    const { replicas } = await api("GET", "/admin/fleet");
    const now = Date.now();
    for (const [id, one] of seen.current) if (now - one.at > GONE_MS) seen.current.delete(id);
    for (const replica of replicas) seen.current.set(replica.id, { replica, at: now });
    const gone = [...seen.current.values()].filter((one) => one.at !== now).map((one) => ({ ...one.replica, goneAt: one.at }));
    return [...replicas, ...gone];
  };
  return html`<${Section} title=${t("replicas.title")} hint=${t("replicas.hint")} load=${load} every=${EVERY_MS} empty=${t("replicas.none")}>
    ${(replicas) => {
      const versions = new Set(replicas.filter((replica) => !replica.goneAt).map((replica) => replica.build ?? replica.version));
      return html`${versions.size > 1 && html`<p class="note">${t("replicas.mixed", { n: versions.size })}</p>`}
        <div class="table-box" tabindex="0"><table><thead><tr><th>${t("replicas.name")}</th><th>${t("replicas.state")}</th><th>${t("replicas.role")}</th><th>${t("replicas.version")}</th><th class="num">${t("replicas.load")}</th><th class="num">${t("replicas.lag")}</th><th>${t("replicas.since")}</th></tr></thead>
        <tbody>${replicas.map((replica) => replica.goneAt ? html`<${Gone} key=${replica.id} replica=${replica} />` : html`<tr key=${replica.id}><td class="wrap"><code>${replica.id}</code></td>
          <td><${Badge} kind=${KINDS[replica.phase === "ready" ? replica.status : replica.phase] ?? ""}>${worded("phase", replica.phase === "ready" ? replica.status : replica.phase)}</${Badge}></td>
          <td>${worded("replica_role", replica.role)}</td><td class="wrap">${replica.version} <span class="quiet">${replica.build}</span></td>
          <td class="num"><${Load} active=${replica.active} most=${replica.concurrency} /></td>
          <td class="num">${replica.lag_ms === undefined ? "—" : `${number(replica.lag_ms, { maximumFractionDigits: 1 })} ms`}</td>
          <td>${replica.started_at ? html`<${Time} at=${replica.started_at * 1000} format=${ago} />` : "—"}${replica.silent_seconds > 4 && html` <${Badge} kind="warm">${t("replicas.silent", { s: Math.round(replica.silent_seconds) })}</${Badge}>`}</td></tr>`)}</tbody></table></div>`;
    }}
  </${Section}>`;
}

/** One that ends in order says so and leaves; one that was killed stays in the list, silent, for some seconds. */
function Gone({ replica }) {
  const isSilent = replica.silent_seconds > BEAT_SECONDS + 0.5 && replica.phase !== "draining";
  return html`<tr><td class="wrap"><code>${replica.id}</code></td>
    <td><${Badge} kind=${isSilent ? "bad" : ""}>${t(isSilent ? "replicas.gone" : "phase.stopped")}</${Badge}></td>
    <td class="quiet wrap" colspan="5">${t(isSilent ? "replicas.gone_at" : "replicas.ended_at", { time: moment(replica.goneAt) })}</td></tr>`;
}

const Load = ({ active = 0, most = 0 }) => html`<span class="load"><meter min="0" max=${Math.max(most, 1)} value=${active} aria-label=${t("replicas.load_of", { active, most })}></meter> ${number(active)} / ${number(most)}</span>`;
