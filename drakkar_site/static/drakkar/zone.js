// Times in filters: shown and typed in the chosen zone, sent in UTC, so that an address means one time to everybody.
import { isUtc, toLocal, toUtc } from "./format.js";

const fields = () => document.querySelectorAll("input[type=datetime-local]");

/** Shows each field's time, which is in UTC, in the chosen zone. */
function show() {
  for (const field of fields()) {
    const utc = field.dataset.utc ?? field.value;
    field.dataset.utc = utc;
    field.defaultValue = field.value = isUtc() ? utc : toLocal(utc);
  }
  for (const node of document.querySelectorAll(".zone")) node.textContent = isUtc() ? "UTC" : "local time";
}

addEventListener("input", ({ target }) => {
  if (target.matches("input[type=datetime-local]"))
    target.dataset.utc = isUtc() ? target.value : toUtc(target.value);
});
addEventListener("formdata", ({ target, formData }) => {
  for (const field of target.querySelectorAll("input[type=datetime-local]"))
    if (field.name && field.value) formData.set(field.name, field.dataset.utc);
});
document.addEventListener("clockchange", show);
show();
