// The open conversation: who it is with, who answers, what was said, and the box to write in.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ago, contactName, dayKey, dayName, dueTime, fullDay, phone, span } from "../format.js";
import { html } from "../html.js";
import { has, t, worded } from "../i18n.js";
import { Icon } from "../icons.js";
import { may } from "../session.js";
import { useKeys } from "../shortcuts.js";
import { Badge, Button, Empty, Loading, Problem, tell, Time } from "../ui.js";
import { onWake } from "../wake.js";
import { Windowed } from "../windowed.js";
import { Composer } from "./composer.js";
import { holder, isPaused, windowLeft } from "./holder.js";
import { Avatar } from "./list.js";
import { Message, Waiting } from "./message.js";
import { outbox } from "./outbox.js";
import { giveUp, loadOlder, markRead, openThread, sendAgain, setBot } from "./store.js";

const TICK_MS = 20_000;
const CLOSING_MS = 2 * 3600 * 1000;

export function Thread({ id, thread, account, onBack }) {
  const conversation = thread?.conversation;
  const mayWrite = may(account.id, "agent");
  const isSeen = useSeen();
  useEffect(() => {
    if (conversation?.unread_count && mayWrite && isSeen) markRead(conversation).catch(() => {});
  }, [conversation?.id, conversation?.unread_count, isSeen]);
  const now = useNow();
  const who = conversation && holder(conversation, now);
  const isBots = conversation?.bot_enabled && who !== "opted_out";
  const paused = isBots && isPaused(conversation, now);
  const turn = async (toBot) => {
    await setBot(conversation, toBot);
    tell(t(toBot ? "thread.given" : "thread.taken"));
  };
  useKeys({
    r: () => document.getElementById("composer")?.focus(),
    t: () => mayWrite && conversation && document.querySelector(".take")?.click(),
  }, [conversation?.id, mayWrite]);
  if (thread?.error && !thread.messages.length) {
    const isGone = thread.error.status === 404;
    return html`<${Head} onBack=${onBack} /><div class="pad"><${Problem} error=${thread.error} retry=${isGone ? null : () => openThread(id)} />
      ${isGone && html`<${Button} icon="back" onClick=${onBack}>${t("thread.back")}</${Button}>`}</div>`;
  }
  return html`<${Head} conversation=${conversation} onBack=${onBack} now=${now} who=${who}>
      ${conversation && html`<${Holder} who=${who} />`}
      ${conversation && mayWrite && !conversation.contact.group_id && html`
        ${(!isBots || paused) && html`<${Button} key="give" kind="give ${paused ? "" : "take"}" onClick=${() => turn(true)}>${t("thread.give")}</${Button}>`}
        ${isBots && html`<${Button} key="take" kind="primary take" onClick=${() => turn(false)}>${t("thread.take")}</${Button}>`}`}
    </${Head}>
    ${conversation?.needs_human && html`<${Needs} conversation=${conversation} paused=${paused} />`}
    ${!thread || thread.isLoading ? html`<${Loading} />` : html`<${Messages} thread=${thread} />`}
    ${conversation && !mayWrite && html`<p class="composer-note">${t("composer.read_only")}</p>`}
    ${conversation && mayWrite && html`<${Composer} key=${conversation.id} conversation=${conversation} account=${account} isOpen=${windowLeft(conversation, now) > 0} />`}`;
}

function useNow() {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const look = () => setNow(Date.now());
    const timer = setInterval(look, TICK_MS);
    const unwatchSleep = onWake(look);
    return () => {
      clearInterval(timer);
      unwatchSleep();
    };
  }, []);
  return now;
}

