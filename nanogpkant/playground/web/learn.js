/** Watching it learn: the losses, and the functions at every checkpoint that was kept. */

import { path, scales, ticks } from "./chart.js";
import { digits, grouped, h, svg } from "./dom.js";

const WIDTH = 640, HEIGHT = 200, BOX = { left: 44, top: 12, width: 570, height: 156 };  // of the losses

export class Learning {
  /** @param {HTMLElement} place @param {any} run @param {import("./shapes.js").Catalogue} catalogue */
  constructor(place, run, catalogue) {
    const { history } = run;
    this.history = history;
    this.marker = svg("path", { class: "marker" });
    const hasSteps = history.steps.length > 1;
    this.slider = h("input", { type: "range", id: "step", min: 0, max: Math.max(0, history.steps.length - 1), value: history.steps.length - 1, input: () => this.show() });
    this.said = h("output", { for: "step" });
    this.play = h("button", { type: "button", click: () => this.run() }, "Play");
    this.cells = hasSteps ? this.curves(catalogue) : [];
    const plain = "This run kept one checkpoint. One trained with --train.eval_interval 50 --train.keep_every 50 has a slider here, over its functions as they took shape.";
    place.replaceChildren(h("h3", {}, "Loss"), this.losses(run), ...(hasSteps ? [
      h("div", { class: "controls" }, h("label", { class: "grow" }, "Checkpoint ", this.said, this.slider), this.play),
      h("p", { class: "quiet" }, "Every curve as it was at this step; faint is the first checkpoint."),
      h("ul", { class: "cards small-cards" }, this.cells.map(({ element }) => element)),
    ] : [h("p", { class: "quiet" }, plain)]));
    if (hasSteps) this.show();
  }

  /** @param {any} run */
  losses(run) {
    const { train, val } = run.history.losses, all = [...train, ...val];
    if (!all.length) return h("p", { class: "quiet" }, "This run has no record of its losses.");
    const last = Math.max(...all.map(([step]) => step), 1);
    const values = all.map(([, loss]) => loss), low = Math.min(...values), high = Math.max(...values) + 1e-9;
    const x = (this.x = (/** @type {number} */ step) => BOX.left + (BOX.width * step) / last);
    const y = (/** @type {number} */ loss) => BOX.top + (BOX.height * (high - loss)) / (high - low);
    const line = (/** @type {[number, number][]} */ rows) => rows.map(([step, loss], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`).join("");
    return h("div", {}, svg("svg", { class: "big", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Loss from ${digits(high)} to ${digits(values[values.length - 1])} over ${last} steps` },
      ticks(low, high, 4).map((t) => [svg("path", { class: "tick", d: `M${BOX.left} ${y(t).toFixed(1)}h${BOX.width}` }),
        svg("text", { class: "number", x: BOX.left - 6, y: y(t) + 4, "text-anchor": "end" }, digits(t))]).flat(),
      ticks(0, last, 6).map((t) => svg("text", { class: "number", x: x(t), y: HEIGHT - 14, "text-anchor": "middle" }, grouped(t))),
      svg("path", { class: "train", d: line(train) }), svg("path", { class: "curve", d: line(val) }),
      val.map((/** @type {[number, number]} */ [step, loss]) => svg("circle", { class: "val", cx: x(step), cy: y(loss), r: 2.5 })),
      this.marker),
    h("p", { class: "legend" }, h("span", { class: "key now" }, "validation text"), h("span", { class: "key trained" }, "training text"), h("span", { class: "quiet" }, "nats per token, by step")));
  }

  /** @param {import("./shapes.js").Catalogue} catalogue */
  curves({ shapes, tensors }) {
    const { history } = this, cells = [];
    /** @type {Record<string, number>} */
    const rows = {};
    for (const shape of shapes.values()) {
      const number = history.values[shape.layer];
      if (number === undefined || cells.length >= 96) continue;
      const [steps, count, points] = tensors.shape(number), row = (rows[shape.layer] = (rows[shape.layer] ?? -1) + 1);
      const all = tensors.get(number), at = (/** @type {number} */ step) => all.subarray((step * count + row) * points, (step * count + row + 1) * points);
      const [first, last] = [shape.controls[0], shape.controls[shape.controls.length - 1]];
      const line = (/** @type {number} */ step) => {
        const values = at(step);
        return (/** @type {number} */ x) => {
          let place = ((x - first) / (last - first)) * (points - 1);
          if (shape.kind === "distance") {
            const { distances } = history, d = Math.min(x, distances[distances.length - 1]);
            const high = Math.max(1, distances.findIndex((/** @type {number} */ each) => each >= d));
            place = high - 1 + (d - distances[high - 1]) / (distances[high] - distances[high - 1]);
          }
          const low = Math.max(0, Math.min(points - 2, Math.floor(place)));
          return values[low] + (values[low + 1] - values[low]) * Math.max(0, Math.min(1, place - low));
        };
      };
      let least = Infinity, most = -Infinity;
      for (let step = 0; step < steps; step++)
        for (const value of at(step)) [least, most] = [Math.min(least, value), Math.max(most, value)];
      if (shape.kind === "distance") least = Math.max(least, most - 14);
      const scale = scales(shape, [least, Math.max(most, least + 1e-6)], { left: 4, top: 5, width: 152, height: 58 });
      const curve = svg("path", { class: "curve" });
      const picture = svg("svg", { class: "mini", viewBox: "0 0 160 68", "aria-hidden": "true" },
        svg("path", { class: "ghost", d: path(shape, line(0), scale, 49) }), curve);
      const element = h("li", { class: "card" }, h("strong", {}, `Block ${shape.block} · ${shape.name}`), h("span", { class: "quiet" }, shape.site), picture);
      cells.push({ element, draw: (/** @type {number} */ step) => curve.setAttribute("d", path(shape, line(step), scale, 49)) });
    }
    return cells;
  }

  show() {
    const index = Number(this.slider.value), step = this.history.steps[index];
    this.said.textContent = `step ${grouped(step)}`;
    this.slider.setAttribute("aria-valuetext", `step ${step}`);
    for (const { draw } of this.cells) draw(index);
    if (this.x) this.marker.setAttribute("d", `M${this.x(step)} ${BOX.top}v${BOX.height}`);
  }

  run() {
    if (this.timer) {
      clearInterval(this.timer);
      this.timer = 0;
      this.play.textContent = "Play";
      return;
    }
    if (this.slider.value === this.slider.max) this.slider.value = 0;
    this.play.textContent = "Pause";
    this.show();
    this.timer = window.setInterval(() => {
      this.slider.value = Number(this.slider.value) + 1;
      this.show();
      if (this.slider.value === this.slider.max) this.run();
    }, 350);
  }
}
