/**
 * What a request asks for: `{method, solver, values, steps, label, guidance, seed, n}`. `values` are the solver's settings
 * by name, `label` a class's name or null, and `seed` a string, as JavaScript's numbers end at 2⁵³ and seeds at 2⁶⁴.
 * `more` are fields that no form has, as pictures. `guidance` is undefined unless the method takes it and there is a class. For method `auto` it has `maxMs`, and `dataset`
 * where there are several, instead of a way of sampling.
 */

const MAX_SEED = 2n ** 64n - 1n;
const DRAWN_SEEDS = 1_000_000; // short enough to be said aloud

export function drawSeed() {
  return String(crypto.getRandomValues(new Uint32Array(1))[0] % DRAWN_SEEDS);
}

export function isSeed(text) {
  return /^\d{1,20}$/.test(text) && BigInt(text) <= MAX_SEED;
}

/** The settings that an address names, defaults filled in, and the names of those that are not to be had here. */
export function complete(params, methods) {
  const unknown = [];
  const pick = (name, choices, otherwise) => {
    const asked = params.get(name);
    if (asked === null || choices.includes(asked)) return asked ?? otherwise;
    unknown.push(`${name}=${asked}`);
    return otherwise;
  };
  const number = (name, otherwise, min, max, step = "any") => {
    const asked = params.get(name);
    const value = Number(asked);
    if (asked === null) return otherwise;
    if (asked !== "" && value >= min && value <= max && (step === "any" || Number.isInteger(value))) return value;
    unknown.push(`${name}=${asked}`);
    return otherwise;
  };
  const withClass = methods.find((each) => each.classes.includes(params.get("class_label")));
  const chosen = pick(
    "method",
    methods.map((each) => each.method),
    (withClass ?? methods[0]).method,
  );
  const method = methods.find((each) => each.method === chosen);
  const solverName = pick(
    "solver",
    method.solvers.map((each) => each.name),
    method.solvers[0].name,
  );
  const solver = method.solvers.find((each) => each.name === solverName);
  const ranges = Object.entries(solver.settings);
  const values = Object.fromEntries(ranges.map(([name, r]) => [name, number(name, r.default, r.min, r.max)]));
  const count = number("steps", stepsOf(solver, method.steps.default), method.steps.min, method.steps.max, 1);
  const steps = stepsOf(solver, count);
  if (steps !== count) unknown.push(`steps=${count}`);
  const label = classOf(params.get("class_label"), method, unknown);
  const range = rangeOfGuidance(method, label);
  const guidance = range ? number("guidance", range.default, range.min, range.max) : undefined;
  if (!range && Number(params.get("guidance") ?? 1) !== 1) unknown.push(`guidance=${params.get("guidance")}`);
  const n = number("n", 1, 1, 64, 1);
  const asked = params.get("seed");
  if (asked !== null && !isSeed(asked)) unknown.push(`seed=${asked}`);
  const seed = asked !== null && isSeed(asked) ? asked : drawSeed();
  return { settings: { method: chosen, solver: solverName, values, steps, label, guidance, seed, n }, unknown };
}

/** The steps nearest to these that the solver takes: some have plans for a few numbers of steps alone. */
export function stepsOf(solver, steps) {
  const nearer = (a, b) => (Math.abs(b - steps) < Math.abs(a - steps) ? b : a);
  return solver.steps.length ? solver.steps.reduce(nearer) : steps;
}

/** Guidance's range, or undefined: it needs a method that takes it, and a class. */
export function rangeOfGuidance(method, label) {
  return (label !== null && method.guidance) || undefined;
}

/** The class that an address names: nothing at all leaves it to the page, an empty name is no class. */
function classOf(asked, method, unknown) {
  if (method.classes.includes(asked)) return asked;
  if (asked === "") return null;
  if (asked !== null) unknown.push(`class_label=${asked}`);
  return usualClass(method);
}

/** The class that the page begins with. */
function usualClass({ classes }) {
  return classes[Math.min(3, classes.length - 1)] ?? null;
}

/** The class for another method: the same where it has it, and none stays none. */
export function sameClass(label, method) {
  return label === null || method.classes.includes(label) ? label : usualClass(method);
}

/** The address's form of settings. */
export function toParams({ method, solver, values, steps, label, guidance, seed, n }) {
  const fields = { method, class_label: label ?? "", guidance, steps, solver, ...values, seed, n };
  const named = Object.entries(fields).filter(([, value]) => value !== undefined);
  return new URLSearchParams(named.map(([name, value]) => [name, String(value)]));
}

/** The JSON body of settings; it is a Python literal too. */
export function toBody(settings, extra = {}) {
  const { method, solver, values = {}, steps, label, guidance, seed, n, maxMs, dataset, more } = settings;
  const tuned = Object.keys(values).length ? values : undefined;
  const many = n === 1 ? undefined : n;
  const auto = { max_ms: maxMs, dataset };
  const towards = { class_label: label ?? undefined, guidance };
  const fields = { method, steps, solver, settings: tuned, ...auto, ...towards, seed, n: many, ...more };
  const text = (name, value) => (name.endsWith("seed") ? String(value) : JSON.stringify(value));
  const written = Object.entries({ ...fields, ...extra }).filter(([, value]) => value !== undefined);
  return `{${written.map(([name, value]) => `"${name}": ${text(name, value)}`).join(", ")}}`;
}

/** "3 by ddim, 20 steps, guidance 2, seed 7". */
export function describe({ method, label, guidance = 1, steps, seed }) {
  const parts = [
    `${label ?? "no class"} by ${method}`,
    steps && `${steps} step${steps === 1 ? "" : "s"}`,
    guidance !== 1 && `guidance ${guidance}`,
    `seed ${seed}`,
  ];
  return parts.filter(Boolean).join(", ");
}
