// The indices of codebook tensors, by counts of those before them.

import {FREE_BYTES, MAX_CODES_PER_BYTE, Stream} from './ans.js';
import {refuse} from './refusal.js';

const NAME = 'indices';
const FIRST = 32;
const TOTAL = 2 ** 24;
const MAX_WEIGHT = TOTAL - 45568;

/** Decodes all tensors, each `{numCodewords, size}`, to Uint8Arrays. */
export function decodeIndices(body, tensors) {
  const coded = tensors.filter((tensor) => tensor.numCodewords > 1);
  const needed = coded.reduce(
    (sum, {size}) => sum + size + 255 * Math.min(size, FIRST), 0);
  if (needed > MAX_CODES_PER_BYTE * (body.length + FREE_BYTES)) {
    refuse(`${NAME}: too many for a stream of ${body.length} bytes`);
  }
  const stream = new Stream(body, NAME);
  const found = tensors.map(({numCodewords, size}) => {
    const indices = new Uint8Array(size);
    if (numCodewords > 1) {
      decodeTensor(stream, indices, new Array(numCodewords).fill(0));
    }
    return indices;
  });
  stream.checkEnd();
  return found;
}

/** Decodes one tensor into `indices`; `counts` are those to begin with. */
export function decodeTensor(stream, indices, counts) {
  for (let start = 0; start < indices.length;) {
    const end = Math.min(
      indices.length, start + Math.max(FIRST, Math.floor(start / 8)));
    decodeBlock(stream, indices.subarray(start, end), makeEnds(counts));
    for (let i = start; i < end; i++) counts[indices[i]]++;
    start = end;
  }
}

/** Where the weights of the indices end, each being the start of the next. */
function makeEnds(counts) {
  // Products are up to 2^56 here: no doubles.
  const size = BigInt(counts.length);
  const number = counts.reduce((sum, count) => sum + count, 0);
  const divisor = 2n * BigInt(number) + size;
  const weights = counts.map((count) => Number(
    1n + ((BigInt(TOTAL) - size) * (2n * BigInt(count) + 1n)) / divisor));
  const first = findLargest(weights, -1);
  weights[first] += TOTAL - weights.reduce((sum, weight) => sum + weight, 0);
  const excess = Math.max(0, weights[first] - MAX_WEIGHT);
  weights[first] -= excess;
  weights[findLargest(weights, first)] += excess;
  let end = 0;
  return Int32Array.from(weights, (weight) => (end += weight));
}

/** The first of the largest, `except` left out. */
function findLargest(weights, except) {
  let found = except === 0 ? 1 : 0;
  weights.forEach((weight, i) => {
    if (i !== except && weight > weights[found]) found = i;
  });
  return found;
}

function decodeBlock(stream, indices, ends) {
  for (let i = 0; i < indices.length; i++) {
    const slot = stream.slot;
    let low = 0;
    let high = ends.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (slot < ends[middle]) high = middle;
      else low = middle + 1;
    }
    const start = low ? ends[low - 1] : 0;
    stream.advance(ends[low] - start, slot - start);
    indices[i] = low;
  }
}
