// A desktop notification and a mark in the title when a customer needs a person.
import { effect } from "@preact/signals";
import { contactName } from "../format.js";
import { t } from "../i18n.js";
import { wantsNotices } from "../preferences.js";
import { go } from "../router.js";

const TOLD_MS = 60_000;
const told = new Map();

/** Without the customer's words: a notification may be seen by people who pass. */
export function notifyNeeds(event, conversations, account) {
  if (!wantsNotices.value || document.hasFocus() || Notification.permission !== "granted") return;
  const now = Date.now();
  for (const [id, at] of told) if (now - at > TOLD_MS) told.delete(id);
  if (told.has(event.conversation_id)) return;
  told.set(event.conversation_id, now);
  const conversation = conversations.find((item) => item.id === event.conversation_id);
  const notice = new Notification(t("notice.title"), {
    body: conversation ? t("notice.body", { name: contactName(conversation.contact) }) : t("notice.body_unknown"),
    tag: event.conversation_id,
  });
  notice.onclick = () => {
    window.focus();
    go({ screen: "inbox", account, view: "needs", id: event.conversation_id });
    notice.close();
  };
}

export function markTitle(count) {
  effect(() => {
    const waiting = count.value;
    document.title = waiting > 0 ? `(${waiting}) Chorus` : "Chorus";
  });
}
