// Which account the screen is about; for people with several.
import { html } from "./html.js";
import { t } from "./i18n.js";
import { go, route } from "./router.js";
import { accounts } from "./session.js";

export const hasSeveral = () => accounts.value.length > 1;

/** The same screen of another account. The choice stands as it was until the reader may leave. */
export function AccountChoice({ account }) {
  const choose = (event) => {
    const wanted = event.target.value;
    event.target.value = account.id;
    const { screen, view } = route.peek();
    go({ screen, account: wanted, view: screen === "inbox" ? "" : view });
  };
  return html`<select class="account-choice" aria-label=${t("accounts.choose")} title=${account.name} value=${account.id} onChange=${choose}>
    ${accounts.value.map((one) => html`<option key=${one.id} value=${one.id}>${one.name}</option>`)}</select>`;
}
