// Try the profile as it stands in the form, saved or not: the real prompt and model answer; nothing is sent or stored.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, query } from "../api.js";
import { html } from "../html.js";
import { t, worded } from "../i18n.js";
import { Icon } from "../icons.js";
import { formatted } from "../inbox/markup.js";
import { endsText } from "../shortcuts.js";
import { Button, Problem, Spinner } from "../ui.js";

const TIMEOUT_MS = 60_000;
const MAX_TURNS = 40;

export function Simulator({ account, changes }) {
  const [turns, setTurns] = useState([]);
  const [text, setText] = useState("");
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const box = useRef(null);
  // The box alone: on a phone the page would go with it.
  useEffect(() => { box.current.scrollTop = box.current.scrollHeight; }, [turns.length, isBusy, error]);
  const ask = async (asked) => {
    setBusy(true);
    setError(null);
    try {
      const said = asked.filter((turn) => turn.text).slice(-MAX_TURNS).map(({ from, text: words }) => ({ from, text: words }));
      const answer = await api("POST", `/bot/simulate?${query({ account_id: account.id })}`, { profile: changes, turns: said }, { timeout: TIMEOUT_MS });
      setTurns([...asked, { from: "bot", text: answer.text ?? "", callsPerson: answer.calls_person, reason: answer.reason, prompt: answer.prompt }]);
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  const submit = (event) => {
    event.preventDefault();
    if (!text.trim() || isBusy) return;
    const asked = [...turns, { from: "customer", text: text.trim() }];
    setTurns(asked);
    setText("");
    ask(asked);
  };
  const pressed = (event) => endsText(event) && submit(event);
  return html`<section class="card simulator" aria-label=${t("sim.title")}>
    <header><div><h2>${t("sim.title")}</h2><p class="quiet">${t("sim.hint")}</p></div>
      ${turns.length > 0 && html`<${Button} kind="small" onClick=${() => (setTurns([]), setError(null))}>${t("sim.again")}</${Button}>`}</header>
    <div class="sim-turns" ref=${box} role="log" aria-label=${t("thread.messages")} tabindex="0">
      ${turns.length === 0 && html`<p class="none">${t("sim.empty")}</p>`}
      ${turns.map((turn, index) => html`<article key=${index} class="message ${turn.from === "bot" ? "out by-bot" : "in"}">
        ${turn.text && html`<div class="bubble"><p class="text" dir="auto">${formatted(turn.text)}</p></div>`}
        ${turn.callsPerson && html`<p class="sim-call"><${Icon} name="alert" size=${14} /><span>${t("sim.calls")} ${turn.reason && `${worded("reason", turn.reason)}.`}</span></p>`}
        ${turn.from === "bot" && !turn.text && !turn.callsPerson && html`<p class="quiet">${t("sim.silent")}</p>`}
        ${turn.from === "bot" && html`<${Told} prompt=${turn.prompt} />`}</article>`)}
      ${isBusy && html`<p class="quiet sim-busy"><${Spinner} label=${t("sim.busy")} /> ${t("sim.busy")}</p>`}
      ${error && html`<${Problem} error=${error} isCostly retry=${error.isMissing ? null : () => ask(turns)} />`}
    </div>
    <form class="composer" onSubmit=${submit}>
      <textarea rows="1" dir="auto" maxlength="4096" value=${text} placeholder=${t("sim.placeholder")} aria-label=${t("sim.placeholder")} onInput=${(event) => setText(event.target.value)} onKeyDown=${pressed}></textarea>
      <${Button} type="submit" kind="primary round" icon="send" label=${t("composer.send")} disabled=${!text.trim() || isBusy} />
    </form>
  </section>`;
}

/** What the model was told before it answered. A version before this one does not say it: then nothing is shown. */
function Told({ prompt }) {
  if (prompt === undefined) return null;
  if (prompt === null) return html`<p class="quiet">${t("sim.not_asked")}</p>`;
  return html`<details class="sim-prompt"><summary>${t("sim.prompt")}</summary>
    <p class="field-label">${t("sim.prompt_system")}</p><pre tabindex="0" dir="auto">${prompt.system}</pre>
    <p class="field-label">${t("sim.prompt_turns")}</p>
    <dl>${prompt.turns.map((turn, index) => html`<div key=${index}><dt>${t(`author.${turn.from}`)}</dt><dd dir="auto">${turn.text}</dd></div>`)}</dl>
  </details>`;
}
