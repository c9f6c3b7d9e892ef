// The model of the live page: events and states of the socket, as bars, lists and marks.
import "./browser.js";
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

const { Model } = await import("../../drakkar_site/static/drakkar/live-model.js");
const { COMPLETED, FAILED, UNKNOWN } = await import("../../drakkar_site/static/drakkar/timeline.js");

const NOW = Date.parse("2026-03-14T03:00:00Z");
const at = (seconds) => new Date(NOW + 1000 * seconds).toISOString();
const told = (kind, seconds, more = {}) => ({
  kind,
  at: at(seconds),
  run: "r",
  cluster: "main",
  topic: "t",
  partition: 3,
  offset: 7,
  task_id: "3:7:0",
  worker: "worker-1",
  slot: 0,
  attempt: 1,
  queue_ms: 5,
  data: {},
  ...more,
});
const state = (seconds, running = []) => ({
  at: at(seconds),
  beat_at: at(seconds),
  running,
  lost: [],
  dashboard: { workers: [{ cluster: "main", name: "worker-1", pool: { slots: 2 } }] },
});
const bars = (model) =>
  model.rows.flatMap((row) => row.tasks.map((task, i) => [task.id, row.end[i] - row.start[i], row.state[i]]));

let model;
beforeEach(() => {
  mock.timers.enable({ apis: ["Date"], now: NOW });
  model = new Model({ assigned: { shape: "line", icon: "swap", status: "waiting" } });
});

afterEach(() => mock.timers.reset());

test("a task is a bar from its start to its end, in the state it ended in", () => {
  model.event(told("task_started", 0));
  assert.deepEqual(bars(model), [["3:7:0", Infinity, COMPLETED]]);
  model.event(told("task_failed", 2, { data: { failure: "exit" } }));
  assert.deepEqual(bars(model), [["3:7:0", 2000, FAILED]]);
  assert.equal(model.finished[0].failure, "exit");
  assert.equal(model.running().length, 0);
});

test("an end whose start was not sent has its bar all the same", () => {
  model.event(told("task_completed", 2, { duration_ms: 1500 }));
  assert.deepEqual(bars(model), [["3:7:0", 1500, COMPLETED]]);
});

test("what follows in a slot ends what was open there, and nobody said how", () => {
  model.event(told("task_started", 0));
  model.event(told("task_started", 4, { task_id: "3:8:0", offset: 8 }));
  assert.deepEqual(bars(model), [
    ["3:7:0", 4000, UNKNOWN],
    ["3:8:0", Infinity, COMPLETED],
  ]);
  model.event(told("task_completed", 3));
  assert.deepEqual(bars(model)[0], ["3:7:0", 3000, COMPLETED]);
  assert.equal(model.finished.length, 1);
});

test("a task known from states only leaves no bar when it goes", () => {
  const known = { ...told("", 0), started_at: NOW / 1000 };
  model.state(state(0, [known]));
  assert.equal(model.running().length, 1);
  model.state(state(20));
  assert.deepEqual(bars(model), []);
  assert.equal(model.running().length, 0);
});

test("an attempt is another bar than the one before", () => {
  model.event(told("task_started", 0));
  model.event(told("task_failed", 1));
  model.event(told("task_started", 2, { attempt: 2 }));
  model.event(told("task_completed", 3, { attempt: 2 }));
  assert.deepEqual(bars(model), [
    ["3:7:0", 1000, FAILED],
    ["3:7:0", 1000, COMPLETED],
  ]);
});

test("messages of one call of arrange are one line", () => {
  for (const offset of [7, 8]) {
    model.event(told("arranged", 1, { offset, duration_ms: 12, data: { batch_messages: 2, tasks: 3 } }));
  }
  assert.deepEqual(
    model.arranged.map((call) => [call.offsets, call.tasks]),
    [[[7, 8], 6]],
  );
});

test("partitions that come together are one mark", () => {
  for (const partition of [1, 2, 3]) model.event(told("assigned", 1, { partition }));
  assert.deepEqual(
    model.marks.map((mark) => mark.text),
    ["worker-1: assigned 3 partitions"],
  );
  model.event(told("assigned", 9, { partition: 4 }));
  assert.equal(model.marks.length, 2);
});

test("a state makes a row of each slot, with the cluster's name where there are several", () => {
  model.state(state(0));
  assert.deepEqual(
    model.rows.map((row) => [row.worker, row.slot]),
    [
      ["worker-1", 0],
      ["worker-1", 1],
    ],
  );
  model.forget();
  const both = state(0);
  both.dashboard.workers.push({ cluster: "rank", name: "worker-1", pool: null });
  model.state(both);
  assert.deepEqual(
    model.rows.map((row) => row.worker),
    ["main/worker-1", "main/worker-1"],
  );
});

test("a lost run ends what it ran, and is marked once", () => {
  model.event(told("task_started", 0));
  const lost = { run: "r", cluster: "main", worker: "worker-1", at: at(5) };
  for (let looks = 0; looks < 2; looks++) model.state({ ...state(6), lost: [lost] });
  assert.deepEqual(bars(model), [["3:7:0", 5000, UNKNOWN]]);
  assert.equal(model.running().length, 0);
});
