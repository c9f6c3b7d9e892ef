// <copy-text>: a text with a button that copies it; where the browser forbids that, the text is selected.
import { el, icon } from "./format.js";

const TOLD_MS = 2000;

class CopyText extends HTMLElement {
  connectedCallback() {
    if (this.querySelector("button")) return;
    const text = this.textContent.trim();
    const button = el(
      "button",
      {
        class: "btn icon bare copy",
        type: "button",
        "aria-label": `Copy ${text.slice(0, 60)}`,
        title: "Copy",
      },
      icon("copy"),
    );
    const told = el("span", { class: "dim", role: "status" });
    const words = document.createRange();
    words.selectNodeContents(this);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        told.textContent = "copied";
      } catch {
        words.setEndBefore(button);
        getSelection().removeAllRanges();
        getSelection().addRange(words);
        told.textContent = "selected: press Ctrl-C";
      }
      setTimeout(() => {
        told.textContent = "";
      }, TOLD_MS);
    });
    this.append(button, told);
  }
}

customElements.define("copy-text", CopyText);
