// @ts-check
// The viewer: both models' answers to one picture, explored without asking the server again. A
// result's maps are fetched once; what passes a threshold is found by workers (finder.js) and drawn
// on the stage. Only "explain", "download" and another smoothing ask the server.

import { Controls } from './controls.js';
import { h, perFrame, translator } from './dom.js';
import { Finder } from './finder.js';
import { Inputs } from './inputs.js';
import { layout } from './layout.js';
import { unpack } from './maps.js';
import { Panel } from './panel.js';
import { View } from './panes.js';
import { Scale } from './rates.js';
import { Session } from './session.js';
import { Stage } from './stage.js';
import { addressOf, follower, readLink, SIDES, State } from './state.js';
import { Toolbar } from './toolbar.js';
import { verdict } from './verdict.js';

/** @typedef {import('./payload.js').Result} Result */
/** @typedef {import('./maps.js').Maps} Maps */
/** @typedef {import('./state.js').SideName} SideName */
/** @typedef {import('./panes.js').Point} Point */
/** @typedef {{name: string, title: string, verdict: string, picture: string, thumbnail: string}} Example */

/**
 * What Python gives the component, besides its value.
 * @typedef {object} Props
 * @property {any} value
 * @property {Record<string, string>} strings
 * @property {Record<string, number[][]>} colormaps
 * @property {Example[]} examples
 * @property {string[]} scores
 * @property {string | null} first file of the result that every visitor sees first
 * @property {string} files address under which files are served
 * @property {string} studied
 */

/** @typedef {Record<string, (question: object) => Promise<any>>} Server */

export class Viewer {
  /**
   * @param {HTMLElement} element
   * @param {Props} props
   * @param {Server} server
   * @param {(event: string, data: object) => void} trigger
   * @param {(file: File) => Promise<{path: string}>} upload
   */
  constructor(element, props, server, trigger, upload) {
    this.t = translator(props.strings);
    this.props = props;
    this.server = server;
    this.upload = upload;
    this.root = /** @type {HTMLElement} */ (element.querySelector('.m2k'));
    this.state = new State();
    this.wish = readLink(this.state, props);
    /** @type {Result | null} */
    this.result = null;
    /** @type {Maps[]} */
    this.maps = [];
    /** @type {Scale[]} */
    this.scales = [];
    /** What passes each model's threshold, once its worker has said so. @type {(import('./finder.js').Found | null)[]} */
    this.found = [null, null];
    /** @type {any} */
    this.photo = null;
    /** @type {Uint8Array | null} */
    this.truth = null;
    this.place = new View(1, 1);
    /** @type {Point | null} */
    this.cursor = null;
    /** @type {Point | null} */
    this.picked = null;
    /** Milliseconds from a moved threshold to its picture, the latest ones. @type {number[]} */
    this.timings = [];
    this.stale = false;
    this.finders = SIDES.map((_, index) => new Finder((found) => this.arrived(index, found)));
    this.redraw = perFrame(() => this.frame());
    this.follow = follower(() => this.link());
    this.stage = new Stage(this);
    this.controls = new Controls(this);
    this.toolbar = new Toolbar(this);
    this.panel = new Panel(this);
    this.session = new Session(this, trigger);
    this.inputs = new Inputs(this);
    this.sentence = h('p', { class: 'm2k-sentence', role: 'status' });
    this.readout = h('output', { class: 'm2k-readout' }, this.t('hover'));
    this.body = layout(this);
    this.root.replaceChildren(this.body);
    this.recolour();
    new ResizeObserver(() => this.invalidate()).observe(this.stage.root);
    matchMedia('(max-width: 640px)').addEventListener('change', () => this.result && this.layOut());
    document.addEventListener('fullscreenchange', () => this.invalidate());
  }

