// What an owner changes of the account itself: its name, its switches, its token.
import { api } from "../api.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { useState } from "preact/hooks";
import { accounts, may, reloadAccounts } from "../session.js";
import { Button, confirm, Field, openDialog, tell } from "../ui.js";
import { TokenForm } from "./token.js";

export function Settings({ account }) {
  if (!may(account.id, "owner")) return null;
  const now = accounts.value.find((one) => one.id === account.id) ?? account;
  const change = async (changes) => {
    await api("PATCH", `/accounts/${account.id}`, changes);
    await reloadAccounts();
    tell(t("ui.saved"));
  };
  const toggle = async (event, name) => {
    const wanted = event.target.checked;
    event.target.checked = !wanted;
    if (name === "is_active" && !wanted && !(await confirm({ title: t("settings.off"), text: t("settings.off_text"), action: t("settings.off_action"), danger: true }))) return;
    await change({ [name]: wanted });
  };
  return html`<section class="card"><header><div><h2>${t("settings.title")}</h2></div></header>
    <${Name} value=${now.name} onSave=${(name) => change({ name })} />
    ${["is_active", "bot_auto_on"].map((name) => html`<div class="field" key=${name}><label class="switch"><input type="checkbox" role="switch" checked=${now[name]} onChange=${(event) => toggle(event, name)} />
      <span><span class="field-label">${t(`settings.${name}`)}</span><span class="field-help">${t(`settings.${name}_help`)}</span></span></label></div>`)}
    ${"daily_token_budget" in now && html`<${Budget} value=${now.daily_token_budget} onSave=${(value) => change({ daily_token_budget: value })} />`}
    <div class="buttons start"><${Button} onClick=${() => openDialog(t("settings.token"), (close) => html`<${TokenForm} account=${account} close=${close} />`)}>${t("settings.token")}</${Button}></div>
  </section>`;
}

function Name({ value, onSave }) {
  const [draft, setDraft] = useState(value);
  const name = draft.trim();
  return html`<form class="inline" onSubmit=${(event) => event.preventDefault()}><${Field} label=${t("settings.name")} help=${t("settings.name_help")}
      render=${(attributes) => html`<input type="text" required maxlength="200" dir="auto" value=${draft} onInput=${(event) => setDraft(event.target.value)} ...${attributes} />`} />
    <${Button} type="submit" disabled=${!name || name === value} onClick=${() => onSave(name)}>${t("bot.save")}</${Button}></form>`;
}

function Budget({ value, onSave }) {
  const [draft, setDraft] = useState(value ?? "");
  const isSame = String(draft) === String(value ?? "");
  return html`<div class="inline"><${Field} label=${t("settings.budget")} help=${t("settings.budget_help")}
      render=${(attributes) => html`<input type="number" min="1" step="1" placeholder=${t("settings.budget_none")} value=${draft} onInput=${(event) => setDraft(event.target.value)} ...${attributes} />`} />
    <${Button} disabled=${isSame} onClick=${() => onSave(draft === "" ? null : Number(draft))}>${t("bot.save")}</${Button}></div>`;
}
