// One model's card: what it is, the histogram of its scores with the threshold on it, the
// threshold itself, what it finds, and with ground truth how well.

import { css, h, number, percent } from './dom.js';
import { CODES } from './maps.js';

const BINS = 128;
const INK = [255, 32, 140];
const PRESETS = ['fpr05', 'tpr95', 'best_f1'];
const CURVE_POINTS = 160;

/** The scores a slider reaches: the colour range and the picture's own scores. */
export function reach(...sides) {
  const low = Math.min(...sides.map((side) => Math.min(side.low, side.data.range[0])));
  const high = Math.max(...sides.map((side) => Math.max(side.high, side.data.range[1])));
  return high > low ? [low, high] : [low, low + 1];
}

/** A range input over scores; arrow keys move it by half a percent of its reach. */
export function scoreSlider(id, label, [low, high], value, moved) {
  const step = (high - low) / 200;
  // A range input rounds: its ends are meant as the ends.
  const exactly = (value) => (value - low < step * 1e-3 ? low : high - value < step * 1e-3 ? high : value);
  const slider = h('input', {
    type: 'range', id, class: 'm2k-slider', min: low, max: high, step: 'any', 'aria-label': label,
    oninput: () => moved(exactly(Number(slider.value))),
    onkeydown: (event) => {
      const steps = {
        ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10,
      }[event.key];
      if (!steps) return;
      event.preventDefault();
      moved(Math.min(high, Math.max(low, Number(slider.value) + steps * step)));
    },
  });
  slider.value = value;
  return slider;
}

export class Card {
  /**
   * @param side its maps.
   * @param t sentences.
   * @param moved called with a threshold in score units.
   */
  constructor(side, t, moved) {
    Object.assign(this, { side, t });
    const { data } = side;
    this.reach = reach(side);
    this.slider = scoreSlider(`threshold-${data.side}`,
      t('threshold_of', { model: data.title }), this.reach, 0, moved);
    this.exact = h('input', {
      type: 'number', step: 'any', class: 'm2k-number',
      'aria-label': t('threshold_exact', { model: data.title }),
      onchange: () => moved(this.exact.valueAsNumber),
    });
    this.bars = h('canvas', { class: 'm2k-bars', role: 'img' });
    this.line = h('i', { class: 'm2k-line', 'aria-hidden': 'true' });
    this.gradient = h('canvas', { class: 'm2k-gradient', width: 256, height: 1, 'aria-hidden': 'true' });
    this.range = h('i', { class: 'm2k-scale', 'aria-hidden': 'true' }, this.gradient);
    this.found = h('p', { class: 'm2k-found' });
    this.where = h('p', { class: 'm2k-note' });
    this.presets = h('div', { class: 'm2k-presets' },
      this.presetsOffered().map(([name, value]) =>
        h('button', { type: 'button', class: 'm2k-chip', 'data-preset': name, onclick: () => moved(value()) },
          t('preset_' + name))));
    this.judged = side.truth ? this.judgement() : null;
    this.root = this.build();
  }

  presetsOffered() {
    const { thresholds, threshold } = this.side.data;
    const known = PRESETS.filter((name) => name in thresholds)
      .map((name) => [name, () => thresholds[name]]);
    if (!known.length) known.push(['middle', () => threshold]);
    if (this.side.truth) known.push(['best_here', () => this.side.bestF1()]);
    return known;
  }

  build() {
    const { data } = this.side;
    const { t } = this;
    return h('section', { class: 'm2k-card', 'data-side': data.side, 'aria-label': data.title },
      h('header', {},
        h('h3', { class: 'm2k-name' }, h('i', { class: 'm2k-dot', 'aria-hidden': 'true' }), data.title),
        h('p', { class: 'm2k-facts' }, data.facts),
        h('p', { class: 'm2k-stages' }, data.stages),
        h('ul', { class: 'm2k-notes' }, data.notes.map((note) => h('li', {}, note)))),
      h('div', { class: 'm2k-histogram' }, this.bars, this.line, this.range, this.slider,
        h('div', { class: 'm2k-ticks', 'aria-hidden': 'true' },
          h('span', {}, number(this.reach[0])), h('span', {}, number(this.reach[1])))),
      h('div', { class: 'm2k-settings' },
        h('label', {}, h('span', {}, t('threshold') + ' '), this.exact), this.presets),
      this.found,
      this.judged,
      this.where);
  }

  judgement() {
    this.curve = h('canvas', { class: 'm2k-curve', role: 'img', width: 264, height: 168 });
    this.scores = h('dl', { class: 'm2k-scores' });
    return h('div', { class: 'm2k-truth' }, this.curve, this.scores);
  }

  /** Everything that depends on the size of the card, the colours or the range, not the threshold. */
  draw(colours, range, measured) {
    const gradient = new ImageData(256, 1);
    colours.forEach((colour, i) => gradient.data.set([...colour, 255], 4 * i));
    this.gradient.getContext('2d').putImageData(gradient, 0, 0);
    const [from, to] = range.map((value) => 100 * this.share(value));
    this.range.style.marginLeft = from + '%';
    this.range.style.width = Math.max(1, to - from) + '%';
    const { data, low, high } = this.side;
    const key = measured ? 'range_picture' : data.calibrated ? 'range_calibrated' : 'range_nominal';
    this.where.textContent = this.t(key, {
      low: number(range[0]), high: number(range[1]), data: data.calibrated_on || '',
      minimum: number(low), maximum: number(high),
    });
    this.where.dataset.range = measured ? 'picture' : data.calibrated ? 'calibrated' : 'nominal';
    this.drawBars();
    if (this.curve) this.drawCurve();
  }

