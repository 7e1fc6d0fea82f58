// The slices of ternary tensors: layers of a stack, each coded by itself.

import {countElements} from './header.js';
import {refuse} from './refusal.js';

const MAX_SLICES = 2 ** 14;

/** Says how a tensor is cut; `shape` is that of a slice. */
export function getView({shape, scaleAxes}) {
  if (!scaleAxes) return {count: 1, rest: shape, isTransposed: false, shape};
  const isKept = shape.map((_, axis) => scaleAxes.includes(axis));
  let layers = isKept.indexOf(false);
  if (layers < 0) layers = shape.length;
  if (layers && (layers === shape.length || !isKept.at(-1))) layers--;
  const rest = shape.slice(layers);
  let kept = isKept.slice(layers);
  const isTransposed = kept[0] && !kept.at(-1);
  let ordered = rest;
  if (isTransposed) [ordered, kept] = [rest.toReversed(), kept.toReversed()];
  if (ordered.length !== 4 || kept.slice(0, 3).includes(true)) {
    let first = ordered.length - 1;
    while (first && kept[first] && kept[first - 1]) first--;
    ordered = [
      countElements(ordered.slice(0, first)),
      countElements(ordered.slice(first)),
    ];
  }
  const count = countElements(shape.slice(0, layers));
  return {count, rest, isTransposed, shape: ordered};
}

export function checkSlices(views) {
  const total = views.reduce((sum, {count}) => sum + count, 0);
  if (total > MAX_SLICES) {
    refuse(`section HEAD: ${total} layers of ternary tensors, wanted at most ` +
      `${MAX_SLICES}`);
  }
}

/** The codes of a tensor from those of its slices. */
export function joinSlices(slices, {rest, isTransposed}) {
  if (slices.length === 1 && !isTransposed) return slices[0];
  const size = countElements(rest);
  const found = new Int8Array(size * slices.length);
  slices.forEach((slice, i) => {
    const codes = isTransposed ? transpose(slice, rest) : slice;
    found.set(codes, i * size);
  });
  return found;
}

/** Reverses the axes: to row-major order of `shape` from that of its mirror. */
function transpose(codes, shape) {
  const found = new Int8Array(codes.length);
  const index = new Array(shape.length).fill(0);
  for (let at = 0; at < codes.length; at++) {
    let from = 0;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from = from * shape[axis] + index[axis];
    }
    found[at] = codes[from];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      if (++index[axis] < shape[axis]) break;
      index[axis] = 0;
    }
  }
  return found;
}
