// @ts-check
// What passes a threshold, found away from the page's thread: one worker for each model.
//
// A region is an 8-connected set of pixels with "code >= q" of at least `least` pixels. Outline,
// heat, area, precision and recall all speak of the same pixels: those of such regions.

/** @typedef {import('./finder.js').Question} Question */

/** @type {{codes: Uint16Array, labels: Uint8Array, truth: Uint8Array | null, width: number, height: number}} */
let maps;
/** Colours of codes from the threshold (0) to the top (255). @type {Uint32Array} */
let colours;
/** @type {{labels: Int32Array, sizes: Int32Array} | null} */
let objects = null;

const SMALLEST_OBJECT = 50; // pixels, as in the evaluation
const [KNOWN, ANOMALY] = [0, 1];
const BIG_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 0;
/** @param {number} r @param {number} g @param {number} b @param {number} a */
const colour = (r, g, b, a) =>
  (BIG_ENDIAN ? (r << 24) | (g << 16) | (b << 8) | a : (a << 24) | (b << 16) | (g << 8) | r) >>> 0;
const [HIT, MISSED, FALSE_ALARM] = [colour(0, 190, 120, 190), colour(70, 160, 255, 190), colour(255, 80, 40, 190)];

/**
 * Runs of passing pixels, joined where they touch, also at a corner, by union-find.
 * @param {(i: number) => boolean} passes
 * @param {number} width
 * @param {number} height
 */
function runsOf(passes, width, height) {
  const most = ((width + 1) >> 1) * height;
  const [start, end, parent] = [new Int32Array(most), new Int32Array(most), new Int32Array(most)];
  /** @param {number} run */
  const find = (run) => {
    while (parent[run] !== run) {
      parent[run] = parent[parent[run]];
      run = parent[run];
    }
    return run;
  };
  let runs = 0;
  let before = 0; // first run of the row above
  for (let y = 0; y < height; y++) {
    const row = y * width;
    const first = runs;
    for (let x = 0; x < width; x++) {
      if (!passes(row + x)) continue;
      const from = x;
      while (x < width && passes(row + x)) x++;
      start[runs] = row + from;
      end[runs] = row + x;
      parent[runs] = runs;
      runs++;
    }
    let above = before;
    for (let run = first; run < runs; run++) {
      const [from, to] = [start[run] - width, end[run] - width];
      while (above < first && end[above] < from) above++;
      for (let other = above; other < first && start[other] <= to; other++) {
        parent[find(other)] = find(run);
      }
    }
    before = first;
  }
  const area = new Int32Array(runs);
  const root = new Int32Array(runs);
  for (let run = 0; run < runs; run++) {
    root[run] = find(run);
    area[root[run]] += end[run] - start[run];
  }
  return { runs, start, end, root, area };
}

/**
 * The regions at a threshold: a mask of their pixels, and what is to be said about them.
 * @param {number} q
 * @param {number} least
 */
function regionsAt(q, least) {
  const { codes, truth, width, height } = maps;
  const { runs, start, end, root, area } = runsOf((i) => codes[i] >= q, width, height);
  const mask = new Uint8Array(width * height);
  let [count, pixels, largest] = [0, 0, -1];
  for (let run = 0; run < runs; run++) {
    const size = area[root[run]];
    if (size < least) continue;
    mask.fill(1, start[run], end[run]);
    pixels += end[run] - start[run];
    if (root[run] !== run) continue;
    count++;
    if (largest < 0 || size > area[largest]) largest = run;
  }
  const ground = largest < 0 ? null : standsOn(runs, start, end, root, largest);
  const judged = truth ? judge(mask, runs, start, end, root, area, least) : null;
  return { mask, count, pixels, largest: largest < 0 ? 0 : area[largest], ground, judged };
}

/**
 * The class that lies below a region: most common a little under its lowest pixels.
 * @param {number} runs
 * @param {Int32Array} start
 * @param {Int32Array} end
 * @param {Int32Array} root
 * @param {number} region
 */
