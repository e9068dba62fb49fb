// From runs to the lines of the page: filtered, averaged over seeds, divided by a control; and the text of each.

import { Series } from "./series.js";

/** The lines: one for each run that matches the filter, or one for all runs that differ only in the seed. */
export function linesOf(answer, choice) {
  const words = choice.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const lines = new Map();
  for (const run of answer.runs) {
    const text = described(run, answer.now).toLowerCase();
    const alike = choice.mean && run.facts.alike ? `seeds of ${run.facts.alike}` : run.name;
    // A line that the filter hides keeps its place, so the other lines keep their colours.
    if (!lines.has(alike)) lines.set(alike, { name: run.name, title: run.name.replace(/\/tensorboard$/, ""), place: lines.size, members: [], facts: run.facts });
    if (words.every((word) => text.includes(word))) lines.get(alike).members.push(run);
  }
  return [...lines.values()].filter((line) => line.members.length);
}

/** The text that the filter searches. */
function described(run, now) {
  const settings = Object.entries(run.facts.settings ?? {}).map(([name, value]) => `${name.replace("with ", "")}=${value}`);
  return [run.name, run.facts.sentence ?? "", stateOf(run, now), ...settings].join(" ");
}

/** How a run is doing; `now` is the server's time, in seconds. */
export function stateOf(run, now) {
  if (run.ended) return run.facts.status;
  return now - run.newest < 300 ? "live" : "silent";
}

/** A line's numbers: its run's, or the mean over its runs at the steps that all of them have; null while one is missing. */
export function meanOf(store, line, quantity) {
  const all = line.members.map((run) => store.get(run.name, quantity));
  if (all.includes(null) || !all.length) return null;
  const [first, ...others] = all;
  if (!others.length || others.some((one) => one.height !== first.height)) return first;
  const everywhere = [...first.steps].filter((step) => others.every((one) => one.steps[one.place(step)] === step));
  const { height } = first;
  const values = new Float64Array(everywhere.length * height); // half of the smallest number of 32 bits is no zero
  everywhere.forEach((step, place) => {
    const starts = all.map((one) => one.place(step) * height);
    for (let row = 0; row < height; row++) {
      let sum = 0;
      all.forEach((one, number) => (sum += one.values[starts[number] + row]));
      values[place * height + row] = sum / all.length;
    }
  });
  return new Series(Float64Array.from(everywhere), values, height);
}

/** One line's numbers divided by another's, at the steps that both have; nothing by nothing is nothing to be said. */
export function ratioOf(series, control) {
  if (!series || !control || series.height !== control.height) return null;
  const { height } = series;
  const steps = [...series.steps].filter((step) => control.steps[control.place(step)] === step);
  const values = new Float64Array(steps.length * height);
  steps.forEach((step, place) => {
    const [above, below] = [series.place(step) * height, control.place(step) * height];
    for (let row = 0; row < height; row++) {
      const [value, by] = [series.values[above + row], control.values[below + row]];
      values[place * height + row] = value === 0 && by === 0 ? NaN : value / by;
    }
  });
  return new Series(Float64Array.from(steps), values, height);
}

/** Rows as ranges, rows 0–13, 20; by their names, if they have any. */
function nameRows(rows, { kind, names }) {
  const parts = [];
  for (const row of rows) {
    const last = parts.at(-1);
    if (last && last[1] === row - 1) last[1] = row;
    else parts.push([row, row]);
  }
  const name = (row) => names[row] ?? `${row}`;
  const ranges = parts.map(([first, last]) => (first === last ? name(first) : `${name(first)}–${name(last)}`));
  return `${rows.length > 1 ? `${kind}s` : kind} ${ranges.join(", ")}`;
}

/** Which rows are exactly 0, and what share of the gradient is stopped there, in words. */
export function cutOf(reaches, arrives, kinds = { kind: "row", names: [] }) {
  if (!reaches?.steps.length) return "";
  const { height, steps, values } = reaches;
  if (values.every(Number.isNaN)) return "nothing was recorded";
  const zeros = new Uint32Array(height);
  for (let place = 0; place < values.length; place++) if (values[place] === 0) zeros[place % height]++;
  const rows = [...zeros.keys()];
  const always = rows.filter((row) => zeros[row] === steps.length);
  const sometimes = rows.filter((row) => zeros[row] > 0 && zeros[row] < steps.length);
  const share = sometimes.reduce((sum, row) => sum + zeros[row] / steps.length, 0) / Math.max(sometimes.length, 1);
  if (!always.length && !sometimes.length) return `gradient reaches every ${kinds.kind}`;
  const said = always.length ? [`${nameRows(always, kinds)}: exactly 0 at every step`] : [];
  if (sometimes.length) said.push(`${nameRows(sometimes, kinds)}: exactly 0 at ${percent(share)} of the steps`);
  const stopped = arrives ? stoppedShare(reaches, arrives) : 0;
  if (stopped) said.push(`${percent(stopped)} of the squared gradient that arrives is stopped there`);
  return said.join("; ");
}

/** The share of the squared gradient that arrives in rows without row gradient, averaged over steps. */
function stoppedShare(reaches, arrives) {
  if (reaches.height !== arrives.height) return 0;
  const { height } = reaches;
  let [sum, count] = [0, 0];
  reaches.steps.forEach((step, place) => {
    const other = arrives.place(step);
    if (arrives.steps[other] !== step) return;
    let [all, stopped] = [0, 0];
    for (let row = 0; row < height; row++) {
      const energy = arrives.values[other * height + row] ** 2;
      if (Number.isNaN(energy)) continue;
      all += energy;
      if (reaches.values[place * height + row] === 0) stopped += energy;
    }
    sum += all ? stopped / all : 0;
    count++;
  });
  return count ? sum / count : 0;
}

export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/** What a quantity's rows are, in the singular, and their names, if they have any. */
export function rowsOf(line, quantity) {
  const known = line.members.map((run) => run.quantities[quantity]).filter(Boolean);
  return { kind: known[0]?.kind ?? "row", names: known.map(({ names }) => names).find((names) => names?.length) ?? [] };
}

/** The name of a row: its own, or what it is and its number. */
export function nameOfRow({ kind, names }, row) {
  return names[row] ?? `${kind} ${row}`;
}

/** A number under the mouse, with the digits of 32 bits. */
export function shown(value) {
  if (value === undefined) return "–";
  if (Number.isNaN(value)) return "not recorded";
  if (value === 0) return "0 exactly";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5 ? `${Number(value.toPrecision(6))}` : value.toExponential(5);
}
