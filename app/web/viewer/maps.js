// @ts-check
// A model's maps as typed arrays, and everything read off them without drawing.
//
// Scores arrive as 16-bit codes over the picture's own minimum and maximum. A threshold is a code
// too: a pixel passes if its code is at least `cut(threshold)`.

/** @typedef {import('./payload.js').Side} Side */
/** @typedef {import('./payload.js').File} File */

export const CODES = 65536;
const LITTLE_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** @param {string} url */
export async function download(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error('the server answered ' + answer.status);
  return answer;
}

/**
 * The bytes of a file that the server packed with gzip.
 * @param {string} url
 */
export async function unpack(url) {
  const answer = await download(url);
  const plain = /** @type {ReadableStream} */ (answer.body).pipeThrough(new DecompressionStream('gzip'));
  return new Response(plain).arrayBuffer();
}

/**
 * Codes as `component.packed_codes` packs them: all low bytes of what differs from what the upper
 * and left neighbours foretell, then all high bytes.
 * @param {ArrayBuffer} buffer
 * @param {number} width
 * @param {number} height
 */
export function codesOf(buffer, width, height) {
  const count = width * height;
  const bytes = new Uint8Array(buffer);
  if (bytes.length !== 2 * count) throw new Error('a map has the wrong size');
  const codes = new Uint16Array(count);
  const above = new Uint16Array(width); // differences along the row above, added up
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0, code = 0; x < width; x++, i++) {
      const folded = bytes[i] | (bytes[count + i] << 8);
      above[x] += (folded >>> 1) ^ -(folded & 1);
      code = (code + above[x]) & 0xffff;
      codes[i] = code;
    }
  }
  return codes;
}

/** One model's answer: its classes, its smoothed score, and how often each code occurs. */
export class Maps {
  /**
   * @param {Side} data
   * @param {number} width
   * @param {number} height
   * @param {ArrayBuffer} labels a byte a pixel, or two above 255 classes
   * @param {ArrayBuffer} scores packed codes
   * @param {Uint8Array | null} truth
   */
  constructor(data, width, height, labels, scores, truth) {
    this.data = data;
    this.width = width;
    this.height = height;
    this.truth = truth;
    this.labels = data.classes.length > 255 ? new Uint16Array(labels) : new Uint8Array(labels);
    if (this.labels.length !== width * height) throw new Error('a map has the wrong size');
    this.low = 0;
    this.high = 0;
    this.smoothing = 0;
    this.codes = new Uint16Array(0);
    /** How many pixels are at or above each code. */
    this.above = new Uint32Array(0);
    /** How many of those are true anomalies; null without a truth. @type {Uint32Array | null} */
    this.anomalousAbove = null;
    this.read(data.scores, scores);
  }

  /**
   * Take a score map: the first, or one that was smoothed otherwise.
   * @param {import('./payload.js').ScoreMap} map
   * @param {ArrayBuffer} buffer
   */
  read(map, buffer) {
    this.codes = codesOf(buffer, this.width, this.height);
    [this.low, this.high] = map.extent;
    this.smoothing = map.smoothing;
    this.above = countsFrom(this.codes);
    this.anomalousAbove = this.truth ? countsFrom(this.codes, this.truth) : null;
  }

  /** @param {number} code */
  score(code) {
    // The largest code is the maximum itself, without a rounding.
    if (code === CODES - 1) return this.high;
    return this.low + (code * (this.high - this.low)) / (CODES - 1);
  }

  /**
   * The smallest code whose score reaches the threshold; CODES when none does.
   * @param {number} threshold
   */
  cut(threshold) {
    if (this.high <= this.low) return this.low >= threshold ? 0 : CODES;
    let q = Math.ceil(((threshold - this.low) / (this.high - this.low)) * (CODES - 1));
    q = Math.min(CODES, Math.max(0, q));
    while (q > 0 && this.score(q - 1) >= threshold) q--;
    while (q < CODES && this.score(q) < threshold) q++;
    return q;
  }
}

/**
 * How many pixels have a code of at least q, for every q from 0 to CODES; with a truth, of those
 * that are anomalous.
 * @param {Uint16Array} codes
 * @param {Uint8Array} [truth]
 */
function countsFrom(codes, truth) {
  const counts = new Uint32Array(CODES + 1);
  for (let i = 0; i < codes.length; i++) if (!truth || truth[i] === 1) counts[codes[i]]++;
  for (let q = CODES - 1; q >= 0; q--) counts[q] += counts[q + 1];
  return counts;
}

// ---------------------------------------------------------------- maps to colours

/**
 * @param {number} width
 * @param {number} height
 */
export function blank(width, height) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/**
 * @param {number} width
 * @param {number} height
 * @param {(out: Uint32Array) => void} fill
 */
function canvasOf(width, height, fill) {
  const canvas = blank(width, height);
  const image = new ImageData(width, height);
  fill(new Uint32Array(image.data.buffer));
  context(canvas).putImageData(image, 0, 0);
  return canvas;
}

/** @param {HTMLCanvasElement} canvas */
export function context(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
}

/**
 * @param {ArrayLike<number>} colour
 * @param {number} [alpha] 0 to 255
 */
export function packed(colour, alpha = 255) {
  const [r, g, b] = [colour[0], colour[1], colour[2]];
  return LITTLE_ENDIAN
    ? ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0
    : ((r << 24) | (g << 16) | (b << 8) | alpha) >>> 0;
}

/**
 * The photo in grey, a little darker so that heat stands out.
 * @param {ImageBitmap} photo
 */
export function greyCanvas(photo) {
  const canvas = blank(photo.width, photo.height);
  const drawing = context(canvas);
  drawing.drawImage(photo, 0, 0);
  const image = drawing.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = image;
  for (let i = 0; i < data.length; i += 4) {
    const grey = 0.86 * (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]);
    data[i] = data[i + 1] = data[i + 2] = grey;
  }
  drawing.putImageData(image, 0, 0);
  return canvas;
}

/**
 * Class colours; those of hidden classes are left out.
 * @param {Maps} maps
 * @param {Set<string>} hidden
 */
export function classCanvas(maps, hidden) {
  const colours = Uint32Array.from(maps.data.classes, (entry) =>
    (hidden.has(entry.name) ? 0 : packed(entry.colour)));
  return canvasOf(maps.width, maps.height, (out) => {
    for (let i = 0; i < out.length; i++) out[i] = colours[maps.labels[i]];
  });
}

/**
 * Where a score lies on its range of colours, from 0 to 1, for every code.
 * @param {Maps} maps
 */
function positions(maps) {
  const [low, high] = maps.data.range;
  const span = high > low ? high - low : 1;
  return Float32Array.from({ length: CODES }, (_, q) =>
    Math.min(1, Math.max(0, (maps.score(q) - low) / span)));
}

/**
 * Left minus right, each on its own range: the colour of the higher one, clear where they agree.
 * @param {Maps} left
 * @param {Maps} right
 * @param {number[][]} colours of left and right
 */
export function differenceCanvas(left, right, colours) {
  const [a, b] = [positions(left), positions(right)];
  const table = Uint32Array.from({ length: 511 }, (_, i) => packed(colours[i < 255 ? 1 : 0], Math.abs(i - 255)));
  return canvasOf(left.width, left.height, (out) => {
    for (let i = 0; i < out.length; i++) {
      out[i] = table[Math.round(255 * (1 + a[left.codes[i]] - b[right.codes[i]]))];
    }
  });
}

/**
 * Pixels whose classes differ by name, and their share of the picture.
 * @param {Maps} left
 * @param {Maps} right
 * @param {number[]} colour
 */
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
