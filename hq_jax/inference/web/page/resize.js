// The antialiased bilinear resize of Pillow, bit for bit, of 8-bit pixels.

const BITS = 22; // of the fractions by which pixels are multiplied

/**
 * Resizes the part `box` (left, top, right, bottom) of an image.
 *
 * `image` is `{data, width, height, channels}`, its data row-major, 0 to 255.
 */
export function resize(image, box, width, height) {
  // Pillow takes the box as float32.
  const [left, top, right, bottom] = box.map(Math.fround);
  const passes = [];
  if (width !== image.width || left !== 0 || right !== width) {
    const taps = findTaps(image.width, left, right, width);
    passes.push((found) => resizeRows(found, taps, width));
  }
  if (height !== image.height || top !== 0 || bottom !== height) {
    const taps = findTaps(image.height, top, bottom, height);
    passes.push((found) => resizeColumns(found, taps, height));
  }
  if (isTall(image, width, height)) passes.reverse();
  return passes.reduce((found, pass) => pass(found), image);
}

/** Whether Pillow, from its release 13 on, begins with the columns. */
function isTall(image, width, height) {
  return image.height > height &&
    image.height - height > 2 * (image.width - width);
}

/** Of every pixel of the result: the first that it is made of, and weights. */
function findTaps(size, start, end, resized) {
  const scale = Math.fround(end - start) / resized;
  const support = Math.max(1, scale);
  return Array.from({length: resized}, (_, i) => {
    const center = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(size, Math.trunc(center + support + 0.5));
    const weights = [];
    let sum = 0;
    for (let j = first; j < last; j++) {
      const distance = Math.abs((j - center + 0.5) * (1 / support));
      weights.push(distance < 1 ? 1 - distance : 0);
      sum += weights.at(-1);
    }
    const toFraction = (weight) =>
      Math.trunc(0.5 + (sum ? weight / sum : weight) * 2 ** BITS);
    return {first, weights: Int32Array.from(weights, toFraction)};
  });
}

function resizeRows({data, width, height, channels}, taps, resized) {
  const found = new Uint8ClampedArray(resized * height * channels);
  for (let y = 0, at = 0; y < height; y++) {
    for (const {first, weights} of taps) {
      const from = (y * width + first) * channels;
      for (let channel = 0; channel < channels; channel++) {
        found[at++] = blend(data, from + channel, channels, weights);
      }
    }
  }
  return {data: found, width: resized, height, channels};
}

function resizeColumns({data, width, channels}, taps, resized) {
  const row = width * channels;
  const found = new Uint8ClampedArray(resized * row);
  let at = 0;
  for (const {first, weights} of taps) {
    for (let i = 0; i < row; i++) {
      found[at++] = blend(data, first * row + i, row, weights);
    }
  }
  return {data: found, width, height: resized, channels};
}

/** A weighted sum, rounded; it is within 32 bits. */
function blend(data, start, step, weights) {
  let sum = 1 << (BITS - 1);
  for (let i = 0, at = start; i < weights.length; i++, at += step) {
    sum += data[at] * weights[i];
  }
  return sum >> BITS;
}
