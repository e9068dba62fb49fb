// The server's data: runs, and the values of their quantities. Each value is fetched once.

const AT_ONCE = 4; // requests

/** A quantity's values: `steps[t]`, and `values[t * height + row]`, NaN if missing. */
export class Series {
  constructor(steps, values, height) {
    Object.assign(this, { steps, values, height });
  }

  static unpack(buffer) {
    const [count, height] = new Uint32Array(buffer, 0, 2);
    const steps = new Float64Array(buffer, 8, count);
    return new Series(steps, new Float32Array(buffer, 8 + 8 * count, count * height), height);
  }

  get last() {
    return this.steps.length ? this.steps[this.steps.length - 1] : -Infinity;
  }

  /** The index of the last step at or before `step`; -1 if there is none. */
  place(step) {
    let [low, high] = [0, this.steps.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.steps[middle] <= step) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** The usual distance from one step to the next. */
  get stride() {
    const count = this.steps.length;
    return count > 1 ? (this.steps[count - 1] - this.steps[0]) / (count - 1) : 1;
  }

  followedBy(later) {
    if (!later.steps.length) return this;
    if (later.height !== this.height) return null;
    const steps = new Float64Array(this.steps.length + later.steps.length);
    steps.set(this.steps);
    steps.set(later.steps, this.steps.length);
    const values = new Float32Array(this.values.length + later.values.length);
    values.set(this.values);
    values.set(later.values, this.values.length);
    return new Series(steps, values, this.height);
  }
}

/** What was fetched. `changed` is called when new data arrive. */
export class Store {
  constructor(changed) {
    this.changed = changed;
    this.runs = new Map();
    this.answer = { runs: [], quantities: [], pair: [], kept: 0, now: 0 };
    this.known = false; // whether the server has answered
    this.trouble = "";
    this.series = new Map();
    this.waiting = [];
    this.busy = new Set();
  }

  /** Asks which runs there are and how they are doing. */
  async refresh() {
    try {
      const response = await fetch("./runs");
      if (!response.ok) throw new Error(await response.text());
      this.answer = await response.json();
      this.known = true;
      this.trouble = "";
    } catch (error) {
      this.trouble = `TensorBoard does not answer: ${error.message}`;
    }
    const before = this.runs;
    this.runs = new Map(this.answer.runs.map((run) => [run.name, run]));
    for (const key of this.series.keys()) {
      const [name, quantity] = JSON.parse(key);
      const now = this.runs.get(name);
      const again = now && before.get(name)?.started !== now.started;
      // A run that was started anew, or that went back to a checkpoint, replaces what was fetched.
      if (again || !(now?.quantities[quantity]?.step >= this.series.get(key).last)) this.series.delete(key);
    }
    this.changed();
  }

  /** The values of a run's quantity, as far as they were fetched. */
  get(run, quantity) {
    return this.series.get(JSON.stringify([run, quantity])) ?? null;
  }

  /** Whether everything that the server has was fetched. */
  isWhole(run, quantity) {
    const there = this.runs.get(run)?.quantities[quantity];
    return !there || this.get(run, quantity)?.last >= there.step;
  }

  /** Fetches the missing ones of these pairs of a run and a quantity, in this order. */
  want(pairs) {
    this.waiting = pairs.filter((pair) => !this.isWhole(...pair) && !this.busy.has(JSON.stringify(pair)));
    while (this.busy.size < AT_ONCE && this.waiting.length) this.#load(...this.waiting.shift());
  }

  async #load(run, quantity) {
    const key = JSON.stringify([run, quantity]);
    const here = this.series.get(key);
    const words = new URLSearchParams({ run, quantity });
    if (here?.steps.length) words.set("after", here.last);
    this.busy.add(key);
    try {
      const response = await fetch(`./norms?${words}`);
      if (response.ok) {
        const later = Series.unpack(await response.arrayBuffer());
        const joined = here ? here.followedBy(later) : later;
        if (joined) this.series.set(key, joined);
        else this.series.delete(key); // it has more rows now
      }
    } catch (error) {
      this.trouble = `TensorBoard does not answer: ${error.message}`;
    } finally {
      this.busy.delete(key);
      this.changed();
    }
  }
}
