// Who answers in a conversation, and how long the reader may still write.
const WINDOW_MS = 24 * 3600 * 1000;

/** "bot", "person", or "no_one": the bot is silent and a customer waits. */
export function holder(conversation, now = Date.now()) {
  if (conversation.contact.group_id) return "group";
  if (conversation.opted_out_since ?? conversation.opted_out_at) return "opted_out";
  if (conversation.bot_enabled && !isPaused(conversation, now)) return "bot";
  return conversation.needs_human ? "no_one" : "person";
}

/** The bot is silent for a while because a person is to come. */
export const isPaused = (conversation, now = Date.now()) => Boolean(conversation.bot_paused_until) && Date.parse(conversation.bot_paused_until) > now;

/** Milliseconds until WhatsApp takes no free text any more; 0 when it is over. */
export function windowLeft(conversation, now = Date.now()) {
  if (!conversation.last_inbound_at) return 0;
  return Math.max(0, Date.parse(conversation.last_inbound_at) + WINDOW_MS - now);
}
