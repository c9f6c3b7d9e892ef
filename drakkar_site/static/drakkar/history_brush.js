// Bars of the history: drawing over several chooses their time; one alone is a link.
const bars = document.getElementById("bars");
const links = [...(bars?.querySelectorAll("a") ?? [])];
/** @type {?number} place of the bar where drawing began */
let from = null;
let to = 0;

/** Place of the bar under a pointer, by its share of the width. */
function placeOf(event) {
  const box = bars.getBoundingClientRect();
  const share = (event.clientX - box.left) / box.width;
  return Math.max(0, Math.min(links.length - 1, Math.floor(share * links.length)));
}

function mark() {
  links.forEach((link, i) =>
    link.classList.toggle("chosen", from != null && i >= Math.min(from, to) && i <= Math.max(from, to)),
  );
}

function end() {
  if (from == null || from === to) {
    from = null;
    mark();
    return;
  }
  const url = new URL(location.href);
  url.searchParams.set("since", links[Math.min(from, to)].dataset.since);
  url.searchParams.set("until", links[Math.max(from, to)].dataset.until);
  for (const name of ["older", "newer"]) url.searchParams.delete(name);
  from = null;
  location.assign(url);
}

bars?.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  from = to = placeOf(event);
});
bars?.addEventListener("dragstart", (event) => event.preventDefault());
addEventListener("pointermove", (event) => {
  if (from != null) {
    to = placeOf(event);
    mark();
  }
});
addEventListener("pointerup", end);
bars?.addEventListener("click", (event) => {
  if (bars.querySelector(".chosen")) event.preventDefault();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    from = null;
    mark();
  }
});
