// Live output of a running task: its socket brings text and figures, the server the panels around.
import { bytes, dur, el, icon, num, percent, visible } from "./format.js";
import { refresh } from "./panels.js";
import { listen } from "./socket.js";

const panel = document.getElementById("tail");
const AWAY = 4503,
  REFRESH_MS = 2000,
  SILENT_MS = 10_000;
const KEPT = 200_000; // characters of a stream that stay in the page
const WORDS = {
  connecting: ["waiting", "connecting"],
  running: ["running", "running"],
  waiting: ["waiting", "waits to run"],
  delivering: ["completed", "its program ended"],
  absent: ["waiting", "not at its worker"],
  refused: ["paused", "refused"],
  lost: ["failed", "worker lost"],
  away: ["failed", "database away"],
  cut: ["failed", "disconnected"],
};
let last = null,
  connecting = performance.now(),
  refreshed = performance.now(),
  isAway = false;

/** One stream: text, with marks where bytes are missing; the oldest goes when there is too much. */
class Output {
  constructor(root) {
    this.root = root;
    this.box = root.querySelector("pre");
    this.box.addEventListener(
      "scroll",
      () => {
        this.follows = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 24;
      },
      { passive: true },
    );
    this.forget();
  }

  forget() {
    this.box.replaceChildren();
    this.size = 0;
    this.isShort = false;
    this.follows = true;
  }

  /** @param {{left_out: number, text: string}} written */
  add(written) {
    if (written.left_out)
      this.box.append(el("span", { class: "cutout" }, `${num(written.left_out)} bytes left out`));
    this.box.append(visible(written.text));
    this.size += written.text.length;
    while (this.size > KEPT && this.box.childNodes.length > 1) {
      const first = this.box.firstChild;
      if (first.nodeType === Node.TEXT_NODE) this.size -= first.length;
      first.remove();
      this.isShort = true;
    }
    if (this.isShort && !this.box.firstChild?.classList)
      this.box.prepend(el("span", { class: "cutout" }, "earlier output is no longer here"));
  }

  /** @param {?number} written bytes in all; null: the worker did not say yet */
  show(written) {
    const isEmpty = this.size === 0;
    this.root.querySelector("h3 .dim").textContent = written == null ? "" : `${num(written)} bytes so far`;
    const why = this.root.querySelector("p");
    why.textContent = !isEmpty
      ? ""
      : written === 0
        ? "nothing yet"
        : written == null
          ? "not known yet"
          : "written before this page looked";
    why.hidden = !isEmpty;
    this.box.hidden = isEmpty;
    if (this.follows) this.box.scrollTop = this.box.scrollHeight;
  }
}

const outputs = Object.fromEntries(
  [...panel.querySelectorAll("[data-stream]")].map((root) => [root.dataset.stream, new Output(root)]),
);
const put = (name, text) => {
  const node = panel.querySelector(`[data-fact=${name}]`);
  if (node.textContent !== text) node.textContent = text;
};

function standing(state, why = "") {
  const [look, word] = WORDS[state] ?? ["waiting", state];
  const node = panel.querySelector("[role=status]"),
    text = why ? `${word}: ${why}` : word;
  if (node.textContent === text) return;
  node.className = `st s-${look}`;
  node.replaceChildren(icon(look), text);
}

function reason(frame) {
  const silent = performance.now() - connecting;
  if (frame.state === "lost")
    return `${last ? `${last} fell silent or gave its partition away; ` : ""}no live worker has the task's partition`;
  if (frame.state === "refused") return frame.facts.detail ?? "";
  if (frame.state === "waiting") return frame.facts.detail ? `for ${frame.facts.detail}` : "";
  if (frame.state === "absent") return "it ended, or waits for its turn";
  if (frame.state === "connecting" && silent > SILENT_MS)
    return `${frame.worker} has not answered for ${dur(silent)}; an older release knows no live output`;
  return "";
}

function facts(frame) {
  const { facts: told } = frame;
  put("attempt", told.attempt == null ? "unknown" : `${told.attempt} at ${frame.worker}`);
  put("pid", told.pid == null ? "unknown" : `${told.pid}${told.slot == null ? "" : `, slot ${told.slot}`}`);
  put("elapsed", told.elapsed_seconds == null ? "unknown" : dur(1000 * told.elapsed_seconds));
  put("cpu", told.cpu_seconds == null ? "unknown" : `${told.cpu_seconds.toFixed(2)} s`);
  put(
    "rss",
    told.rss_bytes == null
      ? "unknown"
      : `${bytes(told.rss_bytes)} in ${num(told.processes)} process${told.processes === 1 ? "" : "es"}`,
  );
  const bar = panel.querySelector("progress"),
    isKnown = told.progress != null;
  bar.hidden = !isKnown;
  if (isKnown) bar.value = told.progress;
  put(
    "progress",
    isKnown || told.note
      ? [isKnown ? percent(told.progress) : "", visible(told.note ?? "")].filter(Boolean).join(", ")
      : "none told",
  );
}

async function around() {
  refreshed = performance.now();
  await refresh();
  const head = document.querySelector("#p-head [data-status]");
  if (!head || "open" in head.dataset) return;
  leave();
  if (head.dataset.status === "unknown")
    standing("lost", `${last ?? "it"} fell silent; this was seen live and is recorded nowhere`);
  else panel.hidden = true; // what was recorded stands in the attempts now
}

const leave = listen(
  (frame) => {
    isAway = false;
    if (frame.is_anew) for (const output of Object.values(outputs)) output.forget();
    if (frame.state !== "connecting") connecting = performance.now();
    for (const written of frame.written) outputs[written.stream]?.add(written);
    facts(frame);
    for (const [name, output] of Object.entries(outputs)) output.show(frame.facts[`${name}_bytes`]);
    standing(frame.state, reason(frame));
    last = frame.worker ?? last;
    const badge = panel.querySelector(".age");
    Object.assign(badge.dataset, { at: performance.now(), age: 0 });
    if (performance.now() - refreshed > REFRESH_MS) around();
  },
  {
    path: panel.dataset.socket,
    lost: (code) => {
      isAway ||= code === AWAY;
      standing(
        isAway ? "away" : "cut",
        isAway ? "what stands here is from before; it goes on by itself" : "",
      );
    },
  },
);
