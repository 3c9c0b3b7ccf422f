/** Elements, and numbers as people read them. Text is always set as text, never parsed. */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * @param {Element} element
 * @param {Record<string, any>} attributes listeners are functions; false and null are left out
 * @param {(Child | Child[])[]} children
 */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

/**
 * An element of HTML.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * An element of SVG.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {any}
 */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** MathML of [tag, child, ...]. @param {any} tree @returns {Node} */
export function mathml(tree) {
  if (!Array.isArray(tree)) return document.createTextNode(tree);
  const [tag, ...children] = tree;
  const element = document.createElementNS("http://www.w3.org/1998/Math/MathML", tag);
  element.append(...children.map(mathml));
  return element;
}

/** The terms of a formula; lines break between them, or between the pieces of a long one. @param {any[][]} terms @returns {Child[]} */
export function formula(terms) {
  return terms.flatMap((pieces) => [h("span", { class: "term" }, pieces.flatMap((piece) => [mathml(["math", piece]), " "])), " "]);
}

/** A formula that appears when nothing else waits, since fitting one may take a tenth of a second. @param {any} shape */
export function formulaLater(shape) {
  const place = h("span", { class: "tiny" }), later = window.requestIdleCallback ?? ((/** @type {any} */ todo) => setTimeout(todo, 50));
  later(() => {
    if (place.isConnected && shape.formula) place.append(...formula(shape.formula.math));
  });
  return place;
}

/** @param {string} id @returns {any} */
export const byId = (id) => document.getElementById(id);

/** A number with three digits, and a true minus. @param {number} value */
export function digits(value, count = 3) {
  if (!Number.isFinite(value)) return "–";
  const text = Math.abs(value) < 1e-4 && value !== 0 ? value.toExponential(1) : String(Number(value.toPrecision(count)));
  return text.replaceAll("-", "−");
}

/** The same with its sign. @param {number} value */
export function signed(value, count = 3) {
  return (value >= 0 ? "+" : "") + digits(value, count);
}

/** @param {number} share */
export function percent(share) {
  return share >= 0.9995 ? "100%" : share >= 0.1 ? `${(100 * share).toFixed(1)}%` : share >= 0.001
    ? `${(100 * share).toFixed(2)}%` : "<0.1%";
}

/** @param {number} value */
export const grouped = (value) => value.toLocaleString("en");

/**
 * A function that runs at most once a frame, with its latest arguments.
 * @param {(...args: any[]) => void} run
 */
export function onceAFrame(run) {
  let waits = false, latest = /** @type {any[]} */ ([]);
  return (/** @type {any[]} */ ...args) => {
    latest = args;
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      run(...latest);
    });
  };
}
