/**
 * Why a token: attention, and what every function and hidden unit gave to the token's logit.
 *
 * The gradient of the logit is taken back through the last position alone, with the keys and values
 * of earlier tokens held as they are. A function's contribution is its value times that gradient.
 */

import { Cache, THETA, prepare } from "./attention.js";
import { slope } from "./bases.js";
import { windowStart } from "./model.js";
import { PLAIN_NORM, curveAt, normalize, polynomial } from "./rows.js";
import { softmax } from "./writing.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./rows.js").Norm} Norm */
/** @typedef {import("./model.js").Projection} Projection */

const UNITS = 12;  // hidden units and edges that are told of, a projection

/**
 * Back through a norm, given its input.
 * @param {Norm} norm
 * @param {ArrayLike<number>} x
 * @param {ArrayLike<number>} g
 */
function normBack({ kind, weight, epsilon }, x, g) {
  const n = x.length, out = new Float64Array(n);
  let mean = 0, square = 0, along = 0, sum = 0;
  if (kind === "layer") for (let i = 0; i < n; i++) mean += x[i] / n;
  for (let i = 0; i < n; i++) square += (x[i] - mean) ** 2 / n;
  const scale = 1 / Math.sqrt(square + epsilon);
  for (let i = 0; i < n; i++) {
    out[i] = g[i] * (weight ? weight[i] : 1);
    along += (out[i] * (x[i] - mean)) / n;
    sum += out[i] / n;
  }
  if (kind !== "layer") sum = 0;
  for (let i = 0; i < n; i++) out[i] = scale * (out[i] - sum - (x[i] - mean) * scale * scale * along);
  return out;
}

/**
 * Back through a projection.
 * @param {Projection} projection
 * @param {{x: Float32Array, features: Float32Array}} trace
 * @param {ArrayLike<number>} g at its outputs
 * @returns {{x: Float64Array, inputs: ArrayLike<number>, units: Float64Array, atFeatures: Float64Array}}
 *   the gradient at its inputs; the inputs of its functions; the contribution of every input
 */
function projectBack({ matrix, features, prenorm }, trace, g) {
  const { n, m, data } = matrix, atFeatures = new Float64Array(n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < m; j++) atFeatures[i] += data[matrix.at(i, j)] * g[j];
  const count = features ? features.inputs : n, units = new Float64Array(count);
  for (let f = 0; f < n; f++) units[f % count] += atFeatures[f] * trace.features[f];
  if (!features) return { x: atFeatures, inputs: trace.x, units, atFeatures };
  const inputs = new Float64Array(count), x = new Float64Array(count), step = 1e-4;
  if (prenorm) {
    const row = new Float32Array(count);
    normalize(PLAIN_NORM, trace.x, 0, count, row, 0);
    inputs.set(row);
  } else inputs.set(trace.x);
  const above = new Float64Array(n), below = new Float64Array(n);
  features.expand(inputs.map((value) => value + step), 0, above, 0);
  features.expand(inputs.map((value) => value - step), 0, below, 0);
  for (let f = 0; f < n; f++) x[f % count] += (atFeatures[f] * (above[f] - below[f])) / (2 * step);
  return { x: prenorm ? normBack(PLAIN_NORM, trace.x, x) : x, inputs, units, atFeatures };
}

/**
 * Back through `prepare`: norm, rotation, length 1.
 * @param {Model} model
 * @param {any} block
 * @param {Norm | null} norm
 * @param {Float32Array} raw (D) as it entered
 * @param {number} place
 * @param {Float64Array} g (D)
 */
function placeBack(model, block, norm, raw, place, g) {
  const D = model.head, half = D / 2;
  if (block.score) {
    const turned = raw.slice();
    prepare(model.head, { ...block, score: null }, norm, turned, 0, place);
    const length = Math.max(Math.hypot(...turned), 1e-12);
    let along = 0;
    for (let i = 0; i < D; i++) along += (turned[i] / length) * g[i];
    for (let i = 0; i < D; i++) g[i] = (g[i] - (turned[i] / length) * along) / length;
  }
  if (block.rotates)
    for (let i = 0; i < half; i++) {
      const angle = place * THETA ** (-i / half), cos = Math.cos(angle), sin = Math.sin(angle);
      [g[i], g[half + i]] = [g[i] * cos + g[half + i] * sin, g[half + i] * cos - g[i] * sin];
    }
  return norm ? normBack(norm, raw, g) : g;
}

