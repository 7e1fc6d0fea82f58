// DEFLATE by the browser, to a length that is known before.

import {refuse} from './refusal.js';

// A byte gives at most 1032: no chunk makes more than 4 MB before it is seen.
const CHUNK = 4096;

/** Decompresses to exactly `size` bytes. */
export async function inflate(bytes, size) {
  const stream = new DecompressionStream('deflate-raw');
  const writer = stream.writable.getWriter();
  const reader = stream.readable.getReader();
  const write = async () => {
    for (let i = 0; i < bytes.length; i += CHUNK) {
      await writer.write(bytes.slice(i, i + CHUNK));
    }
    await writer.close();
  };
  const written = write().catch((error) => error);
  const plain = new Uint8Array(size);
  let length = 0;
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      if (length + value.length > size) {
        length = Infinity;
        break;
      }
      plain.set(value, length);
      length += value.length;
    }
  } catch {
    refuse('damaged DEFLATE stream');
  }
  if (length !== size) {
    reader.cancel().catch(() => {});
    refuse(`the DEFLATE stream does not hold ${size} bytes`);
  }
  if (await written) refuse('damaged DEFLATE stream');
  return plain;
}
