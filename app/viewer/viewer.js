// The result viewer: decodes each model's label and score maps once, keeps them in typed arrays,
// and redraws canvases when a threshold moves. It asks the server for nothing after loading.
// Runs inside gr.HTML, which provides: element, props, watch.
const root = element.querySelector('.m2k');
const grid = root.querySelector('.m2k-grid');
const message = root.querySelector('.m2k-message');
const mould = root.querySelector('template').content;
const LITTLE_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
const MARK = [255, 32, 140];
const WELCOME = 'Choose an example, or drop in a picture of a road.';

let sides = new Map();
let frame = 0;
let generation = 0;

function show(state, text) {
  root.dataset.state = state;
  message.textContent = text || '';
}

function pack(r, g, b) {
  return LITTLE_ENDIAN
    ? ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0
    : ((r << 24) | (g << 16) | (b << 8) | 255) >>> 0;
}

function blend(pixel, colour, alpha) {
  const keep = 1 - alpha;
  const low = pixel & 255;
  const second = (pixel >>> 8) & 255;
  const third = (pixel >>> 16) & 255;
  if (LITTLE_ENDIAN) {
    return pack(low * keep + colour[0] * alpha, second * keep + colour[1] * alpha,
      third * keep + colour[2] * alpha);
  }
  return pack((pixel >>> 24) * keep + colour[0] * alpha, third * keep + colour[1] * alpha,
    second * keep + colour[2] * alpha);
}

async function download(file) {
  const answer = await fetch(file.url);
  if (!answer.ok) throw new Error('the server answered ' + answer.status);
  return answer;
}

async function unpack(file) {
  const answer = await download(file);
  const plain = answer.body.pipeThrough(new DecompressionStream('gzip'));
  return new Response(plain).arrayBuffer();
}

async function pixelsOf(file, width, height) {
  const bitmap = await createImageBitmap(await (await download(file)).blob());
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, width, height);
  return new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
}

function scoresOf(buffer) {
  if (LITTLE_ENDIAN) return new Uint16Array(buffer);
  const view = new DataView(buffer);
  return Uint16Array.from({ length: buffer.byteLength / 2 }, (_, i) => view.getUint16(2 * i, true));
}

function put(canvas, pixels, width, height) {
  canvas.width = width;
  canvas.height = height;
  const bytes = new Uint8ClampedArray(pixels.buffer, pixels.byteOffset, pixels.byteLength);
  canvas.getContext('2d').putImageData(new ImageData(bytes, width, height), 0, 0);
}

function number(value) {
  return (Math.abs(value) < 10 ? value.toFixed(3) : value.toFixed(2)).replace('-', '\u2212');
}

function percent(share) {
  const value = 100 * share;
  if (value === 0) return '0 %';
  if (value > 0 && value < 0.05) return '< 0.1 %';
  return value.toFixed(value < 10 ? 1 : 0) + ' %';
}

function make(tag, text) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  return node;
}

function drawClasses(side, picture) {
  const { labels, data } = side;
  const out = new Uint32Array(picture.length);
  const palette = data.palette;
  for (let i = 0; i < out.length; i++) out[i] = blend(picture[i], palette[labels[i]], 0.6);
  put(side.canvas.classes, out, side.width, side.height);
}

function drawScore(side) {
  const { scores, data } = side;
  const span = data.range[1] - data.range[0];
  const step = (data.extent[1] - data.extent[0]) / 65535;
  const lut = new Uint32Array(65536);
  for (let q = 0; q < 65536; q++) {
    const t = (data.extent[0] + q * step - data.range[0]) / span;
    const c = props.colormap[Math.round(255 * Math.min(1, Math.max(0, t)))];
    lut[q] = pack(c[0], c[1], c[2]);
  }
  const out = new Uint32Array(scores.length);
  for (let i = 0; i < out.length; i++) out[i] = lut[scores[i]];
  put(side.canvas.score, out, side.width, side.height);
}

// The threshold as the smallest stored 16-bit value that reaches it (65536: none does).
function cut(side, threshold) {
  const [low, high] = side.data.extent;
  if (high <= low) return low >= threshold ? 0 : 65536;
  const q = Math.ceil(((threshold - low) / (high - low)) * 65535 - 1e-6);
  return Math.min(65536, Math.max(0, q));
}

function drawRegions(side) {
  const { scores, picture, tinted, width, height, data } = side;
  const threshold = data.range[0] + side.position * (data.range[1] - data.range[0]);
  const q = cut(side, threshold);
  const out = side.out;
  const reach = Math.max(1, Math.round(width / 450));
  const line = pack(MARK[0], MARK[1], MARK[2]);
  let count = 0;
  for (let y = 0, i = 0; y < height; y++) {
    const up = y >= reach ? reach * width : 0;
    const down = y + reach < height ? reach * width : 0;
    for (let x = 0; x < width; x++, i++) {
      if (scores[i] < q) {
        out[i] = picture[i];
        continue;
      }
      count++;
      const left = x >= reach ? reach : 0;
      const right = x + reach < width ? reach : 0;
      const inside = scores[i - left] >= q && scores[i + right] >= q
        && scores[i - up] >= q && scores[i + down] >= q;
      out[i] = inside ? tinted[i] : line;
    }
  }
  put(side.canvas.regions, out, width, height);
  const share = count / out.length;
  const figure = side.canvas.regions.parentElement;
  figure.dataset.threshold = threshold;
  figure.dataset.share = share;
  figure.querySelector('.m2k-reading').textContent =
    data.score + ' \u2265 ' + number(threshold) + ': ' + percent(share) + ' of the picture';
  side.mark.style.left = 100 * Math.min(1, Math.max(0, side.position)) + '%';
}

