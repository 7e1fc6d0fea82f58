// Ternary codes by contexts: how dense rows and columns are, and what stands
// beside and above in the same filter.

const TOTAL = 2 ** 15;
const MIN = 89; // the least frequency of zeros and of others
const ODDS = [256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096];
export const BINS = 16;

// floor(16 log2 j) for j of up to 8 bits; -1 is never asked for.
const LOGARITHMS = Int32Array.from({length: 256}, (_, j) =>
  (BigInt(j) ** 16n).toString(2).length - 1);

export function getGeometry(shape) {
  const axes = [...Array(Math.max(0, 4 - shape.length)).fill(1), ...shape];
  const [height, width, rows, columns] = axes.slice(-4);
  const depth = axes.slice(0, -4).reduce((product, size) => product * size, 1);
  return {depth, height, width, rows, columns};
}

export function isAllowed({depth, height, width, rows, columns}) {
  return depth > 0 && height > 0 && width > 0 && rows > 0 && columns > 0 &&
    Math.max(rows, columns) <= 65536;
}

/** How many tiles there are at most. */
export function countTiles({depth, height, width, rows, columns}) {
  return depth * height * width *
    Math.max(1, Math.min(64, Math.floor((rows * columns) / 1024)));
}

function countBits(k) {
  const high = Math.floor(k / 2 ** 32);
  return high ? 64 - Math.clz32(high) : 32 - Math.clz32(k);
}

/** The binary logarithm in sixteenths. */
function logarithm(k) {
  const exponent = Math.max(0, countBits(k) - 8);
  return 16 * exponent + LOGARITHMS[Math.floor(k / 2 ** exponent)];
}

function getTileSize(plane, rows, columns) {
  const size = rows * columns;
  const wanted = Math.max(
    1024,
    Math.floor(size / 64),
    Math.min(65536, Math.floor((plane * size) / 8)));
  const level = Math.max(0, countBits(Math.floor(size / wanted)) - 1);
  return {
    tall: Math.ceil(rows / 2 ** ((level + 1) >> 1)),
    wide: Math.ceil(columns / 2 ** (level >> 1)),
  };
}

/** The counts of a tensor, and the weights that follow from them. */
export class Model {
  constructor(geometry, nonzero) {
    this.geometry = geometry;
    // Codes that are not 0, and all codes, of each row and column.
    this.rowOnes = new Float64Array(geometry.rows);
    this.rowAll = new Float64Array(geometry.rows);
    this.columnOnes = new Float64Array(geometry.columns);
    this.columnAll = new Float64Array(geometry.columns);
    this.ones = 1;
    this.all = 2;
    // [beside, bin]: zeros, others. [agreement]: the expected sign, the other.
    this.zeros = new Float64Array(3 * BINS);
    this.others = new Float64Array(3 * BINS);
    this.agree = new Float64Array(5).fill(8);
    this.differ = new Float64Array(5).fill(8);
    this.weights = new Int32Array(3 * BINS); // of codes that are not 0, of 2^15
    this.signWeights = new Int32Array(5); // of the expected sign, of 2^9
    const dense = Math.max(MIN, Math.min(TOTAL - MIN, nonzero));
    for (let bin = 0; bin < BINS; bin++) {
      const a = dense * (bin < 8 ? 256 : ODDS[bin - 8]);
      const b = (TOTAL - dense) * (bin < 8 ? ODDS[8 - bin] : 256);
      const prior = 1 + Math.floor((128 * a) / (a + b));
      for (let beside = 0; beside < 3; beside++) {
        this.others[BINS * beside + bin] = prior;
        this.zeros[BINS * beside + bin] = 130 - prior;
      }
    }
  }

  setWeights() {
    for (let i = 0; i < this.weights.length; i++) {
      const p = Math.floor(
        (TOTAL * this.others[i]) / (this.zeros[i] + this.others[i]));
      this.weights[i] = Math.max(MIN, Math.min(TOTAL - MIN, p));
    }
    for (let i = 0; i < this.signWeights.length; i++) {
      const q = Math.floor(
        (512 * this.agree[i]) / (this.agree[i] + this.differ[i]));
      this.signWeights[i] = Math.max(1, Math.min(511, q));
    }
  }

