// Canvas timeline: a row per slot, grouped by worker. Knows nothing of where rows come from.
import { clock, dur } from "./format.js";

const UNIT = 150_000; // ms across the plot at 1x: 0.25x shows 10 minutes
const ZOOM = [0.25, 64];
const AXIS = 22,
  OVER = 34,
  HEAD = AXIS + OVER,
  ROW = 16,
  BAR = 10,
  GROUP = 22;
const STEPS = [50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4];
export const COMPLETED = 0,
  FAILED = 1,
  RUNNING = 2,
  UNKNOWN = 3;
const COLOURS = [
  "bar",
  "on-bar",
  "on-failed",
  "on-running",
  "completed",
  "failed",
  "running",
  "running-t",
  "retrying",
  "waiting",
  "paused",
  "surface",
  "sunken",
  "line",
  "line-strong",
  "text",
  "text-2",
  "text-3",
  "accent",
  "hover",
  ...Array.from({ length: 12 }, (_, n) => `w${n + 1}`),
];

/** First index with values[i] >= x. */
export function lower(values, x) {
  let lo = 0,
    hi = values.length;
  while (lo < hi) {
    const mid = (lo + hi) >> 1;
    if (values[mid] < x) lo = mid + 1;
    else hi = mid;
  }
  return lo;
}

/**
 * @typedef {{worker: string, slot: number, start: number[], end: number[], state: number[], tasks: object[]}} Row
 * Bars of a row are sorted by start and never overlap; the end of what runs is Infinity.
 * A group of rows whose name is in `folded` shows only its head.
 */
export class Timeline {
  /** @param {HTMLCanvasElement} canvas @param {{rows: Row[], marks: object[], now: () => number, span: number, reaches: boolean, hueOf?: (worker: string) => number, hover: Function, open: Function, changed: Function}} plan
   *   span: ms back to the first that is loaded; reaches: whether one may look further back */
  constructor(canvas, plan) {
    Object.assign(this, plan);
    this.canvas = canvas;
    this.ctx = canvas.getContext("2d", { alpha: false });
    this.zoom = 1;
    this.right = null; // null: follows now
    this.frozenAt = null;
    this.times = []; // ms of the last draws
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.folded = new Set();
    this.begin = { at: -Infinity, text: "" }; // before it nothing is drawn, and why
    this.all = this.rows;
    this.layout();
    this.listen();
    this.theme();
    this.resize();
    requestAnimationFrame(() => this.tick());
  }

  get at() {
    return this.frozenAt ?? this.now();
  }
  get window() {
    return UNIT / this.zoom;
  }
  get pad() {
    return this.window * 0.02;
  }
  get to() {
    return this.right ?? this.at + this.pad;
  }
  get from() {
    return this.to - this.window;
  }
  get plot() {
    return this.width - this.gutter;
  }

  /** y of every row and group. */
  layout() {
    let y = HEAD;
    this.groups = [];
    this.rows = [];
    for (const row of this.all) {
      let group = this.groups.at(-1);
      if (group?.name !== row.worker) {
        group = { name: row.worker, y, rows: [], slots: 0, end: y + GROUP };
        this.groups.push(group);
        y += GROUP;
      }
      group.slots++;
      if (this.folded.has(row.worker)) continue;
      row.y = y;
      this.rows.push(row);
      group.rows.push(row);
      y += ROW;
      group.end = y;
    }
    this.height = y + 6;
  }

  /** Other rows than before. @param {Row[]} rows */
  showRows(rows) {
    this.all = rows;
    this.layout();
    this.resize();
  }

  fold(name) {
    if (!this.folded.delete(name)) this.folded.add(name);
    this.showRows(this.all);
  }

  resize() {
    const width = this.canvas.parentElement.clientWidth;
    if (!width) return; // its tab is hidden
    this.width = width;
    this.gutter = this.width < 620 ? 34 : 74;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.canvas.style.height = `${this.height}px`;
    this.ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.measure();
  }

  /** What of the canvas is in sight, and how far down the overview and the axis stay in it. Drawing asks for no layout. */
  measure() {
    const top = this.canvas.getBoundingClientRect().top,
      frame = document.querySelector(".top")?.offsetHeight ?? 0;
    this.above = Math.max(0, -top);
    this.below = Math.min(this.height, innerHeight - top);
    this.pin = Math.round(Math.min(Math.max(0, frame - top), Math.max(0, this.height - HEAD - GROUP)));
    this.dirty = true;
  }

