// Prepares pictures for the tests: a line of JSON in, a line of base64 out.

import readline from 'node:readline';

import {prepare} from '../../../hq_jax/inference/web/page/prepare.js';

for await (const line of readline.createInterface({input: process.stdin})) {
  const {rgba, width, height, input, preprocessing} = JSON.parse(line);
  const data = new Uint8ClampedArray(Buffer.from(rgba, 'base64'));
  const found = prepare({data, width, height}, input, preprocessing);
  console.log(Buffer.from(found.buffer).toString('base64'));
}
