// The files that a person is about to send: what WhatsApp takes of each kind, and what they look like.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "../html.js";

const MB = 1024 * 1024;

export const ACCEPTED = "image/jpeg,image/png,image/webp,audio/*,video/mp4,video/3gpp,application/pdf,text/plain,.doc,.docx,.xls,.xlsx,.ppt,.pptx";
/** Of one go; each becomes a message of its own. */
export const MAX_FILES = 10;
export const MAX_CAPTION = 1024;

/** As the browser names its type; the server looks at its bytes. */
export function kindOf(file) {
  if (file.type === "image/webp") return "sticker";
  const [family] = file.type.split("/");
  return ["image", "audio", "video"].includes(family) ? family : "document";
}

const ICONS = { image: "image", sticker: "image", video: "image", audio: "sound", voice: "sound", location: "place" };

export const iconOf = (kind) => ICONS[kind] ?? "file";

export const maxBytes = (file) => ({ image: 5 * MB, sticker: 500 * 1024 })[kindOf(file)] ?? 16 * MB;

/** Else its words follow as a message of their own. */
export const takesCaption = (file) => !["audio", "sticker"].includes(kindOf(file));

/** A picture of this computer, small; `instead` for what is none, or none that the browser can show. */
export function Preview({ file, instead }) {
  const [src, setSrc] = useState(null);
  useEffect(() => {
    if (!["image", "sticker"].includes(kindOf(file))) return undefined;
    const url = URL.createObjectURL(file);
    setSrc(url);
    return () => URL.revokeObjectURL(url);
  }, [file]);
  return src ? html`<img class="preview" src=${src} alt=${file.name} onError=${() => setSrc(null)} />` : instead;
}

/** Files that are dropped anywhere on the page, and are not meant to replace it. Returns whether some are held over it. */
export function useDrop(isWanted, take) {
  const [isOver, setOver] = useState(false);
  const latest = useRef(null);
  latest.current = { isWanted, take };
  useEffect(() => {
    const over = (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = latest.current.isWanted ? "copy" : "none";
      setOver(latest.current.isWanted);
    };
    const left = (event) => event.relatedTarget === null && setOver(false);
    const dropped = (event) => {
      setOver(false);
      const files = [...event.dataTransfer.files];
      if (!files.length) return;
      event.preventDefault();
      if (latest.current.isWanted) latest.current.take(files);
    };
    const heard = { dragover: over, dragleave: left, drop: dropped };
    for (const [name, listener] of Object.entries(heard)) window.addEventListener(name, listener);
    return () => {
      for (const [name, listener] of Object.entries(heard)) window.removeEventListener(name, listener);
    };
  }, []);
  return isOver;
}
