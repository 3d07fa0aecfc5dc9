/** The form's parts that several views have. */

import { dice, h } from "./dom.js";
import { datasets } from "./methods.js";
import { isSeed } from "./settings.js";

const MOST_CHIPS = 24; // classes beyond that are a list to choose from
const NO_CLASS = "any";
let made = 0;

/** One of several, as radio buttons: options are `{value, label, hint}`. */
export function choices(legend, kind, options, value, onchange) {
  const name = `choice-${++made}`;
  const radios = options.map((option) => {
    const input = h("input", { type: "radio", name, value: option.value, checked: option.value === value });
    input.addEventListener("change", () => onchange(option.value));
    const hint = option.hint && h("small", {}, option.hint);
    return h(
      "label",
      { style: option.color ? { "--color": option.color } : {} },
      input,
      h("span", {}, option.label, hint),
    );
  });
  return h("fieldset", { class: `choices ${kind}` }, h("legend", {}, legend), h("div", {}, radios));
}

/**
 * A method, as a card of its data set; where there are several, that is to be chosen too. `card` gives a method's option.
 * Another data set begins with its method of the same family.
 */
export function methodOf(methods, chosen, card, onchange) {
  const { dataset, family } = methods.find((each) => each.method === chosen);
  const of = (name) => methods.filter((each) => each.dataset === name);
  const cards = choices("Method", "cards", of(dataset).map(card), chosen, onchange);
  const names = datasets(methods);
  if (names.length < 2) return [cards];
  const change = (name) => onchange((of(name).find((each) => each.family === family) ?? of(name)[0]).method);
  const options = names.map((name) => ({ value: name, label: name }));
  return [choices("Data set", "segments data", options, dataset, change), cards];
}

/** A class's name, or null for none. */
export function classes(method, label, onchange) {
  const named = method.classes.map((name) => ({ value: name, label: name.trim() ? name : JSON.stringify(name) }));
  const options = [...named, { value: null, label: NO_CLASS }];
  if (options.length <= MOST_CHIPS) return choices("Class", "chips", options, label, onchange);
  const items = options.map((each) => h("option", { selected: each.value === label }, each.label));
  const pick = (event) => onchange(options[event.target.selectedIndex].value);
  return field("Class", h("select", { onchange: pick }, items));
}

/** A labelled control. */
export function field(label, control, ...more) {
  control.id ||= `field-${++made}`;
  return h("div", { class: "field" }, h("label", { for: control.id }, label), h("div", {}, control, more));
}

/** The seed, with a dice that draws another. */
export function seed(value, onchange, ondice, label) {
  const input = h("input", { value, inputmode: "numeric", autocomplete: "off", maxlength: 20 });
  input.addEventListener("input", () => {
    const valid = isSeed(input.value);
    input.setCustomValidity(valid ? "" : "A whole number from 0 to 2⁶⁴ − 1");
    if (valid) onchange(input.value);
  });
  return field("Seed", input, dice(ondice, label));
}

/** A whole number; what is not one within the range is marked, and kept from being sent. */
export function number(label, value, min, max, onchange) {
  const input = h("input", { type: "number", value, min, max, required: true });
  input.addEventListener("input", () => input.checkValidity() && onchange(input.valueAsNumber));
  return field(label, input);
}

/** A number within a range, with its value beside its name. The usual step is round, so that round values can be had. */
export function slider(label, value, { min, max, step = 10 ** Math.floor(Math.log10((max - min) / 20)) }, onchange) {
  const output = h("output", {}, String(value));
  const input = h("input", { type: "range", min, max, step, value });
  input.addEventListener("input", () => {
    output.textContent = input.value;
    onchange(input.valueAsNumber);
  });
  const element = field(label, input);
  element.firstChild.append(output);
  return element;
}
