// The dashboard: the socket tells that something changed, the server renders what it is.
import { ages, connection, times } from "./page.js";
import { listen } from "./socket.js";

const EVERY_MS = 1000;
let last = "", due = 0, isAsking = false;

/** Replaces panels that differ, except one the reader points at or works in. */
function put(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const old of document.querySelectorAll("main [id^='p-']")) {
    const next = fresh.getElementById(old.id);
    if (!next || old.contains(document.activeElement) || old.matches(":hover")) continue;
    for (const badge of next.querySelectorAll(".age")) badge.dataset.at = performance.now();
    times(next);
    old.replaceChildren(...next.childNodes);
  }
  ages();
}

async function refresh() {
  due = 0;
  if (isAsking || document.hidden) return;
  isAsking = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected) location.reload();
    else if (answer.ok) put(await answer.text());
  } catch {
    connection.state = "lost";
  } finally {
    isAsking = false;
  }
}

listen((frame) => {
  if (frame.type === "events") return;
  const now = JSON.stringify([frame.beat_at, frame.dashboard]);
  if (now === last && frame.type === "state") return;
  last = now;
  if (!due) due = setTimeout(refresh, EVERY_MS);
});
