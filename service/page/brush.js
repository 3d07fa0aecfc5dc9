/** A picture at a model's size, and a brush that marks what of it is to be painted anew. */

import { h } from "./dom.js";
import { kind } from "./methods.js";

const REPAINTED = "rgb(255 92 51)";
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Draws a file onto a canvas: its largest centred part with the canvas's proportions, or all of it if it fits. */
export async function drawInto(canvas, source) {
  const picture = await createImageBitmap(source);
  const { width, height } = canvas;
  const fits = picture.width <= width && picture.height <= height;
  const scale = fits ? 1 : Math.min(picture.width / width, picture.height / height);
  const [w, h] = [width * scale, height * scale]; // of the part; around a picture that fits there is black
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = scale !== 1;
  context.fillRect(0, 0, width, height); // black, where the picture is transparent
  context.drawImage(picture, (picture.width - w) / 2, (picture.height - h) / 2, w, h, 0, 0, width, height);
}

/** Base64 of the canvas's PNG file. */
export function fileOf(canvas) {
  return canvas.toDataURL("image/png").split(",")[1];
}

export class Brush {
  /** `size` is how wide the brush is, in pixels of the model. */
  constructor(method, size = 3) {
    const [, height, width] = method.image_shape;
    Object.assign(this, { width, height, size, at: [width >> 1, height >> 1] });
    this.picture = h("canvas", { width, height, class: kind(method), "aria-hidden": "true" });
    this.mask = h("canvas", {
      width,
      height,
      tabindex: "0",
      role: "application",
      "aria-label": "What to paint anew: drag over it, or move with the arrow keys and mark with Space",
    });
    this.element = h("div", { class: "brush" }, this.picture, this.mask);
    this.mask.addEventListener("pointerdown", (event) => this.mask.setPointerCapture(event.pointerId));
    for (const kind of ["pointerdown", "pointermove"])
      this.mask.addEventListener(kind, (event) => event.buttons & 1 && this.mark(...this.place(event)));
    this.mask.addEventListener("keydown", (event) => this.press(event));
    this.clear();
  }

  async load(source) {
    await drawInto(this.picture, source);
    this.clear();
    this.loaded = true;
  }

  clear() {
    this.mask.getContext("2d").clearRect(0, 0, this.width, this.height);
    this.marked = false;
  }

  place(event) {
    const box = this.mask.getBoundingClientRect();
    const along = (at, from, length, pixels) => Math.floor(((at - from) / length) * pixels);
    return [
      along(event.clientX, box.left, box.width, this.width),
      along(event.clientY, box.top, box.height, this.height),
    ];
  }

  mark(x, y) {
    const context = this.mask.getContext("2d");
    const from = Math.floor(this.size / 2);
    context.fillStyle = REPAINTED;
    context.fillRect(x - from, y - from, this.size, this.size);
    this.marked = true;
  }

  press(event) {
    const move = MOVES[event.key];
    if (event.key === " ") this.mark(...this.at);
    else if (move) {
      const [x, y] = this.at.map((each, i) => each + move[i]);
      this.at = [Math.min(Math.max(x, 0), this.width - 1), Math.min(Math.max(y, 0), this.height - 1)];
      if (event.shiftKey) this.mark(...this.at);
    } else return;
    event.preventDefault();
  }

  /** The request's own fields: the picture, and where something is marked the mask, white on black. */
  get fields() {
    if (!this.loaded) return undefined;
    return { image: fileOf(this.picture), mask: this.marked ? fileOf(this.whiteOnBlack()) : undefined };
  }

  whiteOnBlack() {
    const canvas = h("canvas", { width: this.width, height: this.height });
    const context = canvas.getContext("2d");
    context.drawImage(this.mask, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, this.width, this.height);
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.width, this.height);
    return canvas;
  }
}

/** A button that takes a file, and gives it on. */
export function upload(label, onfile) {
  const input = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp", "aria-label": label });
  input.addEventListener("change", () => input.files[0] && onfile(input.files[0]));
  return h("label", { class: "upload" }, h("span", { "aria-hidden": "true" }, label), input);
}
