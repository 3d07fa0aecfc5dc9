/** What one way of sampling trades: its triangle, and the three numbers that were measured. */

import { triangle } from "./charts.js";
import { duration, figure, h } from "./dom.js";
import { scores } from "./methods.js";

/** The parts of it; without a point the triangle is empty, and `heading` says why. */
export function trade(point, all, color, heading) {
  const facts = point && [
    ["Speed", `${duration(point.ms)} alone`, "one image on an idle server"],
    ["Quality", `distance ${figure(point.distance)}`, "Fréchet distance from the data; lower is nearer"],
    [
      "Diversity",
      point.recall === undefined ? "–" : `recall ${figure(point.recall)}`,
      "the share of the data's variety; higher is more",
    ],
  ];
  const rows = facts?.map(([name, value, title]) => h("div", { title }, h("dt", {}, name), h("dd", {}, value)));
  return [triangle(point && scores(point, all), color), h("div", {}, h("p", {}, heading), rows && h("dl", {}, rows))];
}
