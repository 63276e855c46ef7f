// The lists: who needs a person, what is unread, what the bot holds, and all. One row for each conversation.
import { useEffect, useRef, useState } from "preact/hooks";
import { AccountChoice, hasSeveral } from "../accounts.js";
import { contactName, initials, listTime, phone } from "../format.js";
import { html } from "../html.js";
import { number, t, worded } from "../i18n.js";
import { Icon } from "../icons.js";
import { pathOf } from "../router.js";
import { Button, Empty, Loading, Problem, Time } from "../ui.js";
import { Windowed } from "../windowed.js";
import { search, searchNow, searchSoon } from "./search.js";
import { iconOf } from "./attachment.js";
import { Ticks } from "./message.js";
import { counts, list, loadList, loadMoreOfList, placeOf, VIEWS } from "./store.js";
import { holder } from "./holder.js";
import { isFile, lineOf } from "./words.js";

const COUNT_OF = { needs: "needs_human", unread: "unread", bot: "bot", all: "all" };

export function ConversationList({ account, view, openId }) {
  const handle = useRef(null);
  useEffect(() => { if (openId) handle.current?.scrollTo(openId); }, [openId]);
  return html`<section class="list-pane" aria-label=${t("list.label")}>
    <header class="list-head">
      ${hasSeveral() ? html`<${AccountChoice} account=${account} />` : html`<h1 class="list-title" title=${account.name}>${account.name}</h1>`}
      <${Search} />
      <nav class="views" aria-label=${t("list.views")}>
        ${VIEWS.map((name) => html`<a key=${name} href=${pathOf({ screen: "inbox", account: account.id, view: name, id: openId })} aria-current=${view === name ? "true" : null}>
          ${t(`view.${name}`)}<${Count} of=${name} /></a>`)}
      </nav>
    </header>
    <${Rows} view=${view} account=${account} openId=${openId} handle=${handle} />
  </section>`;
}

function Count({ of }) {
  const count = counts.value?.[COUNT_OF[of]];
  return count === undefined ? null : html`<b class="count ${of === "needs" && count ? "warm" : ""}">${number(count)}${count >= (counts.value.counted_to ?? Infinity) ? "+" : ""}</b>`;
}

function Search() {
  const [text, setText] = useState(search.value);
  useEffect(() => setText(search.value), [search.value === ""]);
  const change = (value) => {
    setText(value);
    if (value) searchSoon(value);
    else searchNow("");
  };
  return html`<div class="search" role="search"><${Icon} name="search" size=${18} />
    <input id="search" type="search" value=${text} placeholder=${t("list.search")} aria-label=${t("list.search")} maxlength="200" autocomplete="off"
      onInput=${(event) => change(event.target.value)}
      onKeyDown=${(event) => { if (event.key === "Enter") searchNow(text); if (event.key === "Escape") { change(""); event.target.blur(); } }} />
  </div>`;
}

function Rows({ view, account, openId, handle }) {
  const { items, error, isLoading, isLoadingMore } = list.value;
  if (error && !items.length) return html`<div class="pad"><${Problem} error=${error} retry=${loadList} /></div>`;
  if (!items.length) return isLoading ? html`<${Loading} />` : html`<${Nothing} view=${view} account=${account} />`;
  return html`${error && html`<div class="pad"><${Problem} error=${error} retry=${loadList} /></div>`}
    <${Windowed} key=${`${account.id}/${view}/${search.value}`} class="rows" items=${items} keyOf=${(item) => item.id} estimate=${73} label=${t("list.label")} role="list"
      render=${(item) => html`<${Row} conversation=${item} href=${pathOf({ screen: "inbox", account: account.id, view, id: item.id })} isOpen=${item.id === openId} />`}
      onEnd=${loadMoreOfList} handle=${(to) => { handle.current = to; }} footer=${isLoadingMore && html`<${Loading} />`} />`;
}

function Nothing({ view, account }) {
  if (search.value) {
    return html`<${Empty} icon="search" title=${t("list.no_match")} hint=${t("list.no_match_hint")}><${Button} kind="small" onClick=${() => searchNow("")}>${t("list.search_clear")}</${Button}></${Empty}>`;
  }
  const hint = t(`empty.${view}_hint`, { number: phone(account.phone_number) || t("empty.your_number") });
  return html`<${Empty} icon=${view === "needs" ? "check" : "inbox"} title=${t(`empty.${view}`)} hint=${hint}>
    ${view === "all" && html`<p><a href=${pathOf({ screen: "bot", account: account.id })}>${t("empty.to_bot")}</a></p><p><a href=${pathOf({ screen: "account", account: account.id, view: "health" })}>${t("empty.to_health")}</a></p>`}</${Empty}>`;
}

function Row({ conversation, href, isOpen }) {
  const { contact, unread_count: unread } = conversation;
  const name = contactName(contact);
  return html`<a class="row ${unread ? "unread" : ""} ${conversation.needs_human ? "needs" : ""}" href=${href} aria-current=${isOpen ? "true" : null}>
    <${Avatar} name=${name} />
    <span class="row-main">
      <span class="row-top"><bdi class="row-name" title=${name}>${name}</bdi><span class="row-time"><${Time} at=${placeOf(conversation)} format=${listTime} /></span></span>
      <span class="row-bottom"><span class="row-state">${stateOf(conversation)}</span>
        ${unread > 0 && html`<b class="count" title=${t("list.unread", { n: unread })}>${unread > 99 ? "99+" : unread}<span class="visually-hidden"> ${t("list.unread", { n: unread })}</span></b>`}</span>
    </span>
  </a>`;
}

/** The most important thing to know, in a few words. */
function stateOf(conversation) {
  if (conversation.needs_human) {
    const reason = conversation.needs_human_reason;
    return html`<span class="flag"><${Icon} name="alert" size=${14} />${reason ? worded("reason", reason) : t("list.needs")}</span>`;
  }
  const who = holder(conversation);
  const words = t(`holder.${who}`);
  const { contact, last_message: last } = conversation;
  const state = html`<span class="row-holder" title=${words}><${Icon} name=${who === "bot" ? "bot" : "person"} size=${14} /><span class="visually-hidden">${words}</span></span>`;
  if (!last) return html`${state}${contact.name && contact.wa_id ? phone(contact.wa_id) : words}`;
  const ours = last.author !== "customer";
  return html`${state}${ours && html`<${Ticks} status=${last.status} />`}${isFile(last.type) && html`<${Icon} name=${iconOf(last.type)} size=${14} />`}<bdi class="row-text">${lineOf(last)}</bdi>`;
}

const HUES = 8;

export function Avatar({ name }) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 9973;
  return html`<span class="avatar hue-${sum % HUES}" aria-hidden="true">${initials(name) || html`<${Icon} name="person" />`}</span>`;
}

/** Open the conversation after (1) or before (-1) the open one. */
export function neighbour(id, step, open) {
  const { items } = list.peek();
  const at = items.findIndex((item) => item.id === id);
  const next = items[at < 0 ? 0 : at + step];
  if (next) open(next.id);
}

