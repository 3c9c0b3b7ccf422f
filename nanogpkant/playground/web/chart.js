/** Pictures of curves. */

import { digits, svg } from "./dom.js";

/** @typedef {import("./shapes.js").Shape} Shape */
/** @typedef {(x: number) => number} Line */

/** Points along a shape's axis, close where the picture needs them. @param {Shape} shape @param {number} count */
export function along(shape, count) {
  if (shape.kind !== "distance")
    return Array.from({ length: count }, (_, i) => shape.low + (i * (shape.high - shape.low)) / (count - 1));
  const last = Math.log2(1 + shape.high);
  return Array.from({ length: count }, (_, i) => 2 ** ((i * last) / (count - 1)) - 1);
}

/** Lowest and highest value of some lines. @param {Shape} shape @param {Line[]} lines @param {number} [margin] */
export function bounds(shape, lines, margin = 0.08) {
  let low = Infinity, high = -Infinity;
  for (const line of lines)
    for (const x of along(shape, 65)) {
      const y = line(x);
      low = Math.min(low, y);
      high = Math.max(high, y);
    }
  if (high - low < 1e-6) [low, high] = [low - 0.5, high + 0.5];
  if (shape.kind === "distance" && low < high - 14) low = high - 14;  // e^-14 of a weight is nothing
  const room = margin * (high - low);
  return /** @type {[number, number]} */ ([low - room, high + room]);
}

/**
 * The place of values in a picture.
 * @param {Shape} shape
 * @param {[number, number]} range
 * @param {{left: number, top: number, width: number, height: number}} box
 */
export function scales(shape, [low, high], { left, top, width, height }) {
  return {
    x: (/** @type {number} */ x) => left + width * shape.place(x),
    y: (/** @type {number} */ y) => top + height * (1 - (Math.max(low - (high - low), Math.min(2 * high - low, y)) - low) / (high - low)),
    value: (/** @type {number} */ y) => low + (high - low) * (1 - (y - top) / height),
  };
}

/** @param {Shape} shape @param {Line} line @param {ReturnType<typeof scales>} at @param {number} [count] */
export function path(shape, line, at, count = 97) {
  return along(shape, count).map((x, i) => `${i ? "L" : "M"}${at.x(x).toFixed(1)} ${at.y(line(x)).toFixed(1)}`).join("");
}

/** The density of a shape's inputs, as an area on the ground. @param {Shape} shape @param {ReturnType<typeof scales>} at @param {number} ground @param {number} height */
export function area(shape, at, ground, height) {
  if (!shape.density) return null;
  const count = shape.density.length, inner = shape.controls, [low, high] = [inner[0], inner[inner.length - 1]];
  const step = (high - low) / count;
  let d = `M${at.x(low).toFixed(1)} ${ground}`;
  shape.density.forEach((share, i) => {
    const y = (ground - height * share).toFixed(1);
    d += `L${at.x(low + i * step).toFixed(1)} ${y}L${at.x(low + (i + 1) * step).toFixed(1)} ${y}`;
  });
  return svg("path", { class: "density", d: `${d}L${at.x(high).toFixed(1)} ${ground}Z` });
}

/**
 * A small picture: the curve, where inputs lie, dots of some of them.
 * @param {Shape} shape
 * @param {Line} line
 * @param {{dots?: number[], ghost?: Line | null, isEdited?: boolean}} [more]
 */
export function miniature(shape, line, { dots = [], ghost = null, isEdited = false } = {}) {
  const box = { left: 4, top: 5, width: 152, height: 58 };
  const given = bounds(shape, ghost ? [line, ghost] : [line]), at = scales(shape, given, box);
  const zero = given[0] < 0 && given[1] > 0 ? at.y(0).toFixed(1) : null;
  return svg("svg", { class: "mini", viewBox: "0 0 160 68", "aria-hidden": "true" },
    area(shape, at, 64, 22),
    zero && svg("path", { class: "axis", d: `M4 ${zero}H156` }),
    ghost && svg("path", { class: "ghost", d: path(shape, ghost, at, 61) }),
    svg("path", { class: isEdited ? "curve edited" : "curve", d: path(shape, line, at, 61) }),
    dots.filter((x) => x >= shape.low && x <= shape.high).map((x) =>
      svg("circle", { class: "dot", cx: at.x(x).toFixed(1), cy: at.y(line(x)).toFixed(1), r: dots.length > 4 ? 1.8 : 3.2 })));
}

/** Round numbers between two. @param {number} low @param {number} high @param {number} count */
export function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((f) => f * power).find((f) => f >= rough) ?? rough, found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-9; t += step) found.push(Number(t.toPrecision(8)));
  return found;
}

/** Axes with numbers. @param {Shape} shape @param {[number, number]} range @param {ReturnType<typeof scales>} at @param {{left: number, top: number, width: number, height: number}} box */
export function axes(shape, range, at, box) {
  const ground = box.top + box.height, marks = [];
  const distances = [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047].filter((d) => d <= shape.high);
  for (const x of shape.kind === "distance" ? distances : ticks(shape.low, shape.high, 7))
    marks.push(
      svg("path", { class: "tick", d: `M${at.x(x).toFixed(1)} ${box.top}V${ground}` }),
      svg("text", { class: "number", x: at.x(x).toFixed(1), y: ground + 15, "text-anchor": "middle" }, digits(x, 4)));
  for (const y of ticks(range[0], range[1], 5))
    marks.push(
      svg("path", { class: y === 0 ? "axis" : "tick", d: `M${box.left} ${at.y(y).toFixed(1)}h${box.width}` }),
      svg("text", { class: "number", x: box.left - 12, y: (at.y(y) + 4).toFixed(1), "text-anchor": "end" }, digits(y)));
  return marks;
}
