/** Why this character: attention, hidden units, and the functions that moved its logit. */

import { bounds, miniature, path, scales } from "./chart.js";
import { digits, formulaLater, h, percent, signed, svg } from "./dom.js";
import { shown } from "./tokenizer.js";

/** @typedef {import("./shapes.js").Shape} Shape */

const BACK = 40, MOVERS = 9;

/** A contribution as a bar, next to the largest, and as a number. @param {number} gives @param {number} most */
function amount(gives, most) {
  const bar = h("i", { class: gives < 0 ? "gives minus" : "gives" });
  bar.style.setProperty("--size", `${Math.max(2, (100 * Math.abs(gives)) / most)}%`);
  return [bar, h("b", {}, signed(gives, 2))];
}

export class Why {
  /**
   * @param {HTMLElement} place
   * @param {import("./shapes.js").Catalogue} catalogue
   * @param {import("./tokenizer.js").Tokenizer} tokenizer
   * @param {import("./state.js").State} state
   * @param {(shape: Shape) => void} open
   */
  constructor(place, catalogue, tokenizer, state, open) {
    this.place = place;
    this.catalogue = catalogue;
    this.tokenizer = tokenizer;
    this.state = state;
    this.open = open;
  }

  /** @param {any} found what `study` gave @param {number[]} ids */
  show(found, ids) {
    const { tokenizer } = this, piece = (/** @type {number} */ id) => shown(tokenizer.pieces([id])[0]);
    const context = tokenizer.pieces(ids.slice(Math.max(0, found.position - 24), found.position)).map(shown).join("");
    const [best, share] = found.likely[0];
    const sentence = h("p", { class: "lead" }, "After ", h("q", {}, `…${context}`), " the model gave ", h("b", { class: "char" }, piece(found.token)),
      ` ${percent(found.share)}`, best === found.token ? ", its first choice." : [", and ", h("b", { class: "char" }, piece(best)), ` ${percent(share)}.`]);
    this.place.replaceChildren(sentence, this.movers(found), this.attention(found, ids), this.units(found));
  }

  /** @param {any} found */
  movers(found) {
    const most = Math.abs(found.functions[0]?.gives ?? 0) || 1;
    const list = /** @type {{of: any, shape: Shape}[]} */ ([]);
    for (const each of found.functions) {
      const shape = this.catalogue.find(each);  // which makes an edge known: no more than are shown
      if (shape && list.push({ of: each, shape }) === MOVERS) break;
    }
    if (!list.length)
      return h("div", { class: "part" }, h("h3", {}, "Functions"), h("p", { class: "quiet" },
        "This model has no learned functions. Train one that has: nanogpkant train quickstart_kan."));
    return h("div", { class: "part" }, h("h3", {}, "Functions that moved this logit most"),
      h("p", { class: "quiet" }, "A function's contribution is its value times the gradient of the logit, at this position. Dots are its inputs here. Choose one to bend it."),
      h("ul", { class: "cards" }, list.map(({ of, shape }) => {
        const isEdited = this.state.edits.has(shape.id) && !this.state.isBefore;
        return h("li", {}, h("button", { type: "button", class: "card pick", click: () => this.open(shape) },
          h("strong", {}, `Block ${shape.block} · ${shape.name}`), h("span", { class: "quiet" }, isEdited ? `${shape.site}, edited` : shape.site),
          h("span", { class: "amount" }, amount(of.gives, most)),
          miniature(shape, this.state.line(shape), { dots: of.xs ?? [], isEdited }),
          !isEdited && formulaLater(shape)));
      })));
  }

  /** @param {any} found @param {number[]} ids */
  attention(found, ids) {
    const pieces = this.tokenizer.pieces(ids.slice(found.start, found.position)).map(shown);
    const hasCurves = [...this.catalogue.shapes.values()].some(({ site }) => site === "distance");
    return h("div", { class: "part" }, h("h3", {}, "Where each head looked"),
      h("p", { class: "quiet" }, `The last ${Math.min(BACK, pieces.length)} of ${pieces.length} tokens that it saw, shaded by attention${hasCurves ? "; below, attention by distance over the head's learned curve" : ""}.`),
      found.layers.map((/** @type {any} */ { index, weights }) => h("div", { class: "layer" },
        h("h4", {}, `Block ${index}`),
        h("div", { class: "heads" }, weights.map((/** @type {Float32Array} */ shares, /** @type {number} */ head) => this.head(index, head, shares, pieces))))));
  }