  /** Canvas cannot read light-dark(); a hidden element resolves each token. */
  theme() {
    const probe = document.createElement("i");
    probe.hidden = true;
    this.canvas.parentElement.append(probe);
    this.c = {};
    for (const name of COLOURS) {
      probe.style.color = `var(--${name})`;
      this.c[name] = getComputedStyle(probe).color;
    }
    this.font = getComputedStyle(this.canvas).fontFamily;
    probe.remove();
    this.dirty = true;
  }

  /** Draws only when something moved: at 1x that is some ten frames a second. */
  tick() {
    if (!document.hidden) {
      const step = this.still.matches ? 1000 : Math.max(16, (this.window / this.plot) * 0.5);
      if (this.dirty || (this.right == null && this.frozenAt == null && this.now() - this.drawn >= step))
        this.draw();
    }
    requestAnimationFrame(() => this.tick());
  }

  x(time) {
    return this.gutter + ((time - this.from) / this.window) * this.plot;
  }

  draw() {
    const began = performance.now();
    const { ctx, c, width, above } = this,
      high = Math.max(0, this.below - above);
    this.dirty = false;
    this.drawn = this.now();
    this.view = { from: this.from, to: this.to, at: this.at };
    ctx.save();
    ctx.beginPath();
    ctx.rect(0, above, width, high);
    ctx.clip();
    ctx.fillStyle = c.surface;
    ctx.fillRect(0, above, width, high);
    ctx.textBaseline = "middle";
    const seen = (place, size) => place.y + size >= above && place.y <= this.below;
    this.seen = {
      rows: this.rows.filter((row) => seen(row, ROW)),
      groups: this.groups.filter((group) => seen(group, group.end - group.y)),
    };
    this.drawGround();
    this.drawBars();
    this.drawMarks();
    this.drawBegin();
    this.drawPicked();
    this.drawGutter();
    ctx.translate(0, this.pin);
    this.drawAxis();
    this.drawOverview();
    ctx.restore();
    this.times.push(performance.now() - began);
    if (this.times.length > 600) this.times.shift();
  }

  drawGround() {
    const { ctx, c, gutter, width, seen } = this,
      { above, below } = this;
    this.step = STEPS.find((s) => (s / this.window) * this.plot > 84) ?? 12e4;
    ctx.fillStyle = c.sunken;
    for (const group of seen.groups) ctx.fillRect(0, group.y, width, GROUP);
    ctx.fillStyle = c.line;
    for (const group of seen.groups) ctx.fillRect(0, group.y, width, 1);
    for (const row of seen.rows) ctx.fillRect(gutter, row.y + ROW - 1, this.plot, 0.5);
    for (const [x] of this.ticks()) ctx.fillRect(x, above, 1, below - above);
  }

  /** Round times in view and where they stand. */
  *ticks() {
    for (let t = Math.ceil(this.view.from / this.step) * this.step; t < this.view.to; t += this.step) {
      const x = Math.round(this.x(t));
      if (x >= this.gutter) yield [x, t];
    }
  }

  drawAxis() {
    const { ctx, c, width } = this;
    ctx.fillStyle = c.sunken;
    ctx.fillRect(0, OVER, width, AXIS);
    ctx.fillStyle = c.line;
    ctx.fillRect(0, OVER, width, 1);
    if (this.pin) ctx.fillRect(0, HEAD, width, 1);
    for (const [x] of this.ticks()) ctx.fillRect(x, OVER, 1, AXIS);
    ctx.font = `11px ${this.font}`;
    ctx.textAlign = "left";
    ctx.fillStyle = c["text-3"];
    for (const [x, t] of this.ticks())
      if (x < width - 58) ctx.fillText(clock(t, this.step < 1000 ? 1 : 0), x + 4, OVER + AXIS / 2 + 1);
    const now = this.x(this.view.at);
    if (now <= width) {
      ctx.fillStyle = c.accent;
      ctx.fillRect(now, OVER, 1, AXIS);
    }
  }

