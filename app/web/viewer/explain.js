// @ts-check
// "Why here?": the reasons behind one pixel's score, for both models. A plain sentence first; the
// masks and the sums, which add up to the score, on demand. The server takes the pixel apart
// (mask2kan.explain).

import { css, h, number, percent } from './dom.js';
import { context } from './maps.js';
import { SIDES } from './state.js';

/** @typedef {import('./viewer.js').Viewer} Viewer */

export class Explanation {
  /**
   * @param {Viewer} viewer
   * @param {() => void} close
   */
  constructor(viewer, close) {
    this.viewer = viewer;
    this.t = viewer.t;
    this.content = h('div', { class: 'm2k-why-sides' });
    this.title = h('h3', { tabindex: '-1' }, this.t('why'));
    this.root = h('section', { class: 'm2k-why', 'aria-label': this.t('why'), 'aria-live': 'polite' },
      h('header', {}, this.title, h('button', {
        type: 'button', class: 'm2k-close', 'aria-label': this.t('close'), onclick: close,
      }, '×')), this.content);
    this.asked = 0;
    /** What the server said of the pixel. @type {Record<string, any> | null} */
    this.told = null;
    this.open = false; // whether the masks and sums are: they stay open from pixel to pixel
  }

  forget() {
    this.asked++;
    this.told = null;
    this.content.replaceChildren();
    for (const name of ['x', 'y', 'run']) delete this.root.dataset[name];
  }

  /** @param {import('./panes.js').Point} place in the picture as it was uploaded */
  async ask(place) {
    const mine = ++this.asked;
    const { viewer } = this;
    const { run } = /** @type {import('./payload.js').Result} */ (viewer.result);
    this.root.setAttribute('aria-busy', 'true');
    const answer = await viewer.ask('explain_run', { run, ...place });
    if (mine !== this.asked) return;
    this.root.removeAttribute('aria-busy');
    if (!answer) {
      this.forget(); // the reasons of the pixel before are not this one's
      return;
    }
    this.told = answer;
    this.content.replaceChildren(...viewer.maps.map((maps, i) => this.side(maps, i, answer[SIDES[i]])));
    Object.assign(this.root.dataset, { ...place, run });
  }

  /** The sentences anew: the threshold has moved. */
  speak() {
    const { told, viewer } = this;
    if (!told || this.root.dataset.run !== viewer.result?.run) return;
    this.content.querySelectorAll('.m2k-plain').forEach((place, i) => {
      place.textContent = this.sentence(viewer.maps[i], i, told[SIDES[i]]);
    });
  }

  /**
   * @param {import('./maps.js').Maps} maps
   * @param {number} index
   * @param {any} told
   */
  side(maps, index, told) {
    const { t, viewer } = this;
    const { data } = maps;
    const details = h('details', { open: this.open },
      h('summary', {}, t('why_more')),
      h('p', {}, t('why_value', { score: data.score_title, value: number(told.value) })),
      h('div', { class: 'm2k-meter', role: 'group', 'aria-label': t('top_classes') },
        told.classes.flatMap((/** @type {any} */ entry) => meter(entry.name, entry.score, css(entry.color)))),
      h('p', { class: 'm2k-note' }, t('claims', { name: told.predicted.name })),
      h('div', { class: 'm2k-queries' }, told.queries.map((/** @type {any} */ query) => this.query(query, index))),
      h('p', {
        class: 'm2k-sum', 'data-sum': 'class', 'data-rest': told.rest, 'data-total': told.predicted.score,
      }, this.classSum(told)),
      h('p', { class: 'm2k-sum', 'data-sum': 'score' }, this.scoreSum(told)),
      told.notes.map((/** @type {string} */ note) => h('p', { class: 'm2k-note' }, note)));
    details.addEventListener('toggle', () => { this.open = details.open; });
    return h('div', { class: 'm2k-why-side', 'data-side': data.side },
      h('h4', {}, h('i', { class: 'm2k-dot', 'aria-hidden': 'true' }), viewer.names[index]),
      h('p', { class: 'm2k-plain' }, this.sentence(maps, index, told)), details);
  }

  /**
   * In one sentence: whether it is unusual here, and what it could be.
   * @param {import('./maps.js').Maps} maps
   * @param {number} index
   * @param {any} told
   */
  sentence(maps, index, told) {
    const { t, viewer } = this;
    const [first, second] = told.classes;
    const { x, y } = /** @type {import('./panes.js').Point} */ (viewer.picked);
    // What counts is the smoothed map, as everywhere on the page.
    const over = maps.score(maps.codes[y * maps.width + x]) >= viewer.threshold(index);
    const values = { name: first.name, share: percent(Math.min(1, first.score)), second: second?.name ?? '' };
    if (!over) return t('plain_known', values);
    if (first.score < 0.5) return t(second ? 'plain_unknown' : 'plain_unknown_one', values);
    return t('plain_near', values);
  }

  /** @param {any} query @param {number} index */
  query(query, index) {
    const { t, viewer } = this;
    const { height, width, data } = query.mask;
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const canvas = h('canvas', {
      width, height, role: 'img',
      'aria-label': t('mask_of', { query: query.query, label: query.label.name }),
    });
    const image = new ImageData(width, height);
    bytes.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
    const drawing = context(canvas);
    drawing.putImageData(image, 0, 0);
    const at = /** @type {import('./panes.js').Point} */ (viewer.picked);
    drawing.fillStyle = getComputedStyle(viewer.root).getPropertyValue(`--m2k-bright-${SIDES[index]}`);
    drawing.fillRect((at.x / viewer.place.width) * width - 2, (at.y / viewer.place.height) * height - 2, 4, 4);
    return h('div', { class: 'm2k-query', 'data-query': query.query, 'data-contribution': query.contribution },
      canvas,
      h('b', {}, t('query', { query: query.query })),
      h('span', {}, `${query.label.name} ${percent(query.label.probability)}`),
      h('span', {}, t('product', {
        p: number(query.class_probability), m: number(query.mask_probability), c: number(query.contribution),
      })));
  }

  /** @param {any} told */
  classSum(told) {
    const parts = told.queries.map((/** @type {any} */ query) => number(query.contribution));
    return this.t('class_sum', {
      name: told.predicted.name, parts: parts.join(' + '), rest: number(told.rest),
      total: number(told.predicted.score),
    });
  }

  /** @param {any} told */
  scoreSum({ score, steps }) {
    const { t } = this;
    return steps.map((/** @type {any} */ step) => {
      const parts = (step.terms ?? []).map((/** @type {any} */ term) => `${term.name} ${number(term.term)}`).join(' + ');
      return t('score_' + score, {
        largest: number(step.largest_class_score), name: step.name, parts, others: number(step.others),
        log: number(step.log_num_classes), sum: number(step.logsumexp), value: number(step.value),
      });
    }).join('\n');
  }
}

/** @param {string} name @param {number} score @param {string} colour */
function meter(name, score, colour) {
  const width = 100 * Math.min(1, Math.max(0, score));
  return [h('span', {}, name),
    h('i', { 'aria-hidden': 'true' }, h('i', { style: `width: ${width}%; background: ${colour}` })),
    h('span', {}, number(score))];
}
