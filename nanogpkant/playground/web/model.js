/**
 * The GPT: the forward pass of nanogpkant/model with a cache of keys and values.
 * Shapes: T new tokens, C = width, H heads of D numbers, S tokens in all.
 */

import { FUNCTIONS, Features, sigmoid } from "./bases.js";
import { Kernel, Matrix } from "./kernel.js";

/** @typedef {import("./unpack.js").Tensors} Tensors */
/** @typedef {{kind: string, weight: Float32Array | null, bias: Float32Array | null, epsilon: number}} Norm */
/** @typedef {{name: string, matrix: Matrix, bias: Float32Array | null, features: Features | null, prenorm: boolean}} Projection */
/** @typedef {{name: string, length: number, rows: Float32Array[], slope: number[], isLog: boolean}} Curve */

export const CHUNK = 128;  // tokens at a time
const TINY = 1.1920929e-7;  // float32's epsilon, which torch adds to a mean square without a norm's own
const FAINT = 1e-9;  // a share of attention below which a value changes no float32
const THETA = 10000;  // of the slowest rotation

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
      return /** @type {Curve} */ ({ name: given.name, length, rows, slope: given.slope, isLog: given.scale === "log" });
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
    const attended = this.attend(index, this.project(block.qkv, inner, T, part("qkv")), T, cache, pass, trace);
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
   * Queries, keys and values (T, 3 C) -> (T, C).
   * @param {number} index
   * @param {Float32Array} qkv
   * @param {number} T
   * @param {Cache} cache
   * @param {{firstValue: Float32Array | null}} pass
   * @param {any} [trace]
   */
  attend(index, qkv, T, cache, pass, trace) {
    const block = this.blocks[index], { heads: H, head: D, width: C } = this, from = cache.length;
    const { k, v } = cache.room(index, from + T, C), q = new Float32Array(T * C), out = new Float32Array(T * C);
    for (let t = 0; t < T; t++) {
      const to = (from + t) * C;
      q.set(qkv.subarray(t * 3 * C, t * 3 * C + C), t * C);
      k.set(qkv.subarray(t * 3 * C + C, t * 3 * C + 2 * C), to);
      v.set(qkv.subarray(t * 3 * C + 2 * C, t * 3 * C + 3 * C), to);
      for (let h = 0; h < H; h++) {
        this.place(block, block.qNorm, q, t * C + h * D, from + t);
        this.place(block, block.kNorm, k, to + h * D, from + t);
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
      if (pass.firstValue) trace.firstValue = pass.firstValue.slice((T - 1) * C);
      trace.k = k.slice(0, (from + T) * C);
      trace.v = v.slice(0, (from + T) * C);
    }
    return out;
  }

  /**
   * A query or key as its score takes it: normalised, rotated, of length 1.
   * @param {any} block
   * @param {Norm | null} norm
   * @param {Float32Array} x
   * @param {number} at
   * @param {number} place
   */
  place(block, norm, x, at, place) {
    const D = this.head, half = D / 2;
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
function makeActivation({ kind, alpha }) {
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
