// What the live page knows: events and states of the socket, as rows of bars and as lists.
import { COMPLETED, FAILED, UNKNOWN, lower } from "./timeline.js";

export const SPAN = 600_000;
const KEPT = 200,
  MARKS = 100,
  NEAR_MS = 1500,
  LATE_MS = 5000;
export const MOST_BARS = 40_000;
const WHOLE_MS = 60_000; // what ended so lately is kept whole, however much it is
const ENDS = { task_completed: COMPLETED, task_failed: FAILED, task_cancelled: FAILED };

/** A snapshot tells run after run: the newest are those of the latest times, not those told last. */
const newest = (list, time) =>
  list.length > 2 * KEPT ? list.toSorted((a, b) => b[time] - a[time]).slice(0, KEPT) : list;
const textOf = (labels) =>
  Object.entries(labels ?? {})
    .map(([name, value]) => `${name}=${value}`)
    .join(" ");

/**
 * @typedef {{id: string, cluster: string, topic: string, partition: number, offset: number, worker: string, slot: ?number,
 *   labels: Object<string, string>, text: string, start: number, end: number, state: number, wait: ?number, attempt: number, failure: ?string, run: string,
 *   progress: ?number, note: string}} Task
 */
export class Model {
  /** @param {Object<string, {shape: string, icon: string, status: string}>} markOf the mark of each kind of event that has one */
  constructor(markOf = {}) {
    this.skew = 0;
    this.markOf = markOf;
    this.keptFrom = Infinity;
    this.generation = 0;
    this.forget();
  }

  /** A resync: what was known may have changed unseen. */
  forget() {
    this.generation++;
    this.rows = [];
    this.isNew = true; // rows came or went since the page looked
    this.figures = null;
    this.open = new Map();
    this.unsure = new Map(); // ended unseen: their end may be told yet, after an outage
    this.labels = new Map();
    this.finished = [];
    this.arranged = [];
    this.call = null; // of arrange, that may not be told whole
    this.collected = [];
    this.marks = [];
    this.lost = new Set(); // runs whose loss is marked
    this.since = -Infinity; // earlier nothing is loaded
    this.isFirst = false; // and the history holds nothing earlier
    this.leftOut = []; // [time, events that were not sent or not kept]
  }

  /** A snapshot brings the latest events, all since a time. @param {{since: ?string}} frame */
  loaded(frame) {
    this.since = Math.max(frame.since ? Date.parse(frame.since) : -Infinity, this.now() - SPAN);
  }

  /** What the history tells of the time before. @param {{since: string, events: object[], left_out: number, is_first: boolean}} piece */
  earlier(piece) {
    for (const event of piece.events) if (event.kind !== "task_started") this.event(event);
    this.since = Date.parse(piece.since);
    this.isFirst = piece.is_first;
    this.leave(piece.left_out);
  }

  /** Counts events that are not shown. @param {number} count */
  leave(count) {
    if (count) this.leftOut.push([this.now(), count]);
  }

  /** Events of the last minute that are not shown, because there were too many. */
  get missing() {
    return this.leftOut.reduce((sum, [, count]) => sum + count, 0);
  }

  /** The database's clock, as far as the last state told it. */
  now() {
    return Date.now() + this.skew;
  }

  name(cluster, worker) {
    return this.isOneCluster === false ? `${cluster}/${worker}` : worker;
  }

  /** A worker's name with its cluster. @param {string} name as `name` made it */
  fullName(name) {
    return this.isOneCluster === false ? name : `${this.figures?.workers[0]?.cluster ?? ""}/${name}`;
  }

  /** The figures, which need no event. @param {object} frame a state or a snapshot */
  figure(frame) {
    const workers = frame.dashboard.workers;
    if (frame.at) this.skew = Date.parse(frame.at) - Date.now();
    this.isOneCluster = new Set(workers.map((w) => w.cluster)).size < 2;
    this.figures = frame.dashboard;
    for (const told of frame.lost) {
      if (this.lost.has(told.run)) continue;
      this.lost.add(told.run);
      const at = Date.parse(told.at);
      this.mark({ ...told, kind: "worker_lost" }, at);
      for (const task of [...this.open.values()]) if (task.run === told.run) this.finish(task, at, UNKNOWN);
    }
    for (const worker of workers)
      for (let slot = 0; slot < (worker.pool?.slots ?? 0); slot++)
        this.row(this.name(worker.cluster, worker.name), slot);
  }

