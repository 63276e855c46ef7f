// The parts that every screen is made of.
import { signal } from "@preact/signals";
import { useCallback, useEffect, useId, useRef, useState } from "preact/hooks";
import { exactly, moment } from "./format.js";
import { html } from "./html.js";
import { t } from "./i18n.js";
import { Icon } from "./icons.js";
import { onWake } from "./wake.js";

export const Spinner = ({ label }) => html`<span class="spinner" role="status"><span class="visually-hidden">${label ?? t("ui.loading")}</span></span>`;

export const Loading = () => html`<div class="loading"><${Spinner} /></div>`;

/** An empty place: what it is for, and what to do. */
export const Empty = ({ icon, title, hint, children }) => html`
  <div class="empty">${icon && html`<${Icon} name=${icon} size=${36} />`}<h2>${title}</h2>${hint && html`<p>${hint}</p>`}${children}</div>`;

const RETRY_MS = 3000;

/** What happened, what to try, and the id by which the operator finds it in the logs. While something is away `retry` is
 * called by itself, once for each failure, unless `isCostly`. */
export function Problem({ error, retry, hint, isCostly = false }) {
  const isRetried = Boolean(retry && error.isPassing && !isCostly);
  useEffect(() => {
    if (!isRetried) return undefined;
    const timer = setInterval(() => {
      if (document.visibilityState !== "visible") return;
      clearInterval(timer);
      retry();
    }, RETRY_MS);
    return () => clearInterval(timer);
  }, [error, isRetried]);
  return html`
  <div class="problem ${error.isMissing ? "missing" : ""}" role=${error.isMissing ? "note" : "alert"}>
    <${Icon} name=${error.isMissing ? "help" : "alert"} />
    <div>
      <p>${error.isMissing ? t("error.missing_part") : error.message}</p>
      ${(hint || isRetried) && html`<p class="quiet">${[hint, isRetried && t("ui.retries")].filter(Boolean).join(" ")}</p>`}
      ${error.requestId && !error.isMissing && html`<p class="quiet">${t("error.request", { id: error.requestId })}</p>`}
      ${retry && !isRetried && html`<${Button} onClick=${retry}>${t("ui.retry")}</${Button}>`}
    </div>
  </div>`;
}

/** A button whose `onClick` may take its time: it is busy meanwhile, and what goes wrong is told. */
export function Button({ kind = "plain", onClick, busy = false, disabled = false, icon, label, children, type = "button", ...more }) {
  const [isRunning, setRunning] = useState(false);
  const isHere = useRef(true);
  useEffect(() => () => { isHere.current = false; }, []);
  const run = async (event) => {
    if (!onClick || isRunning) return;
    setRunning(true);
    try {
      await onClick(event);
    } catch (error) {
      tellError(error);
    } finally {
      if (isHere.current) setRunning(false);
    }
  };
  return html`<button type=${type} class="button ${kind}" onClick=${onClick ? run : null} disabled=${disabled}
    aria-busy=${busy || isRunning} aria-label=${label} title=${label} ...${more}>
    ${busy || isRunning ? html`<${Spinner} label="" />` : icon && html`<${Icon} name=${icon} />`}${children && html`<span>${children}</span>`}</button>`;
}

export const Badge = ({ kind = "", children }) => html`<span class="badge ${kind}">${children}</span>`;

export const Time = ({ at, format }) => (at ? html`<time datetime=${new Date(at).toISOString()} title=${exactly(at)}>${format(at)}</time>` : "");

/** Links to the parts of a screen: [[name, href, words], …]. The open one is in view, also where they are wider than the page. */
export function Tabs({ label, links, current }) {
  const box = useRef(null);
  useEffect(() => box.current.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }), [current]);
  return html`<nav class="tabs" aria-label=${label} ref=${box}>${links.map(([name, href, words]) => html`<a key=${name} href=${href} aria-current=${name === current ? "page" : null}>${words}</a>`)}</nav>`;
}

/** A labelled input. `render(attributes)` draws it; `error` is told beside it and read with it. */
export function Field({ label, help, error, render, extra }) {
  const id = useId();
  const described = [help && `${id}-help`, error && `${id}-error`].filter(Boolean).join(" ");
  return html`<div class="field ${error ? "wrong" : ""}">
    <div class="field-head"><label for=${id}>${label}</label>${extra}</div>
    ${render({ id, "aria-describedby": described || null, "aria-invalid": error ? "true" : null })}
    ${error && html`<p class="field-error" id="${id}-error">${error}</p>`}
    ${help && html`<p class="field-help" id="${id}-help">${help}</p>`}
  </div>`;
}

/** A part of a screen that loads by itself: nothing else waits for it, and its failure is its own. */
export function useLoad(load, deps) {
  const [state, setState] = useState({ data: null, at: null, error: null, isLoading: true });
  const turn = useRef(0);
  const reload = useCallback(async () => {
    const mine = (turn.current += 1);
    setState((before) => ({ ...before, isLoading: true }));
    try {
      const data = await load();
      if (mine === turn.current) setState({ data, at: Date.now(), error: null, isLoading: false });
    } catch (error) {
      if (mine === turn.current) setState((before) => ({ ...before, error, isLoading: false }));
    }
  }, deps);
  useEffect(() => {
    setState({ data: null, at: null, error: null, isLoading: true });
    reload();
    return () => { turn.current += 1; };
  }, [reload]);
  return { ...state, reload };
}