  drawBars() {
    const { from, to, at } = this.view,
      scale = this.plot / this.window;
    const lists = [[], [], [], []],
      thin = [],
      again = [],
      texts = [],
      told = [];
    for (const row of this.seen.rows) {
      const last = lower(row.start, Math.min(to, at));
      for (let i = lower(row.end, from); i < last; i++) {
        const running = row.end[i] > at,
          end = running ? at : row.end[i];
        const x = this.gutter + (row.start[i] - from) * scale,
          w = (end - row.start[i]) * scale;
        const state = running ? RUNNING : row.state[i];
        if (w < 2 && !running) {
          this.addThin(thin, Math.max(this.gutter, x | 0), row.y, w, state);
          continue;
        }
        const left = Math.max(this.gutter, x),
          wide = Math.max(1.5, x + w - left - (w > 6 && !running ? 1 : 0));
        lists[state].push(left, row.y, wide);
        if (running && row.tasks[i].progress != null) told.push(left, row.y, wide, row.tasks[i].progress);
        if (row.tasks[i].attempt > 1 && w > 4) again.push(left, row.y);
        if (wide > 90 && state !== UNKNOWN) texts.push(row.tasks[i], left, row.y, wide, state);
      }
    }
    this.drawThin(thin);
    this.paint(lists[0], this.c.bar, 3, BAR);
    this.paint(lists[UNKNOWN], this.c.waiting, 5, BAR - 4);
    this.paint(lists[FAILED], this.c.failed, 1, ROW - 3);
    this.paint(lists[RUNNING], this.c.running, 3, BAR);
    this.drawProgress(told);
    this.drawRunningEnds(lists[RUNNING]);
    this.ctx.fillStyle = this.c.retrying;
    for (let i = 0; i < again.length; i += 2) this.ctx.fillRect(again[i], again[i + 1] + 1, 2.5, ROW - 3);
    this.drawTexts(texts);
  }

  paint(list, colour, dy, height) {
    this.ctx.fillStyle = colour;
    for (let i = 0; i < list.length; i += 3)
      this.ctx.fillRect(list[i], list[i + 1] + dy, list[i + 2], height);
  }

  /** A bar under 2 px, in order of start: its pixel's x, y, how much of it is busy, and whether something failed there. */
  addThin(thin, x, y, busy, state) {
    const last = thin.length - 4,
      failed = state === FAILED;
    if (thin[last] === x && thin[last + 1] === y) {
      thin[last + 2] += busy;
      thin[last + 3] ||= failed;
    } else thin.push(x, y, busy, failed);
  }

  /** Under 2 px: height says how busy the pixel is, a red tick that something failed. */
  drawThin(thin) {
    const { ctx } = this,
      level = (at) => Math.min(4, 1 + ((thin[at + 2] * 4) | 0));
    ctx.fillStyle = this.c.bar;
    for (let i = 0, next; i < thin.length; i = next) {
      const [x, y] = [thin[i], thin[i + 1]],
        high = level(i);
      for (next = i + 4; thin[next] === x + (next - i) / 4 && thin[next + 1] === y && level(next) === high;)
        next += 4;
      ctx.fillRect(x, y + 13 - high * 2.5, (next - i) / 4, high * 2.5);
    }
    ctx.fillStyle = this.c.failed;
    for (let i = 0; i < thin.length; i += 4)
      if (thin[i + 3]) ctx.fillRect(thin[i], thin[i + 1] + 1, 1.5, ROW - 3);
  }

  /** How far a program says it is: a line under its bar, filled so far. */
  drawProgress(told) {
    const { ctx, c } = this;
    for (let i = 0; i < told.length; i += 4) {
      const [x, y, w, share] = told.slice(i, i + 4);
      ctx.fillStyle = c["line-strong"];
      ctx.fillRect(x, y + BAR + 3, w, 2.5);
      ctx.fillStyle = c["running-t"];
      ctx.fillRect(x, y + BAR + 3, w * share, 2.5);
    }
  }

  /** A running bar has an open, darker edge: shape as well as colour. */
  drawRunningEnds(list) {
    this.ctx.fillStyle = this.c.text;
    this.ctx.strokeStyle = this.c["running-t"];
    this.ctx.lineWidth = 1;
    for (let i = 0; i < list.length; i += 3) {
      this.ctx.strokeRect(list[i] + 0.5, list[i + 1] + 3.5, Math.max(1, list[i + 2] - 1), BAR - 1);
      this.ctx.fillRect(list[i] + list[i + 2] - 1.5, list[i + 1] + 1, 1.5, ROW - 3);
    }
  }

