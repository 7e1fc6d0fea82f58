// JSON that is refused where JSON.parse would pass over something: repeated
// keys, numbers that are not finite, integers beyond 64 bits, lone surrogates.

import {refuse} from './refusal.js';

/** A number that was written with a fraction or an exponent. */
export class Float {
  constructor(value) {
    this.value = value;
  }
}

const TOKENS = new RegExp(
  [
    '[{}\\[\\]:,]',
    '"(?:[^"\\\\\\u0000-\\u001f]|\\\\.)*"',
    '-?(?:0|[1-9][0-9]*)(?:\\.[0-9]+)?(?:[eE][+-]?[0-9]+)?',
    'true|false|null',
  ].map((token) => `(?:${token})`).join('|'),
  'y',
);
const MAX_DEPTH = 200;
const MAX_INTEGER = 2n ** 63n;

/** Parses a text; objects become Maps, floats `Float`s. */
export function parse(text) {
  let position = 0;
  const skip = () => {
    while (' \t\n\r'.includes(text[position] ?? 'end')) position++;
  };
  const next = () => {
    skip();
    TOKENS.lastIndex = position;
    const found = TOKENS.exec(text);
    if (!found) refuse(`no JSON at character ${position}`);
    position = TOKENS.lastIndex;
    return found[0];
  };
  const expect = (token, wanted) => {
    if (token !== wanted) refuse(`no JSON at character ${position}`);
  };

  function readValue(token, depth) {
    if (depth > MAX_DEPTH) refuse('the JSON text is nested too deeply');
    if (token === '{') return readObject(depth);
    if (token === '[') return readArray(depth);
    if (token[0] === '"') return readString(token);
    if (token === 'true') return true;
    if (token === 'false') return false;
    if (token === 'null') return null;
    if (!/^[-0-9]/.test(token)) refuse(`no JSON at character ${position}`);
    return readNumber(token);
  }

  function readObject(depth) {
    const fields = new Map();
    let token = next();
    if (token === '}') return fields;
    for (;;) {
      if (token[0] !== '"') refuse(`no JSON at character ${position}`);
      const key = readString(token);
      if (fields.has(key)) refuse('a key is repeated in the JSON text');
      expect(next(), ':');
      fields.set(key, readValue(next(), depth + 1));
      token = next();
      if (token === '}') return fields;
      expect(token, ',');
      token = next();
    }
  }

  function readArray(depth) {
    const items = [];
    let token = next();
    if (token === ']') return items;
    for (;;) {
      items.push(readValue(token, depth + 1));
      token = next();
      if (token === ']') return items;
      expect(token, ',');
      token = next();
    }
  }

  const value = readValue(next(), 0);
  skip();
  if (position < text.length) refuse(`no JSON at character ${position}`);
  return value;
}

function readString(token) {
  let text;
  try {
    text = JSON.parse(token);
  } catch {
    refuse(`no JSON string: ${token.slice(0, 40)}`);
  }
  if (/\p{Surrogate}/u.test(text)) refuse('a string that UTF-8 cannot hold');
  return text;
}

function readNumber(token) {
  if (/[.eE]/.test(token)) {
    const value = Number(token);
    if (!Number.isFinite(value)) refuse(`${token.slice(0, 40)} is not finite`);
    return new Float(value);
  }
  if (token.length > 20) refuse('an integer beyond 64 bits');
  const whole = BigInt(token);
  if (whole >= MAX_INTEGER || whole <= -MAX_INTEGER) {
    refuse('an integer beyond 64 bits');
  }
  return Number(whole);
}

/** The same as plain values: objects and numbers. */
export function toPlain(value, field, depth = 0) {
  if (depth > 64) refuse(`${field}: nested more than 64 deep`);
  if (value instanceof Float) return value.value;
  if (Array.isArray(value)) {
    return value.map((item) => toPlain(item, field, depth + 1));
  }
  if (value instanceof Map) {
    // Without a prototype: a key may be `__proto__`.
    const plain = Object.create(null);
    for (const [key, item] of value) {
      plain[key] = toPlain(item, field, depth + 1);
    }
    return plain;
  }
  return value;
}
