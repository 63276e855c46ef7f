// The inputs of a profile's fields. Each gets its value and tells a new one; what cannot be a value is told as an error.
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { has, number, t, worded } from "../i18n.js";
import { Button, Field } from "../ui.js";
import { Lines, Rows } from "./rows.js";
import { Json, Template } from "./template.js";

const helpOf = (name) => (has(`bot.${name}_help`) ? t(`bot.${name}_help`) : null);
const labelOf = (name) => (has(`bot.${name}`) ? t(`bot.${name}`) : name.replaceAll("_", " "));

/** onChange(value), onInvalid(words or null): the form is not saved while a field is invalid. */
export function Editor({ field, value, error, isChanged, onChange, onInvalid }) {
  const props = { field, value, onChange, onInvalid };
  if (field.kind === "switch") {
    return html`<div class="field ${error ? "wrong" : ""}" data-field=${field.name}><label class="switch"><input type="checkbox" role="switch" checked=${value === true} onChange=${(event) => onChange(event.target.checked)} />
      <span><span class="field-label">${labelOf(field.name)}</span>${isChanged && html`<${Changed} />`}<span class="field-help">${helpOf(field.name)}</span></span></label>
      ${error && html`<p class="field-error">${error}</p>`}</div>`;
  }
  const Group = { pairs: Pairs, template: Template, week: Week, words: Words, several: Several }[field.kind];
  if (Group) {
    return html`<fieldset class="field ${error ? "wrong" : ""}" data-field=${field.name}><legend class="field-label">${labelOf(field.name)}${isChanged && html`<${Changed} />`}</legend>
      ${helpOf(field.name) && html`<p class="field-help">${helpOf(field.name)}</p>`}
      <${Group} ...${props} />
      ${error && html`<p class="field-error">${error}</p>`}</fieldset>`;
  }
  const Input = { text: Text, area: Text, number: Figure, choice: Choice, json: Json }[field.kind];
  return html`<div data-field=${field.name}><${Field} label=${labelOf(field.name)} help=${helpOf(field.name)} error=${error}
    extra=${html`<span class="field-extra">${isChanged && html`<${Changed} />`}${typeof value === "string" && value.length > field.max * 0.8 && html`<span class="quiet">${number(value.length)} / ${number(field.max)}</span>`}</span>`}
    render=${(attributes) => html`<${Input} ...${props} attributes=${attributes} />`} /></div>`;
}

const Changed = () => html`<span class="changed">${t("bot.changed")}</span>`;

function Text({ field, value, onChange, attributes }) {
  const changed = (event) => onChange(event.target.value === "" && field.nullable ? null : event.target.value);
  const props = { ...attributes, value: value ?? "", maxlength: field.max, onInput: changed, dir: "auto" };
  return field.kind === "text" ? html`<input type="text" autocomplete="off" ...${props} />` : html`<textarea rows=${field.rows} ...${props}></textarea>`;
}

function Figure({ field, value, onChange, onInvalid, attributes }) {
  const { unit = 1 } = field;
  const [min, max] = [field.min, field.max].map((bound) => (bound === undefined ? undefined : bound / unit));
  const changed = ({ target }) => {
    if (target.value === "" && !target.validity.badInput && field.nullable) return onInvalid(null), onChange(null);
    const isRight = target.value !== "" && target.validity.valid;
    onInvalid(isRight ? null : t("bot.range", { min: min ?? "−∞", max: max ?? "∞" }));
    if (isRight) onChange(unit === 1 ? target.valueAsNumber : Math.round(target.valueAsNumber * unit));
  };
  return html`<input type="number" class="short" min=${min} max=${max} step=${field.step ?? "any"} placeholder=${field.nullable ? t("bot.default") : null} value=${typeof value === "number" ? value / unit : ""} onInput=${changed} ...${attributes} />`;
}

const Choice = ({ field, value, onChange, attributes }) => html`<select ...${attributes} value=${value} onChange=${(event) => onChange(event.target.value)}>
  ${[...new Set([...field.options, value])].map((option) => html`<option key=${option} value=${option}>${has(`bot.${field.name}.${option}`) ? t(`bot.${field.name}.${option}`) : option}</option>`)}</select>`;

/** Some of the options, in their order; one of a newer server stays. */
function Several({ field, value, onChange }) {
  const chosen = new Set(value ?? []);
  const options = [...new Set([...field.options, ...chosen])];
  const change = (option, isChosen) => onChange(options.filter((each) => (each === option ? isChosen : chosen.has(each))));
  return html`<div class="several">${options.map((option) => html`<label key=${option}><input type="checkbox" checked=${chosen.has(option)}
    onChange=${(event) => change(option, event.target.checked)} />${worded("type", option)}</label>`)}</div>`;
}

const isLines = (value) => Array.isArray(value) && value.every((one) => typeof one === "string" && !one.includes("\n"));

