// Sections of values: planes of bytes, the top one deflated.

import {inflate} from './inflate.js';
import {refuse} from './refusal.js';

const ARRAYS = {
  f4: Float32Array, f8: Float64Array,
  i1: Int8Array, i2: Int16Array, i4: Int32Array, i8: BigInt64Array,
  u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, u8: BigUint64Array,
};

/** Decodes a section of `count` values; float16 come as float32. */
export async function readValues(body, encoding, count) {
  const size = Number(encoding[1]);
  const low = (size - 1) * count;
  if (body.length < low) {
    refuse(`${body.length} bytes cannot hold ${count} values`);
  }
  const top = await inflate(body.subarray(low), count);
  const bytes = new Uint8Array(size * count);
  for (let plane = 0; plane < size; plane++) {
    const from = plane < size - 1 ?
      body.subarray(plane * count, (plane + 1) * count) : top;
    for (let i = 0; i < count; i++) bytes[size * i + plane] = from[i];
  }
  if (encoding === 'f2') {
    return Float32Array.from(new Uint16Array(bytes.buffer), toFloat);
  }
  return new ARRAYS[encoding](bytes.buffer);
}

/** The number of these 16 bits. */
function toFloat(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}