  drawTexts(texts) {
    const { ctx } = this;
    ctx.font = `10px ${this.font}`;
    ctx.textAlign = "left";
    for (let i = 0; i < texts.length; i += 5) {
      const [task, x, y, w, state] = texts.slice(i, i + 5);
      const room = Math.floor((w - 12) / 5.3);
      ctx.fillStyle = this.c[["on-bar", "on-failed", "on-running", "on-bar"][state]];
      ctx.fillText(`${task.id} ${task.text}`.slice(0, room), x + 6, y + 8.5);
    }
  }

  drawMarks() {
    const { ctx, c } = this;
    ctx.font = `600 11px ${this.font}`;
    for (const mark of this.marks) {
      const x = Math.round(this.x(mark.at));
      if (x < this.gutter || x > this.width || mark.at > this.view.at) continue;
      const group = this.groups.find((g) => g.name === mark.worker);
      if (mark.worker && !group) continue;
      const [y, end] = mark.worker ? [group?.y ?? 0, group?.end ?? 0] : [HEAD, this.height];
      if (end < this.above || y > this.below) continue;
      const colour = mark.status === "waiting" ? c["text-2"] : c[mark.status];
      ctx.fillStyle = colour;
      for (let dash = y; dash < end; dash += 7) ctx.fillRect(x, dash, 1.5, 4);
      this.flag(mark.shape, x, (mark.worker ? y : (this.groups[0]?.y ?? 0)) + GROUP / 2, colour);
    }
    const x = this.x(this.view.at);
    if (x <= this.width) {
      ctx.fillStyle = c.accent;
      ctx.fillRect(x, HEAD, 1, this.height);
    }
  }

  /** Hatched where nothing is loaded: it is not that nothing happened. */
  drawBegin() {
    const { ctx, c, gutter, above, below } = this,
      end = Math.min(this.width, this.x(this.begin.at));
    if (end <= gutter) return;
    const top = Math.max(HEAD, above),
      high = below - top;
    ctx.save();
    ctx.beginPath();
    ctx.rect(gutter, top, end - gutter, high);
    ctx.clip();
    ctx.fillStyle = c.sunken;
    ctx.fillRect(gutter, top, end - gutter, high);
    ctx.strokeStyle = c.line;
    ctx.lineWidth = 1;
    ctx.beginPath();
    for (let x = gutter - high; x < end; x += 12) {
      ctx.moveTo(x, top + high);
      ctx.lineTo(x + high, top);
    }
    ctx.stroke();
    ctx.font = `11px ${this.font}`;
    ctx.textAlign = "right";
    const wide = ctx.measureText(this.begin.text).width,
      y = top + GROUP / 2 + this.pin;
    ctx.fillStyle = c.sunken;
    ctx.fillRect(end - wide - 16, y - 8, wide + 12, 17);
    ctx.fillStyle = c["text-2"];
    ctx.fillText(this.begin.text, end - 10, y + 1);
    ctx.restore();
    ctx.fillStyle = c["line-strong"];
    ctx.fillRect(end - 1, top, 1, high);
  }

  /** The glyph on a mark: square stop, bars pause, triangle start, diamond rebalance. */
  flag(shape, x, y, colour) {
    const { ctx } = this;
    ctx.fillStyle = this.c.sunken;
    ctx.fillRect(x - 8, y - 9, 17, 18);
    ctx.fillStyle = colour;
    ctx.beginPath();
    if (shape === "stop") ctx.rect(x - 4, y - 4, 9, 9);
    else if (shape === "pause") {
      ctx.rect(x - 4, y - 5, 3.5, 10);
      ctx.rect(x + 2, y - 5, 3.5, 10);
    } else if (shape === "start") {
      ctx.moveTo(x - 4, y - 5);
      ctx.lineTo(x + 6, y);
      ctx.lineTo(x - 4, y + 5);
    } else {
      ctx.moveTo(x + 0.5, y - 6);
      ctx.lineTo(x + 6.5, y);
      ctx.lineTo(x + 0.5, y + 6);
      ctx.lineTo(x - 5.5, y);
    }
    ctx.fill();
  }

