/** Edits of functions: fitting what was drawn into a form that the model has, and applying them. */

import { makeBasis } from "./bases.js";

/** @typedef {import("./model.js").Model} Model */
/**
 * @typedef {object} Edit
 * @property {"edge" | "shared" | "distance"} kind
 * @property {string} layer
 * @property {number} [output]
 * @property {number} [input]
 * @property {number} [function]
 * @property {number} [group]
 * @property {number} [head]
 * @property {number[]} [spline] low, high, intervals
 * @property {number[]} [coefficients]
 * @property {number[]} [values]
 */

/** The function that an edit is of. @param {any} edit */
export function idOf({ kind, layer, output, input, function: number, group, head }) {
  if (kind === "distance") return `${layer}/${head}`;
  return kind === "edge" ? `${layer}/${input}→${output}` : `${layer}/${number}.${group}`;
}

/** The spline of shared functions that are edited. @param {number[]} spline */
export function splineOf([low, high, intervals]) {
  return makeBasis({
    name: "bspline", order: 3, grid: null, grid_size: intervals, grid_range: [low, high], outside: "linear",
  });
}

/** A sum of a basis's functions. @param {import("./bases.js").Basis} basis @param {ArrayLike<number>} c */
export function sumOf(basis, c) {
  const values = new Float64Array(basis.size);
  return (/** @type {number} */ x) => {
    basis.expand(x, values);
    let sum = 0;
    for (let k = 0; k < basis.size; k++) sum += values[k] * c[k];
    return sum;
  };
}

/**
 * What coefficients make of a curve of distance: its values, and last its slope beyond.
 * @param {Float32Array} basis (length + 1, coefficients)
 * @param {number} length
 * @param {ArrayLike<number>} c
 */
export function curveOf(basis, length, c) {
  const size = basis.length / (length + 1);
  return Float32Array.from({ length: length + 1 }, (_, row) => {
    let sum = 0;
    for (let k = 0; k < size; k++) sum += basis[row * size + k] * c[k];
    return sum;
  });
}

/** Least squares, with a ridge so small that it only decides what the points leave open. */
export class Fitter {
  /** @param {Float64Array[]} rows the functions' values at each point */
  constructor(rows) {
    const size = rows[0].length, ridge = 1e-7 * rows.length;
    this.rows = rows;
    this.size = size;
    /** Cholesky's factor of A^T A + ridge. @type {Float64Array[]} */
    const L = Array.from({ length: size }, () => new Float64Array(size));
    for (let i = 0; i < size; i++)
      for (let j = 0; j <= i; j++) {
        let sum = i === j ? ridge : 0;
        for (const row of rows) sum += row[i] * row[j];
        for (let k = 0; k < j; k++) sum -= L[i][k] * L[j][k];
        L[i][j] = i === j ? Math.sqrt(Math.max(sum, 1e-12)) : sum / L[j][j];
      }
    this.factor = L;
  }

  /** @param {ArrayLike<number>} y a value for each point @returns {number[]} */
  solve(y) {
    const { rows, size, factor: L } = this, c = new Array(size).fill(0);
    rows.forEach((row, p) => {
      for (let i = 0; i < size; i++) c[i] += row[i] * y[p];
    });
    for (let i = 0; i < size; i++) {
      for (let k = 0; k < i; k++) c[i] -= L[i][k] * c[k];
      c[i] /= L[i][i];
    }
    for (let i = size - 1; i >= 0; i--) {
      for (let k = i + 1; k < size; k++) c[i] -= L[k][i] * c[k];
      c[i] /= L[i][i];
    }
    return c;
  }
}

/** The edits that a model is under. */
export class Edits {
  /** @param {Model} model */
  constructor(model) {
    this.projections = model.projections();
    this.curves = model.curves();
    /** @type {Map<string, {edit: Edit, undo: () => void}>} */
    this.applied = new Map();
  }

  /**
   * Put the model under these edits and no others.
   * @param {Edit[]} edits
   * @returns {number} the first block that changed; Infinity if none
   */
  set(edits) {
    const wanted = new Map(edits.map((edit) => [idOf(edit), edit]));
    let first = Infinity;
    const touch = (/** @type {Edit} */ { layer }) => (first = Math.min(first, Number(layer.split(".")[1])));
    for (const [id, { edit, undo }] of this.applied)
      if (JSON.stringify(wanted.get(id)) !== JSON.stringify(edit)) {
        undo();
        touch(edit);
        this.applied.delete(id);
      }
    for (const [id, edit] of wanted)
      if (!this.applied.has(id)) {
        this.applied.set(id, { edit, undo: this.apply(edit) });
        touch(edit);
      }
    return first;
  }

  /** @param {Edit} edit @returns {() => void} what takes it back */
  apply(edit) {
    if (edit.kind === "distance") {
      const { rows, slope, basis, length } = /** @type {import("./rows.js").Curve} */ (this.curves.get(edit.layer));
      const head = Number(edit.head), before = { values: rows[head], slope: slope[head] };
      const values = basis ? curveOf(basis, length, edit.coefficients ?? []) : Float32Array.from(edit.values ?? []);
      rows[head] = values.subarray(0, length);
      if (basis) slope[head] = values[length];
      return () => {
        rows[head] = before.values;
        slope[head] = before.slope;
      };
    }
    const { matrix, features: known } = /** @type {import("./model.js").Projection} */ (this.projections.get(edit.layer));
    const features = /** @type {import("./bases.js").Features} */ (known), coefficients = edit.coefficients ?? [];
    if (edit.kind === "shared") {
      const number = Number(edit.function) * features.groups + Number(edit.group);
      features.replaced.set(number, sumOf(splineOf(edit.spline ?? []), coefficients));
      return () => features.replaced.delete(number);
    }
    const places = coefficients.map((_, m) => matrix.at(m * features.inputs + Number(edit.input), Number(edit.output)));
    const before = places.map((at) => matrix.data[at]);
    places.forEach((at, m) => (matrix.data[at] = coefficients[m]));
    return () => places.forEach((at, m) => (matrix.data[at] = before[m]));
  }
}
