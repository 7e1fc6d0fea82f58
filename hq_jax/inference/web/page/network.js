// The weights of a network, from the tensors of its file to those of ONNX.

import {toFloat32} from './decoder/hq.js';
import {refuse} from './decoder/refusal.js';

/**
 * Fills the one buffer of float32 that `network.onnx` refers to.
 *
 * `parts` says what lies in it, in order: the values of a tensor, or a kernel,
 * the output channels first, and its bias; the norm that follows is in both.
 */
export function makeWeights(tensors, parts) {
  const read = makeReader(tensors);
  const arrays = parts.flatMap((part) =>
    part.kernel ? makeLayer(read, part) : [read(part.values, part.place)]);
  const size = arrays.reduce((sum, array) => sum + array.length, 0);
  const weights = new Float32Array(size);
  let start = 0;
  for (const array of arrays) {
    weights.set(array, start);
    start += array.length;
  }
  return weights;
}

/** What reads the values of a tensor, or those at a place of its first axis. */
function makeReader(tensors) {
  // A tensor is decoded once, for all layers that it holds.
  const stacks = new Map();
  return (path, place = null) => {
    const tensor = tensors.get(path) ?? refuse(`${path} is not in the file`);
    if (place === null) return toFloat32(tensor);
    if (!stacks.has(path)) stacks.set(path, toFloat32(tensor));
    const values = stacks.get(path);
    const size = values.length / tensor.shape[0];
    return values.subarray(place * size, (place + 1) * size);
  };
}

function makeLayer(read, {kernel, shape, bias: added, norm, place}) {
  const width = shape.at(-1);
  const scale = new Float64Array(width).fill(1);
  const bias = new Float64Array(width);
  if (added) bias.set(read(added, place));
  if (norm) {
    scale.set(read(`${norm}/scale`));
    const shift = read(`${norm}/bias`);
    bias.forEach((value, i) => (bias[i] = value * scale[i] + shift[i]));
  }
  const values = transpose(read(kernel, place), shape, scale);
  return [values, Float32Array.from(bias)];
}

/** A kernel times its scales, `[height, width, in, out]` to `[out, in, ..]`. */
function transpose(values, shape, scale) {
  const [height, width] = shape.length === 4 ? shape : [1, 1];
  const [rows, columns] = shape.slice(-2);
  const found = new Float32Array(values.length);
  const taps = height * width;
  for (let tap = 0, at = 0; tap < taps; tap++) {
    for (let row = 0; row < rows; row++) {
      const start = row * taps + tap;
      for (let column = 0; column < columns; column++, at++) {
        found[column * rows * taps + start] = values[at] * scale[column];
      }
    }
  }
  return found;
}
