// The container of an .hq file: guard bytes, a table, checked sections.

import {refuse} from './refusal.js';

const GUARD = [0x89, 0x48, 0x51, 0x46, 0x0d, 0x0a, 0x1a, 0x0a];
const VERSION = 2;
const MAX_SECTIONS = 64;

const CRC_TABLE = Uint32Array.from({length: 256}, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) {
    crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return crc;
});

export function crc32(bytes) {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) {
    crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

/** Verifies every byte of a file; returns a Map from names to bodies. */
export function readSections(data) {
  if (!data.length) refuse('preamble: the file is empty');
  GUARD.slice(0, data.length).forEach((byte, i) => {
    if (data[i] !== byte) refuse('preamble: not an .hq file');
  });
  if (data.length < 12) refuse(`preamble: cut, ${data.length} of 12 bytes`);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const version = view.getUint16(8, true);
  if (version !== VERSION) {
    refuse(`preamble: version ${version}, wanted ${VERSION}`);
  }
  const count = view.getUint16(10, true);
  if (count > MAX_SECTIONS) {
    refuse(`preamble: ${count} sections, wanted at most ${MAX_SECTIONS}`);
  }
  let start = 16 + 12 * count;
  if (data.length < start) {
    refuse(`section table: cut, ${data.length} of ${start} bytes`);
  }
  if (view.getUint32(start - 4, true) !== crc32(data.subarray(0, start - 4))) {
    refuse('section table: damaged (its checksum differs)');
  }
  const rows = [];
  for (let i = 0, at = 12; i < count; i++, at += 12) {
    const name = String.fromCharCode(...data.subarray(at, at + 4));
    if (!/^[A-Za-z][A-Za-z0-9]{3}$/.test(name)) {
      refuse('section table: a bad name');
    }
    if (rows.some((row) => row.name === name)) {
      refuse(`section table: ${name} is repeated`);
    }
    const size = view.getUint32(at + 4, true);
    rows.push({name, start, size, crc: view.getUint32(at + 8, true)});
    start += size;
  }
  if (start !== data.length) {
    const last = rows.length ? rows.at(-1).name : 'table';
    const what = data.length < start ? 'cut' : 'followed by other bytes';
    refuse(
      `section ${last}: ${what}, got ${data.length} bytes, wanted ${start}`);
  }
  return new Map(rows.map(({name, start, size, crc}) => {
    const body = data.subarray(start, start + size);
    if (crc32(body) !== crc) {
      refuse(`section ${name}: damaged (its checksum differs)`);
    }
    return [name, body];
  }));
}