/**
 * Back through attention: (C) at its output -> (3 C) at queries, keys and values of this position.
 * @param {Model} model
 * @param {any} block
 * @param {any} trace
 * @param {Float64Array} g
 * @param {Float64Array} firstValue gets the gradient at the first block's values
 * @param {Float64Array} bends gets the contribution of every head's curve of distance
 */
function attendBack(model, block, trace, g, firstValue, bends) {
  const { head: D, heads: H, width: C } = model, { weights, q, k, v, raw, place } = trace;
  const out = new Float64Array(3 * C), degree = block.score ? block.score.length / H : 0;
  const scale = degree ? 1 : 1 / Math.sqrt(D);
  for (let h = 0; h < H; h++) {
    const shares = weights[h], S = shares.length, atShares = new Float64Array(S), at = h * D;
    let mean = 0;
    for (let s = 0; s < S; s++) {
      for (let d = 0; d < D; d++) atShares[s] += g[at + d] * v[s * C + at + d];
      mean += shares[s] * atShares[s];
    }
    const atQuery = new Float64Array(D), atKey = new Float64Array(D);
    for (let s = 0; s < S; s++) {
      let atScore = shares[s] * (atShares[s] - mean);
      if (block.bias) bends[h] += atScore * curveAt(block.bias, h, S - 1 - s);
      if (degree) {
        let cosine = 0;
        for (let d = 0; d < D; d++) cosine += q[at + d] * k[s * C + at + d];
        atScore *= slope((x) => polynomial(block.score, h * degree, degree, x), cosine);
      }
      for (let d = 0; d < D; d++) atQuery[d] += atScore * scale * k[s * C + at + d];
      if (s === S - 1) for (let d = 0; d < D; d++) atKey[d] += atScore * scale * q[at + d];
    }
    const own = (/** @type {number} */ part) => raw.slice(part * C + at, part * C + at + D);
    out.set(placeBack(model, block, block.qNorm, own(0), place, atQuery), at);
    out.set(placeBack(model, block, block.kNorm, own(1), place, atKey), C + at);
    for (let d = 0; d < D; d++) out[2 * C + at + d] = shares[S - 1] * g[at + d];
  }
  for (let i = 0; i < C; i++) {
    if (block.isMixed && block.mix) {
      firstValue[i] += block.mix[1] * out[2 * C + i];
      out[2 * C + i] *= block.mix[0];
    } else if (block.isMixed) out[2 * C + i] += firstValue[i];
  }
  return out;
}

/** @param {any} block @param {Float32Array} hidden @param {ArrayLike<number>} g */
function activateBack({ activation, isGated }, hidden, g) {
  const out = new Float64Array(hidden.length), half = hidden.length / 2;
  if (!isGated) return out.map((_, i) => g[i] * slope(activation, hidden[i]));
  for (let i = 0; i < half; i++) {
    out[i] = g[i] * hidden[half + i] * slope(activation, hidden[i]);
    out[half + i] = g[i] * activation(hidden[i]);
  }
  return out;
}

/** The largest entries, by size: [index, value]. @param {Float64Array} values @param {number} count */
function largest(values, count) {
  const least = Float64Array.from(values, Math.abs).sort().at(-count) ?? 0;  // sorting pairs is slow
  /** @type {[number, number][]} */
  const found = [];
  values.forEach((value, i) => Math.abs(value) >= least && found.push([i, value]));
  return found.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, count);
}

/**
 * What the functions of a projection gave.
 * @param {Projection} projection
 * @param {any} trace
 * @param {ReturnType<typeof projectBack>} back
 * @param {ArrayLike<number>} g at its outputs
 */
