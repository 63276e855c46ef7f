// Where a person writes to the customer. The draft is kept on this computer until it is sent.
import { useEffect, useRef, useState } from "preact/hooks";
import { bytes } from "../format.js";
import { html } from "../html.js";
import { number, t } from "../i18n.js";
import { Icon } from "../icons.js";
import { Button, tell } from "../ui.js";
import { send } from "./store.js";

const FILES = "image/jpeg,image/png,image/webp,audio/*,video/mp4,video/3gpp,application/pdf,text/plain,.doc,.docx,.xls,.xlsx,.ppt,.pptx";
const MAX_FILE_BYTES = 16 * 1024 * 1024;
const MAX_CHARACTERS = 20_000;
const NEAR = 1000;
const KEPT = "chorus.draft.";
const MAX_HEIGHT = 220;

const draftOf = (id) => localStorage.getItem(KEPT + id) ?? "";

function keepDraft(id, text) {
  try {
    if (text) localStorage.setItem(KEPT + id, text);
    else localStorage.removeItem(KEPT + id);
  } catch {
    // The browser's store is full or forbidden: the draft lives as long as the page.
  }
}

export function Composer({ conversation, isOpen }) {
  const [text, setText] = useState(draftOf(conversation.id));
  const [file, setFile] = useState(null);
  const box = useRef(null);
  const picker = useRef(null);
  useEffect(() => {
    const field = box.current;
    if (!field) return;
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, MAX_HEIGHT)}px`;
  }, [text]);
  // What the same person types or sends in another tab.
  useEffect(() => {
    const changed = (event) => event.key === KEPT + conversation.id && setText(event.newValue ?? "");
    window.addEventListener("storage", changed);
    return () => window.removeEventListener("storage", changed);
  }, [conversation.id]);
  const change = (value) => {
    setText(value);
    keepDraft(conversation.id, value);
  };
  if (conversation.contact.group_id) return html`<p class="composer-note">${t("composer.group")}</p>`;
  if (!isOpen) return html`<p class="composer-note">${t("composer.closed")}</p>`;
  const submit = (event) => {
    event?.preventDefault();
    if (!text.trim() && !file) return;
    send(conversation, text.trim(), file);
    change("");
    setFile(null);
    box.current?.focus();
  };
  const pressed = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
    if (event.key === "Escape") {
      event.stopPropagation();
      box.current.blur();
    }
  };
  const left = MAX_CHARACTERS - text.length;
  const choose = (event) => {
    const [chosen] = event.target.files;
    event.target.value = "";
    if (!chosen) return;
    if (chosen.size > MAX_FILE_BYTES) tell(t("composer.too_large", { most: bytes(MAX_FILE_BYTES) }), "error");
    else setFile(chosen);
    box.current?.focus();
  };
  return html`<form class="composer" onSubmit=${submit}>
    ${file && html`<p class="composer-file"><${Icon} name="file" size=${16} /><bdi>${file.name}</bdi> <span class="quiet">${bytes(file.size)}</span>
      <${Button} kind="bare" icon="close" label=${t("composer.remove_file")} onClick=${() => setFile(null)} /></p>`}
    <input ref=${picker} type="file" class="visually-hidden" tabindex="-1" aria-hidden="true" accept=${FILES} onChange=${choose} />
    <${Button} kind="bare" icon="clip" label=${t("composer.attach")} onClick=${() => picker.current.click()} />
    <textarea id="composer" ref=${box} rows="1" dir="auto" value=${text} maxlength=${MAX_CHARACTERS} placeholder=${t("composer.placeholder")} aria-label=${t("composer.placeholder")}
      onInput=${(event) => change(event.target.value)} onKeyDown=${pressed}></textarea>
    ${left < NEAR && html`<span class="quiet left">${number(left)}</span>`}
    <${Button} type="submit" kind="primary round" icon="send" label=${t("composer.send")} disabled=${!text.trim() && !file} />
    ${conversation.bot_enabled && html`<p class="composer-hint">${t("composer.takes_over")}</p>`}
  </form>`;
}
