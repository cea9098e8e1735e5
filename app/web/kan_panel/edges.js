// @ts-check
// All edges of a layer by their size: the strongest as a list, all of them as a map.

import { h, number } from '../viewer/dom.js';
import { strongest } from './data.js';

/** @import { Edge, LayerPayload, Sizes, Translate } from './types.js' */

const LISTED = 12;

export class Edges {
  /**
   * @param {Translate} t
   * @param {[number, number, number][]} colours
   * @param {(edge: Edge) => void} choose
   */
  constructor(t, colours, choose) {
    this.t = t;
    this.colours = colours;
    this.choose = choose;
    this.list = /** @type {HTMLElement} */ (h('ol', { class: 'kan-edges' }));
    this.canvas = /** @type {HTMLCanvasElement} */ (h('canvas', {
      class: 'kan-norms', role: 'img',
      onclick: (/** @type {MouseEvent} */ event) => this.choose(this.edgeAt(event)),
      onpointermove: (/** @type {PointerEvent} */ event) => this.point(this.edgeAt(event)),
    }));
    this.here = /** @type {HTMLElement} */ (h('i', { class: 'kan-here', 'aria-hidden': 'true' }));
    this.pointed = /** @type {HTMLElement} */ (h('p', { class: 'kan-dim' }, t('point')));
    this.scale = /** @type {HTMLElement} */ (h('div', { class: 'kan-scale' }));
    this.map = [h('div', { class: 'kan-map' }, this.canvas, this.here), this.scale, this.pointed];
    /** @type {Sizes} */
    this.sizes = { values: new Float32Array(), largest: 0 };
    this.inputs = 1;
    this.outputs = 1;
    /** @type {Edge | null} */
    this.edge = null;
  }

  /**
   * @param {LayerPayload} layer
   * @param {Sizes} sizes
   */
  show(layer, sizes) {
    this.sizes = sizes;
    [this.inputs, this.outputs] = [layer.in_features, layer.out_features];
    this.drawMap();
    this.drawList();
    this.mark(this.edge);
  }

  drawMap() {
    const { inputs, outputs, colours } = this;
    const { values, largest } = this.sizes;
    [this.canvas.width, this.canvas.height] = [inputs, outputs];
    const image = new ImageData(inputs, outputs);
    values.forEach((size, i) => {
      image.data.set([...colours[Math.round((255 * size) / (largest || 1))], 255], 4 * i);
    });
    paint(this.canvas, image);
    this.canvas.setAttribute('aria-label', this.t('map_spoken', { i: inputs, o: outputs }));
    const bar = /** @type {HTMLCanvasElement} */ (
      h('canvas', { width: 256, height: 1, 'aria-hidden': 'true' }));
    const strip = new ImageData(256, 1);
    colours.forEach((colour, i) => strip.data.set([...colour, 255], 4 * i));
    paint(bar, strip);
    this.scale.replaceChildren(h('span', {}, '0'), bar, h('span', {}, number(largest)));
  }

  drawList() {
    const { t, sizes } = this;
    this.list.replaceChildren(...strongest(sizes, this.inputs, LISTED).map(({ input, output, size }) =>
      h('li', {}, h('button', {
        type: 'button', 'data-input': input, 'data-output': output, 'aria-pressed': 'false',
        'aria-label': t('edge_spoken', { i: input, o: output, size: number(size) }),
        onclick: () => this.choose({ input, output }),
      }, h('span', {}, `${input} → ${output}`), h('span', {}, number(size)),
      h('i', { style: `width: ${(100 * size) / (sizes.largest || 1)}%`, 'aria-hidden': 'true' })))));
  }

  /** @returns {Edge | null} The largest, if any has a size. */
  first() {
    return strongest(this.sizes, this.inputs, 1)[0] ?? null;
  }

  /**
   * @param {MouseEvent} event
   * @returns {Edge}
   */
  edgeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const place = (/** @type {number} */ at, /** @type {number} */ size, /** @type {number} */ count) =>
      Math.min(count - 1, Math.max(0, Math.floor((at / size) * count)));
    return {
      input: place(event.clientX - box.left, box.width, this.inputs),
      output: place(event.clientY - box.top, box.height, this.outputs),
    };
  }

  /** @param {Edge} edge */
  point({ input, output }) {
    const size = number(this.sizes.values[output * this.inputs + input]);
    this.pointed.textContent = this.t('pointed', { i: input, o: output, size });
  }

  /** @param {Edge | null} edge */
  mark(edge) {
    this.edge = edge;
    if (!edge) return;
    this.here.style.left = `${(100 * (edge.input + 0.5)) / this.inputs}%`;
    this.here.style.top = `${(100 * (edge.output + 0.5)) / this.outputs}%`;
    for (const button of this.list.querySelectorAll('button')) {
      button.setAttribute('aria-pressed', String(Number(button.dataset.input) === edge.input
        && Number(button.dataset.output) === edge.output));
    }
  }
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {ImageData} image
 */
function paint(canvas, image) {
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d')).putImageData(image, 0, 0);
}
