/** What a reader is told of a request: how it stands, what it waits for, what went wrong. */

import { h } from "./dom.js";
import { Lost, setKey } from "./api.js";

export class Notice {
  constructor() {
    this.text = h("span");
    this.left = h("span", { "aria-hidden": "true" }); // a countdown, which is not to be read aloud each second
    this.element = h("p", { class: "notice", role: "status" }, this.text, this.left);
  }

  say(text, kind = "") {
    clearInterval(this.counting);
    this.element.dataset.kind = kind;
    this.text.textContent = text;
    this.left.textContent = "";
  }

  /** The server will be asked again in some seconds. */
  wait(error, seconds) {
    this.say(`${reason(error)} Trying again`, "waiting");
    const until = performance.now() + 1000 * seconds;
    const tick = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      this.left.textContent = left > 0 ? ` in ${left} s.` : " now.";
    };
    tick();
    this.counting = setInterval(tick, 250);
  }

  fail(error) {
    if (error.status === 401) askForKey();
    const again = error.retryAfterS ? ` Try again in ${error.retryAfterS} s.` : "";
    this.say(reason(error) + again, "error");
    const fields = (error.errors ?? []).filter((each) => each.allowed);
    this.left.textContent = fields.map(({ field, allowed }) => ` ${field} may be ${range(allowed)}.`).join("");
  }
}

function reason(error) {
  if (error instanceof Lost) return `Connection lost. ${error.message}`;
  if (error.status === 429) return `The server is full (429): ${error.message}.`;
  if (error.status) return `${error.title} (${error.status}): ${error.message}.`;
  return `This page failed: ${error.message}`;
}

function range(allowed) {
  const { min = allowed.minimum, max = allowed.maximum, names } = allowed;
  if (names) return names.join(", ");
  return min !== undefined && max !== undefined ? `${min} to ${max}` : JSON.stringify(allowed);
}

/** A dialog for the key that the service wants; the page starts again with it. */
export function askForKey() {
  if (document.querySelector("dialog[open]")) return;
  const input = h("input", { type: "password", id: "key", autocomplete: "off", required: true });
  const keep = (event) => {
    event.preventDefault();
    setKey(input.value);
    location.reload();
  };
  const dialog = h(
    "dialog",
    { "aria-labelledby": "key-title", onclose: () => dialog.remove() },
    h(
      "form",
      { onsubmit: keep },
      h("h2", { id: "key-title" }, "This service wants a key"),
      h("p", {}, "It stays in this tab until you close it."),
      h("label", { for: "key" }, "Key"),
      input,
      h("button", { class: "primary" }, "Use this key"),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}
