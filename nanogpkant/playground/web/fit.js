/**
 * A formula for one function, for those that the page was not given one of: a polynomial, or a term
 * a*f(b*x + c) with or without a line, from the families of nanogpkant/interpretation/fit. There u
 * is x scaled to [-1, 1], and z = rate * u + offset the argument of f.
 */

import { FUNCTIONS } from "./bases.js";
import { Fitter } from "./edits.js";

/** @typedef {(z: number) => number} Line */
/** @typedef {[number, number]} Range */
/** @typedef {{name: string, of: Line, rates: [number, number, number], offsets: [number, number, number], by: "place" | "phase" | "distance", mirrored: boolean}} Family */
/** @typedef {{text: string, math: any[], r2: number, at: Line}} Formula */

const GOOD = 0.002, ACCEPTED = 0.01;  // 1 - R², as in interpret
const DEGREES = 5, STEPS = 24;
const ONE = /** @type {const} */ ([1, 1, 1]), BEND = [0.7, 16, 10], WIDE = [-1.6, 1.6, 17], EDGE = [-0.97, 0.97, 25];

/** @type {Family[]} */
const FAMILIES = /** @type {any[]} */ ([
  ["cube", (/** @type {number} */ z) => z ** 3, ONE, [-2, 2, 15], "place", false],
  ["exp", Math.exp, [0.3, 8, 10], [0, 0, 1], "phase", true],
  ["abs", Math.abs, ONE, EDGE, "place", false],
  ["relu", (/** @type {number} */ z) => Math.max(z, 0), ONE, EDGE, "place", true],
  ["sqrt", Math.sqrt, ONE, [0.002, 5, 12], "distance", true],
  ["log", Math.log, ONE, [0.005, 5, 12], "distance", true],
  ["reciprocal", (/** @type {number} */ z) => 1 / z, ONE, [0.01, 5, 12], "distance", true],
  ["silu", FUNCTIONS.silu, BEND, WIDE, "place", true],
  ["gelu", FUNCTIONS.gelu, BEND, WIDE, "place", true],
  ["softplus", (/** @type {number} */ z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))), BEND, WIDE, "place", true],
  ["tanh", Math.tanh, [0.5, 16, 8], [-1.6, 1.6, 13], "place", false],
  ["gaussian", (/** @type {number} */ z) => Math.exp(-z * z), [0.4, 12, 8], [-1.6, 1.6, 13], "place", false],
  ["sin", Math.sin, [0.7, 18, 20], [0, Math.PI, 8], "phase", false],
  ["x*sin", (/** @type {number} */ z) => z * Math.sin(z), [0.8, 14, 24], WIDE, "place", false],
]).map(([name, of, rates, offsets, by, mirrored]) => ({ name, of, rates, offsets, by, mirrored }));

/** @param {Family} family @param {number} rate @param {number} value one of its offsets */
function offset({ by }, rate, value) {
  return by === "place" ? -rate * value : by === "distance" ? Math.abs(rate) + value : value;
}

/** Numbers in a*f(rate * x + offset) + d, and one for each function in f. @param {Family} family */
const cost = ({ name, rates, offsets }) => 3 + Number(rates[2] > 1) + Number(offsets[2] > 1) + Number(name === "x*sin");

/** Candidates of a family: rate, and place, phase or distance. @param {Family} family @returns {Range[]} */
function starts({ rates: [least, most, count], offsets: [low, high, steps], by, mirrored }) {
  const spaced = (/** @type {number} */ a, /** @type {number} */ b, /** @type {number} */ n) => Array.from({ length: n }, (_, i) => a * (b / a) ** (i / Math.max(1, n - 1)));
  const sizes = spaced(least, most, count), rates = mirrored ? [...sizes, ...sizes.map((rate) => -rate)] : sizes;
  const places = by === "distance" ? spaced(low, high, steps)
    : Array.from({ length: steps }, (_, i) => low + ((high - low) * i) / Math.max(1, steps - Number(by === "place")));
  return rates.flatMap((rate) => places.map((place) => /** @type {Range} */ ([rate, place])));
}

/**
 * The simplest formula about as good as the best one.
 * @param {ArrayLike<number>} x in even steps
 * @param {ArrayLike<number>} y
 * @param {ArrayLike<number>} weights of the squared errors
 * @returns {Formula}
 */