  /** @param {object} frame a state, or a snapshot whose events have all come */
  state(frame) {
    this.figure(frame);
    const running = new Set();
    for (const told of frame.running) {
      running.add(this.key(told));
      const task = this.open.get(this.key(told)) ?? this.begin(told, told.started_at * 1000, true);
      if (task.attempt === (told.attempt ?? 1))
        Object.assign(task, { progress: told.progress ?? null, note: told.note ?? "" });
    }
    // The state is older than the newest events: only what began well before it can be judged by it.
    const beat = frame.beat_at ? Date.parse(frame.beat_at) : this.now();
    for (const [key, task] of this.open)
      if (!running.has(key) && task.start < beat - LATE_MS) this.miss(task, beat);
    this.trim();
  }

  /** @param {object} event of an events frame or a snapshot */
  event(event) {
    const at = Date.parse(event.at);
    if (event.kind === "task_started") this.started(event, at);
    else if (event.kind in ENDS) this.end(event, at);
    else if (event.kind === "arranged") this.arrange(event, at);
    else if (event.kind === "collected") this.collect(event, at);
    else if (event.kind in this.markOf) this.mark(event, at);
  }

  key(told) {
    return `${told.run} ${told.topic} ${told.task_id}`;
  }

  row(worker, slot) {
    let row = this.rows.find((r) => r.worker === worker && r.slot === slot);
    if (row) return row;
    row = { worker, slot, start: [], end: [], state: [], tasks: [] };
    this.rows.push(row);
    this.rows.sort((a, b) => a.worker.localeCompare(b.worker, "en", { numeric: true }) || a.slot - b.slot);
    this.isNew = true;
    return row;
  }

  /** A state may have told of the task before its event came. */
  started(event, at) {
    const known = this.open.get(this.key(event));
    if (known) known.isHearsay = false;
    else this.begin(event, at);
  }

  /** @param {boolean} isHearsay known from a state only: too short a task has no events here */
  begin(told, start, isHearsay = false) {
    const labels = told.labels ?? {};
    const task = {
      id: told.task_id,
      run: told.run,
      cluster: told.cluster,
      topic: told.topic,
      partition: told.partition,
      offset: told.offset,
      worker: this.name(told.cluster, told.worker),
      slot: told.slot,
      labels,
      text: textOf(labels),
      start,
      end: Infinity,
      state: COMPLETED,
      wait: told.queue_ms,
      attempt: told.attempt ?? 1,
      failure: null,
      progress: null,
      note: "",
      isHearsay,
    };
    this.labels.set(told.task_id, labels);
    this.open.set(this.key(told), task);
    if (task.slot != null) this.draw(task);
    return task;
  }

  /** Puts a bar into its row, before and after its neighbours. What was open there has ended unseen. */
  draw(task) {
    const row = this.row(task.worker, task.slot);
    const last = row.tasks[lower(row.start, task.start) - 1];
    if (last?.end === Infinity) this.miss(last, task.start);
    const i = lower(row.start, task.start);
    const before = row.tasks[i - 1],
      after = row.tasks[i];
    if (before && before.end > task.start) row.end[i - 1] = before.end = task.start;
    row.start.splice(i, 0, task.start);
    row.end.splice(i, 0, task.end);
    row.state.splice(i, 0, task.state);
    row.tasks.splice(i, 0, task);
    if (after && task.end === Infinity) this.finish(task, after.start, UNKNOWN);
  }

  end(event, at) {
    const known = this.open.get(this.key(event)) ?? this.unsure.get(this.key(event));
    const open = known?.attempt === (event.attempt ?? 1) ? known : null;
    const task = open ?? this.begin(event, at - (event.duration_ms ?? 0));
    task.failure = event.kind === "task_cancelled" ? "cancelled" : (event.data.failure ?? null);
    task.wait ??= event.queue_ms;
    this.finish(task, at, ENDS[event.kind]);
  }

  /** It ended, and nobody said how. Where events are left out that is no news. */
  miss(task, at) {
    task.isHearsay ||= this.leftOut.length > 0;
    this.finish(task, at, UNKNOWN);
  }

  finish(task, at, state) {
    const key = this.key({ ...task, task_id: task.id });
    this.open.delete(key);
    task.end = Math.max(task.start, at);
    task.state = state;
    const row = task.slot == null ? null : this.row(task.worker, task.slot);
    const i = row ? row.tasks.lastIndexOf(task) : -1;
    if (state === UNKNOWN && task.isHearsay) {
      if (i >= 0) for (const list of [row.start, row.end, row.state, row.tasks]) list.splice(i, 1);
      return;
    }
    if (i >= 0) {
      row.end[i] = task.end = Math.min(task.end, row.start[i + 1] ?? Infinity);
      row.state[i] = state;
    }
    const isListed = this.unsure.get(key) === task;
    this.unsure.delete(key);
    if (state === UNKNOWN) this.unsure.set(key, task);
    if (!isListed) this.finished.push(task);
    this.finished = newest(this.finished, "end");
  }

