// The weights of networks for the tests: a line of JSON in, base64 out.

import readline from 'node:readline';

import {readFile} from '../../../hq_jax/inference/web/page/decoder/hq.js';
import {makeWeights} from '../../../hq_jax/inference/web/page/network.js';

for await (const line of readline.createInterface({input: process.stdin})) {
  const {file, layers} = JSON.parse(line);
  const {tensors} = await readFile(new Uint8Array(Buffer.from(file, 'base64')));
  const weights = makeWeights(tensors, layers);
  console.log(Buffer.from(weights.buffer).toString('base64'));
}
