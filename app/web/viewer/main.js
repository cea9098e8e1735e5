// The viewer: both models' answers to one picture, explored without asking the server again.
//
// `start` is called once by the page with Gradio's hands on the component. A result arrives as
// `props.value`; its maps are fetched once (maps.js), drawn into panes (panes.js), and judged by
// thresholds (thresholds.js). Only "explain" and "download" ask the server.

import { h, number, percent, perFrame, translator } from './dom.js';
import { classCanvas, differenceCanvas, disagreement, download, heatCanvas, Side, unpack } from './maps.js';
import { isSmallScreen, Pane, View } from './panes.js';
import { Card, reach, scoreSlider } from './thresholds.js';
import { Explanation } from './explain.js';
import { tour } from './tour.js';

const VIEWS = ['overview', 'side', 'swipe', 'difference'];
const LAYERS = ['photo', 'classes', 'heat', 'outline'];
const ONE = [[0, 0, 0], [0, 229, 255]];
const WHO = [[0, 0, 0], [45, 212, 191], [251, 146, 60], [0, 229, 255]];
const DISAGREE = [255, 32, 140];
const NONE = new Uint32Array(0);
const SETTLE = 60; // milliseconds without a move until small regions leave the picture

const DEFAULTS = {
  view: 'overview',
  colours: 'inferno',
  ranging: 'calibrated',
  least: 50,
  difference: 'score',
  swipe: 0.5,
  layers: { photo: 1, classes: 0.55, heat: 0.9, outline: 1 },
};

export function start({ element, props, watch, server, trigger, upload }) {
  const viewer = new Viewer(element, props, server);
  takePictures(element, async (file) => {
    viewer.hooks().busy(true);
    const { path } = await upload(file);
    trigger('picture_given', { path, name: file.name });
  });
  watch('value', () => viewer.load(props.value));
  viewer.load(props.value);
  window.mask2kan = viewer.hooks();
}

/** A picture pasted anywhere on the page, or dropped on the viewer, is the next one to look at. */
function takePictures(element, take) {
  const pictureOf = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith('image/'));
  document.addEventListener('paste', (event) => {
    const file = pictureOf(event.clipboardData);
    if (file && !event.target.closest?.('input, textarea')) take(file);
  });
  element.addEventListener('dragover', (event) => event.preventDefault());
  element.addEventListener('drop', (event) => {
    event.preventDefault();
    const file = pictureOf(event.dataTransfer);
    if (file) take(file);
  });
}

class Viewer {
  constructor(element, props, server) {
    this.t = translator(props.strings);
    Object.assign(this, { element, props, server });
    this.root = element.querySelector('.m2k');
    this.message = this.root.querySelector('.m2k-message');
    this.body = this.root.querySelector('.m2k-body');
    this.state = this.defaults();
    this.readLink();
    this.generation = 0;
    this.timings = [];
    this.sides = [];
    this.panes = [];
    this.redraw = perFrame(() => this.frame());
    this.stale = {}; // what the next frame has to draw again: base, or a side's numbers
    new ResizeObserver(() => this.invalidate()).observe(this.body);
    document.addEventListener('fullscreenchange', () => this.fullscreenChanged());
    document.addEventListener('pointerdown', (event) => {
      for (const menu of this.body.querySelectorAll('.m2k-menu[open]')) {
        if (!menu.contains(event.target)) menu.open = false;
      }
    });
    this.worker = new Worker(new URL('./regions.worker.js', import.meta.url), { type: 'module' });
    this.worker.onmessage = ({ data }) => this.counted(data);
  }

  defaults() {
    return { ...DEFAULTS, layers: { ...DEFAULTS.layers }, threshold: {}, hidden: new Set() };
  }

  /** Everything as it was at first: view, layers, colours, thresholds, zoom. */
  reset() {
    this.state = this.defaults();
    if (this.value) this.show(this.value, this.photo, this.sides, this.truth);
  }

