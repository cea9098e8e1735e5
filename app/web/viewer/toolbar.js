// @ts-check
// Layers, views and zoom.

import { h } from './dom.js';
import { LAYERS, VIEWS } from './state.js';

/** @typedef {import('./viewer.js').Viewer} Viewer */

const FULLSCREEN = '<svg viewBox="0 0 16 16" width="15" height="15" fill="none" stroke="currentColor" stroke-width="1.8">'
  + '<path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4"/></svg>';

export class Toolbar {
  /** @param {Viewer} viewer */
  constructor(viewer) {
    this.viewer = viewer;
    const { t } = viewer;
    this.layers = LAYERS.map((name) => h('button', {
      type: 'button', class: 'm2k-toggle', 'data-layer': name, title: t(`layer_${name}_about`), 'aria-pressed': 'false',
      onclick: () => viewer.set({ layers: { ...viewer.state.layers, [name]: !viewer.state.layers[name] } }),
    }, t('layer_' + name)));
    this.views = VIEWS.map((name) => h('button', {
      type: 'button', class: 'm2k-tab', 'data-view': name, 'aria-pressed': 'false', onclick: () => viewer.set({ view: name }),
    }, t('view_' + name)));
    this.magnified = tool(t, 'zoom_full', () => viewer.fullSize(), '100 %');
    const icon = h('span', { class: 'm2k-icon', 'aria-hidden': 'true' });
    icon.innerHTML = FULLSCREEN;
    /** @param {string} name @param {HTMLElement[]} buttons */
    const group = (name, buttons) => h('div', { class: 'm2k-group', role: 'group', 'aria-label': t(name) }, buttons);
    this.root = h('div', { class: 'm2k-toolbar', role: 'toolbar', 'aria-label': t('toolbar') },
      group('layers', this.layers), group('views', this.views),
      group('zoom', [
        tool(t, 'zoom_out', () => viewer.zoom(1 / 1.5), '\u2212'), this.magnified,
        tool(t, 'zoom_in', () => viewer.zoom(1.5), '+'), tool(t, 'zoom_fit', () => viewer.fit(), t('fit')),
        tool(t, 'fullscreen', () => viewer.fullscreen(), icon)]));
  }

  /** There is another result. */
  renew() {
    this.write();
  }

  write() {
    const { state, truth, stage, t } = this.viewer;
    for (const button of this.layers) {
      const name = /** @type {import('./state.js').LayerName} */ (button.dataset.layer);
      button.setAttribute('aria-pressed', String(state.layers[name] && (name !== 'truth' || Boolean(truth))));
      button.disabled = stage.view === 'difference' && name !== 'photo';
      if (name !== 'truth') continue;
      button.disabled ||= !truth;
      button.title = t(truth ? 'layer_truth_about' : 'layer_truth_none');
    }
    for (const button of this.views) {
      button.setAttribute('aria-pressed', String(button.dataset.view === stage.view));
    }
  }

  /** Say how large a pixel of the picture is now. */
  zoomed() {
    const pane = this.viewer.stage.shown[0]?.pane;
    if (!pane?.at) return;
    const { source_size: size } = /** @type {import('./payload.js').Result} */ (this.viewer.result);
    // Of the picture as it was uploaded, which may be larger than its maps.
    const share = (pane.magnification * this.viewer.place.width) / size[1];
    this.magnified.textContent = Math.round(100 * share) + ' %';
  }
}

/**
 * @param {import('./dom.js').Translate} t
 * @param {string} name
 * @param {() => void} action
 * @param {string | Node} content
 */
function tool(t, name, action, content) {
  return h('button', {
    type: 'button', class: 'm2k-tool', 'data-tool': name, 'aria-label': t(name), title: t(name), onclick: action,
  }, content);
}
