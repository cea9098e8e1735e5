// "Why here?": the numbers behind one pixel's score, for both models. The server takes the pixel
// apart (mask2kan.explain); what is listed adds up to the class score and to the anomaly score.

import { css, h, number, percent } from './dom.js';

const SIDE_COLOURS = { left: 'var(--m2k-left)', right: 'var(--m2k-right)' };

export class Explanation {
  constructor(viewer) {
    this.viewer = viewer;
    this.t = viewer.t;
    this.content = h('div', { class: 'm2k-why-sides' });
    this.title = h('h3', { tabindex: '-1' }, this.t('why'));
    this.hint = h('p', { class: 'm2k-note' }, this.t('why_hint'));
    this.root = h('section', { class: 'm2k-why', 'aria-label': this.t('why') },
      h('div', {}, this.title, this.hint), this.content);
    this.asked = 0;
  }

  /** @param place x, y in the picture as it was uploaded. */
  async ask(place) {
    const mine = ++this.asked;
    this.root.setAttribute('aria-busy', 'true');
    this.title.textContent = this.t('why_at', place);
    const answer = await this.viewer.ask('explain_run', { run: this.viewer.value.run, ...place });
    if (mine !== this.asked) return;
    this.root.removeAttribute('aria-busy');
    if (!answer) return;
    this.hint.textContent = this.t('why_read');
    this.content.replaceChildren(...this.viewer.sides.map((side) =>
      this.side(side, answer[side.data.side])));
    this.root.dataset.x = place.x;
    this.root.dataset.y = place.y;
    this.root.dataset.run = this.viewer.value.run;
  }

  side(side, told) {
    const { t } = this;
    const name = side.data.side;
    return h('div', { class: 'm2k-why-side', 'data-side': name },
      h('h4', {}, h('i', { class: 'm2k-dot', 'aria-hidden': 'true' }), side.data.title),
      h('p', {}, t('why_value', {
        score: side.data.score_title, value: number(told.value), name: told.predicted.name,
      })),
      h('div', { class: 'm2k-meter', role: 'group', 'aria-label': t('top_classes') },
        told.classes.flatMap((entry) => this.meter(entry.name, entry.score, css(entry.color)))),
      h('p', { class: 'm2k-note' }, t('claims', { name: told.predicted.name })),
      h('div', { class: 'm2k-queries' }, told.queries.map((query) => this.query(query, name))),
      h('p', {
        class: 'm2k-sum', 'data-sum': 'class', 'data-rest': told.rest, 'data-total': told.predicted.score,
      }, this.classSum(told)),
      h('p', { class: 'm2k-sum', 'data-sum': 'score' }, this.scoreSum(told)),
      told.notes.map((note) => h('p', { class: 'm2k-note' }, note)));
  }

  meter(name, score, colour) {
    const width = 100 * Math.min(1, Math.max(0, score));
    return [h('span', {}, name),
      h('i', { 'aria-hidden': 'true' }, h('i', { style: `width: ${width}%; background: ${colour}` })),
      h('span', {}, number(score))];
  }

  query(query, side) {
    const { t } = this;
    const { height, width, data } = query.mask;
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const canvas = h('canvas', {
      width, height, role: 'img',
      'aria-label': t('mask_of', { query: query.query, label: query.label.name }),
    });
    const image = new ImageData(width, height);
    bytes.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
    canvas.getContext('2d').putImageData(image, 0, 0);
    const at = this.viewer.picked;
    const { view } = this.viewer;
    const context = canvas.getContext('2d');
    context.fillStyle = getComputedStyle(this.viewer.root).getPropertyValue(SIDE_COLOURS[side].slice(4, -1));
    context.fillRect((at.x / view.width) * width - 2, (at.y / view.height) * height - 2, 4, 4);
    return h('div', { class: 'm2k-query', 'data-query': query.query, 'data-contribution': query.contribution },
      canvas,
      h('b', {}, t('query', { query: query.query })),
      h('span', {}, `${query.label.name} ${percent(query.label.probability)}`),
      h('span', {}, t('product', {
        p: number(query.class_probability), m: number(query.mask_probability), c: number(query.contribution),
      })));
  }

  classSum(told) {
    const parts = told.queries.map((query) => number(query.contribution));
    return this.t('class_sum', {
      name: told.predicted.name, parts: parts.join(' + '), rest: number(told.rest),
      total: number(told.predicted.score),
    });
  }

  scoreSum({ score, steps }) {
    const { t } = this;
    return steps.map((step) => {
      const parts = (step.terms ?? []).map((term) => `${term.name} ${number(term.term)}`).join(' + ');
      return t('score_' + score, {
        largest: number(step.largest_class_score), name: step.name, parts, others: number(step.others),
        log: number(step.log_num_classes), sum: number(step.logsumexp), value: number(step.value),
      });
    }).join('\n');
  }
}
