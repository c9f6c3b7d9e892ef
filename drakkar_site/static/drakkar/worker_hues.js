// Colour of a worker: one of twelve, by its name alone, and another where two in view would share.
// domain/worker_hues.py gives the same answers; a test holds both to it.

const HUES = 12,
  STEP = 5,
  FNV_BASIS = 0x811c9dc5,
  FNV_PRIME = 0x01000193;
const encoder = new TextEncoder();

/** FNV-1a, 32 bits, of the name's UTF-8. @param {string} name @returns {number} */
function hash(name) {
  let value = FNV_BASIS;
  for (const byte of encoder.encode(name)) value = Math.imul(value ^ byte, FNV_PRIME) >>> 0;
  return value;
}

/** Name as both sides write it: cluster, slash, worker. @param {string} cluster @param {string} worker */
export const nameOf = (cluster, worker) => `${cluster}/${worker}`;

/** Colour of a worker where nobody in view has the same, 1 to 12. @param {string} name @returns {number} */
export const firstHue = (name) => (hash(name) % HUES) + 1;

/** Colour of each worker in view: of up to twelve, all are different.
 * @param {Iterable<string>} names names by `nameOf`
 * @returns {Map<string, number>} */
export function hues(names) {
  const taken = Array(HUES + 1).fill(0),
    found = new Map();
  const order = [...new Set(names)].map((name) => ({ name, first: hash(name) }));
  order.sort((a, b) => a.first - b.first || (a.name < b.name ? -1 : 1));
  for (const { name, first } of order) {
    let chosen = (first % HUES) + 1;
    for (let turn = 1; turn < HUES; turn++) {
      const hue = ((first + STEP * turn) % HUES) + 1;
      if (taken[hue] < taken[chosen]) chosen = hue;
    }
    taken[chosen]++;
    found.set(name, chosen);
  }
  return found;
}