  /**
   * @param {Result} result
   * @param {ImageBitmap} photo
   * @param {Maps[]} maps
   */
  show(result, photo, maps) {
    const samePicture = this.result?.name === result.name && String(this.result.size) === String(result.size);
    this.photo?.close();
    Object.assign(this, { result, photo, maps, truth: maps[0].truth, found: [null, null] });
    this.carryThresholds(maps);
    if (!samePicture) {
      this.place = new View(result.size[1], result.size[0]);
      this.picked = null;
      this.panel.forget();
    }
    this.cursor = null;
    this.stage.forget();
    this.finders.forEach((finder, i) => finder.look(maps[i]));
    Object.assign(this.root.dataset, { run: result.run, size: result.size.join('x'), example: result.example });
    this.takeWish();
    this.controls.renew();
    this.toolbar.renew();
    this.panel.renew();
    this.layOut();
    this.search();
    this.inspect(null);
    if (this.picked) this.pick(this.picked.x, this.picked.y);
    if (this.state.smoothing !== null) this.smooth(this.state.smoothing);
    document.dispatchEvent(new CustomEvent('mask2kan:result', { detail: { run: result.run, sides: result.sides } }));
  }

  /** Thresholds stay from picture to picture; another model or score takes the rate over. */
  carryThresholds(/** @type {Maps[]} */ maps) {
    const before = this.scales;
    this.scales = maps.map((one) => new Scale(one.data));
    SIDES.forEach((side, i) => {
      const [threshold, old] = [this.state.threshold[side], before[i]];
      if (threshold === null || !old) return;
      const { source, score } = maps[i].data;
      if (old.data.source === source && old.data.score === score) return;
      this.state.threshold[side] = this.scales[i].threshold(old.position(threshold));
    });
  }

  // ------------------------------------------------------------ links

  /** Zoom and pixel of a link, once its picture is there. */
  takeWish() {
    const { place, pixel } = this.wish;
    if (place) Object.assign(this.place, place);
    if (pixel) this.picked = this.shownPixel(pixel);
    Object.assign(this.wish, { place: null, pixel: null });
  }

  link() {
    const { result, maps, state, place, picked } = this;
    if (!result) return location.href;
    const [left, right] = maps.map((one) => one.data);
    const shown = { example: result.example, left: left.source, right: right.source, score: left.score };
    return addressOf(state, shown, place, picked && this.source(picked));
  }

  // ------------------------------------------------------------ what is set

  /** Change what is shown, but for thresholds. */
  set(/** @type {Partial<State>} */ changes) {
    Object.assign(this.state, changes);
    if ('colours' in changes) this.recolour();
    if ('hidden' in changes) this.stage.forget('classes0', 'classes1');
    if (!this.result) return;
    this.toolbar.write();
    this.panel.legend.write();
    if ('view' in changes || 'one' in changes || 'difference' in changes) this.layOut();
    if ('smallest' in changes || 'layers' in changes) this.search();
    this.invalidate();
  }

  /** Everything as it was at first. */
  reset() {
    const { smoothing } = this.state;
    Object.assign(this.state, new State());
    this.place.reset();
    this.recolour();
    if (!this.result) return;
    this.unpick();
    this.stage.forget();
    this.controls.renew();
    this.toolbar.renew();
    this.panel.legend.write();
    this.layOut();
    if (smoothing !== null) this.smooth(null);
    this.search();
  }

  recolour() {
    for (const finder of this.finders) finder.colour(this.props.colormaps[this.state.colours]);
    if (this.result) this.search();
  }

  layOut() {
    this.stage.layOut();
    this.toolbar.write();
    this.invalidate();
  }

  swipeTo(/** @type {number} */ share) {
    this.state.swipe = share;
    this.invalidate();
  }

  zoom(/** @type {number} */ factor) {
    const at = this.picked ?? this.place;
    this.place.zoomAt(factor, at.x, at.y);
    this.invalidate();
  }

  /** All of the picture. */
  fit() {
    this.place.reset();
    this.invalidate();
  }

  /** One pixel of the picture to one of the screen. */
  fullSize() {
    const pane = this.stage.shown[0]?.pane;
    if (!pane || !this.result) return;
    const factor = this.result.source_size[1] / (pane.magnification * this.place.width);
    this.place.least = Math.min(1, this.place.zoom * factor);
    this.zoom(factor);
  }

