// The values of one quantity: rows × steps.

/** `steps[t]`, and `values[t * height + row]`, NaN if missing. */
export class Series {
  constructor(steps, values, height) {
    Object.assign(this, { steps, values, height });
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
    return new Series(joined(this.steps, later.steps), joined(this.values, later.values), this.height);
  }
}

function joined(first, second) {
  const both = new first.constructor(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}
