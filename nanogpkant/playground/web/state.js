/** What was edited, with undo and redo; and the same as a file and as a link. */

import { idOf } from "./edits.js";

/** @typedef {import("./edits.js").Edit} Edit */
/** @typedef {import("./shapes.js").Shape} Shape */

export const FORMAT = "nanogpkant edits 1";

export class State {
  constructor() {
    /** @type {Map<string, Edit>[]} */
    this.past = [new Map()];
    this.at = 0;
    /** Edits of a gesture that has not ended. @type {Map<string, Edit> | null} */
    this.draft = null;
    this.isBefore = false;  // shown without edits, to compare
    /** @type {((isDraft: boolean) => void)[]} */
    this.listeners = [];
  }

  get edits() {
    return this.draft ?? this.past[this.at];
  }

  /** The edits that the model is to be under. */
  get active() {
    return this.isBefore ? [] : [...this.edits.values()];
  }

  /** @param {(isDraft: boolean) => void} listener */
  listen(listener) {
    this.listeners.push(listener);
  }

  tell(isDraft = false) {
    for (const listener of this.listeners) listener(isDraft);
  }

  /**
   * Give a function an edit, or none.
   * @param {string} id
   * @param {Edit | null} edit
   * @param {boolean} [isDraft] the gesture goes on
   */
  change(id, edit, isDraft = false) {
    const next = new Map(this.past[this.at]);
    if (edit) next.set(id, edit);
    else next.delete(id);
    this.isBefore = false;
    if (isDraft) this.draft = next;
    else this.commit(next);
    this.tell(isDraft);
  }

  /** @param {Map<string, Edit>} next */
  commit(next) {
    [this.draft, this.isBefore] = [null, false];
    this.past = [...this.past.slice(0, this.at + 1), next];
    this.at++;
  }

  /** @param {Edit[]} edits */
  replace(edits) {
    this.commit(new Map(edits.map((edit) => [idOf(edit), edit])));
    this.tell();
  }

  /** @param {-1 | 1} by back or forth */
  step(by) {
    const next = this.at + by;
    if (next < 0 || next >= this.past.length) return;
    [this.draft, this.isBefore] = [null, false];
    this.at = next;
    this.tell();
  }

  /** The curve of a function as it is now. @param {Shape} shape */
  line(shape) {
    const edit = this.edits.get(shape.id);
    return edit && !this.isBefore ? shape.of(edit) : shape.original;
  }
}

/** @param {any} run @param {Edit[]} edits */
export function asFile(run, edits) {
  return JSON.stringify({ format: FORMAT, run: run.name, step: run.step, weights: run.identity, edits }, null, 1);
}

/**
 * The edits of a file.
 * @param {any} run
 * @param {string} text
 * @param {(edit: Edit) => Shape | null} find
 * @returns {Edit[]}
 */
export function fromFile(run, text, find) {
  let given;
  try {
    given = JSON.parse(text);
  } catch {
    throw new Error("This is no file of edits: it is not JSON.");
  }
  if (given?.format !== FORMAT || !Array.isArray(given.edits)) throw new Error("This is no file of edits.");
  if (given.weights !== run.identity)
    throw new Error(`These edits are of another model: ${given.run} at step ${given.step}.`);
  return given.edits.map((/** @type {Edit} */ edit) => {
    const numbers = edit?.coefficients ?? edit?.values, shape = edit && find(edit);
    if (!shape || !Array.isArray(numbers) || !numbers.every(Number.isFinite))
      throw new Error("This file has an edit of a function that the model does not have.");
    const like = shape.fit(shape.points.map(shape.original));
    const wanted = like.coefficients ?? like.values ?? [];
    if (numbers.length !== wanted.length || JSON.stringify(edit.spline) !== JSON.stringify(like.spline))
      throw new Error("This file has an edit in a form that the model does not have.");
    return like.values ? { ...like, values: numbers } : { ...like, coefficients: numbers };
  });
}

/** @param {string} text @param {"deflate" | "inflate"} way @param {Uint8Array} [bytes] */
async function squeezed(text, way, bytes) {
  const stream = way === "deflate" ? new CompressionStream("deflate-raw") : new DecompressionStream("deflate-raw");
  const source = new Blob([way === "deflate" ? text : /** @type {any} */ (bytes)]).stream();
  return new Response(source.pipeThrough(/** @type {any} */ (stream))).arrayBuffer();
}

/** Edits as a piece of an address. @param {any} run @param {Edit[]} edits */
export async function asHash(run, edits) {
  if (!edits.length) return "";
  const bytes = new Uint8Array(await squeezed(asFile(run, edits), "deflate"));
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** @param {string} hash */
export async function fromHash(hash) {
  const binary = atob(hash.replace(/-/g, "+").replace(/_/g, "/"));
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  return new TextDecoder().decode(await squeezed("", "inflate", bytes));
}
