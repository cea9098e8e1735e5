// @ts-check
// The queries that matter in the picture: their masks over it, and where each falls on the edge.

import { css, h, number, percent } from '../viewer/dom.js';
import { download } from '../viewer/maps.js';

/** @import { EdgePayload, KanPayload, QueryPayload, Translate } from './types.js' */

const VEIL = 0.72; // how much of the picture outside a mask is covered
const CARD = 240; // pixels of a card's canvas along its longer side

/**
 * The picture with everything but the mask darkened.
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap} photo
 * @param {QueryPayload['mask']} mask
 */
function drawMask(canvas, photo, { height, width, data }) {
  const scale = CARD / Math.max(photo.width, photo.height);
  [canvas.width, canvas.height] = [photo.width * scale, photo.height * scale].map(Math.round);
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const veil = new ImageData(width, height);
  bytes.forEach((probability, i) => { veil.data[4 * i + 3] = VEIL * (255 - probability); });
  const small = new OffscreenCanvas(width, height);
  /** @type {OffscreenCanvasRenderingContext2D} */ (small.getContext('2d')).putImageData(veil, 0, 0);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
  context.drawImage(photo, 0, 0, canvas.width, canvas.height);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

export class Queries {
  /**
   * @param {Translate} t
   * @param {(query: number) => void} choose
   * @param {(query: number | null) => void} hover
   */
  constructor(t, choose, hover) {
    this.t = t;
    this.choose = choose;
    this.hover = hover;
    this.root = /** @type {HTMLElement} */ (h('ol', { class: 'kan-queries', 'aria-label': t('queries') }));
    /** @type {'weight' | 'edge'} */
    this.order = 'weight';
    /** @type {Map<number, HTMLButtonElement>} In the order of their weights. */
    this.cards = new Map();
    /** @type {EdgePayload | null} */
    this.edge = null;
    this.range = [0, 1];
  }

  /**
   * Draw the cards of a picture, for `show`.
   * @param {KanPayload} payload
   * @returns {Promise<Map<number, HTMLButtonElement>>}
   */
  async drawn({ queries, photo }) {
    const picture = await createImageBitmap(await (await download(photo.url)).blob());
    const cards = new Map();
    for (const query of queries) {
      const card = this.card(query);
      drawMask(/** @type {HTMLCanvasElement} */ (card.querySelector('canvas')), picture, query.mask);
      cards.set(query.query, card);
    }
    picture.close();
    return cards;
  }

  /** @param {Map<number, HTMLButtonElement>} cards */
  show(cards) {
    this.cards = cards;
    this.edge = null;
    this.arrange();
  }

  /**
   * Put the focus on a query's card, or on the first.
   * @param {number | null} query
   */
  focus(query) {
    const card = (query === null ? null : this.cards.get(query)) ?? this.cards.values().next().value;
    card?.focus();
  }

  /**
   * @param {QueryPayload} query
   * @returns {HTMLButtonElement}
   */
  card(query) {
    const { t } = this;
    const colour = query.color ? `background: ${css(query.color)}` : null;
    return /** @type {HTMLButtonElement} */ (h('button', {
      type: 'button', class: 'kan-query', 'data-query': query.query, 'aria-pressed': 'false',
      onclick: () => this.choose(query.query),
      onpointerenter: () => this.hover(query.query),
      onpointerleave: () => this.hover(null),
      onfocus: () => this.hover(query.query),
      onblur: () => this.hover(null),
    },
    h('canvas', { 'aria-hidden': 'true', width: 192, height: 96 }),
    h('b', {}, h('i', { class: 'kan-class', style: colour, 'aria-hidden': 'true' }), query.name),
    h('span', {}, t('area', { area: percent(query.area) })),
    h('i', { class: 'kan-track', 'aria-hidden': 'true' }, h('i', {})),
    h('small', {}, t('query', { query: query.query })),
    h('small', { class: 'kan-at' })));
  }

  /**
   * Mark where every query falls on an edge.
   * @param {EdgePayload} edge
   * @param {number[]} range Of the drawn axis.
   */
  place(edge, range) {
    this.edge = edge;
    this.range = range;
    for (const [query, card] of this.cards) {
      const share = (edge.activations[query] - range[0]) / (range[1] - range[0]);
      /** @type {HTMLElement} */ (card.querySelector('.kan-track i')).style.left = `${100 * share}%`;
      /** @type {HTMLElement} */ (card.querySelector('.kan-at')).textContent = this.t('query_at', {
        x: number(edge.activations[query]),
      });
    }
    if (this.order === 'edge') this.arrange();
  }

  /** Put the cards in order, without taking the focus off one that keeps its place among them. */
  arrange() {
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    const { edge } = this;
    let cards = [...this.cards];
    if (this.order === 'edge' && edge) {
      cards = cards.sort(([a], [b]) => edge.activations[a] - edge.activations[b]);
    }
    this.root.replaceChildren(...cards.map(([, card]) => h('li', {}, card)));
    if (focused && this.root.contains(focused)) focused.focus();
  }

  /** @param {number | null} chosen */
  mark(chosen) {
    for (const [query, card] of this.cards) card.setAttribute('aria-pressed', String(query === chosen));
  }

  /** @param {number | null} hovered */
  highlight(hovered) {
    for (const [query, card] of this.cards) card.classList.toggle('hovered', query === hovered);
  }
}
