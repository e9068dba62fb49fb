// The card beside a line's heatmaps: name, state, accuracy, cut rows and what makes their zeros.

import { swatch } from "./curves.js";
import { el, say } from "./dom.js";
import { stateOf } from "./lines.js";

/** The card of one line. It is created once and then updated, so that nothing moves under the mouse. */
export class Card {
  constructor(line, tick) {
    this.box = el("input", { type: "checkbox", onchange: () => tick(line.name, this.box.checked) });
    this.key = el("span", {});
    this.name = el("span", { class: "name" });
    this.state = el("span", { class: "state", title: "live: new values within the last five minutes" });
    this.accuracy = el("span", { class: "accuracy" });
    this.apart = el("span", { class: "apart" });
    this.sentence = el("p", { class: "sentence" });
    this.cut = el("p", { class: "cut" });
    this.note = el("p", { class: "note" });
    const label = el("label", { class: "who" }, this.box, this.key, this.name);
    this.element = el("div", { class: "card" }, label, el("p", { class: "how" }, this.accuracy, this.state, this.apart), this.cut, this.sentence, this.note);
  }

  update(line, { ticked, now, cut, control, isControl }) {
    this.box.checked = ticked;
    this.key.replaceChildren(swatch(line.place));
    say(this.name, nameOf(line));
    this.name.title = line.members.map((run) => run.name).join("\n");
    const states = new Set(line.members.map((run) => stateOf(run, now)));
    say(this.state, [...states].map((state) => words(state, line, now)).join(", "));
    this.state.dataset.state = [...states][0];
    say(this.accuracy, accuracySaid(line));
    say(this.apart, isControl || !control ? "" : differenceSaid(line, control));
    say(this.sentence, line.facts.sentence ?? "");
    const error = line.members.find((run) => run.ended && typeof run.facts.error === "string")?.facts.error.replace(/^UserError: /, "");
    say(this.cut, [isControl ? "the control" : "", cut, makerSaid(line, cut), biasSaid(line)].filter(Boolean).join("; "));
    this.cut.title = typeof line.facts.zeros === "string" ? line.facts.zeros : "";
    say(this.note, error ?? "");
  }
}

function nameOf(line) {
  const { members } = line;
  if (members.length === 1) return line.title;
  const seeds = members.map((run) => run.facts.settings?.seed).filter((seed) => seed !== undefined);
  const said = seeds.length === members.length ? `, seeds ${seeds.join(", ")}` : "";
  return `${line.facts.group ?? line.facts.settings?.scenario ?? line.title}: mean of ${members.length} runs${said}`;
}

function words(state, line, now) {
  if (state !== "silent") return state;
  const minutes = Math.round((now - Math.max(...line.members.map((run) => run.newest))) / 60);
  return minutes < 120 ? `silent for ${minutes} minutes` : `silent for ${Math.round(minutes / 60)} hours`;
}

function accuracyOf(line) {
  const all = line.members.map((run) => run.accuracy);
  if (all.includes(null) || new Set(all.map(([tag]) => tag)).size !== 1) return null;
  return [all[0][0], all.reduce((sum, [, value]) => sum + value, 0) / all.length];
}

function accuracySaid(line) {
  const own = accuracyOf(line);
  if (!own) return "";
  const said = { "test/acc": "test", "val/acc": "validation", "train/acc": "last training batch" }[own[0]] ?? own[0];
  return isShare(own) ? `${(100 * own[1]).toFixed(2)} % ${said}` : `${Number(own[1].toPrecision(4))} ${said}`;
}

function differenceSaid(line, control) {
  const [own, other] = [accuracyOf(line), accuracyOf(control)];
  if (!own || own[0] !== other?.[0]) return "";
  const apart = own[1] - other[1];
  const size = Math.abs(apart);
  return `${apart < 0 ? "−" : "+"}${isShare(own) ? (100 * size).toFixed(2) : Number(size.toPrecision(4))} against the control`;
}

/** Whether a metric is shown in percent: an accuracy from 0 to 1. */
function isShare([tag, value]) {
  return tag.toLowerCase().includes("acc") && value >= 0 && value <= 1;
}

/** What makes the zeros, if there are any. The tooltip says why. */
function makerSaid(line, cut) {
  const { made_by: causes, zeros_by: cause } = line.facts; // the latter in older event files
  const said = typeof causes === "string" ? causes : cause === "detach" ? cause : typeof cause === "string" && cause !== "none" ? `${cause}, not detach` : "";
  return said && cut.includes("exactly 0") ? `made by ${said}` : "";
}

function biasSaid(line) {
  const cosine = line.facts["grad_bias/cosine"];
  return typeof cosine === "number" && cosine < 1 ? `the weights' gradient has cosine ${belowOne(cosine)} with the one without detach` : "";
}

/** With two decimals, or with as many as are needed to tell it from 1. */
function belowOne(cosine) {
  let decimals = 2;
  while (decimals < 20 && Number(cosine.toFixed(decimals)) === 1) decimals++;
  return cosine.toFixed(decimals);
}
