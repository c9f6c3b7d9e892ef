// The page of trends: a brush zooms, the URL holds the time, back goes back.
import { ask, charts } from "./charts.js";
import { within, zoomed } from "./chart-model.js";
import { refresh } from "./panels.js";
import { typing } from "./page.js";

const KEPT = "trends-marks-off";
const hidden = new Set(JSON.parse(localStorage.getItem(KEPT) ?? "[]"));
let latest = null;

/** Shows another time: the heading and the filters come from the server, the charts ask for themselves. */
function goTo(query, isNew = true) {
  if (isNew) history.pushState(null, "", `?${query}`);
  refresh();
  ask(() => query.toString());
}
const zoom = (since, until) => goTo(within(location.search, since, until));
document.addEventListener("chartzoom", ({ detail }) => zoom(detail.since, detail.until));
addEventListener("popstate", () => goTo(new URLSearchParams(location.search), false));

for (const chart of charts) chart.hiddenMarks = hidden;
document.addEventListener("charts", ({ detail }) => {
  latest = detail;
});
for (const box of document.querySelectorAll("input[data-marks]")) {
  box.checked = !hidden.has(box.dataset.marks);
  box.addEventListener("change", () => {
    if (box.checked) hidden.delete(box.dataset.marks);
    else hidden.add(box.dataset.marks);
    localStorage.setItem(KEPT, JSON.stringify([...hidden]));
    for (const chart of charts) chart.redraw();
  });
}

addEventListener("keydown", (event) => {
  if (typing(event) || !latest) return;
  const chart = charts.find(({ place }) => place === document.activeElement);
  const middle = chart?.at == null ? latest.until : latest.at[chart.at];
  if (event.key === "+" || event.key === "=") zoom(...zoomed(latest.since, latest.until, middle, 0.5));
  else if (event.key === "-") zoom(...zoomed(latest.since, latest.until, middle, 2));
  else return;
  event.preventDefault();
});
