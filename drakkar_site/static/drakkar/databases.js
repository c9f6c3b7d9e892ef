// Databases: while an export waits or runs, its panel is fetched anew.
import { times } from "./page.js";

const EVERY_MS = 2000;

async function refresh() {
  const old = document.getElementById("p-exports");
  if (!old?.hasAttribute("data-waiting")) return;
  if (!document.hidden) {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    if (answer?.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = page.getElementById("p-exports");
      if (next) {
        times(next);
        old.replaceWith(next);
      }
    }
  }
  setTimeout(refresh, EVERY_MS);
}

setTimeout(refresh, EVERY_MS);
