// A model's maps as typed arrays, and everything read off them without drawing.
//
// Scores arrive as 16-bit codes over the picture's own minimum and maximum. A threshold is a code
// too: a pixel is anomalous if its code is at least `cut(threshold)`. Areas, precision and recall
// at any threshold then are one look into counts made once.

export const CODES = 65536;
const LITTLE_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

export async function download(file) {
  const answer = await fetch(file.url);
  if (!answer.ok) throw new Error('the server answered ' + answer.status);
  return answer;
}

export async function unpack(file) {
  const answer = await download(file);
  const plain = answer.body.pipeThrough(new DecompressionStream('gzip'));
  return new Response(plain).arrayBuffer();
}

function codesOf(buffer) {
  if (LITTLE_ENDIAN) return new Uint16Array(buffer);
  const view = new DataView(buffer);
  return Uint16Array.from({ length: buffer.byteLength / 2 }, (_, i) => view.getUint16(2 * i, true));
}

/** The largest code of every 2 × 2 block, so that a region of one pixel survives being shown small. */
function halved({ codes, width, height }) {
  const half = { width: (width + 1) >> 1, height: (height + 1) >> 1 };
  half.codes = new Uint16Array(half.width * half.height);
  for (let y = 0; y < half.height; y++) {
    for (let x = 0; x < half.width; x++) {
      half.codes[y * half.width + x] = blockMaximum(codes, width, height, x, y);
    }
  }
  return half;
}

function blockMaximum(codes, width, height, x, y) {
  const i = 2 * y * width + 2 * x;
  const right = 2 * x + 1 < width ? 1 : 0;
  const down = 2 * y + 1 < height ? width : 0;
  return Math.max(codes[i], codes[i + right], codes[i + down], codes[i + right + down]);
}

/** How many entries are at least q, for every q from 0 to CODES. */
function countsFrom(histogram) {
  const counts = new Uint32Array(CODES + 1);
  for (let q = CODES - 1; q >= 0; q--) counts[q] = counts[q + 1] + histogram[q];
  return counts;
}

export class Side {
  /** Out of what the server sent: labels a byte a pixel, codes two; truth where it is known. */
  constructor(data, width, height, labelBytes, codeBytes, truth) {
    const [labels, codes] = [new Uint8Array(labelBytes), codesOf(codeBytes)];
    if (labels.length !== width * height || codes.length !== width * height) {
      throw new Error('a map has the wrong size');
    }
    Object.assign(this, { data, width, height, labels, codes });
    [this.low, this.high] = data.extent;
    this.histogram = new Uint32Array(CODES);
    for (let i = 0; i < codes.length; i++) this.histogram[codes[i]]++;
    this.above = countsFrom(this.histogram);
    this.levels = [{ codes, width, height }];
    while (this.levels.length < 6) this.levels.push(halved(this.levels.at(-1)));
    this.shown = this.levels; // less the regions that are too small, once these are known
    this.dropped = new Uint32Array(0);
    if (truth) this.judge(truth);
  }

  /** Anomalous and known pixels by code; void ones (255) count for neither. */
  judge(truth) {
    const positive = new Uint32Array(CODES);
    const negative = new Uint32Array(CODES);
    for (let i = 0; i < truth.length; i++) {
      if (truth[i] === 1) positive[this.codes[i]]++;
      else if (truth[i] === 0) negative[this.codes[i]]++;
    }
    this.truth = { positive, negative, tp: countsFrom(positive), fp: countsFrom(negative) };
  }

  score(code) {
    // The largest code is the maximum itself, without a rounding.
    if (code === CODES - 1) return this.high;
    return this.low + (code * (this.high - this.low)) / (CODES - 1);
  }

  /** The smallest code whose score reaches the threshold; CODES when none does. */
  cut(threshold) {
    if (this.high <= this.low) return this.low >= threshold ? 0 : CODES;
    let q = Math.ceil(((threshold - this.low) / (this.high - this.low)) * (CODES - 1));
    q = Math.min(CODES, Math.max(0, q));
    while (q > 0 && this.score(q - 1) >= threshold) q--;
    while (q < CODES && this.score(q) < threshold) q++;
    return q;
  }

  /** The threshold on the picture's own grid; where that ends, as it was asked for. */
  snap(threshold) {
    const q = this.cut(threshold);
    return threshold < this.low || q === CODES ? threshold : this.score(q);
  }

