/** The catalogue of functions: shared ones, edges, and the curves of distance of heads. */

import { Features } from "./bases.js";
import { Fitter, curveOf, idOf, splineOf, sumOf } from "./edits.js";
import { fitFormula } from "./fit.js";

/** @typedef {import("./edits.js").Edit} Edit */
/** @typedef {import("./unpack.js").Tensors} Tensors */
/** @typedef {(x: number) => number} Line */

const CONTROLS = 9;
const SITES = { "attention.qkv": "queries, keys, values", "attention.out": "attention out", "mlp.into": "MLP in", "mlp.out": "MLP out" };

/**
 * @typedef {object} Shape one learned function
 * @property {string} id
 * @property {"edge" | "shared" | "distance"} kind
 * @property {string} layer
 * @property {number} block
 * @property {string} site
 * @property {string} name in words, without the block
 * @property {string} about what it stands between
 * @property {number} low shown from
 * @property {number} high shown to
 * @property {number} importance relative to the largest of its kind
 * @property {{text: string, math: any, r2: number, values: Float32Array} | null} formula
 * @property {{text: string, math: any, r2: number, values: Float32Array} | null} [known] of an edge: its formula, if that takes no fit
 * @property {Float32Array | null} density
 * @property {number[]} points where an edit is drawn
 * @property {number[]} controls
 * @property {(control: number, x: number) => number} pull share of a control's movement that x gets
 * @property {Line} original
 * @property {Line | null} start before training
 * @property {(values: ArrayLike<number>) => Edit} fit values at the points -> the nearest that the model can have
 * @property {(edit: Edit) => Line} of
 * @property {(x: number) => number} place where x stands on the axis, from 0 to 1
 */

/** @param {number} low @param {number} high @param {number} count */
const even = (low, high, count) => Array.from({ length: count }, (_, i) => low + (i * (high - low)) / (count - 1));

/** Six digits: what is saved is what runs. @param {ArrayLike<number>} values */
const tidy = (values) => Array.from(values, (value) => Number(Number(value).toPrecision(6)));

/** A line between the values at whole distances. @param {ArrayLike<number>} values @returns {Line} */
const between = (values) => (d) => {
  const low = Math.max(0, Math.min(values.length - 1, Math.floor(d))), high = Math.min(values.length - 1, low + 1);
  return values[low] + (values[high] - values[low]) * Math.min(1, Math.max(0, d - low));
};

/** @param {any} formulas @param {number} row @param {Tensors} tensors */
function formulaOf(formulas, row, tensors) {
  if (!formulas) return null;
  const [, count] = tensors.shape(formulas.values);
  const values = tensors.get(formulas.values).subarray(row * count, (row + 1) * count);
  return { text: formulas.text[row], math: formulas.math[row], r2: formulas.r2[row], values };
}

/**
 * A hump over a control, 0 from its neighbours on.
 * @param {number[]} controls
 * @param {(x: number) => number} place
 * @param {boolean} isTable with straight sides
 */
function humps(controls, place, isTable) {
  return (/** @type {number} */ control, /** @type {number} */ x) => {
    const at = place(x), middle = place(controls[control]);
    const beside = place(controls[control + (at < middle ? -1 : 1)] ?? controls[control]);
    if (beside === middle) return at === middle || !isTable ? 1 : 0;
    const away = Math.abs((at - middle) / (beside - middle));
    if (away >= 1) return 0;
    return isTable ? 1 - away : 0.5 + 0.5 * Math.cos(Math.PI * away);
  };
}

/** @param {number[]} points @param {Line} line @param {Float32Array} density @returns {Shape["formula"]} */
function fitted(points, line, density) {
  const weights = points.map((_, p) => 0.01 + density[Math.min(density.length - 1, Math.floor((p / points.length) * density.length))]);
  const { at, ...found } = fitFormula(points, points.map(line), weights);
  return { ...found, values: Float32Array.from(points, at) };
}

export class Catalogue {
  /** @param {any} run @param {Tensors} tensors */
  constructor(run, tensors) {
    this.run = run;
    this.tensors = tensors;
    /** @type {Map<string, Shape>} */
    this.shapes = new Map();
    /** Matrices, by number. @type {Map<number, Float32Array>} */
    this.decoded = new Map();
    const { curves, layers } = run.functions;
    /** @type {any[]} */
    const projections = [], given = [];
    for (const { attention, into, out } of run.model.blocks) {
      projections.push(attention.qkv, attention.out, into, out);
      given.push(attention.bias, attention.convolution);
    }
    this.projections = new Map(projections.map((each) => [each.name, each]));
    this.layers = new Map(layers.map((/** @type {any} */ each) => [each.name, each]));
    for (const each of curves) {
      const curve = given.find((other) => other?.name === each.name);
      const most = Math.max(...curves.flatMap((/** @type {any} */ other) => other.importance), 1e-30);
      each.importance.forEach((/** @type {number} */ importance, /** @type {number} */ head) =>
        this.add(this.distance(each, curve, head, importance / most)));
    }
    const largest = (/** @type {string} */ kind) => Math.max(
      ...layers.filter((/** @type {any} */ each) => each.kind === kind).flatMap((/** @type {any} */ each) => each.importance), 1e-30);
    for (const layer of layers) {
      const most = largest(layer.kind);
      layer.importance.forEach((/** @type {number} */ importance, /** @type {number} */ row) => {
        if (layer.kind === "shared") this.add(this.shared(layer, row, importance / most));
        else this.add(this.edge(layer, layer.top[row][1], layer.top[row][0], importance / most, row));
      });
    }
  }

