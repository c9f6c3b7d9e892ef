// Live: one socket feeds the model; it drives the timeline, the pool bar and the tables.
import { clock, dur, el, exact, icon, moment, num, percent, status, visible } from "./format.js";
import { Model, SPAN } from "./live-model.js";
import { connection, typing } from "./page.js";
import { listen } from "./socket.js";
import { FAILED, Timeline, UNKNOWN } from "./timeline.js";
import { firstHue, hues } from "./worker_hues.js";

const $ = (id) => document.getElementById(id);
const model = new Model(JSON.parse($("mark-of").textContent)),
  tip = $("tip");
const FINISHED = 24,
  LISTED = 50,
  LISTED_MARKS = 12;
const MOST_BACK = 86_400_000,
  ASK_MS = 10_000,
  RETRY_MS = 5000;
const WORDS = ["completed", "failed", "running", "end not told"],
  STATES = ["completed", "failed", "running", "waiting"];

const names = () => [...new Set(model.rows.map((row) => row.worker))];
const inView = JSON.parse($("names-in-view").textContent),
  colours = hues(inView);
/** The colour of a worker. @param {string} worker as the model names it */
const hueOf = (worker) => colours.get(model.fullName(worker)) ?? firstHue(model.fullName(worker));
const hue = (worker) => `who w-${hueOf(worker)}`;
const part = encodeURIComponent;
/** The address of a page, with the cluster and the worker that are chosen here. */
function pageAt(path, query = {}) {
  const chosen = [...new URLSearchParams(location.search)].filter(
    ([name, value]) => ["cluster", "worker"].includes(name) && value,
  );
  const text = String(new URLSearchParams([...Object.entries(query), ...chosen]));
  return text ? `${path}?${text}` : path;
}
const taskAt = (task) => pageAt(`/task/${part(task.cluster)}/${part(task.id)}`, { topic: task.topic });
const partitionAt = (row) => pageAt(`/partitions/${part(row.cluster)}/${part(row.topic)}/${row.partition}`);
const labels = (found) =>
  el(
    "div",
    { class: "labels" },
    ...Object.entries(found)
      .slice(0, 6)
      .map(([name, value]) => el("span", { class: "label", title: `${name}=${value}` }, `${name}=${value}`)),
  );
