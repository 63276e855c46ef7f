// Texts that belong together: lines, and rows of two texts each.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { Button } from "../ui.js";

/** Words, phrases or sentences, one to a line. `value`: a list. */
export function Lines({ value, onChange, attributes }) {
  const [draft, setDraft] = useState(() => (value ?? []).join("\n"));
  const told = useRef(value);
  useEffect(() => {
    if (value !== told.current) setDraft((value ?? []).join("\n"));
    told.current = value;
  }, [value]);
  const changed = (event) => {
    setDraft(event.target.value);
    told.current = event.target.value.split("\n").map((line) => line.trim()).filter(Boolean);
    onChange(told.current);
  };
  return html`<textarea rows=${Math.min(8, Math.max(3, draft.split("\n").length))} value=${draft} onInput=${changed} dir="auto" ...${attributes}></textarea>`;
}

/** `toRows(value)`: [[first, second, whatever the entry has besides], …], `ofRows(rows)` the other way; rows without a first
 *  text are not told. `names`: of the two texts. */
export function Rows({ value, onChange, toRows, ofRows, names, add }) {
  const told = useRef(value);
  const [rows, setRows] = useState(() => toRows(value));
  useEffect(() => {
    // Who takes what is told may keep nothing of what is empty: rows whose first text is being written anew stay.
    const isKept = value === told.current || (value === undefined && Object.keys(told.current ?? {}).length === 0);
    if (!isKept) setRows(toRows(value));
    told.current = value;
  }, [value]);
  const tell = (next) => {
    setRows(next);
    told.current = ofRows(next.filter(([first]) => first.trim()).map(([first, ...rest]) => [first.trim(), ...rest]));
    onChange(told.current);
  };
  const edit = (index, part, text) => tell(rows.map((row, n) => (n === index ? row.with(part, text) : row)));
  return html`<div class="pairs">${rows.map((row, index) => html`<div class="pair" key=${index}>
      ${names.map((name, part) => html`<textarea key=${part} rows="1" aria-label=${name} placeholder=${name} value=${row[part]} onInput=${(event) => edit(index, part, event.target.value)} dir="auto"></textarea>`)}
      <${Button} kind="bare" icon="close" label=${t("bot.pair_remove", { name: row[0] })} onClick=${() => tell(rows.toSpliced(index, 1))} /></div>`)}
    <${Button} kind="small" icon="plus" onClick=${() => tell([...rows, ["", "", undefined]])}>${add}</${Button}></div>`;
}
