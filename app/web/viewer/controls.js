// @ts-check
// Under the stage: one slider from fewer to more alarms, below a histogram for each model on the same
// scale, presets, and the numbers of what passes.

import { css, fine, h, number, percent } from './dom.js';
import { context } from './maps.js';
import { positionOf } from './rates.js';
import { SIDES } from './state.js';

/** @typedef {import('./viewer.js').Viewer} Viewer */

const BINS = 110;
const INK = [255, 32, 140]; // true anomalies
const TICKS = [0.001, 0.01, 0.05, 0.2];
// What a visitor may want, by the share of ordinary pixels it marks; the default is the checkpoint's.
const PRESETS = [['few', 0.01], ['many', 0.15]];
const TRIED = 40; // thresholds among which the best for a picture is looked for

export class Controls {
  /** @param {Viewer} viewer */
  constructor(viewer) {
    const { t } = viewer;
    this.viewer = viewer;
    this.rows = SIDES.map((side) => row(side, t));
    this.slider = h('input', {
      type: 'range', id: 'threshold-both', class: 'm2k-slider', min: 0, max: 1, step: 'any', 'aria-label': t('slider'),
      oninput: () => viewer.move('both', Number(this.slider.value)),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
    });
    this.ticks = h('div', { class: 'm2k-ticks', 'aria-hidden': 'true' });
    this.axis = h('span', { class: 'm2k-axis' });
    this.presets = h('div', { class: 'm2k-presets', role: 'group', 'aria-label': t('presets') });
    this.root = h('section', { class: 'm2k-controls', 'aria-label': t('thresholds') },
      h('div', { class: 'm2k-scale' },
        this.rows.map((one) => one.root),
        this.ticks,
        h('div', { class: 'm2k-drag' }, h('span', {}, t('fewer')), this.slider, h('span', {}, t('more')))),
      h('div', { class: 'm2k-beside' }, this.presets, this.axis));
    new ResizeObserver(() => viewer.result && this.drawBars()).observe(this.root);
  }

  /** Arrow keys move the slider by a hundredth of its length. @param {KeyboardEvent} event */
  key(event) {
    /** @type {Record<string, number>} */
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.viewer.move('both', Math.min(1, Math.max(0, this.position + steps[event.key] / 100)));
  }

  /** Where the slider stands: the middle of both models' positions. */
  get position() {
    const { viewer } = this;
    const [a, b] = viewer.scales.map((scale, i) => scale.position(viewer.threshold(i)));
    return (a + b) / 2;
  }

  /** There is another result, or its maps have changed. */
  renew() {
    const { viewer } = this;
    const { t, scales, maps, names } = viewer;
    const measured = scales.every((scale) => scale.measured);
    this.rows.forEach((one, i) => {
      one.name.textContent = names[i];
      one.root.setAttribute('aria-label', maps[i].data.title);
    });
    this.axis.textContent = measured ? t('axis', { data: maps[0].data.calibrated_on }) : t('axis_score');
    this.ticks.replaceChildren(...(measured ? TICKS : []).map((rate) =>
      h('span', { style: `left: ${100 * positionOf(rate)}%` }, fine(rate))));
    this.presets.replaceChildren(...this.offered(measured));
    this.drawBars();
    this.write();
  }

  /** @param {boolean} measured */
  offered(measured) {
    const { viewer } = this;
    const { t, scales, maps, truth } = viewer;
    /** @param {string} name @param {() => void} take @param {string} text @param {string} about */
    const chip = (name, take, text, about) => h('button', {
      type: 'button', class: 'm2k-chip', 'data-preset': name, title: about, onclick: take,
    }, text);
    /** @param {(i: number) => number} threshold */
    const about = (threshold) => (measured ? t('preset_about', {
      data: maps[0].data.calibrated_on,
      rate: fine(scales[0].rate(threshold(0)) ?? 0),
      recalls: scales.map((scale, i) => percent(scale.recall(threshold(i)) ?? 0)).join(' | '),
    }) : '');
    const chips = [chip('default', () => viewer.move('both', null),
      measured ? t('preset_default_rate', { rate: fine(scales[0].rate(maps[0].data.threshold) ?? 0) }) : t('preset_default'),
      about((i) => maps[i].data.threshold))];
    if (measured) {
      const [few, many] = PRESETS.map(([name, rate]) => chip(String(name),
        () => viewer.move('both', positionOf(Number(rate))), t('preset_' + name, { rate: fine(Number(rate)) }),
        about((i) => scales[i].threshold(positionOf(Number(rate))))));
      chips.unshift(few);
      chips.push(many);
    }
    if (truth?.includes(1)) chips.push(chip('best_here', () => this.best(), t('preset_best_here'), t('preset_best_about')));
    return chips;
  }

