// Ternary codes by stored classes of how dense rows and columns are: codes of
// one context are decoded together.

import {decodeTensor} from './indices.js';
import {BINS, findPlanes, Model} from './ternary_contexts.js';

const CLASS_COUNTS = [0, 0, 0, 0, 0, 2, 4, 8, 12, 8, 4, 2, 0, 0, 0, 0];
const AGREEMENTS = 5;
const MIN = 89; // the least frequency of a symbol

/** How many bands there are at most. */
export function countBands(geometry) {
  const {depth, height, width, rows} = geometry;
  const {least, most} = getHeights(geometry);
  return depth * height * width *
    Math.min(Math.ceil(rows / least), 16 + Math.floor(rows / most));
}

/** The least and the most rows of a band. */
function getHeights({columns}) {
  const least = Math.ceil(512 / columns);
  return {least, most: Math.max(least, Math.floor(2 ** 16 / columns))};
}

/** Decodes a tensor into `codes`. */
export function decodeClasses(stream, codes, geometry, nonzero) {
  const {depth, height, width, rows, columns} = geometry;
  const classes = new Uint8Array(rows + columns);
  decodeTensor(stream, classes, [...CLASS_COUNTS]);
  const byRow = sort(classes.subarray(0, rows));
  const byColumn = sort(classes.subarray(rows));
  const model = new Model(geometry, nonzero);
  const size = rows * columns;
  const arranged = new Int8Array(codes.length);
  const planes = depth * height * width;
  for (let plane = 0; plane < planes; plane++) {
    const near = findPlanes(plane, geometry);
    for (let top = 0; top < rows;) {
      const bottom = findBottom(plane, top, byRow.classes, geometry);
      const at = plane * size + top * columns;
      const band = arranged.subarray(at, plane * size + bottom * columns);
      const bins = getBins(
        byRow.classes.subarray(top, bottom), byColumn.classes);
      decodeBand(stream, band, bins, getNeighbours(arranged, at, near), model);
      top = bottom;
    }
  }
  for (let start = 0; start < codes.length; start += size) {
    for (let row = 0; row < rows; row++) {
      const from = start + row * columns;
      const to = start + byRow.order[row] * columns;
      for (let column = 0; column < columns; column++) {
        codes[to + byColumn.order[column]] = arranged[from + column];
      }
    }
  }
}

/** Classes in ascending order, and where they stood. */
function sort(classes) {
  const order = Uint32Array.from(classes, (_, i) => i);
  order.sort((a, b) => classes[a] - classes[b] || a - b);
  return {order, classes: Uint8Array.from(order, (i) => classes[i])};
}

/** Where the band ends that begins with the row `top`. */
function findBottom(plane, top, classes, geometry) {
  const {height, width, rows} = geometry;
  const {least, most} = getHeights(geometry);
  if (plane % (height * width)) {
    const tall = Math.ceil((rows * Math.min(plane, 8)) / 8);
    return Math.min(rows, top + Math.max(least, Math.min(most, tall)));
  }
  let bottom = top + least;
  while (bottom < rows && classes[bottom] === classes[bottom - 1]) bottom++;
  return Math.min(bottom, top + most, rows);
}

function getBins(rowClasses, columnClasses) {
  const bins = new Uint8Array(rowClasses.length * columnClasses.length);
  let at = 0;
  for (const row of rowClasses) {
    for (const column of columnClasses) {
      bins[at++] = Math.max(0, Math.min(BINS - 1, row + column - 8));
    }
  }
  return bins;
}

/** What finds the codes at a place of a band in the planes around. */
function getNeighbours(arranged, at, near) {
  const from = (distance) =>
    (distance ? (i) => arranged[at - distance + i] : () => 0);
  return {
    left: from(near.left),
    above: from(near.above),
    aboveLeft: from(near.aboveLeft),
    aboveRight: from(near.aboveRight),
  };
}

function decodeBand(stream, band, contexts, near, model) {
  const signs = new Int8Array(band.length);
  for (let i = 0; i < band.length; i++) {
    const [left, above] = [near.left(i), near.above(i)];
    contexts[i] += BINS * ((left ? 1 : 0) + (above ? 1 : 0));
    signs[i] = 2 * (left + above) + near.aboveLeft(i) + near.aboveRight(i);
  }
  const order = group(contexts, model.zeros.length);
  decodeRuns(
    stream, order, contexts, model.zeros, model.others,
    (i) => { band[i] = 1; });
  const agreements = signs.map((sign) => Math.min(4, Math.abs(sign)));
  const ones = order.filter((i) => band[i]).sort();
  const bySign = group(agreements, AGREEMENTS, ones);
  for (const i of ones) band[i] = signs[i] < 0 ? -1 : 1;
  decodeRuns(
    stream, bySign, agreements, model.agree, model.differ,
    (i) => { band[i] = -band[i]; });
}

/** Places in the order of their groups, those of one group in order. */
function group(groups, number, places = groups.keys()) {
  const all = Uint32Array.from(places);
  const starts = new Uint32Array(number + 1);
  for (const i of all) starts[groups[i] + 1]++;
  for (let k = 0; k < number; k++) starts[k + 1] += starts[k];
  const order = new Uint32Array(all.length);
  for (const i of all) order[starts[groups[i]]++] = i;
  return order;
}

/** Takes a symbol of two for each place; the second one is `found`. */
function decodeRuns(stream, order, groups, first, second, found) {
  const weights = Int32Array.from(second, (count, i) => {
    const p = Math.floor((2 ** 15 * count) / (first[i] + count));
    return 512 * Math.max(MIN, Math.min(2 ** 15 - MIN, p));
  });
  for (const i of order) {
    const group = groups[i];
    const start = 2 ** 24 - weights[group];
    const slot = stream.slot;
    if (slot < start) {
      stream.advance(start, slot);
      first[group] += 16;
    } else {
      stream.advance(weights[group], slot - start);
      second[group] += 16;
      found(i);
    }
  }
}