const pairs = (list) => el("dl", {}, ...list.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
/** Also a tab that was away and has heard nothing since. */
const isLost = () => connection.state === "lost" || (connection.state === "none" && model.figures != null);

const progressText = (task) =>
  [task.progress == null ? "" : percent(task.progress), visible(task.note)].filter(Boolean).join(", ");

function told(hit) {
  if (hit.mark) return [el("b", {}, hit.mark.text), pairs([["at", exact(hit.mark.at)]])];
  if (hit.bunch) {
    const failed = hit.bunch.filter((task) => task.state === FAILED).length,
      all = hit.bunch.reduce((sum, t) => sum + t.end - t.start, 0);
    return [
      el("b", {}, `${hit.bunch.length} short tasks`),
      pairs([
        ["failed", String(failed)],
        ["mean", dur(all / hit.bunch.length)],
        ["slot", `${hit.row.worker}, ${hit.row.slot}`],
      ]),
      el("span", { class: "dim" }, "Zoom in to tell them apart"),
    ];
  }
  const task = hit.task,
    state = timeline.stateOf(task);
  const word =
    state === "failed"
      ? `failed: ${task.failure ?? "unknown"}`
      : state === "waiting"
        ? "its end was not told"
        : state;
  return [
    el("div", {}, status(state, word), " ", el("b", { class: "mono" }, task.id)),
    labels(task.labels),
    pairs([
      ["took", dur(Math.min(task.end, timeline.at) - task.start)],
      ...(state === "running" && (task.progress != null || task.note)
        ? [["progress", progressText(task)]]
        : []),
      ["queue wait", dur(task.wait)],
      ["attempt", String(task.attempt)],
      ["slot", `${task.worker}, ${task.slot}`],
      ["started", clock(task.start, 3)],
    ]),
    el("span", { class: "dim" }, "Click or Enter opens the task"),
  ];
}

function hover(hit, x, y, same) {
  tip.hidden = !hit;
  if (!hit) return;
  if (!same || hit.task?.end > timeline.at) tip.replaceChildren(...told(hit));
  const box = tip.parentElement,
    wide = tip.offsetWidth,
    high = tip.offsetHeight;
  const left = x + 16 + wide > box.clientWidth ? Math.max(4, x - wide - 12) : x + 16;
  const down = y + 14 + high > box.clientHeight ? Math.max(4, y - high - 10) : y + 14;
  tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(down)}px)`;
}

function changed() {
  const now = timeline.describe(),
    isFrozen = now.frozen != null && !isLost();
  reach();
  $("level").textContent = now.zoom;
  $("window").textContent = `${now.window} in view`;
  $("follow").disabled = now.follows || isLost();
  $("freeze").setAttribute("aria-pressed", String(isFrozen));
  $("freeze").lastChild.data = isFrozen ? "Go on" : "Freeze";
  frozen();
}

/** How far back is loaded; who looks back further gets it from the history. */
let isAsking = false,
  refusal = "";
function reach() {
  const isBack = timeline.right != null,
    from = Math.max(model.since, timeline.at - MOST_BACK);
  model.keptFrom = isBack || timeline.frozenAt != null ? timeline.from - timeline.window : Infinity;
  timeline.span = isBack ? Math.max(SPAN, timeline.at - from) : SPAN;
  timeline.reaches = isKnown() && !model.isFirst && timeline.span < MOST_BACK;
  const word = isAsking
    ? "loading what was earlier…"
    : refusal ||
      (model.isFirst
        ? "the history begins here"
        : timeline.span >= MOST_BACK
          ? "earlier: see the history"
          : "earlier not loaded");
  timeline.begin = { at: model.since, text: word };
  $("canvas").dataset.begin = word;
  timeline.dirty = true;
  if (isBack && timeline.reaches && timeline.from < model.since && !isAsking && !refusal) ask();
}

async function ask() {
  isAsking = true;
  const until = model.since,
    generation = model.generation;
  try {
    const answer = await fetch(pageAt("/api/v1/live/earlier", { until: new Date(until).toISOString() }), {
      signal: AbortSignal.timeout(ASK_MS),
    });
    const piece = await answer.json();
    if (!answer.ok) throw new Error(piece.detail);
    if (generation === model.generation && model.since >= until) model.earlier(piece);
  } catch (error) {
    refusal = `earlier not loaded: ${error.message}`;
    setTimeout(() => {
      refusal = "";
    }, RETRY_MS);
  }
  isAsking = false;
  reach();
}

function frozen() {
  const at = timeline.frozenAt;
  $("frozen").hidden = at == null;
  $("frozen").classList.toggle("lost", isLost());
  if (at != null)
    $("frozen").textContent = isLost()
      ? `Disconnected: last seen ${clock(at)}. What ran then may have ended.`
      : `Frozen at ${clock(at)}, ${Math.floor((model.now() - at) / 1000)} s behind. Space goes on.`;
}

const timeline = new Timeline($("canvas"), {
  rows: [],
  now: () => model.now(),
  span: SPAN,
  marks: [],
  hueOf,
  hover,
  changed,
  open: (task) => {
    location.href = taskAt(task);
  },
});
$("in").addEventListener("click", () => timeline.zoomBy(2));
$("out").addEventListener("click", () => timeline.zoomBy(0.5));
$("level").addEventListener("click", () => {
  if (!isLost()) timeline.reset();
});
$("follow").addEventListener("click", () => {
  timeline.frozenAt = null;
  timeline.show(null);
});
$("freeze").addEventListener("click", () => timeline.freeze());
addEventListener("keydown", (event) => {
  if (event.key === "f" && !typing(event) && $("collect").hidden) {
    event.preventDefault();
    $("tab-collect").click();
    $("find").focus();
  }
  if (typing(event) || $("executors").hidden || (isLost() && ["p", " ", "0"].includes(event.key))) return;
  if (event.key === "p") timeline.freeze();
  else timeline.key(event);
});

let begun = null; // a snapshot whose latest events are still coming
const isKnown = () => model.figures != null && begun == null;

/** Without a connection nothing may look alive: all stops at the last that was seen. */
let wasLost = false,
  isReadersFreeze = false;
document.addEventListener("connchange", () => {
  if (isLost() === wasLost) return;
  wasLost = isLost();
  if (wasLost) isReadersFreeze = timeline.frozenAt != null;
  if (isReadersFreeze) changed();
  else timeline.freeze(wasLost);
  $("freeze").disabled = wasLost;
});

// Tables: twice a second, never under the pointer, never while frozen.
const held = { pointer: false, at: 0 };
for (const id of ["running", "finished", "arranged", "collected"]) {
  const hold = () => {
      held.pointer = true;
      held.at = model.now();
    },
    letGo = () => {
      held.pointer = false;
      refresh();
    };
  for (const name of ["pointerenter", "focusin"]) $(id).addEventListener(name, hold);
  for (const name of ["pointerleave", "focusout"]) $(id).addEventListener(name, letGo);
}
const slot = (task) =>
  el(
    "td",
    { class: "nowrap wide" },
    el(
      "span",
      { class: hue(task.worker) },
      task.worker,
      el("span", { class: "dim" }, task.slot == null ? "" : `/${task.slot}`),
    ),
  );
const link = (task) =>
  el("th", { scope: "row", class: "nowrap" }, el("a", { class: "mono", href: taskAt(task) }, task.id));
const time = (at) => el("time", { title: exact(at) }, moment(at, 1));

function progressCell(task) {
  const bar =
    task.progress == null ? null : el("progress", { max: 1, value: task.progress, "aria-hidden": "true" });
  return el("td", { class: "progress", title: visible(task.note) || null }, bar, progressText(task));
}

function runningRow(task, at) {
  const took = dur(at - task.start);
  return el(
    "tr",
    {},
    link(task),
    el("td", { class: "clip" }, labels(task.labels)),
    slot(task),
    progressCell(task),
    el("td", { class: "num" }, at - task.start > 60_000 ? status("running", took, "warn") : took),
    el("td", { class: "num wide" }, dur(task.wait)),
    el("td", { class: "num wide" }, task.attempt > 1 ? status("retrying", String(task.attempt)) : "1"),
  );
}

function finishedRow(task) {
  const word = task.state === FAILED ? (task.failure ?? "failed") : WORDS[task.state];
  return el(
    "tr",
    {},
    link(task),
    el("td", {}, status(STATES[task.state], word)),
    el("td", { class: "clip" }, labels(task.labels)),
    slot(task),
    el("td", { class: "num" }, task.state === UNKNOWN ? "unknown" : dur(task.end - task.start)),
    el("td", { class: "num wide dim" }, time(task.end)),
  );
}

function arrangedRow(call) {
  const first = Math.min(...call.offsets),
    end = Math.max(...call.offsets);
  return el(
    "tr",
    {},
    el("td", {}, time(call.at)),
    el(
      "th",
      { scope: "row" },
      el("a", { href: partitionAt(call), title: `${call.topic}/${call.partition}` }, String(call.partition)),
    ),
    el(
      "td",
      { class: "nowrap" },
      String(call.size),
      el("span", { class: "dim" }, ` ${num(first)}${end > first ? `–${num(end)}` : ""}`),
    ),
    el("td", { class: "num" }, String(call.tasks)),
    el("td", { class: "num" }, dur(call.took)),
    el("td", {}, el("span", { class: hue(call.worker) }, call.worker)),
    el("td", { class: "clip wide" }, labels(call.labels)),
  );
}

function collectedRow(row) {
  const what = row.id
    ? el("a", { class: "mono", href: taskAt(row) }, row.id)
    : el("span", { class: "mono" }, `${row.partition}:${row.offset}`);
  return el(
    "tr",
    {},
    el("td", {}, time(row.at)),
    el("th", { scope: "row", class: "nowrap" }, what),
    el("td", { class: "num" }, row.payloads == null ? "unknown" : String(row.payloads)),
    el("td", { class: "num" }, dur(row.took)),
    el("td", { class: "wide" }, row.hook ?? "unknown"),
    el("td", {}, el("span", { class: hue(row.worker) }, row.worker)),
    el("td", { class: "clip wide" }, labels(row.labels)),
  );
}

/** Before the first figures nothing is known: neither how many slots nor whether one is busy. */
function awaited() {
  $("sentence").replaceChildren("Waiting for the first figures");
  $("pool").replaceChildren(el("span", { class: "soft" }, "Nothing is known yet"));
}

function pool(running) {
  if (!model.figures) return awaited();
  const live = (model.figures?.workers ?? []).filter((worker) => worker.pool);
  const total = (key) =>
    live.reduce(
      (sum, worker) => (sum == null || worker.pool[key] == null ? null : sum + worker.pool[key]),
      0,
    );
  const [slots, busy] = [total("slots"), total("busy")];
  const each = live.map((worker) => {
    const name = model.name(worker.cluster, worker.name),
      mine = running.filter((task) => task.worker === name && task.slot != null);
    const cells = Array.from({ length: Math.min(64, worker.pool.slots ?? 0) }, (_, n) =>
      mine.find((task) => task.slot === n),
    );
    return el(
      "div",
      {},
      el("span", { class: hue(name) }, name),
      el(
        "span",
        {
          class: "cells",
          role: "img",
          "aria-label": `${num(worker.pool.busy)} of ${num(worker.pool.slots)} slots busy`,
        },
        ...cells.map((task, n) =>
          el("i", {
            class: task ? (task.attempt > 1 ? "s-retrying" : "s-running") : null,
            title: task ? `slot ${n}: ${task.id}` : `slot ${n}: free`,
          }),
        ),
      ),
      el("span", { class: "soft" }, `${num(worker.pool.busy)}/${num(worker.pool.slots)}`),
    );
  });
  $("pool").replaceChildren(
    el(
      "div",
      {},
      el("span", { class: "big" }, slots ? `${Math.round((busy / slots) * 100)}%` : "unknown"),
      el("span", { class: "soft" }, `of the pool, ${num(busy)} of ${num(slots)} slots`),
    ),
    ...each,
    el(
      "span",
      { class: "legend" },
      el("span", { class: "key s-running" }, "running"),
      el("span", { class: "key s-retrying" }, "attempt 2+"),
      el("span", { class: "dim" }, "empty: free"),
    ),
  );
  const waiting = total("waiting"),
    oldest = running.length ? dur(timeline.at - running[0].start) : null;
  $("sentence").replaceChildren(
    ...[
      ["", num(busy)],
      [" of ", num(slots)],
      [" slots busy on ", String(live.length)],
      [` worker${live.length === 1 ? "" : "s"}, `, num(waiting)],
    ].flatMap(([text, figure]) => [text, el("b", {}, figure)]),
    " tasks wait",
    ...(oldest ? [", oldest runs ", el("b", {}, oldest)] : []),
  );
  $("nobody").hidden = live.length > 0 || !model.figures;
  $("some").hidden = !$("nobody").hidden;
}

function rows() {
  if (!model.isNew) return;
  model.isNew = false;
  timeline.marks = model.marks;
  timeline.showRows(model.rows);
  $("marks").replaceChildren(
    ...model.marks
      .toSorted((a, b) => a.at - b.at)
      .slice(-LISTED_MARKS)
      .map((mark) => {
        const button = el(
          "button",
          { class: "btn bare", title: exact(mark.at) },
          el("span", { class: `st s-${mark.status}` }, icon(mark.icon)),
          `${clock(mark.at)} ${mark.text}`,
        );
        button.addEventListener("click", () => timeline.show(mark.at + timeline.window / 2));
        return button;
      }),
  );
}

function fill(id, list, row) {
  $(id).tBodies[0].replaceChildren(...list.map(row));
  $(`no-${id}`).hidden = list.length > 0 || !isKnown();
}

function refresh() {
  const at = timeline.at,
    running = model.running();
  reach();
  rows();
  pool(running);
  timeline.busy = Object.fromEntries(
    names().map((name) => [name, running.filter((task) => task.worker === name && task.slot != null).length]),
  );
  timeline.measure();
  Object.assign($("canvas").dataset, {
    rows: model.rows.length,
    bars: model.rows.reduce((sum, row) => sum + row.tasks.length, 0),
  });
  $("missing").hidden = !model.missing;
  $("missing").lastElementChild.textContent =
    `${num(model.missing)} events of the last minute are not drawn: they come too fast. Failures are all here, and the longest tasks.`;
  $("n-run").textContent = isKnown() ? running.length : "unknown";
  $("held").hidden = !held.pointer;
  const ended = model.finished.toSorted((a, b) => b.end - a.end).slice(0, FINISHED);
  const newest = (list) => list.toSorted((a, b) => b.at - a.at).slice(0, LISTED);
  if (held.pointer) {
    $("held").lastElementChild.textContent =
      `${model.finished.filter((task) => task.end > held.at).length} new, held while you read`;
    return;
  }
  const asked = $("find").value.trim().toLowerCase();
  fill("running", running, (task) => runningRow(task, at));
  fill("finished", ended, finishedRow);
  fill("arranged", newest(model.arranged), arrangedRow);
  fill(
    "collected",
    newest(model.collected.filter((row) => `${row.id} ${row.text}`.toLowerCase().includes(asked))),
    collectedRow,
  );
}
$("find").addEventListener("input", refresh);
$("clear").addEventListener("click", () => {
  $("find").value = "";
  refresh();
});
setInterval(() => {
  if (!document.hidden) {
    frozen();
    if (timeline.frozenAt == null) refresh();
  }
}, 500);
document.addEventListener("clockchange", refresh);

// Tabs live in the URL, so that each can be bookmarked.
const tabs = [...document.querySelectorAll("[role=tab]")];
function tab() {
  const asked = `tab-${location.hash.slice(1)}`,
    chosen = tabs.some((t) => t.id === asked) ? asked : "tab-executors";
  for (const t of tabs) {
    const on = t.id === chosen;
    t.setAttribute("aria-selected", String(on));
    t.tabIndex = on ? 0 : -1;
    $(t.getAttribute("aria-controls")).hidden = !on;
  }
}
for (const t of tabs) {
  t.addEventListener("click", (event) => {
    event.preventDefault();
    history.replaceState(null, "", t.hash);
    tab();
  });
  t.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    const next = tabs[(tabs.indexOf(t) + by + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}
addEventListener("hashchange", tab);
tab();
changed();
refresh();

/** How old the figures are: since the beat of the worker that was silent the longest. */
function aged(frame) {
  const age = frame.beat_at ? Math.max(0, (Date.parse(frame.at) - Date.parse(frame.beat_at)) / 1000) : 0;
  for (const badge of document.querySelectorAll(".age"))
    Object.assign(badge.dataset, { at: performance.now(), age });
}

function judge(frame) {
  model.state(frame);
  aged(frame);
}
listen(
  (frame) => {
    if (frame.type === "snapshot" || frame.type === "resync") {
      model.forget();
      model.figure(frame);
      model.loaded(frame);
      begun = frame;
    }
    if (frame.type !== "state") for (const event of frame.events) model.event(event);
    if (frame.type === "events") model.leave(frame.left_out);
    if (frame.type === "state") judge(frame);
    const isWhole = Object.keys(frame.cursor).length > 0 || begun?.events.length === 0;
    if (begun && isWhole) {
      judge(begun);
      begun = null;
      refresh();
    }
    $("some").setAttribute("aria-busy", String(begun != null));
  },
  { recent: true, freezes: true },
);
