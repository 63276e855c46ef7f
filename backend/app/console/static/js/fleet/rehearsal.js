// With a sandbox in the place of WhatsApp and Gemini: break something on purpose, and watch the circuits.
import { useState } from "preact/hooks";
import { api } from "../api.js";
import { span } from "../format.js";
import { html } from "../html.js";
import { number, t } from "../i18n.js";
import { Badge, Button, Section, tell } from "../ui.js";
import { Circuits } from "./circuits.js";

const EVERY_MS = 2000;
const SPANS = [10, 30, 60, 300];

export function Rehearsal() {
  const [seconds, setSeconds] = useState(30);
  const begin = async (name, reload) => {
    await api("POST", "/admin/rehearsal", { fault: name, seconds });
    tell(t("rehearsal.begun", { name: t(`fault.${name}`), n: seconds }));
    await reload();
  };
  const end = async (reload) => {
    await api("DELETE", "/admin/rehearsal");
    await reload();
  };
  return html`<${Section} title=${t("rehearsal.title")} hint=${t("rehearsal.hint")} load=${() => api("GET", "/admin/rehearsal")} every=${EVERY_MS} isEmpty=${(found) => !found.attached} empty=${t("rehearsal.none")}
      actions=${(found, reload) => found.running.length > 0 && html`<${Button} kind="small" onClick=${() => end(reload)}>${t("rehearsal.end")}</${Button}>`}>
    ${(found, reload) => html`<div class="pref"><span>${t("rehearsal.for")}</span><div class="segments" role="group" aria-label=${t("rehearsal.for")}>${SPANS.map((one) => html`<button key=${one} type="button" aria-pressed=${one === seconds ? "true" : "false"} onClick=${() => setSeconds(one)}>${span(one)}</button>`)}</div></div>
      <ul class="faults">${found.faults.map((name) => {
        const running = found.running.find((fault) => fault.fault === name);
        return html`<li key=${name}><div><b>${t(`fault.${name}`)}</b><p class="quiet">${t(`fault.${name}_help`)}</p></div>
          ${running ? html`<${Badge} kind="warm">${t("rehearsal.running", { n: number(running.fired) })}</${Badge}>` : html`<${Button} kind="small danger" onClick=${() => begin(name, reload)}>${t("rehearsal.begin")}</${Button}>`}</li>`;
      })}</ul>`}
  </${Section}><${Circuits} />`;
}
