// One chart of a figure: drawn by uPlot, read by pointer and by keyboard, in step with the others of the page.
import { alone, history, hue, near, newest, onAxis, said, span, stretch, within } from "./chart-model.js";
import { el, exact, isUtc, moment } from "./format.js";

const uPlot = window.uPlot;
const HEIGHT = { small: 110, wide: 190 },
  AXIS = 58,
  NEAR_PX = 6,
  DASH = [5, 4];
const FONT = "11px system-ui, sans-serif";
/** Ticks of a time axis by their distance: 24 hours a day, the date under midnight, the year under its first day. */
const TICKS = [
  [86_400 * 365, "{YYYY}", null, null, null, null, null, null, 1],
  [86_400 * 28, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [86_400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [1, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
];
const SHORT_TICKS = TICKS.map(([every, text]) => [every, text, null, null, null, null, null, null, 1]);
const together = uPlot.sync("trends");
const style = getComputedStyle(document.documentElement);
/** A colour of the theme of this moment: light-dark() is resolved by an element that wears it. */
const probe = document.head.appendChild(document.createElement("meta"));
export function colour(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color || style.getPropertyValue(name);
}

/** Glyph of a mark: square stop, bars pause, triangle start, diamond rebalance, flag of a version, ring of a configuration. */
function flag(ctx, shape, x, y, r) {
  ctx.beginPath();
  if (shape === "stop") ctx.rect(x - r, y - r, 2 * r, 2 * r);
  else if (shape === "pause") {
    ctx.rect(x - r, y - r, 0.8 * r, 2 * r);
    ctx.rect(x + 0.3 * r, y - r, 0.8 * r, 2 * r);
  } else if (shape === "start") {
    ctx.moveTo(x - 0.8 * r, y - r);
    ctx.lineTo(x + 1.2 * r, y);
    ctx.lineTo(x - 0.8 * r, y + r);
  } else if (shape === "deploy") {
    ctx.moveTo(x, y - 1.2 * r);
    ctx.lineTo(x + 1.2 * r, y + r);
    ctx.lineTo(x - 1.2 * r, y + r);
  } else if (shape === "config") ctx.arc(x, y, r, 0, 2 * Math.PI);
  else {
    ctx.moveTo(x, y - 1.3 * r);
    ctx.lineTo(x + 1.3 * r, y);
    ctx.lineTo(x, y + 1.3 * r);
    ctx.lineTo(x - 1.3 * r, y);
  }
  ctx.closePath();
  ctx.fill();
}

export class Chart {
  /** @param {HTMLElement} figure @param {(since: number, until: number) => void} onZoom */
  constructor(figure, onZoom) {
    this.figure = figure;
    this.onZoom = onZoom;
    this.isSmall = figure.classList.contains("small");
    this.place = figure.querySelector(".plot");
    this.readout = figure.querySelector(".readout");
    this.when = figure.querySelector(".when");
    this.off = new Set();
    /** Index of the step that is read; null: the newest. */
    this.at = null;
    this.place.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.resize()).observe(this.place);
  }

  /** @param {object} answer of /api/v1/trends @param {object} chart of it */
  show(answer, chart) {
    const look = JSON.stringify([chart.series.map((each) => [each.name, each.before != null]), chart.unit]);
    this.answer = answer;
    this.chart = chart;
    const title = this.figure.querySelector("h2, figcaption a");
    if (title.textContent !== chart.title) title.textContent = chart.title;
    this.place.setAttribute("aria-label", `${chart.title}, ${chart.unit}`);
    this.isEmpty = chart.series.every((each) => each.values.every((value) => value == null));
    this.say(this.isEmpty ? "Nothing is recorded in this time" : "");
    if (look !== this.look || !this.plot) this.make(look);
    else this.plot.setData(this.columns());
    this.list();
    this.read();
  }

  /** What stands over the plot in place of lines. */
  say(text) {
    const told = this.figure.querySelector(".told");
    told.hidden = !text;
    if (told.textContent !== text) told.textContent = text;
  }

  columns() {
    const { series } = this.chart,
      before = series.filter((each) => each.before != null);
    return [this.answer.at, ...series.map((each) => each.values), ...before.map((each) => each.before)];
  }

  make(look) {
    this.look = look;
    this.plot?.destroy();
    const { series } = this.chart;
    const lines = series.map((each, i) => this.line(each, hue(each, i), false));
    const before = series.flatMap((each, i) =>
      each.before == null ? [] : [this.line(each, hue(each, i), true)],
    );
    this.plot = new uPlot(
      {
        width: Math.max(120, this.place.clientWidth),
        height: HEIGHT[this.isSmall ? "small" : "wide"],
        tzDate: (at) => (isUtc() ? uPlot.tzDate(new Date(at * 1000), "Etc/UTC") : new Date(at * 1000)),
        legend: { show: false },
        padding: [this.isSmall ? 6 : 14, 20, 0, 0],
        cursor: {
          y: false,
          points: { size: 6 },
          drag: { x: true, y: false, setScale: false, dist: 6 },
          // Of a brush the others hear nothing: each would zoom, and back lead through as many steps.
          sync: {
            key: together.key,
            setSeries: false,
            scales: ["x", null],
            filters: { pub: (type) => !["mousedown", "mouseup"].includes(type) },
          },
          bind: { dblclick: () => null },
        },
        scales: {
          x: { time: true, range: () => [this.answer.since, this.answer.until] },
          y: { range: (_, __, most) => [0, most > 0 ? most * 1.08 : 1] },
        },
        axes: [
          this.axis(this.isSmall ? { size: 22, values: SHORT_TICKS } : { size: 36, values: TICKS }),
          this.axis({ size: AXIS, values: (_, ticks) => ticks.map((n) => onAxis(n, this.chart.unit)) }),
        ],
        series: [{}, ...lines, ...before],
        hooks: {
          drawClear: [(u) => this.drawBands(u)],
          draw: [(u) => this.drawMarks(u)],
          setCursor: [(u) => this.point(u)],
          setSelect: [(u) => this.select(u)],
        },
      },
      this.columns(),
      this.place,
    );
    this.plot.over.addEventListener("click", (event) => this.click(event));
    for (const [i, each] of series.entries()) if (this.off.has(each.name)) this.toggle(i, false);
  }

  axis(own) {
    return {
      stroke: () => colour("--text-3"),
      font: FONT,
      grid: { stroke: () => colour("--line"), width: 1 },
      ticks: { stroke: () => colour("--line"), width: 1, size: 4 },
      ...own,
    };
  }

  line(each, name, isBefore) {
    return {
      label: each.name,
      stroke: () => colour(name),
      width: isBefore ? 1 : 1.5,
      dash: isBefore ? DASH : undefined,
      alpha: isBefore ? 0.7 : 1,
      fill:
        isBefore || this.chart.series.length > 2
          ? undefined
          : () =>
              colour(name)
                .replace(/\)$/, " / .1)")
                .replace(/^rgb\((\d+), (\d+), (\d+)/, "rgb($1 $2 $3"),
      points: { show: false, size: 4, filter: (u, i) => alone(u.data[i]) },
      spanGaps: false,
    };
  }

  resize() {
    const width = this.place.clientWidth;
    if (this.plot && width && Math.abs(width - this.plot.width) > 1)
      this.plot.setSize({ width, height: this.plot.height });
  }

  /** Theme or clock changed. */
  redraw() {
    this.plot?.redraw(false, true);
    this.read();
  }

  shown() {
    return this.answer.marks.filter((mark) => !this.hiddenMarks?.has(mark.group));
  }

  drawBands(u) {
    const { ctx, bbox } = u;
    ctx.save();
    for (const mark of this.shown()) {
      if (mark.until == null) continue;
      const [from, to] = [
        u.valToPos(Math.max(mark.at, u.scales.x.min), "x", true),
        u.valToPos(Math.min(mark.until, u.scales.x.max), "x", true),
      ];
      ctx.globalAlpha = 0.12;
      ctx.fillStyle = colour(`--${mark.status}`);
      ctx.fillRect(from, bbox.top, Math.max(1, to - from), bbox.height);
    }
    ctx.restore();
  }

  drawMarks(u) {
    const { ctx, bbox } = u,
      ratio = devicePixelRatio || 1;
    ctx.save();
    for (const mark of this.shown()) {
      if (mark.at < u.scales.x.min || mark.at > u.scales.x.max) continue;
      const x = Math.round(u.valToPos(mark.at, "x", true));
      ctx.fillStyle = colour(mark.status === "waiting" ? "--text-2" : `--${mark.status}`);
      for (let y = bbox.top; y < bbox.top + bbox.height; y += 6 * ratio) ctx.fillRect(x, y, ratio, 3 * ratio);
      if (!this.isSmall) flag(ctx, mark.shape, x, bbox.top - 6 * ratio, 4 * ratio);
    }
    ctx.restore();
  }

  /** The pointer, here or on another chart of the page, came over a step or left. */
  point(u) {
    this.at = u.cursor.idx ?? null;
    this.read();
  }

  /** Lists the series; a press hides one. */
  list() {
    const { series, unit, left_out } = this.chart;
    const rows = series.map((each, i) => {
      const known = span(each.values),
        button = el(
          "button",
          { type: "button", class: "btn bare key", "aria-pressed": String(!this.off.has(each.name)) },
          each.name,
        );
      button.style.setProperty("--c", `var(${hue(each, i)})`);
      button.addEventListener("click", () => this.toggle(i));
      const spread = this.isSmall
        ? null
        : el(
            "span",
            { class: "dim" },
            known ? `mean ${said(known.mean, unit)}, most ${said(known.most, unit)}` : "",
          );
      return el("li", {}, button, el("b", {}), spread);
    });
    if (left_out) rows.push(el("li", { class: "dim" }, `${left_out} more not drawn`));
    this.readout.replaceChildren(...rows);
  }

  toggle(i, isOn = this.off.has(this.chart.series[i].name)) {
    const { series } = this.chart,
      { name } = series[i];
    if (isOn) this.off.delete(name);
    else this.off.add(name);
    this.readout.children[i]?.firstElementChild.setAttribute("aria-pressed", String(isOn));
    this.plot.setSeries(i + 1, { show: isOn });
    if (series[i].before != null)
      this.plot.setSeries(
        series.length + 1 + series.slice(0, i).filter((each) => each.before != null).length,
        { show: isOn },
      );
  }

  /** Says each figure of the step under the cursor, else of the newest. */
  read() {
    if (!this.chart) return;
    const {
      answer,
      chart: { series, unit, title },
    } = this;
    const i = Math.min(this.at ?? newest(series, answer.at.length), answer.at.length - 1),
      at = answer.at[i];
    const texts = series.map((each) => said(each.values[i], unit));
    series.forEach((each, n) => {
      const now = this.readout.children[n]?.children[1];
      const text = each.before == null ? texts[n] : `${texts[n]} (before ${said(each.before[i], unit)})`;
      if (now && now.textContent !== text) now.textContent = text;
    });
    const seconds = this.plot
      ? (NEAR_PX * (answer.until - answer.since)) / Math.max(1, this.plot.over.clientWidth)
      : 0;
    const told = this.at == null ? [] : near(this.shown(), at, Math.max(seconds, answer.step_seconds / 2));
    const clock = at == null ? "" : moment(at * 1000).replace(/:\d\d$/, "");
    this.when.textContent = [this.at == null ? "" : clock, ...told.slice(0, 3).map((mark) => mark.text)]
      .filter(Boolean)
      .join(" · ");
    this.when.title = at == null ? "" : exact(at * 1000);
    const place = {
      "aria-valuemin": 0,
      "aria-valuemax": Math.max(0, answer.at.length - 1),
      "aria-valuenow": Math.max(0, i),
    };
    for (const [name, value] of Object.entries(place)) this.place.setAttribute(name, String(value));
    const figures = series.map((each, n) => `${each.name} ${texts[n]}`).join(", ");
    this.place.setAttribute(
      "aria-valuetext",
      this.isEmpty
        ? `${title}: nothing is recorded`
        : `${clock}: ${figures}${told.length ? `; ${told.map((mark) => mark.text).join("; ")}` : ""}`,
    );
  }

  /** Moves the cursor of every chart of the page. @param {number} i */
  move(i) {
    const at = this.answer.at[Math.min(Math.max(0, i), this.answer.at.length - 1)];
    this.plot.setCursor({ left: this.plot.valToPos(at, "x"), top: 0 }, true, true);
  }

  key(event) {
    if (!this.plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.answer.at.length - 1,
      i = this.at ?? last,
      step = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: i - step, ArrowRight: i + step, Home: 0, End: last }[event.key];
    if (to != null) this.move(to);
    else if (event.key === "Enter") this.go(i);
    else if (event.key === "Escape") {
      this.plot.setCursor({ left: -10, top: -10 }, true, true);
      return;
    } else return;
    event.preventDefault();
  }

  /** The end of a brush zooms to what it covers. */
  select(u) {
    const { left, width } = u.select;
    if (width < 6) return;
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.brushed = performance.now();
    this.onZoom(...stretch(u.posToVal(left, "x"), u.posToVal(left + width, "x")));
  }

  click() {
    const isBrush = performance.now() - (this.brushed ?? -Infinity) < 300;
    if (!isBrush && this.at != null) this.go(this.at);
  }

  /** Opens the history at a step; small charts open Trends around it. */
  go(i) {
    const { answer, chart } = this,
      at = answer.at[i];
    if (at == null) return;
    const { query } = this.figure.dataset;
    location.assign(
      this.isSmall
        ? `/trends?${within(query, at - 15 * answer.step_seconds, Math.min(answer.until, at + 15 * answer.step_seconds))}`
        : history(query, at, answer.step_seconds, chart.kinds),
    );
  }
}
