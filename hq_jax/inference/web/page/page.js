// The page: pictures in, probable classes out, and what the file holds.

import {startEngine} from './engines.js';
import {showDescription} from './tables.js';

const find = (id) => document.getElementById(id);

let engine;
let shown; // the URL of the picture that is shown
let asked = 0; // how many pictures were asked about

function report(message, isBad = false) {
  find('status').textContent = message;
  find('status').classList.toggle('bad', isBad);
}

async function start() {
  document.body.classList.add('loading');
  try {
    const response = await fetch('model.json');
    if (!response.ok) throw new Error(`model.json: status ${response.status}`);
    const description = await response.json();
    showDescription(description);
    engine = await startEngine(description, report);
    find('engine').textContent = engine.say;
    find('file').disabled = false;
    find('camera').disabled = !navigator.mediaDevices?.getUserMedia;
    document.body.classList.remove('loading');
    report('Ready for a picture.');
  } catch (error) {
    report(`The model could not be loaded: ${error.message}`, true);
  }
}

/** Classifies a file, or what the camera took. */
async function classify(blob) {
  if (!engine || !blob) return;
  const number = ++asked;
  show(blob);
  find('classes').replaceChildren();
  report('Looking');
  try {
    const found = await engine.classify(blob);
    if (number !== asked) return; // A later picture is being looked at.
    find('classes').replaceChildren(...found.classes.map(
      (name, i) => makeRow(name, found.probabilities[i])));
    report(`Took ${Math.round(found.ms)} ms.`);
    document.dispatchEvent(new CustomEvent('classified', {detail: found}));
  } catch (error) {
    if (number !== asked) return;
    report(`The picture could not be classified: ${error.message}`, true);
  }
}

function show(blob) {
  stopCamera();
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(blob);
  const picture = find('picture');
  picture.onload = () => {
    picture.hidden = false;
    picture.classList.toggle('small', picture.naturalWidth < 128);
  };
  picture.onerror = () => (picture.hidden = true);
  picture.src = shown;
}

function makeRow(name, probability) {
  const row = document.createElement('li');
  const [label, percent, bar] = ['name', 'percent', 'bar'].map((kind) => {
    const part = document.createElement('span');
    part.className = kind;
    return part;
  });
  bar.style.setProperty('--share', `${100 * probability}%`);
  label.textContent = name;
  percent.textContent = `${(100 * probability).toFixed(1)}%`;
  row.append(label, percent, bar);
  return row;
}

async function startCamera() {
  try {
    find('video').srcObject = await navigator.mediaDevices.getUserMedia(
      {video: {facingMode: 'environment'}});
  } catch (error) {
    report(`The camera could not be used: ${error.message}`, true);
    return;
  }
  report('Take the picture when the camera sees it.');
  find('classes').replaceChildren();
  showCamera(true);
}

function stopCamera() {
  const video = find('video');
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  showCamera(false);
}

function showCamera(isOn) {
  find('video').hidden = !isOn;
  find('shoot').hidden = !isOn;
  find('camera').hidden = isOn;
  if (isOn) find('picture').hidden = true;
}

async function shoot() {
  const video = find('video');
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext('2d').drawImage(video, 0, 0);
  classify(await canvas.convertToBlob({type: 'image/png'}));
}

function listen() {
  const drop = find('drop');
  find('file').addEventListener('change', ({target}) => {
    classify(target.files[0]);
    target.value = ''; // So that the same file can be chosen again.
  });
  find('camera').addEventListener('click', startCamera);
  find('shoot').addEventListener('click', shoot);
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    drop.classList.add('over');
  });
  document.addEventListener('dragleave', () => drop.classList.remove('over'));
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    drop.classList.remove('over');
    const [file] = event.dataTransfer.files;
    if (file) classify(file);
    else report('What was dropped is no file: save the picture first.', true);
  });
  document.addEventListener('paste', (event) =>
    classify(event.clipboardData.files[0]));
}

listen();
start();
