// What an owner changes of the account itself: its name, its switches, its token.
import { api } from "../api.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { accounts, may, reloadAccounts } from "../session.js";
import { Button, confirm, openDialog, tell } from "../ui.js";
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
    ${["is_active", "bot_auto_on"].map((name) => html`<div class="field" key=${name}><label class="switch"><input type="checkbox" role="switch" checked=${now[name]} onChange=${(event) => toggle(event, name)} />
      <span><span class="field-label">${t(`settings.${name}`)}</span><span class="field-help">${t(`settings.${name}_help`)}</span></span></label></div>`)}
    <div class="buttons start"><${Button} onClick=${() => openDialog(t("settings.token"), (close) => html`<${TokenForm} account=${account} close=${close} />`)}>${t("settings.token")}</${Button}></div>
  </section>`;
}
