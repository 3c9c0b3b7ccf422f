/** The editor of one function: control points, replacements, undo, and what it does to the loss. */

import { area, axes, bounds, path, scales } from "./chart.js";
import { byId, digits, formula, h, onceAFrame, svg } from "./dom.js";
import { asFile, asHash, fromFile } from "./state.js";

/** @typedef {import("./shapes.js").Shape} Shape */
/** @typedef {import("./shapes.js").Catalogue} Catalogue */
/** @typedef {import("./state.js").State} State */

const HEIGHT = 320, LEAST = 280, MOST = 900, BOX = { left: 56, top: 16, height: 268 };

export class Editor {
  /** @param {HTMLElement} place @param {any} run @param {Catalogue} catalogue @param {State} state @param {() => void} tell fills in the losses and the text */
  constructor(place, run, catalogue, state, tell) {
    this.place = place;
    this.run = run;
    this.catalogue = catalogue;
    this.state = state;
    this.tell = tell;
    /** @type {Shape | null} */
    this.shape = null;
    this.move = onceAFrame((/** @type {() => void} */ act) => act());
    state.listen((isDraft) => this.shape && (isDraft ? this.redraw() : this.show(this.shape)));
    new ResizeObserver(() => this.shape && this.width() !== this.drawn && this.show(this.shape)).observe(place);
  }

  /** Of the picture: as wide as there is room, so that its text keeps its size. */
  width() {
    return Math.max(LEAST, Math.min(MOST, this.place.clientWidth - 34));
  }

  /** The values of the function as it is, where an edit is drawn. */
  values() {
    const shape = /** @type {Shape} */ (this.shape), line = this.state.line(shape);
    return shape.points.map(line);
  }

  /** @param {ArrayLike<number>} values @param {boolean} [isDraft] */
  draw(values, isDraft = false) {
    const shape = /** @type {Shape} */ (this.shape);
    this.state.change(shape.id, shape.fit(values), isDraft);
  }

  /** @param {Shape} shape */
  show(shape) {
    const { state } = this, focused = document.activeElement?.getAttribute("data-focus");
    this.shape = shape;
    const edit = state.edits.get(shape.id), { past, at } = state;
    this.range = bounds(shape, [shape.original, state.line(shape)], 0.22);
    const button = (/** @type {string} */ text, /** @type {() => void} */ click, /** @type {any} */ more = {}) =>
      h("button", { type: "button", click, "data-focus": text, ...more }, text);
    const others = [...this.catalogue.shapes.values()].filter((other) =>
      other !== shape && other.kind === shape.kind && other.kind !== "edge" && other.points.length === shape.points.length);
    this.place.replaceChildren(h("div", { class: "card editor" },
      h("div", { class: "row" },
        h("h3", { id: "editor-title", tabindex: -1, "data-focus": "title" }, `Block ${shape.block}, ${shape.site}, ${shape.name}`, edit && h("span", { class: "tag" }, "edited")),
        h("span", { class: "quiet" }, shape.about)),
      this.picture(),
      h("div", { class: "shown-losses" }), h("p", { class: "shown-text", "aria-hidden": "true" }),
      h("p", { class: "legend" },
        h("span", { class: edit && !state.isBefore ? "key bent" : "key now" }, state.isBefore ? "before" : "now"), edit && h("span", { class: "key was" }, "before the edit"),
        shape.start && h("span", { class: "key began" }, "before training"),
        shape.formula && h("span", { class: "key said" }, "formula"),
        shape.density && h("span", { class: "key inputs" }, "how often inputs lie there")),
      shape.formula && h("p", { class: "formula", tabindex: 0, role: "group", "aria-label": "Formula" }, h("span", {}, formula(shape.formula.math)),
        h("span", { class: "quiet", title: "the share of the curve's variance that the formula has" }, `R² ${shape.formula.r2.toFixed(4)}`)),
      h("p", { class: "quiet" }, "Drag a point, or choose one and press ↑ or ↓. Or replace the whole curve:"),
      h("div", { class: "buttons" },
        shape.formula && button("Formula", () => this.draw(/** @type {any} */ (shape.formula).values)),
        button("Line", () => this.draw(this.straight())),
        button("Mean", () => this.draw(shape.points.map(() => this.mean()))),
        button("Zero", () => this.draw(shape.points.map(() => 0))),
        others.length > 0 && h("label", { class: "inline" }, "That of ",
          h("select", { "data-focus": "other", change: (/** @type {any} */ event) => {
            const other = this.catalogue.shapes.get(event.target.value);
            if (!other) return;
            this.draw(shape.points.map(state.line(other)));  // makes the editor anew
            /** @type {any} */ (this.place.querySelector("select")).value = other.id;  // the arrow keys go on from here
          } }, h("option", { value: "" }, "another …"), others.slice(0, 300).map((other) =>
            h("option", { value: other.id }, `Block ${other.block}, ${other.site}, ${other.name}`)))),
        button("Reset curve", () => state.change(shape.id, null), { disabled: !edit })),
      h("div", { class: "buttons line" },
        button("Undo", () => state.step(-1), { disabled: at === 0, "aria-keyshortcuts": "Control+Z" }),
        button("Redo", () => state.step(1), { disabled: at === past.length - 1, "aria-keyshortcuts": "Control+Y" }),
        button("Reset all", () => state.replace([]), { disabled: state.edits.size === 0 }),
        h("button", { type: "button", "aria-pressed": String(state.isBefore), disabled: state.edits.size === 0, "data-focus": "compare",
          click: () => { state.isBefore = !state.isBefore; state.tell(); } }, "Compare with before"),
        button("Copy link", () => this.link(), { disabled: state.edits.size === 0 }),
        button("Save edits", () => this.save(), { disabled: state.edits.size === 0 }),
        h("label", { class: "file" }, "Open edits",
          h("input", { type: "file", accept: ".json,application/json", change: (/** @type {any} */ event) => this.open(event.target.files[0]) }))),
      h("p", { id: "edit-said", class: "quiet", role: "status" })));
    this.tell();
    if (focused) (this.place.querySelector(`[data-focus="${focused}"]:not(:disabled)`) ?? byId("editor-title")).focus();
  }

