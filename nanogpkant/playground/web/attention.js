/** Attention over a cache of keys and values. Shapes as in model.js. */

import { curveAt, normalize, polynomial } from "./rows.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./rows.js").Norm} Norm */

const FAINT = 1e-9;  // a share of attention below which a value changes no float32
export const THETA = 10000;  // of the slowest rotation

/** What is remembered of the tokens seen so far. */
export class Cache {
  /** @param {Model} model */
  constructor(model) {
    this.start = 0;  // index in the text of the first token
    this.length = 0;
    this.layers = model.blocks.map((/** @type {any} */ { convolution }) => ({
      k: new Float32Array(0),
      v: new Float32Array(0),
      before: new Float32Array(convolution ? (convolution.length - 1) * model.width : 0),
    }));
  }

  /** @param {number} start */
  restart(start) {
    this.start = start;
    this.length = 0;
    for (const { before } of this.layers) before.fill(0);
  }

  /** Room for so many rows. @param {number} layer @param {number} rows @param {number} width */
  room(layer, rows, width) {
    const held = this.layers[layer];
    for (const name of /** @type {("k" | "v")[]} */ (["k", "v"])) {
      if (held[name].length >= rows * width) continue;
      const larger = new Float32Array(2 * rows * width);
      larger.set(held[name]);
      held[name] = larger;
    }
    return held;
  }
}

/**
 * Queries, keys and values (T, 3 C) -> (T, C).
 * @param {Model} model
 * @param {number} index
 * @param {Float32Array} qkv
 * @param {number} T
 * @param {Cache} cache
 * @param {{firstValue: Float32Array | null}} pass
 * @param {any} [trace]
 */
export function attend(model, index, qkv, T, cache, pass, trace) {
  const block = model.blocks[index], { heads: H, head: D, width: C } = model, from = cache.length;
  const { k, v } = cache.room(index, from + T, C), q = new Float32Array(T * C), out = new Float32Array(T * C);
  for (let t = 0; t < T; t++) {
    const to = (from + t) * C;
    q.set(qkv.subarray(t * 3 * C, t * 3 * C + C), t * C);
    k.set(qkv.subarray(t * 3 * C + C, t * 3 * C + 2 * C), to);
    v.set(qkv.subarray(t * 3 * C + 2 * C, t * 3 * C + 3 * C), to);
    for (let h = 0; h < H; h++) {
      prepare(D, block, block.qNorm, q, t * C + h * D, from + t);
      prepare(D, block, block.kNorm, k, to + h * D, from + t);
    }
  }
  if (block.isMixed && block.mix && pass.firstValue) {
    for (let i = 0; i < T * C; i++) {
      const at = from * C + i;
      v[at] = block.mix[0] * v[at] + block.mix[1] * pass.firstValue[i];
    }
  } else if (block.isMixed) pass.firstValue = v.slice(from * C, (from + T) * C);

  const degree = block.score ? block.score.length / H : 0;
  const scale = degree ? 1 : 1 / Math.sqrt(D), weights = new Float64Array(from + T);
  const shares = trace && (trace.weights = []);
  for (let t = 0; t < T; t++) {
    const place = from + t;
    for (let h = 0; h < H; h++) {
      const at = t * C + h * D;
      const curve = block.bias, bias = curve?.rows[h], reach = bias ? curve.length : 0;
      let most = -Infinity;
      for (let s = 0; s <= place; s++) {
        const key = s * C + h * D;
        let even = 0, odd = 0, d = 0;  // two sums, which need not wait for each other
        for (; d + 1 < D; d += 2) {
          even += q[at + d] * k[key + d];
          odd += q[at + d + 1] * k[key + d + 1];
        }
        if (d < D) even += q[at + d] * k[key + d];
        let sum = (even + odd) * scale;
        if (block.score) sum = polynomial(block.score, h * degree, degree, sum);
        if (bias) sum += place - s < reach ? bias[place - s] : curveAt(curve, h, place - s);
        weights[s] = sum;
        if (sum > most) most = sum;
      }
      let total = 0;
      for (let s = 0; s <= place; s++) total += weights[s] = Math.exp(weights[s] - most);
      for (let s = 0; s <= place; s++) {
        const share = (weights[s] /= total), value = s * C + h * D;
        if (share > FAINT) for (let d = 0; d < D; d++) out[at + d] += share * v[value + d];
      }
      if (shares && t === T - 1) shares.push(Float32Array.from(weights.subarray(0, place + 1)));
    }
  }
  if (trace) {
    Object.assign(trace, { q: q.slice((T - 1) * C), raw: qkv.slice((T - 1) * 3 * C), place: from + T - 1 });
    trace.k = k.slice(0, (from + T) * C);
    trace.v = v.slice(0, (from + T) * C);
  }
  return out;
}

/**
 * A query or key as its score takes it: normalised, rotated, of length 1.
 * @param {number} D numbers of a head
 * @param {any} block
 * @param {Norm | null} norm
 * @param {Float32Array} x
 * @param {number} at
 * @param {number} place
 */
export function prepare(D, block, norm, x, at, place) {
  const half = D / 2;
  if (norm) normalize(norm, x, at, D, x, at);
  if (block.rotates)
    for (let i = 0; i < half; i++) {
      const angle = place * THETA ** (-i / half), cos = Math.cos(angle), sin = Math.sin(angle);
      const a = x[at + i], b = x[at + half + i];
      x[at + i] = a * cos - b * sin;
      x[at + half + i] = b * cos + a * sin;
    }
  if (block.score) {
    let square = 0;
    for (let i = 0; i < D; i++) square += x[at + i] ** 2;
    const length = Math.max(Math.sqrt(square), 1e-12);
    for (let i = 0; i < D; i++) x[at + i] /= length;
  }
}
