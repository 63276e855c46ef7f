// One message: its words or what it carries, when, who wrote it, and what became of it.
import { bytes, clock } from "../format.js";
import { html } from "../html.js";
import { has, t, worded } from "../i18n.js";
import { Icon } from "../icons.js";
import { session } from "../session.js";
import { Button, Time } from "../ui.js";
import { iconOf, kindOf, Preview } from "./attachment.js";
import { formatted } from "./markup.js";
import { Picture } from "./picture.js";
import { Player } from "./player.js";
import { captionOf, lineOf } from "./words.js";

const TICKS = { pending: "clock", sending: "clock", sent: "one", delivered: "two", read: "two", played: "two" };

export function Ticks({ status }) {
  const kind = TICKS[status];
  if (!kind) return null;
  const words = t(`status.${status}`);
  return html`<span class="ticks ${status}" role="img" aria-label=${words} title=${words}>${kind === "clock" ? html`<${Icon} name="clock" size=${13} />`
    : html`<svg width="16" height="11" viewBox="0 0 16 11" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
        <path d="m1.5 6 3 3 6-7" />${kind === "two" && html`<path d="m6.5 8 1 1 6-7" />`}</svg>`}</span>`;
}

/** The reader, the operator or another person of the business, as far as the message says; else the bot. */
function authorOf({ author, sent_by: sender }) {
  if (author !== "human") return t(`author.${author}`);
  if (sender && sender === session.value?.user_id) return t("author.you");
  return t(sender === "operator" ? "actor.operator" : "author.human");
}

export function Message({ message, reactions, quoted }) {
  const isOut = message.direction === "outbound";
  return html`<article class="message ${isOut ? "out" : "in"} by-${message.author} ${message.status === "failed" ? "failed" : ""}">
    <div class="bubble">
      ${isOut && html`<span class="author">${authorOf(message)}</span>`}
      ${quoted && html`<blockquote dir="auto">${lineOf(quoted)}</blockquote>`}
      <${Content} message=${message} />
      ${message.edited_at && html`<${Edits} message=${message} />`}
      <footer><${Time} at=${message.timestamp} format=${clock} />${isOut && html`<${Ticks} status=${message.status} />`}</footer>
      ${reactions?.length > 0 && html`<span class="reactions" title=${t("thread.reactions")}>${reactions.join(" ")}</span>`}
    </div>
    ${message.status === "failed" && html`<${Failure} error=${message.error} />`}
  </article>`;
}

/** WhatsApp's error: ours in words where we know the code, and Meta's own. */
export function Failure({ error }) {
  const code = error?.code;
  const own = code && has(`meta.${code}`) ? t(`meta.${code}`) : null;
  const theirs = [error?.title, error?.message, error?.details ?? error?.error_data?.details].filter((words) => typeof words === "string" && words);
  const said = [...new Set(theirs)].join(" · ");
  return html`<p class="failure"><${Icon} name="alert" size=${14} /><span>${own ?? t("thread.failed")}${said && html` <span class="quiet">${t("thread.meta_says", { words: said, code: String(code ?? "?") })}</span>`}</span></p>`;
}

function Edits({ message }) {
  const before = message.edits.filter((edit) => typeof edit.text === "string");
  if (!before.length) return html`<p class="edited">${t("thread.edited")}</p>`;
  return html`<details class="edited"><summary>${t("thread.edited")}</summary>${before.map((edit, index) => html`<p key=${index} dir="auto">${edit.text}</p>`)}</details>`;
}

const Text = ({ text }) => html`<p class="text" dir="auto">${formatted(text)}</p>`;

/** By type; a type that is not known yet shows its name and whatever text it has. */
function Content({ message }) {
  const { type, text, payload } = message;
  const node = payload?.[type];
  if (message.media) return html`<${Media} message=${message} />`;
  if (type === "text" || type === "button" || type === "interactive") {
    return text ? html`${type !== "text" && message.direction === "inbound" && html`<span class="kind">${t("type.choice")}</span>`}<${Text} text=${text} />` : html`<${Kind} type=${type} />`;
  }
  if (type === "location" && node) return html`<${Place} place=${node} />`;
  if (type === "contacts" && Array.isArray(node)) return html`<${Cards} cards=${node} />`;
  if (type === "edit" && text) return html`<span class="kind">${t("thread.edited")}</span><${Text} text=${text} />`;
  const caption = node && typeof node === "object" && typeof node.caption === "string" ? node.caption : text;
  return html`<${Kind} type=${type} name=${typeof node?.filename === "string" ? node.filename : null} />${caption && html`<${Text} text=${caption} />`}`;
}

