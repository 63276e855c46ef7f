// The account: its health, its people, its keys, its webhooks, what it costs, and its customers' rights.
import { AccountChoice, hasSeveral } from "../accounts.js";
import { phone } from "../format.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { pathOf, route } from "../router.js";
import { isOperator, may } from "../session.js";
import { Tabs } from "../ui.js";
import { Audit } from "./audit.js";
import { Customers } from "./customers.js";
import { Health } from "./health.js";
import { Keys } from "./keys.js";
import { Invitations, Members } from "./members.js";
import { Settings } from "./settings.js";
import { Usage } from "./usage.js";
import { Webhooks } from "./webhooks.js";

const PARTS = {
  health: ({ account }) => html`<${Health} account=${account} /><${Settings} account=${account} />`,
  people: ({ account }) => html`<${Members} account=${account} /><${Invitations} account=${account} />`,
  keys: Keys,
  webhooks: Webhooks,
  usage: Usage,
  customers: Customers,
  audit: ({ account }) => html`<${Audit} account=${account} title=${t("account.audit")} hint=${t("account.audit_hint")} />`,
};

export function Screen({ account }) {
  const view = route.value.view in PARTS ? route.value.view : "health";
  const Part = PARTS[view];
  return html`<main class="page" tabindex="-1">
    <header class="page-head"><div><h1 class=${hasSeveral() ? "visually-hidden" : null}>${account.name}</h1>${hasSeveral() && html`<${AccountChoice} account=${account} />`}<p class="quiet">${account.phone_number ? `${phone(account.phone_number)} · ` : ""}${account.slug} · <span title=${t("account.number_id")}>${account.phone_number_id}</span></p></div></header>
    <${Tabs} label=${t("account.parts")} current=${view} links=${Object.keys(PARTS).map((name) => [name, pathOf({ screen: "account", account: account.id, view: name }), t(`account.${name}`)])} />
    ${!may(account.id, "owner") && !isOperator() && html`<p class="note">${t("account.read_only")}</p>`}
    <div class="cards"><${Part} key=${`${account.id} ${view}`} account=${account} /></div>
  </main>`;
}
