// The results of a batch: videos over time, pictures, and a table that sorts by its column heads.
// The server sends rows while it computes; sorting and switching views happen here alone.

import { h, number, translator } from '../viewer/dom.js';
import { SIDES } from '../viewer/state.js';
import { compare, difference } from './rows.js';
import { Strip } from './strip.js';

/**
 * @typedef {import('./rows.js').Row} Row
 * @typedef {import('./rows.js').Sorting} Sorting
 * @typedef {import('./strip.js').Film} Film
 * @typedef {'photo' | 'heat'} View
 * @typedef {object} Value
 * @property {string} run another one replaces everything
 * @property {string} folder where the files lie
 * @property {Row[]} rows as they were given
 * @property {Film[]} films
 * @property {string} read how the scores are read, in words
 * @typedef {(key: string, values?: Record<string, unknown>) => string} Translate
 * @typedef {{ value: Value | null, files: string, strings: Record<string, string> }} Props
 * @typedef {(name: string, data: unknown) => void} Trigger
 * @typedef {{ element: HTMLElement, props: Props, trigger: Trigger,
 *   watch: (name: string, callback: () => void) => void }} Gradio
 * @typedef {{ key: string, side?: number, text: (row: Row) => string }} Column
 */

/** @type {View[]} */
const VIEWS = ['photo', 'heat'];
const ORDERS = ['anomalous area', 'highest score', 'models disagree', 'order given'];

/** @param {Gradio} gradio */
export function start({ element, props, watch, trigger }) {
  const root = /** @type {HTMLElement} */ (element.querySelector('.bat'));
  const results = new Results(root, props, trigger);
  watch('value', () => results.show(props.value));
  results.show(props.value);
}

class Results {
  /**
   * @param {HTMLElement} root
   * @param {Props} props
   * @param {Trigger} trigger
   */
  constructor(root, props, trigger) {
    this.root = root;
    this.props = props;
    this.trigger = trigger;
    /** @type {Translate} */
    this.t = translator(props.strings);
    /** @type {Value | null} */
    this.value = null;
    /** @type {View} */
    this.view = 'photo';
    /** @type {Sorting} */
    this.sorting = { key: ORDERS[0], descending: true };
    /** @type {number | null} */
    this.chosen = null;
    /** @type {Map<number, { tile: HTMLElement | null, line: HTMLElement }>} */
    this.made = new Map();
    /** @type {Map<number, Strip>} */
    this.strips = new Map();
    /** @type {Column[]} */
    this.columns = this.describe();
    /** @type {HTMLElement[]} */
    this.views = [];
    /** @type {HTMLElement[]} */
    this.heads = [];
    this.select = document.createElement('select');
    this.read = h('p', { class: 'bat-read' });
    this.films = h('div', { class: 'bat-films' });
    this.gallery = h('ul', { id: 'batch-gallery', 'aria-label': this.t('gallery') });
    this.body = h('tbody');
    this.build();
  }

  /** @returns {Column[]} */
  describe() {
    /** @type {(key: string, text: (model: import('./rows.js').Model) => string) => Column[]} */
    const pair = (key, text) => SIDES.map((_, side) => ({
      key, side, text: (row) => text(row.models[side]),
    }));
    return [
      ...pair('area', (model) => share(model.area)),
      ...pair('regions', (model) => String(model.regions)),
      ...pair('largest', (model) => this.t('pixels', { n: model.largest.toLocaleString('en') })),
      ...pair('highest', (model) => number(model.highest)),
      { key: 'disagree', text: (row) => share(difference(row)) },
    ];
  }

  build() {
    const { t } = this;
    this.select.id = 'batch-order';
    this.select.append(...ORDERS.map((name) => h('option', { value: name }, t(name))),
      h('option', { value: '', hidden: true }, t('order_table')));
    this.select.onchange = () => this.sortBy({ key: this.select.value, descending: true });
    this.views = VIEWS.map((view) => h('button', {
      type: 'button', 'data-view': view, 'aria-pressed': String(view === this.view),
      onclick: () => this.setView(view),
    }, t('view_' + view)));
    this.heads = [this.head({ key: 'name', text: (row) => row.label }),
      ...this.columns.map((column) => this.head(column))];
    this.root.replaceChildren(
      h('div', { class: 'bat-bar' },
        h('label', {}, t('order') + ' ', this.select),
        h('div', { class: 'bat-group', role: 'group', 'aria-label': t('view') }, this.views),
        this.read),
      this.films, this.gallery,
      h('div', { id: 'batch-numbers', tabindex: 0, role: 'region', 'aria-label': t('table') },
        h('table', {}, h('thead', {}, h('tr', {}, this.heads)), this.body)));
  }