  async fullscreen() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else if (this.body.requestFullscreen) await this.body.requestFullscreen();
    else this.body.classList.toggle('m2k-filling'); // phones without the API
    this.invalidate();
  }

  // ------------------------------------------------------------ thresholds and regions

  threshold(/** @type {number} */ index) {
    return this.state.threshold[SIDES[index]] ?? this.maps[index].data.threshold;
  }

  /** Pixels of the smallest region. */
  get least() {
    const { state, result } = this;
    if (!result) return 1;
    const [height, width] = result.size;
    return state.smallest === null ? result.smallest : Math.max(1, Math.round(state.smallest * height * width));
  }

  /**
   * @param {SideName | 'both'} side
   * @param {number | null} value a score of that model; for both, a position on the common scale.
   *   Null is back to the default.
   */
  move(side, value) {
    if (value !== null && !Number.isFinite(value)) {
      this.controls.write(); // what was typed is no number: the fields go back
      return;
    }
    for (const [i, name] of SIDES.entries()) {
      if (side === name) this.state.threshold[name] = value;
      else if (side === 'both') this.state.threshold[name] = value === null ? null : this.scales[i].threshold(value);
    }
    this.search();
  }

  /** Ask the workers what passes now. */
  search() {
    if (!this.result) return;
    const { least } = this;
    const truthLayer = this.state.layers.truth && Boolean(this.truth);
    this.maps.forEach((maps, i) => {
      const q = maps.cut(this.threshold(i));
      const top = maps.cut(maps.data.range[1]);
      this.finders[i].ask({ q, least, truthLayer, top: top > q ? Math.min(top, 65535) : 65535 });
    });
    this.controls.write();
    this.follow();
  }

  arrived(/** @type {number} */ index, /** @type {import('./finder.js').Found} */ found) {
    this.found[index] = found;
    this.controls.tell(index, found);
    this.speak();
    // What is said of a pixel depends on the threshold, too.
    this.controls.read(this.cursor ?? this.picked);
    this.panel.explanation.speak();
    // Both are drawn together, and at once: to wait for the next frame would show them one later.
    if (this.finders[1 - index].underway) this.redraw();
    else this.frame();
  }

  /** Both models' answers in words. */
  speak() {
    const { t, result } = this;
    if (!result) return;
    const parts = this.found.map((found, i) => (found ? h('span', { 'data-side': SIDES[i], title: found.judged ? t('judged_by') : null },
      h('i', { class: 'm2k-dot', 'aria-hidden': 'true' }), h('b', {}, this.names[i] + ': '),
      verdict(t, found, this.maps[i])) : null));
    const unlike = result.unlike ? h('span', { class: 'm2k-unlike' }, t('unlike')) : null;
    this.sentence.replaceChildren(...[...parts, unlike].filter((part) => part !== null));
  }

  /** What the two models are called where there is little room. */
  get names() {
    const [left, right] = this.maps.map((maps) => maps.data);
    return left.head === right.head ? [`${left.head} A`, `${right.head} B`] : [left.head, right.head];
  }

  /** Smooth otherwise: the server does it, so that downloads have the same map. */
  async smooth(/** @type {number | null} */ sigma) {
    this.state.smoothing = sigma;
    const { result, maps } = this;
    if (!result) return;
    this.root.dataset.smoothing = String(sigma);
    const answer = await this.ask('smooth_run', { run: result.run, smoothing: sigma });
    if (result !== this.result || sigma !== this.state.smoothing) return;
    if (!answer) {
      // Downloads and the address say what is on the stage, not what was refused.
      this.state.smoothing = maps[0].smoothing;
      delete this.root.dataset.smoothing;
      this.controls.write();
      return;
    }
    const buffers = await Promise.all(SIDES.map((side) => unpack(this.fileUrl(answer[side].codes))));
    if (result !== this.result || sigma !== this.state.smoothing) return;
    maps.forEach((one, i) => {
      one.read(answer[SIDES[i]], buffers[i]);
      this.finders[i].look(one);
    });
    delete this.root.dataset.smoothing;
    this.stage.forget('difference');
    this.controls.renew();
    this.search();
    this.invalidate();
  }

  // ------------------------------------------------------------ drawing

  /** Draw everything in the next frame. */
  invalidate() {
    if (!this.result) return;
    this.stale = true;
    this.redraw();
    this.follow();
  }

  frame() {
    const { result, found } = this;
    if (!result) return;
    this.stage.draw(this.stale);
    this.stale = false;
    this.toolbar.zoomed();
    const { dataset } = this.root;
    if (found.every(Boolean)) dataset.drawn = result.run;
    dataset.redraws = String(Number(dataset.redraws || 0) + 1);
    dataset.zoom = String(this.place.zoom);
    for (const one of found) {
      if (!one?.asked) continue;
      this.timings.push(performance.now() - one.asked);
      one.asked = 0;
    }
    this.timings.splice(0, this.timings.length - 500);
  }

  // ------------------------------------------------------------ pixels

  /** @returns {import('./panes.js').Listener} */
  listener() {
    return {
      role: this.t('pane_role'),
      view: () => this.invalidate(),
      inspect: (pixel) => this.inspect(pixel),
      cursor: () => this.cursor ?? this.picked,
      pick: (x, y) => this.pick(x, y),
      swipe: (share) => this.swipeTo(share),
      nudge: (steps) => this.move('both', this.controls.position + steps / 100),
    };
  }

  /** Position in the picture as it was uploaded; the maps may be smaller. */
  source(/** @type {Point} */ { x, y }) {
    const [height, width] = /** @type {Result} */ (this.result).source_size;
    return {
      x: Math.floor(((x + 0.5) * width) / this.place.width),
      y: Math.floor(((y + 0.5) * height) / this.place.height),
    };
  }

  /** The other way round; null outside. @returns {Point | null} */
  shownPixel(/** @type {Point} */ { x, y }) {
    const [height, width] = /** @type {Result} */ (this.result).source_size;
    const pixel = {
      x: Math.floor(((x + 0.5) * this.place.width) / width),
      y: Math.floor(((y + 0.5) * this.place.height) / height),
    };
    return pixel.x < this.place.width && pixel.y < this.place.height ? pixel : null;
  }

  /** Say what is under the cursor; without one, what is at the pixel that was clicked. */
  inspect(/** @type {Point | null} */ pixel) {
    this.cursor = pixel;
    this.stage.point();
    this.controls.read(pixel ?? this.picked);
  }

  pick(/** @type {number} */ x, /** @type {number} */ y) {
    this.picked = { x, y };
    this.inspect(this.picked);
    this.panel.explain(this.source(this.picked));
    this.follow();
  }

  unpick() {
    this.picked = null;
    this.panel.forget();
    this.inspect(null);
    this.follow();
  }

  // ------------------------------------------------------------ the server

  fileUrl(/** @type {import('./payload.js').File} */ file) {
    return file.url ?? this.props.files + encodeURI(file.path);
  }

  /** A question to the server; its refusal is shown, and null comes back. */
  async ask(/** @type {string} */ name, /** @type {object} */ question) {
    // Where the network fails Gradio may throw, or answer undefined.
    const answer = await this.server[name](question).catch(() => null);
    if (answer && !answer.error) return answer;
    this.notice(answer?.error ?? this.t('no_answer'));
    return null;
  }

  /** A remark beside the result, which stays until it is read. */
  notice(/** @type {string} */ text) {
    this.body.querySelector('.m2k-notice')?.remove();
    const box = h('div', { class: 'm2k-notice', role: 'alert' }, h('p', {}, text),
      h('button', { type: 'button', class: 'm2k-close', 'aria-label': this.t('close'), onclick: () => box.remove() }, '×'));
    this.body.prepend(box);
  }
}
