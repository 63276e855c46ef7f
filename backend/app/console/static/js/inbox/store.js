// What the inbox knows: one list of conversations, one open thread, and what is on its way. Everything comes from the
// HTTP API; events only say what to ask for again, so that a missed or repeated one changes nothing.
import { batch, computed, signal } from "@preact/signals";
import { api, newKey, query } from "../api.js";
import { contactName } from "../format.js";
import { t } from "../i18n.js";
import { follow, streamState } from "../stream.js";
import { notifyNeeds } from "./notices.js";
import { outbox } from "./outbox.js";

const PAGE = 50;
const LIST_MS = 400;
const THREAD_MS = 40;
export const VIEWS = ["needs", "unread", "bot", "all"];
const FILTERS = { needs: { needs_human: true }, unread: { unread: true }, bot: { bot: true }, all: {} };

/** `fresh`, but with the objects that are known where nothing has changed: what shows them is not drawn again. */
function unchanged(known, fresh) {
  const ids = new Set(fresh.map((item) => item.id));
  const before = new Map(known.filter((item) => ids.has(item.id)).map((item) => [item.id, item]));
  return fresh.map((item) => (JSON.stringify(before.get(item.id)) === JSON.stringify(item) ? before.get(item.id) : item));
}

const EMPTY_LIST = { items: [], cursor: null, error: null, isLoading: true, isLoadingMore: false };
export const list = signal(EMPTY_LIST);
/** {needs_human, unread, bot, all}; null while they are not known. */
export const counts = signal(null);
export const needsCount = computed(() => counts.value?.needs_human ?? 0);
/** The open thread: {id, conversation, messages (oldest first), cursor, error, isLoading, isLoadingMore}. */
export const thread = signal(null);

let accountId = null;
let shown = { view: "all", q: "" };
let listTurn = 0;
let threadTurn = 0;

/** Begin with an account: its counts and its live stream. Returns the function that ends it. */
export function startAccount(id) {
  accountId = id;
  batch(() => {
    list.value = EMPTY_LIST;
    counts.value = null;
    thread.value = null;
  });
  loadCounts();
  const unfollow = follow(id, (event) => heard(event));
  const unwatch = streamState.subscribe((state) => state === "live" && tryAgain());
  return () => {
    unfollow();
    unwatch();
    accountId = null;
    clearTimeout(listTimer);
    clearTimeout(threadTimer);
    listTimer = threadTimer = null;
  };
}

// --- events ---------------------------------------------------------------------------------------------------------

let listTimer = null;
let threadTimer = null;
/** Something happened in the open conversation since it was asked for. */
let isOpenOld = false;

/** What failed while the line was down. */
function tryAgain() {
  if (list.peek().error) heard({ type: "reset" });
  if (thread.peek()?.error && !thread.peek().messages.length) openThread(thread.peek().id);
  else if (thread.peek()?.error) refreshThread();
}

const listeners = new Set();

