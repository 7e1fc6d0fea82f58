// What classifies a picture: this browser, or the server the page came from.

import {readPixels} from './pictures.js';

/** Returns `{say, classify}`; `say` is what the page says of it. */
export async function startEngine(description, report) {
  return description.engine === 'browser' ?
    startBrowser(description, report) : startServer(description);
}

async function startBrowser(description, report) {
  const worker = new Worker(
    new URL('worker.js', import.meta.url), {type: 'module'});
  const waiting = new Map();
  let last = 0;
  worker.onmessage = ({data: {id, result, error}}) => {
    const {resolve, reject} = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(result);
    else reject(new Error(error));
  };
  worker.onerror = (event) => {
    const message = event.message || 'the engine could not be loaded';
    waiting.forEach(({reject}) => reject(new Error(message)));
    waiting.clear();
  };
  const ask = (request, transfer = []) => new Promise((resolve, reject) => {
    waiting.set(++last, {resolve, reject});
    worker.postMessage({id: last, ...request}, transfer);
  });
  report('Loading the model');
  const {file, weights} = description;
  const loaded = await ask({load: {file, weights}});
  const {class_names: names} = description;
  return {
    say: `Runs in this browser; no picture leaves it. The file was decoded ` +
      `in ${formatSeconds(loaded.decodeMs)}.`,
    async classify(blob) {
      const pixels = await readPixels(blob);
      const {logits, ms} = await ask({pixels}, [pixels.data.buffer]);
      return {...rank(logits, names), logits, ms};
    },
  };
}

/** The five most probable classes. */
function rank(logits, names) {
  const largest = Math.max(...logits);
  if (!logits.every(Number.isFinite)) {
    throw new Error('the logits are not finite');
  }
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  const order = logits
    .map((_, i) => i)
    .sort((i, j) => logits[j] - logits[i] || i - j)
    .slice(0, 5);
  return {
    classes: order.map((i) => names[i] ?? String(i)),
    probabilities: order.map((i) => powers[i] / sum),
  };
}

function startServer(description) {
  return {
    say: `Runs on the server, with ${description.engine}; a picture is sent ` +
      'there.',
    async classify(blob) {
      const start = performance.now();
      const type = blob.type.startsWith('image/') ?
        blob.type : 'application/octet-stream';
      const response = await fetch('predict?top=5', {
        method: 'POST', body: blob, headers: {'Content-Type': type},
      });
      const answer = await response.json().catch(() => ({}));
      if (!response.ok) {
        throw new Error(answer.error ?? `the server says ${response.status}`);
      }
      return {...answer.results[0], ms: performance.now() - start};
    },
  };
}

export function formatSeconds(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
