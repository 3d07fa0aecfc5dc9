/** The images of one request, forming live: tiles that begin as noise, a bar of steps, a clock, and what is to be said. */

import { duration, h } from "./dom.js";
import { events, Lost, Problem } from "./api.js";
import { kind } from "./methods.js";
import { Notice } from "./notice.js";
import { describe, toBody } from "./settings.js";

const PREVIEWS = 256; // asked for at most of a request

export class Picture {
  constructor() {
    this.tiles = h("div", { class: "tiles" });
    this.bar = h("progress", { max: 1, value: 0, "aria-label": "Steps done" });
    this.clock = h("span", { class: "clock" }, duration(0));
    this.notice = new Notice();
    this.onpreview = () => {};
  }

  /** Tiles of noise, which is what every image starts from. */
  prepare({ n }, method) {
    const [, height, width] = method.image_shape;
    this.lay(n);
    this.images = Array.from({ length: n }, (_, i) =>
      h("img", { src: noise(method.image_shape), alt: `Noise, where image ${i + 1} will be`, width, height }),
    );
    this.tiles.replaceChildren(...this.images);
    this.tiles.dataset.state = "noise";
    this.tiles.dataset.kind = kind(method);
    this.bar.value = 0;
    this.clock.textContent = duration(0);
  }

  lay(n) {
    this.tiles.style.setProperty("--columns", Math.ceil(Math.sqrt(n)));
  }

  /** Finished images, as base64 of PNG files. */
  show(images, settings, method) {
    if (this.images?.length !== images.length) this.prepare(settings, method);
    images.forEach((data, i) => {
      this.images[i].src = source(data);
      this.images[i].alt = `Image ${i + 1} of ${images.length}: ${describe(settings)}`;
    });
    this.tiles.dataset.state = "finished";
    this.bar.value = this.bar.max = 1;
  }

  /**
   * The request's answer, once its images have formed before the reader's eyes; undefined if they did not.
   * Its clock counts from `begun`.
   */
  async play(settings, method, signal, begun = performance.now()) {
    const { steps = 1, n } = settings; // method auto has no steps of its own yet
    const every = Math.max(1, Math.ceil((steps * n) / PREVIEWS));
    this.playing = signal; // a later play takes the tiles over
    this.refused = false; // and about to be asked again
    this.done = []; // steps by image
    if (this.images?.length !== n) this.prepare(settings, method);
    this.notice.say("Waiting for the first step");
    this.bar.max = steps * n;
    this.ticking(begun);
    try {
      for await (const { event, data } of events(toBody(settings, { preview_every: every }), signal)) {
        this.on(event, data);
        if (event !== "completed") continue;
        this.show(
          data.images.map((image) => image.data),
          settings,
          method,
        );
        await Promise.all(this.images.map((image) => image.decode().catch(() => {}))); // one replaced meanwhile has none
        return data;
      }
    } catch (error) {
      if (this.playing === signal) this.tell(error, signal);
    } finally {
      this.elapsedMs = performance.now() - begun;
      if (this.playing === signal) cancelAnimationFrame(this.frame);
    }
    return undefined;
  }

  /** Lets go of a play that was ended: it says nothing more. */
  release() {
    this.playing = undefined;
    cancelAnimationFrame(this.frame);
  }

  tell(error, signal) {
    this.tiles.dataset.state = "noise";
    if (signal.aborted) return this.notice.say("Stopped");
    if (!(error instanceof Problem || error instanceof Lost)) console.error(error);
    return this.notice.fail(error);
  }

  on(event, data) {
    this.refused = event === "waiting";
    if (this.refused) this.notice.wait(data.error, data.seconds);
    if (event === "queued") {
      this.done = [];
      this.bar.value = 0;
    }
    if (event === "step") {
      if (!this.done.length) this.notice.say("Forming");
      this.done[data.image] = data.index; // a slow connection is spared some steps
      this.bar.value = this.done.reduce((sum, steps) => sum + steps, 0);
      this.tiles.dataset.state = "forming";
      if (data.preview) {
        this.images[data.image].src = source(data.preview);
        this.onpreview(data.image, data.index, source(data.preview));
      }
    }
  }

  ticking(begun) {
    cancelAnimationFrame(this.frame);
    const tick = () => {
      this.clock.textContent = duration(performance.now() - begun);
      this.frame = requestAnimationFrame(tick);
    };
    tick();
  }
}

export function source(data) {
  return `data:image/png;base64,${data}`;
}

/** A picture of normal noise, as an address; grey for a grey model. */
function noise([channels, height, width]) {
  const canvas = h("canvas", { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < image.data.length; i += 4) {
    const grey = normal();
    image.data.set(channels < 3 ? [grey, grey, grey, 255] : [grey, normal(), normal(), 255], i);
  }
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

function normal() {
  const radius = Math.sqrt(-2 * Math.log(1 - Math.random()));
  return 127.5 * (1 + radius * Math.cos(2 * Math.PI * Math.random()));
}