  /** The thresholds with which each model comes nearest to the ground truth of this picture. */
  async best() {
    const { viewer } = this;
    const { result } = viewer;
    const positions = Array.from({ length: TRIED }, (_, i) => i / (TRIED - 1));
    const places = await Promise.all(viewer.maps.map((maps, i) => viewer.finders[i].best(
      positions.map((position) => maps.cut(viewer.scales[i].threshold(position))), viewer.least)));
    if (result !== viewer.result) return;
    SIDES.forEach((side, i) => viewer.move(side, viewer.scales[i].threshold(positions[places[i]])));
  }

  drawBars() {
    const { viewer } = this;
    const ratio = Math.min(2, devicePixelRatio || 1);
    this.rows.forEach(({ bars }, index) => {
      const [maps, scale] = [viewer.maps[index], viewer.scales[index]];
      if (!maps) return;
      [bars.width, bars.height] = [bars.clientWidth * ratio || 1, bars.clientHeight * ratio || 1];
      const drawing = context(bars);
      const style = getComputedStyle(bars);
      const cuts = Array.from({ length: BINS + 1 }, (_, i) => maps.cut(scale.threshold(i / BINS)));
      cuts[0] = maps.above.length - 1; // whatever is above the scale counts at its end
      cuts[BINS] = 0;
      /** @param {Uint32Array} above */
      const binned = (above) => Array.from({ length: BINS }, (_, i) => above[cuts[i + 1]] - above[cuts[i]]);
      // With the truth, two densities: each of its own pixels, so that both can be seen.
      const all = binned(maps.above);
      const anomalous = maps.anomalousAbove && maps.anomalousAbove[0] ? binned(maps.anomalousAbove) : null;
      const ordinary = anomalous ? all.map((count, i) => count - anomalous[i]) : all;
      /** @param {number[]} counts @param {string} colour */
      const draw = (counts, colour) => {
        const top = Math.log1p(Math.max(...counts)) || 1;
        drawing.fillStyle = colour;
        counts.forEach((count, i) => {
          const height = (bars.height * Math.log1p(count)) / top;
          const [from, to] = [i, i + 1].map((edge) => Math.round((edge * bars.width) / BINS));
          drawing.fillRect(from, bars.height - height, Math.max(1, to - from - 1), height);
        });
      };
      draw(ordinary, style.color);
      if (anomalous) draw(anomalous, css(INK, 0.6));
      bars.setAttribute('aria-label', viewer.t(anomalous ? 'histogram_truth' : 'histogram', { model: maps.data.title }));
    });
  }

  /** Thresholds, as slider, lines and fields say them. */
  write() {
    const { viewer } = this;
    const { t, scales, state } = viewer;
    if (!viewer.result) return;
    const { position } = this;
    this.slider.value = String(position);
    const rate = scales[0].rate(scales[0].threshold(position));
    this.slider.setAttribute('aria-valuetext', rate === null ? percent(position) : t('slider_spoken', { rate: fine(rate) }));
    this.rows.forEach((one, i) => {
      const threshold = viewer.threshold(i);
      const { dataset } = one.root;
      one.line.style.left = 100 * scales[i].position(threshold) + '%';
      const cut = viewer.maps[i].cut(threshold);
      Object.assign(dataset, { threshold, cut });
      // The worker is about to count anew: what the page still says is outdated.
      if (dataset.countedCut !== String(cut) || dataset.countedLeast !== String(viewer.least)) {
        dataset.regions = dataset.pixels = '';
      }
    });
    const isDefault = state.threshold.left === null && state.threshold.right === null;
    /** @param {string} name @param {boolean} pressed */
    const press = (name, pressed) => this.presets.querySelector(`[data-preset=${name}]`)?.setAttribute('aria-pressed', String(pressed));
    press('default', isDefault);
    for (const [name, wanted] of PRESETS) {
      press(String(name), !isDefault && scales.every((scale, i) =>
        Math.abs(scale.position(viewer.threshold(i)) - positionOf(Number(wanted))) < 1e-6));
    }
    viewer.root.dispatchEvent(new Event('mask2kan:thresholds'));
  }