export function fitFormula(x, y, weights) {
  const n = x.length, middle = (x[0] + x[n - 1]) / 2, half = (x[n - 1] - x[0]) / 2;
  const u = Float64Array.from(x, (each) => (each - middle) / half), root = Float64Array.from(weights, Math.sqrt);
  const size = root.reduce((sum, each) => sum + each * each, 0), flat = root.map((each) => each / Math.sqrt(size));
  const slant = unit(remove([root], u.map((each, p) => each * root[p])));
  const wanted = remove([root], Float64Array.from(y, (each, p) => each * root[p])), noLine = remove([slant], wanted);
  const power = wanted.reduce((sum, each) => sum + each * each, 0), leftOfLine = noLine.reduce((sum, each) => sum + each * each, 0);

  /** 1 - R² of a term. @param {Family} family @param {Range} shape @param {boolean} hasLine */
  const error = (family, [rate, place], hasLine) => {
    const z = offset(family, rate, place), rest = hasLine ? noLine : wanted;
    let both = 0, square = 0, alongFlat = 0, alongSlant = 0;
    for (let p = 0; p < n; p++) {
      const value = family.of(rate * u[p] + z) * root[p];
      both += value * rest[p];
      square += value * value;
      alongFlat += value * flat[p];
      alongSlant += value * slant[p];
    }
    const own = square - alongFlat ** 2 - (hasLine ? alongSlant ** 2 : 0);
    return own > 1e-9 * square && Number.isFinite(square) ? ((hasLine ? leftOfLine : power) - (both * both) / own) / power : Infinity;
  };

  /** @type {{error: number, cost: number, family: Family | null, shape: Range, degree: number}[]} */
  const found = [];
  if (!(power > 1e-12 * size)) found.push({ error: 0, cost: 1, family: null, shape: [0, 0], degree: 0 });
  else {
    for (let degree = 0; degree <= DEGREES; degree++) {
      const values = polynomialOf(u, y, root, degree).values;
      const left = values.reduce((sum, value, p) => sum + ((y[p] - value) * root[p]) ** 2, 0);
      found.push({ error: left / power, cost: degree + 1, family: null, shape: [0, 0], degree });
    }
    const terms = FAMILIES.flatMap((family) => [false, true].map((hasLine) => {
      const best = { error: Infinity, cost: cost(family) + Number(hasLine), family, shape: /** @type {Range} */ ([1, 0]), degree: Number(hasLine) };
      for (const shape of starts(family)) {
        const own = error(family, shape, hasLine);
        if (own < best.error) Object.assign(best, { error: own, shape });
      }
      return best;
    })).filter((each) => Number.isFinite(each.error)).sort((a, b) => a.error - b.error);
    for (const each of terms.slice(0, 8)) polish(each, (shape) => error(each.family, shape, each.degree === 1));
    found.push(...terms);
  }
  const best = Math.min(...found.map((each) => each.error)), enough = Math.min(Math.max(2 * best, GOOD), Math.max(best, ACCEPTED));
  const chosen = found.filter((each) => each.error <= enough).reduce((a, b) => (b.cost + b.error < a.cost + a.error ? b : a));
  return written(chosen, u, y, root, middle, half);
}

/**
 * Better shapes near one, in smaller and smaller steps, within the family's limits.
 * @param {{error: number, family: Family, shape: Range}} found
 * @param {(shape: Range) => number} error
 */
function polish(found, error) {
  const { rates: [least, most, count], offsets: [low, high, steps], by } = found.family;
  let byRate = count > 1 ? (most / least) ** (0.5 / count) : 1, byPlace = steps > 1 ? (high - low) / steps / 2 : 0;
  for (let step = 0; step < STEPS; step++) {
    const [rate, place] = found.shape;
    for (const shape of /** @type {Range[]} */ ([[rate * byRate, place], [rate / byRate, place], [rate, place + byPlace], [rate, place - byPlace]])) {
      const size = Math.abs(shape[0]), isInside = size >= least && size <= most && (by === "phase" || (shape[1] >= low && shape[1] <= high));
      const own = isInside ? error(shape) : Infinity;
      if (own < found.error) Object.assign(found, { error: own, shape });
    }
    if (found.shape[0] === rate && found.shape[1] === place) [byRate, byPlace] = [Math.sqrt(byRate), byPlace / 2];
  }
}

/** @param {Float64Array} vector */
function unit(vector) {
  const length = Math.sqrt(vector.reduce((sum, each) => sum + each * each, 0)) || 1;
  return vector.map((each) => each / length);
}

/** What is left of a vector without its parts along others. @param {Float64Array[]} others @param {Float64Array} vector */
function remove(others, vector) {
  const rest = vector.slice(), basis = /** @type {Float64Array[]} */ ([]);
  const take = (/** @type {Float64Array} */ from, /** @type {Float64Array} */ along) => {
    let both = 0, square = 0;
    for (let p = 0; p < from.length; p++) {
      both += from[p] * along[p];
      square += along[p] * along[p];
    }
    if (square > 0) for (let p = 0; p < from.length; p++) from[p] -= (both / square) * along[p];
  };
  for (const other of others) {
    const own = other.slice();
    for (const each of basis) take(own, each);
    basis.push(own);
    take(rest, own);
  }
  return rest;
}

