// The inbox: the lists at the left, the open conversation at the right; on a narrow screen one of them.
import { useEffect } from "preact/hooks";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { go, route } from "../router.js";
import { useKeys } from "../shortcuts.js";
import { Empty } from "../ui.js";
import { ConversationList, neighbour } from "./list.js";
import { counts, openThread, showList, thread, VIEWS } from "./store.js";
import { Thread } from "./thread.js";
import { search } from "./search.js";

export function Inbox({ account }) {
  const { view: wanted, id } = route.value;
  const view = VIEWS.includes(wanted) ? wanted : "all";
  const q = search.value;
  useEffect(() => { showList(view, q); }, [account.id, view, q]);
  useEffect(() => { openThread(id); }, [id]);
  const open = (to) => go({ screen: "inbox", account: account.id, view, id: to });
  useKeys({
    j: () => neighbour(id, 1, open),
    k: () => neighbour(id, -1, open),
    "/": () => document.getElementById("search")?.focus(),
    Escape: () => id && open(""),
  }, [id, view, account.id]);
  const current = thread.value?.id === id ? thread.value : null;
  return html`<main class="inbox ${id ? "has-open" : ""}" tabindex="-1">
    <${ConversationList} account=${account} view=${view} openId=${id} />
    <section class="thread-pane" aria-label=${t("thread.label")}>
      ${id ? html`<${Thread} key=${id} id=${id} thread=${current} account=${account} onBack=${() => open("")} />`
        : html`<${Empty} icon="inbox" title=${t("thread.none")} hint=${counts.value?.all === 0 ? null : t("thread.none_hint")} />`}
    </section>
  </main>`;
}
