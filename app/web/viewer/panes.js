// Panes: the windows onto a picture. Each has two canvases: `base` with the photograph and the
// colours over it, redrawn when the view changes, and `mask` with what is anomalous, redrawn with
// every threshold at the resolution of the screen. All panes share one view, so zoom and pan move
// them together.

import { h } from './dom.js';
import { CODES, packed } from './maps.js';

const MAX_ZOOM = 64;
const RIM = [16, 20, 28];
const SMALL_SCREEN = 640;

/** What part of the picture is seen: a zoom of 1 shows all of it, `x`, `y` is what is in the middle. */
export class View {
  constructor(width, height) {
    Object.assign(this, { width, height });
    this.reset();
  }

  reset() {
    Object.assign(this, { zoom: 1, x: this.width / 2, y: this.height / 2 });
  }

  /** Zoom by a factor, keeping the point (x, y) of the picture where it is on the screen. */
  zoomAt(factor, x, y) {
    const zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
    const kept = this.zoom / zoom;
    this.x = x + (this.x - x) * kept;
    this.y = y + (this.y - y) * kept;
    this.zoom = zoom;
  }

  /** The transform for a canvas: pixels of it per pixel of the picture, and what is at its corner. */
  transform(canvasWidth, canvasHeight) {
    const scale = this.zoom * Math.min(canvasWidth / this.width, canvasHeight / this.height);
    const [across, down] = [canvasWidth / scale, canvasHeight / scale];
    this.x = within(this.x, across, this.width);
    this.y = within(this.y, down, this.height);
    return { scale, left: this.x - across / 2, top: this.y - down / 2 };
  }
}

/** The middle of a window of `seen` moved so that it shows nothing beyond 0…size. */
function within(middle, seen, size) {
  if (seen >= size) return size / 2;
  return Math.min(size - seen / 2, Math.max(seen / 2, middle));
}

export class Pane {
  /**
   * @param view shared by all panes.
   * @param label what the pane shows, for people who do not see it.
   * @param listen callbacks: view(), inspect(x, y) or inspect(null), pick(x, y), swipe(share).
   */
  constructor(view, label, listen) {
    Object.assign(this, { view, listen });
    this.base = h('canvas', { 'aria-hidden': 'true' });
    this.mask = h('canvas', { 'aria-hidden': 'true' });
    this.cross = h('div', { class: 'm2k-cross', hidden: true });
    this.pin = h('div', { class: 'm2k-pin', hidden: true });
    this.caption = h('div', { class: 'm2k-caption' });
    this.surface = h('div', {
      class: 'm2k-surface', tabindex: '0', role: 'application', 'aria-label': label,
      'aria-roledescription': listen.role, 'aria-describedby': 'm2k-keys',
    }, this.base, this.mask, this.pin, this.cross);
    this.root = h('div', { class: 'm2k-pane' }, this.surface, this.caption);
    this.root.style.aspectRatio = `${view.width} / ${view.height}`;
    this.pointers = new Map();
    this.listenToPointers();
    this.surface.addEventListener('keydown', (event) => this.key(event));
  }

  resize() {
    const { clientWidth, clientHeight } = this.surface;
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const width = Math.max(1, Math.round(clientWidth * ratio));
    const height = Math.max(1, Math.round(clientHeight * ratio));
    if (this.base.width === width && this.base.height === height) return;
    for (const canvas of [this.base, this.mask]) [canvas.width, canvas.height] = [width, height];
    this.ratio = ratio;
    this.image = new ImageData(width, height);
    this.out = new Uint32Array(this.image.data.buffer);
    this.bits = new Uint8Array(width * height);
  }

  /** Paint canvases over each other: [{canvas, alpha, smooth, from, to}], from/to shares of the width. */
  drawBase(layers) {
    this.resize();
    const { width, height } = this.base;
    this.at = this.view.transform(width, height);
    // At a glance a finger scrolls the page; in a part of the picture it moves the picture.
    this.surface.style.touchAction = this.view.zoom > 1 ? 'none' : 'pan-y';
    const { scale, left, top } = this.at;
    const context = this.base.getContext('2d');
    context.clearRect(0, 0, width, height);
    for (const { canvas, alpha, smooth, from = 0, to = 1 } of layers) {
      const [x, across] = [width * from, width * (to - from)];
      if (across <= 0) continue;
      context.globalAlpha = alpha;
      context.imageSmoothingEnabled = smooth || scale < 2;
      // Photographs may be smaller than the maps they are drawn under.
      const [fx, fy] = [canvas.width / this.view.width, canvas.height / this.view.height];
      context.drawImage(canvas, (left + x / scale) * fx, (top) * fy, (across / scale) * fx,
        (height / scale) * fy, x, 0, across, height);
    }
  }

