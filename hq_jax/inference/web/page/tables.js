// What the file holds, in tables.

const FILE = 'model.hq';
const PARTS = {
  preamble: 'guard and table of sections',
  header: 'header: names, shapes, classes',
  ternary_codes: 'ternary codes',
  activation_ranges: 'ranges of activations',
  model_tables: 'frequencies of the codes',
  indices: 'indices of codewords',
  ancillary: 'what readers may skip',
};

/** Fills the page with a description, as of `hq-jax inspect --json`. */
export function showDescription(description) {
  const {name, model, class_names: names, file_bytes: bytes} = description;
  const title = name || model;
  document.title = title;
  document.getElementById('title').textContent = title;
  const shape = description.input_shape.join(' x ');
  document.getElementById('facts').textContent =
    `${model}, ${names.length.toLocaleString('en')} classes, pictures of ` +
    `${shape}. The file has ${formatBytes(bytes)}; in float32 the network ` +
    `would have ${formatBytes(description.dense_bytes)}, ` +
    `${description.ratio.toFixed(1)} times as much.`;
  fill('sizes', ['Part', 'Bytes', 'Share'], listParts(description));
  fill(
    'layers', ['Tensor', 'Bytes', 'Bits a weight', 'Zeros', 'Shape'],
    description.layers.map((layer) => [
      layer.path.replace(/^params\//, ''),
      formatCount(layer.bytes),
      layer.bits_per_weight.toFixed(2),
      `${(100 * layer.zeros).toFixed(1)}%`,
      layer.shape.join(' x ') || 'scalar',
    ]));
}

function listParts({parts, file_bytes: total, downloads}) {
  const rows = Object.entries(parts)
    .filter(([, bytes]) => bytes)
    .sort(([, one], [, other]) => other - one)
    .map(([part, bytes]) => [
      PARTS[part] ?? part,
      formatCount(bytes),
      `${((100 * bytes) / total).toFixed(1)}%`,
    ]);
  rows.push(['the file', formatCount(total), '100.0%']);
  const {[FILE]: _, ...others} = downloads ?? {};
  for (const [what, bytes] of Object.entries(others)) {
    rows.push([`beside it: ${what}`, formatCount(bytes), '']);
  }
  return rows;
}

/** Columns after the first are numbers. */
function fill(id, heads, rows) {
  const make = (tag, text, column) => {
    const cell = document.createElement(tag);
    cell.textContent = text;
    if (column > 0) cell.className = 'number';
    return cell;
  };
  const head = document.createElement('thead');
  const headRow = head.insertRow();
  heads.forEach((text, column) => {
    const cell = make('th', text, column);
    cell.scope = 'col';
    headRow.append(cell);
  });
  const body = document.createElement('tbody');
  for (const row of rows) {
    const cells = row.map(
      (text, column) => make(column ? 'td' : 'th', text, column));
    cells[0].scope = 'row';
    body.insertRow().append(...cells);
  }
  document.getElementById(id).replaceChildren(head, body);
}

function formatCount(number) {
  return number.toLocaleString('en');
}

export function formatBytes(bytes) {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(bytes < 1e4 ? 1 : 0)} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`;
}