/** Is the page in view? What comes while another tab is in front is read when the reader is back. */
function useSeen() {
  const [isSeen, setSeen] = useState(document.visibilityState === "visible");
  useEffect(() => {
    const look = () => setSeen(document.visibilityState === "visible");
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);
  return isSeen;
}

function Head({ conversation, onBack, now, who, children }) {
  const name = conversation ? contactName(conversation.contact) : "";
  return html`<header class="thread-head">
    <${Button} kind="bare back" icon="back" label=${t("thread.back")} onClick=${onBack} />
    ${conversation && html`<${Avatar} name=${name} />
      <div class="thread-who"><h1 title=${name}><bdi>${name}</bdi></h1><p class="quiet">${conversation.contact.name && conversation.contact.wa_id && html`<span>${phone(conversation.contact.wa_id)}</span>`}<${Window} conversation=${conversation} now=${now} /><${Holder} who=${who} /></p></div>
      <div class="thread-actions">${children}</div>`}
  </header>`;
}

function Window({ conversation, now }) {
  if (conversation.contact.group_id) return null;
  const left = windowLeft(conversation, now);
  const kind = left === 0 ? "closed" : left < CLOSING_MS ? "closing" : "";
  const words = left ? t("thread.window", { span: span(left / 1000) }) : t("thread.window_closed");
  return html`<span class="window ${kind}" title=${`${words}. ${t("thread.window_hint")}`}><${Icon} name="clock" size=${13} /><span class="in-full">${words}</span>${left > 0 && html`<span class="in-short">${span(left / 1000)}</span>`}</span>`;
}

const HOLDER_KINDS = { bot: "calm", person: "", no_one: "warm", group: "", opted_out: "warm" };

const Holder = ({ who }) => html`<${Badge} kind=${HOLDER_KINDS[who]}><${Icon} name=${who === "bot" ? "bot" : who === "no_one" ? "alert" : "person"} size=${14} />${t(`holder.${who}`)}</${Badge}>`;

const Needs = ({ conversation, paused }) => html`<div class="strip warm" role="status"><${Icon} name="alert" size=${16} />
  <span>${t("thread.needs")}${conversation.needs_human_reason && ` ${worded("reason", conversation.needs_human_reason)}.`}
  ${conversation.needs_human_since && html` <span class="quiet">(<${Time} at=${conversation.needs_human_since} format=${ago} />)</span>`}
  ${paused && html` ${t("thread.paused", { time: dueTime(conversation.bot_paused_until) })}`}
  ${conversation.handover_notice && html` <span class="quiet">${worded("handover_notice", conversation.handover_notice)}${noticeError(conversation.handover_notice_error)}</span>`}</span></div>`;

/** Why the text to the profile's number failed: our words where we know Meta's code, else the code. */
function noticeError(error) {
  if (!error?.code) return "";
  return ` ${has(`notice.${error.code}`) ? t(`notice.${error.code}`) : t("notice.code", { code: String(error.code) })}`;
}

/** The day of each message: to format a date ten thousand times takes a frame. */
const days = new WeakMap();

function dayOf(message) {
  let key = days.get(message);
  if (!key) days.set(message, (key = dayKey(message.timestamp)));
  return key;
}

const NONE = [];

/** Messages with a line for each day between them; reactions stand at the message that they are about. */
export function rowsOf(messages, waiting) {
  const rows = [];
  const reactions = new Map();
  const byWamid = new Map();
  for (const message of messages) if (message.wa_message_id) byWamid.set(message.wa_message_id, message);
  for (const message of messages) {
    if (message.type !== "reaction") continue;
    const { message_id: about, emoji } = message.payload?.reaction ?? {};
    if (!byWamid.has(about)) continue;
    const before = reactions.get(about) ?? new Map();
    if (emoji) before.set(message.author, String(emoji));
    else before.delete(message.author);
    reactions.set(about, before);
  }
  let last = null;
  for (const message of messages) {
    if (message.type === "reaction" && byWamid.has(message.payload?.reaction?.message_id)) continue;
    const key = dayOf(message);
    if (key !== last) rows.push({ key: `day ${key}`, day: message.timestamp });
    last = key;
    rows.push({
      key: message.id,
      message,
      reactions: reactions.has(message.wa_message_id) ? [...reactions.get(message.wa_message_id).values()] : NONE,
      quoted: byWamid.get(message.payload?.context?.id) ?? null,
    });
  }
  for (const item of waiting) rows.push({ key: `waiting ${item.key}`, waiting: item });
  return rows;
}

function Messages({ thread }) {
  const waiting = outbox.value[thread.id] ?? [];
  const rows = useMemo(() => rowsOf(thread.messages, waiting), [thread.messages, waiting]);
  const handle = useRef(null);
  const count = useRef(waiting.length);
  useEffect(() => {
    if (waiting.length > count.current) handle.current?.toBottom();
    count.current = waiting.length;
  }, [waiting.length]);
  if (!rows.length) return html`<${Empty} icon="inbox" title=${t("thread.empty")} hint=${t("thread.empty_hint")} />`;
  return html`<${Windowed} class="messages" role="log" label=${t("thread.messages")} items=${rows} keyOf=${(row) => row.key} estimate=${72} stick
    handle=${(to) => { handle.current = to; }} onStart=${loadOlder} render=${(row) => html`<${Row} row=${row} conversation=${thread.conversation} />`}
    header=${html`<div class="thread-top">${thread.isLoadingMore ? html`<${Loading} />` : thread.error ? html`<${Problem} error=${thread.error} retry=${loadOlder} />` : !thread.cursor && html`<p class="none">${t("thread.start")}</p>`}</div>`} />`;
}

function Row({ row, conversation }) {
  if (row.day) return html`<p class="day"><span title=${fullDay(row.day)}>${dayName(row.day)}</span></p>`;
  if (row.waiting) return html`<${Waiting} message=${row.waiting} onAgain=${() => sendAgain(conversation, row.waiting)} onGiveUp=${() => giveUp(conversation, row.waiting)} />`;
  return html`<${Message} message=${row.message} reactions=${row.reactions} quoted=${row.quoted} />`;
}
