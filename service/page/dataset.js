/** One view a data set, with a choice of them where there are several: figures compare within one data set alone. */

import { choices } from "./controls.js";
import { h } from "./dom.js";
import { datasets } from "./methods.js";

/** `create(body, methods, address)` makes the view of some methods; `address` is to be a part of its address. */
export function byDataset(create) {
  return (body, methods) => {
    const names = datasets(methods);
    return names.length > 1 ? new Datasets(body, methods, names, create) : create(body, methods, []);
  };
}

class Datasets {
  constructor(body, methods, names, create) {
    Object.assign(this, { methods, names, create, views: {}, name: names[0] });
    this.chooser = h("div", { class: "datasets" });
    this.bodies = Object.fromEntries(names.map((name) => [name, h("div", { hidden: true })]));
    body.append(this.chooser, ...Object.values(this.bodies));
  }

  show(params) {
    const asked = [params.get("dataset"), this.datasetOf(params.get("class_label")), this.name];
    this.choose(
      asked.find((name) => this.names.includes(name)),
      params,
    );
    const options = this.names.map((name) => ({ value: name, label: name }));
    this.chooser.replaceChildren(choices("Data set", "segments", options, this.name, (name) => this.choose(name)));
  }

  /** The first data set with this class: an address may name no data set. */
  datasetOf(label) {
    return this.methods.find((each) => each.classes.includes(label))?.dataset;
  }

  choose(name, params = new URLSearchParams()) {
    this.name = name;
    for (const each of this.names) this.bodies[each].hidden = each !== name;
    const own = this.methods.filter((each) => each.dataset === name);
    this.views[name] ??= this.create(this.bodies[name], own, [["dataset", name]]);
    this.views[name].show(params);
  }
}
