// Sparklines of the dashboard: the rates between the states that this tab has seen.
import { dur, num } from "./format.js";
import { sparkline } from "./sparkline.js";

const COUNTERS = ["consumed", "tasks_completed", "tasks_failed", "tasks_retried", "dead_letters"];
const POINTS = 150, GAP_MS = 15_000, SHARE = 0.95;
const place = `sparks ${new URLSearchParams(location.search).get("cluster") ?? ""} ${new URLSearchParams(location.search).get("worker") ?? ""}`;
/** @type {{at: number, counters: Object<string, ?number>, lag: ?number, counts: ?number[]}[]} */
let seen = [];
try { seen = JSON.parse(sessionStorage.getItem(place)) ?? []; } catch { seen = []; }
let bounds = null;

const sum = (workers, key) => workers.reduce((all, worker) => (worker[key] == null ? all : (all ?? 0) + worker[key]), null);
const rate = (a, b, key) => (a == null || b == null || a.counters[key] == null || b.counters[key] == null ? null : Math.max(0, b.counters[key] - a.counters[key]) / ((b.at - a.at) / 1000));

/** The bound below which that share of the messages between two states stayed, in ms. */
function latency(a, b) {
  if (!a?.counts || !b?.counts || !bounds) return null;
  const counts = b.counts.map((count, i) => Math.max(0, count - a.counts[i])), all = counts.reduce((x, y) => x + y, 0);
  let below = 0;
  for (let i = 0; all && i < counts.length; i++) { below += counts[i]; if (below >= SHARE * all) return (bounds[i] ?? bounds.at(-1)) * 1000; }
  return null;
}

function note(key, text) {
  const node = document.querySelector(`[data-note="${key}"]`);
  if (node) node.textContent = text;
}

function draw() {
  const pairs = seen.slice(1).map((now, i) => [seen[i], now]);
  const lines = Object.fromEntries(COUNTERS.map((key) => [key, pairs.map(([a, b]) => rate(a, b, key))]));
  lines.lag = seen.map((state) => state.lag);
  lines.latency = pairs.map(([a, b]) => latency(a, b));
  for (const [key, values] of Object.entries(lines)) {
    const known = values.filter((value) => value != null), node = document.querySelector(`[data-spark="${key}"]`);
    if (node && known.length > 1) sparkline(node, known);
  }
  const first = seen[0], newest = seen.at(-1);
  for (const key of COUNTERS) {
    const now = seen.length > 1 ? rate(first, newest, key) : null;
    note(key, now == null ? "" : `${Number(now.toPrecision(3))} a second`);
  }
  const slow = seen.length > 1 ? latency(first, newest) : null, figure = document.querySelector('[data-figure="latency"]');
  if (figure) figure.textContent = slow == null ? "unknown" : `< ${dur(slow)}`;
  note("latency", "consumed to fate");
  if (seen.length < 2 || first.lag == null || newest.lag == null) return;
  const falls = (first.lag - newest.lag) / ((newest.at - first.at) / 1000);
  note("lag", newest.lag === 0 ? "nothing waits" : falls > 0.05 ? `falling by ${Number(falls.toPrecision(3))} a second, drained in about ${dur((newest.lag / falls) * 1000)}` : falls < -0.05 ? `growing by ${Number((-falls).toPrecision(3))} a second` : `steady at ${num(newest.lag)}`);
}

document.addEventListener("figures", ({ detail }) => {
  const { workers, lag, latency: counted } = detail.dashboard, at = Date.parse(detail.at ?? new Date().toISOString());
  if (seen.length && at <= seen.at(-1).at) return;
  if (seen.length && at - seen.at(-1).at > GAP_MS) seen = [];
  bounds = counted?.bounds ?? null;
  seen.push({ at, counters: Object.fromEntries(COUNTERS.map((key) => [key, sum(workers, key)])), lag, counts: counted?.counts ?? null });
  seen = seen.slice(-POINTS);
  sessionStorage.setItem(place, JSON.stringify(seen));
  draw();
});
document.addEventListener("refreshed", draw);
