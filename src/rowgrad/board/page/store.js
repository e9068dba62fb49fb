// The data that are here: runs, and the values of their quantities. Each value is asked for once.

const AT_ONCE = 4; // requests

/** What a source has given: TensorBoard's server, or the page itself. `changed` is called when new data arrive. */
export class Store {
  constructor(source, changed) {
    this.source = source;
    this.changed = changed;
    this.runs = new Map();
    this.answer = { runs: [], quantities: [], pair: [], kept: 0, now: 0 };
    this.known = false; // whether the source has answered
    this.trouble = "";
    this.series = new Map();
    this.waiting = [];
    this.busy = new Set();
  }

  /** Asks which runs there are and how they are doing. */
  async refresh() {
    try {
      this.answer = await this.source.runs();
      this.known = true;
      this.trouble = "";
    } catch (error) {
      this.trouble = this.source.trouble(error);
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

  /** Whether everything that the source has was fetched. */
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
    this.busy.add(key);
    try {
      const later = await this.source.norms(run, quantity, here?.last ?? -Infinity);
      const joined = later && here ? here.followedBy(later) : later;
      if (joined) this.series.set(key, joined);
      else if (later) this.series.delete(key); // it has more rows now
    } catch (error) {
      this.trouble = this.source.trouble(error);
    } finally {
      this.busy.delete(key);
      this.changed();
    }
  }
}
