// @ts-check
// What passes a threshold, found away from the page's thread: one worker for each model.
//
// A region is an 8-connected set of pixels with "code >= q" of at least `least` pixels. Outline,
// heat, area, precision and recall all speak of the same pixels: those of such regions.

/** @typedef {import('./finder.js').Question} Question */

/** @type {{codes: Uint16Array, labels: Uint8Array | Uint16Array, truth: Uint8Array | null, width: number, height: number}} */
let maps;
/** Colours of codes from the threshold (0) to the top (255). @type {Uint32Array} */
let colours;
/** @type {{labels: Int32Array, sizes: Int32Array, wanted: number} | null} */
let objects = null;

/** Arrays that every search uses again: to make them takes longer than to fill them. */
let scratch = { mask: new Uint8Array(0), start: new Int32Array(0), end: new Int32Array(0), parent: new Int32Array(0) };

const SMALLEST_OBJECT = 50; // pixels, as in the evaluation
const [KNOWN, ANOMALY] = [0, 1];
const BIG_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 0;
/** @param {number} r @param {number} g @param {number} b @param {number} a */
const colour = (r, g, b, a) =>
  (BIG_ENDIAN ? (r << 24) | (g << 16) | (b << 8) | a : (a << 24) | (b << 16) | (g << 8) | r) >>> 0;
const [HIT, MISSED, FALSE_ALARM] = [colour(0, 190, 120, 190), colour(70, 160, 255, 190), colour(255, 80, 40, 190)];

/**
 * @typedef {object} Runs pixels of rows, [start, end) each
 * @property {number} count
 * @property {Int32Array} start
 * @property {Int32Array} end
 * @property {Int32Array} root the region of each, named by one of its runs
 * @property {Int32Array} area of each region, at its root
 */

/**
 * Runs of marked pixels, joined where they touch, also at a corner, by union-find.
 * @param {Uint8Array} marked 1 or 0
 * @returns {Runs}
 */
function runsOf(marked) {
  const { width, height } = maps;
  const { start, end, parent } = scratch;
  /** @param {number} run */
  const find = (run) => {
    while (parent[run] !== run) {
      parent[run] = parent[parent[run]];
      run = parent[run];
    }
    return run;
  };
  let count = 0;
  let before = 0; // first run of the row above
  let next = marked.indexOf(1); // by the engine, many pixels at once
  for (let y = 0; y < height; y++) {
    const rowEnd = (y + 1) * width;
    const first = count;
    while (next >= 0 && next < rowEnd) {
      let stop = marked.indexOf(0, next);
      if (stop < 0 || stop > rowEnd) stop = rowEnd;
      start[count] = next;
      end[count] = stop;
      parent[count] = count;
      count++;
      next = marked.indexOf(1, stop);
    }
    let above = before;
    for (let run = first; run < count; run++) {
      const [from, to] = [start[run] - width, end[run] - width];
      while (above < first && end[above] < from) above++;
      for (let other = above; other < first && start[other] <= to; other++) {
        parent[find(other)] = find(run);
      }
    }
    before = first;
  }
  const area = new Int32Array(count);
  const root = new Int32Array(count);
  for (let run = 0; run < count; run++) {
    root[run] = find(run);
    area[root[run]] += end[run] - start[run];
  }
  return { count, start, end, root, area };
}

/**
 * The regions at a threshold: their runs, a mask of their pixels, and what is to be said of them.
 * @param {number} q
 * @param {number} least
 */
function regionsAt(q, least) {
  const { codes, truth } = maps;
  const { mask } = scratch;
  for (let i = 0; i < mask.length; i++) mask[i] = codes[i] >= q ? 1 : 0;
  const all = runsOf(mask);
  const { start, end, root, area } = all;
  /** Runs of regions that are large enough. @type {number[]} */
  const kept = [];
  let [count, pixels, largest] = [0, 0, -1];
  for (let run = 0; run < all.count; run++) {
    if (area[root[run]] < least) {
      mask.fill(0, start[run], end[run]);
      continue;
    }
    kept.push(run);
    pixels += end[run] - start[run];
    if (root[run] !== run) continue;
    count++;
    if (largest < 0 || area[run] > area[largest]) largest = run;
  }
  return {
    mask,
    kept,
    runs: all,
    told: {
      count,
      pixels,
      largest: largest < 0 ? 0 : area[largest],
      ground: largest < 0 ? null : standsOn(all, kept, largest),
      judged: truth ? judge(all, kept) : null,
    },
  };
}

