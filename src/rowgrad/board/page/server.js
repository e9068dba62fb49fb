// TensorBoard's server as the source of the data: runs, and the values of their quantities.

import { Series } from "./series.js";

export class Server {
  /** Which runs there are and how they are doing. */
  async runs() {
    const response = await fetch("./runs");
    if (!response.ok) throw new Error(await response.text());
    return response.json();
  }

  /** The values of a run's quantity, of steps later than `after`; null if there are none. */
  async norms(run, quantity, after) {
    const words = new URLSearchParams({ run, quantity });
    if (after > -Infinity) words.set("after", after);
    const response = await fetch(`./norms?${words}`);
    return response.ok ? unpacked(await response.arrayBuffer()) : null;
  }

  /** The words for an error. */
  trouble(error) {
    return `TensorBoard does not answer: ${error.message}`;
  }
}

/** The format is that of `Numbers.packed` in board/reading.py. */
function unpacked(buffer) {
  const [count, height] = new Uint32Array(buffer, 0, 2);
  return new Series(new Float64Array(buffer, 8, count), new Float32Array(buffer, 8 + 8 * count, count * height), height);
}
