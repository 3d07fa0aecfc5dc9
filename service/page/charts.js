/** What the charts are drawn with: scales, axes, markers, and the triangle of speed, quality and diversity. */

import { short, svg } from "./dom.js";

/** A function from a domain to a range; `log` for a logarithmic one. */
export function scale([low, high], [from, to], log = false) {
  const place = log ? Math.log : Number;
  const map = (value) => from + ((place(value) - place(low)) / (place(high) - place(low) || 1)) * (to - from);
  map.invert = (at) => {
    const value = place(low) + ((at - from) / (to - from)) * (place(high) - place(low));
    return log ? Math.exp(value) : value;
  };
  return map;
}

/** Round values from low to high, about `wanted` of them. */
export function ticks(low, high, wanted = 5) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(9)),
  );
}

/** 1, 2, 5, 10, 20 …, or other parts of each power of ten, between low and high. */
export function logTicks(low, high, parts = [1, 2, 5]) {
  const powers = Array.from({ length: 12 }, (_, i) => 10 ** (i - 3));
  return powers.flatMap((power) => parts.map((part) => part * power)).filter((value) => value >= low && value <= high);
}

/** Grid lines and labels of both axes in a box {left, right, top, bottom}. */
export function axes(box, x, y, xTicks, yTicks, format = { x: short, y: short }) {
  return [
    ...yTicks.map((value) => svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) })),
    ...yTicks.map((value) =>
      svg("text", { class: "tick", x: box.left - 8, y: y(value), dy: "0.32em", "text-anchor": "end" }, format.y(value)),
    ),
    ...xTicks.map((value) =>
      svg("text", { class: "tick", x: x(value), y: box.bottom + 18, "text-anchor": "middle" }, format.x(value)),
    ),
  ];
}

const MARKERS = {
  circle: "M5 0A5 5 0 1 1-5 0 5 5 0 1 1 5 0Z",
  square: "M-4.5-4.5H4.5V4.5H-4.5Z",
  triangle: "M0-5.6 5.4 4H-5.4Z",
  diamond: "M0-6 6 0 0 6-6 0Z",
};

export function marker(shape, attributes = {}) {
  return svg("path", { d: MARKERS[shape], class: "marker", ...attributes });
}

export function path(places) {
  return places.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

const CORNERS = { speed: [50, 12], quality: [88, 78], diversity: [12, 78] };
const CENTRE = [50, 56];

/** The trilemma as a shape: each corner is reached by the best measured point of all in that respect. */
export function triangle(scores, color) {
  const at = (name, score) => CENTRE.map((c, i) => c + (CORNERS[name][i] - c) * (0.12 + 0.88 * score));
  const names = Object.keys(CORNERS);
  const outline = (score) => `${path(names.map((name) => at(name, score(name))))}Z`;
  const text = (name, anchor, dx, dy) =>
    svg("text", { x: CORNERS[name][0] + dx, y: CORNERS[name][1] + dy, "text-anchor": anchor }, name);
  return svg(
    "svg",
    { class: "trilemma", viewBox: "0 0 100 92", "aria-hidden": "true", style: { "--color": color } },
    svg("path", { class: "outline", d: outline(() => 1) }),
    svg("path", { class: "outline", d: outline(() => 0.5) }),
    scores && svg("path", { class: "shape", d: outline((name) => scores[name]) }),
    text("speed", "middle", 0, -4),
    text("quality", "end", 11, 11),
    text("diversity", "start", -11, 11),
  );
}
