// WhatsApp's own marks (*bold*, _italic_, ~struck~, ```code```) and links, as elements. Nothing is ever parsed as HTML.
import { html } from "../html.js";

const PARTS = /(```[^`]+```|\*[^\s*](?:[^*\n]*[^\s*])?\*|_[^\s_](?:[^_\n]*[^\s_])?_|~[^\s~](?:[^~\n]*[^\s~])?~|https?:\/\/[^\s<>"']+)/;
const EDGE = /[\p{L}\p{N}]/u;
const TAGS = { "*": "b", _: "i", "~": "s" };
const TRAILING = /[.,;:!?)\]]+$/;
const MAX_DEPTH = 4;

export function formatted(text, depth = 0) {
  if (depth > MAX_DEPTH) return text;
  const pieces = text.split(PARTS);
  return pieces.map((piece, index) => {
    if (index % 2 === 0) return piece;
    if (piece.startsWith("```")) return html`<code>${piece.slice(3, -3)}</code>`;
    if (piece.startsWith("http")) return link(piece);
    // A mark inside a word (snake_case) is a letter.
    if (EDGE.test(pieces[index - 1].at(-1) ?? "") || EDGE.test(pieces[index + 1][0] ?? "")) return piece;
    return html`<${TAGS[piece[0]]}>${formatted(piece.slice(1, -1), depth + 1)}<//>`;
  });
}

function link(piece) {
  const rest = piece.match(TRAILING)?.[0] ?? "";
  const address = rest ? piece.slice(0, -rest.length) : piece;
  if (!URL.canParse(address)) return piece;
  return html`<a href=${address} target="_blank" rel="noopener noreferrer nofollow">${address}</a>${rest}`;
}
