// Where other systems hear of the account's events, and how that went.
import { useState } from "preact/hooks";
import { api } from "../api.js";
import { dateAndTime, span } from "../format.js";
import { html } from "../html.js";
import { number, t, worded } from "../i18n.js";
import { may } from "../session.js";
import { Badge, Button, confirm, Field, openDialog, Secret, Section, tell, Time } from "../ui.js";

const EVENTS = ["message.received", "message.sent", "message.status", "conversation.needs_human", "conversation.bot_switched", "account.blocked", "account.restored", "webhook.disabled", "template.updated"];
const USUAL = ["message.received", "conversation.needs_human"];

export function Webhooks({ account }) {
  const path = `/accounts/${account.id}/webhooks`;
  const mayChange = may(account.id, "owner");
  const add = async (reload) => {
    await openDialog(t("webhooks.new"), (close) => html`<${NewWebhook} path=${path} close=${close} />`);
    await reload();
  };
  return html`<${Section} title=${t("webhooks.title")} hint=${t("webhooks.hint")} load=${() => api("GET", path)} deps=${[account.id]} isEmpty=${() => false}
      actions=${(_data, reload) => mayChange && html`<${Button} kind="small" icon="plus" onClick=${() => add(reload)}>${t("webhooks.new")}</${Button}>`}>
    ${(hooks, reload) => hooks.length === 0 ? html`<p class="none">${t("webhooks.none")}</p>`
      : hooks.map((hook) => html`<${Webhook} key=${hook.id} hook=${hook} path=${`${path}/${encodeURIComponent(hook.id)}`} mayChange=${mayChange} reload=${reload} />`)}
  </${Section}>`;
}

function Webhook({ hook, path, mayChange, reload }) {
  const [isOpen, setOpen] = useState(false);
  const change = async (changes) => {
    const stored = await api("PATCH", path, changes);
    if (stored.secret) await openDialog(t("webhooks.rotate"), (close) => html`<${Secret} value=${stored.secret} hint=${t("webhooks.once")} /><div class="buttons"><${Button} kind="primary" onClick=${() => close()}>${t("ui.done")}</${Button}></div>`);
    await reload();
  };
  const test = async () => {
    const result = await api("POST", `${path}/test`);
    tell(t("webhooks.tested", { outcome: worded("outcome", result.outcome), status: result.status ?? "—", ms: result.ms }), result.outcome === "delivered" ? "info" : "error");
  };
  const rotate = async () => (await confirm({ title: t("webhooks.rotate"), text: t("webhooks.rotate_text"), action: t("webhooks.rotate"), danger: true })) && change({ rotate_secret: true });
  const remove = async () => {
    if (!(await confirm({ title: t("webhooks.delete"), text: t("webhooks.delete_text", { url: hook.url }), action: t("webhooks.delete"), danger: true }))) return;
    await api("DELETE", path);
    await reload();
  };
  return html`<article class="sub"><div class="sub-head"><code class="wrap">${hook.url}</code>
      ${hook.enabled ? hook.failing_since ? html`<${Badge} kind="warm">${t("webhooks.failing", { span: span((Date.now() - Date.parse(hook.failing_since)) / 1000) })}</${Badge}>` : html`<${Badge} kind="calm">${t("webhooks.on")}</${Badge}>`
        : html`<${Badge} kind="bad">${hook.disabled_reason ? worded("webhooks.off", hook.disabled_reason) : t("webhooks.off")}</${Badge}>`}</div>
    <p class="quiet">${hook.events.join(", ")}</p>
    ${Date.parse(hook.previous_secret_until ?? "") > Date.now() && html`<p class="quiet">${t("webhooks.both_sign", { until: dateAndTime(hook.previous_secret_until) })}</p>`}
    <div class="buttons start"><${Button} kind="small" onClick=${() => setOpen(!isOpen)} aria-expanded=${isOpen ? "true" : "false"}>${t("webhooks.deliveries")}</${Button}>
      ${mayChange && html`<${Button} kind="small" onClick=${test}>${t("webhooks.test")}</${Button}>
        <${Button} kind="small" onClick=${() => change({ enabled: !hook.enabled })}>${t(hook.enabled ? "webhooks.switch_off" : "webhooks.switch_on")}</${Button}>
        <${Button} kind="small" onClick=${rotate}>${t("webhooks.rotate")}</${Button}><${Button} kind="small danger" onClick=${remove}>${t("webhooks.delete")}</${Button}>`}</div>
    ${isOpen && html`<${Section} title=${t("webhooks.deliveries")} load=${() => api("GET", `${path}/deliveries?limit=50`)} empty=${t("webhooks.no_deliveries")}>
      ${(deliveries) => html`<div class="table-box" tabindex="0"><table><thead><tr><th>${t("webhooks.when")}</th><th>${t("webhooks.event")}</th><th>${t("webhooks.outcome")}</th><th>${t("webhooks.answer")}</th></tr></thead>
        <tbody>${deliveries.map((delivery, index) => html`<tr key=${index}><td><${Time} at=${delivery.at} format=${dateAndTime} /></td><td>${delivery.type}</td>
          <td><${Badge} kind=${delivery.outcome === "delivered" ? "calm" : "bad"}>${worded("outcome", delivery.outcome)}${delivery.status ? ` ${delivery.status}` : ""}</${Badge}> <span class="quiet">${number(delivery.ms)} ms</span></td><td class="wrap quiet">${delivery.answer}</td></tr>`)}</tbody></table></div>`}
    </${Section}>`}
  </article>`;
}

function NewWebhook({ path, close }) {
  const [url, setUrl] = useState("");
  const [events, setEvents] = useState(USUAL);
  const [made, setMade] = useState(null);
  const [error, setError] = useState(null);
  const create = async (event) => {
    event.preventDefault();
    try {
      setMade(await api("POST", path, { url: url.trim(), events }));
    } catch (problem) {
      setError(problem);
    }
  };
  if (made) return html`<${Secret} value=${made.secret} hint=${t("webhooks.once")} /><div class="buttons"><${Button} kind="primary" onClick=${() => close()}>${t("ui.done")}</${Button}></div>`;
  const toggle = (name) => setEvents(events.includes(name) ? events.filter((one) => one !== name) : [...events, name]);
  return html`<form onSubmit=${create}>
    <${Field} label=${t("webhooks.url")} help=${t("webhooks.url_help")} error=${error?.message} render=${(attributes) => html`<input type="url" required placeholder="https://" value=${url} onInput=${(event) => setUrl(event.target.value)} ...${attributes} />`} />
    <fieldset class="field"><legend class="field-label">${t("webhooks.events")}</legend>${EVENTS.map((name) => html`<label class="check" key=${name}><input type="checkbox" checked=${events.includes(name)} onChange=${() => toggle(name)} /> <code>${name}</code></label>`)}</fieldset>
    <div class="buttons"><${Button} onClick=${() => close()}>${t("ui.cancel")}</${Button}><${Button} type="submit" kind="primary" disabled=${!url.trim() || !events.length}>${t("webhooks.make")}</${Button}></div></form>`;
}
