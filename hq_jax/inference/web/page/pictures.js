// Pictures to pixels, by the browser's decoders.

const MAX_PIXELS = 50e6;

/** RGBA, upright, what is transparent laid over white. */
export async function readPixels(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(
      blob, {imageOrientation: 'from-image', colorSpaceConversion: 'none'});
  } catch {
    throw new Error('this is no picture that the browser can read');
  }
  const {width, height} = bitmap;
  if (width * height > MAX_PIXELS) {
    throw new Error(`the picture has ${width} x ${height} pixels, wanted at ` +
      `most ${MAX_PIXELS / 1e6} million`);
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return {data: context.getImageData(0, 0, width, height).data, width, height};
}
