// A screenshot in at most 256 colours: the most frequent ones, then what lies farthest from them.
async (base64) => {
  const bitmap = await createImageBitmap(await (await fetch(`data:image/png;base64,${base64}`)).blob());
  const { width, height } = bitmap, context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const parts = (colour) => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
  const far = (a, b) => (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2;
  const byCount = [...counts].sort((a, b) => b[1] - a[1]), palette = byCount.slice(0, 96).map(([colour]) => colour);
  const rest = byCount.slice(96, 6000).map(([colour, count]) => ({ colour, count, at: parts(colour), miss: Infinity }));
  const cover = (colour) => { const at = parts(colour); for (const one of rest) one.miss = Math.min(one.miss, far(at, one.at)); };
  palette.forEach(cover);
  while (palette.length < 256 && rest.length) {
    const next = rest.reduce((best, one) => (one.miss * Math.sqrt(one.count) > best.miss * Math.sqrt(best.count) ? one : best));
    if (!next.miss) break;
    palette.push(next.colour);
    cover(next.colour);
  }
  const known = palette.map(parts), places = new Map(palette.map((colour, place) => [colour, place]));
  const nearest = (colour) => {
    const at = parts(colour);
    let best = 0, least = Infinity;
    known.forEach((other, place) => { const miss = far(at, other); if (miss < least) [best, least] = [place, miss]; });
    return best;
  };
  const rows = new Uint8Array(height * (width + 1));
  for (let y = 0, from = 0; y < height; y++) for (let x = 0; x < width; x++, from++) {
    const colour = pixels[from];
    if (!places.has(colour)) places.set(colour, nearest(colour));
    rows[y * (width + 1) + 1 + x] = places.get(colour);
  }
  const packed = new Uint8Array(await new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer());
  let text = "";
  for (const byte of packed) text += String.fromCharCode(byte);
  return { width, height, palette: known.flat(), packed: btoa(text) };
}
