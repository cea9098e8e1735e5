// A video over time: its film, and one chart per model of the area that is anomalous in each frame.

import { h, percent, svg } from '../viewer/dom.js';
import { SIDES } from '../viewer/state.js';

/**
 * @typedef {import('./rows.js').Row} Row
 * @typedef {'photo' | 'heat'} View
 * @typedef {object} Film
 * @property {string} name of the video
 * @property {number[]} numbers of its frames' rows
 * @property {number} rate frames per second of the films
 * @property {Partial<Record<View, string>>} files films by view, once the video is over
 * @property {string[]} models their titles
 * @typedef {(key: string, values?: Record<string, unknown>) => string} Translate
 */

const HEIGHT = 112;
const EDGE = { left: 46, right: 10, top: 10, bottom: 22 };
/** The axis reaches at least this share: noise should not look like a peak. */
const LEAST = 0.01;

export class Strip {
  /**
   * @param {Translate} t
   * @param {(name: string) => string} address of a file
   * @param {(number: number) => void} choose a frame's row
   */
  constructor(t, address, choose) {
    this.t = t;
    this.address = address;
    /** @type {Film | null} */
    this.film = null;
    /** @type {Row[]} */
    this.rows = [];
    /** @type {View} */
    this.view = 'photo';
    this.frame = 0;
    /** Whether the visitor has chosen a frame, which then stays. */
    this.picked = false;
    this.title = h('h3');
    this.video = /** @type {HTMLVideoElement} */ (h('video', {
      controls: true, loop: true, playsinline: true, preload: 'metadata',
      ontimeupdate: () => this.follow(),
    }));
    this.video.muted = true;
    this.image = /** @type {HTMLImageElement} */ (h('img', { alt: '' }));
    this.caption = h('p', { class: 'bat-moment', role: 'status' });
    this.play = h('button', { type: 'button', class: 'bat-play', onclick: () => this.playFilm() }, t('play'));
    this.open = h('button', {
      type: 'button', class: 'bat-pick', onclick: () => choose(this.rows[this.frame].number),
    }, t('choose_frame'));
    this.charts = SIDES.map((side) => this.chart(side));
    this.root = h('section', { class: 'bat-film', 'data-shown': 'frame' },
      this.title,
      h('div', { class: 'bat-stage' }, this.video, this.image,
        h('div', { class: 'bat-below' }, this.caption, this.play, this.open)),
      h('div', { class: 'bat-charts' }, this.charts.map(({ figure }) => figure)));
    new ResizeObserver(() => this.draw()).observe(this.charts[0].plot);
  }

  /** @param {string} side */
  chart(side) {
    const plot = svg('svg', {
      class: 'bat-plot', role: 'slider', tabindex: 0, 'data-side': side, 'aria-valuemin': 0,
    });
    plot.addEventListener('click', (event) => this.pick(this.frameAt(plot, event.clientX)));
    plot.addEventListener('keydown', (event) => {
      const last = this.rows.length - 1;
      const steps = /** @type {Record<string, number>} */ ({
        ArrowLeft: this.frame - 1, ArrowDown: this.frame - 1, ArrowRight: this.frame + 1,
        ArrowUp: this.frame + 1, Home: 0, End: last,
      });
      if (!(event.key in steps)) return;
      event.preventDefault();
      this.pick(Math.min(last, Math.max(0, steps[event.key])));
    });
    const name = h('span');
    const figure = h('figure', { 'data-side': side }, h('figcaption', {}, h('i', { 'aria-hidden': 'true' }), name), plot);
    return { side, plot, name, figure };
  }

  /**
   * @param {Film} film
   * @param {Row[]} rows of its frames
   * @param {View} view
   */
  show(film, rows, view) {
    const before = this.film;
    Object.assign(this, { film, rows, view });
    this.title.textContent = film.name;
    this.charts.forEach(({ plot, name }, side) => {
      name.textContent = this.t('strip', { model: film.models[side] });
      plot.setAttribute('aria-label', this.t('strip', { model: film.models[side] }));
    });
    const over = Boolean(film.files[view]);
    if (over && !before?.files[view]) {
      this.video.src = this.address(/** @type {string} */ (film.files[view]));
      if (!this.picked) {
        this.root.dataset.shown = 'film';
        this.frame = 0;
      }
    } else if (!over && !this.picked) {
      this.frame = rows.length - 1; // the latest, while it is computed
    }
    this.play.hidden = !over;
    this.draw();
    this.mark();
  }

  /** @param {View} view */
  setView(view) {
    this.view = view;
    const name = this.film?.files[view];
    if (name) {
      const { currentTime, paused } = this.video;
      this.video.src = this.address(name);
      this.video.currentTime = currentTime;
      if (!paused) this.video.play().catch(() => {}); // the visitor may have stopped it meanwhile
    }
    this.mark();
  }

