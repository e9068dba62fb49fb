// One heatmap: rows from top to bottom as in the image, steps from left to right.

import { extent, short } from "./colours.js";
import { el, ink, say } from "./dom.js";
import { rowsOf, shown } from "./lines.js";

const DRAG = 5; // pixels that the mouse moves before it is a drag

/** A heatmap of one line's quantity. `acts` says what the mouse and the keyboard do: read, pick, zoom, save. */
export class Heatmap {
  constructor(line, quantity, acts) {
    Object.assign(this, { line, quantity, acts, series: null, scale: null, range: [0, 1], view: [0, 1], how: "max" });
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

  /** Shows a series over a range of steps, in a view: some rows, by their maximum or mean. Without one, that it is being fetched. */
  draw(series, range, scale, selected, edges, { top, bottom, rows: how }) {
    Object.assign(this, { series, range, scale, how });
    this.element.classList.toggle("waits", !series);
    if (!series) return;
    this.view = viewOf(series.height, top, bottom);
    const [first, last] = this.view;
    this.element.style.setProperty("--top", first);
    this.element.style.setProperty("--rows", last - first);
    const name = `${this.line.title}, ${this.quantity.title}`;
    const { kind } = rowsOf(this.line, this.quantity.name);
    this.frame.setAttribute("aria-label", `${name}: ${series.height} ${kind}s, ${series.steps.length} steps. Arrow keys read it.`);
    const width = Math.max(Math.round(this.frame.clientWidth), 1);
    const height = Math.min(last - first, Math.max(Math.round(this.frame.clientHeight * devicePixelRatio), 1));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    paint(this.canvas, series, range, scale, this.view, how);
    say(this.limits, scale.own ? `${short(10 ** scale.low)} to ${short(10 ** scale.high)}` : "");
    this.marks.replaceChildren(
      ...[...new Set(selected)].filter((row) => Number.isInteger(row) && row >= first && row < last).map((row) => {
        const mark = el("span", { class: edges ? "edge" : "selected" });
        mark.style.setProperty("--at", row);
        return mark;
      }),
    );
  }

  /** Whether several rows share a line of pixels. */
  get isBinned() {
    return this.series !== null && this.canvas.height < this.view[1] - this.view[0];
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
    const [first, last] = this.view;
    const high = Math.min(Math.max((y - box.top) / box.height, 0), 1) * (last - first);
    const exact = from + ((x - box.left) / box.width) * (to - from);
    const place = Math.min(Math.max(this.series.place(exact), 0), this.series.steps.length - 1);
    const row = this.#rowAt(Math.min(first + Math.floor(high), last - 1), place);
    return { row, high: first + high, step: this.series.steps[place], exact: Math.min(Math.max(exact, from), to) };
  }

  /** The row, or of those that are shown by their maximum the one that has it. */
  #rowAt(row, place) {
    if (!this.isBinned || this.how !== "max") return row;
    const [first, last] = this.view;
    const [from, to] = binAt(Math.floor(((row + 0.5 - first) / (last - first)) * this.canvas.height), this.canvas.height, last - first);
    let best = first + from;
    for (let one = best; one < first + to; one++) {
      const value = this.series.values[place * this.series.height + one];
      if (value > this.series.values[place * this.series.height + best] || Number.isNaN(this.series.values[place * this.series.height + best])) best = one;
    }
    return best;
  }

  #listen() {
    const { frame, acts } = this;
    let begin = null;
    frame.onpointermove = (event) => {
      if (!this.series?.steps.length) return;
      const here = this.at(event.clientX, event.clientY);
      acts.hover(here.row, here.step);
      if (begin && isDrag(begin, event)) this.#band(begin, here, isSteep(begin, event));
    };
    frame.onpointerleave = () => acts.hover(null, null);
    frame.onpointerdown = (event) => {
      if (event.button || !this.series?.steps.length) return;
      frame.setPointerCapture(event.pointerId);
      begin = { x: event.clientX, y: event.clientY, ...this.at(event.clientX, event.clientY) };
    };
    frame.onpointerup = (event) => {
      if (!begin) return;
      const here = this.at(event.clientX, event.clientY);
      if (this.band.hidden) acts.pick(this.quantity.name, here.row, here.step);
      else if (isSteep(begin, event)) acts.zoomRows(Math.min(begin.high, here.high), Math.max(begin.high, here.high), this.series.height);
      else acts.zoom(Math.min(begin.exact, here.exact), Math.max(begin.exact, here.exact));
      begin = null;
      this.band.hidden = true;
    };
    frame.onpointercancel = () => {
      begin = null;
      this.band.hidden = true;
    };
    frame.ondblclick = () => acts.showAll();
    frame.onkeydown = (event) => acts.key(event, this);
  }

  #band(begin, here, isSteep) {
    const [from, to] = isSteep ? this.view : this.range;
    const ends = isSteep ? [begin.high, here.high] : [begin.exact, here.exact];
    const [near, far] = ends.sort((one, other) => one - other).map((at) => (100 * (at - from)) / (to - from));
    this.band.hidden = false;
    Object.assign(this.band.style, isSteep
      ? { left: "0", width: "100%", top: `${near}%`, height: `${far - near}%`, bottom: "auto" }
      : { left: `${near}%`, width: `${far - near}%`, top: "0", height: "auto", bottom: "0" });
  }
}