  picture() {
    const shape = /** @type {Shape} */ (this.shape), { state } = this;
    const width = (this.drawn = this.width()), box = { ...BOX, width: width - BOX.left - 18 };
    const at = (this.at = scales(shape, /** @type {[number, number]} */ (this.range), box));
    const edit = state.edits.get(shape.id), line = state.line(shape);
    const said = shape.formula && through(shape, shape.formula.values);
    this.curve = svg("path", { class: edit && !state.isBefore ? "curve edited" : "curve", d: path(shape, line, at, 201) });
    this.dots = svg("g", { class: "study" });
    this.handles = shape.controls.map((x, i) => this.handle(i, x));
    this.drawing = svg("svg", { class: "big", viewBox: `0 0 ${width} ${HEIGHT}`, role: "group",
      "aria-label": `The curve of block ${shape.block}, ${shape.site}, ${shape.name}` },
    axes(shape, /** @type {[number, number]} */ (this.range), at, box),
    svg("svg", { x: BOX.left, y: BOX.top, width: box.width, height: box.height, viewBox: `${box.left} ${box.top} ${box.width} ${box.height}` },
      area(shape, at, BOX.top + BOX.height, 70),
      shape.start && svg("path", { class: "began", d: path(shape, shape.start, at) }),
      said && svg("path", { class: "said", d: path(shape, said, at) }),
      edit && svg("path", { class: "ghost", d: path(shape, shape.original, at, 201) }),
      this.curve, this.dots),
    svg("text", { class: "label", x: box.left + box.width, y: HEIGHT - 4, "text-anchor": "end" },
      shape.kind === "distance" ? "tokens back" : "input"),
    this.handles);
    this.study(this.studied ?? []);
    return this.drawing;
  }

  /** Where the inputs of the studied character lie. @param {number[]} xs */
  study(xs) {
    this.studied = xs;
    const { shape, at } = this;
    if (!shape || !at || !this.dots) return;
    const line = this.state.line(shape);
    this.dots.replaceChildren(...xs.filter((x) => x >= shape.low && x <= shape.high).map((x) =>
      svg("circle", { class: "dot", cx: at.x(x), cy: at.y(line(x)), r: xs.length > 4 ? 2.4 : 5 })));
  }

