// The weights of a network, from the tensors of its file to those of ONNX.

import {toFloat32} from './decoder/hq.js';
import {refuse} from './decoder/refusal.js';

/**
 * Fills the one buffer of float32 that `network.onnx` refers to.
 *
 * `layers` says what lies in it, in order: of each layer its kernel, the output
 * channels first, and its bias; the norm that follows it is in both.
 */
export function makeWeights(tensors, layers) {
  const get = (path) =>
    tensors.get(path) ?? refuse(`${path} is not in the file`);
  const parts = layers.flatMap(({name, norm, has_bias: hasBias}) => {
    const kernel = get(`params/${name}/kernel`);
    const width = kernel.shape.at(-1);
    const scale = new Float64Array(width).fill(1);
    const bias = new Float64Array(width);
    if (hasBias) bias.set(toFloat32(get(`params/${name}/bias`)));
    if (norm) {
      scale.set(toFloat32(get(`params/${norm}/scale`)));
      const added = toFloat32(get(`params/${norm}/bias`));
      bias.forEach((value, i) => (bias[i] = value * scale[i] + added[i]));
    }
    return [transpose(kernel, scale), Float32Array.from(bias)];
  });
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  const weights = new Float32Array(size);
  let start = 0;
  for (const part of parts) {
    weights.set(part, start);
    start += part.length;
  }
  return weights;
}

/** A kernel times its scales, `[height, width, in, out]` to `[out, in, ..]`. */
function transpose(kernel, scale) {
  const {shape} = kernel;
  const [height, width] = shape.length === 4 ? shape : [1, 1];
  const [rows, columns] = shape.slice(-2);
  const values = toFloat32(kernel);
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
