/** The tour: five steps, each beside what it is about. */

import { byId, h } from "./dom.js";

/** @type {[string, string, string, string][]} title, words, element, tab */
const STEPS = [
  ["The model writes", "A small language model runs here, in this page. It writes one token after another, each drawn from what it holds likely. The warmer a character's colour, the less the model expected it.", "text", "why"],
  ["Choose a character", "Click one, or move the slider. The bars show what the model thought might come there. Choose a bar, and the text goes on with that one.", "next", "why"],
  ["Why this one?", "The curves that pushed this character up or down the most, where every attention head looked, and the hidden units behind it.", "why", "why"],
  ["Bend a curve", "In a KAN, what is learned is curves. Drag a point, or replace a whole curve by a line: the text and the loss answer at once. Undo brings it back, and Compare shows the text before.", "editor", "functions"],
  ["Find your way", "The map has every function of the model, darker where it matters more. Under Learning is how they took shape in training. Save what you bent, and nanogpkant edit applies it to the real model.", "finder", "functions"],
];

/** @param {(tab: string) => void} openTab */
export function makeTour(openTab) {
  const place = byId("tour");
  /** @type {HTMLElement | null} */
  let lit = null;
  let asked = /** @type {HTMLElement | null} */ (null);
  const close = () => {
    lit?.classList.remove("lit");
    place.hidden = true;
    asked?.focus();
  };
  const show = (/** @type {number} */ index) => {
    const [title, words, id, tab] = STEPS[index];
    openTab(tab);
    lit?.classList.remove("lit");
    lit = byId(id);
    lit?.classList.add("lit");
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    lit?.scrollIntoView({ block: lit.offsetHeight > innerHeight / 2 ? "start" : "center", behavior: calm ? "auto" : "smooth" });
    const isLast = index === STEPS.length - 1;
    const forth = h("button", { type: "button", class: "main", click: () => (isLast ? close() : show(index + 1)) }, isLast ? "Start" : "Next");
    place.replaceChildren(
      h("p", { class: "quiet" }, `${index + 1} of ${STEPS.length}`), h("h2", { id: "tour-title" }, title), h("p", {}, words),
      h("div", { class: "buttons" }, h("button", { type: "button", click: close }, "Close"),
        index > 0 && h("button", { type: "button", click: () => show(index - 1) }, "Back"), forth));
    place.hidden = false;
    forth.focus({ preventScroll: true });
  };
  place.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => event.key === "Escape" && close());
  byId("tour-start").addEventListener("click", () => {
    asked = /** @type {HTMLElement} */ (document.activeElement);
    show(0);
  });
}
