// A customer's picture in the thread, and large in a dialog: as a whole, at its own size, or anything between.
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { percent } from "../format.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { Button, openDialog } from "../ui.js";

const STEP = 1.25;
const WHEEL = 0.002;
const SMALLEST = 0.05;
const LARGEST = 8;

/** `description` is read out in place of the picture; `file` is its name as a download. `instead` stands there if the browser cannot show it. */
export function Picture({ src, name, file, description, instead }) {
  const [isBroken, setBroken] = useState(false);
  if (isBroken) return instead;
  const open = () => openDialog(name, () => html`<${Viewer} src=${src} file=${file} description=${description} />`, { kind: "viewer" });
  return html`<button type="button" class="picture" aria-haspopup="dialog" title=${t("picture.enlarge")} onClick=${open}>
    <img src=${src} alt=${description} loading="lazy" onError=${() => setBroken(true)} /></button>`;
}

function Viewer({ src, file, description }) {
  const box = useRef(null);
  const image = useRef(null);
  const kept = useRef(null); // the point of the picture that must not move, and where it stands in the box
  const pinch = useRef(null);
  const [scale, setScale] = useState(null); // null: as large as fits
  const [fitting, setFitting] = useState(1);

  const now = () => image.current.clientWidth / image.current.naturalWidth || 1;
  const measure = () => setFitting(now());

  useLayoutEffect(() => {
    if (scale === null && image.current.complete) measure();
    if (!kept.current || scale === null) return;
    const { along, down, x, y } = kept.current;
    box.current.scrollLeft = along * image.current.clientWidth - x;
    box.current.scrollTop = down * image.current.clientHeight - y;
  }, [scale]);

  /** `at`: the point of the page that is looked at; without one, the middle. */
  const zoom = (to, at) => {
    const frame = box.current.getBoundingClientRect();
    const shown = image.current.getBoundingClientRect();
    const [pageX, pageY] = at ?? [frame.left + frame.width / 2, frame.top + frame.height / 2];
    kept.current = { along: (pageX - shown.left) / shown.width, down: (pageY - shown.top) / shown.height, x: pageX - frame.left, y: pageY - frame.top };
    setScale(Math.min(LARGEST, Math.max(SMALLEST, to)));
  };
  const fit = () => setScale(null);
  const full = () => zoom(1);
  const keys = { "+": () => zoom(now() * STEP), "=": () => zoom(now() * STEP), "-": () => zoom(now() / STEP), 0: fit, 1: full };
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
    keys[event.key]();
    event.preventDefault();
  };
  const wheeled = (event) => {
    event.preventDefault();
    zoom(now() * Math.exp(-event.deltaY * WHEEL), [event.clientX, event.clientY]);
  };
  const pinched = (event) => {
    if (event.touches.length !== 2) {
      pinch.current = null;
      return;
    }
    event.preventDefault();
    const [one, other] = event.touches;
    const apart = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    pinch.current ??= { apart, from: now() };
    if (event.type === "touchmove") zoom((pinch.current.from * apart) / pinch.current.apart, [(one.clientX + other.clientX) / 2, (one.clientY + other.clientY) / 2]);
  };
  const dragged = (event) => {
    if (event.pointerType === "mouse" && event.buttons === 1) box.current.scrollBy(-event.movementX, -event.movementY);
  };

  return html`<div class="viewer-parts" onKeyDown=${pressed}>
    <div class="viewer-tools" role="toolbar" aria-label=${t("picture.tools")}>
      <${Button} onClick=${() => zoom(now() / STEP)} label=${t("picture.smaller")}>−</${Button}>
      <${Button} onClick=${() => zoom(now() * STEP)} label=${t("picture.larger")}>+</${Button}>
      <${Button} onClick=${fit} aria-pressed=${scale === null}>${t("picture.fit")}</${Button}>
      <${Button} onClick=${full} aria-pressed=${scale === 1}>${t("picture.full")}</${Button}>
      <output aria-live="polite">${percent(Math.round((scale ?? fitting) * 100) / 100)}</output>
      <a class="viewer-download" href=${src} download=${file}>${t("thread.download")}</a>
    </div>
    <div class="viewer-box" ref=${box} tabindex="0" autofocus onWheel=${wheeled} onPointerMove=${dragged}
      onTouchStart=${pinched} onTouchMove=${pinched} onTouchEnd=${pinched} onDblClick=${(event) => (scale === null ? zoom(1, [event.clientX, event.clientY]) : fit())}>
      <img ref=${image} src=${src} alt=${description} class=${scale === null ? "fits" : ""} draggable=${false} onLoad=${measure}
        width=${scale === null ? null : Math.max(1, Math.round(image.current.naturalWidth * scale))} />
    </div>
  </div>`;
}
