// @ts-check
// The panel's parts and what is chosen in them: a layer, a ranking, an edge and a query.

import { h, translator } from '../viewer/dom.js';
import { Answer } from './answer.js';
import { choice, press } from './choice.js';
import { Curve } from './curve.js';
import { unpackSizes } from './data.js';
import { Edges } from './edges.js';
import { Queries } from './queries.js';
import { keyOf, Questions } from './questions.js';

/** @import { Edge, KanPayload, Props, Ranking, Server, Translate } from './types.js' */

/** @type {Ranking[]} */
const RANKINGS = ['spline', 'total', 'grid'];

export class Panel {
  /**
   * @param {HTMLElement} root
   * @param {Props} props
   * @param {Server} server
   */
  constructor(root, props, server) {
    /** @type {Translate} */
    this.t = translator(props.strings);
    this.root = root;
    this.onretry = () => {};
    const { t } = this;
    const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (root.querySelector(name));
    this.status = part('.kan-status');
    this.body = part('.kan-body');
    this.curve = new Curve(t, (query) => this.chooseQuery(query), (query) => this.hover(query));
    this.queries = new Queries(t, (query) => this.chooseQuery(query), (query) => this.hover(query));
    this.edges = new Edges(t, props.colours, (edge) => this.chooseEdge(edge));
    /** @type {KanPayload | null} */
    this.payload = null;
    this.index = 0;
    /** @type {Ranking} */
    this.ranking = 'spline';
    /** @type {number | null} */
    this.query = null;
    /** @type {Edge | null} */
    this.edge = null;
    this.questions = new Questions(server, props, t, (reason, again) => this.complain(reason, again));
    // Numbers of the latest of each: what comes late is dropped.
    this.latest = { payload: 0, edge: 0, sizes: 0 };
    this.answer = new Answer(t, (index) => this.chooseLayer(index));
    this.orders = choice(t, 'order', ['weight', 'edge'], (order) => this.arrange(order));
    this.rankings = choice(t, 'ranking', RANKINGS, (name) => this.rank(/** @type {Ranking} */ (name)));
    this.ranges = choice(t, 'range', ['values', 'knots'], (range) => this.setRange(range));
    this.all = /** @type {HTMLButtonElement} */ (h('button', {
      type: 'button', class: 'kan-all', hidden: true, onclick: () => this.chooseAll(),
    }, t('all_queries')));
    this.strongest = /** @type {HTMLElement} */ (h('h3', {}));
    this.ranked = /** @type {HTMLElement} */ (h('p', { class: 'kan-dim' }));
    this.functionTitle = /** @type {HTMLElement} */ (h('h3', {}));
    this.trouble = /** @type {HTMLElement} */ (h('p', { class: 'kan-trouble', hidden: true }));
    const place = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (
      h('input', { type: 'number', min: 0, id, onchange: () => this.typed() }));
    this.input = place('kan-input');
    this.output = place('kan-output');
    this.layOut();
  }

  layOut() {
    const { t } = this;
    this.body.replaceChildren(
      h('section', {}, this.answer.parts),
      h('section', {},
        h('div', { class: 'kan-bar' }, h('h3', {}, t('queries')), this.orders, this.all),
        h('p', { class: 'kan-dim' }, t('queries_read')), this.queries.root),
      h('div', { class: 'kan-columns' },
        h('section', { class: 'kan-function' },
          h('div', { class: 'kan-bar' }, this.functionTitle,
            h('label', {}, t('input') + ' ', this.input), h('label', {}, t('output') + ' ', this.output),
            this.ranges),
          this.trouble, this.curve.parts),
        h('section', { class: 'kan-strongest' }, this.strongest, this.rankings, this.ranked, this.edges.list),
        h('section', { class: 'kan-all-edges' }, h('h3', {}, t('map')), this.edges.map)));
    press(this.orders, 'order', this.queries.order);
    press(this.ranges, 'range', this.curve.wide ? 'knots' : 'values');
  }

  // ------------------------------------------------------------ what came of the question

  waiting() {
    this.latest.payload++;
    this.state('computing');
    this.status.replaceChildren(this.t(this.payload ? 'computing_again' : 'computing'));
  }

  /** @param {string} reason */
  refuse(reason) {
    this.state('failed');
    this.status.replaceChildren(...this.refusal(reason, () => this.onretry()));
  }

  /** @param {string} name */
  state(name) {
    this.root.dataset.state = name;
    this.root.setAttribute('aria-busy', String(name === 'computing'));
  }

  /**
   * @param {string} reason
   * @param {() => void} retry
   * @returns {HTMLElement[]}
   */
  refusal(reason, retry) {
    return [h('span', { role: 'alert' }, reason),
      h('button', { type: 'button', class: 'kan-retry', onclick: retry }, this.t('retry'))];
  }