/**
 * The class that lies below a region: most common a little under its lowest pixels.
 * @param {Runs} runs
 * @param {number[]} kept
 * @param {number} region
 */
function standsOn({ start, end, root }, kept, region) {
  const { labels, width, height } = maps;
  const lowest = new Int32Array(width).fill(-1);
  for (const run of kept) {
    if (root[run] !== region) continue;
    const y = Math.floor(start[run] / width);
    lowest.fill(y, start[run] - y * width, end[run] - y * width);
  }
  const below = Math.max(2, Math.round(0.015 * height));
  const votes = new Map();
  lowest.forEach((y, x) => {
    if (y < 0 || y + below >= height) return;
    const label = labels[(y + below) * width + x];
    votes.set(label, (votes.get(label) ?? 0) + 1);
  });
  const [best] = [...votes].sort((a, b) => b[1] - a[1]);
  return best ? best[0] : null;
}

/**
 * Compare with the ground truth. An object counts as found when half of it lies in regions, a
 * region as false when it touches no anomalous and some known pixel (training/metrics/regions.py).
 * @param {Runs} runs
 * @param {number[]} kept
 */
function judge({ count, start, end, root }, kept) {
  const truth = /** @type {Uint8Array} */ (maps.truth);
  const { labels, sizes, wanted } = /** @type {NonNullable<typeof objects>} */ (objects);
  let [tp, fp] = [0, 0];
  const covered = new Int32Array(sizes.length);
  const touches = new Uint8Array(count); // bit 0: a known pixel, bit 1: an anomalous one
  for (const run of kept) {
    const [last, hits, alarms] = [end[run], tp, fp];
    for (let i = start[run]; i < last; i++) {
      if (truth[i] === ANOMALY) {
        tp++;
        covered[labels[i]]++;
      } else if (truth[i] === KNOWN) fp++;
    }
    touches[root[run]] |= Number(fp > alarms) | (Number(tp > hits) << 1);
  }
  let [found, falseRegions] = [0, 0];
  for (let label = 1; label < sizes.length; label++) found += Number(2 * covered[label] >= sizes[label]);
  for (const bits of touches) falseRegions += Number(bits === 1);
  return { tp, fp, fn: wanted - tp, found, objects: sizes.length - 1, falseRegions };
}

/**
 * The anomalies of the ground truth, numbered from 1.
 * @param {Uint8Array} truth
 */
function objectsOf(truth) {
  const { count, start, end, root, area } = runsOf(truth.map((value) => Number(value === ANOMALY)));
  const labels = new Int32Array(truth.length);
  const numbers = new Int32Array(count);
  const sizes = [0];
  let wanted = 0;
  for (let run = 0; run < count; run++) {
    wanted += end[run] - start[run];
    if (root[run] !== run || area[run] < SMALLEST_OBJECT) continue;
    numbers[run] = sizes.length;
    sizes.push(area[run]);
  }
  for (let run = 0; run < count; run++) labels.fill(numbers[root[run]], start[run], end[run]);
  return { labels, sizes: Int32Array.from(sizes), wanted };
}

/**
 * The border of the mask as pieces of line (x, y, x, y), between the middles of pixels where the
 * score itself crosses the threshold: smooth at any zoom.
 * @param {Uint8Array} mask
 * @param {number} q
 * @param {Runs} runs
 * @param {number[]} kept
 */
