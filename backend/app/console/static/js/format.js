// Times in the reader's own time zone and language, and other figures in words.
import { locale, number, t } from "./i18n.js";
import { today } from "./wake.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** To make a formatter costs a hundred times what it costs to use it. */
function of(options) {
  const made = new Map();
  return (at) => {
    const name = locale();
    let formatter = made.get(name);
    if (!formatter) made.set(name, (formatter = new Intl.DateTimeFormat(name, options)));
    return formatter.format(new Date(at));
  };
}

export const clock = of({ hour: "2-digit", minute: "2-digit" });
export const moment = of({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const dateAndTime = of({ dateStyle: "medium", timeStyle: "short" });
export const exactly = of({ dateStyle: "full", timeStyle: "medium" });
export const day = of({ dateStyle: "medium" });
const weekday = of({ weekday: "short" });
const shortDay = of({ day: "numeric", month: "short" });
const shortDate = of({ day: "numeric", month: "numeric", year: "2-digit" });
const longDay = of({ weekday: "long", day: "numeric", month: "long" });
export const fullDay = of({ weekday: "long", day: "numeric", month: "long", year: "numeric" });

const isOfThisYear = (at) => new Date(at).getFullYear() === new Date(today.value).getFullYear();

export const dayKey = (at) => new Date(at).toDateString();

/** For lists: the time today, the weekday this week, else the date. */
export function listTime(at) {
  if (dayKey(at) === today.value) return clock(at);
  return Date.now() - new Date(at) < 6 * DAY ? weekday(at) : isOfThisYear(at) ? shortDay(at) : shortDate(at);
}

/** The time today, else with its date. */
export const dueTime = (at) => (dayKey(at) === today.value ? clock(at) : dateAndTime(at));

/** Between messages: today, yesterday, else the date. */
export function dayName(at) {
  const now = new Date(today.value);
  if (dayKey(at) === today.value) return t("time.today");
  if (dayKey(at) === dayKey(now.setDate(now.getDate() - 1))) return t("time.yesterday");
  return isOfThisYear(at) ? longDay(at) : fullDay(at);
}

/** A span in its two largest units: "3 h 20 min". */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return t("time.seconds", { s });
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return t("time.minutes", { m: minutes });
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? t("time.hours_minutes", { h: hours, m: minutes % 60 }) : t("time.hours", { h: hours });
  return t("time.days", { d: Math.floor(hours / 24) });
}

export const ago = (at) => t("time.ago", { span: span((Date.now() - new Date(at)) / 1000) });

export function bytes(count) {
  if (count < 1000) return t("unit.bytes", { n: count });
  const [value, unit] = count < 1e6 ? [count / 1e3, "kilobytes"] : count < 1e9 ? [count / 1e6, "megabytes"] : [count / 1e9, "gigabytes"];
  return t(`unit.${unit}`, { value: number(value, { maximumFractionDigits: 1 }) });
}

export const percent = (share) => number(share, { style: "percent", maximumFractionDigits: 1 });

/** How a customer is called: name, else number, else the group. */
export function contactName(contact) {
  return contact.name?.trim() || phone(contact.wa_id) || contact.user_id || (contact.group_id ? t("contact.group", { id: contact.group_id.split("@")[0] }) : t("contact.unknown"));
}

export const phone = (digits) => (digits ? `+${digits.replace(/^\+/, "")}` : "");

/** Of the first two words; empty for a number, or a name without letters. */
export const initials = (name) =>
  name.replace(/[^\p{L} ]/gu, "").trim().split(/\s+/).slice(0, 2).map((word) => [...word][0] ?? "").join("").toUpperCase();