  /** @param {Shape} shape */
  add(shape) {
    this.shapes.set(shape.id, shape);
    return shape;
  }

  /** The id of the function that an edit, or a part of an explanation, is of. @param {any} of */
  id(of) {
    const { groups } = this.layers.get(of.layer) ?? { groups: 1 };
    return idOf("number" in of ? { ...of, function: Math.floor(of.number / groups), group: of.number % groups } : of);
  }

  /** That function; an edge that nobody asked for is made known. @param {any} of @returns {Shape | null} */
  find(of) {
    const known = this.shapes.get(this.id(of)), layer = this.layers.get(of.layer);
    const isIn = (/** @type {any} */ i, /** @type {number} */ count) => Number.isInteger(i) && i >= 0 && i < count;
    if (known || of.kind !== "edge" || layer?.kind !== "edge") return known ?? null;
    return isIn(of.input, layer.inputs) && isIn(of.output, layer.outputs) ? this.add(this.edge(layer, of.input, of.output, 0, null)) : null;
  }

  /** The function of an id, such as "blocks.0.mlp.out/12→7". @param {string} id @returns {Shape | null} */
  named(id) {
    const [, layer, input, output] = id.match(/^(.+)\/(\d+)→(\d+)$/) ?? [];
    return this.shapes.get(id) ?? this.find({ kind: "edge", layer, input: Number(input), output: Number(output) });
  }

  /** @param {string} name */
  where(name) {
    const [, block, ...rest] = name.split(".");
    return { layer: name, block: Number(block), site: SITES[/** @type {keyof SITES} */ (rest.join("."))] ?? rest.join(" ") };
  }

  /** @param {any} known @param {any} curve @param {number} head @param {number} importance @returns {Shape} */
  distance(known, curve, head, importance) {
    const { length } = curve, isLag = known.name.endsWith("kernel");
    const values = this.tensors.get(curve.values).subarray(head * length, (head + 1) * length);
    const start = this.tensors.get(curve.start).subarray(head * length, (head + 1) * length);
    const edit = { kind: /** @type {const} */ ("distance"), layer: known.name, head };
    const place = (/** @type {number} */ d) => Math.log2(1 + d) / Math.log2(length);
    const form = curve.basis === null ? table(edit, length, place) : sloped(edit, length, this.tensors.get(curve.basis));
    return {
      ...this.where(known.name), id: idOf(edit), kind: "distance", site: isLag ? "convolution" : "distance",
      name: `head ${head}`,
      about: isLag ? "what a token this many places back weighs" : "what is added to attention at each distance",
      low: 0, high: length - 1, importance, density: null, formula: formulaOf(known.formulas, head, this.tensors),
      points: even(0, length - 1, length), original: between(values), start: between(start), place, ...form,
    };
  }

  /** The parts that shared functions and edges have in common. @param {any} layer @param {number} row */
  input(layer, row) {
    const { samples, bins } = this.run.functions;
    const low = this.tensors.get(layer.low)[row], high = this.tensors.get(layer.high)[row];
    const margin = 0.06 * (high - low), from = low - margin, to = high + margin;
    const controls = even(low, high, CONTROLS), place = (/** @type {number} */ x) => (x - from) / (to - from);
    return {
      ...this.where(layer.name), low: from, high: to, samples, controls, start: null,
      density: this.tensors.get(layer.density).subarray(row * bins, (row + 1) * bins),
      place, pull: humps(controls, place, false),
    };
  }

  /** @param {any} layer @param {number} row @param {number} importance @returns {Shape} */
  shared(layer, row, importance) {
    const { groups } = layer, group = row % groups, number = Math.floor(row / groups);
    const { name, features, inputs, coefficients } = this.projections.get(layer.name);
    const known = new Features(features, inputs, this.tensors.get(coefficients));
    const common = this.input(layer, group), points = even(layer.spline[0], layer.spline[1], common.samples);
    const basis = splineOf(layer.spline), each = inputs / groups;
    /** @type {Fitter | null} */
    let fitter = null;
    const edit = { kind: /** @type {const} */ ("shared"), layer: name, function: number, group };
    const who = groups === 1 ? `function ${number}` : groups === inputs ? `input ${group}` : `group ${group}`;
    return {
      ...common, id: idOf(edit), kind: "shared", name: who,
      about: groups === 1 ? "mixed by every edge of the layer" : each === 1 ? "applied to one input"
        : `applied to inputs ${group * each} to ${(group + 1) * each - 1}`,
      importance, points, formula: formulaOf(layer.formulas, row, this.tensors),
      original: (x) => known.original(row, x),
      fit: (drawn) => {
        fitter ??= new Fitter(points.map((x) => rowOf(basis, x)));
        return { ...edit, spline: layer.spline, coefficients: tidy(fitter.solve(drawn)) };
      },
      of: ({ coefficients: c = [] }) => sumOf(basis, c),
    };
  }