  playFilm() {
    if (!this.film) return;
    this.root.dataset.shown = 'film';
    this.video.currentTime = this.frame / this.film.rate;
    this.video.play().catch(() => {}); // paused again at once
  }

  follow() {
    if (!this.film || this.root.dataset.shown !== 'film') return;
    this.frame = Math.min(this.rows.length - 1, Math.floor(this.video.currentTime * this.film.rate + 1e-3));
    this.mark();
  }

  /**
   * @param {SVGSVGElement} plot
   * @param {number} at in the window
   */
  frameAt(plot, at) {
    const box = plot.getBoundingClientRect();
    const gaps = this.rows.map((_, i) => Math.abs(this.across(i, box.width) - (at - box.left)));
    return gaps.indexOf(Math.min(...gaps));
  }

  /** @param {number} frame */
  pick(frame) {
    this.video.pause();
    this.frame = frame;
    this.picked = true;
    this.root.dataset.shown = 'frame';
    this.mark();
  }

  /**
   * Where a frame stands on a chart of that width.
   * @param {number} frame
   * @param {number} width
   */
  across(frame, width) {
    const seconds = this.rows.map((row) => row.seconds ?? 0);
    const [first, last] = [seconds[0], seconds[seconds.length - 1]];
    const share = last > first ? (seconds[frame] - first) / (last - first) : 0.5;
    return EDGE.left + share * (width - EDGE.left - EDGE.right);
  }

  draw() {
    const { rows } = this;
    if (!rows.length) return;
    const highest = Math.max(LEAST, ...rows.flatMap((row) => row.models.map((model) => model.area)));
    const floor = HEIGHT - EDGE.bottom;
    const down = (/** @type {number} */ area) => floor - (area / highest) * (floor - EDGE.top);
    this.charts.forEach(({ plot }, side) => {
      const width = Math.max(200, plot.clientWidth);
      const places = rows.map((row, i) => [this.across(i, width), down(row.models[side].area)]);
      const line = places.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
      const ends = [places[places.length - 1][0], places[0][0]];
      const times = [rows[0], rows[rows.length - 1]].map((row) => this.t('moment', { n: (row.seconds ?? 0).toFixed(1) }));
      plot.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
      plot.replaceChildren(
        svg('path', { class: 'area', d: `${line}L${ends[0].toFixed(1)} ${floor}L${ends[1].toFixed(1)} ${floor}Z` }),
        svg('line', { class: 'axis', x1: EDGE.left, y1: floor, x2: width - EDGE.right, y2: floor }),
        svg('line', { class: 'axis', x1: EDGE.left, y1: EDGE.top, x2: width - EDGE.right, y2: EDGE.top }),
        svg('path', { class: 'line', d: line }),
        svg('line', { class: 'cursor', y1: EDGE.top - 4, y2: floor }),
        svg('circle', { class: 'cursor', r: 4 }),
        svg('text', { x: EDGE.left - 6, y: EDGE.top + 4, 'text-anchor': 'end' }, percent(highest)),
        svg('text', { x: EDGE.left - 6, y: floor + 4, 'text-anchor': 'end' }, percent(0)),
        svg('text', { x: EDGE.left, y: HEIGHT - 6, 'text-anchor': 'start' }, times[0]),
        svg('text', { x: width - EDGE.right, y: HEIGHT - 6, 'text-anchor': 'end' }, times[1]));
      plot.dataset.highest = String(highest);
    });
    this.mark();
  }

  /** Show which frame it is. */
  mark() {
    const row = this.rows[this.frame];
    if (!row) return;
    const name = row[this.view];
    if (name) this.image.src = this.address(name);
    const [left, right] = row.models.map((model) => percent(model.area));
    const words = this.t('frame', { n: (row.seconds ?? 0).toFixed(1), left, right });
    this.caption.textContent = words;
    this.root.dataset.frame = String(this.frame);
    const highest = Number(this.charts[0].plot.dataset.highest);
    const floor = HEIGHT - EDGE.bottom;
    this.charts.forEach(({ plot }, side) => {
      const x = this.across(this.frame, Math.max(200, plot.clientWidth));
      const y = floor - (row.models[side].area / highest) * (floor - EDGE.top);
      for (const [mark, value] of [['x1', x], ['x2', x]]) {
        plot.querySelector('line.cursor')?.setAttribute(String(mark), String(value));
      }
      plot.querySelector('circle')?.setAttribute('cx', String(x));
      plot.querySelector('circle')?.setAttribute('cy', String(y));
      plot.setAttribute('aria-valuemax', String(this.rows.length - 1));
      plot.setAttribute('aria-valuenow', String(this.frame));
      plot.setAttribute('aria-valuetext', words);
    });
  }
}
