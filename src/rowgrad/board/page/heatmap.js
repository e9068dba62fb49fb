// One heatmap: rows from top to bottom as in the image, steps from left to right.

import { extent, short } from "./colours.js";
import { el, ink, say } from "./dom.js";
import { shown } from "./lines.js";

const DRAG = 5; // pixels that the mouse moves before it is a drag

/** A heatmap of one line's quantity. `acts` says what the mouse and the keyboard do: read, pick, zoom, save. */
export class Heatmap {
  constructor(line, quantity, acts) {
    Object.assign(this, { line, quantity, acts, series: null, scale: null, range: [0, 1] });
    this.canvas = el("canvas", { class: "pixels" });
    this.marks = el("span", { class: "marks" });
    this.band = el("span", { class: "band", hidden: true });
    const crosshair = [el("span", { class: "at-row" }), el("span", { class: "at-step" }), el("span", { class: "picked-row" }), el("span", { class: "picked-step" })];
    this.frame = el("div", { class: "frame", tabindex: 0, role: "img" }, this.canvas, ...crosshair, this.band, this.marks);
    this.value = el("span", { class: "value" });
    this.limits = el("span", { class: "limits" });
    const save = el("button", { class: "save", title: "Save as PNG", type: "button", onclick: () => acts.save(this) }, "PNG");
    this.element = el("figure", { class: "heatmap" }, this.frame, el("figcaption", {}, this.value, this.limits, save));
    this.#listen();
  }

  /** Shows a series over a range of steps; without one, that it is being fetched. */
  draw(series, range, scale, selected, edges) {
    Object.assign(this, { series, range, scale });
    this.element.classList.toggle("waits", !series);
    if (!series) return;
    this.element.style.setProperty("--rows", series.height);
    const name = `${this.line.title}, ${this.quantity.title}`;
    this.frame.setAttribute("aria-label", `${name}: ${series.height} rows, ${series.steps.length} steps. Arrow keys read it.`);
    const width = Math.max(Math.round(this.frame.clientWidth), 1);
    if (this.canvas.width !== width || this.canvas.height !== series.height) {
      this.canvas.width = width;
      this.canvas.height = series.height;
    }
    paint(this.canvas, series, range, scale);
    say(this.limits, scale.own ? `${short(10 ** scale.low)} to ${short(10 ** scale.high)}` : "");
    this.marks.replaceChildren(
      ...[...new Set(selected)].filter((row) => Number.isInteger(row) && row >= 0 && row < series.height).map((row) => {
        const mark = el("span", { class: edges ? "edge" : "selected" });
        mark.style.setProperty("--at", row);
        return mark;
      }),
    );
  }

  /** Writes the value at a row and a step beneath the heatmap. */
  read(row, step) {
    const { series } = this;
    const place = series && step !== null ? series.place(step) : -1;
    const known = place >= 0 && row < series.height && step < series.last + series.stride;
    const value = known ? series.values[place * series.height + row] : undefined;
    const text = value === undefined ? "" : this.scale.ratios ? ratioSaid(value) : shown(value);
    say(this.value, text);
    return text;
  }

  /** The row and the recorded step under a point of the page. */
  at(x, y) {
    const box = this.frame.getBoundingClientRect();
    const [from, to] = this.range;
    const row = Math.min(Math.max(Math.floor(((y - box.top) / box.height) * this.series.height), 0), this.series.height - 1);
    const exact = from + ((x - box.left) / box.width) * (to - from);
    const place = Math.min(Math.max(this.series.place(exact), 0), this.series.steps.length - 1);
    return { row, step: this.series.steps[place], exact: Math.min(Math.max(exact, from), to) };
  }

