// Pages of figures: the socket tells that something changed, the server renders what it is.
import { refresh } from "./panels.js";
import { listen } from "./socket.js";

const every = () => 1000 * Number(document.querySelector("[data-refresh]")?.dataset.refresh ?? 1);
let due = 0;

listen((frame) => {
  if (frame.type === "events") return;
  if (!due)
    due = setTimeout(() => {
      due = 0;
      refresh();
    }, every());
});
