// Where the reader is: the part of the address behind "#", e.g. #/inbox/<account>/needs/<conversation>.
import { signal } from "@preact/signals";

const read = () => {
  const [screen = "", account = "", view = "", id = ""] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  return { screen, account, view, id };
};

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

export const route = signal(read());
let current = location.hash;
let leaving = null;

/** `ask`: called before the reader leaves; resolves to whether they may. `null`: nothing is unsaved. */
export function guardLeaving(ask) {
  leaving = ask;
}

export const pathOf = ({ screen, account = "", view = "", id = "" }) => {
  const parts = [screen, account, view, id].map(encodeURIComponent);
  while (parts.length > 1 && !parts.at(-1)) parts.pop();
  return `#/${parts.join("/")}`;
};

export function go(where, { replace = false } = {}) {
  const path = pathOf({ ...where });
  if (path === location.hash) return;
  if (replace) {
    // The reader's own step is on its way: its event has not come yet.
    if (location.hash !== current) return;
    history.replaceState(null, "", path);
    arrive();
  } else location.hash = path;
}

/** Read the address as it is now; for those who changed it without an event. */
export function arrive() {
  current = location.hash;
  route.value = read();
}

window.addEventListener("hashchange", async () => {
  if (location.hash === current) return;
  if (leaving) {
    const wanted = location.hash;
    history.replaceState(null, "", current || "#");
    if (!(await leaving())) return;
    leaving = null;
    location.hash = wanted;
    return;
  }
  arrive();
});

window.addEventListener("beforeunload", (event) => {
  if (leaving) event.preventDefault();
});