/** Calls `work` every `ms` while the page is in view, and when it comes into view; without `ms` never. */
export function useEvery(ms, work, deps) {
  useEffect(() => {
    if (!ms) return undefined;
    const look = () => document.visibilityState === "visible" && work();
    const timer = setInterval(look, ms);
    const unwatchSleep = onWake(look);
    return () => {
      clearInterval(timer);
      unwatchSleep();
    };
  }, [ms, ...deps]);
}

/** A card with a heading that shows its loading, its error, its emptiness or its content. After an error the last content
 * stays, with its time. */
export function Section({ title, hint, load, deps = [], every, actions, empty, children, isEmpty = (data) => Array.isArray(data) && !data.length }) {
  const loaded = useLoad(load, deps);
  useEvery(every, loaded.reload, [loaded.reload]);
  const { data, at, error, reload } = loaded;
  const asOf = error && !error.isMissing && data !== null && t("ui.as_of", { time: moment(at) });
  return html`<section class="card">
    <header><div><h2>${title}</h2>${hint && html`<p class="quiet">${hint}</p>`}</div>${data !== null && actions?.(data, reload)}</header>
    ${error && html`<${Problem} error=${error} hint=${asOf} retry=${error.isMissing ? null : reload} />`}
    ${data === null ? !error && html`<${Loading} />` : isEmpty(data) ? html`<p class="none">${empty}</p>` : children(data, reload)}
  </section>`;
}

// --- short messages -------------------------------------------------------------------------------------------------

export const toasts = signal([]);
let lastToast = 0;
const TOAST_MS = { info: 5000, error: 10_000 };

export function tell(text, kind = "info") {
  const id = (lastToast += 1);
  toasts.value = [...toasts.value.slice(-3), { id, text, kind }];
  setTimeout(() => dismiss(id), TOAST_MS[kind]);
}

export function tellError(error) {
  if (error?.name === "AbortError") return;
  if (!error?.code) console.error(error);
  tell(error.isMissing ? t("error.missing_part") : error.message, "error");
}

const dismiss = (id) => (toasts.value = toasts.value.filter((toast) => toast.id !== id));

export const Toasts = () => html`<div class="toasts" role="status" aria-live="polite">
  ${toasts.value.map(({ id, text, kind }) => html`<div key=${id} class="toast ${kind}"><p>${text}</p>
    <button type="button" class="button bare" aria-label=${t("ui.close")} onClick=${() => dismiss(id)}><${Icon} name="close" size=${16} /></button></div>`)}
</div>`;

// --- dialogs --------------------------------------------------------------------------------------------------------

const dialog = signal(null);

/** Show `render(close)` in a dialog; resolves to what `close(value)` was called with, undefined when it was dismissed.
 *  `kind`: a class of its own. The focus returns to where it was. */
export const openDialog = (title, render, { kind = "" } = {}) =>
  new Promise((resolve) => {
    dialog.value = { title, render, kind, resolve };
  });

/** Ask before something that cannot be undone. Resolves to true or false; with `input` to its text or undefined. */
export const confirm = ({ title, text, action, danger = false, input }) =>
  openDialog(title, (close) => html`<${Question} ...${{ text, action, danger, input, close }} />`).then((answer) => (input ? answer : answer === true));

function Question({ text, action, danger, input, close }) {
  const [value, setValue] = useState(input?.value ?? "");
  const isReady = !input || (input.matches ? value.trim() === input.matches : value.trim() !== "");
  const submit = (event) => {
    event.preventDefault();
    if (isReady) close(input ? value.trim() : true);
  };
  return html`<form onSubmit=${submit}>
    <p>${text}</p>
    ${input && html`<${Field} label=${input.label} help=${input.help} render=${(attributes) => html`<input type="text" maxlength=${input.max ?? 200}
      value=${value} onInput=${(event) => setValue(event.target.value)} autocomplete="off" ...${attributes} />`} />`}
    <div class="buttons"><${Button} onClick=${() => close()}>${t("ui.cancel")}</${Button}>
      <${Button} type="submit" kind=${danger ? "danger" : "primary"} disabled=${!isReady}>${action}</${Button}></div>
  </form>`;
}

export function Dialogs() {
  const box = useRef(null);
  const shown = dialog.value;
  useEffect(() => {
    if (!shown || !box.current || box.current.open) return;
    box.current.showModal();
    box.current.querySelector("form :is(input, select, textarea)")?.focus(); // else it is the button that closes
  }, [shown]);
  if (!shown) return null;
  const close = (value) => {
    dialog.value = null;
    box.current?.close(); // returns the focus, which taking the element away would not
    shown.resolve(value);
  };
  return html`<dialog ref=${box} class="dialog ${shown.kind}" onClose=${() => dialog.value === shown && close()} aria-labelledby="dialog-title">
    <header><h2 id="dialog-title">${shown.title}</h2>
      <button type="button" class="button bare" aria-label=${t("ui.close")} onClick=${() => close()}><${Icon} name="close" /></button></header>
    ${shown.render(close)}
  </dialog>`;
}

/** A secret that is shown once. */
export function Secret({ value, hint }) {
  const copy = async () => {
    await navigator.clipboard.writeText(value);
    tell(t("ui.copied"));
  };
  return html`<div class="secret"><p>${hint}</p><code tabindex="0">${value}</code><${Button} onClick=${copy}>${t("ui.copy")}</${Button}></div>`;
}