  /** Precision, recall, F1 and IoU of "code >= q" against the truth. */
  quality(q) {
    const { tp, fp } = this.truth;
    const hit = tp[q];
    const found = hit + fp[q];
    const wanted = tp[0];
    return {
      tp: hit,
      fp: fp[q],
      fn: wanted - hit,
      precision: found ? hit / found : 0,
      recall: wanted ? hit / wanted : 0,
      f1: found + wanted ? (2 * hit) / (found + wanted) : 0,
      iou: found + wanted - hit ? hit / (found + wanted - hit) : 0,
    };
  }

  /** The threshold with the largest F1 on this picture. */
  bestF1() {
    let best = 0;
    let at = CODES;
    for (let q = 0; q < CODES; q++) {
      const { f1 } = this.quality(q);
      if (this.histogram[q] && f1 > best) [best, at] = [f1, q];
    }
    return this.score(Math.min(at, CODES - 1));
  }

  /** Average precision over all thresholds, as scikit-learn has it. */
  averagePrecision() {
    const { tp, fp } = this.truth;
    let sum = 0;
    for (let q = CODES - 1; q >= 0; q--) {
      if (tp[q] > tp[q + 1]) sum += ((tp[q] - tp[q + 1]) / tp[0]) * (tp[q] / (tp[q] + fp[q]));
    }
    return sum;
  }

  /** Take the pixels of small regions out of what is drawn, and put earlier ones back. */
  drop(pixels) {
    if (!pixels.length && !this.dropped.length) return false;
    if (this.shown === this.levels) {
      this.shown = this.levels.map((level) => ({ ...level, codes: level.codes.slice() }));
    }
    for (const i of this.dropped) this.put(i, this.codes[i]);
    for (const i of pixels) this.put(i, 0);
    this.dropped = pixels;
    return true;
  }

  put(pixel, code) {
    const [full, ...smaller] = this.shown;
    full.codes[pixel] = code;
    let [x, y] = [pixel % this.width, Math.floor(pixel / this.width)];
    let below = full;
    for (const level of smaller) {
      [x, y] = [x >> 1, y >> 1];
      level.codes[y * level.width + x] =
        blockMaximum(below.codes, below.width, below.height, x, y);
      below = level;
    }
  }
}

// ---------------------------------------------------------------- maps to colours

function canvasOf(width, height, fill) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  fill(new Uint32Array(image.data.buffer));
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

export function packed(colour, alpha = 255) {
  const [r, g, b] = colour;
  return LITTLE_ENDIAN
    ? ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0
    : ((r << 24) | (g << 16) | (b << 8) | alpha) >>> 0;
}

/** Class colours; those of hidden classes are left out. */
export function classCanvas(side, hidden) {
  const colours = Uint32Array.from(side.data.classes, (entry) =>
    hidden.has(entry.name) ? 0 : packed(entry.colour));
  return canvasOf(side.width, side.height, (out) => {
    for (let i = 0; i < out.length; i++) out[i] = colours[side.labels[i]];
  });
}

/** Where a score lies on [low, high], from 0 to 1, for every code. */
function positions(side, [low, high]) {
  const span = high > low ? high - low : 1;
  return Float32Array.from({ length: CODES }, (_, q) =>
    Math.min(1, Math.max(0, (side.score(q) - low) / span)));
}

export function heatCanvas(side, range, colours) {
  const at = positions(side, range);
  const table = Uint32Array.from(at, (t) => packed(colours[Math.round(255 * t)]));
  return canvasOf(side.width, side.height, (out) => {
    for (let i = 0; i < out.length; i++) out[i] = table[side.codes[i]];
  });
}

/** Left minus right, each on its own range, on a diverging map: its middle is "the same". */
export function differenceCanvas(left, right, ranges, colours) {
  const [a, b] = [positions(left, ranges[0]), positions(right, ranges[1])];
  const table = Uint32Array.from(colours, (colour) => packed(colour));
  return canvasOf(left.width, left.height, (out) => {
    for (let i = 0; i < out.length; i++) {
      out[i] = table[Math.round(127.5 * (1 + a[left.codes[i]] - b[right.codes[i]]))];
    }
  });
}

/** Pixels whose classes differ by name, and their share of the picture. */
export function disagreement(left, right, colour) {
  const names = left.data.classes.map((entry) => entry.name);
  const same = right.data.classes.map((entry) => names.indexOf(entry.name));
  const mark = packed(colour);
  let count = 0;
  const canvas = canvasOf(left.width, left.height, (out) => {
    for (let i = 0; i < out.length; i++) {
      if (left.labels[i] === same[right.labels[i]]) continue;
      out[i] = mark;
      count++;
    }
  });
  return { canvas, share: count / left.labels.length };
}
