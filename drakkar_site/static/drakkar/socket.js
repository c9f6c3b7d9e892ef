// The page's one WebSocket: reconnects, pauses, rests while the tab is hidden.
import { ages, connection } from "./page.js";

const RETRY_MS = 2000;

/** @param {(frame: {type: string, cursor: object}) => void} onFrame */
export function listen(onFrame) {
  let socket = null, retry = 0;
  const say = (state) => {
    if (connection.state !== state) Object.assign(connection, { state, at: performance.now() });
    ages();
  };
  const open = () => {
    clearTimeout(retry);
    if (socket || document.hidden || connection.state === "paused") return;
    const at = new URL("/ws/live", location.href);
    at.protocol = at.protocol === "https:" ? "wss:" : "ws:";
    for (const name of ["cluster", "worker"]) {
      const value = new URLSearchParams(location.search).get(name);
      if (value) at.searchParams.set(name, value);
    }
    const mine = socket = new WebSocket(at);
    mine.addEventListener("open", () => say("live"));
    mine.addEventListener("message", (event) => onFrame(JSON.parse(event.data)));
    mine.addEventListener("close", () => {
      if (socket !== mine) return;
      socket = null;
      say("lost");
      retry = setTimeout(open, RETRY_MS);
    });
  };
  const shut = () => { const old = socket; socket = null; clearTimeout(retry); old?.close(); };
  document.addEventListener("visibilitychange", () => (document.hidden ? shut() : open()));
  document.addEventListener("livepause", () => {
    if (connection.state === "paused") { connection.state = "none"; open(); } else { shut(); say("paused"); }
  });
  open();
}
