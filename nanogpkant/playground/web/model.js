/**
 * The GPT: the forward pass of nanogpkant/model with a cache of keys and values.
 * Shapes: T new tokens, C = width, H heads of D numbers, S tokens in all.
 */

import { attend } from "./attention.js";
import { Features } from "./bases.js";
import { Kernel, Matrix } from "./kernel.js";
import { PLAIN_NORM, activate, makeActivation, normalize } from "./rows.js";

/** @typedef {import("./unpack.js").Tensors} Tensors */
/** @typedef {import("./attention.js").Cache} Cache */
/** @typedef {import("./rows.js").Norm} Norm */
/** @typedef {import("./rows.js").Curve} Curve */
/** @typedef {{name: string, matrix: Matrix, bias: Float32Array | null, features: Features | null, prenorm: boolean}} Projection */

export const CHUNK = 128;  // tokens at a time

export class Model {
  /** @param {any} recipe @param {Tensors} tensors */
  constructor(recipe, tensors) {
    this.width = recipe.width;
    this.heads = recipe.heads;
    this.head = recipe.width / recipe.heads;
    this.blockSize = recipe.block_size;
    this.vocabSize = recipe.vocab_size;
    this.extrapolates = recipe.extrapolates;
    this.softcap = recipe.softcap;
    this.tokens = tensors.get(recipe.tokens);
    this.positions = recipe.positions === null ? null : tensors.get(recipe.positions);
    const matrices = [[this.width, this.vocabSize]];
    for (const { attention, into, out } of recipe.blocks)
      for (const each of [attention.qkv, attention.out, into, out]) matrices.push(tensors.shape(each.weight));
    const numbers = matrices.reduce((sum, [n, m]) => sum + Matrix.size(n, m), 0);
    this.kernel = new Kernel(numbers, Math.max(...matrices.flat()), CHUNK);
    this.unembedding = recipe.head === null
      ? this.kernel.matrix(this.width, this.vocabSize, this.tokens, true)
      : this.kernel.matrix(this.width, this.vocabSize, tensors.get(recipe.head));

    const optional = (/** @type {number | null} */ number) => (number === null ? null : tensors.get(number));
    const norm = (/** @type {any} */ given) => given && /** @type {Norm} */ ({
      ...given, weight: optional(given.weight), bias: optional(given.bias),
    });
    const projection = (/** @type {any} */ given) => {
      const [n, m] = tensors.shape(given.weight);
      const features = given.kind === "linear" ? null
        : new Features(given.features, given.inputs, optional(given.coefficients));
      return /** @type {Projection} */ ({
        name: given.name,
        matrix: this.kernel.matrix(n, m, tensors.get(given.weight)),
        bias: optional(given.bias),
        features,
        prenorm: given.prenorm === "rms",
      });
    };
    const curve = (/** @type {any} */ given) => {
      if (!given) return null;
      const values = tensors.get(given.values), { length } = given;
      const rows = [];
      for (let at = 0; at < values.length; at += length) rows.push(values.subarray(at, at + length));
      return /** @type {Curve} */ ({ name: given.name, length, rows, slope: given.slope, isLog: given.scale === "log", basis: optional(given.basis) });
    };
    this.blocks = recipe.blocks.map((/** @type {any} */ { norm_1, attention, norm_2, into, activation, out }) => ({
      norm1: norm(norm_1),
      convolution: curve(attention.convolution),
      qkv: projection(attention.qkv),
      qNorm: norm(attention.q_norm),
      kNorm: norm(attention.k_norm),
      rotates: attention.rotates,
      score: optional(attention.score),
      isMixed: attention.is_mixed,
      mix: attention.mix,
      bias: curve(attention.bias),
      attentionOut: projection(attention.out),
      norm2: norm(norm_2),
      into: projection(into),
      activation: makeActivation(activation),
      isGated: activation.kind === "swiglu",
      out: projection(out),
    }));
    this.norm = norm(recipe.norm);
  }

  /** Every projection by its name. @returns {Map<string, Projection>} */
  projections() {
    const found = new Map();
    for (const { qkv, attentionOut, into, out } of this.blocks)
      for (const each of [qkv, attentionOut, into, out]) found.set(each.name, each);
    return found;
  }

  /** Every curve of distance by its name. @returns {Map<string, Curve>} */
  curves() {
    const found = new Map();
    for (const { bias, convolution } of this.blocks)
      for (const each of [bias, convolution]) if (each) found.set(each.name, each);
    return found;
  }

  /**
   * Rows (T, n) -> (T, m).
   * @param {Projection} projection
   * @param {Float32Array} x
   * @param {number} T
   * @param {any} [trace] gets the inputs of the functions, and the features, of the last row
   */
  project({ matrix, bias, features, prenorm }, x, T, trace) {
    const { kernel } = this, { n, m } = matrix, { stride } = kernel, y = new Float32Array(T * m);
    const inputs = features ? features.inputs : n;
    const row = new Float32Array(inputs);
    for (let start = 0; start < T; start += kernel.most) {
      const rows = Math.min(kernel.most, T - start);
      for (let t = 0; t < rows; t++) {
        const at = (start + t) * inputs;
        if (!features) {
          kernel.x.set(x.subarray(at, at + n), t * stride);
          continue;
        }
        if (prenorm) normalize(PLAIN_NORM, x, at, inputs, row, 0);
        else row.set(x.subarray(at, at + inputs));
        features.expand(row, 0, kernel.x, t * stride);
      }
      kernel.multiply(matrix, rows);
      for (let t = 0; t < rows; t++) {
        const to = (start + t) * m;
        y.set(kernel.y.subarray(t * stride, t * stride + m), to);
        if (bias) for (let j = 0; j < m; j++) y[to + j] += bias[j];
      }
      if (trace && start + rows === T) {
        trace.x = x.slice((T - 1) * inputs, T * inputs);
        trace.features = kernel.x.slice((rows - 1) * stride, (rows - 1) * stride + n);
      }
    }
    return y;
  }

