/** The view Generate: a picture, its settings, and what was made before. */

import { file } from "./api.js";
import { write } from "./address.js";
import { duration, flash, h } from "./dom.js";
import { Inspector } from "./inspector.js";
import { kind, points } from "./methods.js";
import { Picture, source } from "./picture.js";
import { complete, describe, drawSeed, toBody, toParams } from "./settings.js";
import { curl, fileName, python } from "./snippets.js";

const FRAMES = 10;
const KEPT = 40; // results in the history

export function createGenerate(body, methods) {
  return new Generate(body, methods);
}

class Generate {
  constructor(body, methods) {
    this.methods = methods;
    this.picture = new Picture();
    this.picture.onpreview = (image, step, src) => image === 0 && this.frame(step, src);
    this.inspector = new Inspector(methods, points(methods), {
      onchange: (settings) => this.change(settings),
      onstart: () => (this.running ? this.running.abort() : this.start()),
      ondice: () => this.roll(),
    });
    this.film = h("ol", { class: "film", "aria-label": "The first image, step by step" });
    this.facts = h("dl", { class: "facts" });
    this.actions = h("div", { class: "actions" });
    this.history = h("ol", { class: "history" });
    const { tiles, bar, clock, notice } = this.picture;
    body.append(
      h(
        "div",
        { class: "work" },
        h(
          "div",
          { class: "stage" },
          tiles,
          h("div", { class: "under" }, bar, clock),
          notice.element,
          this.film,
          this.facts,
          this.actions,
        ),
        this.inspector.element,
      ),
      h(
        "section",
        { class: "past", "aria-labelledby": "past", hidden: true },
        h("h3", { id: "past" }, "Made before"),
        this.history,
      ),
    );
  }

  /** Shows an address's settings; those that name a seed are someone's image, and are generated. */
  show(params) {
    if (this.settings && String(params) === String(toParams(this.settings))) return;
    if (this.settings && !params.size) return write("generate", toParams(this.settings));
    const { settings, unknown } = complete(params, this.methods);
    this.stop();
    this.inspector.set(settings);
    this.change(settings);
    this.picture.prepare(settings, this.method);
    this.clear();
    if (unknown.length)
      this.picture.notice.say(`This link asks for ${unknown.join(", ")}, which is not to be had here.`, "error");
    else if (params.has("seed")) this.start();
    else this.picture.notice.say("Noise, which every image starts from. Press Generate.");
  }

  get method() {
    return this.methods.find((each) => each.method === this.settings.method);
  }

  change(settings) {
    this.settings = settings;
    write("generate", toParams(settings));
  }

  roll() {
    const settings = { ...this.settings, seed: drawSeed() };
    this.inspector.element.querySelector("[inputmode=numeric]").value = settings.seed;
    this.inspector.update({ seed: settings.seed });
    this.start();
  }

  /** Ends what runs, as something else takes its place. */
  stop() {
    this.running?.abort();
    this.picture.release();
  }

  async start() {
    this.stop();
    const running = (this.running = new AbortController());
    const { settings, method } = this;
    this.inspector.go.textContent = "Stop";
    this.clear();
    this.forming = settings;
    this.picture.prepare(settings, method);
    this.picture.tiles.scrollIntoView({ block: "nearest" }); // on a phone the form is below it
    const answer = await this.picture.play(settings, method, running.signal);
    if (this.running !== running) return;
    this.running = undefined;
    this.inspector.go.textContent = "Generate";
    if (!answer) return;
    const result = { settings, method, answer, elapsedMs: this.picture.elapsedMs, film: [...this.film.children] };
    this.report(result);
    this.remember(result);
  }

  clear() {
    for (const part of [this.film, this.facts, this.actions]) part.replaceChildren();
  }

  /** One of the stages of the first image, for the strip below it. */
  frame(step, src) {
    const { steps } = this.forming;
    if (step % Math.ceil(steps / FRAMES) && step !== steps) return;
    this.film.append(
      h("li", {}, h("img", { src, alt: `After step ${step}`, class: kind(this.method) }), h("span", { "aria-hidden": "true" }, step)),
    );
  }

  report({ settings, answer: { timing }, elapsedMs }) {
    const images = settings.n === 1 ? "1 image" : `${settings.n} images`;
    this.picture.notice.say(`${images} of ${describe(settings)} in ${duration(timing.total_ms)}.`, "done");
    this.picture.clock.textContent = duration(timing.total_ms);
    const facts = [
      ["Seed", settings.seed],
      ["Steps", settings.steps],
      ["Waited", duration(timing.queue_ms)],
      ["Computed", duration(timing.compute_ms)],
      ["Seen after", duration(elapsedMs)],
    ];
    this.facts.replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    const copy = (label, text) =>
      h("button", { type: "button", onclick: (event) => this.copy(event.target, text()) }, label);
    this.actions.replaceChildren(
      h(
        "button",
        { type: "button", onclick: (event) => this.download(event.target, settings) },
        "Download PNG",
      ),
      copy("Copy as curl", () => curl(settings)),
      copy("Copy as Python", () => python(settings)),
      copy("Copy link", () => location.href),
    );
  }

  async copy(button, text) {
    try {
      await navigator.clipboard.writeText(text);
      flash(button, "Copied");
    } catch {
      this.actions.append(h("textarea", { readonly: true, rows: 4, "aria-label": button.textContent }, text));
      this.actions.lastChild.select();
    }
  }

  /** The very file that the service gives as image/png: a grid where there are several images. */
  async download(button, settings) {
    try {
      const href = URL.createObjectURL(await file(toBody(settings), "image/png"));
      h("a", { href, download: fileName(settings) }).click();
      URL.revokeObjectURL(href);
      flash(button, "Saved");
    } catch (error) {
      this.picture.notice.fail(error);
    }
  }

  remember(result) {
    const { settings, method, answer } = result;
    const again = [...this.history.children].find((item) => item.dataset.address === String(toParams(settings)));
    again?.remove();
    const button = h(
      "button",
      { type: "button", "aria-label": `Show ${describe(settings)}`, onclick: () => this.recall(result) },
      h("img", { src: source(answer.images[0].data), alt: "", class: kind(method) }),
      h("span", {}, `${settings.method} ${settings.steps}`),
    );
    this.history.prepend(h("li", { "data-address": String(toParams(settings)) }, button));
    while (this.history.children.length > KEPT) this.history.lastChild.remove();
    this.history.parentElement.hidden = false;
  }

  recall(result) {
    this.stop();
    this.inspector.set(result.settings);
    this.change(result.settings);
    this.picture.show(
      result.answer.images.map((image) => image.data),
      result.settings,
      result.method,
    );
    this.film.replaceChildren(...result.film);
    this.report(result);
  }
}
