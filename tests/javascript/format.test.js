// Figures and times as the pages show them.
import "./browser.js";
import assert from "node:assert/strict";
import { test } from "node:test";

process.env.TZ = "Pacific/Auckland";
const { ago, bytes, dur, num, toLocal, toUtc, visible } =
  await import("../../drakkar_site/static/drakkar/format.js");

test("what is unknown is never 0", () => {
  for (const format of [num, dur, bytes]) assert.equal(format(null), "unknown");
});

test("durations have three digits and the unit that fits", () => {
  const shown = [0, 1.234, 999.4, 999.6, 59_940, 60_000, 3_600_000].map(dur);
  assert.deepEqual(shown, ["0 ms", "1.23 ms", "999 ms", "1.00 s", "59.9 s", "1 min 00 s", "1 h 00 min"]);
  assert.deepEqual([89_000, 90_000, 7_200_000].map(ago), ["89 s ago", "2 min ago", "2 h ago"]);
});

test("a time field goes to local time and back", () => {
  assert.equal(toLocal("2026-03-14T03:10"), "2026-03-14T16:10");
  assert.equal(toUtc("2026-03-14T16:10"), "2026-03-14T03:10");
  for (const utc of ["2026-07-01T00:00", "2027-01-01T12:30"]) assert.equal(toUtc(toLocal(utc)), utc);
});

test("what is no time of a field stays as it is", () => {
  for (const text of ["", "90m", "yesterday"]) assert.deepEqual([toLocal(text), toUtc(text)], [text, text]);
});

test("no character that steers a page is shown", () => {
  assert.equal(visible("a\x1b[31m\u202eb\x7f\n"), "a\u241b[31m\ufffdb\u2421\n");
});
