// @ts-check
// One model's regions, found by a worker of its own: at most one question is underway, and of those
// that come meanwhile only the newest waits.

import { blank, context, packed } from './maps.js';

/** @typedef {import('./maps.js').Maps} Maps */

/**
 * @typedef {object} Question
 * @property {number} q the smallest code that passes
 * @property {number} least pixels of the smallest region
 * @property {number} top the code with the brightest colour
 * @property {boolean} truthLayer whether hits and misses are to be drawn
 */

/** @typedef {Question & {id: number, asked: number}} Numbered */

/**
 * @typedef {object} Judged
 * @property {number} tp pixels of regions that are anomalous
 * @property {number} fp known
 * @property {number} fn anomalous pixels outside of regions
 * @property {number} found objects at least half covered
 * @property {number} objects
 * @property {number} falseRegions
 */

/**
 * What passes a threshold.
 * @typedef {object} Found
 * @property {number} q the smallest code that passes
 * @property {number} least pixels of the smallest region
 * @property {number} count regions
 * @property {number} pixels in them
 * @property {number} largest pixels of the largest
 * @property {number | null} ground label of what the largest stands on
 * @property {Judged | null} judged
 * @property {HTMLCanvasElement} heat
 * @property {HTMLCanvasElement | null} hits
 * @property {Path2D} path their outline
 * @property {number} asked when, in milliseconds of `performance.now()`
 */

export class Finder {
  /** @param {(found: Found) => void} arrived */
  constructor(arrived) {
    this.arrived = arrived;
    this.worker = new Worker(new URL('./regions.worker.js', import.meta.url), { type: 'module' });
    this.worker.onmessage = ({ data }) => (data.id === this.searching ? this.settle(data.best) : this.take(data));
    this.id = 0;
    this.searching = 0;
    /** @type {(best: number) => void} */
    this.settle = () => {};
    /** @type {Numbered | null} */
    this.underway = null;
    /** @type {Numbered | null} */
    this.next = null;
    /** Answers to questions before this one are of other maps. */
    this.since = 0;
    this.width = 0;
    this.height = 0;
    /** @type {Record<'heat' | 'hits', HTMLCanvasElement>} */
    this.canvases = { heat: blank(1, 1), hits: blank(1, 1) };
  }

  /** @param {Maps} maps */
  look(maps) {
    const { codes, labels, truth, width, height } = maps;
    Object.assign(this, { width, height });
    this.since = this.id;
    this.next = null;
    this.worker.postMessage({ maps: { codes, labels, truth, width, height } });
  }

  /**
   * Colours of heat: the brighter part of a colour map, so that the threshold itself is visible.
   * @param {number[][]} map 256 colours
   */
  colour(map) {
    const colours = Uint32Array.from({ length: 256 }, (_, i) =>
      packed(map[Math.round(112 + (143 * i) / 255)], Math.round(135 + (55 * i) / 255)));
    this.worker.postMessage({ colours });
  }

  /** @param {Question} question */
  ask(question) {
    const numbered = { ...question, id: ++this.id, asked: performance.now() };
    if (this.underway) this.next = numbered;
    else this.send(numbered);
  }

  /** @param {Numbered} question */
  send(question) {
    this.underway = question;
    this.worker.postMessage(question);
  }

  /** @param {any} answer */
  take(answer) {
    this.underway = null;
    if (this.next) this.send(this.next);
    this.next = null;
    if (answer.id <= this.since) return;
    const { heat, hits, lines, ...told } = answer;
    this.arrived({
      ...told,
      heat: this.canvas('heat', heat),
      hits: hits && this.canvas('hits', hits),
      path: pathOf(lines),
    });
  }

  /**
   * @param {'heat' | 'hits'} name
   * @param {Uint32Array<ArrayBuffer>} pixels
   */
  canvas(name, pixels) {
    const { width, height, canvases } = this;
    if (canvases[name].width !== width || canvases[name].height !== height) canvases[name] = blank(width, height);
    context(canvases[name]).putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
    return canvases[name];
  }

  /**
   * Which of some thresholds has the largest F1 against the truth: its place in the list.
   * @param {number[]} cuts
   * @param {number} least
   * @returns {Promise<number>}
   */
  best(cuts, least) {
    this.searching = ++this.id;
    return new Promise((settle) => {
      this.settle = settle;
      this.worker.postMessage({ id: this.searching, cuts, least });
    });
  }
}

/** @param {Float32Array} lines x, y, x, y of each piece */
function pathOf(lines) {
  const path = new Path2D();
  for (let i = 0; i < lines.length; i += 4) {
    path.moveTo(lines[i], lines[i + 1]);
    path.lineTo(lines[i + 2], lines[i + 3]);
  }
  return path;
}
