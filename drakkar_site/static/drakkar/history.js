// History stands still while it is read; it says how many events have come since.
import { ages } from "./page.js";
import { listen } from "./socket.js";

const EVERY_MS = 2000,
  PATIENCE_MS = 10_000;
const news = document.getElementById("news"),
  age = document.querySelector(".head .age");
let isAsking = false,
  isFull = false,
  asked = 0;

/** Asks the server for what is newer, by the same filters; a full page of it is enough to know. */
async function ask() {
  if (isAsking || document.hidden || performance.now() - asked < EVERY_MS) return;
  isAsking = true;
  asked = performance.now();
  try {
    const answer = isFull
      ? null
      : await fetch(news.dataset.ask, {
          headers: { Accept: "text/html" },
          signal: AbortSignal.timeout(PATIENCE_MS),
        });
    if (answer?.redirected) location.reload();
    else if (!answer || answer.ok) {
      if (answer) show(await answer.text());
      age.dataset.at = performance.now();
    }
  } catch {
    ages(); // no answer: the age says so
  } finally {
    isAsking = false;
  }
}

function show(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  const count = page.querySelectorAll("#events tr").length;
  isFull = page.querySelector("a[rel=prev]") != null;
  news.hidden = count === 0;
  if (count) news.textContent = `${count}${isFull ? "+" : ""} new event${count === 1 ? "" : "s"}: show`;
}

listen(ask);