  /** How much denser rows or columns are than the tensor. */
  getOffsets(ones, all, start, end) {
    const shift = 2 ** Math.max(0, countBits(this.all) - 20);
    const nonzero = Math.max(1, Math.floor(this.ones / shift));
    const every = Math.max(Math.floor(this.all / shift), nonzero + 1);
    const own = logarithm(16 * nonzero) - logarithm(16 * (every - nonzero));
    const offsets = new Int32Array(end - start);
    for (let i = start; i < end; i++) {
      offsets[i - start] =
        logarithm(ones[i] * every + 16 * nonzero) -
        logarithm((all[i] - ones[i]) * every + 16 * (every - nonzero)) -
        own;
    }
    return offsets;
  }
}

/** Decodes a tensor into `codes`. */
export function decodeContexts(stream, codes, geometry, nonzero) {
  const {depth, height, width, rows, columns} = geometry;
  const model = new Model(geometry, nonzero);
  for (let plane = 0; plane < depth * height * width; plane++) {
    const near = findPlanes(plane, geometry);
    const {tall, wide} = getTileSize(plane, rows, columns);
    for (let left = 0; left < columns; left += wide) {
      const right = Math.min(columns, left + wide);
      for (let top = 0; top < rows; top += tall) {
        const bottom = Math.min(rows, top + tall);
        decodeTile(
          stream, codes, model, plane, near, {top, bottom, left, right});
      }
    }
  }
}

/** How far before a plane those beside and above it begin; 0: there is none. */
export function findPlanes(plane, {height, width, rows, columns}) {
  const x = plane % width;
  const y = Math.floor(plane / width) % height;
  const size = rows * columns;
  return {
    left: x > 0 ? size : 0,
    above: y > 0 ? width * size : 0,
    aboveLeft: y > 0 && x > 0 ? (width + 1) * size : 0,
    aboveRight: y > 0 && x + 1 < width ? (width - 1) * size : 0,
  };
}

function decodeTile(stream, codes, model, plane, near, tile) {
  const {top, bottom, left, right} = tile;
  const {rows, columns} = model.geometry;
  const byRow = model.getOffsets(model.rowOnes, model.rowAll, top, bottom);
  const byColumn =
    model.getOffsets(model.columnOnes, model.columnAll, left, right);
  model.setWeights();
  const {weights, signWeights} = model;
  // What came in this tile; the model learns of it at the end.
  const zeros = new Float64Array(weights.length);
  const others = new Float64Array(weights.length);
  const agree = new Float64Array(signWeights.length);
  const differ = new Float64Array(signWeights.length);
  const columnOnes = new Float64Array(right - left);

  for (let row = top; row < bottom; row++) {
    let rowOnes = 0;
    let at = (plane * rows + row) * columns + left;
    const rowOffset = byRow[row - top] + 68;
    for (let column = 0; column < right - left; column++, at++) {
      let bin = (rowOffset + byColumn[column]) >> 3;
      if (bin < 0) bin = 0;
      else if (bin > 15) bin = 15;
      const beside = near.left ? codes[at - near.left] : 0;
      const above = near.above ? codes[at - near.above] : 0;
      let signs = 2 * (beside + above);
      if (near.aboveLeft) signs += codes[at - near.aboveLeft];
      if (near.aboveRight) signs += codes[at - near.aboveRight];
      const context =
        BINS * ((beside ? 1 : 0) + (above ? 1 : 0)) + bin;
      const agreement = Math.min(4, signs < 0 ? -signs : signs);
      const p = weights[context];
      const slot = stream.slot;
      const zero = 16777216 - 512 * p;
      if (slot < zero) {
        stream.advance(zero, slot);
        zeros[context]++;
        continue;
      }
      const expected = p * signWeights[agreement];
      others[context]++;
      rowOnes++;
      columnOnes[column]++;
      if (slot < zero + expected) {
        stream.advance(expected, slot - zero);
        agree[agreement]++;
        codes[at] = signs < 0 ? -1 : 1;
      } else {
        stream.advance(512 * p - expected, slot - zero - expected);
        differ[agreement]++;
        codes[at] = signs < 0 ? 1 : -1;
      }
    }
    model.rowOnes[row] += rowOnes;
    model.rowAll[row] += right - left;
    model.ones += rowOnes;
  }
  for (let column = left; column < right; column++) {
    model.columnOnes[column] += columnOnes[column - left];
    model.columnAll[column] += bottom - top;
  }
  model.all += (bottom - top) * (right - left);
  for (let i = 0; i < weights.length; i++) {
    model.zeros[i] += 16 * zeros[i];
    model.others[i] += 16 * others[i];
  }
  for (let i = 0; i < signWeights.length; i++) {
    model.agree[i] += 16 * agree[i];
    model.differ[i] += 16 * differ[i];
  }
}