  /** @param {KanPayload} payload */
  async load(payload) {
    const mine = ++this.latest.payload;
    const sizes = new Map();
    let cards;
    try {
      [cards] = await Promise.all([
        this.queries.drawn(payload),
        ...payload.layers.flatMap((layer, index) => RANKINGS.map(async (ranking) => {
          sizes.set(keyOf(index, null, ranking), await unpackSizes(layer[ranking]));
        })),
      ]);
    } catch (error) {
      const reason = this.t('not_loaded', { reason: /** @type {Error} */ (error).message });
      if (mine === this.latest.payload) this.refuse(reason);
      return;
    }
    if (mine !== this.latest.payload) return;
    this.payload = payload;
    this.questions.begin(payload, sizes);
    this.queries.show(cards);
    this.query = null;
    this.answer.show(payload);
    this.body.hidden = false;
    this.status.replaceChildren();
    this.state('ready');
    await this.chooseLayer(Math.min(this.index, payload.layers.length - 1));
    Object.assign(this.root.dataset, { run: payload.run ?? '', model: payload.model });
  }

  // ------------------------------------------------------------ what is chosen

  /** @returns {KanPayload} */
  get shown() {
    if (!this.payload) throw new Error('nothing is shown yet');
    return this.payload;
  }

  get layer() {
    return this.shown.layers[this.index];
  }

  /** @param {number} index */
  async chooseLayer(index) {
    this.index = index;
    const { layer } = this;
    this.answer.mark(index, layer);
    this.input.max = String(layer.in_features - 1);
    this.output.max = String(layer.out_features - 1);
    this.edge = null;
    delete this.root.dataset.input; // until one of this layer is shown
    const before = this.latest.edge;
    await this.drawEdges();
    if (before !== this.latest.edge) return; // an edge was chosen meanwhile
    const first = this.edges.first() ?? { input: 0, output: 0 };
    await this.chooseEdge(first);
  }

  /** @param {Ranking} ranking */
  async rank(ranking) {
    this.ranking = ranking;
    await this.drawEdges();
  }

  /**
   * A query, or with null or the same one again all of them.
   * @param {number | null} query
   */
  async chooseQuery(query) {
    this.query = query === this.query ? null : query;
    if (this.query !== null && this.ranking === 'grid') this.ranking = 'spline';
    await this.drawEdges();
  }

  /** All queries again; the button for it goes, and hands the focus on. */
  chooseAll() {
    this.queries.focus(this.query);
    this.chooseQuery(null);
  }

  /** The edges as they are ranked now: over the picture, or for the chosen query. */
  async drawEdges() {
    const { t, query, ranking, index } = this;
    const mine = ++this.latest.sizes;
    press(this.rankings, 'ranking', ranking);
    /** @type {HTMLButtonElement} */ (this.rankings.querySelector('[data-ranking=grid]')).disabled =
      query !== null;
    this.all.hidden = query === null;
    this.queries.mark(query);
    this.curve.mark(query);
    const sizes = await this.questions.sizesOf(index, query, ranking, () => this.drawEdges());
    if (mine !== this.latest.sizes || !sizes) return;
    this.strongest.textContent = query === null ? t('strongest') : t('strongest_for', { query });
    this.ranked.textContent = t((query === null ? 'ranked_' : 'ranked_query_') + ranking);
    this.edges.show(this.layer, sizes);
    this.root.dataset.query = query === null ? '' : String(query);
    this.root.dataset.ranking = ranking;
  }

  typed() {
    this.chooseEdge({ input: Number(this.input.value), output: Number(this.output.value) });
  }

  /** @param {Edge} edge */
  async chooseEdge(edge) {
    const mine = ++this.latest.edge;
    const { index, shown } = this;
    const { input, output } = edge;
    const view = await this.questions.edge(index, edge, () => this.chooseEdge(edge));
    if (mine !== this.latest.edge || shown !== this.payload || !view) return;
    this.edge = edge;
    for (const [field, value] of /** @type {const} */ ([[this.input, input], [this.output, output]])) {
      if (!field.matches(':focus')) field.value = String(value); // what is being typed stays
    }
    this.functionTitle.textContent = this.t('function', { i: input, o: output });
    const last = index === shown.layers.length - 1;
    this.curve.show(view, shown.queries, { first: index === 0, last });
    this.queries.place(view, this.curve.range);
    this.edges.mark(edge);
    Object.assign(this.root.dataset, { layer: index, input, output });
  }

  /** @param {string} order */
  arrange(order) {
    this.queries.order = order === 'edge' ? 'edge' : 'weight';
    press(this.orders, 'order', this.queries.order);
    this.queries.arrange();
  }

  /** @param {string} range */
  setRange(range) {
    press(this.ranges, 'range', range);
    this.curve.wide = range === 'knots';
    this.curve.draw();
    if (this.curve.view) this.queries.place(this.curve.view, this.curve.range);
  }

  /** @param {number | null} query */
  hover(query) {
    this.curve.highlight(query);
    this.queries.highlight(query);
  }

  /**
   * Say above the function why there is no answer about it, or with '' that there is one again.
   * @param {string} reason
   * @param {() => void} again
   */
  complain(reason, again) {
    this.trouble.hidden = !reason;
    this.trouble.replaceChildren(...(reason ? this.refusal(reason, again) : []));
  }
}