function outline(mask, q, { start, end }, kept) {
  const { codes, width, height } = maps;
  // Between which columns a row, or the one below it, has pixels of the mask.
  const [leftmost, rightmost] = [new Int32Array(height + 1).fill(width), new Int32Array(height + 1).fill(-1)];
  for (const run of kept) {
    const y = Math.floor(start[run] / width);
    for (const row of [y, y + 1]) {
      leftmost[row] = Math.min(leftmost[row], start[run] - y * width);
      rightmost[row] = Math.max(rightmost[row], end[run] - 1 - y * width);
    }
  }
  let lines = new Float32Array(4096);
  let n = 0;
  const level = q - 0.5;
  /** Where the line crosses from pixel a to pixel b, 0 at a. @param {number} a @param {number} b */
  const crossing = (a, b) => (level - codes[a]) / (codes[b] - codes[a]);
  for (let y = 0; y + 1 < height; y++) {
    const [from, to] = [Math.max(0, leftmost[y + 1] - 1), Math.min(width - 2, rightmost[y + 1])];
    let i = y * width + from;
    let left = mask[i] | (mask[i + width] << 1);
    for (let x = from; x <= to; x++, i++) {
      const right = mask[i + 1] | (mask[i + 1 + width] << 1);
      const bits = left | (right << 2); // 1 upper left, 2 lower left, 4 upper right, 8 lower right
      left = right;
      if (bits === 0 || bits === 15) continue;
      const [a, b, c, d] = [i, i + width, i + 1, i + 1 + width];
      const points = [];
      if (((bits >> 0) ^ (bits >> 2)) & 1) points.push(x + crossing(a, c), y); // upper edge
      if (((bits >> 0) ^ (bits >> 1)) & 1) points.push(x, y + crossing(a, b)); // left edge
      if (((bits >> 1) ^ (bits >> 3)) & 1) points.push(x + crossing(b, d), y + 1); // lower edge
      if (((bits >> 2) ^ (bits >> 3)) & 1) points.push(x + 1, y + crossing(c, d)); // right edge
      if (n + 8 > lines.length) {
        const longer = new Float32Array(2 * lines.length);
        longer.set(lines);
        lines = longer;
      }
      // Four crossings are two corners that touch: regions are joined at corners, so the lines
      // run around the pixels outside.
      if (points.length === 8) {
        const [ux, uy, lx, ly, dx, dy, rx, ry] = points;
        points.splice(0, 8, ...(bits === 9
          ? [ux, uy, rx, ry, lx, ly, dx, dy] : [ux, uy, lx, ly, dx, dy, rx, ry]));
      }
      for (let k = 0; k < points.length; k++) lines[n + k] = points[k] + 0.5;
      n += points.length;
    }
  }
  return lines.slice(0, n);
}

/**
 * Heat in the regions alone: its colours begin at the threshold.
 * @param {Runs} runs
 * @param {number[]} kept
 * @param {number} q
 * @param {number} top
 */
function heat({ start, end }, kept, q, top) {
  const { codes } = maps;
  const table = colours;
  const out = new Uint32Array(codes.length);
  const step = 255 / Math.max(1, top - q);
  const brightest = table[255];
  for (const run of kept) {
    const last = end[run];
    for (let i = start[run]; i < last; i++) {
      const code = codes[i];
      out[i] = code < top ? table[((code - q) * step) | 0] : brightest;
    }
  }
  return out;
}

/** @param {Uint8Array} mask */
function hits(mask) {
  const truth = /** @type {Uint8Array} */ (maps.truth);
  const out = new Uint32Array(mask.length);
  for (let i = 0; i < out.length; i++) {
    if (truth[i] === ANOMALY) out[i] = mask[i] ? HIT : MISSED;
    else if (mask[i] && truth[i] === KNOWN) out[i] = FALSE_ALARM;
  }
  return out;
}

/**
 * The threshold with the largest F1 on this picture, among some.
 * @param {number[]} cuts
 * @param {number} least
 */
function best(cuts, least) {
  let [at, most] = [0, -1];
  cuts.forEach((q, index) => {
    const { judged } = regionsAt(q, least).told;
    if (!judged) return;
    const f1 = (2 * judged.tp) / (2 * judged.tp + judged.fp + judged.fn || 1);
    if (f1 > most) [at, most] = [index, f1];
  });
  return at;
}

/** @param {Question} question */
function answer(question) {

  const { q, least, top, truthLayer } = question;
  const { mask, kept, runs, told } = regionsAt(q, least);
  const lines = outline(mask, q, runs, kept);
  const image = heat(runs, kept, q, top);
  const judgedImage = truthLayer && maps.truth ? hits(mask) : null;
  const moved = [lines.buffer, image.buffer, ...(judgedImage ? [judgedImage.buffer] : [])];
  postMessage({ ...question, ...told, lines, heat: image, hits: judgedImage }, { transfer: moved });
}

/** @param {typeof maps} given */
function take(given) {
  const { width, height, truth } = given;
  const most = ((width + 1) >> 1) * height; // runs there can be
  maps = given;
  scratch = {
    mask: new Uint8Array(width * height), start: new Int32Array(most), end: new Int32Array(most), parent: new Int32Array(most),
  };
  objects = truth ? objectsOf(truth) : null;
}

onmessage = ({ data }) => {
  if (data.maps) {
    take(data.maps);
  } else if (data.colours) ({ colours } = data);
  else if (data.cuts) postMessage({ id: data.id, best: best(data.cuts, data.least) });
  else answer(data);
};

export {}; // a module, with names of its own
