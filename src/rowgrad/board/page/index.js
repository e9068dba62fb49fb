// The tab Rows, and the same in a page of its own: choice -> lines -> series -> one scale -> heatmaps, cards, charts.

import { Card } from "./card.js";
import { onAddress, readChoice, writeChoice } from "./choice.js";
import { Scale, extent } from "./colours.js";
import { Controls } from "./controls.js";
import { charts, legend } from "./curves.js";
import { el, onceAFrame, say } from "./dom.js";
import { Heatmap, picture, viewOf } from "./heatmap.js";
import { Embedded } from "./embedded.js";
import { embedded, fitFrame, followTheme, onReload, watchWhileVisible } from "./host.js";
import { actOnKey } from "./keys.js";
import { cutOf, linesOf, meanOf, nameOfRow, ratioOf, rowsOf } from "./lines.js";
import { beside, emptiness, headOf, sampleNote } from "./pieces.js";
import { Server } from "./server.js";
import { Store } from "./store.js";

const FIRST = 3; // quantities that are shown by default

class Page {
  constructor() {
    this.choice = readChoice();
    this.update = onceAFrame(() => this.#update());
    this.store = new Store(embedded ? new Embedded(embedded) : new Server(), this.update);
    this.read = onceAFrame(() => this.#read());
    this.controls = new Controls((changes) => this.choose(changes));
    this.rows = new Map(); // the elements of each line, by its name
    this.seen = new Set(); // lines in sight
    this.memory = new Map();
    this.point = { row: null, step: null };
    this.sight = new IntersectionObserver((entries) => this.#sighted(entries), { rootMargin: "200px" });
    this.reading = el("output", { class: "reading", "aria-live": "polite" });
    this.notes = el("div", { class: "notes" });
    this.head = el("div", { class: "line head" });
    this.lines = el("div", { class: "lines" });
    this.detail = el("section", { class: "detail", hidden: true });
    const top = el("header", {}, this.controls.element, this.notes, this.head);
    const place = document.getElementById("rows"); // in a page of its own, which has a style, too
    if (!place) {
      document.documentElement.lang = "en";
      document.head.append(el("link", { rel: "stylesheet", href: "style.css" }));
    }
    (place ?? document.body).append(top, this.lines, this.detail, this.reading);
  }

  start() {
    fitFrame();
    followTheme(this.update);
    onAddress(() => {
      this.choice = readChoice();
      this.update();
    });
    const look = watchWhileVisible(() => this.store.refresh());
    onReload(look);
    new ResizeObserver(this.update).observe(document.body);
  }

  choose(changes) {
    Object.assign(this.choice, changes);
    this.update();
  }

  /** What the mouse and the keyboard do to a heatmap. */
  acts = {
    hover: (row, step) => {
      this.point = { row, step };
      this.read();
    },
    pick: (quantity, row, step) => this.choose({ quantity, row, step }),
    zoom: (from, to) => {
      const [first, last] = [Math.floor(from), Math.ceil(to)];
      this.choose(from === null || last - first < 2 ? { from: null, to: null } : { from: first, to: last });
    },
    zoomRows: (top, bottom, height) => {
      const [first, last] = [Math.floor(top), Math.ceil(bottom)];
      this.choose(last - first < 1 || last - first >= height ? { top: null, bottom: null } : { top: first, bottom: last });
    },
    showAll: () => this.choose({ from: null, to: null, top: null, bottom: null }),
    save: (heatmap) => {
      if (!heatmap.series) return;
      const link = el("a", { download: `${heatmap.line.title}.${heatmap.quantity.name}.png`.replace(/[^\w.=-]+/g, "_") });
      link.href = picture(heatmap, heatmap.line.title).toDataURL("image/png");
      link.click();
    },
    key: (event, heatmap) => actOnKey(event, heatmap, this.point, this.choice, this.acts),
  };

  #update() {
    const { choice, store } = this;
    const { answer } = store;
    const every = linesOf(answer, { ...choice, filter: "" });
    const lines = linesOf(answer, choice);
    const ticked = lines.filter((line) => !choice.hidden.includes(line.name));
    const shown = answer.quantities.filter(({ name }, place) => choice.quantities?.includes(name) ?? place < FIRST);
    this.control = every.find((line) => line.name === choice.control) ?? null;
    const range = this.#range(ticked, shown);
    this.#arrange(lines, shown, range);
    writeChoice(choice);
    const scales = this.#scales(ticked, shown, range);
    for (const line of lines) this.#draw(line, range, scales);
    this.#tell({ every, lines, ticked, shown, scales });
    this.#charts(ticked, range, Boolean(this.control));
    this.#fetch(ticked, shown);
    this.read();
  }

  /** A line's series as it is drawn: a run's, a mean, or a ratio; null until it was fetched. */
  #series(line, quantity, divided = true) {
    const all = line.members.map((run) => this.store.get(run.name, quantity));
    const series = all.length === 1 ? all[0] : this.#remembered(["mean", line.name, quantity], all, () => meanOf(this.store, line, quantity));
    if (!divided || !this.control || !series) return series;
    const by = this.#series(this.control, quantity, false);
    return this.#remembered(["ratio", line.name, quantity], [series, by], () => ratioOf(series, by));
  }

  /** A cached result, recomputed if its inputs have changed. */
  #remembered(words, from, make) {
    const key = JSON.stringify(words);
    const before = this.memory.get(key);
    if (before && before.from.length === from.length && before.from.every((one, place) => one === from[place])) return before.made;
    const made = make();
    this.memory.set(key, { from, made });
    return made;
  }

