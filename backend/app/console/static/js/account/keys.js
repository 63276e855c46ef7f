// Keys with which programs use the API.
import { useState } from "preact/hooks";
import { api } from "../api.js";
import { ago, day } from "../format.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { may } from "../session.js";
import { Button, confirm, Field, openDialog, Secret, Section, Time } from "../ui.js";
import { RoleChoice } from "./members.js";

export function Keys({ account }) {
  const path = `/accounts/${account.id}/api-keys`;
  const mayChange = may(account.id, "owner");
  const add = async (reload) => {
    await openDialog(t("apikeys.new"), (close) => html`<${NewKey} path=${path} close=${close} />`);
    await reload();
  };
  const revoke = async (key, reload) => {
    if (!(await confirm({ title: t("apikeys.revoke"), text: t("apikeys.revoke_text", { name: key.name }), action: t("apikeys.revoke"), danger: true }))) return;
    await api("DELETE", `${path}/${encodeURIComponent(key.id)}`);
    await reload();
  };
  return html`<${Section} title=${t("apikeys.title")} hint=${t("apikeys.hint")} load=${() => api("GET", path)} deps=${[account.id]} isEmpty=${() => false}
      actions=${(_data, reload) => mayChange && html`<${Button} kind="small" icon="plus" onClick=${() => add(reload)}>${t("apikeys.new")}</${Button}>`}>
    ${(keys, reload) => keys.length === 0 ? html`<p class="none">${t("apikeys.none")}</p>` : html`<div class="table-box" tabindex="0"><table class="stack">
      <thead><tr><th>${t("apikeys.name")}</th><th>${t("members.role")}</th><th>${t("apikeys.created")}</th><th>${t("apikeys.used")}</th><th><span class="visually-hidden">${t("ui.actions")}</span></th></tr></thead>
      <tbody>${keys.map((key) => html`<tr key=${key.id}><td class="wrap"><bdi>${key.name}</bdi> ${key.hint && html`<code class="quiet">…${key.hint}</code>`}</td><td>${t(`role.${key.role}`)}</td><td data-label=${t("apikeys.created")}><${Time} at=${key.created_at} format=${day} /> <span class="quiet">${t("apikeys.by")} <bdi title=${key.created_by}>${maker(key)}</bdi></span></td>
        <td data-label=${t("apikeys.used")}>${key.last_used_at ? html`<${Time} at=${key.last_used_at} format=${ago} />` : t("apikeys.never")}</td>
        <td class="end">${mayChange && html`<${Button} kind="small danger" onClick=${() => revoke(key, reload)}>${t("apikeys.revoke")}</${Button}>`}</td></tr>`)}</tbody></table></div>`}
  </${Section}>`;
}

/** Whose key it is; a person who left may still know it. */
function maker(key) {
  if (key.created_by.startsWith("key:")) return t("apikeys.by_key");
  if (key.created_by === "operator") return t("apikeys.by_operator");
  const who = key.created_by.length > 12 ? `${key.created_by.slice(0, 8)}…` : key.created_by;
  return `${who} (${key.maker_role ? t(`role.${key.maker_role}`) : t("apikeys.left")})`;
}

function NewKey({ path, close }) {
  const [name, setName] = useState("");
  const [role, setRole] = useState("agent");
  const [made, setMade] = useState(null);
  const [error, setError] = useState(null);
  const create = async (event) => {
    event.preventDefault();
    try {
      setMade(await api("POST", path, { name: name.trim(), role }));
    } catch (problem) {
      setError(problem);
    }
  };
  if (made) return html`<${Secret} value=${made.key} hint=${t("apikeys.once")} /><div class="buttons"><${Button} kind="primary" onClick=${() => close()}>${t("ui.done")}</${Button}></div>`;
  return html`<form onSubmit=${create}>
    <${Field} label=${t("apikeys.name")} help=${t("apikeys.name_help")} error=${error?.message} render=${(attributes) => html`<input type="text" maxlength="200" required value=${name} onInput=${(event) => setName(event.target.value)} ...${attributes} />`} />
    <${Field} label=${t("members.role")} help=${t(`role.${role}_help`)} render=${(attributes) => html`<${RoleChoice} value=${role} onChange=${setRole} ...${attributes} />`} />
    <div class="buttons"><${Button} onClick=${() => close()}>${t("ui.cancel")}</${Button}><${Button} type="submit" kind="primary" disabled=${!name.trim()}>${t("apikeys.make")}</${Button}></div></form>`;
}
