/** The model in a worker: it writes, tells why, and measures its loss, as it is asked to. */

import { Edits } from "./edits.js";
import { study } from "./gradient.js";
import { Model } from "./model.js";
import { Tensors } from "./unpack.js";
import { Judge, Writer, draw, random, softmax } from "./writing.js";

const AHEAD = 16;  // tokens that are written before the loss is measured
const PIECE = 12;  // milliseconds of work between looks at the messages

/**
 * Answer requests {kind, number, ...}. A newer request of a kind ends the older one, whose answer is
 * {number, done: true, ended: true}.
 * @param {{recipe: any, table: any[], bytes: ArrayBuffer, text: number[]}} given
 * @param {(answer: any) => void} answer
 */
export function makeSession({ recipe, table, bytes, text }, answer) {
  const model = new Model(recipe, new Tensors(table, bytes)), edits = new Edits(model);
  const judge = new Judge(model, text), channel = new MessageChannel();
  /** @type {Record<string, number>} */
  const latest = {};
  let changed = 0, waited = 0, measured = Promise.resolve();
  channel.port1.start();

  /** Let messages in, now and then; whether this request is still wanted. */
  const goesOn = async (/** @type {{kind: string, number: number}} */ { kind, number }) => {
    if (performance.now() - waited > PIECE) {
      await new Promise((resolve) => {
        channel.port1.addEventListener("message", resolve, { once: true });
        channel.port2.postMessage(0);
      });
      waited = performance.now();
    }
    return latest[kind] === number;
  };

  /** @type {Record<string, (request: any) => any>} */
  const kinds = {
    /** Tokens after a text, each with its probability, as they are drawn. */
    async write(request) {
      const { ids, count, temperature, topK, seed, number } = request;
      const writer = new Writer(model, ids), next = random(seed);
      let started = performance.now();
      let tokens = /** @type {number[]} */ ([]), shares = /** @type {number[]} */ ([]), sent = 0;
      for (let i = 0; i < count; i++) {
        const logits = writer.next(), token = draw(logits, temperature, topK, next);
        tokens.push(token);
        shares.push(softmax(logits)[token]);
        writer.ids.push(token);
        if (i === 0 || i === AHEAD || performance.now() - sent > 30) {
          answer({ number, tokens, shares });
          [tokens, shares, sent] = [[], [], performance.now()];
        }
        if (i === AHEAD) {  // a loss comes before the rest of the text, and is no part of its time
          const paused = performance.now();
          await measured;
          started += performance.now() - paused;
        }
        if (!(await goesOn(request))) return null;
      }
      return { tokens, shares, milliseconds: performance.now() - started, isCompiled: model.kernel.compiled !== null };
    },
    study: ({ ids, position, wanted }) => study(model, ids, position, wanted),
    edits: (request) => {
      changed = Math.min(changed, edits.set(request.edits));
      return {};
    },
    async loss(request) {
      const from = changed;
      let end = () => {};
      measured = new Promise((resolve) => (end = () => resolve(undefined)));
      changed = Infinity;
      try {
        const loss = await judge.loss(Math.min(from, model.blocks.length), () => goesOn(request));
        if (loss === null) changed = Math.min(changed, from);
        return loss === null ? null : { loss };
      } finally {
        end();
      }
    },
  };

  return async (/** @type {any} */ request) => {
    latest[request.kind] = request.number;
    if (request.stop) return;
    await new Promise((resolve) => setTimeout(resolve));  // newer ones that wait already end it
    const isWanted = latest[request.kind] === request.number || request.kind === "edits";
    const { number } = request;
    try {
      const found = isWanted ? await kinds[request.kind](request) : null;
      answer({ number, done: true, ended: found === null, ...found });
    } catch (error) {
      answer({ number, done: true, ended: true, failed: String(error) });
    }
  };
}

/** Serve the page that made this worker. */
export function serve() {
  onmessage = ({ data: given }) => {
    onmessage = null;
    try {
      const session = makeSession(given, (answer) => postMessage(answer));
      onmessage = ({ data }) => session(data);
    } catch (error) {
      postMessage({ failed: String(error) });
    }
  };
}