/** Labels with values. A list of texts has one to a line; what is neither is edited as JSON. */
const Pairs = ({ value, onChange }) => html`<${Rows} value=${value} onChange=${onChange} names=${[t("bot.pair_label"), t("bot.pair_value")]} add=${t("bot.pair_add")}
  toRows=${(pairs) => Object.entries(pairs ?? {}).map(([label, one]) => typeof one === "string" ? [label, one, asText] : isLines(one) ? [label, one.join("\n"), asLines] : [label, JSON.stringify(one), asJson])}
  ofRows=${(rows) => Object.fromEntries(rows.map(([label, text, read = asText]) => [label, read(text)]))} />`;

const asText = (text) => text;
const asLines = (text) => text.split("\n").filter((line) => line.trim());

function asJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const Words = ({ field, value, onChange }) => html`<${Lines} value=${value} onChange=${onChange} attributes=${{ "aria-label": labelOf(field.name) }} />`;

const DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const NEW_RANGE = ["09:00", "18:00"];

/** When people are there: ranges for each day of the week, in a time zone, and days that are different. */
function Week({ value, onChange }) {
  if (value === null || value === undefined) {
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    const weekdays = Object.fromEntries(DAYS.slice(0, 5).map((name) => [name, [NEW_RANGE]]));
    return html`<p class="none">${t("bot.week_none")}</p><${Button} kind="small" icon="plus" onClick=${() => onChange({ time_zone: zone, weekly: weekdays, exceptions: {} })}>${t("bot.week_set")}</${Button}>`;
  }
  const weekly = value.weekly ?? {};
  const exceptions = value.exceptions ?? {};
  const setDay = (name, ranges) => onChange({ ...value, weekly: ranges.length ? { ...weekly, [name]: ranges } : without(weekly, name) });
  const setDate = (date, ranges) => onChange({ ...value, exceptions: { ...exceptions, [date]: ranges } });
  return html`<div class="week">
    <${Field} label=${t("bot.week_zone")} render=${(attributes) => html`<input type="text" list="time-zones" value=${value.time_zone} onInput=${(event) => onChange({ ...value, time_zone: event.target.value })} ...${attributes} />`} />
    <datalist id="time-zones">${Intl.supportedValuesOf("timeZone").map((zone) => html`<option key=${zone} value=${zone} />`)}</datalist>
    ${DAYS.map((name) => html`<${Day} key=${name} label=${t(`day.${name}`)} ranges=${weekly[name] ?? []} onChange=${(ranges) => setDay(name, ranges)} />`)}
    <h3>${t("bot.week_exceptions")}</h3>
    ${Object.entries(exceptions).map(([date, ranges]) => html`<${Day} key=${date} label=${date} ranges=${ranges} onChange=${(next) => setDate(date, next)} onRemove=${() => onChange({ ...value, exceptions: without(exceptions, date) })} />`)}
    <${NewDate} onAdd=${(date) => setDate(date, [])} />
    <${Button} kind="small" onClick=${() => onChange(null)}>${t("bot.week_clear")}</${Button}>
  </div>`;
}

const without = (object, name) => Object.fromEntries(Object.entries(object).filter(([key]) => key !== name));

const Day = ({ label, ranges, onChange, onRemove }) => html`<div class="day-row" role="group" aria-label=${label}><span class="day-name">${label}</span>
  <span class="ranges">${ranges.length === 0 && html`<span class="quiet">${t("bot.week_closed")}</span>`}
    ${ranges.map(([from, to], index) => html`<span class="range" key=${index}>
      <input type="time" aria-label=${t("bot.week_from", { day: label })} value=${from} onInput=${(event) => event.target.value && onChange(ranges.with(index, [event.target.value, to]))} /> –
      <input type="time" aria-label=${t("bot.week_to", { day: label })} value=${to === "24:00" ? "00:00" : to} onInput=${(event) => event.target.value && onChange(ranges.with(index, [from, event.target.value]))} />
      <${Button} kind="bare" icon="close" label=${t("bot.week_remove", { day: label })} onClick=${() => onChange(ranges.toSpliced(index, 1))} /></span>`)}</span>
  <span class="day-tools"><${Button} kind="bare" icon="plus" label=${t("bot.week_add", { day: label })} onClick=${() => onChange([...ranges, NEW_RANGE])} />
    ${onRemove && html`<${Button} kind="bare" icon="close" label=${t("bot.week_forget", { day: label })} onClick=${onRemove} />`}</span></div>`;

function NewDate({ onAdd }) {
  const [date, setDate] = useState("");
  const add = () => {
    if (date) onAdd(date);
    setDate("");
  };
  return html`<div class="new-date"><input type="date" aria-label=${t("bot.week_date")} value=${date} onInput=${(event) => setDate(event.target.value)} />
    <${Button} kind="small" icon="plus" disabled=${!date} onClick=${add}>${t("bot.week_date_add")}</${Button}></div>`;
}
