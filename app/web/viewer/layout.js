// @ts-check
// Where everything stands: stage, sentence, slider, toolbar and examples in one column, the panel
// beside it. Made once; results change what is in it.

import { h } from './dom.js';
import { menus } from './menus.js';

/** @param {import('./viewer.js').Viewer} viewer */
export function layout(viewer) {
  const { t, stage, session, sentence, readout, controls, toolbar, inputs, panel } = viewer;
  toolbar.root.append(menus(viewer));
  return h('div', { class: 'm2k-body' },
    h('section', { class: 'm2k-main', 'aria-label': t('compared') },
      h('div', { class: 'm2k-stage' }, stage.root, session.coming, session.message),
      h('div', { class: 'm2k-said' }, sentence, readout),
      controls.root, toolbar.root, inputs.root,
      h('p', { id: 'm2k-keys', class: 'm2k-hidden' }, t('keys'))),
    panel.root);
}
