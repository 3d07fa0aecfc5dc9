/** What is known of the methods: their measured points, and how they look in charts. */

const SHAPES = ["circle", "square", "triangle", "diamond"];
const COLORS = 8;

/** The methods as the page lists them: by data set, those in colour first. */
export function inOrder(methods) {
  const channels = (name) => methods.find((each) => each.dataset === name).image_shape[0];
  const names = datasets(methods).toSorted((a, b) => channels(b) - channels(a));
  return methods.toSorted((a, b) => names.indexOf(a.dataset) - names.indexOf(b.dataset));
}

/** The names of the data sets of some methods. */
export function datasets(methods) {
  return [...new Set(methods.map((each) => each.dataset))];
}

/** How a method's pictures are enlarged, as a class for CSS: those in colour smoothly, grey ones with their pixels. */
export function kind({ image_shape: [channels] }) {
  return channels < 3 ? "grey" : "photo";
}

/** Gives each method how it is drawn, by its place among all: 32 ways. */
export function giveLooks(methods) {
  methods.forEach((method, i) => {
    const shape = SHAPES[(i + Math.floor(i / COLORS)) % SHAPES.length];
    method.look = { color: `var(--series-${(i % COLORS) + 1})`, shape };
  });
}

/** How a method is drawn. */
export function look(methods, name) {
  return methods.find((each) => each.method === name).look;
}

/** Every measured point of every method, `{method, dataset, solver, settings, steps, ms, distance, recall …}`. */
export function points(methods) {
  return methods.flatMap((each) =>
    (each.measured.points ?? []).map((point) => ({
      ...point,
      method: each.method,
      dataset: each.dataset,
      ms: point.alone_ms,
      distance: point.frechet_distance,
    })),
  );
}

/** The points of settings' way of sampling, by steps. */
export function along(all, { method, solver, values }) {
  const same = (point) => Object.entries(point.settings).every(([name, value]) => values[name] === value);
  return all
    .filter((point) => point.method === method && point.solver === solver && same(point))
    .sort((a, b) => a.steps - b.steps);
}

/** "ddim eta=1", the way of sampling of a point. */
export function way(point) {
  return [point.solver, ...Object.entries(point.settings).map(([name, value]) => `${name}=${value}`)].join(" ");
}

/** How a point stands among all of its data set, 0 worst to 1 best in each: speed (by log time), quality, diversity. */
export function scores(point, all) {
  const comparable = all.filter((each) => each.dataset === point.dataset);
  const place = (measure) => {
    const values = comparable.map(measure).filter(Number.isFinite);
    const [worst, best] = [Math.min(...values), Math.max(...values)];
    return best === worst ? 1 : (measure(point) - worst) / (best - worst);
  };
  return {
    speed: place((each) => -Math.log(each.ms)),
    quality: place((each) => -each.distance),
    diversity: Number.isFinite(point.recall) ? place((each) => each.recall) : 0,
  };
}

/** The points to which no other is both nearer the data and as fast, or the other way round. */
export function front(all) {
  const better = (a, b) => a.ms <= b.ms && a.distance <= b.distance && (a.ms < b.ms || a.distance < b.distance);
  return all.filter((point) => !all.some((other) => better(other, point))).sort((a, b) => a.ms - b.ms);
}
