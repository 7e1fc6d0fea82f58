// The section HEAD: what to build, how to prepare its input, which tensors.

import {inflate} from './inflate.js';
import {Float, parse, toPlain} from './strict_json.js';
import {refuse} from './refusal.js';

const MAX_BYTES = 2 ** 20;
const MAX_MARKS = 2 ** 16;
const MAX_PATHS = 2 ** 13;
const MAX_CHARACTERS = 2 ** 19;
const MAX_NAMES = 64;
const MAX_PATH = 1024;
const MAX_AXES = 32;
const MAX_ELEMENTS = 2 ** 31;
const MAX_CODEWORDS = 256;

/** Encodings of codes, and the type of their scale. */
export const TERNARY = {t: null, t2: 'f2', t4: 'f4'};
export const INT8 = {q: null, q2: 'f2', q4: 'f4'};
/** Encodings of codebook tensors: the types of codewords and scale. */
export const CODEBOOK = {
  c2: ['f2', null], c22: ['f2', 'f2'], c24: ['f2', 'f4'],
  c4: ['f4', null], c42: ['f4', 'f2'], c44: ['f4', 'f4'],
};
/** Types of values, and their sections, in the order of the file. */
export const SECTIONS = {
  f2: 'TF16', f4: 'TF32', f8: 'TF64',
  i1: 'TI08', i2: 'TI16', i4: 'TI32', i8: 'TI64',
  u1: 'TU08', u2: 'TU16', u4: 'TU32', u8: 'TU64',
};

const KINDS = {
  args: (value) => value instanceof Map,
  classes: (value) =>
    Array.isArray(value) && value.every((name) => typeof name === 'string'),
  input: (value) => Array.isArray(value) && value.every(isPositive),
  model: (value) => typeof value === 'string',
  preprocessing: (value) => value instanceof Map,
  tree: (value) => value instanceof Map,
};

/** Decodes the section; `tensors` are in the order of the file. */
export async function readHeader(body) {
  const fields = await readFields(body);
  const tree = {tensors: [], norms: new Map(), characters: 0};
  walk(fields.get('tree'), [], tree);
  const tensors = tree.tensors.sort(
    (one, other) => compareNames(one.names, other.names));
  checkNorms(tree.norms, tensors);
  return {
    model: fields.get('model'),
    args: toPlain(fields.get('args'), 'args'),
    inputShape: fields.get('input'),
    preprocessing: toPlain(fields.get('preprocessing'), 'preprocessing'),
    classNames: fields.get('classes'),
    norms: tree.norms,
    tensors,
  };
}

export function countElements(shape) {
  return shape.reduce((product, size) => product * size, 1);
}

async function readFields(body) {
  if (body.length < 4) refuse(`${body.length} bytes, wanted 4 or more`);
  const size = new DataView(body.buffer, body.byteOffset).getUint32(0, true);
  if (size > MAX_BYTES) {
    refuse(`${size} bytes of JSON, wanted at most ${MAX_BYTES}`);
  }
  const bytes = await inflate(body.subarray(4), size);
  const marks = bytes.filter(
    (byte) => ',[{'.includes(String.fromCharCode(byte)));
  if (marks.length > MAX_MARKS) {
    refuse(`${marks.length} commas and opening brackets in the JSON text, ` +
      `wanted at most ${MAX_MARKS}`);
  }
  let text;
  try {
    const decoder = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true});
    text = decoder.decode(bytes);
  } catch {
    refuse('the JSON text is no UTF-8');
  }
  const fields = parse(text);
  const names = Object.keys(KINDS);
  if (!(fields instanceof Map) || fields.size !== names.length ||
      !names.every((name) => fields.has(name))) {
    refuse(`wanted a JSON object with the keys ${names.join(', ')}`);
  }
  for (const name of names) {
    if (!KINDS[name](fields.get(name))) refuse(`${name} is of a wrong kind`);
  }
  return fields;
}

function isPositive(value) {
  return Number.isInteger(value) && value > 0;
}

/** Adds the tensors and the folded norms of a folder to `tree`. */
function walk(folder, names, tree) {
  for (const [name, node] of folder) {
    const inner = [...names, name];
    const path = inner.join('/');
    let counted = path;
    if (name === '' && names.length) {
      counted = addNorm(names, node, tree.norms);
    } else if (name === '' || name.includes('/') || inner.length > MAX_NAMES ||
               [...path].length > MAX_PATH) {
      refuse(`a bad path: ${path.slice(0, 80)}`);
    } else if (Array.isArray(node)) {
      tree.tensors.push({...makeSpec(path, node), names: inner});
    } else if (node instanceof Map) {
      walk(node, inner, tree);
      continue;
    } else {
      refuse(`${path}: neither a tensor nor a folder`);
    }
    tree.characters += [...counted].length;
    if (tree.tensors.length + tree.norms.size > MAX_PATHS ||
        tree.characters > MAX_CHARACTERS) {
      refuse('more tensors and folded norms, or longer paths, than allowed');
    }
  }
}

