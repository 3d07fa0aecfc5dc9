/** The form of a request's settings. */

import { h, duration } from "./dom.js";
import { choices, classes, methodOf, number, seed, slider } from "./controls.js";
import { along, look } from "./methods.js";
import { rangeOfGuidance, sameClass, stepsOf } from "./settings.js";
import { Steps } from "./steps.js";

const GUIDANCE_STEP = 0.1;

export class Inspector {
  /** `onchange` is told of new settings, `onstart` of a wish to begin, or to stop. */
  constructor(methods, all, { onchange, onstart, ondice }) {
    Object.assign(this, { methods, all, onchange, ondice });
    this.parts = h("div", { class: "parts" });
    this.go = h("button", { class: "primary" }, "Generate");
    const submit = (event) => (event.preventDefault(), onstart());
    this.element = h(
      "form",
      { class: "inspector", "aria-label": "Settings", onsubmit: submit },
      this.parts,
      h("div", { class: "go" }, this.go),
    );
  }

  get method() {
    return this.methods.find((each) => each.method === this.settings.method);
  }

  set(settings) {
    this.settings = settings;
    const { solvers, steps } = this.method;
    const solver = solvers.find((each) => each.name === settings.solver);
    this.parts.replaceChildren(
      ...methodOf(
        this.methods,
        settings.method,
        (each) => this.card(each),
        (name) => this.choose(name),
      ),
      this.method.classes.length ? classes(this.method, settings.label, (label) => this.classify(label)) : "",
      this.guidance(settings),
      new Steps(settings, this.methods, this.all, (count) => this.update({ steps: count })).element,
      solvers.length > 1
        ? choices(
            "Solver",
            "segments",
            solvers.map((each) => ({ value: each.name, label: each.name })),
            settings.solver,
            (name) => this.solve(name),
          )
        : "",
      h("p", { class: "hint" }, solver.summary),
      ...Object.entries(solver.settings).map(([name, range]) =>
        slider(name, settings.values[name], range, (value) => this.retune(name, value)),
      ),
      h(
        "div",
        { class: "pair" },
        seed(
          settings.seed,
          (value) => this.update({ seed: value }),
          () => this.ondice(),
        ),
        number("Images", settings.n, 1, 64, (n) => this.update({ n })),
      ),
    );
  }

  card(method) {
    const { color } = look(this.methods, method.method);
    const fastest = along(this.all, { ...defaults(method), method: method.method }).find(
      (p) => p.steps === method.steps.default,
    );
    const hint = `${method.steps.default} steps${fastest ? `, ${duration(fastest.ms)}` : ""}`;
    return { value: method.method, label: method.method, hint, color };
  }

  /** The control of guidance, for a method that takes it and with a class. */
  guidance({ label, guidance }) {
    const range = rangeOfGuidance(this.method, label);
    if (!range) return "";
    return slider("guidance", guidance, { ...range, step: GUIDANCE_STEP }, (value) => this.update({ guidance: value }));
  }

  /** Another class; guidance comes and goes with there being one. */
  classify(label) {
    const range = rangeOfGuidance(this.method, label);
    if (Boolean(range) === (this.settings.guidance !== undefined)) this.update({ label });
    else this.rebuild({ ...this.settings, label, guidance: range?.default });
  }

  update(change) {
    this.settings = { ...this.settings, ...change };
    this.onchange(this.settings);
  }

  /** Another method begins with its own defaults, and the same class where it has it. */
  choose(name) {
    const method = this.methods.find((each) => each.method === name);
    const label = sameClass(this.settings.label, method);
    const guidance = rangeOfGuidance(method, label)?.default;
    this.rebuild({ ...this.settings, ...defaults(method), method: name, steps: method.steps.default, label, guidance });
  }

  solve(name) {
    const solver = this.method.solvers.find((each) => each.name === name);
    const steps = stepsOf(solver, this.settings.steps);
    this.rebuild({ ...this.settings, solver: name, values: valuesOf(solver), steps });
  }

  /** A solver's setting changes what was measured, so the steps' marks are drawn anew; the slider in hand stays. */
  retune(name, value) {
    this.update({ values: { ...this.settings.values, [name]: value } });
    const steps = new Steps(this.settings, this.methods, this.all, (count) => this.update({ steps: count }));
    this.parts.querySelector(".steps").replaceWith(steps.element);
  }

  /** The form for other settings, with the focus where it was. */
  rebuild(settings) {
    const active = document.activeElement;
    const group = active?.closest("fieldset")?.className;
    const control = active?.matches("select") ? "select" : `fieldset[class="${group}"] input:checked`;
    this.set(settings);
    this.onchange(settings);
    this.parts.querySelector(control)?.focus();
  }
}

function valuesOf(solver) {
  return Object.fromEntries(Object.entries(solver.settings).map(([name, range]) => [name, range.default]));
}

function defaults(method) {
  return { solver: method.solvers[0].name, values: valuesOf(method.solvers[0]) };
}