  /**
   * The tokens' vectors, (T, C), as they enter the first block.
   * @param {ArrayLike<number>} ids
   * @param {number} place of the first one in the window
   */
  embed(ids, place) {
    const C = this.width, x = new Float32Array(ids.length * C);
    for (let t = 0; t < ids.length; t++) {
      x.set(this.tokens.subarray(ids[t] * C, (ids[t] + 1) * C), t * C);
      if (this.positions)
        for (let i = 0; i < C; i++) x[t * C + i] += this.positions[(place + t) * C + i];
    }
    return x;
  }

  /**
   * Append tokens to the cache; returns (T, C), what leaves the last block.
   * @param {ArrayLike<number>} ids
   * @param {Cache} cache
   * @param {any[]} [traces] gets an object for each block: see gradient.js
   */
  forward(ids, cache, traces) {
    let x = this.embed(ids, cache.length);
    const pass = { firstValue: null };
    this.blocks.forEach((/** @type {any} */ _, /** @type {number} */ index) => {
      const trace = traces && (traces[index] = {});
      x = this.block(index, x, cache, pass, trace);
    });
    cache.length += ids.length;
    return x;
  }

  /**
   * One block: (T, C) -> (T, C). `cache.length` is that before these tokens.
   * @param {number} index
   * @param {Float32Array} x
   * @param {Cache} cache
   * @param {{firstValue: Float32Array | null}} pass
   * @param {any} [trace]
   */
  block(index, x, cache, pass, trace) {
    const block = this.blocks[index], C = this.width, T = x.length / C;
    const part = (/** @type {string} */ name) => trace && (trace[name] = {});
    if (trace) trace.x = x.slice((T - 1) * C);
    let inner = new Float32Array(T * C);
    for (let t = 0; t < T; t++) normalize(block.norm1, x, t * C, C, inner, t * C);
    if (block.convolution) inner = this.convolve(block.convolution, inner, T, cache.layers[index].before);
    const attended = attend(this, index, this.project(block.qkv, inner, T, part("qkv")), T, cache, pass, trace);
    const first = this.project(block.attentionOut, attended, T, part("attentionOut"));
    const middle = new Float32Array(T * C);
    for (let i = 0; i < middle.length; i++) middle[i] = x[i] + first[i];
    if (trace) trace.middle = middle.slice((T - 1) * C);
    for (let t = 0; t < T; t++) normalize(block.norm2, middle, t * C, C, inner, t * C);
    const hidden = this.project(block.into, inner, T, part("into"));
    if (trace) trace.hidden = hidden.slice((T - 1) * block.into.matrix.m);
    const second = this.project(block.out, activate(block, hidden, T), T, part("out"));
    for (let i = 0; i < middle.length; i++) middle[i] += second[i];
    return middle;
  }

  /**
   * y_t = sum over lags l of k(l) x_(t - l).
   * @param {Curve} curve
   * @param {Float32Array} x (T, C)
   * @param {number} T
   * @param {Float32Array} before the rows before, oldest first; brought up to date
   */
  convolve(curve, x, T, before) {
    const C = this.width, lags = curve.length, each = C / curve.rows.length;
    const all = new Float32Array(before.length + x.length), y = new Float32Array(T * C);
    all.set(before);
    all.set(x, before.length);
    for (let lag = 0; lag < lags; lag++)
      for (let i = 0; i < C; i++) {
        const k = curve.rows[Math.floor(i / each)][lag];
        for (let t = 0; t < T; t++) y[t * C + i] += k * all[(t + lags - 1 - lag) * C + i];
      }
    before.set(all.subarray(all.length - before.length));
    return y;
  }

  /**
   * Logits of some rows: (T, C) -> (T, V).
   * @param {Float32Array} x
   */
  logits(x) {
    const C = this.width, V = this.vocabSize, T = x.length / C, { kernel, softcap } = this;
    const out = new Float32Array(T * V);
    for (let start = 0; start < T; start += kernel.most) {
      const rows = Math.min(kernel.most, T - start);
      for (let t = 0; t < rows; t++)
        normalize(this.norm, x, (start + t) * C, C, kernel.x, t * kernel.stride);
      kernel.multiply(this.unembedding, rows);
      for (let t = 0; t < rows; t++)
        for (let j = 0; j < V; j++) {
          const logit = kernel.y[t * kernel.stride + j];
          out[(start + t) * V + j] = softcap ? softcap * Math.tanh(logit / softcap) : logit;
        }
    }
    return out;
  }
}

/**
 * Index of the first token that a text of so many tokens is continued from.
 * @param {number} length
 * @param {number} blockSize
 */
export function windowStart(length, blockSize) {
  if (length <= blockSize) return 0;
  const stride = Math.max(1, Math.floor(blockSize / 2));
  return Math.ceil((length - blockSize) / stride) * stride;
}
