// What messages with a file say. Their texts have marks around them, for the model and the search: `[voice message] Do you have
// rolls?`, `[image: A cake]`, `[image] This one?` and, beneath it, `[shows: A cake]`. People see none of these.
import { worded } from "../i18n.js";

const FILES = ["image", "video", "document", "sticker", "audio", "voice"];
const SEEN = /^\[(?:image|video|document|sticker): ([^]*)\]$/;
const MARK = /^\[(?:image|video|document|sticker|audio|voice message)\]\s?/;

export const isFile = (type) => FILES.includes(type);

/** What was written with a file, or said in it. */
export const captionOf = (text) => (text ?? "").replace(SEEN, "").replace(MARK, "").replace(/\n\[shows: [^]*\]$/, "");

/** A message in one line: for lists and quotes. */
export function lineOf({ type, text }) {
  if (!text || !isFile(type)) return text || worded("type", type);
  return text.match(SEEN)?.[1] || captionOf(text) || worded("type", type);
}