  /** @param {any} layer @param {number} input @param {number} output @param {number} importance @param {number | null} row @returns {Shape} */
  edge(layer, input, output, importance, row) {
    const { name, features, inputs, weight } = this.projections.get(layer.name);
    const known = new Features(features, inputs, null), [, outputs] = this.tensors.shape(weight);
    const common = this.input(layer, input), { controls, samples } = common;
    const points = even(controls[0], controls[controls.length - 1], samples);
    const basis = { size: known.size, expand: (/** @type {number} */ x, /** @type {Float64Array} */ out) => known.edge(x, out) };
    const edit = { kind: /** @type {const} */ ("edge"), layer: name, output, input };
    /** @type {number[] | null} */
    let coefficients = null;
    /** @type {Fitter | null} */
    let fitter = null;
    /** @type {Shape["formula"]} */
    let said = null;
    const { tensors } = this, own = () => (coefficients ??= Array.from({ length: known.size },
      (_, m) => this.weights(weight)[(m * inputs + input) * outputs + output]));
    const original = (/** @type {number} */ x) => sumOf(basis, own())(x);
    return {
      ...common, id: idOf(edit), kind: "edge", name: `${input} → ${output}`,
      about: `from input ${input} to output ${output}`, importance, points,
      get formula() {  // of an edge that is not listed, when it is first looked at
        return (said ??= row === null ? fitted(points, original, common.density) : formulaOf(layer.formulas, row, tensors));
      },
      get known() {
        return row === null ? said : this.formula;
      },
      original,
      fit: (drawn) => {
        fitter ??= new Fitter(points.map((x) => rowOf(basis, x)));
        return { ...edit, coefficients: tidy(fitter.solve(drawn)) };
      },
      of: ({ coefficients: c = [] }) => sumOf(basis, c),
    };
  }

  /** A matrix, decoded once. @param {number} number */
  weights(number) {
    if (!this.decoded.has(number)) this.decoded.set(number, this.tensors.get(number));
    return /** @type {Float32Array} */ (this.decoded.get(number));
  }
}

/**
 * How a curve is edited that is a number for every distance.
 * @param {Edit} edit
 * @param {number} length
 * @param {(d: number) => number} place
 */
function table(edit, length, place) {
  const controls = [...new Set(even(0, Math.log2(length), 11).map((s) => Math.round(2 ** s) - 1))];
  return {
    controls, pull: humps(controls, place, true),
    fit: (/** @type {ArrayLike<number>} */ drawn) => ({ ...edit, values: tidy(drawn) }),
    of: (/** @type {Edit} */ { values = [] }) => between(values),
  };
}

/**
 * How a curve is edited that goes on by a slope: by its coefficients, each with a control where its
 * function is largest.
 * @param {Edit} edit
 * @param {number} length
 * @param {Float32Array} basis
 */
function sloped(edit, length, basis) {
  const size = basis.length / (length + 1), at = (/** @type {number} */ d, /** @type {number} */ k) => basis[d * size + k];
  const peaks = Array.from({ length: size }, (_, k) => {
    let peak = 0;
    for (let d = 1; d < length; d++) if (at(d, k) > at(peak, k)) peak = d;
    return { k, peak };
  }).filter(({ k, peak }, i, all) => at(peak, k) > 0.1 && all.findIndex((other) => other.peak === peak) === i);
  const weight = (/** @type {number} */ d) => 1 / Math.sqrt(1 + d);  // near distances matter more
  /** @type {Fitter | null} */
  let fitter = null;
  return {
    controls: peaks.map(({ peak }) => peak),
    pull: (/** @type {number} */ control, /** @type {number} */ d) => at(d, peaks[control].k) / at(peaks[control].peak, peaks[control].k),
    fit: (/** @type {ArrayLike<number>} */ drawn) => {
      fitter ??= new Fitter(Array.from({ length }, (_, d) => Float64Array.from({ length: size }, (_, k) => weight(d) * at(d, k))));
      return { ...edit, coefficients: tidy(fitter.solve(Array.from(drawn, (value, d) => weight(d) * value))) };
    },
    of: (/** @type {Edit} */ { coefficients = [] }) => between(curveOf(basis, length, coefficients).subarray(0, length)),
  };
}

/** @param {import("./bases.js").Basis} basis @param {number} x */
function rowOf(basis, x) {
  const row = new Float64Array(basis.size);
  basis.expand(x, row);
  return row;
}
