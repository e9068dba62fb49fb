// From numbers to colours: one logarithmic scale, exact zeros grey. viridis and PuOr are safe for colour-blind people.

import { el, ink } from "./dom.js";

const VIRIDIS = stops(
  "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725",
);
const PUOR = stops("2d004b 542788 8073ac b2abd2 d8daeb ffffff fee0b6 fdb863 e08214 b35806 7f3b08");
const DECADES = 12; // below the largest value; smaller values, except zero, have the darkest colour
/** Okabe and Ito's colours, of lines in charts. */
export const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#737373"];

function stops(words) {
  return words.split(" ").map((word) => [0, 2, 4].map((at) => parseInt(word.slice(at, at + 2), 16)));
}

/** A colour as the 32 bits of an ImageData pixel on a little-endian machine. */
function pixel([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function tableOf(map) {
  return Uint32Array.from({ length: 256 }, (_, place) => {
    const at = (place / 255) * (map.length - 1);
    const [low, high] = [map[Math.floor(at)], map[Math.ceil(at)]];
    return pixel(low.map((one, channel) => Math.round(one + (high[channel] - one) * (at % 1))));
  });
}

const TABLES = { norms: tableOf(VIRIDIS), ratios: tableOf(PUOR) };

/** The smallest and the largest positive value in a series' shown steps, as logarithms to base ten. */
export function extent(series, from, to) {
  const { values, height } = series;
  const end = (series.place(to) + 1) * height;
  let [least, most] = [Infinity, 0];
  for (let place = Math.max(series.place(from), 0) * height; place < end; place++) {
    const value = values[place];
    if (value > 0 && value < Infinity) {
      if (value < least) least = value;
      if (value > most) most = value;
    }
  }
  return [Math.log10(least), Math.log10(most)];
}

/** A scale between two logarithms; of ratios, symmetric about 1. */
export class Scale {
  constructor([low, high], ratios) {
    this.ratios = ratios;
    if (!(low <= high)) [low, high] = [-1, 0];
    if (ratios) {
      this.high = Math.min(Math.max(Math.abs(low), Math.abs(high), 0.01), DECADES / 2);
      this.low = -this.high;
    } else {
      this.low = Math.max(low, high - DECADES);
      this.high = high > this.low ? high : this.low + 1e-9;
    }
    this.table = ratios ? TABLES.ratios : TABLES.norms;
    this.zero = pixel(stops(ink("zero").slice(1))[0]);
    this.strange = pixel(stops(ink("strange").slice(1))[0]);
  }

  /** The pixel of a value: grey for an exact zero, transparent for NaN. */
  colour(value) {
    if (value > 0 && value < Infinity) {
      const at = (Math.log10(value) - this.low) / (this.high - this.low);
      return this.table[at <= 0 ? 0 : at >= 1 ? 255 : Math.round(255 * at)];
    }
    return value === 0 ? this.zero : Number.isNaN(value) ? 0 : this.strange;
  }

  /** The values that the legend labels. */
  ticks() {
    const span = this.high - this.low;
    if (this.ratios && span < 2) return [this.low, 0, this.high].map((at) => 10 ** at);
    const powers = [];
    const each = Math.ceil(span / 6);
    for (let at = Math.ceil(this.low / each) * each; at <= this.high; at += each) powers.push(10 ** at);
    return powers.length > 1 ? powers : [10 ** this.low, 10 ** this.high];
  }
}

/** A number, rounded for a label. */
export function short(value) {
  const size = Math.abs(Math.log10(value));
  return size < 3 ? `${Number(value.toPrecision(2))}` : value.toExponential(0).replace("e+", "e");
}

/** The colour bar with its numbers. */
export function legendBar(scale) {
  const canvas = el("canvas", { width: 256, height: 1, class: "bar" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  new Uint32Array(image.data.buffer).set(scale.table);
  context.putImageData(image, 0, 0);
  const ticks = scale.ticks().map((value) => {
    const tick = el("span", { class: "tick" }, (scale.ratios ? "×" : "") + short(value));
    tick.style.left = `${(100 * (Math.log10(value) - scale.low)) / (scale.high - scale.low)}%`;
    return tick;
  });
  return el("span", { class: "scale" }, canvas, ...ticks);
}
