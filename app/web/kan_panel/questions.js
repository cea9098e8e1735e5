// @ts-check
// What the panel asks about what it shows: the function of an edge, the sizes of edges for a query.

import { unpackSizes } from './data.js';

/** @import { Edge, EdgePayload, KanPayload, PackedMatrix, Props, QueryPayloadSizes, Ranking, Refusal,
  Server, Sizes, Translate } from './types.js' */

export class Questions {
  /**
   * @param {Server} server
   * @param {Props} props
   * @param {Translate} t
   * @param {(reason: string, again: () => void) => void} complain Of a refusal; empty: all is well.
   */
  constructor(server, props, t, complain) {
    this.server = server;
    this.files = props.files;
    this.t = t;
    this.complain = complain;
    /** @type {Map<string, Sizes>} By layer, query and ranking. */
    this.sizes = new Map();
    /** @type {{ run: string | null, model: string }} */
    this.about = { run: null, model: '' };
    /** How many were asked of each kind: of a question that has a later one, nothing is said. */
    this.asked = { kan_edge: 0, kan_query: 0 };
    /** @type {'kan_edge' | 'kan_query' | null} The kind of question whose refusal is said. */
    this.refused = null;
  }

  /**
   * Go on with another picture or model.
   * @param {KanPayload} payload
   * @param {Map<string, Sizes>} sizes Of all queries together.
   */
  begin({ run, model }, sizes) {
    this.about = { run, model };
    this.sizes = sizes;
    this.refused = null;
    this.complain('', () => {});
  }

  /**
   * @param {number} layer
   * @param {Edge} edge
   * @param {() => void} again
   * @returns {Promise<EdgePayload | null>} null where there is no answer, which is said.
   */
  async edge(layer, { input, output }, again) {
    const answer = await this.ask('kan_edge', ++this.asked.kan_edge, { layer, input, output }, again);
    return /** @type {EdgePayload | null} */ (answer);
  }

  /**
   * @param {number} layer
   * @param {number | null} query null for all of them.
   * @param {Ranking} ranking
   * @param {() => void} again
   * @returns {Promise<Sizes | null>} null where there is no answer, which is said.
   */
  async sizesOf(layer, query, ranking, again) {
    const { sizes } = this; // kept where they belong, whatever is shown meanwhile
    const key = keyOf(layer, query, ranking);
    const mine = ++this.asked.kan_query;
    if (sizes.has(key)) {
      this.say('kan_query', mine, '', again);
      return sizes.get(key) ?? null;
    }
    const answer = /** @type {QueryPayloadSizes | null} */ (
      await this.ask('kan_query', mine, { layer, query }, again));
    if (!answer) return null;
    try {
      sizes.set(keyOf(layer, query, 'spline'), await unpackSizes(this.addressed(answer.spline)));
      sizes.set(keyOf(layer, query, 'total'), await unpackSizes(this.addressed(answer.total)));
    } catch (error) {
      const { message } = /** @type {Error} */ (error);
      this.say('kan_query', mine, this.t('not_loaded', { reason: message }), again);
      return null;
    }
    return sizes.get(key) ?? null;
  }

  /**
   * A matrix of an answer with the address of its file, which Gradio adds to values alone.
   * @param {PackedMatrix} matrix
   * @returns {PackedMatrix}
   */
  addressed({ codes, largest }) {
    return { codes: { ...codes, url: this.files + encodeURI(codes.path) }, largest };
  }

  /**
   * @param {'kan_edge' | 'kan_query'} name
   * @param {number} mine Its number among those of its kind.
   * @param {object} question
   * @param {() => void} again
   * @returns {Promise<EdgePayload | QueryPayloadSizes | null>}
   */
  async ask(name, mine, question, again) {
    /** @type {EdgePayload | QueryPayloadSizes | Refusal | undefined} */
    let answer;
    try {
      answer = await this.server[name]({ ...this.about, ...question });
    } catch {
      answer = undefined; // as where the connection fails: Gradio then logs it and gives nothing
    }
    const refusal = !answer || 'error' in answer ? answer?.error ?? this.t('no_answer') : '';
    this.say(name, mine, refusal, again);
    return !answer || 'error' in answer ? null : answer;
  }

  /**
   * Say why a question has no answer, or with '' take back what was said of its kind; nothing
   * where a later one of its kind was asked.
   * @param {'kan_edge' | 'kan_query'} name
   * @param {number} mine
   * @param {string} refusal
   * @param {() => void} again
   */
  say(name, mine, refusal, again) {
    if (mine !== this.asked[name] || (!refusal && this.refused !== name)) return;
    this.refused = refusal ? name : null;
    this.complain(refusal, again);
  }
}

/**
 * @param {number} layer
 * @param {number | null} query
 * @param {Ranking} ranking
 */
export function keyOf(layer, query, ranking) {
  return `${layer} ${query ?? 'all'} ${ranking}`;
}
