/** How many steps: a slider marked with what was measured at each value, and what the chosen value means. */

import { count, duration, figure, h } from "./dom.js";
import { along, look } from "./methods.js";
import { trade } from "./trade.js";

const STOPS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1000];
const LABEL_SHARE = 0.11; // of the slider's length, that a mark's label takes

export class Steps {
  constructor(settings, methods, all, onchange) {
    this.settings = settings;
    this.all = all;
    this.points = along(all, settings);
    this.color = look(methods, settings.method).color;
    const { steps, solvers } = methods.find((each) => each.method === settings.method);
    const only = solvers.find((each) => each.name === settings.solver).steps;
    const wanted = [...STOPS, ...this.points.map((point) => point.steps), steps.default, steps.max];
    const within = wanted.filter((value) => value >= steps.min && value <= steps.max);
    this.stops = only.length ? only : [...new Set(within)].sort((a, b) => a - b);
    const allowed = (value) => !only.length || only.includes(value);
    this.number = h("input", { type: "number", id: "steps", min: steps.min, max: steps.max, required: true });
    this.range = h("input", { type: "range", min: 0, max: Math.max(1, this.stops.length - 1), "aria-label": "Steps" });
    this.readout = h("div", { class: "trade" });
    this.range.addEventListener("input", () => this.change(this.stops[this.range.valueAsNumber], onchange));
    this.number.addEventListener("input", () => {
      this.number.setCustomValidity(allowed(this.number.valueAsNumber) ? "" : `One of ${only.join(", ")}`);
      if (this.number.checkValidity()) this.change(this.number.valueAsNumber, onchange);
    });
    this.element = h(
      "div",
      { class: "steps", style: { "--color": this.color } },
      h("div", { class: "row" }, h("label", { for: "steps" }, "Steps"), this.number),
      h("div", { class: "track" }, this.marks(), this.range),
      this.readout,
    );
    this.change(settings.steps, () => {});
  }

  change(steps, onchange) {
    this.steps = steps;
    if (this.number.valueAsNumber !== steps) this.number.value = steps;
    this.range.value = this.stops.findLastIndex((stop) => stop <= steps);
    const point = this.points.find((each) => each.steps === steps);
    const nearest = point ?? this.points.toSorted((a, b) => Math.abs(a.steps - steps) - Math.abs(b.steps - steps))[0];
    this.range.setAttribute("aria-valuetext", `${steps} steps, ${point ? said(point) : "not measured"}`);
    this.readout.replaceChildren(...this.reading(point, nearest));
    onchange(steps);
  }

  /** Distance above the slider and time below it, where there is room. */
  marks() {
    let labelled = -1;
    return this.points.map((point) => {
      const share = this.stops.indexOf(point.steps) / Math.max(1, this.stops.length - 1);
      const roomy = labelled < 0 || share - labelled > LABEL_SHARE;
      if (roomy) labelled = share;
      const labels = roomy ? [h("span", {}, figure(point.distance)), h("span", {}, duration(point.ms))] : [];
      return h("span", { class: "mark", style: { "--at": String(share) }, "aria-hidden": "true" }, labels);
    });
  }

  /** What was measured here; else at the nearest steps that were. */
  reading(point, nearest) {
    if (!nearest) return trade(undefined, this.all, this.color, "Nothing is measured for this way of sampling.");
    if (point) return trade(point, this.all, this.color, `Measured at ${count(point.steps, "step")}`);
    const parts = trade(nearest, this.all, "var(--muted)", `Not measured at ${this.steps}; at ${nearest.steps}:`);
    parts.forEach((part) => part.classList.add("off"));
    return parts;
  }
}

function said(point) {
  return `distance ${figure(point.distance)}, ${duration(point.ms)} alone`;
}