/** Other screens hear of the account's events too. Returns the function that ends it. */
export function onEvent(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function heard(event) {
  for (const listener of listeners) listener(event);
  const isOpen = thread.value && (event.type === "reset" || event.conversation_id === thread.value.id);
  if (isOpen) isOpenOld = true;
  if (isOpen) threadTimer ??= setTimeout(() => ((threadTimer = null), refreshThread()), THREAD_MS);
  if (event.type === "reset" || event.conversation_id) listTimer ??= setTimeout(() => ((listTimer = null), refreshList()), LIST_MS);
  if (event.type === "conversation.needs_human") notifyNeeds(event.conversation_id, find, accountId);
}

/** The list may not have it yet, or not at all. */
async function find(id) {
  const known = list.peek().items.find((item) => item.id === id);
  return known ?? api("GET", `/conversations/${encodeURIComponent(id)}`).catch(() => null);
}

// --- the list -------------------------------------------------------------------------------------------------------

/** Where a conversation stands in the lists: when something was last said in it. Versions before this field had `updated_at` alone. */
export const placeOf = (item) => item.last_message_at ?? item.updated_at;

const listPath = (cursor, limit = PAGE) => `/conversations?${query({ account_id: accountId, ...FILTERS[shown.view], q: shown.q, limit, cursor })}`;

export async function showList(view, q) {
  shown = { view, q };
  list.value = { ...EMPTY_LIST, items: [] };
  await loadList();
}

/** The first page anew, in place of what is shown. */
export async function loadList() {
  if (!accountId) return;
  if (!counts.peek()) loadCounts();
  const mine = (listTurn += 1);
  list.value = { ...list.value, isLoading: true };
  try {
    const page = await api("GET", listPath());
    if (mine === listTurn) list.value = { items: page.items, cursor: page.next_cursor, error: null, isLoading: false, isLoadingMore: false };
  } catch (error) {
    if (mine === listTurn) list.value = { ...list.value, error, isLoading: false, isLoadingMore: false };
  }
}

/** The first page again, merged into what is shown: the reader keeps their place. */
async function refreshList() {
  if (!accountId) return;
  loadCounts();
  const mine = listTurn;
  if (list.value.isLoading) return;
  const wasOpenOld = isOpenOld;
  isOpenOld = false;
  try {
    const page = await api("GET", listPath());
    if (mine !== listTurn) return;
    const items = unchanged(list.value.items, page.items);
    const fresh = new Map(items.map((item) => [item.id, item]));
    const last = page.items.at(-1);
    // What was on the first page and is not any more has moved down, or left the list.
    const rest = list.value.items.filter((item) => !fresh.has(item.id) && page.next_cursor && last && Date.parse(placeOf(item)) <= Date.parse(placeOf(last)));
    const isWhole = rest.length === 0;
    list.value = { ...list.value, items: [...items, ...rest], cursor: isWhole ? page.next_cursor : list.value.cursor, error: null };
    syncOpen(fresh);
    if (wasOpenOld && thread.value && !fresh.has(thread.value.id)) await refreshOpen(thread.value.id);
  } catch (error) {
    if (mine === listTurn) list.value = { ...list.value, error };
  }
}

/** The open conversation is not in the list, or far down in it: who answers there is asked for by itself. */
async function refreshOpen(id) {
  const found = await api("GET", `/conversations/${encodeURIComponent(id)}`);
  if (thread.value?.id === id) replaced(found);
}

export async function loadMoreOfList() {
  const { cursor, isLoading, isLoadingMore, error } = list.value;
  if (!cursor || isLoading || isLoadingMore || error) return;
  const mine = listTurn;
  list.value = { ...list.value, isLoadingMore: true };
  try {
    const page = await api("GET", listPath(cursor));
    if (mine !== listTurn) return;
    const known = new Set(list.value.items.map((item) => item.id));
    list.value = { ...list.value, items: [...list.value.items, ...page.items.filter((item) => !known.has(item.id))], cursor: page.next_cursor, isLoadingMore: false };
  } catch (problem) {
    if (mine === listTurn) list.value = { ...list.value, error: problem, isLoadingMore: false };
  }
}

export async function loadCounts() {
  const mine = accountId;
  try {
    const found = await api("GET", `/conversations/counts?${query({ account_id: mine })}`);
    if (mine === accountId) counts.value = found;
  } catch {
    // The lists work without their figures.
  }
}

function syncOpen(fresh) {
  const open = thread.value;
  if (open && fresh.has(open.id)) thread.value = { ...open, conversation: fresh.get(open.id) };
}

/** What the server says of a conversation after a change; how it ends stays what it was, which those answers do not say. */
function replaced(conversation) {
  const now = (item) => (item.id === conversation.id ? { ...conversation, last_message: conversation.last_message ?? item.last_message } : item);
  batch(() => {
    list.value = { ...list.value, items: list.value.items.map(now) };
    syncOpen(new Map([[conversation.id, conversation]]));
  });
}

// --- the thread -----------------------------------------------------------------------------------------------------

const threadPath = (id, cursor, limit = PAGE) => `/conversations/${encodeURIComponent(id)}/messages?${query({ limit, cursor })}`;

export async function openThread(id) {
  const mine = (threadTurn += 1);
  if (!id) {
    thread.value = null;
    return;
  }
  const conversation = list.value.items.find((item) => item.id === id) ?? null;
  thread.value = { id, conversation, messages: [], cursor: null, error: null, isLoading: true, isLoadingMore: false };
  try {
    const [page, found] = await Promise.all([api("GET", threadPath(id)), conversation ?? api("GET", `/conversations/${encodeURIComponent(id)}`)]);
    if (mine !== threadTurn) return;
    batch(() => {
      thread.value = { ...thread.value, conversation: thread.value.conversation ?? found, messages: page.items.toReversed(), cursor: page.next_cursor, isLoading: false };
      settleOutbox(id);
    });
  } catch (error) {
    if (mine === threadTurn) thread.value = { ...thread.value, error, isLoading: false };
  }
}

/** The newest messages again: new ones are added, known ones brought up to date. */
export async function refreshThread() {
  const open = thread.value;
  if (!open || open.isLoading) return;
  const mine = threadTurn;
  try {
    const page = await api("GET", threadPath(open.id));
    if (mine !== threadTurn) return;
    batch(() => {
      thread.value = { ...thread.value, ...merged(thread.value, page), error: null };
      settleOutbox(open.id);
    });
  } catch (error) {
    if (mine === threadTurn) thread.value = { ...thread.value, error };
  }
}

function merged(open, page) {
  const fresh = unchanged(open.messages.slice(-2 * PAGE), page.items.toReversed());
  const ids = new Set(fresh.map((message) => message.id));
  const touches = open.messages.length === 0 || open.messages.some((message) => ids.has(message.id));
  // So much came meanwhile that there may be a gap: begin again at the newest.
  if (!touches) return { messages: fresh, cursor: page.next_cursor };
  return { messages: [...open.messages.filter((message) => !ids.has(message.id)), ...fresh], cursor: open.cursor };
}

export async function loadOlder() {
  const open = thread.value;
  if (!open?.cursor || open.isLoading || open.isLoadingMore) return;
  const mine = threadTurn;
  thread.value = { ...open, isLoadingMore: true };
  try {
    const page = await api("GET", threadPath(open.id, open.cursor));
    if (mine !== threadTurn) return;
    const known = new Set(thread.value.messages.map((message) => message.id));
    const older = page.items.toReversed().filter((message) => !known.has(message.id));
    thread.value = { ...thread.value, messages: [...older, ...thread.value.messages], cursor: page.next_cursor, isLoadingMore: false };
  } catch (error) {
    if (mine === threadTurn) thread.value = { ...thread.value, error, isLoadingMore: false };
  }
}

export async function markRead(conversation) {
  replaced({ ...conversation, unread_count: 0 });
  replaced(await api("POST", `/conversations/${encodeURIComponent(conversation.id)}/read`));
  loadCounts();
}

/** The bot answers here, or people do. Shown at once; put back if the server refuses. */
export async function setBot(conversation, enabled) {
  replaced({ ...conversation, bot_enabled: enabled });
  try {
    replaced(await api("POST", `/conversations/${encodeURIComponent(conversation.id)}/bot`, { enabled }));
    loadCounts();
  } catch (error) {
    replaced(conversation);
    throw error;
  }
}

// --- sending --------------------------------------------------------------------------------------------------------

const changeOutbox = (id, change) => {
  outbox.value = { ...outbox.value, [id]: change(outbox.value[id] ?? []) };
};

const FILE_TIMEOUT_MS = 60_000;
/** The server gives up on less than 32 KB/s. */
const MS_PER_BYTE = 1 / 32;

/** `file`: to go with the text, which becomes its caption. */
/** One message, or one for each file, in their order: the first has the words. */
export async function send(conversation, text, files = []) {
  const parts = files.length ? files.map((file, index) => ({ file, text: index ? "" : text })) : [{ file: null, text }];
  const messages = parts.map((part) => ({ ...part, key: newKey(), at: new Date().toISOString(), state: "sending", error: null }));
  changeOutbox(conversation.id, (items) => [...items, ...messages]);
  for (const message of messages) await deliver(conversation, message);
}

/** The same message again, under the same key: whatever became of the first try, the customer gets it once. */
export function sendAgain(conversation, message) {
  return deliver(conversation, message);
}

export function giveUp(conversation, message) {
  changeOutbox(conversation.id, (items) => items.filter((item) => item.key !== message.key));
}

async function deliver(conversation, message) {
  const { id } = conversation;
  const mark = (change) => changeOutbox(id, (items) => items.map((item) => (item.key === message.key ? { ...item, ...change } : item)));
  mark({ state: "sending", error: null });
  try {
    const options = { headers: { "Idempotency-Key": message.key }, ...(message.file ? { timeout: FILE_TIMEOUT_MS + message.file.size * MS_PER_BYTE } : {}) };
    const reply = await api("POST", `/conversations/${encodeURIComponent(id)}/messages`, bodyOf(message), options);
    mark({ state: "accepted", replyKey: reply.key });
    replaced({ ...conversation, bot_enabled: false });
    loadCounts();
    setTimeout(() => thread.value?.id === id && refreshThread(), 600);
  } catch (error) {
    mark({ state: "failed", error });
  }
}

function bodyOf({ text, file }) {
  if (!file) return { text };
  const form = new FormData();
  form.append("file", file, file.name);
  if (text) form.append("text", text);
  return form;
}

/** What the thread shows by now leaves the outbox. */
function settleOutbox(id) {
  const waiting = outbox.value[id];
  if (!waiting?.length) return;
  const shownKeys = thread.value.messages.map((message) => message.outbound_key).filter(Boolean);
  const left = waiting.filter((item) => !item.replyKey || !shownKeys.some((key) => key.startsWith(item.replyKey)));
  if (left.length !== waiting.length) changeOutbox(id, () => left);
}

/** What the list says of a conversation in one line. */
export const titleOf = (conversation) => contactName(conversation.contact) || t("contact.unknown");