  /** @param {Column} column */
  head({ key, side }) {
    const name = side === undefined ? key : `${key}:${side}`;
    const words = side === undefined ? null : h('small', {}, this.t(SIDES[side]));
    return h('th', { scope: 'col', 'data-key': name, 'data-side': side === undefined ? null : SIDES[side] },
      h('button', {
        type: 'button', onclick: () => {
          const again = this.sorting.key === name;
          this.sortBy({ key: name, descending: again ? !this.sorting.descending : key !== 'name' });
        },
      }, h('span', {}, this.t('column_' + key)), words, h('i', { 'aria-hidden': 'true' })));
  }

  /** @param {Value | null} value */
  show(value) {
    const rows = value?.rows ?? [];
    if (value?.run !== this.value?.run) {
      this.made.clear();
      this.strips.clear();
      this.films.replaceChildren();
      this.chosen = null;
    }
    this.value = value;
    this.root.dataset.state = rows.length ? 'ready' : 'empty';
    this.root.dataset.rows = String(rows.length);
    if (!value) return;
    this.read.textContent = value.read;
    for (const film of value.films) this.showFilm(film);
    for (const row of rows) {
      if (!this.made.has(row.number)) this.made.set(row.number, this.make(row));
    }
    this.arrange();
  }

  /** @param {Film} film */
  showFilm(film) {
    const rows = film.numbers.map((n) => /** @type {Row} */ (this.value?.rows.find((row) => row.number === n)));
    let strip = this.strips.get(film.numbers[0]);
    if (!strip) {
      strip = new Strip(this.t, (name) => this.address(name), (n) => this.choose(n));
      this.strips.set(film.numbers[0], strip);
      this.films.append(strip.root);
    }
    strip.show(film, rows, this.view);
  }

  /** @param {string} name of a file of this batch */
  address(name) {
    return this.props.files + encodeURI(`${this.value?.folder}/${name}`);
  }

  /** @param {Row} row */
  make(row) {
    const { t } = this;
    const choose = () => this.choose(row.number);
    if (!row.models.length) {
      const line = h('tr', {}, h('th', { scope: 'row' }, row.label),
        h('td', { class: 'bat-error', colspan: this.columns.length }, row.error));
      return { tile: null, line };
    }
    const [left, right] = row.models.map((model) => shortShare(model.area));
    const tile = h('li', {}, h('button', {
      type: 'button', 'data-number': row.number, 'aria-pressed': 'false', onclick: choose,
    }, h('img', { alt: '', loading: 'lazy' }),
    h('span', { class: 'caption-label' }, h('b', {}, row.label), h('span', {}, t('caption', { left, right })))));
    const line = h('tr', {},
      h('th', { scope: 'row' }, h('button', {
        type: 'button', 'data-number': row.number, 'aria-pressed': 'false', onclick: choose,
      }, row.label)),
      this.columns.map((column) => h('td', {
        'data-side': column.side === undefined ? null : SIDES[column.side],
      }, column.text(row))));
    this.paint(row, tile);
    return { tile, line };
  }

  /**
   * @param {Row} row
   * @param {HTMLElement} tile
   */
  paint(row, tile) {
    const image = tile.querySelector('img');
    const name = row[this.view];
    if (image && name) image.src = this.address(name);
  }

  /** @param {View} view */
  setView(view) {
    this.view = view;
    this.views.forEach((button) => button.setAttribute('aria-pressed', String(button.dataset.view === view)));
    for (const row of this.value?.rows ?? []) {
      const tile = this.made.get(row.number)?.tile;
      if (tile) this.paint(row, tile);
    }
    for (const strip of this.strips.values()) strip.setView(view);
  }

  /** @param {Sorting} sorting */
  sortBy(sorting) {
    this.sorting = sorting;
    this.arrange();
  }

  arrange() {
    const { key, descending } = this.sorting;
    this.select.value = ORDERS.includes(key) ? key : '';
    for (const head of this.heads) {
      const by = head.dataset.key === key;
      if (by) head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    }
    const rows = [...(this.value?.rows ?? [])].sort(compare(this.sorting));
    const made = rows.map((row) => this.made.get(row.number));
    // Moved, not made anew: pictures stay loaded, and the focus stays where it is.
    reorder(this.gallery, made.flatMap((one) => one?.tile ?? []));
    reorder(this.body, made.flatMap((one) => one?.line ?? []));
  }

  /** @param {number} chosen number of the row */
  choose(chosen) {
    this.chosen = chosen;
    for (const button of this.root.querySelectorAll('button[data-number]')) {
      const own = Number(/** @type {HTMLElement} */ (button).dataset.number) === chosen;
      button.setAttribute('aria-pressed', String(own));
    }
    this.trigger('picture_chosen', { number: chosen });
  }
}

/**
 * Bring an element's children into an order; those in place are left alone.
 * @param {HTMLElement} parent
 * @param {HTMLElement[]} children
 */
function reorder(parent, children) {
  children.forEach((child, i) => {
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
  });
  while (parent.children.length > children.length) parent.lastElementChild?.remove();
}

/** @param {number} value */
function share(value) {
  return (100 * value).toFixed(2) + '\u00a0%';
}

/** @param {number} value */
function shortShare(value) {
  return (100 * value).toFixed(1);
}
