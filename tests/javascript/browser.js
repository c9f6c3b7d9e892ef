// What modules of the pages find in a browser as they are loaded, in memory.
const kept = new Map();
globalThis.localStorage = {
  getItem: (name) => kept.get(name) ?? null,
  setItem: (name, text) => kept.set(name, String(text)),
};
