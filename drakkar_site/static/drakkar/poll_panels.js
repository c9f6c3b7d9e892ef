// Panels that wait for something ([data-waiting], with an id) are fetched anew until they do not.
import { ages, connection, times } from "./page.js";
import { keepOpen } from "./panels.js";

const EVERY_MS = 2000,
  PATIENCE_MS = 10_000;
let heard = performance.now();

/** Without an answer the page says so: what it waits for may have come long ago. */
function say(isHeard) {
  if (isHeard) heard = performance.now();
  Object.assign(connection, isHeard ? { state: "none" } : { state: "lost", at: heard });
  ages();
}

/** The page as it is now; empty without an answer, or with one that is no page. */
async function ask() {
  try {
    const answer = await fetch(location.href, {
      headers: { Accept: "text/html" },
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (answer.redirected) location.assign(answer.url); // signed out: nothing would come any more
    const text = answer.ok ? await answer.text() : "";
    say(answer.status < 500);
    return text;
  } catch {
    say(false);
    return "";
  }
}

function put(waiting, text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  for (const old of waiting) {
    const next = page.getElementById(old.id);
    if (!next) continue;
    times(next);
    keepOpen(old, next);
    old.replaceWith(next);
  }
}

async function refresh() {
  const waiting = [...document.querySelectorAll("[data-waiting]")];
  if (!waiting.length) return;
  const text = document.hidden ? "" : await ask();
  if (text) put(waiting, text);
  setTimeout(refresh, EVERY_MS);
}

setTimeout(refresh, EVERY_MS);
