// The codes of ternary tensors: one stream, each tensor static, by contexts
// or by classes.

import {FREE_BYTES, MAX_CODES_PER_BYTE, Stream} from './ans.js';
import {refuse} from './refusal.js';
import {countBands, decodeClasses} from './ternary_classes.js';
import {countTiles, decodeContexts, getGeometry, isAllowed} from
  './ternary_contexts.js';

const NAME = 'ternary codes';
const TOTAL = 2 ** 15;
const MAX_FREQUENCY = TOTAL - 89;
const MIN_TILE_BYTES = 16;
const [STATIC, CONTEXTS, CLASSES] = [0, 1, 2]; // the modes
export const TABLE_BYTES = 5;

/** Decodes the section of slices with these shapes to Int8Arrays. */
export function decodeCodes(body, shapes) {
  const tableBytes = TABLE_BYTES * shapes.length;
  if (body.length < tableBytes) {
    refuse(`${body.length} bytes, wanted ${tableBytes} of model tables`);
  }
  const tables = readTables(body, shapes.length);
  const rest = body.subarray(tableBytes);
  checkWork(rest.length, tables, shapes);
  const stream = new Stream(rest, NAME);
  const found = tables.map(
    (table, i) => decodeTensor(stream, table, shapes[i]));
  stream.checkEnd();
  return found;
}

/** Frequencies of 0, +1, -1. */
function readTables(body, count) {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  return Array.from({length: count}, (_, i) => {
    const mode = view.getUint8(5 * i);
    const plus = view.getUint16(5 * i + 1, true);
    const minus = view.getUint16(5 * i + 3, true);
    const frequencies = [TOTAL - plus - minus, plus, minus];
    const isSingle = frequencies.includes(TOTAL);
    const isGood = frequencies[0] >= 0 &&
      (isSingle ? mode === STATIC : Math.max(...frequencies) <= MAX_FREQUENCY);
    if (mode > CLASSES || !isGood) {
      refuse(`model table ${i}: mode ${mode}, frequencies ${frequencies}`);
    }
    return {mode, frequencies, isSingle};
  });
}

function checkWork(numBytes, tables, shapes) {
  let codes = 0;
  let tiles = 0;
  tables.forEach((table, i) => {
    if (!table.isSingle) codes += count(shapes[i]);
    if (table.mode !== STATIC) {
      const geometry = getGeometry(shapes[i]);
      if (!isAllowed(geometry)) {
        refuse(`model table ${i}: contexts for shape ${shapes[i]}`);
      }
      if (table.mode === CONTEXTS) {
        tiles += countTiles(geometry);
      } else {
        codes += geometry.rows + geometry.columns;
        tiles += Math.ceil(countBands(geometry) / 2);
      }
    }
  });
  if (codes > MAX_CODES_PER_BYTE * (numBytes + FREE_BYTES) ||
      tiles * MIN_TILE_BYTES > numBytes + FREE_BYTES) {
    refuse(
      `${NAME}: ${codes} codes and ${tiles} tiles in a stream of ` +
      `${numBytes} bytes, wanted fewer`);
  }
}

function decodeTensor(stream, {mode, frequencies, isSingle}, shape) {
  const codes = new Int8Array(count(shape));
  if (isSingle) return codes.fill([0, 1, -1][frequencies.indexOf(TOTAL)]);
  if (mode === STATIC) {
    decodeStatic(stream, codes, frequencies);
  } else {
    const decode = mode === CONTEXTS ? decodeContexts : decodeClasses;
    const nonzero = frequencies[1] + frequencies[2];
    decode(stream, codes, getGeometry(shape), nonzero);
  }
  return codes;
}

function decodeStatic(stream, codes, frequencies) {
  const weights = frequencies.map((frequency) => 512 * frequency || 1);
  const largest = frequencies.indexOf(Math.max(...frequencies));
  weights[largest] -= frequencies.filter((frequency) => !frequency).length;
  const [zero, plus, minus] = weights;
  const seen = [false, false, false];
  for (let i = 0; i < codes.length; i++) {
    const slot = stream.slot;
    if (slot < zero) {
      stream.advance(zero, slot);
      seen[0] = true;
    } else if (slot < zero + plus) {
      stream.advance(plus, slot - zero);
      codes[i] = 1;
      seen[1] = true;
    } else {
      stream.advance(minus, slot - zero - plus);
      codes[i] = -1;
      seen[2] = true;
    }
  }
  frequencies.forEach((frequency, symbol) => {
    if (!frequency && seen[symbol]) {
      refuse(`${NAME}: a code is there whose frequency is 0`);
    }
  });
}

function count(shape) {
  return shape.reduce((product, size) => product * size, 1);
}