  // ------------------------------------------------------------ from and to the page

  hooks() {
    return {
      busy: (hasPicture) => {
        this.generation++;
        if (hasPicture) this.say('busy', this.t('computing'));
        else this.say('empty', this.t('welcome'));
      },
      failed: () => this.say('failed', this.t('failed')),
      timings: this.timings,
      reset: () => this.reset(),
      link: () => this.link(),
      /** Where a pixel of the picture is on the screen, in the n-th pane. */
      locate: (x, y, pane = 0) => {
        const box = this.panes[pane].surface.getBoundingClientRect();
        const { left, top } = this.panes[pane].place({ x, y });
        return { x: box.left + left, y: box.top + top };
      },
    };
  }

  say(state, text = '') {
    this.root.dataset.state = state;
    this.message.textContent = text;
  }

  readLink() {
    const asked = new URLSearchParams(location.search);
    if (VIEWS.includes(asked.get('view'))) this.state.view = asked.get('view');
    if (asked.get('colours') in this.props.colormaps) this.state.colours = asked.get('colours');
    this.asked = { left: Number(asked.get('tl') ?? NaN), right: Number(asked.get('tr') ?? NaN) };
  }

  /** A link to this example, these models, thresholds and view. */
  link() {
    const [left, right] = this.sides;
    const query = new URLSearchParams({
      ...(this.value.example ? { example: this.value.example } : {}),
      left: left.data.source, right: right.data.source, score: left.data.score,
      tl: this.state.threshold.left, tr: this.state.threshold.right,
      view: this.state.view, colours: this.state.colours,
    });
    return `${location.origin}${location.pathname}?${query}`;
  }

  async load(value) {
    const mine = ++this.generation;
    if (!value?.sides) {
      this.value = null;
      this.say('empty', value?.message || this.t('welcome'));
      return;
    }
    try {
      const [height, width] = value.size;
      const [truth, photo, ...maps] = await Promise.all([
        value.truth ? unpack(value.truth).then((buffer) => new Uint8Array(buffer)) : null,
        download(value.picture).then((answer) => answer.blob()).then(createImageBitmap),
        ...value.sides.flatMap((data) => [unpack(data.labels), unpack(data.scores)])]);
      if (mine !== this.generation) return;
      const sides = value.sides.map((data, i) =>
        new Side(data, width, height, maps[2 * i], maps[2 * i + 1], truth));
      this.show(value, photo, sides, truth);
    } catch (error) {
      if (mine === this.generation) this.say('failed', this.t('not_loaded', { reason: error.message }));
    }
  }

  show(value, photo, sides, truth) {
    const { state } = this;
    if (!state.leastChosen && value.least) state.least = value.least;
    if (this.photo !== photo) this.photo?.close();
    Object.assign(this, { value, photo, sides, truth, picked: null, cursor: null });
    this.view = new View(value.size[1], value.size[0]);
    this.pending = {};
    this.layerCache = {};
    for (const side of sides) {
      const { side: name, threshold } = side.data;
      state.threshold[name] = side.snap(Number.isFinite(this.asked[name]) ? this.asked[name] : threshold);
      this.worker.postMessage({
        side: name, codes: side.codes, width: side.width, height: side.height,
      });
    }
    this.asked = {};
    state.hidden = new Set([...state.hidden].filter((name) => this.classNames().includes(name)));
    this.build();
    this.say('ready');
    this.root.dataset.run = value.run;
    this.root.dataset.size = value.size.join('x');
    this.layOut();
    this.drawCards();
    for (const side of sides) this.moved(side.data.side, state.threshold[side.data.side]);
    this.frame();
    // On a phone the result lies far below the picture that was just chosen.
    if (isSmallScreen()) this.element.scrollIntoView({ block: 'start' });
    tour(this);
  }

  // ------------------------------------------------------------ the page around the panes

