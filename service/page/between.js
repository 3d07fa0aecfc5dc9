/** From one image to another: a slider along the images between two seeds, or between two pictures. */

import { events, invert } from "./api.js";
import { drawInto, fileOf, upload } from "./brush.js";
import { seed } from "./controls.js";
import { h } from "./dom.js";
import { kind } from "./methods.js";
import { Notice } from "./notice.js";
import { source } from "./picture.js";
import { drawSeed, toBody } from "./settings.js";

const IMAGES = 17; // along the way, both ends among them
const INVERSION_STEPS = 20;

export class Between {
  /** `settings` are those of the view when the way is looked for. */
  constructor(settings) {
    this.settings = settings;
    this.ends = ["First", "Second"].map((name) => new End(name, () => settings().method));
    this.notice = new Notice();
    this.image = h("img", { alt: "An image on the way", hidden: true });
    this.range = h("input", { type: "range", min: 0, max: IMAGES - 1, value: 0, "aria-label": "Between", disabled: true });
    this.range.addEventListener("input", () => this.look());
    const submit = (event) => (event.preventDefault(), this.start());
    this.element = h(
      "section",
      { class: "between", "aria-labelledby": "between" },
      h("h3", { id: "between" }, "Between two images"),
      h("p", { class: "hint" }, "Two seeds, or two pictures, whose starting noise the model finds by going backwards."),
      h(
        "form",
        { "aria-label": "Two images", onsubmit: submit },
        this.ends.map((end) => end.element),
        h("button", { class: "primary" }, "Find the way"),
      ),
      this.image,
      this.range,
      this.notice.element,
    );
  }

  async start() {
    this.running?.abort();
    const { signal } = (this.running = new AbortController());
    const { settings, method } = this.settings();
    this.image.className = kind(method);
    try {
      this.notice.say("Looking for the way");
      const fields = await this.fields(settings, method, signal);
      for await (const { event, data } of events(fields, signal)) {
        if (event === "step") this.notice.say(`Image ${data.image + 1} of ${IMAGES}, step ${data.index} of ${data.of}`);
        if (event === "waiting") this.notice.wait(data.error, data.seconds);
        if (event === "completed") this.found(data.images);
      }
    } catch (error) {
      if (!signal.aborted) this.notice.fail(error);
    }
  }

  /** The request's body: between two seeds, or two noises. */
  async fields(settings, method, signal) {
    const [first, second] = this.ends;
    const many = { ...settings, seed: first.seed, n: IMAGES, strength: undefined };
    if (!first.loaded && !second.loaded) return toBody(many, { to_seed: BigInt(second.seed) });
    if (!(first.loaded && second.loaded)) throw new Error("the other image has no picture yet.");
    if (!method.inverts) throw new Error(`${method.method} cannot go backwards; choose another method.`);
    this.notice.say("Going backwards to the noise of both pictures");
    const class_label = settings.label ?? undefined;
    const [a, b] = await Promise.all(
      this.ends.map((end) =>
        invert({ method: method.method, image: fileOf(end.canvas), class_label, steps: INVERSION_STEPS }, signal),
      ),
    );
    const way = { ...many, steps: a.steps, solver: a.solver, values: a.settings };
    return toBody(way, { noise: a.noise, to_noise: b.noise });
  }

  found(images) {
    this.images = images.map((image) => source(image.data));
    this.range.disabled = false;
    this.image.hidden = false;
    this.notice.say(`${IMAGES} images. The first and the last are the two.`, "done");
    this.look();
  }

  look() {
    const at = this.range.valueAsNumber;
    this.image.src = this.images[at];
    this.image.alt = `Image ${at + 1} of ${IMAGES} on the way`;
    this.range.setAttribute("aria-valuetext", this.image.alt);
  }
}

/** One of the two: a seed's image, or a picture. */
class End {
  constructor(name, method) {
    this.seed = drawSeed();
    this.canvas = h("canvas", { hidden: true, role: "img", "aria-label": `${name} picture` });
    const load = async (file) => {
      const [, height, width] = method().image_shape;
      Object.assign(this.canvas, { width, height, className: kind(method()) });
      await drawInto(this.canvas, file);
      this.canvas.hidden = false;
      this.loaded = true;
    };
    const field = seed(
      this.seed,
      (value) => (this.seed = value),
      () => {
        this.seed = field.querySelector("input").value = drawSeed();
      },
      "Draw another seed",
    );
    this.element = h(
      "fieldset",
      {},
      h("legend", {}, `${name} image`),
      field,
      upload(`${name}: a picture`, load),
      this.canvas,
    );
  }
}