  /**
   * Outline what is anomalous.
   * @param parts [{side, cut, bit, from, to}]: whose codes decide where, from/to shares of the width.
   * @param colours per combination of bits.
   * @param twin a pane of the same parts that has just been drawn: its pixels are taken as they are.
   */
  drawMask(parts, colours, alpha, twin) {
    if (!this.at) return;
    const { width, height } = this.mask;
    let { image } = this;
    if (twin?.image.width === width && twin.image.height === height) image = twin.image;
    else {
      this.bits.fill(0);
      this.out.fill(0);
      if (alpha > 0) {
        for (const part of parts) this.mark(part, width, height);
        this.paint(colours, alpha, width, height);
      }
    }
    this.mask.getContext('2d').putImageData(image, 0, 0);
  }

  mark({ side, cut, bit, from = 0, to = 1 }, width, height) {
    if (cut >= CODES) return;
    const { scale, left, top } = this.at;
    const depth = Math.min(side.shown.length - 1, Math.max(0, Math.ceil(Math.log2(1 / scale))));
    const { codes, width: across, height: down } = side.shown[depth];
    const [zoom, x0, y0] = [scale * 2 ** depth, left / 2 ** depth, top / 2 ** depth];
    // Canvas columns that show a column of the map, and which.
    const first = Math.max(Math.round(width * from), Math.ceil(-x0 * zoom - 0.5));
    const last = Math.min(Math.round(width * to), Math.ceil((across - x0) * zoom - 0.5));
    const columns = new Int32Array(Math.max(0, last - first));
    for (let x = 0; x < columns.length; x++) columns[x] = x0 + (first + x + 0.5) / zoom;
    const { bits } = this;
    for (let y = 0; y < height; y++) {
      const row = Math.floor(y0 + (y + 0.5) / zoom);
      if (row < 0 || row >= down) continue;
      const start = row * across;
      const out = y * width + first;
      for (let x = 0; x < columns.length; x++) {
        if (codes[start + columns[x]] >= cut) bits[out + x] |= bit;
      }
    }
  }

  /** Regions get a light fill, a line inside their border and a dark rim outside it. */
  paint(colours, alpha, width, height) {
    const { bits, out } = this;
    const line = colours.map((colour) => packed(colour, Math.round(255 * alpha)));
    const fill = colours.map((colour) => packed(colour, Math.round(46 * alpha)));
    const rim = packed(RIM, Math.round(200 * alpha));
    const reach = Math.max(1, Math.round(1.25 * this.ratio));
    for (let y = 0, i = 0; y < height; y++) {
      const up = y >= reach ? reach * width : 0;
      const down = y + reach < height ? reach * width : 0;
      for (let x = 0; x < width; x++, i++) {
        const bit = bits[i];
        if (!bit) continue;
        const before = x >= reach ? reach : 0;
        const after = x + reach < width ? reach : 0;
        if (bits[i - before] === bit && bits[i + after] === bit
          && bits[i - up] === bit && bits[i + down] === bit) {
          out[i] = fill[bit];
          continue;
        }
        out[i] = line[bit];
        if (x && !bits[i - 1]) out[i - 1] = rim;
        if (x + 1 < width && !bits[i + 1]) out[i + 1] = rim;
        if (up && !bits[i - width]) out[i - width] = rim;
        if (down && !bits[i + width]) out[i + width] = rim;
      }
    }
  }

  // ------------------------------------------------------------ places

  /** The picture's pixel under a point of the window, or null beside the picture. */
  pixelAt(clientX, clientY) {
    const box = this.surface.getBoundingClientRect();
    if (!this.at || !box.width) return null;
    const { scale, left, top } = this.at;
    const x = Math.floor(left + ((clientX - box.left) * this.base.width) / box.width / scale);
    const y = Math.floor(top + ((clientY - box.top) * this.base.height) / box.height / scale);
    return x < 0 || y < 0 || x >= this.view.width || y >= this.view.height ? null : { x, y };
  }

  /** Where the middle of a pixel is, in CSS pixels from the corner of the surface. */
  place({ x, y }) {
    const { scale, left, top } = this.at;
    const { clientWidth, clientHeight } = this.surface;
    return {
      left: ((x + 0.5 - left) * scale * clientWidth) / this.base.width,
      top: ((y + 0.5 - top) * scale * clientHeight) / this.base.height,
    };
  }

  show(mark, pixel) {
    mark.hidden = !pixel || !this.at;
    if (mark.hidden) return;
    const { left, top } = this.place(pixel);
    mark.style.transform = `translate(${left}px, ${top}px)`;
  }

  // ------------------------------------------------------------ hands

