// Inside the KAN: the learned function on every edge of `mask_embed`. A map of edge norms, the
// strongest edges, and for one edge its curve with knots, base function and this picture's values.

import { h, number, percent, translator } from '../viewer/dom.js';
import { unpack } from '../viewer/maps.js';

const SVG = 'http://www.w3.org/2000/svg';
const EDGE = { left: 52, right: 12, top: 12, bottom: 34 };

export function start({ element, props, watch, server }) {
  const panel = new Panel(element, props, server);
  watch('value', () => panel.load(props.value));
  panel.load(props.value);
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

class Panel {
  constructor(element, props, server) {
    this.t = translator(props.strings);
    Object.assign(this, { props, server });
    this.root = element.querySelector('.kan');
    this.message = this.root.querySelector('.kan-message');
    this.body = this.root.querySelector('.kan-body');
    this.generation = 0;
  }

  async load(value) {
    const mine = ++this.generation;
    if (!value?.layers) {
      this.root.dataset.state = 'empty';
      this.message.textContent = value?.message || this.t('welcome');
      return;
    }
    let matrices;
    try {
      matrices = await Promise.all(value.layers.map(async (layer) => ({
        picture: new Float32Array(await unpack(layer.norms)),
        grid: new Float32Array(await unpack(layer.grid_norms)),
      })));
    } catch (error) {
      if (mine !== this.generation) return;
      this.root.dataset.state = 'failed';
      this.message.textContent = this.t('not_loaded', { reason: error.message });
      return;
    }
    if (mine !== this.generation) return;
    Object.assign(this, { value, matrices });
    this.of = 'picture';
    this.build();
    this.root.dataset.state = 'ready';
    this.root.dataset.run = value.run;
    await this.setLayer(0);
  }

  build() {
    const { t, value } = this;
    const pressed = (name, key, action, text) => h('button', {
      type: 'button', [`data-${name}`]: key, 'aria-pressed': 'false', onclick: action,
    }, text);
    this.layerButtons = value.layers.map((layer, index) => pressed('layer', index,
      () => this.setLayer(index),
      t('layer', { n: index + 1, i: layer.in_features, o: layer.out_features })));
    this.ofButtons = ['picture', 'grid'].map((name) =>
      pressed('of', name, () => this.setNorms(name), t('norms_' + name)));
    this.facts = h('p', { class: 'kan-dim' });
    this.canvas = h('canvas', {
      class: 'kan-norms', role: 'img', onclick: (event) => this.choose(this.edgeAt(event)),
      onpointermove: (event) => this.point(this.edgeAt(event)),
    });
    this.here = h('i', { class: 'kan-here', 'aria-hidden': 'true' });
    this.pointed = h('p', { class: 'kan-dim' }, t('point'));
    this.scale = h('div', { class: 'kan-scale' });
    this.edges = h('ol', { class: 'kan-edges' });
    this.input = h('input', { type: 'number', min: 0, id: 'kan-input', onchange: () => this.typed() });
    this.output = h('input', { type: 'number', min: 0, id: 'kan-output', onchange: () => this.typed() });
    this.plot = svg('svg', { class: 'kan-plot', role: 'img' });
    new ResizeObserver(() => this.view && this.draw(this.view)).observe(this.plot);
    this.read = h('p', { class: 'kan-dim', role: 'status' });
    const key = (name) => h('li', {}, h('i', { class: name, 'aria-hidden': 'true' }), t('curve_' + name));
    this.body.replaceChildren(
      h('div', { class: 'kan-bar' }, h('h3', {}, value.title),
        h('div', { class: 'kan-group', role: 'group', 'aria-label': t('layers') }, this.layerButtons),
        h('div', { class: 'kan-group', role: 'group', 'aria-label': t('norms') }, this.ofButtons)),
      this.facts,
      h('div', { class: 'kan-columns' },
        h('section', {}, h('h3', {}, t('norms')),
          h('div', { class: 'kan-map' }, this.canvas, this.here), this.scale, this.pointed),
        h('section', {}, h('h3', {}, t('strongest')), this.edges),
        h('section', {}, h('h3', {}, t('function')),
          h('div', { class: 'kan-choice' },
            h('label', {}, t('input') + ' ', this.input), h('label', {}, t('output') + ' ', this.output)),
          this.plot,
          h('ul', { class: 'kan-legend' }, ['total', 'spline', 'base', 'dot'].map(key)), this.read)));
  }

  // ------------------------------------------------------------ norms

  get layer() {
    return this.value.layers[this.index];
  }

  async setLayer(index) {
    this.index = index;
    this.layerButtons.forEach((button, i) => button.setAttribute('aria-pressed', String(i === index)));
    const { layer, t } = this;
    this.facts.textContent = t('facts', {
      grid: layer.grid_size, order: layer.spline_order, base: layer.base_activation,
      inner: percent(layer.outside_inner), knots: percent(layer.outside_knots),
      share: percent(layer.spline_share),
      picture: this.value.picture,
    });
    [this.input.max, this.output.max] = [layer.in_features - 1, layer.out_features - 1];
    this.setNorms(this.of);
    const [first] = layer.strongest;
    await this.choose({ input: first.input, output: first.output });
  }

  setNorms(name) {
    this.of = name;
    this.ofButtons.forEach((button) =>
      button.setAttribute('aria-pressed', String(button.dataset.of === name)));
    this.norms = this.matrices[this.index][name];
    const { in_features: inputs, out_features: outputs } = this.layer;
    const largest = this.norms.reduce((a, b) => Math.max(a, b), 0);
    [this.canvas.width, this.canvas.height] = [inputs, outputs];
    const image = new ImageData(inputs, outputs);
    const colours = this.props.colours;
    this.norms.forEach((norm, i) => {
      image.data.set([...colours[Math.round((255 * norm) / (largest || 1))], 255], 4 * i);
    });
    this.canvas.getContext('2d').putImageData(image, 0, 0);
    this.canvas.setAttribute('aria-label', this.t('norms_spoken', { i: inputs, o: outputs }));
    const bar = h('canvas', { width: 256, height: 1, 'aria-hidden': 'true' });
    const strip = new ImageData(256, 1);
    colours.forEach((colour, i) => strip.data.set([...colour, 255], 4 * i));
    bar.getContext('2d').putImageData(strip, 0, 0);
    this.scale.replaceChildren(h('span', {}, '0'), bar, h('span', {}, number(largest)));
    this.list(largest);
  }

  /** The strongest edges of the chosen norms. */
  list(largest) {
    const inputs = this.layer.in_features;
    const order = [...this.norms.keys()].sort((a, b) => this.norms[b] - this.norms[a]).slice(0, 12);
    this.edges.replaceChildren(...order.map((i) => {
      const edge = { input: i % inputs, output: Math.floor(i / inputs) };
      return h('li', {}, h('button', {
        type: 'button', 'data-input': edge.input, 'data-output': edge.output, 'aria-pressed': 'false',
        onclick: () => this.choose(edge),
      }, h('span', {}, `${edge.input} → ${edge.output}`), h('span', {}, number(this.norms[i])),
      h('i', { style: `width: ${(100 * this.norms[i]) / (largest || 1)}%`, 'aria-hidden': 'true' })));
    }));
    this.mark();
  }

  edgeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const place = (at, size, count) => Math.min(count - 1, Math.max(0, Math.floor((at / size) * count)));
    return {
      input: place(event.clientX - box.left, box.width, this.layer.in_features),
      output: place(event.clientY - box.top, box.height, this.layer.out_features),
    };
  }

  point({ input, output }) {
    const norm = this.norms[output * this.layer.in_features + input];
    this.pointed.textContent = this.t('pointed', { i: input, o: output, norm: number(norm) });
  }

  mark() {
    if (!this.edge) return;
    const { input, output } = this.edge;
    this.here.style.left = (100 * (input + 0.5)) / this.layer.in_features + '%';
    this.here.style.top = (100 * (output + 0.5)) / this.layer.out_features + '%';
    for (const button of this.edges.querySelectorAll('button')) {
      button.setAttribute('aria-pressed', String(Number(button.dataset.input) === input
        && Number(button.dataset.output) === output));
    }
  }

  // ------------------------------------------------------------ one edge

  typed() {
    this.choose({ input: Number(this.input.value), output: Number(this.output.value) });
  }

  async choose(edge) {
    const question = { run: this.value.run, layer: this.index, ...edge };
    let answer;
    try {
      answer = await this.server.kan_edge(question);
    } catch {
      answer = { error: this.t('no_answer') };
    }
    if (question.run !== this.value.run || question.layer !== this.index) return;
    if (answer.error) {
      this.read.textContent = answer.error;
      return;
    }
    this.edge = edge;
    [this.input.value, this.output.value] = [edge.input, edge.output];
    this.draw(answer);
    this.mark();
    Object.assign(this.root.dataset, { layer: this.index, input: edge.input, output: edge.output });
  }

  draw(view) {
    this.view = view;
    const { t } = this;
    const width = Math.max(260, this.plot.clientWidth);
    const height = Math.min(420, Math.max(240, Math.round(0.62 * width)));
    this.plot.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const ys = [...view.total, ...view.spline, ...view.base, 0];
    const xs = [...view.x, ...(view.activations ?? [])];
    const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const pad = 0.06 * (high - low || 1);
    const px = (x) => EDGE.left + ((x - x0) / (x1 - x0)) * (width - EDGE.left - EDGE.right);
    const py = (y) => height - EDGE.bottom
      - ((y - low + pad) / (high - low + 2 * pad)) * (height - EDGE.top - EDGE.bottom);
    const path = (values, name) => svg('path', {
      class: name,
      d: values.map((y, i) => `${i ? 'L' : 'M'}${px(view.x[i]).toFixed(1)} ${py(y).toFixed(1)}`).join(''),
    });
    const line = (a, b, c, d, name) => svg('line', { x1: a, y1: b, x2: c, y2: d, class: name });
    const text = (x, y, anchor, words) => {
      const node = svg('text', { x, y, 'text-anchor': anchor });
      node.textContent = words;
      return node;
    };
    const floor = height - EDGE.bottom;
    const [from, to] = view.inner;
    const dots = (view.activations ?? []).map((x, i) =>
      svg('circle', { class: 'dot', cx: px(x), cy: py(view.values[i]), r: 3.2 }));
    this.plot.replaceChildren(
      svg('rect', { class: 'inner', x: px(from), y: EDGE.top, width: px(to) - px(from), height: floor - EDGE.top }),
      ...view.knots.map((x) => line(px(x), EDGE.top, px(x), floor, 'knot')),
      line(EDGE.left, py(0), width - EDGE.right, py(0), 'axis'),
      line(EDGE.left, floor, width - EDGE.right, floor, 'axis'),
      path(view.base, 'base'), path(view.spline, 'spline'), path(view.total, 'total'), ...dots,
      text(EDGE.left - 6, py(high) + 4, 'end', number(high)), text(EDGE.left - 6, py(low) + 4, 'end', number(low)),
      text(px(x0), height - 12, 'start', number(x0)), text(px(x1), height - 12, 'end', number(x1)),
      ...[from, to].map((x) => text(px(x), height - 12, 'middle', number(x))));
    this.plot.setAttribute('aria-label', t('curve_spoken', {
      i: view.input, o: view.output, low: number(low), high: number(high),
    }));
    this.read.textContent = view.activations ? t('read', {
      n: view.activations.length, norm: number(view.norm), inner: percent(view.outside_inner),
      knots: percent(view.outside_knots),
    }) : '';
  }
}
