// What is chosen. It is kept in the page's address, so that a view can be shared as a link.

import { embedded, hasAddress, host } from "./host.js";

const PREFIX = "p.rowgrad."; // TensorBoard's prefix for what a tab keeps in the address

/** The defaults. Only choices that differ from them are in the address. */
export const UNCHOSEN = Object.freeze({
  filter: "", // words that a run must have
  hidden: [], // names of lines that are not ticked
  quantities: null, // those that are ticked; null: the first three
  control: "", // the line that all others are divided by
  own: false, // whether each heatmap has a scale of its own
  mean: false, // whether runs that differ in their seed alone are one line, their mean
  from: null, // the steps that are shown; null: all
  to: null,
  quantity: null, // what was clicked
  row: null,
  step: null,
  top: null, // the first row that is shown, and the one behind the last; null: all
  bottom: null,
  rows: "max", // how rows that share a line of pixels are shown: by their maximum or their mean
  ...embedded?.answer.start, // as a page with runs of several seeds begins with their means
});

function entries() {
  return hasAddress ? host.location.hash.slice(1).split("&").filter(Boolean) : [];
}

function parsed(text, likes) {
  try {
    const value = JSON.parse(decodeURIComponent(text));
    const list = Array.isArray(likes) || (likes === null && Array.isArray(value));
    if (list) return Array.isArray(value) && value.every((one) => typeof one === "string") ? value : likes;
    return likes === null || typeof value === typeof likes ? value : likes;
  } catch {
    return likes; // the address was cut off or mistyped
  }
}

/** What the address says. */
export function readChoice() {
  const choice = { ...UNCHOSEN };
  for (const entry of entries()) {
    const [key, value = ""] = entry.split(/=(.*)/s);
    const name = key.startsWith(PREFIX) ? key.slice(PREFIX.length) : "";
    if (name in UNCHOSEN) choice[name] = parsed(value, UNCHOSEN[name]);
  }
  for (const name of ["from", "to", "row", "step", "top", "bottom"]) if (!Number.isFinite(choice[name])) choice[name] = null;
  if (typeof choice.quantity !== "string") choice.quantity = null;
  if (!Array.isArray(choice.quantities)) choice.quantities = null;
  for (const name of ["top", "bottom"]) if (!Number.isInteger(choice[name])) choice[name] = null;
  if (choice.rows !== "mean") choice.rows = "max";
  return choice;
}

/** Puts what is chosen into the address, without a new entry in the browser's history. */
export function writeChoice(choice) {
  if (!hasAddress) return;
  const others = entries().filter((entry) => !entry.startsWith(PREFIX));
  if (host !== window && others[0] !== "rowgrad") return; // another tab is on
  const own = Object.entries(choice)
    .filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(UNCHOSEN[name]))
    .map(([name, value]) => `${PREFIX}${name}=${encodeURIComponent(JSON.stringify(value))}`);
  const all = [...others, ...own];
  const hash = all.length ? `#${all.join("&")}` : "";
  const { pathname, search } = host.location;
  if (hash !== host.location.hash) host.history.replaceState(host.history.state, "", hash || pathname + search);
}

/** Calls back when somebody changes the address by hand. */
export function onAddress(changed) {
  host.addEventListener("hashchange", changed);
}