  /** @param {number} block @param {number} head @param {Float32Array} shares @param {string[]} pieces */
  head(block, head, shares, pieces) {
    const last = shares.length - 1, most = Math.max(...shares), from = Math.max(0, shares.length - BACK);
    const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 3);
    const shape = this.catalogue.find({ kind: "distance", layer: `blocks.${block}.attention.bias`, head });
    const words = order.map((s) => `‘${pieces[s]}’ ${last - s} back, ${percent(shares[s])}`).join("; ");
    const strip = h("p", { class: "strip", role: "img", "aria-label": `Attention of head ${head}: ${words}` },
      pieces.slice(from).map((piece, i) => {
        const span = h("span", { title: percent(shares[from + i]) }, piece);
        span.style.setProperty("--look", `${Math.round(100 * Math.sqrt(shares[from + i] / most))}%`);
        return span;
      }));
    return h("div", { class: "card head-card" },
      h("div", { class: "row" }, h("strong", {}, `Head ${head}`),
        shape && h("button", { type: "button", class: "small", "aria-label": `Bend the curve of block ${block}, head ${head}`, click: () => this.open(shape) }, "Bend")),
      strip, shape && this.stems(shape, shares), h("p", { class: "tiny quiet" }, words));
  }

  /** Attention by distance, over the curve. @param {Shape} shape @param {Float32Array} shares */
  stems(shape, shares) {
    const box = { left: 4, top: 4, width: 232, height: 56 }, line = this.state.line(shape);
    const at = scales(shape, bounds(shape, [line]), box), most = Math.max(...shares), last = shares.length - 1;
    const bars = Array.from(shares, (share, s) => ({ share, d: last - s })).filter(({ share, d }) => share > 0.004 * most && d <= shape.high);
    const isEdited = this.state.edits.has(shape.id) && !this.state.isBefore;
    return svg("svg", { class: "mini", viewBox: "0 0 240 64", "aria-hidden": "true" },
      bars.map(({ share, d }) => svg("path", { class: "stem", d: `M${at.x(d).toFixed(1)} 60V${(60 - (52 * share) / most).toFixed(1)}` })),
      svg("path", { class: isEdited ? "curve edited" : "curve", d: path(shape, line, at, 61) }));
  }

  /** @param {any} found */
  units(found) {
    const all = found.layers.flatMap((/** @type {any} */ { index, units, unitsOf }) =>
      units.map((/** @type {any} */ unit) => ({ ...unit, index, unitsOf })));
    all.sort((/** @type {any} */ a, /** @type {any} */ b) => Math.abs(b.gives) - Math.abs(a.gives));
    const rows = all.slice(0, 8), most = Math.abs(rows[0]?.gives ?? 0) || 1;
    return h("div", { class: "part" }, h("h3", {}, "Hidden units of the MLPs that moved it most"),
      h("table", {}, h("thead", {}, h("tr", {}, ["Block", "Unit", "Input", "Its function", "Contribution"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, rows.map((/** @type {any} */ { index, unit, x, gives, unitsOf }) => {
          const layer = this.catalogue.layers.get(unitsOf), each = layer?.kind === "shared" && layer.groups > 1 ? layer.inputs / layer.groups : 0;
          const shape = each ? this.catalogue.find({ kind: "shared", layer: unitsOf, number: Math.floor(unit / each) }) : null;
          return h("tr", {}, h("td", {}, index), h("td", {}, unit), h("td", {}, digits(x)),
            h("td", {}, shape ? h("button", { type: "button", class: "small", click: () => this.open(shape) }, shape.name) : layer?.kind === "shared" ? "a mixture" : layer ? "its edges" : "fixed"),
            h("td", { class: "amount" }, amount(gives, most)));
        }))));
  }
}
