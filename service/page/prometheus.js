/** The text that Prometheus reads, read here: samples, rates between two readings, and quantiles of histograms. */

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

/** Samples by name: `{labels, value}` each. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const match = line.match(SAMPLE);
    if (!match) continue;
    const [, name, labels = "", value] = match;
    const unescape = (each) => each.replace(/\\[n"\\]/g, (escape) => ESCAPES[escape]);
    const pairs = [...labels.matchAll(LABEL)].map(([, key, each]) => [key, unescape(each)]);
    const sample = { labels: Object.fromEntries(pairs), value: number(value) };
    samples.set(name, [...(samples.get(name) ?? []), sample]);
  }
  return samples;
}

function number(text) {
  return text.endsWith("Inf") ? (text.startsWith("-") ? -Infinity : Infinity) : Number(text);
}

/** The sum of a name's samples, of those alone that `matches`. */
export function sum(samples, name, matches = () => true) {
  return (samples.get(name) ?? [])
    .filter(({ labels }) => matches(labels))
    .reduce((total, { value }) => total + value, 0);
}

/** The values of a label that a name's samples have. */
export function values(samples, name, label) {
  return [...new Set((samples.get(name) ?? []).map(({ labels }) => labels[label]))];
}

/** How much a counter grew from one reading to another; one that fell has begun anew with the process. */
export function increase(before, after, name, matches) {
  const [from, to] = [sum(before, name, matches), sum(after, name, matches)];
  return to >= from ? to - from : to;
}

/**
 * The q-quantile of what a histogram saw between two readings, as Prometheus' histogram_quantile: linear within a
 * bucket, and the last finite bound beyond it. NaN where it saw nothing.
 */
export function quantile(q, before, after, name) {
  const buckets = values(after, `${name}_bucket`, "le")
    .map((le) => ({ bound: number(le), seen: increase(before, after, `${name}_bucket`, (labels) => labels.le === le) }))
    .sort((a, b) => a.bound - b.bound);
  const rank = q * (buckets.at(-1)?.seen ?? 0);
  if (!(rank > 0)) return NaN;
  const i = buckets.findIndex(({ seen }) => seen >= rank);
  const [low, below] = i ? [buckets[i - 1].bound, buckets[i - 1].seen] : [0, 0];
  if (!Number.isFinite(buckets[i].bound)) return low;
  return low + (buckets[i].bound - low) * ((rank - below) / (buckets[i].seen - below));
}
