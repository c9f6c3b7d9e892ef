// Panels of a page brought up to date: the server renders what they hold now.
import { ages, times } from "./page.js";

const PATIENCE_MS = 10_000,
  READING_MS = 5000;
let isAsking = false,
  pointed = -Infinity;
addEventListener(
  "pointermove",
  () => {
    pointed = performance.now();
  },
  { passive: true },
);

/** Rows and totals by key, where both panels hold the same ones in the same order: nothing moves. */
function rowByRow(old, next) {
  const [mine, fresh] = [old, next].map((panel) => [...panel.querySelectorAll("tr[data-key], b[data-key]")]);
  if (
    !mine.length ||
    mine.length !== fresh.length ||
    mine.some((row, i) => row.dataset.key !== fresh[i].dataset.key)
  )
    return false;
  mine.forEach((row, i) => {
    if (row.contains(document.activeElement) || row.innerHTML === fresh[i].innerHTML) return;
    row.className = fresh[i].className;
    row.replaceChildren(...fresh[i].childNodes);
  });
  const badge = old.querySelector(".age"),
    newer = next.querySelector(".age");
  if (badge && newer) Object.assign(badge.dataset, newer.dataset);
  return true;
}

/** No row moves under the pointer; what is no table waits only while the pointer moves, not for one left there. */
const isRead = (panel) =>
  panel.matches(":hover") &&
  (panel.querySelector("table") != null || performance.now() - pointed < READING_MS);

/** @returns {?string} the link in the panel that has the focus, where nothing but links can have it */
function focused(panel) {
  return panel.contains(document.activeElement) && !panel.querySelector("table")
    ? document.activeElement.getAttribute("href")
    : null;
}

/** What is open stays open, by its key, and what is chosen stays chosen, by its value. */
export function keepOpen(old, next) {
  for (const each of old.querySelectorAll("details[data-key]")) {
    const same = next.querySelector(`details[data-key="${CSS.escape(each.dataset.key)}"]`);
    if (same) same.open = each.open;
  }
  for (const box of old.querySelectorAll("input[type=checkbox]:checked")) {
    const same = next.querySelector(`input[type=checkbox][value="${CSS.escape(box.value)}"]`);
    if (same) same.checked = true;
  }
}

function swap(old, next) {
  const at = focused(old);
  old.replaceChildren(...next.childNodes);
  if (at != null)
    [...old.querySelectorAll("a")]
      .find((link) => link.getAttribute("href") === at)
      ?.focus({ preventScroll: true });
}

/** Brings each panel up to date; one the reader points at or works in only row by row. */
function put(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const old of document.querySelectorAll("main [id^='p-']")) {
    const next = fresh.getElementById(old.id);
    if (!next) continue;
    for (const badge of next.querySelectorAll(".age")) badge.dataset.at = performance.now();
    times(next);
    keepOpen(old, next);
    const isUsed = old.contains(document.activeElement) && focused(old) == null;
    if (isUsed || isRead(old)) rowByRow(old, next);
    else swap(old, next);
  }
  ages();
}

export async function refresh() {
  if (isAsking || document.hidden) return;
  isAsking = true;
  try {
    const answer = await fetch(location.href, {
      headers: { Accept: "text/html" },
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (answer.redirected) location.reload();
    else if (answer.ok) put(await answer.text());
  } catch {
    ages(); // no answer: what stands here grows old, and says so
  } finally {
    isAsking = false;
  }
}
