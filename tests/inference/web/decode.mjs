// Decodes files for the tests: a line of base64 in, a line of JSON out.

import {createHash} from 'node:crypto';
import readline from 'node:readline';

import {readFile, toFloat32} from '../../../hq_jax/inference/web/page/decoder/hq.js';
import {Refusal} from '../../../hq_jax/inference/web/page/decoder/refusal.js';

const PARTS = ['codes', 'indices', 'codewords', 'scale', 'values'];

/** Of all kinds of NaN one. */
function asOne(value) {
  return Number.isNaN(value) ? NaN : value;
}

function describe(tensor) {
  const hash = createHash('sha256');
  for (const part of PARTS) {
    const values = tensor[part];
    if (values) {
      hash.update(`${part} `);
      hash.update(
        new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    }
  }
  if (tensor.scaleAxes) {
    hash.update('float32 ');
    hash.update(new Uint8Array(toFloat32(tensor).map(asOne).buffer));
  }
  return [tensor.path, tensor.encoding, tensor.shape, hash.digest('hex')];
}

for await (const line of readline.createInterface({input: process.stdin})) {
  try {
    const found = await readFile(new Uint8Array(Buffer.from(line, 'base64')));
    console.log(JSON.stringify({
      model: found.model,
      args: found.args,
      input: found.inputShape,
      preprocessing: found.preprocessing,
      classes: found.classNames,
      norms: [...found.norms],
      tensors: [...found.tensors.values()].map(describe),
    }));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    console.log(JSON.stringify({refused: error.message}));
  }
}