function told({ name, matrix, features }, trace, back, g) {
  const units = largest(back.units, UNITS).map(([unit, gives]) => ({ unit, gives, x: back.inputs[unit] }));
  /** @type {any[]} */
  const functions = [];
  if (features?.isShared) {
    const { groups, inputs } = features, each = inputs / groups;
    for (let m = 0; m < features.functions; m++)
      for (let group = 0; group < groups; group++) {
        let gives = 0;
        for (let i = group * each; i < (group + 1) * each; i++)
          gives += back.atFeatures[m * inputs + i] * trace.features[m * inputs + i];
        const xs = Array.from(back.inputs).slice(group * each, (group + 1) * each);
        functions.push({ kind: "shared", layer: name, number: m * groups + group, gives, xs });
      }
  } else if (features) {
    const { inputs, size } = features, edges = new Float64Array(inputs * matrix.m);
    for (let f = 0; f < size * inputs; f++)
      for (let j = 0; j < matrix.m; j++)
        edges[(f % inputs) * matrix.m + j] += matrix.data[matrix.at(f, j)] * trace.features[f] * g[j];
    for (const [at, gives] of largest(edges, UNITS)) {
      const input = Math.floor(at / matrix.m);
      functions.push({ kind: "edge", layer: name, input, output: at % matrix.m, gives, xs: [back.inputs[input]] });
    }
  }
  return { name, units, functions };
}

/**
 * Why the model gave token `wanted` its logit, after the first `position` tokens of a text.
 * @param {Model} model
 * @param {number[]} ids
 * @param {number} position at least 1
 * @param {number | null} wanted null: the most likely
 */
export function study(model, ids, position, wanted) {
  const start = model.extrapolates ? 0 : windowStart(position, model.blockSize);
  /** @type {any[]} */
  const traces = [];
  const x = model.forward(ids.slice(start, position), new Cache(model), traces);
  const C = model.width, last = x.slice(x.length - C), logits = model.logits(last);
  const shares = softmax(logits), token = wanted ?? shares.indexOf(Math.max(...shares));
  const column = new Float64Array(C), factor = model.softcap ? 1 - (logits[token] / model.softcap) ** 2 : 1;
  for (let i = 0; i < C; i++) column[i] = factor * model.unembedding.data[model.unembedding.at(i, token)];
  let g = normBack(model.norm, last, column);
  const firstValue = new Float64Array(C), layers = [];
  /** @type {any[]} */
  const functions = [];
  for (let index = model.blocks.length - 1; index >= 0; index--) {
    const block = model.blocks[index], trace = traces[index], bends = new Float64Array(model.heads);
    const out = projectBack(block.out, trace.out, g);
    const atHidden = activateBack(block, trace.hidden, out.x);
    const into = projectBack(block.into, trace.into, atHidden);
    const atMiddle = normBack(block.norm2, trace.middle, into.x).map((value, i) => value + g[i]);
    const attended = projectBack(block.attentionOut, trace.attentionOut, atMiddle);
    const atQkv = attendBack(model, block, trace, attended.x, firstValue, bends);
    const qkv = projectBack(block.qkv, trace.qkv, atQkv);
    const { convolution } = block, each = convolution ? C / convolution.rows.length : 1;
    const inner = qkv.x.map((value, i) => convolution ? value * convolution.rows[Math.floor(i / each)][0] : value);
    const known = [
      told(block.out, trace.out, out, g),
      told(block.into, trace.into, into, atHidden),
      told(block.attentionOut, trace.attentionOut, attended, atMiddle),
      told(block.qkv, trace.qkv, qkv, atQkv),
    ];
    for (const each of known) functions.push(...each.functions);
    if (block.bias)
      bends.forEach((gives, head) => functions.push({ kind: "distance", layer: block.bias.name, head, gives }));
    layers.unshift({ index, weights: trace.weights, units: known[0].units, unitsOf: known[0].name });
    g = normBack(block.norm1, trace.x, inner).map((value, i) => value + atMiddle[i]);
  }
  functions.sort((a, b) => Math.abs(b.gives) - Math.abs(a.gives));
  const likely = largest(shares, 12).sort((a, b) => b[1] - a[1]);
  if (likely.every(([each]) => each !== token)) likely.push([token, shares[token]]);
  return { position, start, token, share: shares[token], logit: logits[token], likely, layers, functions, gradient: g };
}
