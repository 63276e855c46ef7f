// The start of the console, and the frame around its screens.
import { render } from "preact";
import { useEffect, useLayoutEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { startLanguage, t } from "./i18n.js";
import { Icon } from "./icons.js";
import { Inbox } from "./inbox/screen.js";
import { markTitle } from "./inbox/notices.js";
import { needsCount, startAccount } from "./inbox/store.js";
import { Preferences } from "./preferences.js";
import { go, pathOf, route } from "./router.js";
import { accounts, accountsError, invited, isOperator, reloadAccounts, session, startSession } from "./session.js";
import { Shortcuts } from "./shortcuts.js";
import { SignIn } from "./signin.js";
import { streamState } from "./stream.js";
import { startTheme } from "./theme.js";
import { Dialogs, Empty, Loading, Problem, tell, tellError, Toasts } from "./ui.js";

const LAZY = {
  bot: () => import("./bot/screen.js"),
  account: () => import("./account/screen.js"),
  fleet: () => import("./fleet/screen.js"),
};
const KEPT_ACCOUNT = "chorus.account";

/** A screen whose code is fetched when it is first opened. */
function Lazy({ name, ...props }) {
  const [Screen, setScreen] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    let isCurrent = true;
    setScreen(null);
    setError(null);
    LAZY[name]().then(
      (module) => isCurrent && setScreen(() => module.Screen),
      () => isCurrent && setError({ message: t("error.screen") }),
    );
    return () => { isCurrent = false; };
  }, [name]);
  if (error) return html`<main class="page"><${Problem} error=${error} retry=${() => location.reload()} /></main>`;
  return Screen ? html`<${Screen} ...${props} />` : html`<main class="page"><${Loading} /></main>`;
}

const screens = () => ["inbox", ...Object.keys(LAZY).filter((name) => name !== "fleet" || isOperator())];

function Navigation({ screen, account }) {
  const waiting = needsCount.value;
  return html`<nav class="rail" aria-label=${t("nav.label")}>
    <div class="brand" aria-hidden="true"><span class="brand-mark"><i></i><i></i><i></i></span></div>
    ${screens().map((name) => html`<a key=${name} href=${pathOf({ screen: name, account: name === "fleet" ? "" : account })}
        aria-current=${screen === name ? "page" : null} class="rail-link">
      <${Icon} name=${name} size=${22} /><span>${t(`nav.${name}`)}</span>
      ${name === "inbox" && waiting > 0 && html`<b class="count" aria-label=${t("nav.waiting", { n: waiting })}>${waiting > 99 ? "99+" : waiting}</b>`}
    </a>`)}
    <div class="rail-end"><${LineState} /><${Preferences} /></div>
  </nav>`;
}

const LineState = () => streamState.value === "live" || !accounts.value?.length ? null : html`<span class="line ${streamState.value}" role="status" title=${t(`line.${streamState.value}`)}>
  <i></i><span class="visually-hidden">${t(`line.${streamState.value}`)}</span></span>`;

/** In words, where a short break (a replica that restarts) would only disturb. */
const LineNote = () => accounts.value?.length && ["waiting", "offline"].includes(streamState.value)
  ? html`<p class="strip warm line-note ${streamState.value}" role="status"><${Icon} name="alert" size=${16} />${t(`line.${streamState.value}_note`)}</p>` : null;

function chosenAccount() {
  const all = accounts.value ?? [];
  const wanted = route.value.account || localStorage.getItem(KEPT_ACCOUNT);
  return all.find((account) => account.id === wanted) ?? all[0] ?? null;
}

function Frame() {
  const here = route.value;
  const { screen: wanted } = here;
  const screen = screens().includes(wanted) ? wanted : "inbox";
  const account = chosenAccount();
  const isForeign = Boolean(here.account) && account?.id !== here.account && screen !== "fleet";
  useEffect(() => {
    if (account && screen !== "fleet") {
      localStorage.setItem(KEPT_ACCOUNT, account.id);
      // An effect runs after the paint: the reader may have gone on meanwhile.
      if (route.peek() !== here) return;
      if (here.screen !== screen || here.account !== account.id) go({ ...here, screen, account: account.id, ...(isForeign ? { view: "", id: "" } : {}) }, { replace: true });
    }
  }, [account?.id, screen, isForeign, here]);
  useEffect(() => {
    const outcome = invited.value;
    if (!outcome) return;
    invited.value = null;
    if (outcome.error) tellError(outcome.error);
    else {
      tell(t("invitations.accepted"));
      go({ screen: "inbox", account: outcome.account });
    }
  }, [invited.value]);
  // Before the screens' own effects, which ask for the account's lists.
  useLayoutEffect(() => (account ? startAccount(account.id) : undefined), [account?.id]);
  return html`<div class="frame">
    <a class="skip" href=${location.hash} onClick=${(event) => (event.preventDefault(), document.querySelector("main")?.focus())}>${t("nav.skip")}</a>
    <${LineNote} />
    <${Navigation} screen=${screen} account=${account?.id ?? ""} />
    ${screen === "fleet" ? html`<${Lazy} name="fleet" />`
      : !account && accountsError.value ? html`<main class="page" tabindex="-1"><${Problem} error=${accountsError.value}
          retry=${() => reloadAccounts().catch((error) => { accountsError.value = error; })} /></main>`
      : !account ? html`<main class="page" tabindex="-1"><${Empty} icon="account" title=${t("accounts.none")} hint=${t(isOperator() ? "accounts.none_operator" : "accounts.none_member", { email: session.value.email ?? session.value.user_id })} /></main>`
      : screen === "inbox" ? html`<${Inbox} key=${account.id} account=${account} />`
      : html`<${Lazy} key=${account.id} name=${screen} account=${account} />`}
    <${Shortcuts} account=${account?.id ?? ""} screens=${screens()} />
  </div>`;
}

function App() {
  const who = session.value;
  return html`${who === undefined ? html`<${Loading} />` : who === null ? html`<${SignIn} />` : html`<${Frame} />`}
    <${Dialogs} /><${Toasts} />`;
}

startTheme();
markTitle(needsCount);
await startLanguage();
render(html`<${App} />`, document.getElementById("app"));
await startSession();
