/** The text: writing it, colouring it by surprise, choosing a character, and what may come next. */

import { byId, grouped, h, percent, signed } from "./dom.js";
import { shown } from "./tokenizer.js";

/** @typedef {import("./tokenizer.js").Tokenizer} Tokenizer */

export class Writing {
  /**
   * @param {any} run
   * @param {Tokenizer} tokenizer
   * @param {import("./client.js").Engine} engine
   * @param {import("./state.js").State} state
   * @param {(position: number) => void} choose
   */
  constructor(run, tokenizer, engine, state, choose) {
    this.run = run;
    this.tokenizer = tokenizer;
    this.engine = engine;
    this.state = state;
    this.choose = choose;
    /** @type {number[]} */
    this.ids = [];
    /** @type {number[]} */
    this.shares = [];
    this.given = 0;  // tokens of the prompt
    this.position = 0;
    /** The text without edits, and what it was asked with. @type {{key: string, ids: number[]}} */
    this.before = { key: "", ids: [] };
    this.key = "";
    this.isWriting = false;
    const prompt = byId("prompt");
    prompt.value = run.prompt;
    byId("go").addEventListener("click", () => (this.isWriting ? this.stop() : this.write()));
    prompt.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.write();
    });
    const showTemperature = () => (byId("temperature-shown").textContent = Number(byId("temperature").value).toFixed(2));
    byId("temperature").addEventListener("input", showTemperature);
    showTemperature();  // which a reload may have kept
    for (const name of ["temperature", "top-k", "seed", "length"])
      byId(name).addEventListener("change", () => this.write());
    const place = byId("text");
    place.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      const at = /** @type {HTMLElement} */ (event.target).dataset?.at;
      if (at) this.select(Number(at));
    });
    place.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      this.select(this.position + by);
      byId("text").children[this.position]?.scrollIntoView({ block: "nearest" });
    });
    byId("position").addEventListener("input", () => this.select(Number(byId("position").value)));
  }

  /** The prompt's tokens, or null where the model cannot read it. */
  prompt() {
    const text = byId("prompt").value || this.run.prompt;
    try {
      const ids = this.tokenizer.encode(text);
      byId("speed").textContent = "";
      byId("speed").classList.remove("wrong");
      return ids;
    } catch (error) {
      byId("speed").textContent = /** @type {Error} */ (error).message;
      byId("speed").classList.add("wrong");
      return null;
    }
  }

  /** Write anew, from the prompt or from the first tokens of the text. @param {number[] | null} [from] */
  async write(from = null) {
    const prompt = from ?? this.prompt();
    if (!prompt) return;
    const number = (/** @type {string} */ id, /** @type {number} */ least, /** @type {number} */ most) =>
      Math.max(least, Math.min(most, Number(byId(id).value) || 0));
    const count = Math.round(number("length", 1, 4000));
    const settings = { temperature: number("temperature", 0, 1.5), topK: Math.round(number("top-k", 0, 1e5)), seed: number("seed", 0, 2 ** 32 - 1) };
    const key = (this.key = JSON.stringify([prompt, count, settings])), ids = (this.ids = [...prompt]);
    this.shares = prompt.map(() => NaN);
    this.given = prompt.length;
    byId("text").replaceChildren();
    this.isWriting = true;
    byId("go").textContent = "Stop";
    const part = (/** @type {any} */ { tokens, shares }) => {
      if (this.ids !== ids) return;  // of a text that was given up
      this.ids.push(...tokens);
      this.shares.push(...shares);
      this.show();
    };
    const done = await this.engine.ask("write", { ids: prompt, count, ...settings }, part);
    if (!done || this.ids !== ids) return;
    part(done);
    this.ended();
    byId("speed").textContent = `${Math.round((1000 * count) / done.milliseconds).toLocaleString("en")} ${this.tokenizer.unit}s a second${done.isCompiled ? "" : ", without WebAssembly, which this browser lacks"}`;
    if (!this.state.active.length) this.before = { key, ids };
    if (!this.position || this.position >= this.ids.length) this.select(Math.min(this.ids.length - 1, this.given + 45));
    else this.choose(this.position);
  }

  stop() {
    this.engine.stop("write");
    this.ended();
    if (this.ids.length > 1) this.select(this.position || this.ids.length - 1);
  }

  ended() {
    this.isWriting = false;
    byId("go").textContent = "Write";
  }

  /** @param {number} position */
  select(position) {
    this.position = Math.max(1, Math.min(this.ids.length - 1, position));
    this.show();
    this.choose(this.position);
  }

  /** Show what was written since the last time, and which token is chosen. */
  show() {
    const { ids, shares, position, before } = this, pieces = this.tokenizer.pieces(ids), place = byId("text");
    const changed = this.state.active.length && before.key === this.key ? ids.findIndex((id, i) => id !== before.ids[i]) : -1;
    for (let i = place.children.length; i < ids.length; i++) {
      const span = h("span", { "data-at": i, class: i < this.given ? "given" : null }, pieces[i]);
      if (shares[i] < 0.5) span.style.setProperty("--surprise", `${Math.min(60, Math.round(-9 * Math.log(shares[i])))}%`);
      place.append(span);
    }
    place.querySelector(".chosen")?.classList.remove("chosen");
    place.children[position || ids.length]?.classList.add("chosen");
    if (changed >= 0 && !place.querySelector(".turn")) {
      place.children[changed].classList.add("turn");
      place.children[changed].title = "from here on the text differs from that before the edits";
    }
    for (const copy of document.querySelectorAll(".shown-text"))
      copy.textContent = pieces.slice(this.given, this.given + 160).join("");
    const slider = byId("position");
    slider.max = Math.max(1, ids.length - 1);
    slider.value = position;
    byId("position-shown").textContent = position < pieces.length && position ? `${position} of ${ids.length - 1}: ‘${shown(pieces[position] ?? "")}’` : "";
    slider.setAttribute("aria-valuetext", `${position}, ${shown(pieces[position] ?? "")}`);
  }

  /**
   * The bars of the next character; those before the edits beside them.
   * @param {any} found what `study` gave
   * @param {number[]} ids of which text
   * @param {[number, number][]} unedited
   */
  bars(found, ids, unedited) {
    const old = new Map(unedited), chosen = ids[found.position];
    byId("next").replaceChildren(...found.likely.map((/** @type {[number, number]} */ [token, share]) => {
      const [piece] = this.tokenizer.pieces([token]), was = old.get(token);
      const bar = h("button", {
        type: "button", class: token === chosen ? "bar chosen" : "bar", title: "continue with this one",
        "aria-label": `${shown(piece)}, ${percent(share)}${was === undefined ? "" : `, before the edits ${percent(was)}`}: continue with it`,
        click: () => {
          this.position = found.position;
          this.write([...ids.slice(0, found.position), token]);
        },
      }, h("b", {}, shown(piece)), h("i", {}, h("u", {}), was !== undefined && h("s", {})), h("span", {}, percent(share)));
      bar.querySelector("u").style.width = `${100 * share}%`;
      if (was !== undefined) bar.querySelector("s").style.left = `${100 * was}%`;
      return bar;
    }));
  }

  /** What rounding the weights costs, in words. */
  cost() {
    const { loss: { packed, exact }, weights } = this.run, difference = packed - exact;
    return Math.abs(difference) < 5e-6 ? `exact in ${weights}` : `${signed(difference, 2)} by ${weights} weights`;
  }

  /** Show the text and the loss again, where they are shown anew. */
  again() {
    for (const place of document.querySelectorAll(".shown-losses"))
      place.replaceChildren(...byId("losses").cloneNode(true).childNodes);
    this.show();
  }

  /** @param {number} now @param {number} exact of the page's weights without edits */
  losses(now, exact) {
    const difference = now - exact, isEdited = this.state.active.length > 0;
    for (const place of document.querySelectorAll("#losses, .shown-losses")) place.replaceChildren(h("p", {},
      h("span", { title: "mean, in nats per token; lower is better" }, `Loss on ${grouped(this.run.text.length - 1)} tokens of text `, h("b", {}, now.toFixed(4))),
      isEdited && h("span", { class: difference > 0 ? "worse" : "better" }, ` ${signed(difference, 2)} by ${this.state.active.length} edit${this.state.active.length > 1 ? "s" : ""}`),
      !isEdited && h("span", { class: "quiet", title: "what rounding the weights for this page costs" }, ` ${this.cost()}`)));
  }
}
