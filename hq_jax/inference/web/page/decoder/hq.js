// The reader of .hq files, written from docs/format.md.

import {readSections} from './container.js';
import {CODEBOOK, countElements, INT8, readHeader, SECTIONS, TERNARY} from
  './header.js';
import {decodeIndices} from './indices.js';
import {naming, refuse} from './refusal.js';
import {checkSlices, getView, joinSlices} from './slices.js';
import {decodeCodes} from './ternary_codes.js';
import {readValues} from './values.js';

const MAX_WEIGHTS = 2 ** 31;

/**
 * Reads a file, or throws a `Refusal` of one line.
 *
 * Returns its header and `tensors`, a Map from paths to `{encoding, shape}`
 * with what its encoding needs: `codes`, `indices` and `codewords`, `scale`, or
 * `values`; all but the values of ordinary tensors with float16 as float32.
 */
export async function readFile(data) {
  const sections = readSections(data);
  if (!sections.has('HEAD')) refuse('section HEAD: missing');
  const header = await naming(
    'section HEAD', () => readHeader(sections.get('HEAD')));
  const specs = header.tensors;
  const runs = listRuns(specs);
  checkSections(sections, specs, runs);
  checkTotal(specs, data.length);
  await readCodes(specs, sections);
  await readIndices(specs, sections);
  for (const [encoding, parts] of runs) {
    const name = SECTIONS[encoding];
    const total = parts.reduce((sum, {size}) => sum + size, 0);
    const values = await naming(
      `section ${name}`, () => readValues(sections.get(name), encoding, total));
    let start = 0;
    for (const {spec, part, size} of parts) {
      spec[part] = values.subarray(start, start + size);
      start += size;
    }
  }
  for (const spec of specs) {
    if (spec.encoding in INT8 && spec.codes.includes(-128)) {
      refuse(`section TI08: ${spec.path}: code -128`);
    }
  }
  return {...header, tensors: new Map(specs.map((spec) => [spec.path, spec]))};
}

/** The float32 values of a tensor, row-major. */
export function toFloat32(tensor) {
  const {encoding, shape, scale} = tensor;
  let found;
  if (tensor.indices) {
    found = lookUp(tensor);
  } else {
    const values = tensor.codes ?? tensor.values;
    found = encoding === 'i8' || encoding === 'u8' ?
      Float32Array.from(values, Number) : new Float32Array(values);
  }
  if (scale?.length === 1) {
    for (let i = 0; i < found.length; i++) found[i] *= scale[0];
  } else if (scale) {
    multiply(found, scale, shape, tensor.scaleAxes ?? [shape.length - 1]);
  }
  return found;
}

/** Multiplies by a scale that varies along these axes. */
function multiply(values, scale, shape, axes) {
  const index = new Array(shape.length).fill(0);
  const columns = shape.at(-1);
  const step = axes.includes(shape.length - 1) ? 1 : 0;
  for (let i = 0; i < values.length;) {
    let at = axes.reduce((sum, axis) => sum * shape[axis] + index[axis], 0);
    for (let j = 0; j < columns; j++, i++, at += step) values[i] *= scale[at];
    for (let axis = shape.length - 2; axis >= 0; axis--) {
      if (++index[axis] < shape[axis]) break;
      index[axis] = 0;
    }
  }
}

function lookUp({indices, codewords, shape, codewordSize: size}) {
  const found = new Float32Array(countElements(shape));
  const columns = shape.at(-1);
  for (let at = 0, start = 0; at < indices.length; start += columns * size) {
    for (let column = 0; column < columns; column++, at++) {
      for (let i = 0; i < size; i++) {
        found[start + i * columns + column] = codewords[indices[at] * size + i];
      }
    }
  }
  return found;
}

/** What each section of values holds, in order; a Map by encoding. */
function listRuns(specs) {
  const runs = new Map(Object.keys(SECTIONS).map((encoding) => [encoding, []]));
  for (const spec of specs) {
    const {encoding, shape} = spec;
    let scale = null;
    if (encoding in CODEBOOK) {
      const [type, scaleType] = CODEBOOK[encoding];
      const size = countElements(spec.codewords);
      spec.codewordSize = spec.codewords[1];
      spec.numCodewords = spec.codewords[0];
      runs.get(type).push({spec, part: 'codewords', size});
      scale = scaleType;
    } else if (encoding in TERNARY) {
      scale = TERNARY[encoding];
    } else if (encoding in INT8) {
      runs.get('i1').push({spec, part: 'codes', size: countElements(shape)});
      scale = INT8[encoding];
    } else {
      runs.get(encoding).push(
        {spec, part: 'values', size: countElements(shape)});
    }
    if (scale) {
      const isSingle = encoding in INT8 && shape.length === 1;
      const sizes = (spec.scaleAxes ?? [shape.length - 1]).map(
        (axis) => shape[axis]);
      const size = isSingle ? 1 : countElements(sizes);
      runs.get(scale).push({spec, part: 'scale', size});
    }
  }
  return [...runs].filter(([, parts]) => parts.length);
}

function checkSections(sections, specs, runs) {
  const wanted = ['HEAD', ...runs.map(([encoding]) => SECTIONS[encoding])];
  if (specs.some(({encoding}) => encoding in TERNARY)) wanted.push('CODE');
  if (specs.some(({encoding}) => encoding in CODEBOOK)) wanted.push('INDX');
  for (const name of wanted) {
    if (!sections.has(name)) refuse(`section ${name}: missing`);
  }
  for (const name of sections.keys()) {
    if (!wanted.includes(name) && /^[A-Z]/.test(name)) {
      refuse(`section ${name}: unknown, or without tensors`);
    }
  }
}

function checkTotal(specs, fileBytes) {
  const total = specs
    .filter(({encoding}) => encoding in TERNARY || encoding in CODEBOOK)
    .reduce((sum, {shape}) => sum + countElements(shape), 0);
  const limit = Math.min(MAX_WEIGHTS, 2 ** 20 + 2 ** 14 * fileBytes);
  if (total > limit) {
    refuse(`section HEAD: ${total} coded weights in a file of ${fileBytes} ` +
      `bytes, wanted at most ${limit}`);
  }
}

async function readCodes(specs, sections) {
  const tensors = specs.filter(({encoding}) => encoding in TERNARY);
  if (!tensors.length) return;
  const views = tensors.map(getView);
  checkSlices(views);
  const shapes = views.flatMap(
    ({count, shape}) => Array.from({length: count}, () => shape));
  const found = await naming('section CODE', () =>
    decodeCodes(sections.get('CODE'), shapes));
  let start = 0;
  tensors.forEach((tensor, i) => {
    const end = start + views[i].count;
    tensor.codes = joinSlices(found.slice(start, end), views[i]);
    start = end;
  });
}

async function readIndices(specs, sections) {
  const tensors = specs.filter(({encoding}) => encoding in CODEBOOK);
  if (!tensors.length) return;
  const sizes = tensors.map(({shape, numCodewords, codewordSize}) => ({
    numCodewords,
    size: countElements(shape) / codewordSize,
  }));
  const found = await naming('section INDX', () =>
    decodeIndices(sections.get('INDX'), sizes));
  tensors.forEach((tensor, i) => {
    tensor.indices = found[i];
  });
}
