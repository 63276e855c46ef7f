// The people of the account, and those who were invited.
import { useState } from "preact/hooks";
import { api } from "../api.js";
import { dateAndTime, day } from "../format.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { may, session, startSession } from "../session.js";
import { Badge, Button, confirm, Field, openDialog, Secret, Section, tell, Time } from "../ui.js";

export const ROLES = ["owner", "agent", "viewer"];

export const RoleChoice = ({ value, onChange, label, ...more }) => html`<select value=${value} aria-label=${label} onChange=${(event) => onChange(event.target.value)} ...${more}>
  ${ROLES.map((role) => html`<option key=${role} value=${role}>${t(`role.${role}`)}</option>`)}</select>`;

export function Members({ account }) {
  const path = `/accounts/${account.id}/members`;
  const mayChange = may(account.id, "owner");
  const me = session.value.user_id;
  const remove = async (member, reload) => {
    const isMe = member.user_id === me;
    if (!(await confirm({ title: t(isMe ? "members.leave" : "members.remove"), text: t(isMe ? "members.leave_text" : "members.remove_text", { who: member.email ?? member.user_id }), action: t(isMe ? "members.leave" : "members.remove"), danger: true }))) return;
    await api("DELETE", `${path}/${encodeURIComponent(member.user_id)}`);
    // What one may do is known from the session.
    await (isMe ? startSession() : reload());
  };
  const change = async (member, role, reload) => {
    const isMe = member.user_id === me;
    try {
      if (isMe && !(await confirm({ title: t("members.demote"), text: t("members.demote_text", { role: t(`role.${role}`) }), action: t("members.demote"), danger: true }))) return;
      await api("PUT", `${path}/${encodeURIComponent(member.user_id)}`, { role });
      tell(t("ui.saved"));
      if (isMe) await startSession();
    } finally {
      await reload();
    }
  };
  return html`<${Section} title=${t("members.title")} hint=${t("members.hint")} load=${() => api("GET", path)} deps=${[account.id]} empty=${t("members.none")}>
    ${(members, reload) => html`<div class="table-box" tabindex="0"><table class="stack"><thead><tr><th>${t("members.who")}</th><th>${t("members.role")}</th><th>${t("members.since")}</th><th><span class="visually-hidden">${t("ui.actions")}</span></th></tr></thead>
      <tbody>${members.map((member) => html`<tr key=${member.user_id}><td class="wrap">${member.email ?? html`<code>${member.user_id}</code>`} ${member.user_id === me && html`<${Badge}>${t("members.you")}</${Badge}>`}</td>
        <td>${mayChange ? html`<${RoleChoice} value=${member.role} label=${t("members.role_of", { who: member.email ?? member.user_id })} onChange=${(role) => change(member, role, reload)} />` : t(`role.${member.role}`)}</td>
        <td data-label=${t("members.since")}><${Time} at=${member.created_at} format=${day} /></td>
        <td class="end">${(mayChange || member.user_id === me) && html`<${Button} kind="small danger" onClick=${() => remove(member, reload)}>${t(member.user_id === me ? "members.leave" : "members.remove")}</${Button}>`}</td></tr>`)}</tbody></table></div>`}
  </${Section}>`;
}

export function Invitations({ account }) {
  if (!may(account.id, "owner")) return null;
  const path = `/accounts/${account.id}/invitations`;
  const invite = async (reload) => {
    await openDialog(t("invitations.new"), (close) => html`<${Invite} path=${path} close=${close} />`);
    await reload();
  };
  const withdraw = async (invitation, reload) => {
    await api("DELETE", `${path}/${encodeURIComponent(invitation.id)}`);
    await reload();
  };
  return html`<${Section} title=${t("invitations.title")} hint=${t("invitations.hint")} load=${() => api("GET", path)} deps=${[account.id]} isEmpty=${() => false}
      actions=${(_data, reload) => html`<${Button} kind="small" icon="plus" onClick=${() => invite(reload)}>${t("invitations.new")}</${Button}>`}>
    ${(found, reload) => {
      const open = found.filter((invitation) => !invitation.accepted_by);
      if (!open.length) return html`<p class="none">${t("invitations.none")}</p>`;
      return html`<div class="table-box" tabindex="0"><table class="stack"><thead><tr><th>${t("members.role")}</th><th>${t("invitations.until")}</th><th><span class="visually-hidden">${t("ui.actions")}</span></th></tr></thead>
        <tbody>${open.map((invitation) => html`<tr key=${invitation.id}><td>${t(`role.${invitation.role}`)}</td><td data-label=${t("invitations.until")}><${Time} at=${invitation.expires_at} format=${dateAndTime} /></td>
          <td class="end"><${Button} kind="small danger" onClick=${() => withdraw(invitation, reload)}>${t("invitations.withdraw")}</${Button}></td></tr>`)}</tbody></table></div>`;
    }}
  </${Section}>`;
}

function Invite({ path, close }) {
  const [role, setRole] = useState("agent");
  const [made, setMade] = useState(null);
  const create = async () => setMade(await api("POST", path, { role }));
  if (made) {
    return html`<${Secret} value=${made.link} hint=${t("invitations.link")} /><div class="buttons"><${Button} kind="primary" onClick=${() => close()}>${t("ui.done")}</${Button}></div>`;
  }
  return html`<${Field} label=${t("members.role")} help=${t(`role.${role}_help`)} render=${(attributes) => html`<${RoleChoice} value=${role} onChange=${setRole} ...${attributes} />`} />
    <div class="buttons"><${Button} onClick=${() => close()}>${t("ui.cancel")}</${Button}><${Button} kind="primary" onClick=${create}>${t("invitations.make")}</${Button}></div>`;
}
