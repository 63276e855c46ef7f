// The languages. A dictionary is a flat JSON file in lang/; its keys are the same in every language (a test compares).
import { signal } from "@preact/signals";

export const LANGUAGES = { en: "English", fr: "Français" };
const KEPT = "chorus.language";

export const language = signal("en");
const dictionary = signal({});
let plural = new Intl.PluralRules("en");

/** Load the person's language: what they chose, else the browser's, else English. */
export async function startLanguage() {
  const wanted = [localStorage.getItem(KEPT), ...navigator.languages.map((name) => name.slice(0, 2))];
  await load(wanted.find((name) => name in LANGUAGES) ?? "en");
}

export async function chooseLanguage(name) {
  localStorage.setItem(KEPT, name);
  await load(name);
}

async function load(name) {
  const answer = await fetch(new URL(`../lang/${name}.json`, import.meta.url));
  if (!answer.ok) throw new Error(`the dictionary ${name} answered ${answer.status}`);
  dictionary.value = await answer.json();
  plural = new Intl.PluralRules(name);
  language.value = name;
  document.documentElement.lang = name;
}

/** The text of `key`, its `{names}` filled in. With `n` the key's form for that number: `key_one`, `key_other`. */
export function t(key, values = {}) {
  const texts = dictionary.value;
  const form = "n" in values ? texts[`${key}_${plural.select(values.n)}`] ?? texts[`${key}_other`] : undefined;
  const text = form ?? texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? shown(values[name]) : whole));
}

/** Is there a text for this key? Words of the server (codes, reasons) may be newer than the dictionary. */
export const has = (key) => key in dictionary.value;

/** The text of `prefix.word`, or the word itself in plain letters. */
export const worded = (prefix, word) => (has(`${prefix}.${word}`) ? t(`${prefix}.${word}`) : String(word).replaceAll("_", " "));

const shown = (value) => (typeof value === "number" ? number(value) : String(value));

/** For figures and times: the reader's own region, where the browser speaks the chosen language. */
export const locale = () => (language.value === region.language ? region : (region = regionOf(language.value))).name;

const regionOf = (name) => ({ language: name, name: navigator.languages.find((one) => one.startsWith(name)) ?? name });
/** Kept: every time and figure on the screen asks for it. */
let region = {};

export const number = (value, options) => new Intl.NumberFormat(locale(), options).format(value);