  drawPicked() {
    const hit = this.picked;
    if (!hit?.task) return;
    const x = Math.max(this.gutter, this.x(hit.task.start)),
      w = this.x(Math.min(hit.task.end, this.view.at)) - x;
    this.ctx.strokeStyle = this.c.text;
    this.ctx.lineWidth = 1.5;
    this.ctx.strokeRect(x - 1.5, hit.row.y + 0.5, Math.max(w, 2) + 2, ROW - 2);
  }

  drawGutter() {
    const { ctx, c, gutter, seen } = this;
    ctx.fillStyle = c.surface;
    for (const group of seen.groups) ctx.fillRect(0, group.y + GROUP, gutter, group.end - group.y - GROUP);
    ctx.font = `11px ${this.font}`;
    ctx.textAlign = "right";
    ctx.fillStyle = c["text-3"];
    for (const row of seen.rows)
      ctx.fillText(this.width < 620 ? row.slot : `slot ${row.slot}`, gutter - 8, row.y + 8.5);
    ctx.textAlign = "left";
    for (const group of seen.groups) {
      const busy = this.busy?.[group.name] ?? "–";
      ctx.fillStyle = c.text;
      ctx.font = `600 12px ${this.font}`;
      const hue = this.hueOf?.(group.name),
        begin = hue ? 24 : 12;
      const end = begin + ctx.measureText(group.name).width;
      ctx.fillStyle = c.sunken;
      ctx.fillRect(0, group.y + 1, end + 84, GROUP - 1);
      ctx.fillStyle = c[`w${hue}`] ?? c.sunken;
      ctx.fillRect(12, group.y + GROUP / 2 - 4, 8, 8);
      ctx.fillStyle = c.text;
      ctx.fillText(group.name, begin, group.y + GROUP / 2 + 1);
      ctx.font = `11px ${this.font}`;
      ctx.fillStyle = c["text-3"];
      ctx.fillText(
        `${busy} of ${group.slots} busy${this.folded.has(group.name) ? ", folded" : ""}`,
        end + 8,
        group.y + GROUP / 2 + 1,
      );
    }
    ctx.fillStyle = c.line;
    for (const group of seen.groups) ctx.fillRect(gutter, group.y + GROUP, 1, group.end - group.y - GROUP);
  }

  /** All that is loaded, counted in 200 parts, with the visible one framed. */
  drawOverview() {
    const { ctx, c, width } = this,
      first = this.view.at - this.span;
    if (
      !this.bins ||
      this.view.at - this.binned > 1000 ||
      this.view.at < this.binned ||
      this.counted !== this.span
    )
      this.count();
    const x = (t) => ((t - first) / this.span) * width;
    ctx.fillStyle = c.sunken;
    ctx.fillRect(0, 0, width, OVER);
    const wide = width / 200,
      top = Math.max(...this.bins.done, 1),
      high = (bin, most, by) => Math.min(most, (bin / top) * (OVER - 6) * by);
    ctx.fillStyle = c["line-strong"];
    this.bins.done.forEach(
      (bin, i) => bin && ctx.fillRect(i * wide, OVER - high(bin, OVER, 1), wide - 1, high(bin, OVER, 1)),
    );
    ctx.fillStyle = c.failed;
    this.bins.failed.forEach(
      (bin, i) =>
        bin && ctx.fillRect(i * wide, OVER - high(bin, OVER - 4, 3), wide - 1, high(bin, OVER - 4, 3)),
    );
    ctx.strokeStyle = c.accent;
    ctx.lineWidth = 1.5;
    const left = Math.max(1, x(this.view.from)),
      right = Math.min(width - 1, x(this.view.to));
    ctx.strokeRect(left, 1, Math.max(4, right - left), OVER - 2);
  }

  count() {
    this.binned = this.view.at;
    this.counted = this.span;
    const bins = { done: new Float64Array(200), failed: new Float64Array(200) },
      first = this.view.at - this.span,
      each = this.span / 200;
    for (const row of this.all) {
      const last = lower(row.end, this.view.at);
      for (let i = lower(row.end, first); i < last; i++) {
        const bin = Math.min(199, ((row.end[i] - first) / each) | 0);
        bins.done[bin]++;
        bins.failed[bin] += row.state[i] === FAILED ? 1 : 0;
      }
    }
    this.bins = bins;
  }

