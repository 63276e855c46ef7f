// Questions, offers, rules: parts of one free-form JSON object (domain/prompt.py says how the model reads them). What has the
// form that people write has fields; all of it, in whatever form, can be edited as JSON.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { Field } from "../ui.js";
import { Lines, Rows } from "./rows.js";

/** The form of a part that is not there yet; null: such a part is not offered. */
const PARTS = {
  faq: "questions", offers: "offers", conditions: "lines", procedures: "lines", special_cases: "lines", company: null, links: "pairs", escalation: "lines", system_rules: "lines", special_rules: null,
};
const isText = (value) => typeof value === "string";
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isList = (value, test) => Array.isArray(value) && value.every(test);

/** `before`: of a part that has been emptied, to be filled anew in the same fields. */
function formOf(name, value, before = PARTS[name]) {
  if (value === undefined || value === null || value.length === 0) return before;
  if (isText(value) || isList(value, isText)) return "lines";
  if (isList(value, (item) => isObject(item) && isText(item.question) && isText(item.answer))) return "questions";
  if (isList(value, (item) => isObject(item) && isText(item.name) && isText(item.price ?? ""))) return "offers";
  return isObject(value) && Object.values(value).every(isText) ? "pairs" : "json";
}

/** Entries with two texts that are edited; what else is in an entry stays. */
const ofKeys = (first, second) => ({
  toRows: (list) => (list ?? []).map((item) => [item[first], item[second] ?? "", item]),
  ofRows: (rows) => rows.map(([one, two, item]) => ({ ...item, [first]: one, [second]: two })),
});
const FORMS = {
  questions: ofKeys("question", "answer"),
  offers: ofKeys("name", "price"),
  pairs: { toRows: (object) => Object.entries(object ?? {}), ofRows: (rows) => Object.fromEntries(rows) },
};

export function Template({ field, value, onChange, onInvalid }) {
  const forms = useRef({});
  const formNow = (name) => {
    const form = formOf(name, value?.[name], forms.current[name]);
    if (form !== "json") forms.current[name] = form;
    return form;
  };
  const change = (name, part) => {
    const { [name]: _before, ...others } = value;
    const isEmpty = isList(part, () => false) || (isObject(part) && Object.keys(part).length === 0);
    onInvalid(null);
    onChange(isEmpty ? others : { ...value, [name]: part });
  };
  return html`${Object.keys(PARTS).map((name) => html`<${Part} key=${name} name=${name} form=${formNow(name)} value=${value?.[name]} onChange=${(part) => change(name, part)} />`)}
    <details class="as-json"><summary>${t("bot.as_json")}</summary><p class="field-help">${t("bot.as_json_help")}</p>
      <${Json} value=${value} onChange=${onChange} onInvalid=${onInvalid} attributes=${{ "aria-label": `${t(`bot.${field.name}`)}: JSON` }} /></details>`;
}

function Part({ name, form, value, onChange }) {
  if (!form) return null;
  const label = t(`bot.part.${name}`);
  if (form === "lines") {
    return html`<${Field} label=${label} help=${t("bot.part_lines")} render=${(attributes) => html`<${Lines} value=${isText(value) ? value.split("\n") : value} onChange=${onChange} attributes=${attributes} />`} />`;
  }
  if (form === "json") return html`<div class="field"><p class="field-label">${label}</p><p class="field-help">${t("bot.part_json")}</p></div>`;
  return html`<fieldset class="field"><legend class="field-label">${label}</legend>
    <${Rows} value=${value} onChange=${onChange} names=${[t(`bot.${form}_first`), t(`bot.${form}_second`)]} add=${t(`bot.${form}_add`)} ...${FORMS[form]} /></fieldset>`;
}

/** Free-form JSON, kept as it is typed until it can be read. */
export function Json({ value, onChange, onInvalid, attributes }) {
  const [draft, setDraft] = useState(() => JSON.stringify(value, null, 2));
  const told = useRef(value);
  useEffect(() => {
    if (value !== told.current) setDraft(JSON.stringify(value, null, 2));
    told.current = value;
  }, [value]);
  const changed = (event) => {
    setDraft(event.target.value);
    try {
      const found = JSON.parse(event.target.value.trim() || "{}");
      if (!isObject(found)) throw new Error(t("bot.json_object"));
      onInvalid(null);
      told.current = found;
      onChange(found);
    } catch (problem) {
      onInvalid(t("bot.json", { why: problem.message }));
    }
  };
  const rows = Math.min(18, Math.max(4, draft.split("\n").length));
  return html`<textarea class="code" rows=${rows} spellcheck=${false} value=${draft} onInput=${changed} ...${attributes}></textarea>`;
}
