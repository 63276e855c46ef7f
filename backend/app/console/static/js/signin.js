// Signing in: a person with e-mail and password or a link by e-mail, or the operator with the key.
import { useRef, useState } from "preact/hooks";
import { api } from "./api.js";
import { span } from "./format.js";
import { html } from "./html.js";
import { t } from "./i18n.js";
import { LanguageChoice } from "./preferences.js";
import { endedBy, isInvited, linkFailed, sessionError, signIn, startSession } from "./session.js";
import { Button, Field, Problem, tell } from "./ui.js";

export function SignIn() {
  const [kind, setKind] = useState("member");
  return html`<main class="signin" tabindex="-1">
    <div class="signin-card">
      <div class="brand"><span class="brand-mark" aria-hidden="true"><i></i><i></i><i></i></span><h1>Chorus</h1></div>
      ${endedBy.value && html`<p class="note">${t(`signin.${endedBy.value}`)}</p>`}
      ${linkFailed.value && html`<p class="note warm" role="alert">${t("signin.link_failed")}</p>`}
      ${isInvited() && html`<p class="note">${t("signin.invited")}</p>`}
      ${sessionError.value && html`<${Problem} error=${sessionError.value} retry=${startSession} />`}
      <div class="tabs" role="tablist" aria-label=${t("signin.how")}>
        ${["member", "operator"].map((name) => html`<button key=${name} type="button" role="tab" id="tab-${name}" aria-controls="signin-form"
          aria-selected=${kind === name ? "true" : "false"} onClick=${() => setKind(name)}>${t(`signin.${name}`)}</button>`)}
      </div>
      <div id="signin-form" role="tabpanel" aria-labelledby="tab-${kind}">
        ${kind === "member" ? html`<${Member} key="member" />` : html`<${Key} key="operator" />`}
      </div>
    </div>
    <${LanguageChoice} />
  </main>`;
}

/** Sends the form, and tells at the form what is wrong with it. */
function useForm(send) {
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const submit = async (event) => {
    event?.preventDefault();
    if (isBusy) return;
    setBusy(true);
    setError(null);
    try {
      await send();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return { error, isBusy, submit };
}

function words(error) {
  if (error.status === 401) return t("signin.wrong");
  if (error.status === 429) return t("signin.slow", { span: span(error.retryAfter ?? 60) });
  return error.isMissing ? t("signin.missing") : error.message;
}

function Member() {
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const box = useRef(null);
  const { error, isBusy, submit } = useForm(() => signIn({ email: email.trim(), password }));
  const link = async () => {
    if (!email.trim()) return box.current?.focus();
    await api("POST", "/session/magic-link", { email: email.trim() });
    tell(t("signin.link_sent", { email: email.trim() }));
  };
  return html`<form onSubmit=${submit}>
    <${Field} label=${t("signin.email")} render=${(attributes) => html`<input ...${attributes} ref=${box} type="email" name="username" autocomplete="username" required
      value=${email} onInput=${(event) => setEmail(event.target.value)} />`} />
    <${Field} label=${t("signin.password")} error=${error && words(error)} render=${(attributes) => html`<input ...${attributes} type="password" name="password" autocomplete="current-password"
      required value=${password} onInput=${(event) => setPassword(event.target.value)} />`} />
    <${Button} type="submit" kind="primary wide" busy=${isBusy}>${t("signin.go")}</${Button}>
    <${Button} kind="wide" onClick=${link}>${t("signin.link")}</${Button}>
  </form>`;
}

function Key() {
  const [key, setKey] = useState("");
  const { error, isBusy, submit } = useForm(() => signIn({ operator_key: key.trim() }));
  return html`<form onSubmit=${submit}>
    <${Field} label=${t("signin.key")} help=${t("signin.key_help")} error=${error && words(error)}
      render=${(attributes) => html`<input ...${attributes} type="password" name="operator-key" autocomplete="off" required value=${key}
        onInput=${(event) => setKey(event.target.value)} />`} />
    <${Button} type="submit" kind="primary wide" busy=${isBusy}>${t("signin.go")}</${Button}>
  </form>`;
}