function isDrag(begin, event) {
  return Math.max(Math.abs(event.clientX - begin.x), Math.abs(event.clientY - begin.y)) > DRAG;
}

/** Whether a drag is of rows, not of steps. */
function isSteep(begin, event) {
  return Math.abs(event.clientY - begin.y) > Math.abs(event.clientX - begin.x);
}

/** The rows that are shown, first and behind the last: the chosen ones, as far as there are any, else all. */
export function viewOf(height, top, bottom) {
  const view = [Math.max(top ?? 0, 0), Math.min(bottom ?? height, height)];
  return view[1] > view[0] ? view : [0, height];
}

/** The rows of a line of pixels, when `count` rows share `lines`. */
function binAt(line, lines, count) {
  return [Math.floor((line * count) / lines), Math.floor(((line + 1) * count) / lines)];
}

function ratioSaid(value) {
  if (value === 0) return "0 exactly, here alone";
  return value === Infinity ? "the control has exactly 0" : Number.isNaN(value) ? "0 exactly, as the control" : `× ${shown(value)}`;
}

/**
 * Paints rows × steps. Steps that share a column are averaged; rows that share a line are shown by their maximum or mean.
 * Both are 0 only if all are 0.
 */
export function paint(canvas, series, [from, to], scale, [top, bottom], how) {
  const { width, height: lines } = canvas;
  const { height } = series;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, lines);
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
      for (let row = top; row < bottom; row++) {
        const value = series.values[place * height + row];
        if (Number.isNaN(value)) continue;
        sums[row] += value;
        counts[row]++;
      }
    }
    for (let line = 0; line < lines; line++) {
      const [first, last] = binAt(line, lines, bottom - top);
      pixels[line * width + column] = scale.colour(joined(sums, counts, top + first, top + last, how));
    }
  }
  context.putImageData(image, 0, 0);
}

/** The maximum or mean of some rows' means; NaN if none of them has a value. */
function joined(sums, counts, first, last, how) {
  let [most, sum, known] = [-Infinity, 0, 0];
  for (let row = first; row < last; row++) {
    if (!counts[row]) continue;
    const value = sums[row] / counts[row];
    if (value > most) most = value;
    sum += value;
    known++;
  }
  if (!known) return NaN;
  const value = how === "mean" ? sum / known : most;
  // Zero only if all are: not by rounding, nor because numbers of both signs cancel.
  return value === 0 && sums.subarray(first, last).some((one) => one !== 0) ? -Number.MIN_VALUE : value;
}

/** A heatmap with title and scale, to be saved: twice as large as on the page, on the page's background. */
export function picture(heatmap, title) {
  const { series, scale, range, quantity, view, how } = heatmap;
  const rows = view[1] - view[0];
  const each = Math.min(12, 672 / rows); // pixels of a row
  const [width, height, left, top] = [900, Math.ceil(rows * each), 60, 64];
  const canvas = el("canvas", { width: left + width + 30, height: top + height + 60 });
  const context = canvas.getContext("2d");
  context.fillStyle = ink("paper");
  context.fillRect(0, 0, canvas.width, canvas.height);
  const small = el("canvas", { width, height: Math.min(rows, height) });
  paint(small, series, range, scale, view, how);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, left, top, width, height);
  context.fillStyle = ink("ink");
  context.font = "bold 20px sans-serif";
  context.fillText(title, left, 26, width);
  context.font = "16px sans-serif";
  const own = extent(series, ...range).map((power) => shown(10 ** power)).join(" to ");
  context.fillText(`${quantity.title}: ${own}${scale.ratios ? " times the control" : `, ${quantity.unit}`}`, left, 50, width);
  context.textAlign = "right";
  for (let row = 0; row < rows; row += 7 * Math.ceil(rows / 56)) context.fillText(view[0] + row, left - 8, top + row * each + 11);
  context.fillText(`step ${Math.round(range[1])}`, left + width, top + height + 22);
  context.textAlign = "left";
  context.fillText(`step ${Math.round(range[0])}`, left, top + height + 22);
  context.fillStyle = ink("zero");
  context.fillRect(left, top + height + 34, 16, 16);
  context.fillStyle = ink("ink");
  context.fillText("exactly 0", left + 24, top + height + 48);
  return canvas;
}
