/** Starts the page: asks what is served, then shows the view that the address names. */

import * as api from "./api.js";
import { read } from "./address.js";
import { byDataset } from "./dataset.js";
import { giveLooks, inOrder } from "./methods.js";
import { Notice } from "./notice.js";
import { createEdit } from "./edit.js";
import { createFrontier } from "./frontier.js";
import { createGenerate } from "./generate.js";
import { createLoad } from "./load.js";
import { createRace } from "./race.js";

const VIEWS = {
  generate: createGenerate,
  race: byDataset(createRace),
  frontier: byDataset(createFrontier),
  edit: createEdit,
  load: createLoad,
};
const AGAIN_MS = 1000;
const shown = {};
const starting = new Notice();

/** The methods, once there are any: at first the service may still be loading them. */
async function served() {
  for (;;) {
    try {
      const methods = await api.methods();
      if (methods.length) return inOrder(methods);
      const { status, failed_bundles: failed } = await api.readiness();
      const refused = Object.values(failed).join(" ");
      starting.say(
        status === "starting" ? "The service is loading its models." : `There is no model to show. ${refused}`,
      );
    } catch (error) {
      if (error.status === 401) return starting.fail(error);
      starting.fail(error);
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

function show(methods) {
  const { view: asked, params } = read();
  const name = asked in VIEWS ? asked : "generate";
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.dataset.view !== name;
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    link.toggleAttribute("aria-current", false);
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
  }
  document.title = `${name[0].toUpperCase()}${name.slice(1)} · Trilemma`;
  const section = document.querySelector(`main > [data-view=${name}]`);
  shown[name] ??= VIEWS[name](section.querySelector(".body"), methods);
  shown[name].show(params);
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the views'
  document.querySelector("main").focus();
});
document.querySelector("main").prepend(starting.element);
const methods = await served();
if (methods) {
  giveLooks(methods);
  starting.element.remove();
  show(methods);
  addEventListener("hashchange", () => show(methods));
}
