// The bot's profile: every field, what it means, and a place to try it before it is saved.
import { useEffect, useMemo, useState } from "preact/hooks";
import { AccountChoice, hasSeveral } from "../accounts.js";
import { api, query } from "../api.js";
import { Audit } from "../account/audit.js";
import { bytes, dateAndTime } from "../format.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { onEvent } from "../inbox/store.js";
import { guardLeaving } from "../router.js";
import { may, session } from "../session.js";
import { Badge, Button, confirm, Loading, Problem, tell, Time, useLoad } from "../ui.js";
import { Editor } from "./editors.js";
import { bytesOf, groupsOf, MAX_PROFILE_BYTES } from "./fields.js";
import { Simulator } from "./simulator.js";

const path = (account) => `/bot/profile?${query({ account_id: account.id })}`;
const ofProfile = (entry) => entry.action.startsWith("profile.");
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

const KEPT = "chorus.draft.profile.";

/** Unsaved edits, kept in this tab in case the session ends meanwhile. */
const keptEdits = (account) => JSON.parse(sessionStorage.getItem(KEPT + account.id) ?? "{}");

function keepEdits(account, changes) {
  if (Object.keys(changes).length) sessionStorage.setItem(KEPT + account.id, JSON.stringify(changes));
  else sessionStorage.removeItem(KEPT + account.id);
}

function show(group) {
  const part = document.getElementById(`part-${group}`);
  part.focus({ preventScroll: true });
  part.scrollIntoView();
}

export function Screen({ account }) {
  const { data, error, reload } = useLoad(() => api("GET", path(account)), [account.id]);
  if (error && !data) return html`<main class="page" tabindex="-1"><${Problem} error=${error} retry=${reload} /></main>`;
  if (!data) return html`<main class="page" tabindex="-1"><${Loading} /></main>`;
  return html`<${Form} account=${account} loaded=${data} reload=${reload} />`;
}

function Form({ account, loaded, reload }) {
  const [saved, setSaved] = useState(loaded);
  const [profile, setProfile] = useState(() => ({ ...loaded, ...keptEdits(account) }));
  const [invalid, setInvalid] = useState({});
  const [refused, setRefused] = useState(null);
  const [isElsewhere, setElsewhere] = useState(false);
  const mayEdit = may(account.id, "owner");
  useEffect(() => {
    setSaved(loaded);
    setProfile({ ...loaded, ...keptEdits(account) });
    setInvalid({});
    setElsewhere(false);
  }, [loaded]);
  const changes = useMemo(() => Object.fromEntries(Object.entries(profile).filter(([name, value]) => !same(value, saved[name]))), [profile, saved]);
  useEffect(() => keepEdits(account, changes), [changes]);
  useEffect(() => () => session.peek() && keepEdits(account, {}), []);
  const names = Object.keys(changes);
  const isDirty = names.length > 0 || Object.keys(invalid).length > 0;
  useEffect(() => {
    guardLeaving(isDirty ? () => confirm({ title: t("bot.unsaved"), text: t("bot.unsaved_text"), action: t("bot.leave"), danger: true }) : null);
    return () => guardLeaving(null);
  }, [isDirty]);
  useEffect(() => onEvent(async (event) => {
    if (event.type !== "profile.changed") return;
    const found = await api("GET", path(account)).catch(() => null);
    if (found && found.updated_at !== saved.updated_at) setElsewhere(true);
  }), [account.id, saved]);
  const change = (name, value) => {
    setProfile((before) => ({ ...before, [name]: value }));
    if (refused?.field?.split(".")[0] === name) setRefused(null);
  };
  const mark = (name, words) => setInvalid((before) => (words ? { ...before, [name]: words } : Object.fromEntries(Object.entries(before).filter(([key]) => key !== name))));
  const save = async () => {
    setRefused(null);
    try {
      const stored = await api("PUT", path(account), changes);
      setSaved(stored);
      setProfile(stored);
      setElsewhere(false);
      tell(t("bot.saved"));
    } catch (problem) {
      setRefused(problem);
      const at = problem.field && document.querySelector(`[data-field="${CSS.escape(problem.field.split(".")[0])}"]`);
      if (!at) throw problem;
      at.scrollIntoView({ block: "center" });
      at.querySelector("input, textarea, select")?.focus({ preventScroll: true });
    }
  };
  const undo = () => {
    setProfile(saved);
    setInvalid({});
    setRefused(null);
  };
  const size = bytesOf(profile);
  return html`<main class="page bot-page" tabindex="-1">
    <header class="page-head"><div><h1>${t("bot.title")}</h1><p class="quiet">${account.name}${saved.updated_at && html` · ${t("bot.changed_at")} <${Time} at=${saved.updated_at} format=${dateAndTime} />`}</p></div>
      <div class="head-tools">${hasSeveral() && html`<${AccountChoice} account=${account} />`}
        <${Button} kind="small to-simulator" onClick=${() => document.querySelector(".simulator").scrollIntoView()}>${t("sim.title")}</${Button}></div></header>
    ${isElsewhere && html`<div class="note elsewhere" role="status">${t("bot.elsewhere")} <${Button} kind="small" onClick=${() => (keepEdits(account, {}), reload())}>${t("bot.reload")}</${Button}></div>`}
    ${!mayEdit && html`<p class="note">${t("bot.read_only")}</p>`}
    <div class="columns">
      <form class="profile" onSubmit=${(event) => event.preventDefault()}>
        <nav class="tabs parts" aria-label=${t("bot.parts")}>${groupsOf(saved).map((group) => html`<button key=${group.name} type="button" onClick=${() => show(group.name)}>${t(`bot.group.${group.name}`)}</button>`)}</nav>
        <fieldset class="plain" disabled=${!mayEdit}>
          ${groupsOf(saved).map((group) => html`<section class="card" key=${group.name} id="part-${group.name}" tabindex="-1"><header><div><h2>${t(`bot.group.${group.name}`)}</h2><p class="quiet">${t(`bot.group.${group.name}_hint`)}</p></div></header>
            ${group.fields.map((field) => html`<${Editor} key=${field.name} field=${field} value=${profile[field.name]} isChanged=${field.name in changes}
              error=${invalid[field.name] ?? (refused?.field?.split(".")[0] === field.name ? refused.message : null)}
              onChange=${(value) => change(field.name, value)} onInvalid=${(words) => mark(field.name, words)} />`)}</section>`)}
        </fieldset>
        ${mayEdit && html`<${Audit} account=${account} title=${t("bot.history")} hint=${t("bot.history_hint")} only=${ofProfile} />`}
      </form>
      <${Simulator} account=${account} changes=${changes} />
    </div>
    ${isDirty && html`<div class="save-bar" role="region" aria-label=${t("bot.unsaved")}>
      <span><${Badge} kind="warm">${t("bot.changes", { n: names.length })}</${Badge}> <span class="quiet ${size > MAX_PROFILE_BYTES ? "too-much" : ""}">${t("bot.size", { size: bytes(size), most: bytes(MAX_PROFILE_BYTES) })}</span></span>
      <span class="buttons"><${Button} onClick=${undo}>${t("bot.undo")}</${Button}><${Button} kind="primary" disabled=${Object.keys(invalid).length > 0 || !names.length} onClick=${save}>${t("bot.save")}</${Button}></span></div>`}
  </main>`;
}
