// Reads the .hq file and runs its network with onnxruntime-web, off the page.

import * as ort from './runtime/ort.wasm.bundle.min.mjs';
import {readFile} from './decoder/hq.js';
import {makeWeights} from './network.js';
import {prepare} from './prepare.js';

let loading;
let model;
let session;

const RUNTIME = 'runtime/ort-wasm-simd-threaded.wasm.deflate';

async function fetchFile(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: status ${response.status}`);
  return response;
}

async function fetchBytes(path) {
  return new Uint8Array(await (await fetchFile(path)).arrayBuffer());
}

async function fetchDeflated(path) {
  const {body} = await fetchFile(path);
  const plain = body.pipeThrough(new DecompressionStream('deflate-raw'));
  return new Response(plain).arrayBuffer();
}

async function load({file, weights: layers}) {
  // Threads need headers that a plain file server does not send.
  if (!self.crossOriginIsolated) ort.env.wasm.numThreads = 1;
  const [data, graph, wasm] = await Promise.all([
    fetchBytes(file), fetchBytes('network.onnx'), fetchDeflated(RUNTIME)]);
  ort.env.wasm.wasmBinary = wasm;
  const start = performance.now();
  model = await readFile(data);
  const decodeMs = performance.now() - start;
  const weights = new Uint8Array(makeWeights(model.tensors, layers).buffer);
  model.tensors = null; // They are in the weights.
  session = await ort.InferenceSession.create(graph, {
    executionProviders: ['wasm'],
    externalData: [{path: 'weights', data: weights}],
  });
  return {fileBytes: data.length, decodeMs, loadMs: performance.now() - start};
}

async function classify(pixels) {
  await loading;
  const start = performance.now();
  const input = prepare(pixels, model.inputShape, model.preprocessing);
  const images = new ort.Tensor('float32', input, [1, ...model.inputShape]);
  const {logits} = await session.run({images});
  return {logits: [...logits.data], ms: performance.now() - start};
}

async function answer({id, load: description, pixels}) {
  try {
    if (description) loading = load(description);
    const result = await (pixels ? classify(pixels) : loading);
    self.postMessage({id, result});
  } catch (error) {
    self.postMessage({id, error: error?.message ?? String(error)});
  }
}

self.onmessage = ({data}) => answer(data);
