"use strict";

// A click on a heading sorts its table by that column, a second one the other way round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th"), body = button.closest("table").tBodies[0];
    const [first, second] = button.closest("main").dataset.firstSort === "ascending"
      ? ["ascending", "descending"] : ["descending", "ascending"];
    const column = heading.cellIndex, order = heading.ariaSort === first ? second : first;
    const value = row => row.cells[column].dataset.value;
    const compare = (a, b) => {
      const x = Number(value(a).replace("inf", "Infinity")), y = Number(value(b).replace("inf", "Infinity"));
      return Number.isNaN(x) || Number.isNaN(y) ? value(a).localeCompare(value(b)) : x < y ? -1 : Number(x > y);
    };
    body.append(...[...body.rows].sort((a, b) => (order === "ascending" ? 1 : -1) * compare(a, b)));
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
  });
}

// A checkbox of a legend shows and hides its line, in all charts.
for (const box of document.querySelectorAll("[data-variant]")) {
  box.addEventListener("change", () => {
    const number = box.dataset.variant;
    for (const part of document.querySelectorAll(`[id$="-v${number}-line"], [id$="-v${number}-band"]`))
      part.style.display = box.checked ? "" : "none";
    for (const same of document.querySelectorAll(`[data-variant="${number}"]`)) same.checked = box.checked;
  });
}

// What a place says: beside the pointer, or below the element that has the focus.
const tip = document.getElementById("tip");
const show = (text, x, y) => {
  tip.textContent = text;
  tip.hidden = false;
  tip.style.left = `${Math.max(4, Math.min(x, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.min(y, innerHeight - tip.offsetHeight - 4)}px`;
};
const hide = () => { tip.hidden = true; };
document.addEventListener("keydown", event => event.key === "Escape" && hide());
const explain = button => {
  const box = button.getBoundingClientRect();
  show(document.getElementById(button.getAttribute("aria-describedby")).textContent, box.left, box.bottom + 6);
};
document.addEventListener("scroll", () => {  // also where the focus scrolls into sight; Escape is final
  const { activeElement } = document;
  if (!tip.hidden && activeElement.matches("th button[aria-describedby]")) explain(activeElement);
  else hide();
}, true);
for (const button of document.querySelectorAll("th button[aria-describedby]")) {
  for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => explain(button));
  for (const event of ["pointerleave", "blur"]) button.addEventListener(event, hide);
}
const share = (event, element) => {
  const box = element.getBoundingClientRect(), inside = value => Math.min(Math.max(value, 0), 0.9999);
  return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
};
for (const map of document.querySelectorAll(".map > img")) {
  let values = null;
  map.addEventListener("pointermove", event => {
    values ??= JSON.parse(map.dataset.values);
    const [across, down] = share(event, map);
    const part = (at, cells, count) => {
      const cell = Math.floor(at * cells), first = Math.floor(cell * count / cells);
      const last = Math.floor((cell + 1) * count / cells);
      return last - first > 1 ? `ranks ${first + 1} to ${last}` : `rank ${first + 1}`;
    };
    const row = Math.floor(down * values.length), column = Math.floor(across * values[0].length);
    show(`inputs of ${part(across, values[0].length, map.dataset.columns)}, ` +
      `outputs of ${part(down, values.length, map.dataset.rows)}: ${values[row][column]}`, event.clientX + 12, event.clientY + 14);
  });
  map.addEventListener("pointerleave", hide);
}
for (const card of document.querySelectorAll(".card")) {
  const picture = card.querySelector("svg");
  picture.addEventListener("pointermove", event => {
    const x = card.dataset.x.split(" ").map(Number), y = card.dataset.y.split(" ");
    const [across] = share(event, picture), at = x[0] + across * (x.at(-1) - x[0]);
    const away = x.map(each => Math.abs(each - at)), nearest = away.indexOf(Math.min(...away));
    show(`φ(${x[nearest]}) = ${y[nearest]}; ${picture.ariaLabel}`, event.clientX + 12, event.clientY + 14);
  });
  picture.addEventListener("pointerleave", hide);
}

// Search and filters show the cards and rows that have all words; sections without one go.
const find = document.getElementById("find");
if (find) {
  const plain = text => text.toLowerCase().replace(/\s*(→|->)\s*/g, "→");
  const sections = [...document.querySelectorAll("section[data-searched]")].map(section => ({
    section,
    entry: document.querySelector(`#contents a[href="#${section.id}"]`).parentElement,
    items: [...section.querySelectorAll(".card, tbody tr")].map(item => ({ item, text: plain(`${section.id} ${item.textContent}`) })),
  }));
  const look = () => {
    const words = plain(find.search.value).split(/\s+/).filter(Boolean);
    const chosen = [...find.querySelectorAll("select")].filter(each => each.value);
    let found = 0;
    for (const { section, entry, items } of sections) {
      let own = 0;
      for (const { item, text } of items) {
        const fits = words.every(word => text.includes(word)) && chosen.every(({ name, value }) => item.dataset[name] === value);
        item.hidden = !fits;
        own += fits;
      }
      section.hidden = entry.hidden = own === 0;
      found += own;
      const folded = section.querySelector(".folded");
      if (folded && own && words.length + chosen.length) folded.open = true;
    }
    document.getElementById("found").textContent = !(words.length + chosen.length) ? ""
      : found ? `${found.toLocaleString("en")} found` : "Nothing is like that: clear the search.";
  };
  find.addEventListener("input", look);
  find.addEventListener("submit", event => event.preventDefault());
}

// A link into a folded section opens it; on a small screen the contents begin folded.
const unfold = () => {
  const folded = document.getElementById(location.hash.slice(1))?.querySelector(".folded");
  if (folded) folded.open = true;
};
addEventListener("hashchange", unfold);
unfold();
if (innerWidth <= 900) document.getElementById("contents").open = false;