  #listen() {
    const { frame, acts } = this;
    let begin = null;
    frame.onpointermove = (event) => {
      if (!this.series?.steps.length) return;
      const here = this.at(event.clientX, event.clientY);
      acts.hover(here.row, here.step);
      if (begin && Math.abs(event.clientX - begin.x) > DRAG) this.#band(begin.exact, here.exact);
    };
    frame.onpointerleave = () => acts.hover(null, null);
    frame.onpointerdown = (event) => {
      if (event.button || !this.series?.steps.length) return;
      frame.setPointerCapture(event.pointerId);
      begin = { x: event.clientX, exact: this.at(event.clientX, event.clientY).exact };
    };
    frame.onpointerup = (event) => {
      if (!begin) return;
      const here = this.at(event.clientX, event.clientY);
      if (this.band.hidden) acts.pick(this.quantity.name, here.row, here.step);
      else acts.zoom(Math.min(begin.exact, here.exact), Math.max(begin.exact, here.exact));
      begin = null;
      this.band.hidden = true;
    };
    frame.onpointercancel = () => {
      begin = null;
      this.band.hidden = true;
    };
    frame.ondblclick = () => acts.zoom(null, null);
    frame.onkeydown = (event) => acts.key(event, this);
  }

  #band(one, other) {
    const [from, to] = this.range;
    const percent = (step) => (100 * (step - from)) / (to - from);
    this.band.hidden = false;
    this.band.style.left = `${percent(Math.min(one, other))}%`;
    this.band.style.width = `${percent(Math.max(one, other)) - percent(Math.min(one, other))}%`;
  }
}

function ratioSaid(value) {
  if (value === 0) return "0 exactly, here alone";
  return value === Infinity ? "the control has exactly 0" : Number.isNaN(value) ? "0 exactly, as the control" : `× ${shown(value)}`;
}

/** Paints rows × steps, one pixel a row. Steps that share a column are averaged; the mean is 0 only if all are 0. */
export function paint(canvas, series, [from, to], scale) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const sums = new Float64Array(height);
  const counts = new Uint32Array(height);
  const end = series.last + series.stride;
  for (let column = 0; column < width; column++) {
    const begins = from + (column * (to - from)) / width;
    const ends = from + ((column + 1) * (to - from)) / width;
    if (ends <= series.steps[0] || begins >= end) continue;
    let last = series.place(ends);
    if (series.steps[last] === ends) last--;
    const first = Math.min(Math.max(series.place(begins) + (series.steps[series.place(begins)] === begins ? 0 : 1), 0), last);
    sums.fill(0);
    counts.fill(0);
    for (let place = Math.max(first, 0); place <= last; place++) {
      for (let row = 0; row < height; row++) {
        const value = series.values[place * height + row];
        if (Number.isNaN(value)) continue;
        sums[row] += value;
        counts[row]++;
      }
    }
    for (let row = 0; row < height; row++) pixels[row * width + column] = scale.colour(counts[row] ? sums[row] / counts[row] : NaN);
  }
  context.putImageData(image, 0, 0);
}

/** A heatmap with title and scale, to be saved: twice as large as on the page, on the page's background. */
export function picture(heatmap, title) {
  const { series, scale, range, quantity } = heatmap;
  const [width, height, left, top] = [900, 12 * series.height, 60, 64];
  const canvas = el("canvas", { width: left + width + 30, height: top + height + 60 });
  const context = canvas.getContext("2d");
  context.fillStyle = ink("paper");
  context.fillRect(0, 0, canvas.width, canvas.height);
  const small = el("canvas", { width, height: series.height });
  paint(small, series, range, scale);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, left, top, width, height);
  context.fillStyle = ink("ink");
  context.font = "bold 20px sans-serif";
  context.fillText(title, left, 26, width);
  context.font = "16px sans-serif";
  const own = extent(series, ...range).map((power) => shown(10 ** power)).join(" to ");
  context.fillText(`${quantity.title}: ${own}${scale.ratios ? " times the control" : `, ${quantity.unit}`}`, left, 50, width);
  context.textAlign = "right";
  for (let row = 0; row < series.height; row += 7) context.fillText(row, left - 8, top + (row + 0.9) * 12);
  context.fillText(`step ${Math.round(range[1])}`, left + width, top + height + 22);
  context.textAlign = "left";
  context.fillText(`step ${Math.round(range[0])}`, left, top + height + 22);
  context.fillStyle = ink("zero");
  context.fillRect(left, top + height + 34, 16, 16);
  context.fillStyle = ink("ink");
  context.fillText("exactly 0", left + 24, top + height + 48);
  return canvas;
}
