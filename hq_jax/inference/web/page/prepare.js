// From the pixels of a picture to what the network takes.

import {resize} from './resize.js';

/**
 * Resizes, cuts and normalizes a picture as it was done in training.
 *
 * Takes RGBA bytes, opaque; returns a Float32Array, rows, columns, channels.
 */
export function prepare({data, width, height}, inputShape, preprocessing) {
  const [rows, columns, channels] = inputShape;
  const image = {data: takeChannels(data, channels), width, height, channels};
  const {resize: side, crop} = preprocessing;
  const box = crop === undefined ?
    findMiddle(width, height, columns, rows) :
    findCrop(width, height, side, crop);
  return normalize(resize(image, box, columns, rows), preprocessing);
}

function takeChannels(rgba, channels) {
  if (channels !== 1 && channels !== 3) {
    throw new Error(`the network takes ${channels} channels, no pictures`);
  }
  const found = new Uint8ClampedArray((rgba.length / 4) * channels);
  for (let i = 0, at = 0; i < rgba.length; i += 4) {
    if (channels === 3) {
      found[at++] = rgba[i];
      found[at++] = rgba[i + 1];
      found[at++] = rgba[i + 2];
    } else {
      // Pillow's brightness: 0.299, 0.587 and 0.114 of 2^16.
      found[at++] = (rgba[i] * 19595 + rgba[i + 1] * 38470 +
        rgba[i + 2] * 7471 + 0x8000) >> 16;
    }
  }
  return found;
}

/** The middle `crop` pixels once the shorter side has `side`. */
function findCrop(width, height, side, crop) {
  const shorter = Math.min(width, height);
  const [[left, right], [top, bottom]] = [width, height].map((length) => {
    const resized = Math.floor((side * length) / shorter);
    const start = roundHalfToEven((resized - crop) / 2);
    return [
      (start * length) / resized, ((start + crop) * length) / resized,
    ];
  });
  return [left, top, right, bottom];
}

/** The middle with the shape of the network's input, as large as it can be. */
function findMiddle(width, height, columns, rows) {
  const boxWidth = Math.min(width, (height * columns) / rows);
  const boxHeight = Math.min(height, (width * rows) / columns);
  const left = (width - boxWidth) / 2;
  const top = (height - boxHeight) / 2;
  return [left, top, left + boxWidth, top + boxHeight];
}

function roundHalfToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}

function normalize({data, channels}, preprocessing) {
  const {mean, std, pixel_min: low = 0, pixel_max: high = 255} = preprocessing;
  const means = Float32Array.from(mean);
  const stds = Float32Array.from(std);
  const step = Math.fround((high - low) / 255);
  const isBytes = low === 0 && high === 255;
  const found = new Float32Array(data.length);
  // Every step is rounded to float32.
  for (let i = 0; i < data.length; i++) {
    const pixel = isBytes ? data[i] :
      Math.fround(Math.fround(data[i] * step) + Math.fround(low));
    found[i] = Math.fround(pixel - means[i % channels]) / stds[i % channels];
  }
  return found;
}
