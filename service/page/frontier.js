/** The view Frontier: every measured point against time, and `auto`, which chooses within a budget. */

import { write } from "./address.js";
import { marker, scale } from "./charts.js";
import { duration, figure, h, svg } from "./dom.js";
import { front, look, points, way } from "./methods.js";
import { Picture } from "./picture.js";
import { Plot } from "./plot.js";
import { complete, toParams } from "./settings.js";

const NOTCHES = 200; // of the budget's slider

export function createFrontier(body, methods, address) {
  const all = points(methods);
  if (all.length) return new Frontier(body, methods, all, address);
  body.append(
    h(
      "p",
      { class: "empty" },
      "Nothing is measured yet. ",
      h("code", {}, "./run evaluate"),
      " measures the models that are served, and writes it into their bundles.",
    ),
  );
  return { show() {} };
}

class Frontier {
  constructor(body, methods, all, address) {
    Object.assign(this, { methods, all, address });
    const floor = methods.map((each) => each.measured.floor).find(Boolean);
    const options = { href: (point) => this.href(point), onbudget: (ms) => this.setBudget(ms) };
    const quality = {
      name: "Quality",
      better: "Fréchet distance from the data, nearer is higher",
      distance: true,
      value: (point) => point.distance,
      floor: floor?.frechet_distance,
    };
    const diversity = {
      name: "Diversity",
      better: "recall, the share of the data's variety",
      value: (point) => point.recall ?? NaN,
    };
    this.plots = [quality, diversity]
      .filter((each) => all.some((point) => Number.isFinite(each.value(point))))
      .map((each) => new Plot(methods, all, each, options));
    const [low, high] = this.plots[0].domain;
    this.notch = scale([low, high], [0, NOTCHES], true);
    this.range = h("input", {
      type: "range",
      id: "budget",
      min: 0,
      max: NOTCHES,
      oninput: () => this.setBudget(this.notch.invert(this.range.valueAsNumber)),
    });
    this.output = h("output", { for: "budget" });
    this.chosen = h("p", { class: "chosen", role: "status" });
    this.picture = new Picture();
    const { tiles, clock, notice } = this.picture;
    body.append(
      h("ul", { class: "legend" }, this.legend()),
      h(
        "div",
        { class: "plots" },
        this.plots.map((plot) => plot.element),
      ),
      h(
        "section",
        { class: "auto", "aria-labelledby": "auto" },
        h("div", { class: "small" }, tiles),
        h(
          "div",
          {},
          h("h3", { id: "auto" }, "Let the service choose"),
          h(
            "p",
            { class: "hint" },
            "Drag the budget, here or in a plot: method ",
            h("code", {}, "auto"),
            " takes the measured point nearest to the data within it.",
          ),
          h("div", { class: "field" }, h("label", { for: "budget" }, "Time for one image", this.output), this.range),
          this.chosen,
          h("p", { class: "time" }, "Answered in ", clock),
          notice.element,
        ),
      ),
      (this.details = h("details")),
    );
  }

  show(params) {
    if (this.settings && (!params.size || String(params) === String(this.params))) return this.keep();
    const { settings } = complete(params, this.methods);
    this.settings = { ...settings, n: 1 };
    this.details.replaceChildren(...this.table());
    const asked = Number(params.get("max_ms"));
    const times = this.all.map((point) => point.ms).sort((a, b) => a - b);
    this.plots.forEach((plot) => plot.draw());
    return this.setBudget(asked > 0 ? asked : times[Math.floor(times.length * 0.75)]);
  }

  setBudget(ms) {
    const [low, high] = this.plots[0].domain;
    this.budgetMs = Number(Math.min(high, Math.max(low, ms)).toPrecision(3));
    this.range.value = this.notch(this.budgetMs);
    this.range.setAttribute("aria-valuetext", duration(this.budgetMs));
    this.output.textContent = duration(this.budgetMs);
    this.plots.forEach((plot) => plot.setBudget(this.budgetMs));
    this.keep();
    this.ask();
  }

  keep() {
    this.params = new URLSearchParams([
      ...this.address,
      ["class_label", this.settings.label ?? ""],
      ["seed", this.settings.seed],
      ["max_ms", this.budgetMs],
    ]);
    write("frontier", this.params);
  }

  /** One request at a time; while it runs, the last budget waits for the next. One that was refused gives way to it. */
  async ask() {
    if (this.picture.refused) this.asked.abort();
    if (this.asking) return void (this.again = true);
    this.asking = true;
    do {
      this.again = false;
      await this.answer(this.budgetMs);
    } while (this.again);
    this.asking = false;
    return undefined;
  }

  async answer(budgetMs) {
    const [method] = this.methods;
    const { label, seed, n } = this.settings;
    const auto = { method: "auto", label, seed, n, maxMs: budgetMs, ...Object.fromEntries(this.address) };
    this.asked = new AbortController();
    const answer = await this.picture.play(auto, method, this.asked.signal);
    if (!answer) return void this.plots.forEach((plot) => plot.choose(undefined));
    this.picture.notice.say("");
    this.picture.clock.textContent = duration(answer.timing.total_ms);
    this.chosen.textContent = `Chosen: ${answer.chosen}.`;
    const id = `${answer.method} ${way(answer)} ${answer.steps}`;
    return this.plots.forEach((plot) => plot.choose(id));
  }

  legend() {
    const best = h("li", { class: "key" }, "Filled: no measured point is both faster and nearer the data.");
    const items = this.methods.map(({ method }) => {
      const { color, shape } = look(this.methods, method);
      return h(
        "li",
        { style: { "--color": color } },
        svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, marker(shape)),
        method,
      );
    });
    return [...items, best];
  }

  href(point) {
    const label = this.settings?.label ?? this.methods[0].classes[3] ?? null;
    const seed = this.settings?.seed ?? "7";
    return `#generate?${toParams({ ...point, values: point.settings, label, seed, n: 1 })}`;
  }

  table() {
    const best = new Set(front(this.all));
    const heads = ["Method", "Sampling", "Steps", "Distance", "Recall", "Alone"];
    const rows = this.all
      .toSorted((a, b) => a.ms - b.ms)
      .map((point) => {
        const cells = [way(point), point.steps, figure(point.distance), point.recall ?? "–", duration(point.ms)];
        const link = h(
          "a",
          { href: this.href(point), "aria-label": `Generate by ${point.method}, ${way(point)}, ${point.steps} steps` },
          point.method,
        );
        return h(
          "tr",
          { class: best.has(point) ? "front" : "" },
          h("th", { scope: "row" }, link),
          cells.map((cell) => h("td", {}, cell)),
        );
      });
    const table = h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map((head) => h("th", { scope: "col" }, head)),
        ),
      ),
      h("tbody", {}, rows),
    );
    const machine = this.methods.map((each) => each.measured.machine).find(Boolean);
    return [
      h("summary", {}, `All ${rows.length} measured points`),
      machine ? h("p", { class: "hint" }, `Measured on ${machine}.`) : "",
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Measured points" }, table),
    ];
  }
}
