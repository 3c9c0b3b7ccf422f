/** What is done to single rows and numbers: norms, curves of distance, activations. */

import { FUNCTIONS, sigmoid } from "./bases.js";

/** @typedef {{kind: string, weight: Float32Array | null, bias: Float32Array | null, epsilon: number}} Norm */
/** @typedef {{name: string, length: number, rows: Float32Array[], slope: number[], isLog: boolean, basis: Float32Array | null}} Curve */

const TINY = 1.1920929e-7;  // float32's epsilon, which torch adds to a mean square without a norm's own

/**
 * A row divided by its root mean square, or also centred, with factors and offsets.
 * @param {Norm} norm
 * @param {ArrayLike<number>} x
 * @param {number} at
 * @param {number} n
 * @param {Float32Array} out
 * @param {number} to
 */
export function normalize({ kind, weight, bias, epsilon }, x, at, n, out, to) {
  let mean = 0, square = 0;
  if (kind === "layer") {
    for (let i = 0; i < n; i++) mean += x[at + i];
    mean /= n;
  }
  for (let i = 0; i < n; i++) square += (x[at + i] - mean) ** 2;
  const scale = 1 / Math.sqrt(square / n + epsilon);
  for (let i = 0; i < n; i++)
    out[to + i] = (x[at + i] - mean) * scale * (weight ? weight[i] : 1) + (bias ? bias[i] : 0);
}

/** A row that is only divided by its root mean square. */
export const PLAIN_NORM = { kind: "rms", weight: null, bias: null, epsilon: TINY };

/**
 * The value of a curve at a distance, for a row of it.
 * @param {Curve} curve
 * @param {number} row
 * @param {number} distance
 */
export function curveAt(curve, row, distance) {
  const values = curve.rows[row], last = curve.length - 1;
  if (distance <= last) return values[distance];
  const s = curve.isLog ? (/** @type {number} */ d) => Math.log2(1 + d) : (/** @type {number} */ d) => d;
  return values[last] + curve.slope[row] * (s(distance) - s(last));
}

/**
 * sum over k of c_k T_k(x), k from 1: Chebyshev polynomials.
 * @param {ArrayLike<number>} c
 * @param {number} at
 * @param {number} degree
 * @param {number} x
 */
export function polynomial(c, at, degree, x) {
  let before = 1, term = x, total = c[at] * x;
  for (let k = 1; k < degree; k++) {
    [before, term] = [term, 2 * x * term - before];
    total += c[at + k] * term;
  }
  return total;
}

/** @param {{kind: string, alpha: number[] | null}} given @returns {(x: number) => number} */
export function makeActivation({ kind, alpha }) {
  if (kind === "swiglu") return (x) => x * sigmoid(x);
  if (kind !== "xielu" || !alpha) return FUNCTIONS[kind];
  const [positive, negative] = alpha.map((a) => Math.log1p(Math.exp(a)));
  return (x) => x > 0 ? positive * x * x + 0.5 * x : (0.5 + negative) * (Math.expm1(x) - x) + 0.5 * x;
}

/**
 * The activation of an MLP's hidden numbers, (T, m) -> (T, m), or half as many with swiglu.
 * @param {any} block
 * @param {Float32Array} hidden
 * @param {number} T
 */
export function activate({ activation, isGated }, hidden, T) {
  if (!isGated) return hidden.map(activation);
  const m = hidden.length / T, half = m / 2, out = new Float32Array(T * half);
  for (let t = 0; t < T; t++)
    for (let i = 0; i < half; i++)
      out[t * half + i] = activation(hidden[t * m + i]) * hidden[t * m + half + i];
  return out;
}