  build() {
    this.cards = this.sides.map((side) =>
      new Card(side, this.t, (threshold) => this.moved(side.data.side, threshold)));
    this.grid = h('div', { class: 'm2k-panes' });
    this.readout = h('output', { class: 'm2k-readout', 'aria-live': 'polite' }, this.t('hover'));
    this.explanation = new Explanation(this);
    this.body.replaceChildren(
      this.toolbar(),
      this.grid,
      this.readout,
      h('p', { id: 'm2k-keys', class: 'm2k-hidden' }, this.t('keys')),
      this.common(),
      h('div', { class: 'm2k-cards' }, this.cards.map((card) => card.root)),
      this.legend(),
      this.explanation.root);
  }

  toolbar() {
    const { t, state } = this;
    const views = VIEWS.map((name) => h('button', {
      type: 'button', class: 'm2k-tab', 'data-view': name, 'aria-pressed': String(state.view === name),
      onclick: () => this.setView(name),
    }, t('view_' + name)));
    this.viewButtons = views;
    const tool = (name, action, text) => h('button', {
      type: 'button', class: 'm2k-tool', 'data-tool': name, 'aria-label': t(name), title: t(name),
      onclick: action,
    }, text);
    return h('div', { class: 'm2k-toolbar', role: 'toolbar', 'aria-label': t('toolbar') },
      h('div', { class: 'm2k-group', role: 'group', 'aria-label': t('views') }, views),
      h('div', { class: 'm2k-group' },
        tool('zoom_out', () => this.zoom(1 / 1.5), '\u2212'),
        tool('zoom_fit', () => this.zoom(0), '1:1'),
        tool('zoom_in', () => this.zoom(1.5), '+'),
        tool('fullscreen', () => this.fullscreen(), fullscreenIcon())),
      this.menu('layers', this.layerMenu()),
      this.menu('download', this.downloadMenu()),
      h('div', { class: 'm2k-group' },
        tool('copy_link', (event) => this.copyLink(event.currentTarget), t('link')),
        tool('show_tour', () => tour(this, true), '?')));
  }