  /** What lies under a point: a task, a bunch of small ones, a mark, or nothing. */
  pick(px, py) {
    const head = this.pin + HEAD;
    if (py < this.pin + OVER) return null;
    const near = (m) =>
      m.worker
        ? py > head && this.groups.some((g) => g.name === m.worker && py >= g.y && py < g.y + GROUP)
        : py < head + GROUP;
    const mark = this.marks.find((m) => Math.abs(this.x(m.at) - px) < 6 && m.at <= this.view.at && near(m));
    if (mark) return { mark };
    if (py < head) return null;
    const row = this.rows.find((r) => py >= r.y && py < r.y + ROW);
    if (!row || px < this.gutter) return null;
    const { from, at } = this.view,
      each = this.window / this.plot,
      time = from + (px - this.gutter) * each;
    const found = [];
    for (
      let i = lower(row.end, time - 3 * each);
      i < row.start.length && row.start[i] <= Math.min(at, time + 3 * each);
      i++
    )
      found.push(row.tasks[i]);
    if (!found.length) return null;
    if (found.length > 2 && found.every((t) => (t.end - t.start) / each < 2)) return { row, bunch: found };
    const far = (t) => Math.max(t.start - time, time - t.end, 0);
    return { row, task: found.reduce((best, t) => (far(t) < far(best) ? t : best)) };
  }

  stateOf(task) {
    return task.end > this.at ? "running" : ["completed", "failed", "running", "waiting"][task.state];
  }

  choose(hit, x, y) {
    const same =
      this.picked?.task === hit?.task &&
      this.picked?.mark === hit?.mark &&
      this.picked?.bunch?.length === hit?.bunch?.length;
    this.picked = hit;
    this.hover(hit, x, y, same);
    this.dirty = true;
  }

  /** @param {number} factor @param {number} [px] stays in place */
  zoomBy(factor, px) {
    const zoom = Math.min(ZOOM[1], Math.max(ZOOM[0], this.zoom * factor));
    if (zoom === this.zoom) return;
    const follows = this.right == null,
      share = px == null ? (follows ? 1 : 0.5) : (px - this.gutter) / this.plot;
    const anchor = this.from + share * this.window;
    this.zoom = zoom;
    this.show(follows && share > 0.9 ? null : anchor + (1 - share) * this.window);
  }

  /** Moves the right edge; at the newest end the view follows again. */
  show(right) {
    const beyond = this.reaches ? 0.8 * this.window : 0;
    const newest = this.at + this.pad,
      oldest = Math.min(newest, this.at - this.span + this.window - beyond);
    this.right = right == null || right >= newest ? null : Math.max(oldest, right);
    if (this.frozenAt != null && this.right == null && right != null) this.right = newest;
    this.dirty = true;
    this.changed();
  }

  reset() {
    this.zoom = 1;
    this.frozenAt = null;
    this.show(null);
  }

  freeze(on = this.frozenAt == null) {
    this.frozenAt = on ? this.now() : null;
    this.show(this.right);
  }

  /** Arrow keys walk over bars, so that all of it can be reached without a pointer. */
  walk(dx, dy) {
    let row = this.picked?.row ?? this.rows[0],
      task = this.picked?.task;
    if (!row) return;
    if (!task) task = row.tasks[Math.max(0, lower(row.start, Math.min(this.at, this.to)) - 1)];
    else if (dx) task = row.tasks[row.tasks.indexOf(task) + dx] ?? task;
    else {
      row = this.rows[Math.min(this.rows.length - 1, Math.max(0, this.rows.indexOf(row) + dy))];
      task = row.tasks[Math.max(0, lower(row.start, Math.min(task.end, this.at)) - 1)];
    }
    if (!task || task.start > this.at || task.end < this.at - this.span) return;
    if (task.start < this.from || Math.min(task.end, this.at) > this.to)
      this.show(Math.min(task.end, this.at) + this.window * 0.3);
    this.view = { from: this.from, to: this.to, at: this.at };
    this.choose({ row, task }, Math.max(this.gutter, this.x(Math.min(task.end, this.at))), row.y);
  }