  listenToPointers() {
    const { surface } = this;
    surface.addEventListener('pointerdown', (event) => this.press(event));
    surface.addEventListener('pointermove', (event) => this.move(event));
    for (const name of ['pointerup', 'pointercancel']) {
      surface.addEventListener(name, (event) => this.lift(event));
    }
    surface.addEventListener('pointerleave', () => this.listen.inspect(null));
    surface.addEventListener('dblclick', (event) => {
      const pixel = this.pixelAt(event.clientX, event.clientY);
      if (pixel) this.zoomTo(2, pixel.x, pixel.y);
    });
    surface.addEventListener('wheel', (event) => {
      // A plain wheel scrolls the page, except where there is no page to scroll.
      if (!event.ctrlKey && !event.metaKey && !document.fullscreenElement) return;
      event.preventDefault();
      const pixel = this.pixelAt(event.clientX, event.clientY);
      if (pixel) this.zoomTo(Math.exp(-event.deltaY / (event.ctrlKey ? 150 : 400)), pixel.x, pixel.y);
    }, { passive: false });
  }

  zoomTo(factor, x, y) {
    this.view.zoomAt(factor, x, y);
    this.listen.view();
  }

  press(event) {
    if (event.button) return;
    this.surface.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.travelled = this.pointers.size > 1 ? Infinity : 0;
    this.swiping = Boolean(event.target.closest?.('.m2k-divider'));
  }

  move(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) {
      this.inspectAt(event);
      return;
    }
    const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
    if (this.swiping) this.swipeTo(event.clientX);
    else if (this.pointers.size === 2) this.pinch(event);
    else this.pan(dx, dy);
    this.travelled += Math.hypot(dx, dy);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  pan(dx, dy) {
    if (this.view.zoom === 1) return;
    const perPixel = this.base.width / this.surface.clientWidth / this.at.scale;
    this.view.x -= dx * perPixel;
    this.view.y -= dy * perPixel;
    this.listen.view();
  }

  pinch(event) {
    const [a, b] = [...this.pointers.keys()].map((id) =>
      (id === event.pointerId ? { x: event.clientX, y: event.clientY } : this.pointers.get(id)));
    const before = [...this.pointers.values()];
    const was = Math.hypot(before[0].x - before[1].x, before[0].y - before[1].y);
    const is = Math.hypot(a.x - b.x, a.y - b.y);
    const pixel = this.pixelAt((a.x + b.x) / 2, (a.y + b.y) / 2);
    if (was && pixel) this.zoomTo(is / was, pixel.x, pixel.y);
  }

  swipeTo(clientX) {
    const box = this.surface.getBoundingClientRect();
    this.listen.swipe(Math.min(1, Math.max(0, (clientX - box.left) / box.width)));
  }

  lift(event) {
    const pressed = this.pointers.delete(event.pointerId);
    if (event.type === 'pointerup' && pressed && !this.swiping && this.travelled < 4) {
      const pixel = this.inspectAt(event);
      if (pixel) this.listen.pick(pixel.x, pixel.y);
    }
    if (!this.pointers.size) this.swiping = false;
  }

  inspectAt(event) {
    const pixel = this.pixelAt(event.clientX, event.clientY);
    this.listen.inspect(pixel);
    return pixel;
  }

  /** Arrows move the crosshair, with Shift by ten; + and − zoom at it; Enter explains it. */
  key(event) {
    const step = event.shiftKey ? 10 : 1;
    const moves = {
      ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step],
    };
    const at = this.listen.cursor()
      ?? { x: Math.floor(this.view.x), y: Math.floor(this.view.y) };
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      const x = Math.min(this.view.width - 1, Math.max(0, at.x + dx));
      const y = Math.min(this.view.height - 1, Math.max(0, at.y + dy));
      this.follow(x, y);
      this.listen.inspect({ x, y }, true);
    } else if (event.key === '+' || event.key === '=') this.zoomTo(1.5, at.x, at.y);
    else if (event.key === '-') this.zoomTo(1 / 1.5, at.x, at.y);
    else if (event.key === '0') this.zoomTo(0, at.x, at.y);
    else if (event.key === 'Enter' || event.key === ' ') this.listen.pick(at.x, at.y);
    else if (event.key === '[' || event.key === ']') this.listen.nudge(event.key === ']' ? 1 : -1);
    else return;
    event.preventDefault();
  }

  /** Move the view so that a pixel stays in sight. */
  follow(x, y) {
    if (!this.at) return;
    const { scale } = this.at;
    const [across, down] = [this.base.width / scale / 2, this.base.height / scale / 2];
    const before = [this.view.x, this.view.y];
    this.view.x = Math.min(x + across * 0.9, Math.max(x - across * 0.9, this.view.x));
    this.view.y = Math.min(y + down * 0.9, Math.max(y - down * 0.9, this.view.y));
    if (this.view.zoom > 1 && (this.view.x !== before[0] || this.view.y !== before[1])) {
      this.listen.view();
    }
  }
}

export const isSmallScreen = () => innerWidth <= SMALL_SCREEN;