const PICTURES = ["image", "sticker"];
const PLAYED = { audio: "audio", voice: "audio", video: "video" };

const Kind = ({ type, name }) => html`<span class="kind"><${Icon} name=${iconOf(type)} size=${16} />${name ? html`<span class="visually-hidden">${worded("type", type)}</span><bdi class="file-name">${name}</bdi>` : worded("type", type)}</span>`;

function Place({ place }) {
  const { latitude, longitude } = place;
  const where = [place.name, place.address].filter((part) => typeof part === "string");
  const isPoint = Number.isFinite(Number(latitude)) && Number.isFinite(Number(longitude));
  return html`<div class="attached"><${Icon} name="place" /><div>${where.map((line, index) => html`<p key=${index} dir="auto">${line}</p>`)}
    ${isPoint && html`<a href=${`https://www.openstreetmap.org/?mlat=${Number(latitude)}&mlon=${Number(longitude)}#map=16/${Number(latitude)}/${Number(longitude)}`}
      target="_blank" rel="noopener noreferrer">${t("thread.map")}</a>`}</div></div>`;
}

const Cards = ({ cards }) => cards.slice(0, 20).map((card, index) => html`<div key=${index} class="attached"><${Icon} name="person" /><div>
  <p dir="auto">${String(card?.name?.formatted_name ?? t("type.contacts"))}</p>
  ${(Array.isArray(card?.phones) ? card.phones : []).slice(0, 5).map((one, n) => html`<p key=${n} class="quiet">${String(one?.phone ?? "")}</p>`)}</div></div>`);

/** A file that is kept. Pictures and sounds come from our own server, with their type checked there. What the customer wrote with
 * it stands first; what the bot heard or saw in it says that it is the bot's. */
function Media({ message }) {
  const { media } = message;
  const kind = media.kind ?? message.type;
  const text = captionOf(message.text);
  const href = `/messages/${encodeURIComponent(message.id)}/media`;
  const isHere = media.state === "kept";
  const label = media.description || worded("type", kind);
  const title = html`<${Kind} type=${kind} name=${media.name} />`;
  return html`<div class="media">
    ${isHere && PICTURES.includes(kind) ? html`<${Picture} src=${href} name=${media.name ?? worded("type", kind)} file=${media.name ?? ""} description=${label} instead=${title} />`
      : isHere && PLAYED[kind] ? html`<${Player} tag=${PLAYED[kind]} src=${href} mime=${media.mime} label=${label} instead=${title} />`
      : title}
    ${text && text !== media.description && html`<${Text} text=${text} />`}
    ${media.description && html`<p class="description-of">${t(PLAYED[kind] === "audio" ? "media.transcript" : "media.summary")}</p>
      <p class="description" dir="auto">${media.description}</p>`}
    <p class="file"><span class="quiet">${media.size ? bytes(media.size) : ""}</span>
      ${isHere ? html` <a href=${href} download=${media.name ?? ""}>${t("thread.download")}</a>` : html` <span class="quiet">${worded("media", media.state)}</span>`}</p>
  </div>`;
}

/** A message of ours that the thread does not show yet. */
export const Waiting = ({ message, onAgain, onGiveUp }) => html`<article class="message out by-human ${message.state}">
  <div class="bubble"><span class="author">${t("author.you")}</span>${message.file && html`<div class="media"><${Preview} file=${message.file} instead=${html`<${Kind} type=${kindOf(message.file)} name=${message.file.name} />`} /></div>`}${message.text && html`<${Text} text=${message.text} />`}
    <footer><${Time} at=${message.at} format=${clock} />${message.state !== "failed" && html`<${Ticks} status="pending" />`}</footer></div>
  ${message.state === "failed" && html`<div class="failure" role="alert"><${Icon} name="alert" size=${14} /><div>${t("thread.not_sent", { why: message.error.message })}
    <div class="buttons"><${Button} kind="small" onClick=${onAgain}>${t("thread.send_again")}</${Button}><${Button} kind="small" onClick=${onGiveUp}>${t("thread.give_up")}</${Button}></div></div></div>`}
</article>`;

