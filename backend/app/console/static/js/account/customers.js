// A customer's rights: what is stored about them is handed out, or erased.
import { useState } from "preact/hooks";
import { api, query } from "../api.js";
import { contactName, phone } from "../format.js";
import { html } from "../html.js";
import { number, t, worded } from "../i18n.js";
import { may } from "../session.js";
import { Button, confirm, Field, Problem, tell } from "../ui.js";

const MOST = 20;

export function Customers({ account }) {
  const [text, setText] = useState("");
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const [erased, setErased] = useState(null);
  const search = async (event) => {
    event?.preventDefault();
    setErased(null);
    try {
      setFound((await api("GET", `/conversations?${query({ account_id: account.id, q: text.trim(), limit: MOST })}`)).items);
      setError(null);
    } catch (problem) {
      setError(problem);
    }
  };
  const erase = async (contact) => {
    const name = contactName(contact);
    const typed = await confirm({ title: t("customers.erase"), text: t("customers.erase_text", { name }), action: t("customers.erase"), danger: true, input: { label: t("customers.erase_type", { word: t("customers.word") }), matches: t("customers.word") } });
    if (typed === undefined) return;
    const removed = await api("DELETE", `/contacts/${encodeURIComponent(contact.id)}`, undefined, { timeout: 120_000 });
    await search();
    setErased({ name, removed });
  };
  const take = async (contact) => {
    const document_ = await api("GET", `/contacts/${encodeURIComponent(contact.id)}/export`, undefined, { timeout: 120_000 });
    const url = URL.createObjectURL(new Blob([JSON.stringify(document_, null, 2)], { type: "application/json" }));
    const link = Object.assign(document.createElement("a"), { href: url, download: `customer-${contact.id}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    tell(t("customers.exported"));
  };
  if (!may(account.id, "owner")) return html`<section class="card"><p class="none">${t("customers.owners")}</p></section>`;
  return html`<section class="card"><header><div><h2>${t("customers.title")}</h2><p class="quiet">${t("customers.hint")}</p></div></header>
    <form class="inline" onSubmit=${search}><${Field} label=${t("customers.search")} render=${(attributes) => html`<input type="search" required maxlength="200" value=${text} onInput=${(event) => setText(event.target.value)} ...${attributes} />`} />
      <${Button} type="submit" icon="search">${t("customers.find")}</${Button}></form>
    ${error && html`<${Problem} error=${error} retry=${search} />`}
    ${erased && html`<div class="note" role="status"><p>${t("customers.erased", { name: erased.name })}</p><p class="quiet">${countsOf(erased.removed)}</p></div>`}
    ${found?.length === 0 && html`<p class="none">${t("list.no_match")}</p>`}
    ${found?.length === MOST && html`<p class="quiet">${t("customers.most", { n: MOST })}</p>`}
    ${found?.length > 0 && html`<div class="table-box" tabindex="0"><table class="stack"><tbody>${found.map(({ id, contact }) => html`<tr key=${id}><td class="wrap"><bdi>${contactName(contact)}</bdi></td><td>${phone(contact.wa_id)}</td>
      <td class="end"><${Button} kind="small" onClick=${() => take(contact)}>${t("customers.export")}</${Button}> <${Button} kind="small danger" onClick=${() => erase(contact)}>${t("customers.erase")}</${Button}></td></tr>`)}</tbody></table></div>`}
  </section>`;
}

/** Figures of what went, flat. */
function countsOf(removed) {
  const figures = Object.entries(removed ?? {}).flatMap(([name, value]) => (value !== null && typeof value === "object" ? Object.entries(value) : [[name, value]]));
  return figures.filter(([, value]) => typeof value === "number" && value > 0).map(([name, value]) => `${worded("erased", name)}: ${number(value)}`).join(" · ");
}
