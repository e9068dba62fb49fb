// The controls above the heatmaps, and the legend.

import { legendBar } from "./colours.js";
import { UNCHOSEN } from "./choice.js";
import { el } from "./dom.js";
import { embedded, host } from "./host.js";

// TensorBoard's curves of accuracy and loss alone; otherwise its charts of single rows come first.
const CURVES = `${host.location.pathname}?tagFilter=${encodeURIComponent("/(acc|loss)$")}#timeseries`;

/** The controls. They call `choose` with each change. */
export class Controls {
  constructor(choose) {
    const ticked = (name) => (event) => choose({ [name]: event.target.checked });
    this.filter = el("input", { type: "search", placeholder: "name, scenario, setting=value", oninput: (event) => choose({ filter: event.target.value }) });
    this.control = el("select", { onchange: (event) => choose({ control: event.target.value }) });
    this.own = el("input", { type: "checkbox", onchange: ticked("own") });
    this.mean = el("input", { type: "checkbox", onchange: ticked("mean") });
    this.whole = el("button", { type: "button", onclick: () => choose({ from: null, to: null, top: null, bottom: null }) }, "Show all");
    const kinds = [["max", "maximum"], ["mean", "mean"]].map(([value, text]) => el("option", { value }, text));
    this.rows = el("select", { onchange: (event) => choose({ rows: event.target.value }) }, ...kinds);
    this.binned = el("label", { title: "How rows that share a line of pixels are shown", hidden: true }, "Rows by ", this.rows);
    this.anew = el("button", { type: "button", onclick: () => choose({ ...UNCHOSEN }) }, "Reset");
    this.quantities = el("fieldset", { class: "quantities" }, el("legend", {}, "Show"));
    this.bar = el("div", { class: "legend" });
    this.choose = choose;
    this.element = el(
      "form",
      { class: "controls", onsubmit: (event) => event.preventDefault() },
      el("label", {}, "Runs ", this.filter),
      this.quantities,
      el("label", { title: "Divides each heatmap by the same heatmap of this run" }, "Divide by ", this.control),
      el("label", {}, this.own, " own scales"),
      el("label", { title: "Shows runs that differ only in the seed as one line, their mean" }, this.mean, " mean of seeds"),
      this.binned,
      this.whole,
      this.anew,
    );
  }

  update(choice, { quantities, shown, lines, scale, edges, selected, strange, isBinned }) {
    if (document.activeElement !== this.filter) this.filter.value = choice.filter;
    this.own.checked = choice.own;
    this.mean.checked = choice.mean;
    this.whole.hidden = choice.from === null && choice.top === null;
    this.binned.hidden = !isBinned;
    this.rows.value = choice.rows;
    this.anew.hidden = JSON.stringify(choice) === JSON.stringify(UNCHOSEN);
    this.#boxes(quantities, shown);
    this.#options(choice, lines);
    this.#legend(choice, scale, { edges, selected, strange });
  }

  #boxes(quantities, shown) {
    const names = quantities.map((quantity) => quantity.name).join("\n");
    if (names !== this.named) {
      this.named = names;
      this.boxes = quantities.map((quantity) => el("input", { type: "checkbox", value: quantity.name, onchange: () => this.#tick() }));
      const labels = this.boxes.map((box, place) => el("label", { title: quantities[place].title }, box, ` ${quantities[place].name}`));
      this.quantities.replaceChildren(el("legend", {}, "Show"), ...labels);
    }
    for (const box of this.boxes ?? []) box.checked = shown.includes(box.value);
  }

  #tick() {
    const chosen = this.boxes.filter((box) => box.checked).map((box) => box.value);
    this.choose({ quantities: chosen });
  }

  #options(choice, lines) {
    const names = ["", ...lines.map((line) => line.name)];
    if (names.join("\n") !== this.offered) {
      this.offered = names.join("\n");
      this.control.replaceChildren(el("option", { value: "" }, "nothing"), ...lines.map((line) => el("option", { value: line.name }, line.title)));
    }
    this.control.value = names.includes(choice.control) ? choice.control : "";
  }

  #legend(choice, scale, { edges, selected, strange }) {
    const key = (kind, text) => el("span", { class: "key" }, el("span", { class: `sample ${kind}` }), text);
    const ratios = scale?.ratios;
    const kinds = [
      scale && !choice.own ? legendBar(scale) : el("span", {}, "each heatmap from its own smallest value (dark) to its own largest (bright)"),
      key("zero", ratios ? "exactly 0 here, not in the control" : "exactly 0"),
      selected ? key("selected", "selected rows") : null,
      edges ? key("edge", "the state is cut here") : null,
      strange ? key("strange", ratios ? "the control has exactly 0" : "infinite or negative") : null,
    ];
    const words = JSON.stringify([scale?.low, scale?.high, ratios, choice.own, edges, selected, strange, document.documentElement.dataset.theme]);
    if (words === this.said) return;
    this.said = words;
    const curves = embedded ? null : el("a", { href: CURVES, target: "_parent" }, "accuracy and loss");
    this.bar.replaceChildren(...[...kinds, curves].filter(Boolean));
  }
}
