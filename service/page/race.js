/** The view Race: one class and one seed in every method at once, each with its clock. */

import { write } from "./address.js";
import { classes, number, seed } from "./controls.js";
import { count, duration, h } from "./dom.js";
import { along, look, points } from "./methods.js";
import { Picture } from "./picture.js";
import { complete, drawSeed, isSeed } from "./settings.js";
import { trade } from "./trade.js";

const IMAGES = 9; // several of one class, so that diversity is seen too
const STOPS = [1, 2, 4, 10, 20, 50, 100, 250, 1000];
const PLACES = ["first", "second", "third"];

export function createRace(body, methods, address) {
  return new Race(body, methods, address);
}

class Race {
  constructor(body, methods, address) {
    this.address = address;
    this.lanes = methods.map((method) => new Lane(method, methods, () => this.change({})));
    this.all = methods;
    this.go = h("button", { class: "primary" }, "Start");
    this.fields = h("div", { class: "fields" });
    this.verdict = h("p", { class: "verdict", role: "status" });
    const submit = (event) => (event.preventDefault(), this.running ? this.running.abort() : this.start());
    body.append(
      h("form", { class: "bar-form", "aria-label": "The race", onsubmit: submit }, this.fields, this.go),
      h(
        "div",
        { class: "lanes" },
        this.lanes.map((lane) => lane.element),
      ),
      this.verdict,
    );
  }

  show(params) {
    if (this.common && !params.size) return this.change({});
    if (this.common && String(params) === String(this.params)) return;
    const { settings } = complete(params, this.all);
    this.common = { label: settings.label, seed: settings.seed, n: params.has("n") ? settings.n : IMAGES };
    this.lanes.forEach((lane) => lane.choose(Number(params.get(`${lane.method.method}.steps`))));
    this.running?.abort();
    this.draw();
    this.change({});
    if (isSeed(params.get("seed") ?? "")) this.start();
    return undefined;
  }

  draw() {
    const { label, seed: value, n } = this.common;
    this.fields.replaceChildren(
      this.all[0].classes.length ? classes(this.all[0], label, (each) => this.change({ label: each })) : "",
      h(
        "div",
        { class: "pair" },
        seed(
          value,
          (each) => this.change({ seed: each }),
          () => this.roll(),
        ),
        number("Images each", n, 1, 64, (each) => this.change({ n: each })),
      ),
    );
  }

  change(change) {
    this.common = { ...this.common, ...change };
    const { label, seed: value, n } = this.common;
    const steps = this.lanes.map((lane) => [`${lane.method.method}.steps`, lane.steps]);
    this.params = new URLSearchParams([
      ...this.address,
      ["class_label", label ?? ""],
      ["seed", value],
      ["n", n],
      ...steps,
    ]);
    write("race", this.params);
    if (!this.running) this.lanes.forEach((lane) => lane.prepare(this.common));
  }

  roll() {
    this.change({ seed: drawSeed() });
    this.fields.querySelector("[inputmode=numeric]").value = this.common.seed;
    this.start();
  }

  async start() {
    this.running?.abort();
    const running = (this.running = new AbortController());
    const finished = [];
    const begun = performance.now(); // one for all lanes, so that places and clocks agree
    this.go.textContent = "Stop";
    this.verdict.textContent = "";
    await Promise.all(
      this.lanes.map(async (lane) => {
        if (await lane.run(this.common, running.signal, begun)) lane.place(finished.push(lane));
      }),
    );
    if (this.running !== running) return;
    this.running = undefined;
    this.go.textContent = "Start";
    const slowest = Math.max(...finished.map((lane) => lane.picture.elapsedMs));
    finished.forEach((lane) => lane.compare(slowest));
    const order = finished.map((lane) => `${lane.method.method} ${duration(lane.picture.elapsedMs)}`).join(", ");
    this.verdict.textContent = finished.length
      ? `${count(this.common.n, "image")} each: ${order}. They shared the server; alone each is faster.`
      : "";
  }
}

/** A method in the race. */
class Lane {
  constructor(method, methods, onchange) {
    this.method = method;
    this.solver = method.solvers[0];
    const ranges = Object.entries(this.solver.settings);
    this.values = Object.fromEntries(ranges.map(([name, range]) => [name, range.default]));
    this.points = points(methods);
    this.measured = along(this.points, { method: method.method, solver: this.solver.name, values: this.values });
    this.color = look(methods, method.method).color;
    this.picture = new Picture();
    this.select = h("select", {
      "aria-label": `Steps of ${method.method}`,
      onchange: () => this.choose(Number(this.select.value)) || onchange(),
    });
    this.medal = h("span", { class: "medal" });
    this.trade = h("div", { class: "trade" });
    const { tiles, bar, clock, notice } = this.picture;
    this.element = h(
      "section",
      { class: "lane", style: { "--color": this.color }, "aria-label": method.method },
      h("header", {}, h("h3", {}, method.method), this.select),
      tiles,
      bar,
      h("p", { class: "time" }, clock, this.medal),
      notice.element,
      this.trade,
    );
    this.choose();
  }

  choose(steps) {
    const { min, max, default: usual } = this.method.steps;
    this.steps = Number.isInteger(steps) && steps >= min && steps <= max ? steps : usual;
    const stops = [...STOPS, usual, this.steps, ...this.measured.map((point) => point.steps)].filter(
      (each) => each >= min && each <= max,
    );
    const options = [...new Set(stops)].sort((a, b) => a - b);
    this.select.replaceChildren(
      ...options.map((each) => h("option", { value: each, selected: each === this.steps }, count(each, "step"))),
    );
    this.weigh();
  }

  /** The triangle and the numbers of what was measured at these steps. */
  weigh() {
    const point = this.measured.find((each) => each.steps === this.steps);
    const heading = `${point ? "Measured" : "Not measured"} at ${count(this.steps, "step")}`;
    this.trade.replaceChildren(...trade(point, this.points, this.color, heading));
  }

  get settings() {
    return { method: this.method.method, solver: this.solver.name, values: this.values, steps: this.steps };
  }

  prepare({ n }) {
    this.picture.prepare({ n }, this.method);
    this.picture.notice.say("");
    this.place(0);
  }

  run({ label, seed: value, n }, signal, begun) {
    this.prepare({ n });
    this.element.style.setProperty("--share", "0");
    // A class that this method does not know is none.
    const known = this.method.classes.includes(label) ? label : null;
    return this.picture.play({ ...this.settings, label: known, seed: value, n }, this.method, signal, begun);
  }

  place(rank) {
    this.medal.textContent = rank ? (PLACES[rank - 1] ?? `${rank}th`) : "";
    this.element.dataset.place = rank;
    if (!rank) return;
    this.picture.notice.say("");
    this.picture.clock.textContent = duration(this.picture.elapsedMs);
  }

  compare(slowestMs) {
    this.element.style.setProperty("--share", String(this.picture.elapsedMs / slowestMs));
  }
}
