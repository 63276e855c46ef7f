// The circuits: what is refused at the moment and why, until when, and a person's word over it.
import { useEffect, useState } from "preact/hooks";
import { api } from "../api.js";
import { span } from "../format.js";
import { html } from "../html.js";
import { has, number, t, worded } from "../i18n.js";
import { Badge, Button, confirm, Section, tell } from "../ui.js";
import { localHealth } from "./dependencies.js";

const EVERY_MS = 2000;
const KINDS = { closed: "calm", half_open: "warm", open: "bad" };

/** Without Redis there is no word of the fleet: the replica that answers has its own, and takes no orders. */
async function load() {
  try {
    return Object.entries(await api("GET", "/admin/breakers")).map(([name, row]) => ({ ...row, name }));
  } catch (error) {
    if (error.code !== "redis_unavailable") throw error;
    const { circuit_breakers: own } = await localHealth();
    return Object.entries(own).map(([name, row]) => ({ ...row, name, scope: "replica", isReadOnly: true }));
  }
}

export function Circuits() {
  const act = async (circuit, action, reload) => {
    const why = await confirm({
      title: t(`circuits.${action}`), text: t(`circuits.${action}_text`, { name: circuit.name }), action: t(`circuits.${action}`), danger: action === "open",
      input: { label: t("circuits.why"), help: t("circuits.why_help"), max: 200 },
    });
    if (why === undefined) return;
    await api("POST", `/admin/breakers/${encodeURIComponent(circuit.name)}`, { action, why });
    tell(t("circuits.done"));
    await reload();
  };
  return html`<${Section} title=${t("circuits.title")} hint=${t("circuits.hint")} load=${load} every=${EVERY_MS} empty=${t("circuits.none")}>
    ${(circuits, reload) => html`<ul class="circuits">${circuits.map((circuit) => html`<li key=${circuit.name}><${Circuit} circuit=${circuit} onAct=${(action) => act(circuit, action, reload)} /></li>`)}</ul>`}
  </${Section}>`;
}

function Circuit({ circuit, onAct }) {
  const { state, forced, failure_count: failures, why, who, last_failure: last } = circuit;
  return html`<div class="circuit"><div class="circuit-head"><b>${circuit.name}</b>
      <${Badge} kind=${KINDS[state] ?? ""}>${worded("circuit", state)}</${Badge}>
      ${forced && html`<${Badge} kind="warm">${t("circuits.forced")}</${Badge}>`}
      ${circuit.scope === "replica" && html`<${Badge} kind="warm">${t("circuits.alone")}</${Badge}>`}
      ${state === "open" && !forced && circuit.retry_after > 0 && html`<${Countdown} seconds=${circuit.retry_after} />`}</div>
    <p class="quiet">${[failures ? t("circuits.failures", { n: failures }) : null, why && (who ? `${why} (${has(`actor.${who}`) ? t(`actor.${who}`).toLowerCase() : who})` : why), last && last !== why ? t("circuits.last", { words: last }) : null, circuit.since_seconds !== undefined && state !== "closed" ? t("time.ago", { span: span(circuit.since_seconds) }) : null].filter(Boolean).join(" · ") || t("circuits.fine")}</p>
    ${circuit.isReadOnly ? null : html`<div class="buttons start">${forced || state !== "closed" ? html`<${Button} kind="small" onClick=${() => onAct("auto")}>${t("circuits.auto")}</${Button}>` : null}
      ${!(forced && state === "open") && html`<${Button} kind="small" onClick=${() => onAct("open")}>${t("circuits.open")}</${Button}>`}
      ${!(forced && state === "closed") && html`<${Button} kind="small" onClick=${() => onAct("close")}>${t("circuits.close")}</${Button}>`}</div>`}</div>`;
}

/** Counts down by itself between two looks at the server. */
function Countdown({ seconds }) {
  const [end, setEnd] = useState(Date.now() + seconds * 1000);
  const [, tick] = useState(0);
  useEffect(() => setEnd(Date.now() + seconds * 1000), [seconds]);
  useEffect(() => {
    const timer = setInterval(() => tick((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  return html`<span class="quiet">${t("circuits.retry", { s: number(Math.max(0, Math.ceil((end - Date.now()) / 1000))) })}</span>`;
}