/** @param {Float64Array} u @param {ArrayLike<number>} y @param {Float64Array} root @param {number} degree */
function polynomialOf(u, y, root, degree) {
  const rows = Array.from(u, (each, p) => Float64Array.from({ length: degree + 1 }, (_, k) => each ** k * root[p]));
  const c = new Fitter(rows).solve(Array.from(root, (each, p) => each * y[p]));
  return { c, values: Array.from(u, (each) => c.reduce((sum, value, k) => sum + value * each ** k, 0)) };
}

/** @param {number} value */
const digits = (value) => String(Number(Math.abs(value).toPrecision(3)));

/** A number in MathML. @param {number} value */
function number(value) {
  const [shown, power] = digits(value).split("e");
  return power ? ["mrow", ["mn", shown], ["mo", "·"], ["msup", ["mn", "10"], ["mn", power.replace("+", "")]]] : ["mn", shown];
}

/** b*x + c in MathML. @param {number} b @param {number} c */
function argument(b, c) {
  const product = Math.abs(b) === 1 ? ["mi", "x"] : ["mrow", number(b), ["mo", "\u2062"], ["mi", "x"]];
  const first = b < 0 ? ["mrow", ["mo", "−"], product] : product;
  return c === 0 ? first : ["mrow", first, ["mo", c < 0 ? "−" : "+"], number(c)];
}

/** f(z) in MathML. @param {string} name @param {any} z @returns {any} */
function called(name, z) {
  const inside = ["mrow", ["mo", "("], z, ["mo", ")"]];
  if (name === "cube") return ["msup", inside, ["mn", "3"]];
  if (name === "abs") return ["mrow", ["mo", "|"], z, ["mo", "|"]];
  if (name === "sqrt") return ["msqrt", z];
  if (name === "reciprocal") return ["mfrac", ["mn", "1"], z];
  if (name === "x*sin") return ["mrow", inside, called("sin", z)];
  return ["mrow", ["mi", name], ["mo", "\u2061"], inside];
}

/**
 * @param {{error: number, family: Family | null, shape: Range, degree: number}} found
 * @param {Float64Array} u
 * @param {ArrayLike<number>} y
 * @param {Float64Array} root
 * @param {number} middle
 * @param {number} half
 * @returns {Formula}
 */
function written({ error, family, shape: [rate, place], degree }, u, y, root, middle, half) {
  const z = family ? offset(family, rate, place) : 0, own = family ? Array.from(u, (each) => family.of(rate * each + z)) : [];
  // The term's amplitude, then the polynomial of what it leaves.
  const free = [root, u.map((each, p) => each * root[p])].slice(0, degree + 1);
  let amplitude = 0;
  if (family) {
    const term = remove(free, Float64Array.from(own, (each, p) => each * root[p]));
    const square = term.reduce((sum, each) => sum + each * each, 0);
    amplitude = term.reduce((sum, each, p) => sum + each * y[p] * root[p], 0) / square;
  }
  const { c } = polynomialOf(u, Array.from(y, (each, p) => each - (family ? amplitude * own[p] : 0)), root, degree);
  const powers = c.map((value, k) => value / half ** k), centre = degree > 1 ? middle : 0;
  if (degree === 1) powers[0] -= powers[1] * middle;  // in x itself
  /** @type {[number, any, string][]} amplitude, what it is of, and that as text */
  const terms = [];
  powers.forEach((value, k) => {
    const x = centre ? ["mrow", ["mo", "("], argument(1, -centre), ["mo", ")"]] : ["mi", "x"];
    const text = centre ? `(x ${centre < 0 ? "+" : "-"} ${digits(centre)})` : "x";
    if (value || powers.length === 1)
      terms.push([value, k === 0 ? null : k === 1 ? x : ["msup", x, ["mn", String(k)]], k === 0 ? "" : k === 1 ? `*${text}` : `*${text}^${k}`]);
  });
  if (family) {
    const b = rate / half, shift = z - b * middle;
    const inside = `(${b < 0 ? "-" : ""}${digits(b)}*x ${shift < 0 ? "-" : "+"} ${digits(shift)})`;
    terms.push([amplitude, called(family.name, argument(b, shift)), `*${family.name === "x*sin" ? `${inside}*sin` : family.name}${inside}`]);
  }
  return {
    r2: 1 - error,
    at: (x) => {
      const t = Math.max(-1, Math.min(1, (x - middle) / half));
      return c.reduce((sum, value, k) => sum + value * t ** k, 0) + (family ? amplitude * family.of(rate * t + z) : 0);
    },
    text: terms.map(([value, , text], i) => `${value < 0 ? (i ? "- " : "-") : i ? "+ " : ""}${digits(value)}${text}`).join(" "),
    math: terms.map(([value, of], i) => {
      const product = of ? ["mrow", number(value), ["mo", "\u2062"], of] : number(value);
      return [value < 0 || i ? ["mrow", ["mo", value < 0 ? "−" : "+"], ["mtext", "\u00a0"], product] : product];
    }),
  };
}
