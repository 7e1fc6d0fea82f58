// The stream of an entropy coder: asymmetric numeral systems, 64 bits of state.

import {refuse} from './refusal.js';

const TWO_24 = 2 ** 24;
const TWO_32 = 2 ** 32;

export const MAX_CODES_PER_BYTE = 2048;
export const FREE_BYTES = 64;

/**
 * A decoder. The state is two numbers of 32 bits; doubles hold every product
 * below exactly.
 */
export class Stream {
  constructor(body, name) {
    this.name = name;
    if (body.length && body.at(-1) === 0) {
      refuse(`${name}: the stream ends in a zero byte`);
    }
    const padded = new Uint8Array(4 * Math.ceil(body.length / 4));
    padded.set(body);
    this.words = new Uint32Array(padded.buffer);
    if (this.words.length === 2 && this.words[0] === 0 && this.words[1] === 1) {
      refuse(`${name}: a stream that holds none`);
    }
    if (!this.words.length) this.words = Uint32Array.of(0, 1);
    this.left = this.words.length;
    this.high = 0;
    this.low = this.words[--this.left];
    if (this.left) {
      this.high = this.low;
      this.low = this.words[--this.left];
    }
  }

  /** What says which symbol comes: `start <= slot < start + weight`. */
  get slot() {
    return this.low & 0xffffff;
  }

  /** Takes a symbol off; `rest` is the slot less the symbol's start. */
  advance(weight, rest) {
    // (state >> 24) * weight + rest, in parts below 2^53.
    const top = (this.high >>> 16) * weight;
    const topHigh = Math.floor(top / 256);
    const bottom =
      (top - 256 * topHigh) * TWO_24 +
      (this.high & 0xffff) * weight * 256 +
      (this.low >>> 24) * weight +
      rest;
    const carry = Math.floor(bottom / TWO_32);
    this.high = topHigh + carry;
    this.low = bottom - carry * TWO_32;
    if (this.high === 0 && this.left) {
      this.high = this.low;
      this.low = this.words[--this.left];
    }
  }

  checkEnd() {
    if (this.high !== 1 || this.low !== 0 || this.left) {
      refuse(`${this.name}: the stream holds more than the codes`);
    }
  }
}
