/** The view Load: what the engine does, read from `/metrics` once a second while someone looks. */

import { metrics } from "./api.js";
import { axes, path, scale, ticks } from "./charts.js";
import { duration, h, short, svg } from "./dom.js";
import { look } from "./methods.js";
import { Notice } from "./notice.js";
import { increase, parse, quantile, sum, values } from "./prometheus.js";

const EVERY_MS = 1000;
const SHOWN_S = [30, 60, 120]; // the shortest that holds what was read
const WINDOW = 10; // readings that a rate is taken over
const LATENCY_WINDOW = 30;
const HEIGHT = 200;

export function createLoad(body, methods) {
  return new Load(body, methods);
}

class Load {
  constructor(body, methods) {
    this.methods = methods;
    this.readings = [];
    this.history = []; // what is drawn: numbers by name, one entry a reading
    this.notice = new Notice();
    this.figures = h("dl", { class: "figures" });
    const latency = ["p99", "p95", "p50"].map((name, i) => ({ name, color: `var(--latency-${i + 1})` }));
    const byMethod = methods.map(({ method }) => ({
      name: method,
      key: `steps ${method}`,
      color: look(methods, method).color,
    }));
    this.charts = [
      new Chart("Queue", "images", [
        { name: "waiting", color: "var(--series-2)" },
        { name: "running", color: "var(--series-1)" },
      ]),
      new Chart("Batch", "images in a step", [{ name: "batch", color: "var(--series-1)" }]),
      new Chart("Steps a second", "rows of a batch, by method", byMethod),
      new Chart("Latency", "of answered requests, the last 30 s", latency, (ms) => duration(ms)),
    ];
    body.append(
      this.notice.element,
      this.figures,
      h(
        "div",
        { class: "charts" },
        this.charts.map((chart) => chart.element),
      ),
    );
  }

  show() {
    this.timer ??= setInterval(() => this.read(), EVERY_MS);
    this.read();
  }

  get visible() {
    return document.visibilityState === "visible" && this.figures.checkVisibility();
  }

  async read() {
    if (!this.visible) return;
    try {
      this.readings.push({ at: performance.now(), samples: parse(await metrics()) });
      this.notice.say("");
    } catch (error) {
      return this.notice.wait(error, EVERY_MS / 1000);
    }
    this.readings = this.readings.slice(-LATENCY_WINDOW - 1);
    this.history.push({ at: performance.now(), ...this.derive() });
    this.history = this.history.slice((-SHOWN_S.at(-1) * 1000) / EVERY_MS);
    this.charts.forEach((chart) => chart.draw(this.history));
    return this.summarise(this.history.at(-1));
  }

  /** The numbers of the last readings. */
  derive() {
    const now = this.readings.at(-1);
    const then = this.readings.at(-WINDOW - 1) ?? this.readings[0];
    const [a, b] = [then.samples, now.samples];
    const seconds = (now.at - then.at) / 1000;
    const rate = (name, matches) => (seconds ? increase(a, b, name, matches) / seconds : 0);
    const batches = increase(a, b, "trilemma_batch_size_count");
    const latency = (q) => 1000 * quantile(q, this.readings[0].samples, b, "trilemma_request_seconds");
    const steps = values(b, "trilemma_steps_total", "method").map((name) => [
      `steps ${name}`,
      rate("trilemma_steps_total", (labels) => labels.method === name),
    ]);
    return {
      waiting: sum(b, "trilemma_waiting_images"),
      running: sum(b, "trilemma_active_images"),
      limit: sum(b, "trilemma_queue_limit_images"),
      batch: batches ? increase(a, b, "trilemma_batch_size_sum") / batches : 0,
      p50: latency(0.5),
      p95: latency(0.95),
      p99: latency(0.99),
      images: rate("trilemma_images_total"),
      busy: rate("trilemma_busy_seconds_total"),
      refused: increase(this.readings[0].samples, b, "trilemma_rejections_total"),
      cached: increase(this.readings[0].samples, b, "trilemma_cache_hits_total"),
      ...Object.fromEntries(this.methods.map(({ method }) => [`steps ${method}`, 0])),
      ...Object.fromEntries(steps),
    };
  }

  summarise(now) {
    const figures = [
      ["Images a second", short(now.images)],
      ["Engine busy", `${Math.round(100 * Math.min(1, now.busy))} %`],
      ["In the queue", `${now.waiting} of ${now.limit.toLocaleString("en")}`],
      ["Refused, last 30 s", short(now.refused)],
      ["From the cache, last 30 s", short(now.cached)],
    ];
    this.figures.replaceChildren(
      ...figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );
  }
}

/** Lines over what was read, two minutes at most. */
class Chart {
  constructor(title, unit, series, format = short) {
    Object.assign(this, { title, format });
    this.series = series.map((each) => ({ key: each.name, ...each }));
    this.plot = svg("svg", { role: "img", "aria-label": `${title}: no reading yet` });
    this.legend = h("ul", { class: "legend" });
    this.element = h(
      "figure",
      { class: "chart" },
      h("figcaption", {}, h("strong", {}, title), ` ${unit}`),
      this.plot,
      this.legend,
    );
  }

  draw(history) {
    const now = history.at(-1);
    const width = this.plot.clientWidth;
    const box = { left: 54, right: width - 14, top: 14, bottom: HEIGHT - 28 };
    const numbers = history.flatMap((each) => this.series.map(({ key }) => each[key])).filter(Number.isFinite);
    const yTicks = ticks(0, Math.max(1, ...numbers) * 1.05, 4);
    const read = (now.at - history[0].at) / 1000;
    const shown = SHOWN_S.find((span) => span >= read) ?? SHOWN_S.at(-1);
    const x = scale([-shown, 0], [box.left, box.right]);
    const y = scale([0, Math.max(1, ...numbers) * 1.1], [box.bottom, box.top]);
    const ago = (each) => x((each.at - now.at) / 1000);
    const line = ({ key, color }) => {
      const places = history
        .filter((each) => Number.isFinite(each[key]) && each.at >= now.at - 1000 * shown)
        .map((each) => [ago(each), y(each[key])]);
      return svg("path", { class: "line", d: path(places), style: { "--color": color } });
    };
    const seconds = (value) => (value ? `−${-value} s` : "now");
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.plot.replaceChildren(
      ...axes(box, x, y, [-shown, -shown / 2, 0], yTicks, { x: seconds, y: this.format }),
      ...this.series.map(line),
    );
    const said = this.series.map(({ name, key }) => [name, Number.isFinite(now[key]) ? this.format(now[key]) : "–"]);
    this.plot.setAttribute("aria-label", `${this.title}: ${said.map((each) => each.join(" ")).join(", ")}`);
    this.legend.replaceChildren(
      ...this.series.map(({ color }, i) =>
        h("li", { style: { "--color": color } }, h("i", {}), `${said[i][0]} `, h("b", {}, said[i][1])),
      ),
    );
  }
}
