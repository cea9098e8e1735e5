// @ts-check
// One edge's function: the curve with its spline and base, the knots, and a dot for every query.

import { css, h, number, percent, svg } from '../viewer/dom.js';

/** @import { EdgePayload, QueryPayload, Translate } from './types.js' */

const MARGIN = { left: 52, right: 14, top: 14, bottom: 30 };
const TICK_ROOM = 46; // pixels between two numbers under the axis

export class Curve {
  /**
   * @param {Translate} t
   * @param {(query: number) => void} choose
   * @param {(query: number | null) => void} hover
   */
  constructor(t, choose, hover) {
    this.t = t;
    this.choose = choose;
    this.hover = hover;
    this.plot = svg('svg', { class: 'kan-plot', role: 'img' });
    this.read = /** @type {HTMLElement} */ (h('p', { class: 'kan-dim' }));
    this.up = /** @type {HTMLElement} */ (h('p', { class: 'kan-dim' }));
    this.across = /** @type {HTMLElement} */ (h('p', { class: 'kan-dim' }));
    /** @type {EdgePayload | null} */
    this.view = null;
    /** @type {QueryPayload[]} */
    this.queries = [];
    /** @type {number | null} */
    this.chosen = null;
    this.wide = false; // from the first knot to the last, or only where the picture's values are
    const key = (/** @type {string} */ name) =>
      h('li', {}, h('i', { class: name, 'aria-hidden': 'true' }), t('curve_' + name));
    this.parts = [this.up, this.plot, this.across,
      h('ul', { class: 'kan-legend' }, ['total', 'spline', 'base', 'dot'].map(key)), this.read];
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /**
   * @param {EdgePayload} view
   * @param {QueryPayload[]} queries Those with a mask in the strip.
   * @param {{ first: boolean, last: boolean }} place Of the layer.
   */
  show(view, queries, place) {
    this.view = view;
    this.queries = queries;
    const { input: i, output: o } = view;
    this.up.textContent = this.t(place.last ? 'axis_out_mask' : 'axis_out_hidden', { o });
    this.across.textContent = this.t(place.first ? 'axis_in_query' : 'axis_in_hidden', { i });
    this.draw();
  }

  /**
   * What the axis shows: from the first knot to the last, or where the picture's values are.
   * @returns {[number, number]}
   */
  get range() {
    const { x, activations } = /** @type {EdgePayload} */ (this.view);
    const [low, high] = [Math.min(...activations), Math.max(...activations)];
    const room = 0.06 * (high - low || 1);
    return this.wide ? [Math.min(x[0], low), Math.max(x[x.length - 1], high)] : [low - room, high + room];
  }

  /** @param {number | null} query */
  mark(query) {
    this.chosen = query;
    this.draw();
  }

  /** @param {number | null} query */
  highlight(query) {
    for (const dot of this.plot.querySelectorAll('.dot')) {
      dot.classList.toggle('hovered', dot.getAttribute('data-query') === String(query));
    }
  }

  draw() {
    const { view, t } = this;
    const width = this.plot.clientWidth;
    if (!view || !width) return;
    const height = Math.min(400, Math.max(240, Math.round(0.56 * width)));
    this.plot.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.plot.style.height = `${height}px`;
    const [x0, x1] = this.range;
    // A point more on either side, so that lines leave the plot instead of ending in it.
    const first = Math.max(0, view.x.findIndex((x) => x >= x0) - 1);
    const count = view.x.filter((x) => x >= x0 && x <= x1).length + 2;
    const seen = (/** @type {number[]} */ values) => values.slice(first, first + count);
    const xs = seen(view.x);
    const curves = ['base', 'total', 'spline'].map((name) =>
      ({ name, values: seen(view[/** @type {'base' | 'spline' | 'total'} */ (name)]) }));
    const ys = [...curves.flatMap(({ values }) => values), ...view.values, 0];
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const pad = 0.06 * (high - low || 1);
    const floor = height - MARGIN.bottom;
    const px = (/** @type {number} */ x) =>
      MARGIN.left + ((x - x0) / (x1 - x0)) * (width - MARGIN.left - MARGIN.right);
    const py = (/** @type {number} */ y) =>
      floor - ((y - low + pad) / (high - low + 2 * pad)) * (floor - MARGIN.top);
    const right = width - MARGIN.right;
    const within = (/** @type {number} */ x) => Math.min(right, Math.max(MARGIN.left, px(x)));
    const line = (/** @type {number} */ a, /** @type {number} */ b, /** @type {number} */ c,
      /** @type {number} */ d, /** @type {string} */ name) =>
      svg('line', { x1: a, y1: b, x2: c, y2: d, class: name });
    const text = (/** @type {number} */ x, /** @type {number} */ y, /** @type {string} */ anchor,
      /** @type {string} */ words, name = '') => {
      const node = svg('text', { x, y, 'text-anchor': anchor, class: name });
      node.textContent = words;
      return node;
    };
    const [from, to] = view.inner;
    const inside = svg('svg', {
      x: MARGIN.left, y: 0, width: right - MARGIN.left, height: floor,
      viewBox: `${MARGIN.left} 0 ${right - MARGIN.left} ${floor}`,
    });
    inside.append(...curves.map(({ name, values }) => svg('path', {
      class: name,
      d: values.map((y, i) => `${i ? 'L' : 'M'}${px(xs[i]).toFixed(1)} ${py(y).toFixed(1)}`).join(''),
    })));
    this.plot.replaceChildren(
      svg('rect', {
        class: 'inner', x: within(from), y: MARGIN.top, width: within(to) - within(from), height: floor - MARGIN.top,
      }),
      ...view.knots.filter((x) => x >= x0 && x <= x1)
        .map((x) => line(px(x), MARGIN.top, px(x), floor, 'knot')),
      line(MARGIN.left, py(0), right, py(0), 'axis'),
      line(MARGIN.left, floor, right, floor, 'axis'),
      inside, ...this.dots(px, py, text),
      text(MARGIN.left - 6, py(high) + 4, 'end', number(high)),
      text(MARGIN.left - 6, py(low) + 4, 'end', number(low)),
      ...(high - low > 0 && Math.min(py(0) - py(high), py(low) - py(0)) > 16
        ? [text(MARGIN.left - 6, py(0) + 4, 'end', '0')] : []),
      text(px(x0), height - 10, 'start', number(x0)),
      text(px(x1), height - 10, 'end', number(x1)),
      ...[from, to]
        .filter((x) => px(x) - px(x0) > 1.6 * TICK_ROOM && px(x1) - px(x) > 1.6 * TICK_ROOM)
        .filter((x) => x === from || px(to) - px(from) > TICK_ROOM)
        .map((x) => text(px(x), height - 10, 'middle', number(x))));
    this.plot.setAttribute('aria-label', t('curve_spoken', {
      i: view.input, o: view.output, low: number(low), high: number(high),
    }));
    this.tell(view);
  }

  /**
   * A dot per query: those of the strip in their class's colour and on top, the chosen one with its
   * number.
   * @param {(x: number) => number} px
   * @param {(y: number) => number} py
   * @param {(x: number, y: number, anchor: string, words: string, name?: string) => SVGElement} text
   */
  dots(px, py, text) {
    const view = /** @type {EdgePayload} */ (this.view);
    const listed = new Map(this.queries.map((one) => [one.query, one]));
    const rank = (/** @type {number} */ query) => (query === this.chosen ? 2 : Number(listed.has(query)));
    const order = [...view.activations.keys()].sort((a, b) => rank(a) - rank(b));
    const dots = order.map((query) => {
      const one = listed.get(query);
      const dot = svg('circle', {
        class: `dot${one ? ' listed' : ''}${query === this.chosen ? ' chosen' : ''}`,
        cx: px(view.activations[query]), cy: py(view.values[query]),
        r: query === this.chosen ? 7 : one ? 5 : 2.8, 'data-query': query,
      });
      if (one?.color) dot.style.fill = css(one.color);
      dot.addEventListener('click', () => this.choose(query));
      dot.addEventListener('pointerenter', () => this.hover(query));
      dot.addEventListener('pointerleave', () => this.hover(null));
      return dot;
    });
    if (this.chosen === null || !(this.chosen in view.activations)) return dots;
    const [x, y] = [px(view.activations[this.chosen]), py(view.values[this.chosen])];
    const leftHalf = x < this.plot.clientWidth / 2;
    const above = y > 2 * MARGIN.top + 10;
    return [...dots, text(x + (leftHalf ? 11 : -11), y + (above ? -9 : 18), leftHalf ? 'start' : 'end',
      this.t('query', { query: this.chosen }), 'name')];
  }

  /** @param {EdgePayload} view */
  tell(view) {
    const { t } = this;
    const summary = t('read', {
      n: view.activations.length, norm: number(view.norm), spline: number(view.spline_norm),
      inner: percent(view.outside_inner), knots: percent(view.outside_knots),
    });
    const query = this.chosen;
    this.read.textContent = query === null || !(query in view.activations) ? summary : `${t('read_query', {
      query, x: number(view.activations[query]), y: number(view.values[query]),
    })} ${summary}`;
  }
}
