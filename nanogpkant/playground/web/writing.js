/** Writing: the next token after a text, drawn from the model's probabilities. */

import { Cache } from "./attention.js";
import { windowStart } from "./model.js";

/** @typedef {import("./model.js").Model} Model */

/** The logits after every beginning of a text that grows. */
export class Writer {
  /** @param {Model} model @param {number[]} ids */
  constructor(model, ids) {
    this.model = model;
    this.ids = [...ids];
    this.cache = new Cache(model);
  }

  /** Logits of the token after the text. */
  next() {
    const { model, ids, cache } = this;
    const start = model.extrapolates ? 0 : windowStart(ids.length, model.blockSize);
    if (start !== cache.start) cache.restart(start);
    const x = model.forward(ids.slice(start + cache.length), cache);
    return model.logits(x.subarray(x.length - model.width));
  }
}

/** @param {ArrayLike<number>} logits @param {number} [temperature] @returns {Float64Array} */
export function softmax(logits, temperature = 1) {
  let most = -Infinity, total = 0;
  for (let i = 0; i < logits.length; i++) if (logits[i] > most) most = logits[i];
  const shares = new Float64Array(logits.length);
  for (let i = 0; i < logits.length; i++) total += shares[i] = Math.exp((logits[i] - most) / temperature);
  return shares.map((share) => share / total);
}

/** Numbers in [0, 1) from a seed. Source: mulberry32 by Tommy Ettinger, public domain. @param {number} seed */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * Draw a token; temperature 0 takes the most likely.
 * @param {ArrayLike<number>} logits
 * @param {number} temperature
 * @param {number} topK 0: from all
 * @param {() => number} next
 */
export function draw(logits, temperature, topK, next) {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  if (temperature === 0) return best;
  const shares = softmax(logits, temperature);
  if (topK > 0 && topK < shares.length) {
    const least = [...shares].sort((a, b) => b - a)[topK - 1];
    for (let i = 0; i < shares.length; i++) if (shares[i] < least) shares[i] = 0;
  }
  let rest = next() * shares.reduce((a, b) => a + b, 0);
  for (let i = 0; i < shares.length; i++) {
    rest -= shares[i];
    if (rest < 0) return i;
  }
  return best;
}

/** The loss of a text in windows of a block; what did not change since the last time is kept. */
export class Judge {
  /** @param {Model} model @param {number[]} ids */
  constructor(model, ids) {
    this.model = model;
    this.ids = ids;
    /** What enters each block, window by window. @type {Float32Array[][]} */
    this.kept = [];
  }

  /**
   * The mean loss in nats per token; stops between blocks, and gives null, where told to.
   * @param {number} from the first block that changed
   * @param {() => Promise<boolean>} goesOn asked between pieces of work
   */
  async loss(from, goesOn) {
    const { model, ids } = this, size = model.blockSize;
    if (model.blocks.some((/** @type {any} */ block) => block.isMixed)) from = 0;
    let sum = 0;
    for (let window = 0, start = 0; start < ids.length - 1; window++, start += size) {
      const end = Math.min(start + size, ids.length - 1), inputs = ids.slice(start, end);
      const kept = (this.kept[window] ??= []), cache = new Cache(model), pass = { firstValue: null };
      let first = Math.min(from, kept.length - 1);
      if (first < 0) kept[(first = 0)] = model.embed(inputs, 0);
      kept.length = first + 1;
      let x = kept[first];
      for (let index = first; index < model.blocks.length; index++) {
        x = kept[index + 1] = model.block(index, x, cache, pass);
        if (!(await goesOn())) return null;
      }
      const logits = model.logits(x), V = model.vocabSize;
      for (let t = 0; t < inputs.length; t++) {
        const shares = softmax(logits.subarray(t * V, (t + 1) * V));
        sum -= Math.log(Math.max(shares[ids[start + t + 1]], 1e-300));
      }
    }
    return sum / (ids.length - 1);
  }
}
