/** The view Edit: a picture changed as a whole or where a brush marks it, and the images between two. */

import { file } from "./api.js";
import { write } from "./address.js";
import { Between } from "./between.js";
import { Brush, upload } from "./brush.js";
import { classes, methodOf, number, seed, slider } from "./controls.js";
import { duration, h } from "./dom.js";
import { look } from "./methods.js";
import { Picture } from "./picture.js";
import { complete, describe, drawSeed, sameClass, toBody, toParams } from "./settings.js";

const STRENGTH = { min: 0.05, max: 1, step: 0.05 };
const USUAL_STRENGTH = 0.8;
const BRUSH = { min: 1, max: 9, step: 1 };

export function createEdit(body, methods) {
  const able = methods.filter((each) => each.images);
  return able.length ? new Edit(body, able) : { show: () => body.replaceChildren("No model here takes a picture.") };
}

class Edit {
  constructor(body, methods) {
    this.methods = methods;
    this.result = new Picture();
    this.between = new Between(() => ({ settings: this.settings, method: this.method }));
    this.form = h("form", { class: "inspector", "aria-label": "Settings", onsubmit: (event) => this.submit(event) });
    this.easel = h("div", { class: "easel" });
    this.outcome = h("div", { class: "outcome", hidden: true });
    this.go = h("button", { class: "primary" }, "Paint");
    const stage = h("div", { class: "stage" }, this.easel, this.outcome, this.result.notice.element);
    body.append(h("div", { class: "work" }, stage, this.form), this.between.element);
  }

  get method() {
    return this.methods.find((each) => each.method === this.settings.method);
  }

  show(params) {
    if (this.settings && (!params.size || String(params) === String(this.params))) return this.change({});
    const { settings } = complete(params, this.methods);
    const strength = Number(params.get("strength"));
    const valid = strength >= STRENGTH.min && strength <= STRENGTH.max;
    this.set({ ...settings, strength: valid ? strength : USUAL_STRENGTH });
    return undefined;
  }

  /** The form and the picture's place for these settings; a picture stays while the model has its size. */
  set(settings) {
    this.change(settings);
    const { method } = this;
    const shape = String(method.image_shape);
    if (shape !== this.shape) {
      this.shape = shape;
      this.brush = new Brush(method);
      this.easel.replaceChildren(this.brush.element, this.tools());
      this.result.notice.say("Choose a picture, or take one of the model's own. Then mark what is to be painted anew.");
    }
    const card = ({ method: name }) => ({ value: name, label: name, color: look(this.methods, name).color });
    this.form.replaceChildren(
      ...methodOf(this.methods, settings.method, card, (name) => this.choose(name)),
      method.classes.length ? classes(method, settings.label, (label) => this.change({ label })) : "",
      slider("strength", settings.strength, STRENGTH, (strength) => this.change({ strength })),
      h("p", { class: "hint" }, "The share of the steps that are taken: less stays nearer to the picture."),
      number("Steps", settings.steps, method.steps.min, method.steps.max, (steps) => this.change({ steps })),
      h(
        "div",
        { class: "pair" },
        seed(
          settings.seed,
          (value) => this.change({ seed: value }),
          () => this.set({ ...this.settings, seed: drawSeed() }),
          "Draw another seed",
        ),
        number("Images", settings.n, 1, 64, (n) => this.change({ n })),
      ),
      h("div", { class: "go" }, this.go),
    );
  }

  tools() {
    const take = async (source) => {
      try {
        await this.brush.load(source);
        this.result.notice.say("Mark what is to be painted anew, or change all of it.");
      } catch {
        this.result.notice.say("This file is no picture that the browser can read.", "error");
      }
    };
    return h(
      "div",
      { class: "actions" },
      upload("Choose a picture", take),
      h("button", { type: "button", onclick: async () => take(await this.own()) }, "Take the seed's image"),
      h("button", { type: "button", onclick: () => this.brush.clear() }, "Clear the marks"),
      slider("brush", this.brush.size, BRUSH, (size) => (this.brush.size = size)),
    );
  }

  /** The image that the model makes of the settings. */
  async own() {
    try {
      return await file(toBody({ ...this.settings, n: 1 }), "image/png");
    } catch (error) {
      this.result.notice.fail(error);
      throw error;
    }
  }

  change(change) {
    this.settings = { ...this.settings, ...change };
    this.params = toParams(this.settings);
    this.params.set("strength", this.settings.strength);
    write("edit", this.params);
  }

  choose(name) {
    const method = this.methods.find((each) => each.method === name);
    const { seed, n, label } = this.settings;
    const params = new URLSearchParams({ method: name, seed, n, class_label: sameClass(label, method) ?? "" });
    this.set({ ...complete(params, this.methods).settings, strength: this.settings.strength });
  }

  async submit(event) {
    event.preventDefault();
    if (this.running) return this.running.abort();
    const { fields } = this.brush;
    if (!fields) return this.result.notice.say("There is no picture yet.", "error");
    const running = (this.running = new AbortController());
    const settings = { ...this.settings, more: { ...fields, strength: this.settings.strength } };
    this.outcome.replaceChildren(this.result.tiles, h("div", { class: "under" }, this.result.bar, this.result.clock));
    this.outcome.hidden = false;
    this.go.textContent = "Stop";
    this.result.prepare(settings, this.method);
    const answer = await this.result.play(settings, this.method, running.signal);
    this.running = undefined;
    this.go.textContent = "Paint";
    if (!answer) return undefined;
    const what = fields.mask ? "The marked part" : "The picture";
    this.result.notice.say(`${what} as ${describe(settings)}, in ${duration(answer.timing.total_ms)}.`, "done");
    return undefined;
  }
}
