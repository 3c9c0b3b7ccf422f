/** The page: its parts, and what follows from what. */

import { Engine } from "./client.js";
import { byId, grouped, h } from "./dom.js";
import { Editor } from "./editor.js";
import { Finder } from "./find.js";
import { Learning } from "./learn.js";
import { Catalogue } from "./shapes.js";
import { State, fromFile, fromHash } from "./state.js";
import { makeTokenizer } from "./tokenizer.js";
import { makeTour } from "./tour.js";
import { Tensors, fromBase64 } from "./unpack.js";
import { Why } from "./why.js";
import { Writing } from "./writer.js";

const TABS = ["why", "functions", "learning"];

/** @param {string} problem */
function fail(problem) {
  byId("problem").hidden = false;
  byId("problem").textContent = `Something went wrong: ${problem}`;
}

/** @param {string} name */
function openTab(name) {
  for (const each of TABS) {
    const tab = byId(`tab-${each}`), isOpen = each === name;
    tab.setAttribute("aria-selected", String(isOpen));
    tab.tabIndex = isOpen ? 0 : -1;
    byId(each).hidden = !isOpen;
  }
}

function makeTabs() {
  TABS.forEach((name, index) => {
    const tab = byId(`tab-${name}`);
    tab.addEventListener("click", () => openTab(name));
    tab.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const next = TABS[(index + by + TABS.length) % TABS.length];
      openTab(next);
      byId(`tab-${next}`).focus();
    });
  });
}

function makeTheme() {
  const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => (byId("theme").textContent = isDark() ? "Light" : "Dark");
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    name();
  });
  name();
}

/** @param {any} run */
function facts(run) {
  const { model, functions } = run, heads = functions.curves.reduce((/** @type {number} */ n, /** @type {any} */ c) => n + c.importance.length, 0);
  const shared = functions.layers.filter((/** @type {any} */ l) => l.kind === "shared").reduce((/** @type {number} */ n, /** @type {any} */ l) => n + l.importance.length, 0);
  const edges = functions.layers.filter((/** @type {any} */ l) => l.kind === "edge").reduce((/** @type {number} */ n, /** @type {any} */ l) => n + l.inputs * l.outputs, 0);
  const said = [
    `${grouped(run.parameters)} parameters`, `${model.blocks.length} blocks of ${model.width}`,
    heads && `${heads} curves of distance`, shared && `${grouped(shared)} shared functions`, edges && `${grouped(edges)} edges`,
    !(heads || shared || edges) && "no learned functions", `trained for ${grouped(run.step)} steps on ${run.dataset}`,
  ];
  byId("facts").textContent = said.filter(Boolean).join(" · ");
}

async function start() {
  const run = JSON.parse(byId("run").textContent), bytes = fromBase64(byId("weights").textContent);
  byId("weights").remove();
  makeTabs();
  makeTheme();
  facts(run);
  const tensors = new Tensors(run.tensors, bytes), catalogue = new Catalogue(run, tensors), state = new State();
  const engine = new Engine(byId("engine").textContent, { recipe: run.model, table: run.tensors, bytes, text: run.text }, fail);
  const tokenizer = makeTokenizer(run.tokenizer);
  if (tokenizer.unit !== "character") {
    byId("position-name").textContent = `${tokenizer.unit === "byte" ? "Byte" : "Token"} under study`;
    byId("tab-why").textContent = `Why this ${tokenizer.unit}`;
    byId("next").classList.add("long");
  }

  const why = new Why(byId("why"), catalogue, tokenizer, state, (shape) => openShape(shape));
  const text = new Writing(run, tokenizer, engine, state, (position) => study(position));
  state.listen(() => {  // first of all: the worker begins while the page is drawn
    engine.ask("edits", { edits: state.active });
    measure();
    text.write(text.given ? text.ids.slice(0, text.given) : null);
  });
  const places = byId("functions");
  places.replaceChildren(h("div", { id: "editor" }), h("div", { id: "finder" }));
  const editor = new Editor(byId("editor"), run, catalogue, state, () => text.again());
  const finder = new Finder(byId("finder"), catalogue, state, (shape) => openShape(shape));
  new Learning(byId("learning"), run, catalogue);
  makeTour(openTab);

  let plain = run.loss.packed;  // the loss without edits
  /** @type {any} */
  let found = null;
  /** What came next without edits, by the text up to it. @type {Map<string, [number, number][]>} */
  const unedited = new Map();

  /** @param {import("./shapes.js").Shape} shape */
  function openShape(shape) {
    openTab("functions");
    editor.show(shape);
    finder.mark(shape);
    mark();
    byId("editor").scrollIntoView({ block: byId("editor").offsetHeight > innerHeight ? "start" : "nearest" });
    byId("editor-title").focus({ preventScroll: true });
  }

  /** Show where the studied character's inputs lie on the open curve. */
  function mark() {
    const { shape } = editor;
    const of = shape && found?.functions.find((/** @type {any} */ each) => catalogue.id(each) === shape.id);
    editor.study(of?.xs ?? []);
  }

  /** @param {number} position */
  async function study(position) {
    const ids = text.ids.slice(), isEdited = state.active.length > 0;
    const next = await engine.ask("study", { ids, position, wanted: ids[position] ?? null });
    if (!next) return;
    found = next;
    const key = ids.slice(0, position).join(" ");
    if (!isEdited) unedited.set(key, next.likely);
    text.bars(next, ids, isEdited ? unedited.get(key) ?? [] : []);
    why.show(next, ids);
    mark();
  }

  async function measure() {
    const isEdited = state.active.length > 0, answer = await engine.ask("loss");
    if (!answer) return;
    if (!isEdited) plain = answer.loss;
    text.losses(answer.loss, plain);
  }

  document.addEventListener("keydown", (event) => {
    const isField = /** @type {Element} */ (event.target).matches("input:not([type=range]), textarea, select");
    if (isField || !(event.ctrlKey || event.metaKey)) return;
    if (event.key.toLowerCase() === "z" && !event.shiftKey) state.step(-1);
    else if (["y", "z"].includes(event.key.toLowerCase())) state.step(1);
    else return;
    event.preventDefault();
  });

  const first = [...catalogue.shapes.values()].sort((a, b) => b.importance - a.importance)[0];
  if (first) {
    editor.show(first);
    finder.mark(first);
  } else byId("editor").replaceChildren(h("p", {}, "This run has no learned functions to bend: it is a plain GPT. Train one that has them: nanogpkant train quickstart_kan."));
  text.losses(plain, plain);
  /** Follow the address: to a function, or to edits. */
  async function follow() {
    const hash = new URLSearchParams(location.hash.slice(1)), id = hash.get("function"), edits = hash.get("edits");
    const named = id === null ? null : catalogue.named(id);
    if (named) openShape(named);
    else if (id !== null) fail(`this model has no function ${id}.`);
    if (edits === null) return;
    try {
      state.replace(fromFile(run, await fromHash(edits), (edit) => catalogue.find(edit)));
      const edited = catalogue.shapes.get([...state.edits.keys()][0]);
      if (edited) openShape(edited);
    } catch (error) {
      fail(`the edits in this link cannot be used. ${/** @type {Error} */ (error).message}`);
    }
  }

  await text.write();
  await measure();
  await follow();
  addEventListener("hashchange", () => {
    byId("problem").hidden = true;
    follow();
  });
  document.documentElement.dataset.ready = "yes";
}

addEventListener("unhandledrejection", ({ reason }) => fail(String(reason)));
start();