function redraw() {
  frame = 0;
  const started = performance.now();
  for (const side of sides.values()) {
    if (!side.stale) continue;
    side.stale = false;
    drawRegions(side);
  }
  root.dataset.redraws = Number(root.dataset.redraws || 0) + 1;
  root.dataset.redrawMs = (performance.now() - started).toFixed(1);
}

function describe(side, nodes) {
  const { data } = side;
  const find = (name) => nodes.map((n) => n.querySelector(name)).find(Boolean);
  const all = (name) => nodes.map((n) => n.querySelector(name)).filter(Boolean);
  find('.m2k-name').textContent = data.title;
  find('.m2k-facts').textContent = data.facts;
  find('.m2k-stages').textContent = data.stages;
  find('.m2k-notes').append(...data.notes.map((note) => make('li', note)));
  find('.m2k-score').textContent = data.score_title;
  for (const who of all('.m2k-who')) who.textContent = data.title;
  find('.m2k-legend').append(...data.legend.map((entry) => {
    const item = make('li');
    const swatch = make('i');
    swatch.style.background = 'rgb(' + entry.colour.join(' ') + ')';
    item.append(swatch, make('b', entry.name), make('span', percent(entry.share)));
    return item;
  }));
  const [low, high] = data.range;
  for (const value of [low, low + (high - low) / 2, high]) {
    find('.m2k-ticks').append(make('span', number(value)));
  }
  const range = find('.m2k-range');
  range.append(make('b', data.calibrated ? 'Calibrated range' : 'Uncalibrated'),
    data.range_note + ' Here: ' + number(data.extent[0]) + ' to ' + number(data.extent[1]) + '.');
  const gradient = find('.m2k-gradient');
  const bar = new Uint32Array(props.colormap.map((c) => pack(c[0], c[1], c[2])));
  put(gradient, bar, bar.length, 1);
}

async function build(data, value) {
  const [height, width] = value.size;
  const [picture, labels, scores] = await Promise.all([
    pixelsOf(value.picture, width, height), unpack(data.labels), unpack(data.scores)]);
  const side = { data, width, height, picture, position: data.position, stale: true };
  side.labels = new Uint8Array(labels);
  side.scores = scoresOf(scores);
  if (side.labels.length !== width * height || side.scores.length !== width * height) {
    throw new Error('a map has the wrong size');
  }
  side.tinted = picture.map((pixel) => blend(pixel, MARK, 0.38));
  side.out = new Uint32Array(picture.length);
  const nodes = [...mould.cloneNode(true).children];
  side.canvas = {};
  for (const figure of nodes.slice(1)) {
    const canvas = figure.querySelector('canvas');
    side.canvas[figure.dataset.kind] = canvas;
    canvas.setAttribute('aria-label', figure.querySelector('b').textContent + ' of ' + data.title);
  }
  side.canvas.score.setAttribute('aria-label', data.score_title + ' of ' + data.title);
  for (const node of nodes) node.dataset.side = data.side;
  describe(side, nodes);
  side.mark = nodes[2].querySelector('.m2k-mark');
  side.nodes = nodes;
  drawClasses(side, picture);
  drawScore(side);
  return side;
}

async function load(value) {
  const mine = ++generation;
  if (!value || !value.sides) {
    sides = new Map();
    grid.replaceChildren();
    show('empty', (value && value.message) || WELCOME);
    return;
  }
  try {
    const built = await Promise.all(value.sides.map((data) => build(data, value)));
    if (mine !== generation) return;
    sides = new Map(built.map((side) => [side.data.side, side]));
    // Row by row, so that both models' answers to one question stand beside each other.
    grid.replaceChildren(...built[0].nodes.flatMap((_, row) => built.map((s) => s.nodes[row])));
    redraw();
    root.dataset.run = value.run;
    show('ready');
    // On a phone the result lies far below the picture that was just chosen.
    if (innerWidth <= 640) element.scrollIntoView({ behavior: 'smooth', block: 'start' });
  } catch (error) {
    if (mine === generation) show('failed', 'The result could not be loaded: ' + error.message + '.');
  }
}

window.mask2kan = {
  // position: 0 is the low end of the model's colour range, 1 its high end.
  threshold(name, position) {
    for (const side of sides.values()) {
      if (name !== 'both' && side.data.side !== name) continue;
      side.position = position;
      side.stale = true;
    }
    if (!frame) frame = requestAnimationFrame(redraw);
  },
  busy(hasPicture) {
    generation++;
    if (hasPicture) show('busy', 'Computing\u2026');
    else show('empty', WELCOME);
  },
  failed() { show('failed', 'No result for this picture. The message at the top says why.'); },
};

watch('value', () => load(props.value));
load(props.value);
