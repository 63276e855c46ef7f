// Speaking to the public HTTP API of the replica that serves the page. The session's cookie goes along by itself.
import { signal } from "@preact/signals";
import { span } from "./format.js";
import { has, t } from "./i18n.js";

const TIMEOUT_MS = 20_000;

/** Set when an answer says that no one is signed in any more. */
export const signedOut = signal(0);

/** An answer that is a refusal, or none at all. `message` is for people; `field` names the part at fault. */
export class ApiError extends Error {
  constructor({ status = 0, code, message, field = null, requestId = null, retryAfter = null }) {
    super(message);
    Object.assign(this, { status, code, field, requestId, retryAfter });
  }

  /** The route is not there: this server's version does not have it, or a balancer keeps it back. */
  get isMissing() {
    return this.status === 404 && ["not_found", "no_answer"].includes(this.code);
  }

  /** Something is away, and the same request may go well in a moment. */
  get isPassing() {
    return this.status === 0 || this.status >= 500;
  }

  /** Not our own 404: a balancer keeps the route back. */
  get isKeptBack() {
    return this.status === 404 && this.code === "no_answer";
  }
}

/** `GET`, `POST` …; `body` becomes JSON unless it is FormData. Returns the JSON of the answer, or null. Raises `ApiError`. */
export async function api(method, path, body, { headers = {}, signal: cancel, timeout = TIMEOUT_MS } = {}) {
  const limit = AbortSignal.timeout(timeout);
  const isForm = body instanceof FormData;
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: { ...(body !== undefined && !isForm ? { "Content-Type": "application/json" } : {}), ...headers },
      body: body === undefined || isForm ? body : JSON.stringify(body),
      credentials: "same-origin",
      signal: cancel ? AbortSignal.any([limit, cancel]) : limit,
    });
  } catch (error) {
    if (cancel?.aborted) throw error;
    throw new ApiError({ code: "network", message: t(limit.aborted ? "error.timeout" : "error.network") });
  }
  if (answer.ok) return answer.status === 204 ? null : readJson(answer);
  throw await refusal(answer, path);
}

async function readJson(answer) {
  const text = await answer.text();
  if (!text) return null;
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError({ status: answer.status, code: "no_json", message: t("error.no_json") });
  }
}

async function refusal(answer, path) {
  const { status } = answer;
  const error = (await answer.json().catch(() => null))?.error ?? {};
  const code = error.code ?? "no_answer";
  const retryAfter = Number(answer.headers.get("Retry-After")) || null;
  if (status === 401 && path !== "/session") signedOut.value += 1;
  return new ApiError({
    status,
    code,
    message: inWords(status, code, error.message, retryAfter),
    field: error.field ?? null,
    requestId: error.request_id ?? answer.headers.get("X-Request-ID"),
    retryAfter,
  });
}

const SAID_BY_SERVER = [400, 403, 409, 422];

/** Our own words for codes that people meet; else what the server says of the request, in English; else what the status means:
 * the server's words about itself are for programs. */
function inWords(status, code, message, retryAfter) {
  if (has(`error.${code}`)) return t(`error.${code}`);
  if (message && SAID_BY_SERVER.includes(status)) return message;
  if (status === 429 && retryAfter) return t("error.too_often", { span: span(retryAfter) });
  return has(`error.status_${status}`) ? t(`error.status_${status}`) : t("error.status", { status });
}

export const query = (values) =>
  new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "")).toString();

/** A key that makes repetitions of one request harmless. (`randomUUID` is only there over TLS.) */
export const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
