// The page itself as the source of the data: `board/embedding.py` has put them there, and says how.

import { Series } from "./series.js";

// Digits to base 85 that mean nothing in a page; each has the value of its place.
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%,()*+-;.=/?@^_:{|}~";
const VALUES = Object.fromEntries([...DIGITS].map((digit, value) => [digit.charCodeAt(0), value]));
const [PER_DECADE, LEAST] = [9000, 1000]; // four significant digits: 1000 to 9999
const NAMED = [0, NaN, Infinity]; // the first codes

export class Embedded {
  constructor(data) {
    this.data = data;
  }

  /** Which runs there are and how they are doing. */
  async runs() {
    return this.data.answer;
  }

  /** The values of a run's quantity. */
  async norms(run, quantity) {
    const packed = this.data.norms[run][quantity];
    const codes = await this.#codes(run, quantity);
    return new Series(stepsOf(packed.steps), Float64Array.from(codes, (code) => valueOf(code, packed.low)), packed.height);
  }

  /** The words for an error. */
  trouble(error) {
    return `The page cannot be read: ${error.message}`;
  }

  /** The codes of all values; of a quantity that is `like` another, they are stored as the difference. */
  async #codes(run, quantity) {
    const { planes, signed, like, text } = this.data.norms[run][quantity];
    const bytes = await inflated(bytesOf(text));
    const other = like ? await this.#codes(run, like) : null;
    const count = bytes.length / planes;
    return Int32Array.from({ length: count }, (_, place) => {
      let code = 0;
      for (let plane = planes - 1; plane >= 0; plane--) code = code * 256 + bytes[plane * count + place];
      if (signed) code = code % 2 ? -(code + 1) / 2 : code / 2;
      return other ? code + other[place] : code;
    });
  }
}

function stepsOf(steps) {
  if (Array.isArray(steps)) return Float64Array.from(steps);
  return Float64Array.from({ length: steps.count }, (_, place) => steps.first + place * steps.stride);
}

function valueOf(code, low) {
  const size = Math.abs(code);
  if (size < NAMED.length) return code < 0 ? -NAMED[size] : NAMED[size];
  const digits = ((size - NAMED.length) % PER_DECADE) + LEAST;
  const power = Math.floor((size - NAMED.length) / PER_DECADE) + low;
  const value = power < 0 && power > -23 ? digits / 10 ** -power : digits * 10 ** power; // the nearest double
  return code < 0 ? -value : value;
}

/** Five digits are four bytes; the last group may be shorter. */
function bytesOf(text) {
  const groups = Math.ceil(text.length / 5);
  const bytes = new DataView(new ArrayBuffer(4 * groups));
  for (let group = 0; group < groups; group++) {
    let number = 0;
    for (let place = 5 * group; place < 5 * group + 5; place++) number = 85 * number + (VALUES[text.charCodeAt(place)] ?? 84);
    bytes.setUint32(4 * group, number);
  }
  return bytes.buffer.slice(0, Math.floor((text.length * 4) / 5));
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
