// @ts-check
// The stage: panes of the current view, and what each of them shows.

import { h, percent } from './dom.js';
import { classCanvas, context, differenceCanvas, disagreement, greyCanvas } from './maps.js';
import { Pane } from './panes.js';
import { SIDES } from './state.js';

/** @typedef {import('./viewer.js').Viewer} Viewer */
/** @typedef {import('./panes.js').Layer} Layer */
/** @typedef {{pane: Pane, of: number[], kind: import('./state.js').ViewName}} Shown */

const WHITE = 'rgb(255 255 255 / 0.95)';
const DISAGREE = [255, 32, 140];
const BRIGHT = [[45, 212, 191], [251, 146, 60]]; // of left and right, as in viewer.css
const NARROW = 640; // pixels of the window, below which one pane is shown at first

export class Stage {
  /** @param {Viewer} viewer */
  constructor(viewer) {
    this.viewer = viewer;
    this.root = h('div', { class: 'm2k-panes' });
    /** @type {Shown[]} */
    this.shown = [];
    /** Canvases made when first needed, until the result or a colour changes. @type {Record<string, any>} */
    this.cache = {};
    /** @type {HTMLElement | null} */
    this.divider = null;
    /** @type {HTMLInputElement | null} */
    this.slider = null;
    /** @type {HTMLElement | null} */
    this.differs = null;
  }

  get view() {
    return this.viewer.state.view ?? (innerWidth <= NARROW ? 'one' : 'pair');
  }

  /** Make the panes of the view. */
  layOut() {
    const { viewer, view } = this;
    const { t, state } = viewer;
    viewer.root.dataset.view = view;
    const which = { pair: [[0], [1]], swipe: [[0, 1]], one: [[SIDES.indexOf(state.one)]], difference: [[0, 1]] }[view];
    [this.divider, this.slider, this.differs] = [null, null, null];
    this.shown = which.map((of) => {
      const label = t(view === 'difference' ? 'pane_difference' : 'pane', {
        models: of.map((i) => viewer.names[i]).join(', '),
      });
      const pane = new Pane(viewer.place, label, viewer.listener());
      pane.root.dataset.side = of.length > 1 ? 'both' : SIDES[of[0]];
      pane.caption.append(...this.caption(view, of));
      if (view === 'swipe') pane.surface.append(this.divider = h('div', { class: 'm2k-divider' }, h('i')));
      return { pane, of, kind: view };
    });
    this.root.replaceChildren(...this.shown.map(({ pane }) => pane.root));
    if (view === 'swipe') this.root.append(this.slider = this.swipeSlider());
  }

  /**
   * @param {import('./state.js').ViewName} view
   * @param {number[]} of
   * @returns {HTMLElement[]}
   */
  caption(view, of) {
    const { viewer } = this;
    const name = (/** @type {number} */ i) => h('span', { 'data-side': SIDES[i] },
      h('i', { class: 'm2k-dot', 'aria-hidden': 'true' }), h('b', {}, viewer.names[i]));
    if (view === 'one') {
      return [h('div', { class: 'm2k-group m2k-which', role: 'group', 'aria-label': viewer.t('which') },
        [0, 1].map((i) => h('button', {
          type: 'button', 'data-one': SIDES[i], 'aria-pressed': String(of[0] === i),
          onclick: () => viewer.set({ one: SIDES[i] }),
        }, viewer.names[i])))];
    }
    if (view !== 'difference') return of.map(name);
    if (viewer.state.difference === 'classes') {
      this.differs = h('span', {});
      return [this.differs];
    }
    const bar = h('i', { 'aria-hidden': 'true' });
    return [h('span', { class: 'm2k-diverging' }, viewer.names[1], bar, viewer.names[0])];
  }

  swipeSlider() {
    const { viewer } = this;
    const slider = h('input', {
      type: 'range', id: 'swipe', min: 0, max: 1, step: 0.01, 'aria-label': viewer.t('swipe'),
      oninput: () => viewer.swipeTo(Number(slider.value)),
    });
    slider.style.setProperty('--aspect', String(viewer.place.width / viewer.place.height));
    slider.value = String(viewer.state.swipe);
    return slider;
  }

