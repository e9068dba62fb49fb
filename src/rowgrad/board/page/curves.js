// The charts of a click: a row's curve over steps, and the profile over rows at a step, of all shown lines.

import { LINES } from "./colours.js";
import { el, svg } from "./dom.js";
import { shown } from "./lines.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, ZERO] = [520, 190, 56, 26, 14]; // ZERO: a strip of its own, below all powers of ten
const MOST = 2000; // points of a curve

/** Both charts. `curves` has, for each line, its name, place and series. */
export function charts(curves, { row, step, title, name, kind }, [from, to], ratios, view) {
  const over = curves.map((curve) => ({ ...curve, points: overSteps(curve.series, row, from, to) }));
  const [top, bottom] = view(Math.max(...curves.map((curve) => curve.series.height), 1));
  const across = curves.map((curve) => ({ ...curve, points: overRows(curve.series, step).slice(top, bottom) }));
  const by = ratios ? ", divided by the control's" : "";
  return [
    chart(`${name}: ${title}${by}`, over, [from, to], "step", "curve", ratios),
    chart(`Step ${step}: the profile over ${kind}s`, across, [top, bottom - 1], kind, "profile", ratios),
  ];
}

/** A line's key: the colour of its curves. */
export function swatch(place) {
  const element = el("span", { class: "swatch" });
  element.style.setProperty("--colour", LINES[place % LINES.length]);
  return element;
}

function overSteps(series, row, from, to) {
  if (row >= series.height) return [];
  const [first, last] = [Math.max(series.place(from), 0), series.place(to)];
  const each = Math.ceil((last - first + 1) / MOST);
  const points = [];
  for (let place = first; place <= last; place += each) points.push([series.steps[place], series.values[place * series.height + row]]);
  return points;
}

function overRows(series, step) {
  const place = series.place(step);
  if (place < 0) return [];
  return Array.from({ length: series.height }, (_, row) => [row, series.values[place * series.height + row]]);
}

function chart(title, curves, [from, to], across, kind, ratios) {
  const values = curves.flatMap((curve) => curve.points.map(([, value]) => value)).filter((value) => value > 0 && value < Infinity);
  const least = values.reduce((low, value) => Math.min(low, value), Infinity);
  const most = values.reduce((high, value) => Math.max(high, value), 0);
  const [low, high] = values.length ? [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most) + 1e-9)] : [-1, 0];
  const x = (at) => LEFT + ((at - from) / (to - from || 1)) * (WIDTH - LEFT - 8);
  const floor = HEIGHT - BOTTOM - ZERO;
  const y = (value) => (value > 0 ? floor - ((Math.log10(value) - low) / (high - low || 1)) * (floor - 8) : HEIGHT - BOTTOM - ZERO / 3);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: kind, role: "img", "aria-label": title });
  for (let power = low; power <= high; power += Math.ceil((high - low) / 5)) {
    picture.append(svg("line", { x1: LEFT, x2: WIDTH - 8, y1: y(10 ** power), y2: y(10 ** power), class: "grid" }));
    picture.append(svg("text", { x: LEFT - 6, y: y(10 ** power) + 4, "text-anchor": "end" }, `${ratios ? "×" : ""}1e${power}`));
  }
  picture.append(svg("rect", { x: LEFT, y: floor + 3, width: WIDTH - LEFT - 8, height: ZERO - 3, class: "zero" }));
  picture.append(svg("text", { x: LEFT - 6, y: HEIGHT - BOTTOM - 1, "text-anchor": "end" }, "exactly 0"));
  picture.append(svg("text", { x: LEFT, y: HEIGHT - 6 }, `${across} ${Math.round(from)}`));
  picture.append(svg("text", { x: WIDTH - 8, y: HEIGHT - 6, "text-anchor": "end" }, `${across} ${Math.round(to)}`));
  for (const { points, place, name } of curves) {
    const line = svg("polyline", {
      points: points.filter(([, value]) => value >= 0 && value < Infinity).map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
      stroke: LINES[place % LINES.length],
      "stroke-dasharray": ["", "6 3", "2 3", "8 2 2 2"][Math.floor(place / LINES.length) % 4],
    });
    line.append(svg("title", {}, name));
    picture.append(line);
  }
  return el("figure", { class: "chart" }, el("figcaption", {}, title), picture);
}

/** The lines' values at the row and the step, as text for those who cannot tell colours apart. */
export function legend(curves, { row, step }) {
  const items = curves.map(({ name, place, series }) => {
    const at = series.place(step);
    const value = at >= 0 && row < series.height ? series.values[at * series.height + row] : undefined;
    return el("li", {}, swatch(place), ` ${name}: ${shown(value)}`);
  });
  return el("ul", { class: "keys" }, ...items);
}
