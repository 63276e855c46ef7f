// Where a person writes to the customer. The draft is kept on this computer until it is sent.
import { useEffect, useRef, useState } from "preact/hooks";
import { bytes } from "../format.js";
import { html } from "../html.js";
import { number, t } from "../i18n.js";
import { Icon } from "../icons.js";
import { endsText } from "../shortcuts.js";
import { Button, tell } from "../ui.js";
import { ACCEPTED, iconOf, kindOf, MAX_CAPTION, MAX_FILES, maxBytes, Preview, takesCaption, useDrop } from "./attachment.js";
import { attached } from "./outbox.js";
import { send } from "./store.js";

const MAX_CHARACTERS = 20_000;
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
  const [files, setFiles] = useState(attached.get(conversation.id) ?? []);
  const box = useRef(null);
  const picker = useRef(null);
  const mayWrite = isOpen && !conversation.contact.group_id;
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
  const hold = (next) => {
    setFiles(next);
    if (next.length) attached.set(conversation.id, next);
    else attached.delete(conversation.id);
  };
  const attach = (chosen) => {
    const fitting = chosen.filter((file) => file.size <= maxBytes(file));
    const large = chosen.find((file) => file.size > maxBytes(file));
    if (large) tell(t("composer.too_large", { name: large.name, most: bytes(maxBytes(large)) }), "error");
    if (files.length + fitting.length > MAX_FILES) tell(t("composer.too_many", { most: MAX_FILES }), "error");
    hold([...files, ...fitting].slice(0, MAX_FILES));
    box.current?.focus();
  };
  const isDropping = useDrop(mayWrite, attach);
  if (conversation.contact.group_id) return html`<p class="composer-note">${t("composer.group")}</p>`;
  if (!isOpen) return html`<p class="composer-note">${t("composer.closed")}</p>`;
  const most = files.length && takesCaption(files[0]) ? MAX_CAPTION : MAX_CHARACTERS;
  const left = most - text.length;
  const isReady = left >= 0 && (text.trim() !== "" || files.length > 0);
  const submit = (event) => {
    event?.preventDefault();
    if (!isReady) return;
    send(conversation, text.trim(), files);
    change("");
    hold([]);
    box.current?.focus();
  };
  const pressed = (event) => {
    if (endsText(event)) submit(event);
    if (event.key === "Escape") {
      event.stopPropagation();
      box.current.blur();
    }
  };
  const choose = (event) => {
    const chosen = [...event.target.files];
    event.target.value = "";
    attach(chosen);
  };
  // What office programs copy has a picture of its text with it: then the text is meant.
  const pasted = (event) => {
    const chosen = [...event.clipboardData.files];
    if (!chosen.length || event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault();
    attach(chosen);
  };
  return html`<form class="composer" onSubmit=${submit}>
    ${isDropping && html`<p class="drop-here"><span><${Icon} name="clip" />${t("composer.drop")}</span></p>`}
    ${files.map((file, index) => html`<p key=${`${file.name} ${file.lastModified} ${index}`} class="composer-file">
      <${Preview} file=${file} instead=${html`<${Icon} name=${iconOf(kindOf(file))} size=${16} />`} /><bdi>${file.name}</bdi> <span class="quiet">${bytes(file.size)}</span>
      <${Button} kind="bare" icon="close" label=${t("composer.remove_file")} onClick=${() => hold(files.filter((one) => one !== file))} /></p>`)}
    <input ref=${picker} type="file" multiple class="visually-hidden" tabindex="-1" aria-hidden="true" accept=${ACCEPTED} onChange=${choose} />
    <${Button} kind="bare" icon="clip" label=${t("composer.attach")} onClick=${() => picker.current.click()} />
    <textarea id="composer" ref=${box} rows="1" dir="auto" value=${text} maxlength=${MAX_CHARACTERS} placeholder=${t("composer.placeholder")} aria-label=${t("composer.placeholder")}
      onInput=${(event) => change(event.target.value)} onKeyDown=${pressed} onPaste=${pasted}></textarea>
    ${left < most / 10 && html`<span class="left ${left < 0 ? "over" : "quiet"}" title=${t("composer.left")}>${number(left)}</span>`}
    <${Button} type="submit" kind="primary round" icon="send" label=${t("composer.send")} disabled=${!isReady} />
    ${conversation.opted_out_since && html`<p class="composer-hint">${t("composer.opted_out")}</p>`}
    ${conversation.bot_enabled && html`<p class="composer-hint">${t("composer.takes_over")}</p>`}
  </form>`;
}
