// @ts-check
// The side panel: what all this means, until somebody clicks a pixel; then why it has its score.
// Under it the legend, and what is known of the two answers.

import { h, percent } from './dom.js';
import { Explanation } from './explain.js';
import { SIDES } from './state.js';

/** @typedef {import('./viewer.js').Viewer} Viewer */

export class Panel {
  /** @param {Viewer} viewer */
  constructor(viewer) {
    const { t } = viewer;
    this.viewer = viewer;
    this.about = h('section', { class: 'm2k-about', 'aria-label': t('about') },
      h('h3', {}, t('about')),
      h('p', {}, t('about_anomaly')), h('p', {}, t('about_heads')), h('p', {}, t('about_better', { figures: viewer.props.studied })),
      h('p', { class: 'm2k-hint' }, t('about_click')));
    this.explanation = new Explanation(viewer, () => viewer.unpick());
    this.explanation.root.hidden = true;
    this.legend = new Legend(viewer);
    this.facts = h('details', { class: 'm2k-facts' });
    // It scrolls, so keys must reach it whatever is in it.
    this.root = h('aside', { class: 'm2k-panel', tabindex: '0', 'aria-label': t('panel') },
      this.about, this.explanation.root, this.legend.root, this.facts);
  }

  /** @param {import('./panes.js').Point} place in the picture as it was uploaded */
  explain(place) {
    this.about.hidden = true;
    this.explanation.root.hidden = false;
    this.root.dataset.why = 'true';
    this.root.scrollTop = 0;
    this.explanation.ask(place);
  }

  /** Nothing is clicked any more. */
  forget() {
    this.about.hidden = false;
    this.explanation.root.hidden = true;
    this.explanation.forget();
    delete this.root.dataset.why;
  }

  renew() {
    const { maps, t } = this.viewer;
    this.legend.renew();
    this.facts.replaceChildren(h('summary', {}, t('facts')), ...maps.map(({ data }) =>
      h('div', { class: 'm2k-fact', 'data-side': data.side },
        h('b', {}, h('i', { class: 'm2k-dot', 'aria-hidden': 'true' }), data.title),
        h('p', {}, data.facts), h('p', { class: 'm2k-stages' }, data.stages),
        h('p', {}, data.score_title + ' · ' + t(data.calibrated ? 'calibrated' : 'uncalibrated', { data: data.calibrated_on })),
        h('ul', { class: 'm2k-notes' }, data.notes.map((note) => h('li', {}, note))))));
  }
}

/** Classes and their shares of the picture; a click hides one from the class layer. */
class Legend {
  /** @param {Viewer} viewer */
  constructor(viewer) {
    this.viewer = viewer;
    this.list = h('ul', {});
    this.all = h('button', {
      type: 'button', class: 'm2k-chip', 'data-tool': 'all_classes', hidden: true,
      onclick: () => viewer.set({ hidden: new Set() }),
    }, viewer.t('all_classes'));
    /** What the three colours of the truth layer say. */
    this.key = h('p', { class: 'm2k-key', hidden: true }, ['hit', 'missed', 'alarm'].map((name) =>
      h('span', {}, h('i', { class: 'm2k-' + name, 'aria-hidden': 'true' }), viewer.t('key_' + name))));
    this.root = h('section', { class: 'm2k-legend', 'aria-label': viewer.t('legend') },
      this.key, h('h3', {}, viewer.t('legend')), this.list, this.all);
  }

  names() {
    return [...new Set(this.viewer.maps.flatMap(({ data }) => data.classes
      .filter((entry) => entry.share > 0).map((entry) => entry.name)))];
  }

  renew() {
    const { viewer } = this;
    const { t, maps } = viewer;
    const rows = this.names().map((name) => ({
      name, of: maps.map(({ data }) => data.classes.find((entry) => entry.name === name)),
    }));
    const most = (/** @type {typeof rows[0]} */ row) => Math.max(...row.of.map((entry) => entry?.share ?? 0));
    this.list.replaceChildren(...rows.sort((a, b) => most(b) - most(a)).map(({ name, of }) => {
      const colours = new Set(of.flatMap((entry) => (entry ? [entry.colour.join(' ')] : [])));
      return h('li', { 'data-class': name },
        h('button', {
          type: 'button', class: 'm2k-class', 'aria-pressed': 'true', title: t('toggle_class'),
          onclick: () => this.toggle(name),
        }, [...colours].map((rgb) => h('i', { style: `background: rgb(${rgb})`, 'aria-hidden': 'true' })),
        h('span', {}, name),
        of.map((entry, i) => h('span', { class: 'm2k-share', 'data-side': SIDES[i] }, entry ? percent(entry.share) : '–'))),
        h('button', {
          type: 'button', class: 'm2k-only', 'aria-label': t('only_class', { name }),
          onclick: () => this.hide(new Set(this.names().filter((other) => other !== name))),
        }, t('only')));
    }));
    this.write();
  }

  /** @param {string} name */
  toggle(name) {
    const hidden = new Set(this.viewer.state.hidden);
    if (!hidden.delete(name)) hidden.add(name);
    this.hide(hidden);
  }

  /** Hiding is of the class layer, so that is shown. @param {Set<string>} hidden */
  hide(hidden) {
    this.viewer.set({ hidden, layers: { ...this.viewer.state.layers, classes: true } });
  }

  write() {
    const { hidden, layers } = this.viewer.state;
    this.key.hidden = !layers.truth || !this.viewer.truth || this.viewer.stage.view === 'difference';
    for (const item of /** @type {Iterable<HTMLElement>} */ (this.list.children)) {
      item.firstElementChild?.setAttribute('aria-pressed', String(!hidden.has(item.dataset.class ?? '')));
    }
    this.all.hidden = !hidden.size;
  }
}