  /** Keys of the page and of the canvas. @returns {boolean} whether it was ours */
  key(event) {
    const k = event.key,
      onCanvas = document.activeElement === this.canvas;
    if (k === "+" || k === "=") this.zoomBy(2);
    else if (k === "-") this.zoomBy(0.5);
    else if (k === "0") this.reset();
    else if (k === " " && !event.target.closest("button, a, summary")) this.freeze();
    else if (onCanvas && event.shiftKey && k.startsWith("Arrow"))
      this.show(this.to + { ArrowLeft: -0.2, ArrowRight: 0.2 }[k] * this.window || null);
    else if (onCanvas && k.startsWith("Arrow"))
      this.walk({ ArrowLeft: -1, ArrowRight: 1 }[k] ?? 0, { ArrowUp: -1, ArrowDown: 1 }[k] ?? 0);
    else if (onCanvas && k === "Enter" && this.picked?.task) this.open(this.picked.task);
    else if (onCanvas && k === "Escape") this.choose(null);
    else return false;
    event.preventDefault();
    return true;
  }

  listen() {
    const { canvas } = this,
      down = new Map();
    let start = null,
      pinch = 0;
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const isOver = (y) => y >= this.pin && y < this.pin + OVER;
    const jump = (x) => this.show(this.at - this.span + (x / this.width) * this.span + this.window / 2);

    canvas.addEventListener("pointerdown", (event) => {
      const [x, y] = point(event);
      down.set(event.pointerId, x);
      canvas.setPointerCapture(event.pointerId);
      start = { x, y, to: this.to, over: isOver(y), moved: false };
      if (start.over) jump(x);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = point(event);
      if (!down.size) {
        const hit = this.pick(x, y);
        canvas.classList.toggle("pointing", Boolean(hit?.task) || isOver(y));
        this.choose(hit, x, y);
        return;
      }
      down.set(event.pointerId, x);
      if (down.size === 2) {
        const [a, b] = [...down.values()],
          wide = Math.abs(a - b);
        if (pinch) this.zoomBy(wide / pinch, (a + b) / 2);
        pinch = wide;
        start.moved = true;
      } else if (start.over) jump(x);
      else if (start.moved || Math.abs(x - start.x) > 3) {
        start.moved = true;
        canvas.classList.add("grabbing");
        this.choose(null);
        this.show(start.to - ((x - start.x) / this.plot) * this.window);
      }
    });
    const up = (event) => {
      down.delete(event.pointerId);
      pinch = 0;
      canvas.classList.remove("grabbing");
      const [x, y] = point(event),
        hit = start && !start.moved && !start.over && event.type === "pointerup" ? this.pick(x, y) : null;
      const head =
        start &&
        !start.moved &&
        event.type === "pointerup" &&
        x < 220 &&
        y >= this.pin + HEAD &&
        this.groups.find((g) => y >= g.y && y < g.y + GROUP);
      if (head) this.fold(head.name);
      else if (hit?.task) {
        if (event.pointerType === "touch" && this.picked?.task !== hit.task) this.choose(hit, x, y);
        else this.open(hit.task);
      }
      if (!down.size) start = null;
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => {
      if (!down.size) this.choose(null);
    });
    // Over the labels the wheel scrolls the page as everywhere.
    canvas.addEventListener(
      "wheel",
      (event) => {
        const [x, y] = point(event);
        if (x < this.gutter && !event.ctrlKey) return;
        event.preventDefault();
        const by = event.deltaMode ? 16 : 1;
        if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))
          this.show(this.to + (((event.deltaX || event.deltaY) * by) / this.plot) * this.window);
        else this.zoomBy(Math.exp(-event.deltaY * by * 0.0022), x);
        if (this.picked) {
          this.draw();
          this.choose(this.pick(x, y), x, y);
        }
      },
      { passive: false },
    );
    canvas.addEventListener("blur", () => this.choose(null));
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    document.addEventListener("themechange", () => this.theme());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.theme());
    for (const moved of ["scroll", "resize"])
      addEventListener(moved, () => this.measure(), { passive: true });
    document.addEventListener("clockchange", () => {
      this.dirty = true;
    });
  }

  /** Words for the toolbar. */
  describe() {
    const zoom = this.zoom >= 1 ? Number(this.zoom.toPrecision(2)) : Number(this.zoom.toFixed(2));
    return {
      zoom: `${zoom}×`,
      window: dur(this.window),
      follows: this.right == null && this.frozenAt == null,
      frozen: this.frozenAt,
    };
  }
}
