/** Elements from a name, attributes and children. */

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. A function is a listener (`onclick`), `style` an object of properties, true an empty attribute. */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, each]) => element.style.setProperty(key, each));
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return element;
}

/** A button with a picture and a name. */
export function iconButton(paths, label, onclick) {
  const icon = svg(
    "svg",
    { viewBox: "0 0 24 24", "aria-hidden": "true" },
    paths.map((d) => svg("path", { d })),
  );
  return h("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick }, icon);
}

const DICE = [
  "M5 4h14a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1z",
  "M8.5 8.5h.01",
  "M15.5 8.5h.01",
  "M12 12h.01",
  "M8.5 15.5h.01",
  "M15.5 15.5h.01",
];

/** The button that draws another seed. */
export function dice(onclick, label = "Draw another seed and start") {
  return iconButton(DICE, label, onclick);
}

/** Says a text shortly on a button, as "Copied". */
export function flash(button, text) {
  const before = button.dataset.label ?? button.textContent;
  button.dataset.label = before;
  button.textContent = text;
  clearTimeout(button.flashing);
  button.flashing = setTimeout(() => (button.textContent = before), 1600);
}

/** Milliseconds for people: "4.2 ms", "412 ms", "2.91 s". */
export function duration(ms) {
  if (ms === 0) return "0 ms";
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  return ms < 999.5 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

/** A number to three digits, however round it is. */
export function figure(value) {
  return value.toPrecision(3);
}

/** A number of at most three or four digits. */
export function short(value) {
  return value >= 99.95 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

/** "1 image", "4 images". */
export function count(n, noun) {
  return `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
}