  #range(lines, shown) {
    const { from, to } = this.choice;
    if (from !== null && to > from) return [from, to];
    let last = 0;
    for (const line of lines) {
      for (const { quantities } of line.members) {
        for (const { name } of shown) last = Math.max(last, (quantities[name]?.step ?? -1) + 1);
      }
    }
    return [0, last || 1];
  }

  #scales(lines, shown, range) {
    const ratios = Boolean(this.control);
    const own = new Map();
    let [all, strange] = [[Infinity, -Infinity], false];
    for (const line of lines) {
      for (const { name } of shown) {
        const series = this.#series(line, name);
        if (!series) continue;
        const found = this.#remembered(["extent", line.name, name], [series, ...range], () => ({
          limits: extent(series, ...range),
          strange: series.values.some((value) => value < 0 || value === Infinity),
        }));
        all = [Math.min(all[0], found.limits[0]), Math.max(all[1], found.limits[1])];
        strange ||= found.strange;
        if (this.choice.own) own.set(JSON.stringify([line.name, name]), Object.assign(new Scale(found.limits, ratios), { own: true }));
      }
    }
    const common = new Scale(all, ratios);
    return { common, strange, of: (line, quantity) => own.get(JSON.stringify([line.name, quantity])) ?? common };
  }

  /** Adds new lines to the page, and removes old ones. */
  #arrange(lines, shown, range) {
    const names = shown.map((quantity) => quantity.name).join("\n");
    this.lines.style.setProperty("--columns", Math.max(shown.length, 1));
    this.head.style.setProperty("--columns", Math.max(shown.length, 1));
    const titles = JSON.stringify([names, range, Boolean(this.control)]);
    if (titles !== this.titles) this.head.replaceChildren(...headOf(this.controls.bar, shown, Boolean(this.control), range));
    this.titles = titles;
    const kept = new Set(lines.map((line) => line.name));
    for (const [name, row] of this.rows) {
      if (kept.has(name) && row.names === names) continue;
      this.sight.unobserve(row.element);
      this.seen.delete(name);
      row.element.remove();
      this.rows.delete(name);
    }
    for (const line of lines) {
      if (!this.rows.has(line.name)) this.rows.set(line.name, this.#row(line, shown, names));
      const { element } = this.rows.get(line.name);
      if (this.lines.children[lines.indexOf(line)] !== element) this.lines.insertBefore(element, this.lines.children[lines.indexOf(line)] ?? null);
    }
  }

  #row(line, shown, names) {
    const tick = (name, on) => this.choose({ hidden: this.choice.hidden.filter((one) => one !== name).concat(on ? [] : name) });
    const card = new Card(line, tick);
    const heatmaps = shown.map((quantity) => new Heatmap(line, quantity, this.acts));
    const side = el("div", { class: "beside" });
    const element = el("article", { class: "line" }, card.element, side, ...heatmaps.map((heatmap) => heatmap.element));
    element.dataset.name = line.name;
    this.sight.observe(element);
    return { card, heatmaps, side, element, names };
  }

  #sighted(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.seen.add(target.dataset.name);
      else this.seen.delete(target.dataset.name);
    }
    this.update();
  }

  #draw(line, range, scales) {
    const { card, heatmaps, side, element } = this.rows.get(line.name);
    const ticked = !this.choice.hidden.includes(line.name);
    element.classList.toggle("off", !ticked);
    const cut = this.#cut(line, heatmaps);
    const { control } = this;
    card.update(line, { ticked, now: this.store.answer.now, cut, control, isControl: control?.name === line.name });
    if (!ticked || !this.seen.has(line.name)) return;
    const heights = heatmaps.map((heatmap) => this.#series(line, heatmap.quantity.name, false)?.height ?? 0);
    const height = heights.find((one) => one > 0) ?? 0; // of the heatmap beside the numbers
    const { selected = [], edges = false } = line.facts;
    const { names } = rowsOf(line, heatmaps[heights.indexOf(height)]?.quantity.name);
    beside(side, line.facts, height, viewOf(height, this.choice.top, this.choice.bottom), names);
    for (const heatmap of heatmaps) {
      heatmap.line = line;
      heatmap.element.classList.toggle("none", !line.members.some((run) => heatmap.quantity.name in run.quantities));
      const { name } = heatmap.quantity;
      const isMarked = Array.isArray(selected) && rowsOf(line, name).kind === "row";
      heatmap.draw(this.#series(line, name), range, scales.of(line, name), isMarked ? selected : [], edges, this.choice);
    }
  }

  /** Which rows are exactly 0, in words: of the pair before and after a cut, or else of each gradient that is shown. */
  #cut(line, heatmaps) {
    const [reaches, arrives] = this.store.answer.pair.map((name) => this.#series(line, name, false));
    if (reaches) return this.#remembered(["cut", line.name], [reaches, arrives], () => cutOf(reaches, arrives));
    const isGradient = ({ quantity: { name } }) => name.endsWith("_grad_norm") && line.members.some((run) => name in run.quantities);
    const names = heatmaps.filter(isGradient).map((heatmap) => heatmap.quantity.name);
    const known = names.map((name) => [name, this.#series(line, name, false)]).filter(([, series]) => series);
    return known
      .map(([name, series]) => [name, this.#remembered(["cut", line.name, name], [series], () => cutOf(series, null, rowsOf(line, name)))])
      .map(([name, cut]) => `${name}: ${cut}`)
      .join("; ");
  }

  #tell({ every, lines, ticked, shown, scales }) {
    const edges = ticked.some((line) => line.facts.edges);
    const selected = ticked.some((line) => !line.facts.edges && line.facts.selected?.length);
    const { quantities } = this.store.answer;
    const names = shown.map((quantity) => quantity.name);
    const isBinned = [...this.seen].some((name) => this.rows.get(name)?.heatmaps.some((heatmap) => heatmap.isBinned));
    this.controls.update(this.choice, { quantities, shown: names, lines: every, scale: scales.common, edges, selected, strange: scales.strange, isBinned });
    const series = ticked.map((line) => [line.title, names.length ? this.#series(line, names[0], false) : null]);
    const notes = [this.store.trouble, this.store.known ? emptiness(every, lines, shown) : "Reading the runs …", sampleNote(series, this.store.answer.kept), this.store.answer.note];
    this.notes.replaceChildren(...notes.filter(Boolean).map((note) => el("p", {}, note)));
  }

  #charts(lines, range, ratios) {
    const { quantity, row, step } = this.choice;
    const title = this.store.answer.quantities.find(({ name }) => name === quantity)?.title;
    this.detail.hidden = row === null || !title;
    document.body.style.setProperty("--picked-row", row ?? -1e6);
    document.body.style.setProperty("--picked-step", `${(100 * ((step ?? -9e9) - range[0])) / (range[1] - range[0])}%`);
    if (this.detail.hidden) return;
    const curves = lines.map((line) => ({ name: line.title, place: line.place, series: this.#series(line, quantity) })).filter((curve) => curve.series);
    const close = el("button", { type: "button", class: "close", title: "Close", onclick: () => this.choose({ quantity: null, row: null, step: null }) }, "×");
    const rows = lines.map((line) => rowsOf(line, quantity)).find(({ names }) => names.length) ?? rowsOf(lines[0] ?? { members: [] }, quantity);
    const kind = `${rows.kind[0]?.toUpperCase() ?? ""}${rows.kind.slice(1)}`;
    const point = { row, step, title, kind: rows.kind, name: rows.names[row] ?? `${kind} ${row}` };
    const view = (height) => viewOf(height, this.choice.top, this.choice.bottom);
    this.detail.replaceChildren(...charts(curves, point, range, ratios, view), legend(curves, point), close);
  }

  /** Fetches the lines in sight first, then all other ticked ones. */
  #fetch(lines, shown) {
    const needed = [...shown.map((quantity) => quantity.name), ...this.store.answer.pair];
    const inOrder = [...lines].sort((one, other) => this.seen.has(other.name) - this.seen.has(one.name));
    const all = this.control ? [this.control, ...inOrder] : inOrder;
    this.store.want(all.flatMap((line) => [...new Set(needed)].flatMap((name) => line.members.map((run) => [run.name, name]))));
  }

  /** Marks the row and the step under the mouse in every heatmap, and writes each heatmap's value there. */
  #read() {
    const { row, step } = this.point;
    let [said, place] = ["", `row ${row}`]; // of the heatmap under the mouse
    for (const name of this.seen) {
      for (const heatmap of this.rows.get(name)?.heatmaps ?? []) {
        const value = row === null ? heatmap.read(-1, null) : heatmap.read(row, step);
        heatmap.element.style.setProperty("--step", row === null ? "-9%" : `${(100 * (step - heatmap.range[0])) / (heatmap.range[1] - heatmap.range[0])}%`);
        if (!value || !heatmap.frame.matches(":hover, :focus")) continue;
        said = `: ${value}`;
        place = nameOfRow(rowsOf(heatmap.line, heatmap.quantity.name), row);
      }
    }
    document.body.style.setProperty("--row", row ?? -1e6);
    say(this.reading, row === null ? "" : `${place}, step ${step}${said}`);
  }
}

/** TensorBoard calls this when the tab is opened, and a page of its own at its end. */
export function render() {
  new Page().start();
}