  share(value) {
    return Math.min(1, Math.max(0, (value - this.reach[0]) / (this.reach[1] - this.reach[0])));
  }

  counted(histogram) {
    const bins = new Float64Array(BINS);
    for (let q = 0; q < CODES; q++) {
      if (!histogram[q]) continue;
      bins[Math.min(BINS - 1, Math.floor(BINS * this.share(this.side.score(q))))] += histogram[q];
    }
    return bins;
  }

  drawBars() {
    const { bars, side } = this;
    const style = getComputedStyle(bars);
    const ratio = Math.min(2, devicePixelRatio || 1);
    [bars.width, bars.height] = [bars.clientWidth * ratio || 1, bars.clientHeight * ratio || 1];
    const context = bars.getContext('2d');
    const all = this.counted(side.histogram);
    const top = Math.log1p(Math.max(...all)) || 1;
    const width = bars.width / BINS;
    const draw = (bins, colour) => {
      context.fillStyle = colour;
      bins.forEach((count, bin) => {
        const height = (bars.height * Math.log1p(count)) / top;
        context.fillRect(bin * width, bars.height - height, Math.max(1, width - 0.5), height);
      });
    };
    draw(all, style.color);
    if (side.truth) draw(this.counted(side.truth.positive), css(INK, 0.85));
    bars.setAttribute('aria-label', this.t(side.truth ? 'histogram_truth' : 'histogram', {
      low: number(side.low), high: number(side.high),
    }));
  }

  drawCurve() {
    const { curve, side, t } = this;
    const context = curve.getContext('2d');
    const [width, height, edge] = [curve.width, curve.height, 6];
    const ink = getComputedStyle(curve).color;
    this.spot = ({ recall, precision }) => [
      edge + recall * (width - 2 * edge), height - edge - precision * (height - 2 * edge)];
    this.drawPoint = (quality) => {
      context.clearRect(0, 0, width, height);
      context.strokeStyle = ink;
      context.globalAlpha = 0.35;
      context.strokeRect(edge, edge, width - 2 * edge, height - 2 * edge);
      context.globalAlpha = 1;
      context.lineWidth = 2;
      context.beginPath();
      for (const point of this.points) context.lineTo(...this.spot(point));
      context.stroke();
      context.fillStyle = css(INK);
      context.beginPath();
      context.arc(...this.spot(quality), 6, 0, 2 * Math.PI);
      context.fill();
    };
    const wanted = side.truth.tp[0];
    this.points = [];
    for (let q = CODES, last = -1; q >= 0; q--) {
      const bucket = Math.floor((CURVE_POINTS * side.truth.tp[q]) / (wanted || 1));
      if (side.above[q] && (bucket !== last || q === 0)) this.points.push(side.quality(q));
      last = bucket;
    }
    curve.setAttribute('aria-label', t('curve', { ap: number(side.averagePrecision()) }));
    this.average = side.averagePrecision();
  }

  /** Show a threshold: its line, and everything that can be read off counts. */
  threshold(value) {
    const { side, t } = this;
    const cut = side.cut(value);
    const area = side.above[cut] / side.codes.length;
    this.slider.value = value;
    this.slider.setAttribute('aria-valuetext', t('threshold_spoken', {
      value: number(value), area: percent(area),
    }));
    if (document.activeElement !== this.exact) this.exact.value = value.toFixed(4);
    this.line.style.left = 100 * this.share(value) + '%';
    this.root.dataset.threshold = value;
    this.root.dataset.cut = cut;
    this.root.dataset.pixels = side.above[cut];
    this.area = area;
    this.write();
    if (!this.judged) return;
    const quality = side.quality(cut);
    this.drawPoint?.(quality);
    for (const name of ['precision', 'recall', 'f1', 'iou']) this.root.dataset[name] = quality[name];
    this.scores.replaceChildren(...['precision', 'recall', 'f1', 'iou'].flatMap((name) =>
      [h('dt', {}, t(name)), h('dd', {}, number(quality[name]))]),
    h('dt', {}, t('average_precision')), h('dd', {}, number(this.average)));
  }

  /** What the worker counted; until it has, the page keeps its last count. */
  regions(result) {
    this.last = result;
    this.write();
    const { dataset } = this.root;
    const [cut, least] = this.wanted;
    if (result.q !== cut || result.least !== least) return; // it is already counting again
    Object.assign(dataset, {
      regions: result.count, regionPixels: result.pixels, countedCut: result.q,
    });
  }

  /** The worker is about to count anew: what the page still shows is outdated. */
  outdated(cut, least) {
    this.wanted = [cut, least];
    const { dataset } = this.root;
    dataset.regions = dataset.regionPixels = dataset.countedCut = '';
  }

  write() {
    const { last, t } = this;
    this.found.replaceChildren(
      h('b', {}, percent(this.area)), ' ' + t('of_the_picture') + ' · ',
      h('b', {}, last ? String(last.count) : '…'),
      ' ' + t(last?.count === 1 ? 'region' : 'regions', {
        least: last?.least ?? '', area: last ? percent(last.pixels / this.side.codes.length) : '…',
      }));
  }
}
