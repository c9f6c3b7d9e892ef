// What a chart says, without the page it stands on: figures in their unit, colours, marks near a place, where zooming leads.
import { bytes, dur, num } from "./format.js";

const HUES = 8;
/** Statuses that a series is drawn in, so that failed is red here as everywhere. */
const STATUSES = new Set([
  "running",
  "completed",
  "failed",
  "waiting",
  "retrying",
  "dead_lettered",
  "paused",
]);

/** Three significant digits, no exponent. @param {number} n */
const plain = (n) => Number(n.toPrecision(3)).toLocaleString("en-US", { maximumFractionDigits: 12 });

/** @type {Record<string, (n: number) => string>} */
const SAID = {
  "per second": (n) => `${plain(n)}/s`,
  "per minute": (n) => `${plain(n)}/min`,
  ms: dur,
  bytes,
  "bytes per second": (n) => `${bytes(n)}/s`,
  cores: (n) => `${plain(n)} cores`,
  messages: num,
  tasks: plain,
};

/** A figure in its unit; unknown is no zero. @param {?number} n @param {string} unit */
export const said = (n, unit) => (n == null ? "unknown" : (SAID[unit] ?? plain)(n));

const SHORT = [
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];
const brief = (_, most, unit, least, small) => `${most}${unit}${least ? ` ${least}${small}` : ""}`;

/** A figure on an axis, in some ten characters. @param {number} n @param {string} unit */
export function onAxis(n, unit) {
  if (n === 0) return "0";
  if (unit === "ms")
    return n < 59950 ? dur(n) : dur(n).replace(/^(\d+) (m|h)(?:in)? (?:00|(\d\d)) (s|m)(?:in)?$/, brief);
  if (unit.startsWith("bytes")) return bytes(n).replace(" bytes", " B");
  const [size, letter] = SHORT.find(([least]) => Math.abs(n) >= least) ?? [1, ""];
  return `${plain(n / size)}${letter}`;
}

/** The custom property a series is drawn in; beyond the hues they are grey. @param {{status: ?string}} series @param {number} place */
export function hue(series, place) {
  if (STATUSES.has(series.status)) return `--${series.status}`;
  return place < HUES ? `--k${place + 1}` : "--waiting";
}

/** Least, mean and most of what is known; null without anything. @param {(?number)[]} values */
export function span(values) {
  const known = values.filter((each) => each != null);
  if (!known.length) return null;
  return {
    least: Math.min(...known),
    mean: known.reduce((sum, each) => sum + each, 0) / known.length,
    most: Math.max(...known),
  };
}

/** Values that have no neighbour: a line does not show them. @param {(?number)[]} values */
export const alone = (values) =>
  [...values.keys()].filter((i) => values[i] != null && values[i - 1] == null && values[i + 1] == null);

/** Index of the last known value of any series, or the last. @param {{values: (?number)[]}[]} series @param {number} count */
export function newest(series, count) {
  for (let i = count - 1; i >= 0; i--) if (series.some((each) => each.values[i] != null)) return i;
  return count - 1;
}

/** Marks no further from a time than so many seconds; a lasting one that holds it. @param {{at: number, until: ?number}[]} marks */
export const near = (marks, at, seconds) =>
  marks.filter((mark) => at >= mark.at - seconds && at <= (mark.until ?? mark.at) + seconds);

const LEAST = 120;
/** A stretch in whole minutes, two at least. @returns {[number, number]} epoch seconds */
export function stretch(from, to) {
  const [since, until] = [Math.floor(Math.min(from, to) / 60) * 60, Math.ceil(Math.max(from, to) / 60) * 60];
  return [since, Math.max(until, since + LEAST)];
}

/** Half as long around a place, or twice as long around the middle. @param {number} factor @returns {[number, number]} */
export function zoomed(since, until, middle, factor) {
  const length = Math.max(LEAST, (until - since) * factor);
  const from =
    factor < 1
      ? Math.min(Math.max(since, middle - length / 2), until - length)
      : (since + until - length) / 2;
  return stretch(from, from + length);
}

/** A time as the server reads it: to the minute, UTC. @param {number} at epoch seconds */
export const written = (at) => new Date(at * 1000).toISOString().slice(0, 16);

/** The query with another time in it. @param {string} query @param {number} since @param {number} until epoch seconds */
export function within(query, since, until) {
  const asked = new URLSearchParams(query);
  asked.delete("range");
  asked.set("since", written(since));
  asked.set("until", written(until));
  return asked;
}

/** The address of the history at a step of a chart. */
export function history(query, at, seconds, kinds) {
  const asked = new URLSearchParams(query),
    found = new URLSearchParams();
  for (const name of ["cluster", "worker", "label"]) if (asked.get(name)) found.set(name, asked.get(name));
  found.set("since", written(at));
  found.set("until", written(at + Math.max(60, seconds)));
  for (const kind of kinds) found.append("kind", kind);
  return `/history?${found}`;
}
