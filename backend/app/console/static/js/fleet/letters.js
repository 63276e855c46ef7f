// Events that were given up on: filtered, looked at (masked), put back, or dropped.
import { useState } from "preact/hooks";
import { api, query } from "../api.js";
import { bytes, dateAndTime } from "../format.js";
import { html } from "../html.js";
import { number, t, worded } from "../i18n.js";
import { Button, confirm, openDialog, Section, tell, Time } from "../ui.js";

const PAGE = 100;

export function Letters() {
  const [kind, setKind] = useState("");
  const [words, setWords] = useState("");
  const [chosen, setChosen] = useState(new Set());
  const [more, setMore] = useState({ items: [], cursor: null });
  const load = async () => {
    const page = await api("GET", `/admin/dead-letters?${query({ limit: PAGE })}`);
    setMore({ items: [], cursor: page.next_cursor });
    setChosen(new Set());
    return page.items;
  };
  const next = async () => {
    const page = await api("GET", `/admin/dead-letters?${query({ limit: PAGE, cursor: more.cursor })}`);
    setMore({ items: [...more.items, ...page.items], cursor: page.next_cursor });
  };
  const act = async (what, reload) => {
    const ids = [...chosen];
    if (!(await confirm({ title: t(`letters.${what}`), text: t(`letters.${what}_text`, { n: ids.length }), action: t(`letters.${what}`), danger: what === "drop" }))) return;
    const done = await api("POST", `/admin/dead-letters/${what}`, { ids });
    tell(t(`letters.${what}_done`, { n: done.replayed ?? done.dropped }));
    await reload();
  };
  return html`<${Section} title=${t("letters.title")} hint=${t("letters.hint")} load=${load} empty=${t("letters.none")}>
    ${(first, reload) => {
      const all = [...first, ...more.items];
      const kinds = [...new Set(all.map((letter) => letter.kind))];
      const wanted = words.trim().toLowerCase();
      const shown = all.filter((letter) => (!kind || letter.kind === kind) && (!wanted || `${letter.event} ${letter.reason} ${letter.phone_number_id ?? ""}`.toLowerCase().includes(wanted)));
      const isAll = shown.length > 0 && shown.every((letter) => chosen.has(letter.id));
      const toggle = (ids, on) => setChosen((before) => new Set(on ? [...before, ...ids] : [...before].filter((id) => !ids.includes(id))));
      return html`<div class="tools"><label class="check"><input type="checkbox" checked=${isAll} onChange=${() => toggle(shown.map((letter) => letter.id), !isAll)} />${t("letters.choose_all")}</label><select aria-label=${t("letters.kind")} value=${kind} onChange=${(event) => setKind(event.target.value)}><option value="">${t("letters.all_kinds")}</option>${kinds.map((name) => html`<option key=${name} value=${name}>${worded("letter", name)}</option>`)}</select>
          <input type="search" placeholder=${t("letters.filter")} aria-label=${t("letters.filter")} value=${words} onInput=${(event) => setWords(event.target.value)} />
          <${Button} disabled=${!chosen.size} onClick=${() => act("replay", reload)}>${t("letters.replay")}${chosen.size > 0 && ` (${number(chosen.size)})`}</${Button}><${Button} kind="danger" disabled=${!chosen.size} onClick=${() => act("drop", reload)}>${t("letters.drop")}${chosen.size > 0 && ` (${number(chosen.size)})`}</${Button}></div>
        <div class="table-box" tabindex="0"><table class="stack"><thead><tr><td></td><th>${t("letters.event")}</th><th>${t("letters.reason")}</th><th class="num">${t("letters.attempts")}</th><th>${t("letters.parked")}</th><th><span class="visually-hidden">${t("ui.actions")}</span></th></tr></thead>
        <tbody>${shown.map((letter) => html`<tr key=${letter.id}><td><input type="checkbox" aria-label=${t("letters.choose", { id: letter.event })} checked=${chosen.has(letter.id)} onChange=${(event) => toggle([letter.id], event.target.checked)} /></td>
          <td class="wrap">${worded("letter", letter.kind)}<br /><code class="quiet">${letter.event}</code></td><td class="wrap">${letter.reason}</td><td class="num" data-label=${t("letters.attempts")}>${number(letter.attempts)}</td><td><${Time} at=${letter.parked_at * 1000} format=${dateAndTime} /></td>
          <td class="end"><${Button} kind="small" onClick=${() => view(letter)}>${t("letters.view")}</${Button}></td></tr>`)}</tbody></table></div>
        ${more.cursor && html`<div class="buttons start"><${Button} kind="small" onClick=${next}>${t("ui.more")}</${Button}></div>`}`;
    }}
  </${Section}>`;
}

/** Without the customer's words: ids, times and reasons. */
const view = (letter) => openDialog(t("letters.view_title"), () => html`<dl class="facts">
  <div><dt>${t("letters.event")}</dt><dd><code>${letter.event}</code></dd></div><div><dt>${t("letters.reason")}</dt><dd>${letter.reason}</dd></div>
  <div><dt>${t("letters.size")}</dt><dd>${bytes(letter.bytes)}</dd></div>
  ${letter.accepted_at && html`<div><dt>${t("letters.accepted")}</dt><dd><${Time} at=${letter.accepted_at * 1000} format=${dateAndTime} /></dd></div>`}
  ${(letter.history ?? []).map((failure, index) => html`<div key=${index}><dt>${t("letters.failure", { n: index + 1 })}</dt><dd><${Time} at=${failure.at * 1000} format=${dateAndTime} /> · ${failure.reason}</dd></div>`)}</dl>
  <p class="quiet">${t("letters.masked")}</p>`);
