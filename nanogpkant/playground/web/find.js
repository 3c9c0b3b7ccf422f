/** Finding a function: the map of layers, search, filters, and the list. */

import { miniature } from "./chart.js";
import { formulaLater, grouped, h } from "./dom.js";

/** @typedef {import("./shapes.js").Shape} Shape */

const AT_ONCE = 24, CELLS = 256, LATER = 100;  // milliseconds after an edit: the new text comes first
const ORDERS = { importance: "most important first", place: "by place", edited: "edited first" };

/** The kinds of functions in a formula's text, such as ["tanh"]. @param {string} text */
function familiesOf(text) {
  const [sum] = text.split(", s = "), names = new Set(Array.from(sum.matchAll(/([a-z]\w*)\(/g), ([, name]) => name));
  return names.size ? [...names] : [sum.includes("^") ? "polynomial" : /[xds]/.test(sum) ? "line" : "constant"];
}

export class Finder {
  /**
   * @param {HTMLElement} place
   * @param {import("./shapes.js").Catalogue} catalogue
   * @param {import("./state.js").State} state
   * @param {(shape: Shape) => void} choose
   */
  constructor(place, catalogue, state, choose) {
    this.catalogue = catalogue;
    this.state = state;
    this.choose = choose;
    this.count = AT_ONCE;
    const shapes = [...catalogue.shapes.values()], sites = [...new Set(shapes.map(({ site }) => site))];
    const blocks = [...new Set(shapes.map(({ block }) => block))].sort((a, b) => a - b);
    const families = [...new Set(shapes.flatMap(({ formula }) => (formula ? familiesOf(formula.text) : [])))].sort();
    const select = (/** @type {string} */ all, /** @type {[string | number, string][]} */ values) =>
      h("select", { change: () => this.list() }, h("option", { value: "" }, all), values.map(([value, text]) => h("option", { value }, text)));
    this.search = h("input", { type: "search", placeholder: "block 1 head 0, sin, 12 → 7 …", input: () => this.list() });
    this.block = select("every block", blocks.map((block) => [block, `block ${block}`]));
    this.site = select("everywhere", sites.map((site) => [site, site]));
    this.family = select("any", families.map((family) => [family, family]));
    this.order = h("select", { change: () => this.list() }, Object.entries(ORDERS).map(([value, text]) => h("option", { value }, text)));
    this.found = h("ul", { class: "cards" });
    this.more = h("button", { type: "button", click: () => { this.count += AT_ONCE; this.list(); } }, "Show more");
    this.said = h("p", { class: "quiet", role: "status" });
    this.map = h("div", { class: "map", role: "toolbar", "aria-label": "Map of the layers: every cell is a function" });
    place.replaceChildren(
      h("h3", {}, "Map"),
      h("p", { class: "quiet" }, "A block a row, bottom to top as the model computes. The darker a cell, the more its function matters: its spread times the loss's gradient, next to the largest of its kind."),
      this.map,
      h("div", { class: "filters" },
        h("label", {}, "Search", this.search), h("label", {}, "Block", this.block), h("label", {}, "Where", this.site),
        families.length > 0 && h("label", {}, "Formula", this.family), h("label", {}, "Order", this.order)),
      this.said, this.found, this.more);
    this.draw();
    let waits = 0;
    state.listen((isDraft) => {
      clearTimeout(waits);
      if (!isDraft) waits = window.setTimeout(() => this.draw(), LATER);
    });
  }

  draw() {
    this.drawMap();
    this.list();
  }

  drawMap() {
    const rows = new Map(), { chosen } = this;
    for (const shape of this.catalogue.shapes.values()) {
      if (shape.kind === "edge") continue;
      const row = rows.get(shape.block) ?? rows.set(shape.block, new Map()).get(shape.block);
      (row.get(shape.site) ?? row.set(shape.site, []).get(shape.site)).push(shape);
    }
    for (const { name, kind, inputs, outputs } of this.catalogue.layers.values())
      if (kind === "edge") {
        const { block, site } = this.catalogue.where(name);
        (rows.get(block) ?? rows.set(block, new Map()).get(block)).set(site, inputs * outputs);
      }
    const cell = (/** @type {Shape} */ shape) => {
      const isEdited = this.state.edits.has(shape.id);
      const made = h("button", {
        type: "button", tabindex: -1, class: isEdited ? "cell edited" : "cell", "aria-pressed": String(shape.id === chosen),
        title: `${shape.name}${isEdited ? ", edited" : ""}`,
        "aria-label": `Block ${shape.block}, ${shape.site}, ${shape.name}${isEdited ? ", edited" : ""}`,
        click: () => this.choose(shape),
      });
      made.style.setProperty("--weight", `${Math.round(12 + 78 * Math.sqrt(shape.importance))}%`);
      return made;
    };
    this.map.replaceChildren(...[...rows].sort(([a], [b]) => b - a).map(([block, row]) => h("div", { class: "block" },
      h("span", { class: "quiet" }, `Block ${block}`),
      [...row].map(([site, shapes]) => h("div", { class: "site" }, h("span", {}, site),
        typeof shapes === "number"
          ? h("button", { type: "button", tabindex: -1, class: "wide-cell", click: () => {
            this.site.value = site;
            this.block.value = block;
            this.list();
          } }, `${grouped(shapes)} edges`)
          : h("div", { class: "cells" }, shapes.slice(0, CELLS).map(cell), shapes.length > CELLS && h("span", {}, "more: search")))))));
    const cells = /** @type {HTMLElement[]} */ ([...this.map.querySelectorAll("button")]);
    if (cells.length) (cells.find((each) => each.getAttribute("aria-pressed") === "true") ?? cells[0]).tabIndex = 0;
    this.map.onkeydown = (/** @type {KeyboardEvent} */ event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const at = cells.indexOf(/** @type {HTMLElement} */ (document.activeElement)), next = by && cells[at + by];
      if (!next || at < 0) return;
      event.preventDefault();
      cells[at].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    };
  }

  /** The functions that the fields ask for. @returns {Shape[]} */
  wanted() {
    const words = this.search.value.toLowerCase().replace(/\s*(?:->|→)\s*/g, " → ").trim();
    this.named(words);
    const pieces = words.split(/\s+(?![→\d])|\s+(?=\d+ →)|\s*,\s*/).filter(Boolean), { edits } = this.state;
    const [block, site, family] = [this.block.value, this.site.value, this.family.value];
    const order = {
      importance: (/** @type {Shape} */ a, /** @type {Shape} */ b) => b.importance - a.importance,
      place: (/** @type {Shape} */ a, /** @type {Shape} */ b) => a.block - b.block,
      edited: (/** @type {Shape} */ a, /** @type {Shape} */ b) =>
        Number(edits.has(b.id)) - Number(edits.has(a.id)) || b.importance - a.importance,
    }[/** @type {"importance" | "place" | "edited"} */ (this.order.value)];
    return [...this.catalogue.shapes.values()].filter((shape) => {
      const known = (shape.known === undefined ? shape.formula : shape.known)?.text ?? "";
      const text = `block ${shape.block} ${shape.site} ${shape.name} ${shape.layer} ${known}`.toLowerCase();
      const isThere = (!site || shape.site === site) && (!block || shape.block === Number(block));
      return isThere && (!family || (known && familiesOf(known).includes(family))) && pieces.every((/** @type {string} */ piece) => (piece.includes("→") ? shape.name === piece : text.includes(/[a-z] \d+$/.test(piece) ? `${piece} ` : piece)));
    }).sort(order);
  }

  /** Make an edge known that is asked for by its ends, such as "12 → 7". @param {string} words */
  named(words) {
    const [, input, output] = words.match(/(\d+)\s*→\s*(\d+)/) ?? [];
    if (input === undefined) return;
    for (const layer of this.catalogue.layers.values())
      if (layer.kind === "edge")
        this.catalogue.find({ kind: "edge", layer: layer.name, input: Number(input), output: Number(output) });
  }

  list() {
    const wanted = this.wanted(), { state } = this;
    this.said.textContent = wanted.length === 0 ? "No function is like that. Clear the search, or name an edge as 12 → 7."
      : `${grouped(wanted.length)} function${wanted.length === 1 ? "" : "s"}`;
    this.more.hidden = wanted.length <= this.count;
    this.found.replaceChildren(...wanted.slice(0, this.count).map((shape) => {
      const isEdited = state.edits.has(shape.id);
      return h("li", {}, h("button", { type: "button", class: "card pick", "aria-pressed": String(shape.id === this.chosen), click: () => this.choose(shape) },
        h("strong", {}, `Block ${shape.block} · ${shape.name}`), h("span", { class: "quiet" }, isEdited ? `${shape.site}, edited` : shape.site),
        miniature(shape, state.line(shape), { ghost: isEdited ? shape.original : null, isEdited }),
        formulaLater(shape)));
    }));
  }

  /** @param {Shape} shape */
  mark(shape) {
    this.chosen = shape.id;
    this.draw();
  }
}
