// Every chart of a page: asks for what they show, draws it, and asks again while their time ends now.
import { ages } from "./page.js";
import { Chart } from "./chart.js";

const PATIENCE_MS = 15_000,
  LEAST_MS = 10_000,
  MOST_MS = 300_000;

const MOST_CHARTS = 4;

/** The server's own reason. */
class Refused extends Error {}

const chunks = (list) =>
  Array.from({ length: Math.ceil(list.length / MOST_CHARTS) }, (_, i) =>
    list.slice(MOST_CHARTS * i, MOST_CHARTS * (i + 1)),
  );

/** Raises Refused with the server's reason. @param {Chart[]} some @param {boolean} hasMarks */
async function answer(query, some, hasMarks) {
  const asked = new URLSearchParams(query);
  for (const { figure } of some) asked.append("chart", figure.dataset.chart);
  asked.set("marks", String(hasMarks));
  const told = await fetch(`/api/v1/trends?${asked}`, {
    headers: { Accept: "application/json" },
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (told.status === 401) location.reload();
  const found = await told.json();
  if (!told.ok) throw new Refused(found.detail ?? `the server answered ${told.status}`);
  return found;
}

/** Charts of one query, which are asked for together. */
class Group {
  constructor(query) {
    Object.assign(this, { query, charts: [], isAsking: false, due: 0, every: LEAST_MS });
  }

  async ask() {
    if (this.isAsking) return;
    this.isAsking = true;
    const { query } = this;
    try {
      const parts = await Promise.all(chunks(this.charts).map((some, i) => answer(query, some, i === 0)));
      if (query === this.query) this.show(parts);
    } catch (error) {
      if (query === this.query) this.fail(error instanceof Refused ? error.message : "no answer");
    } finally {
      this.isAsking = false;
      this.due = performance.now() + this.every;
      if (query !== this.query) this.ask();
    }
  }

  /** The first part alone has the marks; a minute may have passed between two. */
  show(parts) {
    const [first] = parts;
    this.every = first.is_following
      ? Math.min(MOST_MS, Math.max(LEAST_MS, first.step_seconds * 250))
      : Infinity;
    for (const part of parts)
      for (const own of part.charts) {
        const chart = this.charts.find(({ figure }) => figure.dataset.chart === own.key);
        chart?.show({ ...part, marks: first.marks }, own);
        chart?.figure.removeAttribute("aria-busy");
      }
    document.dispatchEvent(new CustomEvent("charts", { detail: first }));
    this.heard();
  }

  /** What was drawn stays, and its age says so; where nothing was yet, the reason stands there. */
  fail(why) {
    for (const chart of this.charts) {
      chart.figure.removeAttribute("aria-busy");
      if (!chart.chart) chart.say(`Could not be loaded: ${why}`);
    }
    ages();
  }

  heard() {
    const badges = new Set(
      this.charts.map(({ figure }) => figure.closest(".panel, main")?.querySelector(".age[data-charts]")),
    );
    for (const badge of badges)
      if (badge)
        Object.assign(badge.dataset, {
          at: performance.now(),
          age: 0,
          every: Number.isFinite(this.every) ? this.every / 1000 : 1e9,
        });
    ages();
  }
}

const groups = new Map();
export const charts = [];

/** The time of all charts, anew. @param {(query: string) => string} change */
export function ask(change) {
  for (const group of groups.values()) {
    group.query = change(group.query);
    for (const { figure } of group.charts) figure.dataset.query = group.query;
    group.ask();
  }
}

function zoom(since, until) {
  document.dispatchEvent(new CustomEvent("chartzoom", { detail: { since, until } }));
}

for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const { query } = figure.dataset,
    chart = new Chart(figure, zoom);
  if (!groups.has(query)) groups.set(query, new Group(query));
  groups.get(query).charts.push(chart);
  charts.push(chart);
}
const redraw = () => {
  for (const chart of charts) chart.redraw();
};
document.addEventListener("themechange", redraw);
document.addEventListener("clockchange", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
for (const group of groups.values()) group.ask();
setInterval(() => {
  if (document.hidden) return;
  for (const group of groups.values()) if (performance.now() >= group.due) group.ask();
}, 1000);
