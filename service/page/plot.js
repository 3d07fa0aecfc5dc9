/** A plot of the measured points: a measure against time, better upwards. */

import { axes, logTicks, marker, path, scale, ticks } from "./charts.js";
import { count, duration, figure, h, short, svg } from "./dom.js";
import { front, look, way } from "./methods.js";

const HEIGHT = 360;
const LEAST_WIDTH = 280;
const LEAST_TARGET = 5; // radius of what takes a click
const MOST_TARGET = 12;
const LABEL_WIDTH = 20;

export class Plot {
  /**
   * `measure` is `{name, better, value, floor, distance}`; a `distance` is better the smaller it is, and by how many times.
   * `href` gives the address that a point leads to.
   */
  constructor(methods, points, measure, { href, onbudget }) {
    Object.assign(this, {
      methods,
      points: points.filter((point) => Number.isFinite(measure.value(point))),
      measure,
      href,
    });
    this.front = new Set(front(points));
    this.svg = svg("svg", { role: "group", "aria-label": `${measure.name} against time` });
    this.tip = h("div", { class: "tip", hidden: true });
    this.frame = h("div", { class: "plot" }, this.svg, this.tip);
    this.element = h(
      "figure",
      { class: "chart" },
      h("figcaption", {}, h("strong", {}, measure.name), ` ${measure.better}`),
      this.frame,
    );
    const drag = (event) => event.buttons === 1 && onbudget(this.x.invert(event.offsetX));
    this.svg.addEventListener(
      "pointerdown",
      (event) => event.target.closest("a") || (this.svg.setPointerCapture(event.pointerId), drag(event)),
    );
    this.svg.addEventListener("pointermove", (event) => this.svg.hasPointerCapture(event.pointerId) && drag(event));
    new ResizeObserver(() => this.draw()).observe(this.frame);
  }

  get domain() {
    const times = this.points.map((point) => point.ms);
    return [Math.min(...times) * 0.75, Math.max(...times) * 1.35];
  }

  draw() {
    const width = Math.max(LEAST_WIDTH, this.frame.clientWidth);
    this.box = { left: 44, right: width - 10, top: 16, bottom: HEIGHT - 48 };
    const worth = this.points.map(this.measure.value);
    const floor = this.measure.floor;
    const [low, high] = [Math.min(...worth, floor ?? Infinity), Math.max(...worth, floor ?? -Infinity)];
    const { distance } = this.measure;
    const room = 0.06 * (high - low || 1);
    const span = distance ? [low / 1.2, high * 1.2] : [low - room, high + room];
    const yTicks = distance ? logTicks(...span, [1, 2, 3, 5, 7]) : ticks(...span, 6);
    this.x = scale(this.domain, [this.box.left, this.box.right], true);
    this.y = scale(distance ? span.toReversed() : span, [this.box.bottom, this.box.top], distance);
    const title = svg(
      "text",
      { class: "tick", x: this.box.right, y: HEIGHT - 6, "text-anchor": "end" },
      "milliseconds for one image alone",
    );
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(
      ...axes(this.box, this.x, this.y, logTicks(...this.domain), yTicks),
      title,
      this.budget(),
      ...(floor === undefined ? [] : this.floor(floor)),
      ...this.lines(),
      ...this.dots(),
    );
  }

  floor(value) {
    const at = { x1: this.box.left, x2: this.box.right, y1: this.y(value), y2: this.y(value) };
    const text = svg(
      "text",
      { class: "tick", x: this.box.right, y: this.y(value) - 6, "text-anchor": "end" },
      `the data itself, ${short(value)}`,
    );
    return [svg("line", { class: "floor", ...at }), text];
  }

  /** What the time budget leaves out is shaded. */
  budget() {
    this.shade = svg("rect", { class: "shade", y: this.box.top, height: this.box.bottom - this.box.top });
    this.line = svg("line", { class: "budget", y1: this.box.top, y2: this.box.bottom });
    const group = svg("g", {}, this.shade, this.line);
    this.setBudget(this.budgetMs);
    return group;
  }

  setBudget(ms) {
    this.budgetMs = ms;
    if (!ms || !this.x) return;
    const at = Math.min(this.box.right, Math.max(this.box.left, this.x(ms)));
    this.line.setAttribute("x1", at);
    this.line.setAttribute("x2", at);
    this.shade.setAttribute("x", at);
    this.shade.setAttribute("width", this.box.right - at);
  }

  /** The points of one way of sampling, joined by steps. */
  lines() {
    const ways = Map.groupBy(this.points, (point) => `${point.method} ${way(point)}`);
    return [...ways.values()].map((points) => {
      const sorted = points.toSorted((a, b) => a.steps - b.steps);
      const places = sorted.map((point) => [this.x(point.ms), this.y(this.measure.value(point))]);
      return svg("path", {
        class: "way",
        d: path(places),
        style: { "--color": look(this.methods, sorted[0].method).color },
      });
    });
  }

  /** The points, those of the front above the others, each with what a finger may miss it by: less where one is near. */
  dots() {
    const points = this.points.toSorted((a, b) => this.front.has(a) - this.front.has(b));
    const places = points.map((point) => [this.x(point.ms), this.y(this.measure.value(point))]);
    return points.map((point, i) => {
      const others = places.filter((_, other) => other !== i);
      const nearest = Math.min(...others.map(([x, y]) => Math.hypot(x - places[i][0], y - places[i][1])));
      return this.dot(point, places[i], Math.max(LEAST_TARGET, Math.min(MOST_TARGET, nearest / 2)));
    });
  }

  dot(point, [x, y], target) {
    const { color, shape } = look(this.methods, point.method);
    const name = `${point.method}, ${way(point)}, ${count(point.steps, "step")}: ${this.measure.name} ${figure(this.measure.value(point))}, ${duration(point.ms)}`;
    const show = () => this.explain(point, x, y);
    const hide = () => (this.tip.hidden = true);
    const attributes = {
      href: this.href(point),
      class: this.front.has(point) ? "point front" : "point",
      style: { "--color": color },
      transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
      "aria-label": `Generate by ${name}`,
      "data-point": `${point.method} ${way(point)} ${point.steps}`,
    };
    const listeners = { onpointerenter: show, onpointerleave: hide, onfocus: show, onblur: hide };
    return svg(
      "a",
      { ...attributes, ...listeners },
      svg("circle", { r: target, class: "target" }),
      marker(shape),
      svg("text", { class: "tick", y: -6, ...this.beside(x) }, point.steps),
    );
  }

  /** Where a point's label stands: to its left where it would be cut off at its right. */
  beside(x) {
    return x > this.box.right - LABEL_WIDTH ? { x: -8, "text-anchor": "end" } : { x: 8 };
  }

  explain(point, x, y) {
    const width = this.frame.clientWidth;
    this.tip.replaceChildren(
      h("strong", {}, `${point.method} ${count(point.steps, "step")}`),
      h("span", {}, way(point)),
      h("span", {}, `distance ${figure(point.distance)}, recall ${point.recall ?? "–"}, ${duration(point.ms)}`),
    );
    this.tip.hidden = false;
    this.tip.style.setProperty("--x", `${Math.min(Math.max(0, x - 90), Math.max(0, width - 190))}px`);
    this.tip.style.setProperty("--y", `${y > 110 ? y - 84 : y + 16}px`);
  }

  /** Marks the point that was chosen. */
  choose(id) {
    for (const each of this.svg.querySelectorAll(".point")) each.classList.toggle("chosen", each.dataset.point === id);
  }
}
