// @ts-check
// The viewer: both models' answers to one picture, explored without asking the server again. A
// result's maps are fetched once; what passes a threshold is found by workers (finder.js) and drawn
// on the stage. Only "explain", "download" and another smoothing ask the server.

import { Controls } from './controls.js';
import { h, perFrame, translator } from './dom.js';
import { Finder } from './finder.js';
import { Inputs } from './inputs.js';
import { download, Maps, unpack } from './maps.js';
import { menus } from './menus.js';
import { Panel } from './panel.js';
import { View } from './panes.js';
import { Scale } from './rates.js';
import { Requests } from './requests.js';
import { Stage } from './stage.js';
import { addressOf, follower, readLink, SIDES, State } from './state.js';
import { Toolbar } from './toolbar.js';
import { verdict } from './verdict.js';

/** @typedef {import('./payload.js').Result} Result */
/** @typedef {import('./payload.js').Refusal} Refusal */
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
    Object.assign(this, { element });
    this.element = element;
    this.props = props;
    this.server = server;
    this.upload = upload;
    this.root = /** @type {HTMLElement} */ (element.querySelector('.m2k'));
    this.state = new State();
    this.wish = readLink(this.state, props);
    this.requests = new Requests(trigger);
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
    this.loading = 0;
    this.stale = false;
    this.finders = SIDES.map((_, index) => new Finder((found) => this.arrived(index, found)));
    this.redraw = perFrame(() => this.frame());
    this.follow = follower(() => this.link());
    this.build();
    this.recolour();
  }

  /** The page around the panes; made once. */
  build() {
    const { t } = this;
    this.stage = new Stage(this);
    this.controls = new Controls(this);
    this.toolbar = new Toolbar(this);
    this.panel = new Panel(this);
    this.inputs = new Inputs(this);
    this.sentence = h('p', { class: 'm2k-sentence', role: 'status' });
    this.readout = h('output', { class: 'm2k-readout' }, t('hover'));
    this.coming = h('div', { class: 'm2k-coming', hidden: true });
    this.message = h('div', { class: 'm2k-message', role: 'alert', hidden: true });
    this.body = h('div', { class: 'm2k-body' },
      h('section', { class: 'm2k-main', 'aria-label': t('compared') },
        h('div', { class: 'm2k-stage' }, this.stage.root, this.coming, this.message),
        h('div', { class: 'm2k-said' }, this.sentence, this.readout),
        this.controls.root,
        this.toolbar.root,
        this.inputs.root,
        h('p', { id: 'm2k-keys', class: 'm2k-hidden' }, t('keys'))),
      this.panel.root);
    menus(this, this.toolbar.root);
    this.root.replaceChildren(this.body);
    new ResizeObserver(() => this.invalidate()).observe(this.stage.root);
    matchMedia('(max-width: 640px)').addEventListener('change', () => this.result && this.layOut());
    document.addEventListener('fullscreenchange', () => this.invalidate());
  }

  // ------------------------------------------------------------ requests and answers

  /** Show a picture as soon as it is known, and ask for the models' answers. */
  look(/** @type {import('./requests.js').Wanted} */ wanted) {
    this.requests.send(wanted);
    this.waiting();
  }

  /** Models, score or ground truth have changed. */
  lookAgain(changes = {}) {
    if (this.requests.again(changes)) this.waiting();
  }

  waiting() {
    const { wanted, answered } = this.requests;
    this.say('busy');
    // Of the same picture the old answer stays until the new one is there.
    const same = Boolean(this.result) && wanted?.path === answered?.path && wanted?.example === answered?.example;
    this.coming.hidden = same;
    this.coming.replaceChildren(...(wanted?.shown && !same ? [h('img', { src: wanted.shown, alt: '' })] : []));
    this.inputs.mark(wanted?.example ?? '');
    const cancel = h('button', { type: 'button', class: 'm2k-chip', 'data-cancel': true, onclick: () => this.cancel() },
      this.t('cancel'));
    this.message.replaceChildren(h('span', {}, this.t('computing')), cancel);
  }

  cancel() {
    this.requests.cancel();
    this.back();
  }

  /** The result before, or an empty stage. */
  back() {
    this.coming.hidden = true;
    this.say(this.result ? 'ready' : 'empty');
    this.message.replaceChildren(this.t('welcome'));
    this.inputs.mark(this.result?.example ?? '');
  }

  /** A failure is said where the result would be, and stays there. */
  fail(/** @type {string} */ text) {
    this.requests.waiting = false;
    this.say('failed');
    const retry = h('button', { type: 'button', class: 'm2k-chip', 'data-retry': true, onclick: () => this.lookAgain() },
      this.t('retry'));
    const back = h('button', {
      type: 'button', class: 'm2k-chip', 'data-back': true,
      onclick: () => {
        this.requests.wanted = this.requests.answered;
        this.back();
      },
    }, this.t('back'));
    this.message.replaceChildren(h('p', {}, text), retry, ...(this.result ? [back] : []));
  }

  /** The event itself failed: the server is busy, or gone. */
  failed() {
    if (this.requests.waiting) this.fail(this.t('no_answer'));
  }

  say(/** @type {'empty' | 'busy' | 'ready' | 'failed'} */ state) {
    this.root.dataset.state = state;
    this.message.hidden = state === 'ready';
  }

  /** @param {any} value of Python: a result, a refusal, or what else the page should do */
  async load(value) {
    if (value?.linked) this.linked(value.linked);
    else if (value?.open) this.look({ ...value.open });
    else if (value?.message) {
      this.say('empty');
      this.message.replaceChildren(value.message);
    } else if (value?.error) {
      if (this.requests.accepts(value.token)) this.fail(value.error);
    } else if (value?.sides && this.requests.accepts(value.token)) await this.take(value, this.requests.wanted);
  }

  /**
   * Fetch a result's maps and show it.
   * @param {Result} result
   * @param {import('./requests.js').Wanted | null} wanted what it answers
   */
  async take(result, wanted) {
    const mine = ++this.loading;
    const { latest } = this.requests;
    try {
      const [height, width] = result.size;
      const at = (/** @type {import('./payload.js').File} */ file) => this.fileUrl(file);
      const [truth, photo, ...maps] = await Promise.all([
        result.truth ? unpack(at(result.truth)).then((buffer) => new Uint8Array(buffer)) : null,
        download(at(result.picture)).then((answer) => answer.blob()).then(createImageBitmap),
        ...result.sides.flatMap((side) => [unpack(at(side.labels)), unpack(at(side.scores.codes))])]);
      if (mine !== this.loading || latest !== this.requests.latest) return;
      this.truth = truth;
      this.show(result, photo, result.sides.map((side, i) =>
        new Maps(side, width, height, maps[2 * i], maps[2 * i + 1], truth)), wanted);
    } catch (error) {
      if (mine === this.loading) this.fail(this.t('not_loaded', { reason: /** @type {Error} */ (error).message }));
    }
  }

  /**
   * @param {Result} result
   * @param {ImageBitmap} photo
   * @param {Maps[]} maps
   * @param {import('./requests.js').Wanted | null} wanted
   */
  show(result, photo, maps, wanted) {
    const samePicture = this.result?.name === result.name && String(this.result.size) === String(result.size);
    this.photo?.close();
    Object.assign(this, { result, photo, maps, found: [null, null] });
    this.requests.answered = this.requests.wanted = wanted;
    this.carryThresholds(maps);
    if (!samePicture) {
      this.place = new View(result.size[1], result.size[0]);
      this.picked = null;
      this.panel.forget();
    }
    this.cursor = null;
    this.stage.forget();
    this.finders.forEach((finder, i) => finder.look(maps[i]));
    this.coming.hidden = true;
    this.message.replaceChildren();
    this.say('ready');
    Object.assign(this.root.dataset, { run: result.run, size: result.size.join('x'), example: result.example });
    this.inputs.mark(result.example);
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

  /** The server has set the pickers to what the link names, if anything. */
  linked(/** @type {string[]} */ vain) {
    const said = [...this.wish.vain.map((what) => this.t('link_vain', { what })), ...vain];
    if (said.length) this.notice(said.join('\n'));
    this.wish.vain = [];
    if (this.wish.models && !this.requests.latest) this.lookAtExample(this.wish.example);
  }

  /** The first result lies ready as files; what else a link asks for is computed. */
  async begin() {
    const { examples, first } = this.props;
    const [{ name }] = examples;
    if (!first || this.wish.models) return;
    if (this.wish.example && this.wish.example !== name) {
      this.lookAtExample(this.wish.example);
      return;
    }
    const { latest } = this.requests;
    let result = null;
    try {
      result = await (await download(this.fileUrl({ path: first }))).json();
    } catch { /* it is still being computed: ask for it like for any other */ }
    if (latest !== this.requests.latest) return; // somebody was quicker
    if (result) await this.take(result, this.example(name));
    else this.lookAtExample(name);
  }

  lookAtExample(/** @type {string} */ name) {
    const wanted = this.example(name || this.props.examples[0].name);
    if (wanted) this.look(wanted);
  }

  /** @returns {import('./requests.js').Wanted} */
  example(/** @type {string} */ name) {
    const { picture } = /** @type {Example} */ (this.props.examples.find((one) => one.name === name));
    return { example: name, shown: this.fileUrl({ path: picture }) };
  }

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

  /** One pixel of the picture to one of the screen. */
  fullSize() {
    const pane = this.stage.shown[0]?.pane;
    const { source_size: size } = this.result ?? { source_size: [1, 1] };
    if (pane) this.zoom(size[1] / (pane.magnification * this.place.width));
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
    this.redraw();
  }

  /** Both models' answers in words. */
  speak() {
    const { t, result } = this;
    if (!result) return;
    const parts = this.found.map((found, i) => (found ? h('span', { 'data-side': SIDES[i] },
      h('i', { class: 'm2k-dot', 'aria-hidden': 'true' }), h('b', {}, this.names[i] + ': '),
      verdict(t, found, this.maps[i])) : null));
    const unlike = result.unlike ? h('span', { class: 'm2k-unlike' }, t('unlike')) : null;
    this.sentence.replaceChildren(...[...parts, unlike].filter((part) => part !== null));
  }

  /** What the two models are called where there is little room. */
  get names() {
    const [left, right] = this.maps.map((maps) => maps.data);
    return left.head === right.head ? [t2(left, 'A'), t2(right, 'B')] : [left.head, right.head];
  }

  /** Smooth otherwise: the server does it, so that downloads have the same map. */
  async smooth(/** @type {number | null} */ sigma) {
    this.state.smoothing = sigma;
    const { result, maps } = this;
    if (!result) return;
    const answer = await this.ask('smooth_run', { run: result.run, smoothing: sigma });
    if (!answer || result !== this.result || sigma !== this.state.smoothing) return;
    const buffers = await Promise.all(SIDES.map((side) => unpack(this.fileUrl(answer[side].codes))));
    if (result !== this.result || sigma !== this.state.smoothing) return;
    maps.forEach((one, i) => {
      one.read(answer[SIDES[i]], buffers[i]);
      this.finders[i].look(one);
    });
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
    let answer;
    try {
      answer = await this.server[name](question);
    } catch {
      answer = { error: this.t('no_answer') };
    }
    if (!answer?.error) return answer;
    this.notice(answer.error);
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

/** @param {import('./payload.js').Side} data @param {string} letter */
function t2(data, letter) {
  return `${data.head} ${letter}`;
}
