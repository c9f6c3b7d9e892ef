// Panels that wait for something ([data-waiting], with an id) are fetched anew until they do not.
import { times } from "./page.js";

const EVERY_MS = 2000;

async function refresh() {
  const waiting = [...document.querySelectorAll("[data-waiting]")];
  if (!waiting.length) return;
  if (!document.hidden) {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    if (answer?.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of waiting) {
        const next = page.getElementById(old.id);
        if (!next) continue;
        times(next);
        old.replaceWith(next);
      }
    }
  }
  setTimeout(refresh, EVERY_MS);
}

setTimeout(refresh, EVERY_MS);
