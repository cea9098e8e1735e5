// @ts-check
// The answer first: how much the splines carry, over all and in each layer; the layers are chosen
// here, too.

import { h, percent } from '../viewer/dom.js';
import { press } from './choice.js';

/** @import { KanPayload, LayerPayload, Translate } from './types.js' */

export class Answer {
  /**
   * @param {Translate} t
   * @param {(index: number) => void} choose
   */
  constructor(t, choose) {
    this.t = t;
    this.choose = choose;
    this.sentence = /** @type {HTMLElement} */ (h('p', { class: 'kan-answer' }));
    this.measured = /** @type {HTMLElement} */ (h('p', { class: 'kan-dim' }));
    this.layers = /** @type {HTMLElement} */ (
      h('div', { class: 'kan-layers', role: 'group', 'aria-label': t('layers') }));
    this.facts = /** @type {HTMLElement} */ (h('p', { class: 'kan-dim' }));
    this.parts = [this.sentence, this.measured, this.layers, this.facts];
  }

  /** @param {KanPayload} payload */
  show({ spline_share: share, picture, title, num_queries: n, layers }) {
    const { t } = this;
    this.sentence.textContent = t('answer', { share: percent(share) });
    this.measured.textContent = t('measured', { picture, title, n });
    this.layers.replaceChildren(...layers.map((layer, index) => h('button', {
      type: 'button', 'data-layer': index, 'aria-pressed': 'false', onclick: () => this.choose(index),
    },
    h('b', {}, t('layer', { n: index + 1 })),
    h('span', {}, t('layer_share', { share: percent(layer.spline_share) })),
    h('i', { class: 'kan-share', 'aria-hidden': 'true' },
      h('i', { style: `width: ${100 * layer.spline_share}%` })),
    h('small', {}, t('layer_sizes', {
      i: layer.in_features, from: t(index ? 'hidden' : 'from_query'),
      o: layer.out_features, to: t(index === layers.length - 1 ? 'to_mask' : 'hidden'),
    })))));
  }

  /**
   * @param {number} index
   * @param {LayerPayload} layer
   */
  mark(index, layer) {
    press(this.layers, 'layer', String(index));
    this.facts.textContent = this.t('facts', {
      n: index + 1, grid: layer.grid_size, order: layer.spline_order, base: layer.base_activation,
      inner: percent(layer.outside_inner), knots: percent(layer.outside_knots),
    });
  }
}
