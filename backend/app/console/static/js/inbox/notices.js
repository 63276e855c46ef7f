// A desktop notification and a mark in the title when a customer needs a person.
import { effect } from "@preact/signals";
import { contactName } from "../format.js";
import { has, t } from "../i18n.js";
import { wantsNotices } from "../preferences.js";
import { go, route } from "../router.js";

const TOLD_MS = 60_000;
const TABS_MS = 500;
const told = new Map();
/** The person's other tabs: one of them has told it, or is being looked at. */
const tabs = new BroadcastChannel("chorus.notices");
tabs.onmessage = ({ data: id }) => told.set(id, Date.now());

/** Without the customer's words: a notification may be seen by people who pass. `find(id)` resolves to the conversation, or null. */
export async function notifyNeeds(id, find, account) {
  if (document.hasFocus()) return tabs.postMessage(id);
  if (!wantsNotices.value || Notification.permission !== "granted") return undefined;
  await new Promise((resolve) => setTimeout(resolve, TABS_MS));
  const now = Date.now();
  for (const [one, at] of told) if (now - at > TOLD_MS) told.delete(one);
  if (told.has(id)) return undefined;
  told.set(id, now);
  tabs.postMessage(id);
  const conversation = await find(id);
  const notice = new Notification(t("notice.title"), {
    body: conversation ? t("notice.body", { name: contactName(conversation.contact) }) : t("notice.body_unknown"),
    tag: id,
  });
  notice.onclick = () => {
    window.focus();
    go({ screen: "inbox", account, view: "needs", id });
    notice.close();
  };
  return undefined;
}

export function markTitle(count) {
  effect(() => {
    const waiting = count.value;
    const { screen } = route.value;
    const name = has(`nav.${screen}`) ? `${t(`nav.${screen}`)} · Chorus` : "Chorus";
    document.title = waiting > 0 ? `(${waiting}) ${name}` : name;
  });
}