  /** @param {string} name @param {() => any} make */
  cached(name, make) {
    return this.cache[name] ??= make();
  }

  /** Everything, or what is named, has to be drawn anew. @param {...string} names */
  forget(...names) {
    if (!names.length) this.cache = {};
    for (const name of names) delete this.cache[name];
  }

  /**
   * @param {Shown} shown
   * @returns {Layer[]}
   */
  layersOf({ of, kind }) {
    const { viewer } = this;
    const { state, maps, photo } = viewer;
    const { layers, opacity, swipe } = state;
    /** @type {Layer[]} */
    const list = [{
      canvas: layers.photo ? photo : this.cached('grey', () => greyCanvas(photo)), alpha: 1, smooth: true,
    }];
    if (kind === 'difference') {
      list.push({ canvas: this.difference(), alpha: 0.9, smooth: state.difference === 'score' });
      return list;
    }
    of.forEach((index, order) => {
      if (!layers.classes) return;
      const part = kind === 'swipe' ? (order ? { from: swipe } : { to: swipe }) : {};
      const canvas = this.cached('classes' + index, () => classCanvas(maps[index], state.hidden));
      list.push({ canvas, alpha: opacity.classes, smooth: false, ...part });
    });
    return list;
  }

  difference() {
    const { state, maps, t, root } = this.viewer;
    if (state.difference === 'score') {
      return this.cached('difference', () => differenceCanvas(maps[0], maps[1], BRIGHT));
    }
    const { canvas, share } = this.cached('disagreement', () => disagreement(maps[0], maps[1], DISAGREE));
    if (this.differs) this.differs.textContent = t('classes_differ', { share: percent(share) });
    root.dataset.disagreement = share;
    return canvas;
  }

  /**
   * @param {Shown} shown
   * @returns {import('./panes.js').Marks[]}
   */
  marksOf({ of, kind }) {
    const { state, found, root } = this.viewer;
    const { layers, opacity, swipe } = state;
    if (!layers.anomaly && !layers.truth) return [];
    const style = getComputedStyle(root);
    return of.flatMap((index, order) => {
      const answer = found[index];
      if (!answer) return [];
      const differs = kind === 'difference';
      return [{
        // One of the two: mixed, their colours say nothing.
        heat: layers.anomaly && !answer.hits && !differs ? answer.heat : null,
        hits: differs ? null : answer.hits,
        path: answer.path,
        alpha: opacity.anomaly,
        colour: differs ? style.getPropertyValue(`--m2k-bright-${SIDES[index]}`) : WHITE,
        ...(kind === 'swipe' ? (order ? { from: swipe } : { to: swipe }) : {}),
      }];
    });
  }

  /** @param {boolean} base whether photo and classes have changed, too */
  draw(base) {
    const { viewer } = this;
    for (const shown of this.shown) {
      if (base || !shown.pane.at) shown.pane.drawBase(this.layersOf(shown));
      shown.pane.drawMask(this.marksOf(shown));
      shown.pane.show(shown.pane.cross, viewer.cursor);
      shown.pane.show(shown.pane.pin, viewer.picked);
    }
    if (this.divider) this.divider.style.left = 100 * viewer.state.swipe + '%';
    if (this.slider) this.slider.value = String(viewer.state.swipe);
  }

  point() {
    for (const { pane } of this.shown) {
      pane.show(pane.cross, this.viewer.cursor);
      pane.show(pane.pin, this.viewer.picked);
    }
  }

  /** All panes in one picture, as they are on the screen. */
  picture() {
    const gap = 8;
    const { width, height } = this.shown[0].pane.base;
    const count = this.shown.length;
    const canvas = h('canvas', { width: count * width + (count - 1) * gap, height });
    this.shown.forEach(({ pane }, index) => {
      for (const layer of [pane.base, pane.mask]) context(canvas).drawImage(layer, index * (width + gap), 0);
    });
    return canvas;
  }
}