  /**
   * What a worker has found.
   * @param {number} index
   * @param {import('./finder.js').Found} found
   */
  tell(index, found) {
    const { viewer } = this;
    const { t } = viewer;
    const { numbers, root } = this.rows[index];
    const share = found.pixels / viewer.maps[index].codes.length;
    const parts = [];
    const { dataset } = root;
    if (found.judged) {
      const { tp, fp, fn } = found.judged;
      const quality = {
        precision: tp + fp ? tp / (tp + fp) : 0, recall: tp + fn ? tp / (tp + fn) : 0,
        f1: tp + fp + fn ? (2 * tp) / (2 * tp + fp + fn) : 0, iou: tp + fp + fn ? tp / (tp + fp + fn) : 0,
      };
      Object.assign(dataset, quality, {
        found: found.judged.found, objects: found.judged.objects, falseRegions: found.judged.falseRegions,
      });
      // Without an anomaly there is nothing to be precise about: only false alarms count.
      if (tp + fn) parts.push(...(/** @type {const} */ (['precision', 'recall', 'f1'])).map((name) => `${t(name)}\u00a0${quality[name].toFixed(2)}`));
      else parts.push(t('false_area', { share: percent(fp / viewer.maps[index].codes.length) }));
    } else {
      for (const name of ['precision', 'recall', 'f1', 'iou', 'found', 'objects', 'falseRegions']) delete dataset[name];
      parts.push(t('of_picture', { share: percent(share) }));
    }
    numbers.textContent = parts.join('  ');
    Object.assign(dataset, { countedCut: found.q, countedLeast: found.least, largest: found.largest });
    if (String(found.q) !== dataset.cut || found.least !== viewer.least) return; // it is already counting again
    Object.assign(dataset, { regions: found.count, pixels: found.pixels });
  }

  /**
   * The values at a pixel.
   * @param {import('./panes.js').Point | null} pixel
   */
  read(pixel) {
    const { viewer } = this;
    const { t, maps, readout, truth } = viewer;
    const { dataset } = readout;
    if (!pixel || !viewer.result) {
      for (const key of ['x', 'y', 'left', 'right']) delete dataset[key];
      readout.replaceChildren(t('hover'));
      return;
    }
    const i = pixel.y * viewer.place.width + pixel.x;
    const source = viewer.source(pixel);
    Object.assign(dataset, source);
    const parts = maps.map((one, index) => {
      const value = one.score(one.codes[i]);
      dataset[SIDES[index]] = String(value);
      return h('span', { class: 'm2k-reading', 'data-side': SIDES[index] },
        h('i', { class: 'm2k-dot', 'aria-hidden': 'true' }), one.data.classes[one.labels[i]].name + ' ',
        h('b', { 'data-over': String(value >= viewer.threshold(index)) }, number(value)));
    });
    readout.replaceChildren(h('span', { class: 'm2k-position' }, `x ${source.x}  y ${source.y}`), ...parts,
      truth ? h('span', {}, t('truth_' + truth[i])) : '');
  }
}

/**
 * @param {import('./state.js').SideName} side
 * @param {import('./dom.js').Translate} t
 */
function row(side, t) {
  const bars = h('canvas', { class: 'm2k-bars', role: 'img' });
  const line = h('i', { class: 'm2k-line', 'aria-hidden': 'true' });
  const name = h('b', {});
  const numbers = h('span', { class: 'm2k-numbers' });
  const root = h('section', { class: 'm2k-card', 'data-side': side, 'aria-label': t(side) },
    h('span', { class: 'm2k-name', 'data-side': side }, h('i', { class: 'm2k-dot', 'aria-hidden': 'true' }), name, numbers),
    h('div', { class: 'm2k-histogram' }, bars, line));
  return { root, bars, line, name, numbers };
}
