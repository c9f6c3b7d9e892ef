// The dialog that "/" opens: what is typed, and the places that it may mean.
import { el } from "./format.js";

const PAUSE_MS = 120,
  PATIENCE_MS = 5000;
const dialog = document.getElementById("palette");
const field = dialog.querySelector("input"),
  list = dialog.querySelector("[role=listbox]");
const told = dialog.querySelector("[role=status]");
/** @type {{kind: string, title: string, detail: string, url: string}[]} */
let places = [];
let chosen = 0,
  timer = 0,
  answered = "";
/** @type {AbortController | undefined} */
let asking;

function draw() {
  list.replaceChildren(
    ...places.map((place, i) =>
      el(
        "li",
        { role: "option", id: `place-${i}`, "aria-selected": String(i === chosen) },
        el("span", { class: "dim" }, place.kind),
        el("b", {}, place.title),
        el("span", { class: "soft" }, place.detail),
      ),
    ),
  );
  if (places.length) field.setAttribute("aria-activedescendant", `place-${chosen}`);
  else field.removeAttribute("aria-activedescendant");
  list.children[chosen]?.scrollIntoView({ block: "nearest" });
}

/** Asks the server what the text may mean; an answer to an earlier text is thrown away. */
async function ask() {
  asking?.abort();
  asking = new AbortController();
  const query = new URLSearchParams(location.search),
    kept = new URLSearchParams({ q: field.value.trim() });
  for (const name of ["cluster", "worker"]) if (query.get(name)) kept.set(name, query.get(name));
  try {
    const signal = AbortSignal.any([asking.signal, AbortSignal.timeout(PATIENCE_MS)]);
    const answer = await fetch(`${dialog.dataset.ask}?${kept}`, {
      headers: { Accept: "application/json" },
      signal,
    });
    if (!answer.ok) throw new Error(String(answer.status));
    places = (await answer.json()).results;
    answered = kept.get("q");
    chosen = 0;
    told.textContent = `${places.length} place${places.length === 1 ? "" : "s"}`;
    draw();
  } catch (error) {
    if (error.name !== "AbortError") told.textContent = "No answer: Enter asks again on a page of its own";
  }
}

/** @param {number} step */
function move(step) {
  if (!places.length) return;
  chosen = (chosen + step + places.length) % places.length;
  draw();
}

export function openPalette() {
  if (dialog.open) return;
  dialog.showModal();
  field.select();
  ask();
}

field.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(ask, PAUSE_MS);
});
field.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    move(event.key === "ArrowDown" ? 1 : -1);
  }
});
list.addEventListener("click", ({ target }) => {
  const at = [...list.children].indexOf(target.closest("[role=option]"));
  if (at >= 0) location.assign(places[at].url);
});
dialog.addEventListener("click", ({ target }) => {
  if (target === dialog) dialog.close();
});
// Sent before the places of the last letters are there, the form leads to their page.
dialog.querySelector("form").addEventListener("submit", (event) => {
  if (!places.length || answered !== field.value.trim()) return;
  event.preventDefault();
  location.assign(places[chosen].url);
});
