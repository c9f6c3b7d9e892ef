// The page's one WebSocket: acknowledges, resumes from its cursor, pauses, rests while the tab is hidden.
import { ages, connection } from "./page.js";

const RETRY_MS = 2000;
const SILENT_MS = 8000; // a state comes every 2 s: who hears nothing is cut off
const PATIENT_MS = 32_000; // each silence doubles it up to this: a slow server gets its chance
const ASK_MS = 10_000;
const LOOK_MS = 1000,
  SLEPT_MS = 5000; // the clock of a page may stand still while its machine sleeps

/**
 * @param {(frame: {type: string, n: number, cursor: Object<string, number>}) => void} onFrame
 * @param {{recent?: boolean, freezes?: boolean, path?: string, lost?: (code: number) => void}} wanted
 *   whether the snapshot shall bring the latest events; whether the page freezes by itself instead
 *   of leaving the socket; which socket; who hears of a cut with its close code
 * @returns {() => void} ends it for good
 */
export function listen(onFrame, wanted = {}) {
  let socket = null,
    retry = 0,
    silence = 0,
    patience = SILENT_MS,
    cursor = null,
    heard = null,
    asked = -ASK_MS,
    isOver = false;
  const say = (state) => {
    if (connection.state !== state)
      Object.assign(connection, { state, at: state === "lost" && heard != null ? heard : performance.now() });
    ages();
    document.dispatchEvent(new Event("connchange"));
  };
  const address = () => {
    const at = new URL(wanted.path ?? "/ws/live", location.href);
    at.protocol = at.protocol === "https:" ? "wss:" : "ws:";
    for (const name of ["cluster", "worker"]) {
      const value = new URLSearchParams(location.search).get(name);
      if (value) at.searchParams.set(name, value);
    }
    if (wanted.recent) at.searchParams.set("recent", "1");
    if (cursor) at.searchParams.set("cursor", JSON.stringify(cursor));
    return at;
  };
  const open = () => {
    clearTimeout(retry);
    if (socket || isOver || document.hidden || connection.state === "paused") return;
    const mine = (socket = new WebSocket(address()));
    listenFor(mine);
    mine.addEventListener("message", (event) => {
      if (socket !== mine) return;
      patience = SILENT_MS;
      listenFor(mine);
      heard = performance.now();
      const frame = JSON.parse(event.data);
      onFrame(frame);
      cursor = frame.cursor;
      mine.send(JSON.stringify({ ack: frame.n }));
      say("live");
    });
    mine.addEventListener("close", (event) => lose(mine, event.code));
  };
  const lose = (mine, code = 0) => {
    if (socket !== mine) return;
    shut();
    say("lost");
    wanted.lost?.(code);
    retry = setTimeout(open, RETRY_MS);
    askIn();
  };
  /** Who is signed out is refused by the socket, too, but it cannot say so: the page can. */
  const askIn = async () => {
    if (performance.now() - asked < ASK_MS) return;
    asked = performance.now();
    const answer = await fetch(location.href, {
      method: "HEAD",
      redirect: "manual",
      signal: AbortSignal.timeout(ASK_MS),
    }).catch(() => null);
    if (answer?.type === "opaqueredirect") location.reload();
  };
  const listenFor = (mine) => {
    clearTimeout(silence);
    silence = setTimeout(tire, patience, mine);
  };
  const tire = (mine) => {
    patience = Math.min(PATIENT_MS, 2 * patience);
    lose(mine);
  };
  const shut = () => {
    const old = socket;
    socket = null;
    clearTimeout(retry);
    clearTimeout(silence);
    old?.close();
  };
  const rest = () => {
    shut();
    if (connection.state === "live") say("none");
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : open()));
  addEventListener("pageshow", ({ persisted }) => {
    if (persisted) open();
  });
  let ahead = Date.now() - performance.now();
  setInterval(() => {
    const now = Date.now() - performance.now();
    if (now - ahead > SLEPT_MS && socket) lose(socket);
    ahead = now;
  }, LOOK_MS);
  document.addEventListener("livepause", () => {
    if (wanted.freezes) return;
    if (connection.state === "paused") {
      connection.state = "none";
      open();
    } else {
      shut();
      say("paused");
    }
  });
  open();
  return () => {
    isOver = true;
    shut();
    say("none");
  };
}