function addNorm([collection, ...names], epsilon, norms) {
  const norm = names.join('/');
  if (collection !== 'params' || !norm) {
    refuse('a folded norm outside of params');
  }
  if (!(epsilon instanceof Float) || epsilon.value < 0 || epsilon.value > 1) {
    refuse(`folded norm ${norm}: epsilon is no float in [0, 1]`);
  }
  norms.set(norm, epsilon.value);
  return norm;
}

function makeSpec(path, [encoding, ...sizes]) {
  const isCodebook = typeof encoding === 'string' &&
    Object.hasOwn(CODEBOOK, encoding);
  const codewords = isCodebook ? sizes.slice(0, 2) : null;
  const scaleAxes = findScaleAxes(encoding, sizes);
  const shape = sizes.slice(isCodebook ? 2 : scaleAxes ? 1 : 0);
  const fewest = findFewestAxes(encoding, isCodebook);
  if (fewest === null) refuse(`${path}: unknown encoding`);
  if (shape.length < fewest || shape.length > MAX_AXES) {
    refuse(`${path}: ${shape.length} axes`);
  }
  const isSize = (n) => Number.isInteger(n) && n >= 0 && n <= MAX_ELEMENTS;
  if (!shape.every(isSize) ||
      countElements(shape.filter((n) => n)) > MAX_ELEMENTS) {
    refuse(`${path}: shape, wanted at most ${MAX_ELEMENTS} elements`);
  }
  if (isCodebook) checkCodewords(path, shape, codewords);
  if (scaleAxes) checkScaleAxes(path, encoding, shape, scaleAxes);
  return {path, encoding, shape, codewords, scaleAxes};
}

/** The axes along which scales vary; null: the last one alone, or no scale. */
function findScaleAxes(encoding, sizes) {
  const isTernary = typeof encoding === 'string' &&
    Object.hasOwn(TERNARY, encoding);
  return isTernary && Array.isArray(sizes[0]) ? sizes[0] : null;
}

function checkScaleAxes(path, encoding, shape, axes) {
  const last = shape.length - 1;
  const isUsual = shape[last] === 1 ? axes.length === 0 :
    axes.length === 1 && axes[0] === last;
  const isGood = axes.every((axis, i) =>
    Number.isInteger(axis) && axis >= 0 && axis <= last && shape[axis] !== 1 &&
    (i === 0 || axes[i - 1] < axis));
  if (!TERNARY[encoding] || isUsual || !isGood) {
    refuse(`${path}: axes of scales, wanted ascending axes of sizes other ` +
      'than 1, not the last alone');
  }
}

function findFewestAxes(encoding, isCodebook) {
  if (typeof encoding !== 'string') return null;
  if (isCodebook) return 2;
  if (Object.hasOwn(SECTIONS, encoding)) return 0;
  if (Object.hasOwn(TERNARY, encoding)) return 1;
  if (Object.hasOwn(INT8, encoding)) return encoding === 'q' ? 2 : 1;
  return null;
}

function checkCodewords(path, shape, codewords) {
  const [number, size] = codewords;
  const isGood = isPositive(number) && number <= MAX_CODEWORDS &&
    isPositive(size) && size <= MAX_ELEMENTS && shape.at(-2) % size === 0;
  if (!isGood) refuse(`${path}: bad codewords ${codewords}`);
}

function checkNorms(norms, tensors) {
  const byPath = new Map(tensors.map((tensor) => [tensor.path, tensor]));
  for (const norm of norms.keys()) {
    const leaves = ['scale', 'bias'].map(
      (name) => byPath.get(`params/${norm}/${name}`));
    const isGood = leaves.every((leaf) =>
      leaf && ['f2', 'f4', 'f8'].includes(leaf.encoding) &&
      leaf.shape.length === 1 && leaf.shape[0] === leaves[0].shape[0]);
    if (!isGood) {
      refuse(`folded norm ${norm}: wanted scale and bias, floating, one axis`);
    }
  }
}

/** Name by name, a name by its code points. */
function compareNames(one, other) {
  for (let i = 0; i < Math.min(one.length, other.length); i++) {
    if (one[i] !== other[i]) return compareText(one[i], other[i]);
  }
  return one.length - other.length;
}

/** JavaScript itself would compare UTF-16. */
function compareText(one, other) {
  const [left, right] = [[...one], [...other]];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = left[i].codePointAt(0) - right[i].codePointAt(0);
    if (difference) return difference;
  }
  return left.length - right.length;
}
