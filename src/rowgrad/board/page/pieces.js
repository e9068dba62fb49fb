// Smaller parts of the page: column titles, the mean digit and the row numbers, notes.

import { el } from "./dom.js";

const LABELS = 9; // names that fit beside a heatmap

/** The legend and the column titles. */
export function headOf(legend, shown, ratios, [from, to]) {
  const titles = shown.map((quantity) => {
    const [title, formula] = quantity.title.split(", ‖");
    const unit = [formula && `‖${formula}`, ratios ? "divided by the control's" : quantity.unit].filter(Boolean).join(", ");
    const axis = el("div", { class: "axis" }, el("span", {}, `step ${Math.ceil(from)}`), el("span", {}, `${Math.ceil(to) - 1}`));
    return el("div", { class: "title", title: quantity.name }, el("b", {}, title), el("span", { class: "unit" }, unit), axis);
  });
  return [legend, ...titles];
}

/** The mean digit, which shows what part of it a row is, and the numbers of the shown rows, or their names. */
export function beside(element, facts, height, [top, bottom], names) {
  const key = JSON.stringify([height, top, bottom, names, facts.digit ?? ""]);
  if (element.dataset.key === key || !height) return;
  element.dataset.key = key;
  const rows = bottom - top;
  const digit = rows === height ? digitOf(facts, height) : null;
  const isNamed = !digit && names.length > 0;
  const each = isNamed ? Math.ceil(rows / LABELS) : rows < 14 ? 1 : Math.ceil(rows / 28) * 7;
  const numbers = [];
  for (let row = Math.ceil(top / each) * each; row < bottom; row += each) {
    const number = el("span", { class: "number" }, (isNamed && names[row]) || `${row}`);
    number.style.top = `${(100 * (row - top + 0.5)) / rows}%`;
    numbers.push(number);
  }
  element.replaceChildren(...[digit].filter(Boolean), el("div", { class: isNamed ? "numbers named" : "numbers" }, ...numbers));
}

function digitOf({ digit, columns }, height) {
  if (typeof digit !== "string" || !Number.isInteger(columns)) return null;
  let bytes;
  try {
    bytes = atob(digit);
  } catch {
    return null;
  }
  if (!bytes.length || bytes.length !== columns * height) return null;
  const canvas = el("canvas", { width: columns, height, class: "digit", title: "The mean training image" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, height);
  for (let place = 0; place < bytes.length; place++) image.data.set([0, 0, 0, bytes.charCodeAt(place)], 4 * place);
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The message of an empty page. */
export function emptiness(every, lines, shown) {
  if (!every.length) return "No run here has scalars named <quantity>/row_<number>. rowgrad logs them; in your own module, its RowGradientRecorder does.";
  if (!lines.length) return "No run matches the filter.";
  return shown.length ? "" : "No quantity is ticked.";
}

/** Says that TensorBoard has kept only a sample of the steps, and how to keep all. */
export function sampleNote(series, kept) {
  const sampled = series.filter(([, one]) => kept && one && one.steps.length >= kept && !isRegular(one.steps));
  if (!sampled.length) return "";
  const [name, one] = sampled[0];
  const others = sampled.length > 1 ? ` and ${sampled.length - 1} more` : "";
  return `A sample of the steps: TensorBoard has kept ${one.steps.length} up to step ${one.last} of ${name}${others}. To see all steps, start TensorBoard with --samples_per_plugin=scalars=0 (make tensorboard keeps 10000).`;
}

function isRegular(steps) {
  return steps.every((step, place) => place < 2 || step - steps[place - 1] === steps[1] - steps[0]);
}