  menu(name, content) {
    const sheet = h('div', { class: 'm2k-sheet' }, content);
    const menu = h('details', { class: 'm2k-menu', 'data-menu': name },
      h('summary', {}, this.t(name)), sheet);
    menu.addEventListener('toggle', () => {
      sheet.style.left = '';
      const beyond = sheet.getBoundingClientRect().right - document.documentElement.clientWidth + 12;
      if (menu.open && beyond > 0) sheet.style.left = `${-beyond}px`;
    });
    menu.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape') return;
      menu.open = false;
      menu.querySelector('summary').focus();
    });
    return menu;
  }

  layerMenu() {
    const { t, state } = this;
    const opacity = (name) => {
      const slider = h('input', {
        type: 'range', min: 0, max: 100, step: 5, id: 'layer-' + name,
        oninput: () => {
          state.layers[name] = Number(slider.value) / 100;
          this.invalidate();
        },
      });
      slider.value = 100 * state.layers[name];
      return h('label', {}, h('span', {}, t('layer_' + name)), slider);
    };
    const choice = (id, key, options, chosen, change) => {
      const select = h('select', { id, onchange: () => change(select.value) },
        options.map((name) => h('option', { value: name }, t(key + '_' + name))));
      select.value = chosen;
      return h('label', {}, h('span', {}, t(key)), select);
    };
    return [
      ...LAYERS.map(opacity),
      choice('colours', 'colours', Object.keys(this.props.colormaps).filter((n) => n !== 'diverging'),
        state.colours, (name) => this.recolour({ colours: name })),
      choice('ranging', 'ranging', ['calibrated', 'picture'], state.ranging,
        (name) => this.recolour({ ranging: name })),
      choice('difference', 'difference_of', ['score', 'classes'], state.difference, (name) => {
        state.difference = name;
        this.layOut();
      }),
      h('button', { type: 'button', 'data-tool': 'reset', onclick: () => this.reset() }, t('reset')),
    ];
  }

  downloadMenu() {
    const { t } = this;
    const item = (name, action) => h('button', {
      type: 'button', 'data-download': name, onclick: (event) => action(event.currentTarget),
    }, h('b', {}, t('get_' + name)), h('small', {}, t('get_' + name + '_about')));
    return [
      item('view', () => this.saveView()),
      ...['page', 'overlays', 'score16', 'npz', 'regions', 'everything'].map((name) =>
        item(name, (button) => this.export(name, button))),
    ];
  }

  /** What holds for both models: the linked threshold and the smallest region. */
  common() {
    const { t, state } = this;
    this.both = scoreSlider('threshold-both', t('threshold_both'), reach(...this.sides), 0,
      (threshold) => this.moved('both', threshold));
    const presets = Object.keys(this.sides[0].data.thresholds)
      .filter((name) => this.sides.every((side) => name in side.data.thresholds));
    const least = h('input', {
      type: 'range', id: 'least', min: 0, max: 14, step: 1,
      oninput: () => {
        state.leastChosen = true;
        state.least = least.value === '0' ? 1 : Math.round(10 * 2 ** (Number(least.value) - 1));
        this.showLeast();
        for (const side of this.sides) this.count(side);
      },
    });
    least.value = state.least <= 1 ? 0 : 1 + Math.log2(state.least / 10);
    this.leastSlider = least;
    this.leastText = h('span', { class: 'm2k-value' });
    this.bothText = h('span', { class: 'm2k-value' });
    const bar = h('div', { class: 'm2k-common' },
      h('label', {}, h('span', {}, t('threshold_both')), this.both, this.bothText),
      h('div', { class: 'm2k-presets' }, presets.map((name) => h('button', {
        type: 'button', class: 'm2k-chip', 'data-preset': name,
        onclick: () => {
          for (const side of this.sides) this.moved(side.data.side, side.data.thresholds[name]);
        },
      }, t('preset_' + name)))),
      h('label', {}, h('span', {}, t('least')), least, this.leastText));
    this.showLeast();
    return bar;
  }

  showLeast() {
    this.leastText.textContent = this.t('pixels', { n: this.state.least });
    this.leastSlider.setAttribute('aria-valuetext', this.leastText.textContent);
  }

  classNames() {
    return [...new Set(this.sides.flatMap((side) => side.data.classes
      .filter((entry) => entry.share > 0).map((entry) => entry.name)))];
  }

  legend() {
    const { t, state } = this;
    const entry = (side, name) => side.data.classes.find((one) => one.name === name);
    const rows = this.classNames()
      .map((name) => ({ name, of: this.sides.map((side) => entry(side, name)) }))
      .sort((a, b) => Math.max(...b.of.map((e) => e?.share ?? 0))
        - Math.max(...a.of.map((e) => e?.share ?? 0)));
    const buttons = rows.map(({ name, of }) => {
      const swatches = of.filter(Boolean).map((e) => e.colour.join(' '));
      return h('li', { 'data-class': name },
        h('button', {
          type: 'button', class: 'm2k-class', 'aria-pressed': 'true', title: t('toggle_class'),
          onclick: () => this.toggleClass(name),
        },
        [...new Set(swatches)].map((rgb) => h('i', { style: `background: rgb(${rgb})`, 'aria-hidden': 'true' })),
        h('b', {}, name),
        of.map((e, index) => h('span', { 'data-side': this.sides[index].data.side },
          e ? percent(e.share) : t('unknown_class')))),
        h('button', {
          type: 'button', class: 'm2k-only', 'aria-label': t('only_class', { name }),
          onclick: () => this.isolateClass(name),
        }, t('only')));
    });
    this.legendList = h('ul', {}, buttons);
    return h('section', { class: 'm2k-legend', 'aria-label': t('legend') },
      h('h3', {}, t('legend'), h('small', {}, t('legend_columns'))),
      this.legendList,
      h('button', {
        type: 'button', class: 'm2k-chip', 'data-tool': 'all_classes',
        onclick: () => this.setHidden(new Set()),
      }, t('all_classes')));
  }

  toggleClass(name) {
    const hidden = new Set(this.state.hidden);
    if (!hidden.delete(name)) hidden.add(name);
    this.setHidden(hidden);
  }

  isolateClass(name) {
    this.setHidden(new Set(this.classNames().filter((other) => other !== name)));
  }

  setHidden(hidden) {
    this.state.hidden = hidden;
    for (const item of this.legendList.children) {
      item.firstChild.setAttribute('aria-pressed', String(!hidden.has(item.dataset.class)));
    }
    delete this.layerCache.classes;
    this.invalidate();
  }

  // ------------------------------------------------------------ views

  setView(name) {
    this.state.view = name;
    for (const button of this.viewButtons) {
      button.setAttribute('aria-pressed', String(button.dataset.view === name));
    }
    this.layOut();
  }

  /** Make the panes of the current view. */
  layOut() {
    const { t, state, sides } = this;
    const names = sides.map((side) => side.data.title);
    this.root.dataset.view = state.view;
    const kinds = {
      overview: [
        ...[0, 1].map((i) => ({ of: [i], layers: ['photo', 'classes', 'outline'], what: 'classes' })),
        ...[0, 1].map((i) => ({ of: [i], layers: ['photo', 'heat', 'outline'], what: 'heat' }))],
      side: [0, 1].map((i) => ({ of: [i], layers: LAYERS, what: 'all' })),
      swipe: [{ of: [0, 1], layers: LAYERS, what: 'all', swipe: true }],
      difference: [{ of: [0, 1], layers: ['photo', 'difference', 'outline'], what: 'difference' }],
    }[state.view];
    this.panes = kinds.map((kind) => {
      const label = t('pane_' + kind.what, { model: kind.of.map((i) => names[i]).join(', ') });
      const pane = new Pane(this.view, label, this.listener());
      pane.kind = kind;
      pane.root.dataset.side = kind.of.length > 1 ? 'both' : sides[kind.of[0]].data.side;
      pane.root.dataset.what = kind.what;
      pane.caption.append(...this.caption(kind, names));
      if (kind.swipe) pane.surface.append(this.divider = h('div', { class: 'm2k-divider' }, h('i')));
      return pane;
    });
    this.grid.replaceChildren(...this.panes.map((pane) => pane.root));
    if (state.view === 'swipe') this.grid.append(this.swipeSlider());
    this.invalidate();
  }

  caption(kind, names) {
    if (kind.what === 'difference') {
      const bar = h('canvas', { width: 256, height: 1, 'aria-hidden': 'true' });
      const pixels = new ImageData(256, 1);
      this.props.colormaps.diverging.forEach((colour, i) => pixels.data.set([...colour, 255], 4 * i));
      bar.getContext('2d').putImageData(pixels, 0, 0);
      this.differs = h('b', {});
      return [this.state.difference === 'score'
        ? h('span', { class: 'm2k-diverging' }, names[1], bar, names[0]) : this.differs];
    }
    if (kind.swipe) return [h('b', {}, names[0]), h('b', {}, names[1])];
    const what = kind.what === 'all' ? '' : ' · ' + this.t('what_' + kind.what);
    const { data } = this.sides[kind.of[0]];
    return [h('b', {}, h('span', { class: 'm2k-long' }, data.title),
      h('span', { class: 'm2k-short' }, data.head)), h('span', {}, what)];
  }

  swipeSlider() {
    const slider = h('input', {
      type: 'range', id: 'swipe', min: 0, max: 1, step: 0.01, 'aria-label': this.t('swipe'),
      oninput: () => this.swipeTo(Number(slider.value)),
    });
    slider.value = this.state.swipe;
    this.swipeInput = slider;
    return slider;
  }

  swipeTo(share) {
    this.state.swipe = share;
    this.swipeInput.value = share;
    this.invalidate();
  }

  zoom(factor) {
    const at = this.picked ?? this.view;
    this.view.zoomAt(factor, at.x, at.y);
    this.invalidate();
  }

  async fullscreen() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else if (this.body.requestFullscreen) await this.body.requestFullscreen();
    else this.body.classList.toggle('m2k-filling'); // phones without the API
    this.fullscreenChanged();
  }

  fullscreenChanged() {
    this.root.dataset.full = String(Boolean(document.fullscreenElement)
      || this.body.classList.contains('m2k-filling'));
    this.invalidate();
  }

  // ------------------------------------------------------------ drawing

  invalidate(base = true) {
    if (!this.value) return;
    this.stale.base ||= base;
    this.redraw();
  }

  range(side) {
    return this.state.ranging === 'picture' ? [side.low, side.high] : side.data.range;
  }

  recolour(change) {
    Object.assign(this.state, change);
    this.layerCache = {};
    this.drawCards();
    this.invalidate();
  }

  drawCards() {
    for (const card of this.cards) {
      card.draw(this.props.colormaps[this.state.colours], this.range(card.side),
        this.state.ranging === 'picture');
      card.threshold(this.state.threshold[card.side.data.side]);
    }
  }

  /** Coloured maps at the size of the picture, made when first needed. */
  layer(kind, index) {
    const cache = this.layerCache[kind] ??= [];
    const side = this.sides[index];
    cache[index] ??= kind === 'classes'
      ? classCanvas(side, this.state.hidden)
      : heatCanvas(side, this.range(side), this.props.colormaps[this.state.colours]);
    return cache[index];
  }

  difference() {
    const [left, right] = this.sides;
    if (this.state.difference === 'score') {
      return this.layerCache.difference ??= differenceCanvas(left, right,
        [this.range(left), this.range(right)], this.props.colormaps.diverging);
    }
    const { canvas, share } = this.layerCache.disagreement ??= disagreement(left, right, DISAGREE);
    this.differs.textContent = this.t('classes_differ', { share: percent(share) });
    this.root.dataset.disagreement = share;
    return canvas;
  }

  layersOf(pane) {
    const { layers, swipe } = this.state;
    const { kind } = pane;
    const list = [];
    const add = (canvas, name, rest = {}) => {
      if (layers[name] > 0) list.push({ canvas, alpha: layers[name], smooth: name === 'photo', ...rest });
    };
    add(this.photo, 'photo');
    kind.of.forEach((index, order) => {
      const rest = kind.swipe ? (order ? { from: swipe } : { to: swipe }) : {};
      if (kind.layers.includes('difference')) {
        if (!order) list.push({ canvas: this.difference(), alpha: 0.85 * layers.heat, smooth: false });
        return;
      }
      for (const name of ['classes', 'heat']) {
        if (!kind.layers.includes(name)) continue;
        // Together, the heat map lets the classes shine through.
        const alpha = kind.what === 'all' && name === 'heat' ? layers.heat * 0.6 : layers[name];
        if (alpha > 0) list.push({ canvas: this.layer(name, index), alpha, smooth: false, ...rest });
      }
    });
    return list;
  }

  frame() {
    if (!this.value) return;
    const started = performance.now();
    const cuts = this.sides.map((side) => side.cut(this.state.threshold[side.data.side]));
    this.writeThresholds();
    const drawn = new Map();
    for (const pane of this.panes) {
      if (this.stale.base || !pane.at) pane.drawBase(this.layersOf(pane));
      const { kind } = pane;
      const parts = kind.of.map((index, order) => ({
        side: this.sides[index],
        cut: cuts[index],
        bit: kind.what === 'difference' ? 1 << order : 1,
        ...(kind.swipe ? (order ? { from: this.state.swipe } : { to: this.state.swipe }) : {}),
      }));
      pane.drawMask(parts, kind.what === 'difference' ? WHO : ONE, this.state.layers.outline,
        drawn.get(String(kind.of)));
      if (!drawn.has(String(kind.of))) drawn.set(String(kind.of), pane);
      pane.show(pane.cross, this.cursor);
      pane.show(pane.pin, this.picked);
    }
    if (this.divider) this.divider.style.left = 100 * this.state.swipe + '%';
    this.stale = {};
    const { dataset } = this.root;
    dataset.drawn = this.value.run;
    dataset.redraws = Number(dataset.redraws || 0) + 1;
    dataset.zoom = this.view.zoom;
    this.timings.push(performance.now() - started);
    if (this.timings.length > 500) this.timings.shift();
  }

  // ------------------------------------------------------------ thresholds and regions

  moved(name, threshold) {
    if (!Number.isFinite(threshold)) {
      this.drawCards(); // what was typed is no number: the fields go back
      return;
    }
    for (const side of this.sides) {
      const own = side.data.side;
      if (name !== 'both' && name !== own) continue;
      this.state.threshold[own] = side.snap(threshold);
      this.stale[own] = true;
      side.drop(NONE);
      this.count(side);
    }
    const { left, right } = this.state.threshold;
    this.middle = name === 'both' ? threshold : (left + right) / 2;
    this.invalidate(false);
  }

  /** What the sliders say; once a frame, however often they moved. */
  writeThresholds() {
    const { left, right } = this.state.threshold;
    for (const card of this.cards) {
      const name = card.side.data.side;
      if (this.stale[name]) card.threshold(this.state.threshold[name]);
    }
    if (!this.stale.left && !this.stale.right) return;
    this.both.value = this.middle;
    this.bothText.textContent = Math.abs(left - right) < 1e-3
      ? number(left) : `${number(left)} | ${number(right)}`;
    this.both.setAttribute('aria-valuetext', this.bothText.textContent);
  }

  /** Ask the worker for the regions at the current threshold; one question a side at a time. */
  count(side) {
    const name = side.data.side;
    const wish = {
      side: name, run: this.value.run, least: this.state.least,
      q: side.cut(this.state.threshold[name]),
    };
    this.cards[this.sides.indexOf(side)].outdated(wish.q, wish.least);
    const state = this.pending[name] ??= {};
    if (state.asked) {
      state.next = wish;
      return;
    }
    state.asked = wish;
    this.worker.postMessage(wish);
  }

  counted(result) {
    if (!this.value || result.run !== this.value.run) return;
    const index = this.sides.findIndex((side) => side.data.side === result.side);
    const state = this.pending[result.side];
    state.asked = null;
    if (state.next) {
      state.asked = state.next;
      state.next = null;
      this.worker.postMessage(state.asked);
    }
    this.cards[index].regions(result);
    clearTimeout(state.timer);
    if (state.asked) return;
    state.timer = setTimeout(() => {
      if (!state.asked && this.sides[index]?.drop(result.dropped)) this.invalidate(false);
    }, SETTLE);
  }

  // ------------------------------------------------------------ pixels

  listener() {
    return {
      role: this.t('pane_role'),
      view: () => this.invalidate(),
      inspect: (pixel) => this.inspect(pixel),
      cursor: () => this.cursor ?? this.picked,
      pick: (x, y) => this.pick(x, y),
      swipe: (share) => this.swipeTo(share),
      nudge: (steps) => {
        const [low, high] = reach(...this.sides);
        this.moved('both', Number(this.both.value) + (steps * (high - low)) / 200);
      },
    };
  }

  /** Position in the picture as it was uploaded; the maps may be smaller. */
  source({ x, y }) {
    const [height, width] = this.value.source_size;
    return {
      x: Math.floor(((x + 0.5) * width) / this.view.width),
      y: Math.floor(((y + 0.5) * height) / this.view.height),
    };
  }

  inspect(pixel) {
    this.cursor = pixel;
    for (const pane of this.panes) pane.show(pane.cross, pixel);
    const { dataset } = this.readout;
    if (!pixel) {
      for (const key of ['x', 'y', 'left', 'right']) delete dataset[key];
      this.readout.replaceChildren(this.t('hover'));
      return;
    }
    const i = pixel.y * this.view.width + pixel.x;
    const source = this.source(pixel);
    Object.assign(dataset, source);
    const parts = this.sides.map((side) => {
      const value = side.score(side.codes[i]);
      dataset[side.data.side] = value;
      const over = value >= this.state.threshold[side.data.side];
      return h('span', { class: 'm2k-reading', 'data-side': side.data.side },
        h('i', { class: 'm2k-dot', 'aria-hidden': 'true' }),
        h('b', {}, side.data.classes[side.labels[i]].name), ' ' + number(value),
        over ? h('em', {}, this.t('anomalous')) : null);
    });
    const truth = this.truth ? h('span', {}, this.t('truth_' + this.truth[i])) : null;
    this.readout.replaceChildren(
      h('span', { class: 'm2k-position' }, `x ${source.x}  y ${source.y}`), ...parts, ...(truth ? [truth] : []));
  }

  pick(x, y) {
    this.picked = { x, y };
    this.inspect(this.picked);
    for (const pane of this.panes) pane.show(pane.pin, this.picked);
    this.explanation.ask(this.source(this.picked));
  }

  // ------------------------------------------------------------ out

  saveView() {
    const gap = 8;
    const [first] = this.panes;
    const { width, height } = first.base;
    const across = this.panes.length > 1 ? 2 : 1;
    const down = Math.ceil(this.panes.length / across);
    const canvas = h('canvas', {
      width: across * width + (across - 1) * gap, height: down * height + (down - 1) * gap,
    });
    const context = canvas.getContext('2d');
    this.panes.forEach((pane, index) => {
      const at = [(index % across) * (width + gap), Math.floor(index / across) * (height + gap)];
      context.drawImage(pane.base, ...at, width, height);
      context.drawImage(pane.mask, ...at, width, height);
    });
    canvas.toBlob((blob) => save(URL.createObjectURL(blob), `mask2kan_${this.state.view}.png`));
  }

  /** Have the server write files with these settings, and save them. */
  async export(kind, button) {
    const { state } = this;
    button.setAttribute('aria-busy', 'true');
    const answer = await this.ask('export_run', {
      kind, run: this.value.run, thresholds: { ...state.threshold }, least: state.least,
      colours: state.colours,
    });
    button.removeAttribute('aria-busy');
    if (!answer) return;
    for (const file of answer.files) save(this.fileUrl(file.path), file.name);
  }

  fileUrl(path) {
    return this.props.files + encodeURI(path);
  }

  /** A question to the server; its refusal is shown, and null comes back. */
  async ask(name, question) {
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

  notice(text) {
    const box = h('p', { class: 'm2k-notice', role: 'alert' }, text);
    this.body.prepend(box);
    setTimeout(() => box.remove(), 8000);
  }

  async copyLink(button) {
    const link = this.link();
    this.root.dataset.link = link;
    if (!this.value.example) this.notice(this.t('link_without_picture'));
    try {
      await navigator.clipboard.writeText(link);
      button.textContent = this.t('copied');
    } catch {
      window.prompt(this.t('copy_link'), link);
    }
    setTimeout(() => { button.textContent = this.t('link'); }, 2000);
  }
}

function fullscreenIcon() {
  const icon = h('span', { class: 'm2k-icon', 'aria-hidden': 'true' });
  icon.innerHTML = '<svg viewBox="0 0 16 16" width="15" height="15" fill="none" stroke="currentColor"'
    + ' stroke-width="1.8"><path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4"/></svg>';
  return icon;
}

function save(url, name) {
  const link = h('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}
