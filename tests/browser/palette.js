// A screenshot as a PNG of at most 256 colours: the most frequent ones, the rest at their nearest.
async (base64) => {
  const bitmap = await createImageBitmap(await (await fetch(`data:image/png;base64,${base64}`)).blob());
  const { width, height } = bitmap, context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const palette = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 256).map(([colour]) => colour);
  const parts = (colour) => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
  const known = palette.map(parts), places = new Map(palette.map((colour, place) => [colour, place]));
  const nearest = (colour) => {
    const [r, g, b] = parts(colour);
    let best = 0, least = Infinity;
    known.forEach((other, place) => {
      const far = (r - other[0]) ** 2 + (g - other[1]) ** 2 + (b - other[2]) ** 2;
      if (far < least) [best, least] = [place, far];
    });
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
