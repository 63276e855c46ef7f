// Who is signed in. The session itself is a cookie that no script can read.
import { effect, signal } from "@preact/signals";
import { api, signedOut } from "./api.js";
import { attached, outbox } from "./inbox/outbox.js";
import { arrive } from "./router.js";

/** undefined: not asked yet; null: no one; else {kind, user_id, email, accounts, expires_at}. */
export const session = signal(undefined);
/** An error that says why it could not be found out. */
export const sessionError = signal(null);
/** Accounts as `GET /accounts` shows them; null until they are here. */
export const accounts = signal(null);
/** Why they are not, to the operator. */
export const accountsError = signal(null);

const KEPT = "chorus.";
const KEPT_WHO = "chorus.who";

/** Did a link by e-mail fail? It was used, or is too old. */
export const linkFailed = signal(false);

/** A link by e-mail that cannot sign in says why in the address, in English: `#error=…&error_code=otp_expired…`. */
function failureOfLink() {
  if (!new URLSearchParams(location.hash.slice(1)).get("error")) return false;
  history.replaceState(null, "", location.pathname + location.search);
  arrive();
  return true;
}

/** A link that signs in: `/console#token=…` (development), or `#access_token=…&refresh_token=…` (a link by e-mail). The
 * tokens leave the address bar before anything else happens. */
function tokensOfLink() {
  const values = new URLSearchParams(location.hash.slice(1));
  const token = values.get("token") ?? values.get("access_token");
  if (!token) return null;
  history.replaceState(null, "", location.pathname + location.search);
  arrive();
  const refreshToken = values.get("refresh_token");
  return refreshToken ? { token, refresh_token: refreshToken } : { token };
}

const KEPT_INVITATION = "chorus.invitation";

/** `/console#invitation=…`: kept in this tab until a person is signed in who can accept it. */
function keepInvitation() {
  const token = new URLSearchParams(location.hash.slice(1)).get("invitation");
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  arrive();
  sessionStorage.setItem(KEPT_INVITATION, token);
}

/** Does an invitation wait for the person to sign in? */
export const isInvited = () => sessionStorage.getItem(KEPT_INVITATION) !== null;

export const invited = signal(null);

/** Resolves to the session with the new membership in it. What goes wrong is told beside the screens. */
async function acceptInvitation(found) {
  const token = sessionStorage.getItem(KEPT_INVITATION);
  if (!token) return found;
  sessionStorage.removeItem(KEPT_INVITATION);
  try {
    invited.value = { account: (await api("POST", "/invitations/accept", { token })).account_id };
    return await api("GET", "/session");
  } catch (error) {
    invited.value = { error };
    return found;
  }
}

/** Of a link, until a server has said what it thinks of them. */
let tokens = null;

/** May be repeated: what went wrong is told by `sessionError` until it goes well. */
export async function startSession() {
  keepInvitation();
  linkFailed.value = failureOfLink() || linkFailed.value;
  tokens = tokensOfLink() ?? tokens;
  try {
    await opened(tokens ? await api("POST", "/session", tokens) : await api("GET", "/session"));
    tokens = null;
  } catch (error) {
    if (error.status === 401 && tokens) linkFailed.value = true;
    sessionError.value = error.status === 401 ? null : error;
    if (!error.isPassing) tokens = null;
    session.value = null;
  }
}

/** `how`: {email, password}, {operator_key} or {token}. Raises `ApiError`. */
export async function signIn(how) {
  await opened(await api("POST", "/session", how));
}

async function opened(asFound) {
  const found = await acceptInvitation(asFound);
  // After a session that has ended, drafts are kept for the same person, and for no other.
  const { user_id: who } = found;
  if (![null, who].includes(localStorage.getItem(KEPT_WHO))) forgetWords();
  localStorage.setItem(KEPT_WHO, who);
  linkFailed.value = false;
  endedBy.value = null;
  try {
    await reloadAccounts();
  } catch (error) {
    // The operator comes to see what is away: the fleet's screen needs no account.
    if (found.kind !== "operator") throw error;
    accounts.value = [];
    accountsError.value = error;
  }
  sessionError.value = null;
  session.value = found;
  tabs.postMessage({ who });
}

/** The tabs of a browser share the session: what one of them does to it happens to all. */
const tabs = new BroadcastChannel("chorus.session");

tabs.onmessage = ({ data: { who } }) => {
  const now = session.peek();
  if (who === null) {
    if (now) leave("elsewhere");
  } else if (now !== undefined && now?.user_id !== who) {
    session.value = undefined;
    startSession();
  }
};

export async function reloadAccounts() {
  accounts.value = await api("GET", "/accounts");
  accountsError.value = null;
}

export async function signOut({ everywhere = false } = {}) {
  await api("DELETE", everywhere ? "/session?everywhere=true" : "/session");
  localStorage.removeItem(KEPT_WHO);
  leave(null);
  tabs.postMessage({ who: null });
}

function leave(why) {
  forgetWords();
  endedBy.value = why;
  session.value = null;
  accounts.value = null;
}

/** Nothing that was written to customers stays on this computer. */
function forgetWords() {
  for (const store of [localStorage, sessionStorage]) {
    for (const key of Object.keys(store)) if (key.startsWith(`${KEPT}draft.`)) store.removeItem(key);
  }
  outbox.value = {};
  attached.clear();
}

/** Why no one is signed in any more: "ended" (the session was too old, or was ended by the server), "elsewhere" (in another
 * tab), or null. */
export const endedBy = signal(null);

effect(() => {
  if (signedOut.value === 0 || !session.peek()) return;
  endedBy.value = "ended";
  session.value = null;
});

export const isOperator = () => session.value?.kind === "operator";

const RANKS = { viewer: 0, agent: 1, owner: 2 };

/** May the reader do what `role` may, in this account? The server decides; this only hides what it would refuse. */
export function may(accountId, role) {
  if (isOperator()) return true;
  const mine = session.value?.accounts?.find((account) => account.id === accountId);
  return Boolean(mine) && RANKS[mine.role] >= RANKS[role];
}