  /** One line a call: the messages of a call are told one by one. */
  arrange(event, at) {
    const call = this.call;
    const isSame =
      call &&
      call.run === event.run &&
      call.topic === event.topic &&
      call.partition === event.partition &&
      call.took === event.duration_ms &&
      call.size === event.data.batch_messages &&
      call.offsets.length < call.size;
    if (!isSame) {
      this.call = {
        at,
        run: event.run,
        cluster: event.cluster,
        topic: event.topic,
        partition: event.partition,
        worker: this.name(event.cluster, event.worker),
        took: event.duration_ms,
        size: event.data.batch_messages ?? 1,
        offsets: [],
        tasks: 0,
        labels: event.labels ?? {},
      };
      this.arranged = newest([...this.arranged, this.call], "at");
    }
    this.call.offsets.push(event.offset);
    this.call.tasks += event.data.tasks ?? 0;
  }

  collect(event, at) {
    const labels = this.labels.get(event.task_id) ?? {};
    this.collected.push({
      at,
      id: event.task_id,
      cluster: event.cluster,
      topic: event.topic,
      partition: event.partition,
      offset: event.offset,
      worker: this.name(event.cluster, event.worker),
      hook: event.data.hook,
      payloads: event.data.payloads,
      took: event.duration_ms,
      labels,
      text: textOf(labels),
    });
    this.collected = newest(this.collected, "at");
  }

  /** Partitions come and go together: one mark a worker, kind and moment. */
  mark(event, at) {
    const worker = this.name(event.cluster, event.worker),
      look = this.markOf[event.kind];
    const near = this.marks.find(
      (m) => m.worker === worker && m.told === event.kind && at - m.at < NEAR_MS && at >= m.at,
    );
    const mark = near ?? { at, worker, ...look, told: event.kind, count: 0 };
    if (!near) this.marks.push(mark);
    mark.count++;
    const what =
      event.partition == null
        ? ""
        : mark.count === 1
          ? ` partition ${event.partition}`
          : ` ${mark.count} partitions`;
    mark.text =
      event.kind === "worker_lost"
        ? `${worker}: worker lost`
        : `${worker}: ${event.kind.replace("worker_", "")}${what}`;
    if (this.marks.length > MARKS) this.marks = this.marks.toSorted((a, b) => a.at - b.at).slice(-MARKS);
    this.isNew = true;
  }

  /** Forgets what is older than ten minutes and than what is looked at. */
  trim() {
    const now = this.now(),
      oldest = Math.min(now - SPAN, this.keptFrom);
    if (this.since < oldest) {
      this.since = oldest;
      this.isFirst = false;
    }
    this.leftOut = this.leftOut.filter(([at]) => now - at < 60_000);
    for (const row of this.rows) {
      let gone = row.end.findIndex((end) => end >= oldest);
      if (gone < 0) gone = row.end.length;
      for (const list of [row.start, row.end, row.state, row.tasks]) list.splice(0, gone);
    }
    if (this.unsure.size > 20 * KEPT) this.unsure = new Map([...this.unsure].slice(-10 * KEPT));
    if (this.labels.size > 20 * KEPT) this.labels = new Map([...this.labels].slice(-10 * KEPT));
    this.marks = this.marks.filter((mark) => mark.at >= oldest);
    this.thin(now - WHOLE_MS);
  }

  /** Of too many bars half go, the shortest of those that ended well before a time. */
  thin(before) {
    const isSpare = (row, i) => row.end[i] < before && row.state[i] !== FAILED;
    const count = this.rows.reduce((sum, row) => sum + row.start.length, 0);
    if (count <= MOST_BARS) return;
    const lengths = this.rows.flatMap((row) =>
      row.start.flatMap((start, i) => (isSpare(row, i) ? [row.end[i] - start] : [])),
    );
    const limit = lengths.sort((a, b) => a - b)[Math.min(lengths.length, count - MOST_BARS / 2) - 1] ?? -1;
    let gone = 0;
    for (const row of this.rows) {
      const kept = row.start.flatMap((start, i) =>
        isSpare(row, i) && row.end[i] - start <= limit ? [] : [i],
      );
      gone += row.start.length - kept.length;
      for (const name of ["start", "end", "state", "tasks"]) row[name] = kept.map((i) => row[name][i]);
    }
    this.leave(gone);
  }

  running() {
    return [...this.open.values()].sort((a, b) => a.start - b.start);
  }
}