  /** @param {number} index @param {number} x */
  handle(index, x) {
    const shape = /** @type {Shape} */ (this.shape), at = /** @type {any} */ (this.at);
    const y = this.state.line(shape)(x);
    const circle = svg("circle", {
      class: "handle", r: 8, cx: at.x(x), cy: within(at.y(y)), tabindex: 0, role: "slider", "data-focus": `point ${index}`,
      "aria-label": `Point ${index + 1} of ${shape.controls.length}, at ${digits(x, 4)}`, "aria-orientation": "vertical",
      "aria-valuemin": String(/** @type {any} */ (this.range)[0]), "aria-valuemax": String(/** @type {any} */ (this.range)[1]),
      "aria-valuenow": String(Number(y.toPrecision(4))),
    });
    circle.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => this.grab(event, circle, index));
    circle.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const [low, high] = /** @type {any} */ (this.range), step = (high - low) / (event.shiftKey ? 10 : 50);
      const by = { ArrowUp: step, ArrowDown: -step, PageUp: 5 * step, PageDown: -5 * step }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      this.draw(this.bent(this.values(), index, by));
    });
    return circle;
  }

  /** @param {number[]} values @param {number} index of a control @param {number} by */
  bent(values, index, by) {
    const shape = /** @type {Shape} */ (this.shape), y = through(shape, values)(shape.controls[index]);
    const [low, high] = /** @type {any} */ (this.range), lift = Math.max(low, Math.min(high, y)) - y;
    const all = by * lift > 0 ? by + lift : by;  // from outside the picture a point comes back in at once
    return values.map((value, p) => value + all * shape.pull(index, shape.points[p]));
  }

  /** @param {PointerEvent} event @param {any} circle @param {number} index */
  grab(event, circle, index) {
    event.preventDefault();
    circle.focus();
    circle.setPointerCapture(event.pointerId);
    const before = this.values(), at = /** @type {any} */ (this.at);
    const inside = (/** @type {PointerEvent} */ { clientY }) => {
      const frame = this.drawing.getBoundingClientRect();
      return at.value(((clientY - frame.top) / frame.height) * HEIGHT);
    };
    const from = inside(event);
    let last = /** @type {PointerEvent | null} */ (null);
    const bend = (/** @type {PointerEvent} */ next, /** @type {boolean} */ isDraft) => this.draw(this.bent(before, index, inside(next) - from), isDraft);
    const move = (/** @type {PointerEvent} */ next) => {
      last = next;
      this.move(() => circle.isConnected && bend(next, true));
    };
    const end = () => {
      circle.removeEventListener("pointermove", move);
      if (last) bend(last, false);  // makes the picture anew, so that a frame that waits finds no circle
    };
    circle.addEventListener("pointermove", move);
    for (const kind of ["pointerup", "pointercancel"]) circle.addEventListener(kind, end, { once: true });
  }

  /** Follow a gesture without making the picture anew. */
  redraw() {
    const shape = /** @type {Shape} */ (this.shape), at = /** @type {any} */ (this.at), line = this.state.line(shape);
    this.curve.setAttribute("d", path(shape, line, at, 201));
    this.curve.setAttribute("class", "curve edited");
    this.handles?.forEach((/** @type {any} */ circle, /** @type {number} */ i) => {
      const y = line(shape.controls[i]);
      circle.setAttribute("cy", String(within(at.y(y))));
      circle.setAttribute("aria-valuenow", String(Number(y.toPrecision(4))));
    });
    this.study(this.studied ?? []);
  }

  /** How often inputs lie at each point. */
  weights() {
    const { density, points, controls, kind } = /** @type {Shape} */ (this.shape);
    if (!density) return points.map((d) => (kind === "distance" ? 1 / (1 + d) : 1));
    const [low, high] = [controls[0], controls[controls.length - 1]];
    return points.map((x) => (density[Math.floor(((x - low) / (high - low)) * density.length)] ?? 0) + 1e-6);  // no point may lie where inputs do
  }

  mean() {
    const weights = this.weights(), total = weights.reduce((a, b) => a + b, 0);
    return this.values().reduce((sum, y, p) => sum + y * weights[p], 0) / total;
  }

  /** The line nearest to the curve, where inputs lie. */
  straight() {
    const { points } = /** @type {Shape} */ (this.shape), values = this.values(), weights = this.weights();
    let w = 0, x = 0, y = 0, xx = 0, xy = 0;
    points.forEach((p, i) => {
      w += weights[i], x += weights[i] * p, y += weights[i] * values[i];
      xx += weights[i] * p * p, xy += weights[i] * p * values[i];
    });
    const slope = (xy - (x * y) / w) / (xx - (x * x) / w);
    return points.map((p) => y / w + slope * (p - x / w));
  }

  /** @param {string} text */
  say(text) {
    byId("edit-said").textContent = text;
  }

  async link() {
    const [address] = location.href.split("#");
    let hash = "";
    try {
      hash = await asHash(this.run, [...this.state.edits.values()]);
      await navigator.clipboard.writeText(`${address}#edits=${hash}`);
      this.say("The link is copied. It holds the edits; who opens it needs this page.");
    } catch {
      if (!hash) return this.say("This browser cannot make links of edits. Save them instead.");
      history.replaceState(null, "", `#edits=${hash}`);  // follows no link
      this.say("The link is in the address bar.");
    }
  }

  save() {
    const content = asFile(this.run, [...this.state.edits.values()]);
    const address = URL.createObjectURL(new Blob([content], { type: "application/json" }));
    h("a", { href: address, download: "edits.json" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
    this.say(`Saved. On the real run: nanogpkant edit ${this.run.run} --edits edits.json --out bent`);
  }

  /** @param {File} file */
  async open(file) {
    try {
      this.state.replace(fromFile(this.run, await file.text(), (edit) => this.catalogue.find(edit)));
    } catch (error) {
      this.say(/** @type {Error} */ (error).message);
    }
  }
}

/** A height in the picture that can be reached. @param {number} y */
function within(y) {
  return Math.max(BOX.top, Math.min(BOX.top + BOX.height, y));
}

/** A line through values at a shape's points. @param {Shape} shape @param {ArrayLike<number>} values */
function through({ points }, values) {
  const first = points[0], step = points[1] - points[0], last = points.length - 1;
  return (/** @type {number} */ x) => {
    const place = Math.max(0, Math.min(last, (x - first) / step)), low = Math.min(last - 1, Math.floor(place));
    return values[low] + (values[low + 1] - values[low]) * (place - low);
  };
}
