// A new access token for the number. It is stored encrypted and never shown.
import { useState } from "preact/hooks";
import { api } from "../api.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { reloadAccounts } from "../session.js";
import { Button, Field, tell } from "../ui.js";

export function TokenForm({ account, close }) {
  const [token, setToken] = useState("");
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await api("PATCH", `/accounts/${account.id}`, { access_token: token });
      await reloadAccounts();
      tell(t("settings.token_saved"));
      close(true);
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return html`<form onSubmit=${submit}><p class="quiet">${t("settings.token_help")}</p>
    <${Field} label=${t("settings.token_label")} error=${error?.message} render=${(attributes) => html`<input type="password" autocomplete="off" required maxlength="1000" value=${token} onInput=${(event) => setToken(event.target.value)} ...${attributes} />`} />
    <div class="buttons"><${Button} onClick=${() => close()}>${t("ui.cancel")}</${Button}><${Button} type="submit" kind="primary" busy=${isBusy} disabled=${!token.trim()}>${t("settings.token_save")}</${Button}></div></form>`;
}
