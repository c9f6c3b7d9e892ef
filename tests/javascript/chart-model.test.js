import assert from "node:assert/strict";
import { test } from "node:test";

import "./browser.js";

const { onAxis } = await import("../../drakkar_site/static/drakkar/chart-model.js");

test("figures on an axis are short, whatever their unit", () => {
  const said = [
    [0, "ms", "0"],
    [2500, "ms", "2.50 s"],
    [60000, "ms", "1m"],
    [90000, "ms", "1m 30s"],
    [7500000, "ms", "2h 05m"],
    [1000, "bytes", "1,000 B"],
    [2836, "bytes per second", "2.77 KiB"],
    [1500, "per second", "1.5k"],
  ];
  for (const [n, unit, text] of said) assert.equal(onAxis(n, unit), text);
});