function standsOn(runs, start, end, root, region) {
  const { labels, width, height } = maps;
  const lowest = new Int32Array(width).fill(-1);
  for (let run = 0; run < runs; run++) {
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
 * @param {Uint8Array} mask
 * @param {number} runs
 * @param {Int32Array} start
 * @param {Int32Array} end
 * @param {Int32Array} root
 * @param {Int32Array} area
 * @param {number} least
 */
function judge(mask, runs, start, end, root, area, least) {
  const truth = /** @type {Uint8Array} */ (maps.truth);
  objects ??= objectsOf(truth, maps.width, maps.height);
  let [tp, fp, wanted] = [0, 0, 0];
  const covered = new Int32Array(objects.sizes.length);
  for (let i = 0; i < mask.length; i++) {
    if (truth[i] === ANOMALY) wanted++;
    if (!mask[i]) continue;
    if (truth[i] === ANOMALY) {
      tp++;
      covered[objects.labels[i]]++;
    } else if (truth[i] === KNOWN) fp++;
  }
  let found = 0;
  for (let label = 1; label < covered.length; label++) {
    if (2 * covered[label] >= objects.sizes[label]) found++;
  }
  const touches = new Uint8Array(runs); // bit 0: a known pixel, bit 1: an anomalous one
  for (let run = 0; run < runs; run++) {
    if (area[root[run]] < least) continue;
    for (let i = start[run]; i < end[run]; i++) {
      if (truth[i] === KNOWN) touches[root[run]] |= 1;
      else if (truth[i] === ANOMALY) touches[root[run]] |= 2;
    }
  }
  const falseRegions = touches.reduce((sum, bits) => sum + Number(bits === 1), 0);
  return { tp, fp, fn: wanted - tp, found, objects: objects.sizes.length - 1, falseRegions };
}

/**
 * The anomalies of the ground truth, numbered from 1.
 * @param {Uint8Array} truth
 * @param {number} width
 * @param {number} height
 */
function objectsOf(truth, width, height) {
  const { runs, start, end, root, area } = runsOf((i) => truth[i] === ANOMALY, width, height);
  const labels = new Int32Array(truth.length);
  const numbers = new Int32Array(runs);
  const sizes = [0];
  for (let run = 0; run < runs; run++) {
    if (root[run] !== run || area[run] < SMALLEST_OBJECT) continue;
    numbers[run] = sizes.length;
    sizes.push(area[run]);
  }
  for (let run = 0; run < runs; run++) labels.fill(numbers[root[run]], start[run], end[run]);
  return { labels, sizes: Int32Array.from(sizes) };
}

/**
 * The border of the mask as pieces of line (x, y, x, y), between the middles of pixels where the
 * score itself crosses the threshold: smooth at any zoom.
 * @param {Uint8Array} mask
 * @param {number} q
 */
function outline(mask, q) {
  const { codes, width, height } = maps;
  let lines = new Float32Array(4096);
  let n = 0;
  const level = q - 0.5;
  /** Where the line crosses from pixel a to pixel b, 0 at a. @param {number} a @param {number} b */
  const crossing = (a, b) => (level - codes[a]) / (codes[b] - codes[a]);
  for (let y = 0; y + 1 < height; y++) {
    let i = y * width;
    let left = mask[i] | (mask[i + width] << 1);
    for (let x = 0; x + 1 < width; x++, i++) {
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
 * @param {Uint8Array} mask
 * @param {number} q
 * @param {number} top
 */
function heat(mask, q, top) {
  const { codes } = maps;
  const out = new Uint32Array(mask.length);
  const step = 255 / Math.max(1, top - q);
  for (let i = 0; i < out.length; i++) {
    if (mask[i]) out[i] = colours[Math.min(255, ((codes[i] - q) * step) | 0)];
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
    const { judged } = regionsAt(q, least);
    if (!judged) return;
    const f1 = (2 * judged.tp) / (2 * judged.tp + judged.fp + judged.fn || 1);
    if (f1 > most) [at, most] = [index, f1];
  });
  return at;
}

/** @param {Question} question */
function answer(question) {
  const { q, least, top, truthLayer } = question;
  const { mask, ...told } = regionsAt(q, least);
  const lines = outline(mask, q);
  const image = heat(mask, q, top);
  const judgedImage = truthLayer && maps.truth ? hits(mask) : null;
  const moved = [lines.buffer, image.buffer, ...(judgedImage ? [judgedImage.buffer] : [])];
  postMessage({ ...question, ...told, lines, heat: image, hits: judgedImage }, { transfer: moved });
}

onmessage = ({ data }) => {
  if (data.maps) {
    if (data.maps.truth !== maps?.truth) objects = null;
    maps = data.maps;
  } else if (data.colours) ({ colours } = data);
  else if (data.cuts) postMessage({ id: data.id, best: best(data.cuts, data.least) });
  else answer(data);
};

export {}; // a module, with names of its own
