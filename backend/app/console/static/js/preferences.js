// Language, colours, notifications, and leaving.
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { chooseLanguage, LANGUAGES, language, t } from "./i18n.js";
import { Icon } from "./icons.js";
import { route } from "./router.js";
import { session, signOut } from "./session.js";
import { showShortcuts } from "./shortcuts.js";
import { chooseTheme, theme, THEMES } from "./theme.js";
import { Button, confirm, tell } from "./ui.js";

export const LanguageChoice = () => html`<div class="segments" role="group" aria-label=${t("prefs.language")}>
  ${Object.entries(LANGUAGES).map(([name, words]) => html`<button key=${name} type="button" lang=${name} aria-pressed=${language.value === name ? "true" : "false"}
    onClick=${() => chooseLanguage(name)}>${words}</button>`)}</div>`;

const ThemeChoice = () => html`<div class="segments" role="group" aria-label=${t("prefs.theme")}>
  ${THEMES.map((name) => html`<button key=${name} type="button" aria-pressed=${theme.value === name ? "true" : "false"} onClick=${() => chooseTheme(name)}>${t(`prefs.theme_${name}`)}</button>`)}</div>`;

const KEPT = "chorus.notify";
/** Does the reader want a desktop notification when a customer needs a person? The browser must allow it too. */
export const wantsNotices = signal(localStorage.getItem(KEPT) === "yes");

async function switchNotices() {
  let wanted = !wantsNotices.value;
  if (wanted && (!("Notification" in window) || (await Notification.requestPermission()) !== "granted")) {
    wanted = false;
    tell(t("prefs.notices_refused"), "error");
  }
  wantsNotices.value = wanted;
  localStorage.setItem(KEPT, wanted ? "yes" : "no");
}

async function leave(everywhere) {
  if (everywhere && !(await confirm({ title: t("prefs.everywhere"), text: t("prefs.everywhere_text"), action: t("prefs.leave") }))) return;
  await signOut({ everywhere });
}

export function Preferences() {
  const [isOpen, setOpen] = useState(false);
  const box = useRef(null);
  const here = route.value;
  useEffect(() => setOpen(false), [here]);
  useEffect(() => {
    if (!isOpen) return undefined;
    const away = (event) => {
      if (event.type === "keydown" ? event.key === "Escape" : !box.current?.contains(event.target)) setOpen(false);
    };
    document.addEventListener("pointerdown", away);
    document.addEventListener("keydown", away);
    return () => {
      document.removeEventListener("pointerdown", away);
      document.removeEventListener("keydown", away);
    };
  }, [isOpen]);
  const who = session.value;
  return html`<div class="prefs" ref=${box}>
    <button type="button" class="rail-link" aria-expanded=${isOpen ? "true" : "false"} onClick=${() => setOpen(!isOpen)}>
      <${Icon} name="person" size=${22} /><span>${t("prefs.me")}</span></button>
    ${isOpen && html`<div class="popover">
      <p class="who">${who.kind === "operator" ? t("signin.operator") : who.email ?? who.user_id}</p>
      <div class="pref"><span>${t("prefs.language")}</span><${LanguageChoice} /></div>
      <div class="pref"><span>${t("prefs.theme")}</span><${ThemeChoice} /></div>
      <label class="switch"><input type="checkbox" role="switch" checked=${wantsNotices.value} onChange=${switchNotices} /><span>${t("prefs.notices")}</span></label>
      <div class="pref-actions">
        <${Button} icon="help" onClick=${() => (setOpen(false), showShortcuts())}>${t("keys.title")}</${Button}>
        <${Button} icon="leave" onClick=${() => leave(false)}>${t("prefs.leave")}</${Button}>
        <${Button} onClick=${() => leave(true)}>${t("prefs.everywhere")}</${Button}>
      </div>
    </div>`}
  </div>`;
}
