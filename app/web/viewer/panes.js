// @ts-check
// Panes: the windows onto a picture. Each has two canvases: `base` with the photo and the classes,
// redrawn when the view changes, and `mask` with what is anomalous, redrawn with every threshold.
// All panes share one view, so zoom and pan move them together.

import { h } from './dom.js';
import { context } from './maps.js';

/** @typedef {{x: number, y: number}} Point */
/** @typedef {{canvas: CanvasImageSource & {width: number, height: number}, alpha: number, smooth: boolean, from?: number, to?: number}} Layer */
/** @typedef {{heat: HTMLCanvasElement | null, hits: HTMLCanvasElement | null, path: Path2D, alpha: number, colour: string, from?: number, to?: number}} Marks */

/**
 * @typedef {object} Listener
 * @property {string} role
 * @property {() => void} view the view changed
 * @property {(pixel: Point | null, byKey?: boolean) => void} inspect
 * @property {() => Point | null} cursor
 * @property {(x: number, y: number) => void} pick
 * @property {(share: number) => void} swipe
 * @property {(steps: number) => void} nudge the threshold
 */

const MAX_ZOOM = 64;

/**
 * What part of the picture is seen: at a zoom of 1 it fills its pane, `x`, `y` is what is in the
 * middle. A picture smaller than its pane may be shown smaller, at its own size.
 */
export class View {
  /**
   * @param {number} width
   * @param {number} height
   */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.least = 1;
    this.zoom = 1;
    this.x = width / 2;
    this.y = height / 2;
  }

  reset() {
    Object.assign(this, { zoom: 1, x: this.width / 2, y: this.height / 2 });
  }

  /**
   * Zoom by a factor, keeping the point (x, y) of the picture where it is on the screen.
   * @param {number} factor
   * @param {number} x
   * @param {number} y
   */
  zoomAt(factor, x, y) {
    const zoom = Math.min(MAX_ZOOM, Math.max(this.least, this.zoom * factor));
    const kept = this.zoom / zoom;
    this.x = x + (this.x - x) * kept;
    this.y = y + (this.y - y) * kept;
    this.zoom = zoom;
  }

  /**
   * The transform for a canvas: pixels of it per pixel of the picture, and what is at its corner.
   * @param {number} canvasWidth
   * @param {number} canvasHeight
   */
  transform(canvasWidth, canvasHeight) {
    const scale = this.zoom * Math.min(canvasWidth / this.width, canvasHeight / this.height);
    const [across, down] = [canvasWidth / scale, canvasHeight / scale];
    this.x = within(this.x, across, this.width);
    this.y = within(this.y, down, this.height);
    return { scale, left: this.x - across / 2, top: this.y - down / 2 };
  }
}

/**
 * The middle of a window of `seen` moved so that it shows nothing beyond 0…size.
 * @param {number} middle
 * @param {number} seen
 * @param {number} size
 */
function within(middle, seen, size) {
  if (seen >= size) return size / 2;
  return Math.min(size - seen / 2, Math.max(seen / 2, middle));
}

export class Pane {
  /**
   * @param {View} view shared by all panes
   * @param {string} label what the pane shows, for people who do not see it
   * @param {Listener} listen
   */
  constructor(view, label, listen) {
    this.view = view;
    this.listen = listen;
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
    this.root.style.setProperty('--aspect', String(view.width / view.height));
    /** @type {Map<number, Point>} */
    this.pointers = new Map();
    /** @type {{scale: number, left: number, top: number} | null} */
    this.at = null;
    this.ratio = 1;
    this.travelled = 0;
    this.swiping = false;
    this.listenToPointers();
    this.surface.addEventListener('keydown', (event) => this.key(event));
  }

  /** Fit the canvases to the pixels of the screen. */
  resize() {
    const { clientWidth, clientHeight } = this.surface;
    this.ratio = Math.min(2, window.devicePixelRatio || 1);
    const width = Math.max(1, Math.round(clientWidth * this.ratio));
    const height = Math.max(1, Math.round(clientHeight * this.ratio));
    if (this.base.width === width && this.base.height === height) return;
    for (const canvas of [this.base, this.mask]) [canvas.width, canvas.height] = [width, height];
  }

  /** Pixels of the picture per pixel of the screen (CSS), as "100 %" means it. */
  get magnification() {
    return this.at ? this.at.scale / this.ratio : 1;
  }

  /** @param {Layer[]} layers painted over each other; from and to are shares of the width */
  drawBase(layers) {
    this.resize();
    const { width, height } = this.base;
    this.at = this.view.transform(width, height);
    // At a glance a finger scrolls the page; in a part of the picture it moves the picture.
    this.surface.style.touchAction = this.view.zoom > 1 ? 'none' : 'pan-y';
    const drawing = context(this.base);
    drawing.clearRect(0, 0, width, height);
    for (const layer of layers) this.drawLayer(drawing, layer);
  }

  /**
   * @param {CanvasRenderingContext2D} drawing
   * @param {Layer} layer
   */
  drawLayer(drawing, { canvas, alpha, smooth, from = 0, to = 1 }) {
    const { width, height } = this.base;
    const { scale, left, top } = /** @type {NonNullable<Pane['at']>} */ (this.at);
    const [x, across] = [width * from, width * (to - from)];
    if (across <= 0) return;
    drawing.globalAlpha = alpha;
    drawing.imageSmoothingEnabled = smooth || scale < 2;
    // Photographs may be smaller than the maps they are drawn under.
    const [fx, fy] = [canvas.width / this.view.width, canvas.height / this.view.height];
    drawing.drawImage(canvas, (left + x / scale) * fx, top * fy, (across / scale) * fx,
      (height / scale) * fy, x, 0, across, height);
    drawing.globalAlpha = 1;
  }

  /** @param {Marks[]} parts what passes the threshold: heat, hits and misses, outlines */
  drawMask(parts) {
    if (!this.at) return;
    const { width, height } = this.mask;
    const { scale, left, top } = this.at;
    const drawing = context(this.mask);
    drawing.setTransform(1, 0, 0, 1, 0, 0);
    drawing.clearRect(0, 0, width, height);
    for (const { heat, hits, path, alpha, colour, from = 0, to = 1 } of parts) {
      for (const canvas of [heat, hits]) {
        if (canvas) this.drawLayer(drawing, { canvas, alpha, smooth: true, from, to });
      }
      drawing.save();
      drawing.beginPath();
      drawing.rect(width * from, 0, width * (to - from), height);
      drawing.clip();
      drawing.setTransform(scale, 0, 0, scale, -left * scale, -top * scale);
      drawing.lineCap = 'round';
      for (const [style, thickness] of /** @type {const} */ ([['rgb(10 14 20 / 0.55)', 3], [colour, 1.5]])) {
        drawing.strokeStyle = style;
        drawing.lineWidth = (thickness * this.ratio) / scale;
        drawing.stroke(path);
      }
      drawing.restore();
    }
  }

  // ------------------------------------------------------------ places

  /**
   * The picture's pixel under a point of the window, or null beside the picture.
   * @param {number} clientX
   * @param {number} clientY
   * @returns {Point | null}
   */
  pixelAt(clientX, clientY) {
    const box = this.surface.getBoundingClientRect();
    if (!this.at || !box.width) return null;
    const { scale, left, top } = this.at;
    const x = Math.floor(left + ((clientX - box.left) * this.base.width) / box.width / scale);
    const y = Math.floor(top + ((clientY - box.top) * this.base.height) / box.height / scale);
    return x < 0 || y < 0 || x >= this.view.width || y >= this.view.height ? null : { x, y };
  }

  /**
   * Where the middle of a pixel is, in CSS pixels from the corner of the surface.
   * @param {Point} pixel
   */
  place({ x, y }) {
    const { scale, left, top } = this.at ?? { scale: 1, left: 0, top: 0 };
    const box = this.surface.getBoundingClientRect();
    return {
      left: ((x + 0.5 - left) * scale * box.width) / this.base.width,
      top: ((y + 0.5 - top) * scale * box.height) / this.base.height,
    };
  }

  /**
   * @param {HTMLElement} mark
   * @param {Point | null} pixel
   */
  show(mark, pixel) {
    mark.hidden = !pixel || !this.at;
    if (!pixel || mark.hidden) return;
    const { left, top } = this.place(pixel);
    mark.style.transform = `translate(${left}px, ${top}px)`;
  }

  // ------------------------------------------------------------ hands

  listenToPointers() {
    const { surface } = this;
    surface.addEventListener('pointerdown', (event) => this.press(event));
    surface.addEventListener('pointermove', (event) => this.move(event));
    surface.addEventListener('pointerup', (event) => this.lift(event));
    surface.addEventListener('pointercancel', (event) => this.lift(event));
    surface.addEventListener('pointerleave', () => this.listen.inspect(null));
    surface.addEventListener('dblclick', (event) => {
      const pixel = this.pixelAt(event.clientX, event.clientY);
      if (pixel) this.zoomTo(2, pixel.x, pixel.y);
    });
    surface.addEventListener('wheel', (event) => {
      // A plain wheel scrolls the page, except where there is nothing to scroll.
      const { scrollHeight, clientHeight } = document.documentElement;
      const scrolls = scrollHeight > clientHeight + 8 && !document.fullscreenElement;
      if (scrolls && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const pixel = this.pixelAt(event.clientX, event.clientY);
      // Notches of a wheel are 100 and more, a touchpad's steps much less.
      const factor = Math.exp(-event.deltaY / (Math.abs(event.deltaY) < 50 ? 120 : 700));
      if (pixel) this.zoomTo(Math.min(1.25, Math.max(0.8, factor)), pixel.x, pixel.y);
    }, { passive: false });
  }

  /**
   * @param {number} factor
   * @param {number} x
   * @param {number} y
   */
  zoomTo(factor, x, y) {
    this.view.zoomAt(factor, x, y);
    this.listen.view();
  }

  /** @param {PointerEvent} event */
  press(event) {
    if (event.button) return;
    this.surface.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.travelled = this.pointers.size > 1 ? Infinity : 0;
    this.swiping = Boolean(/** @type {Element} */ (event.target).closest?.('.m2k-divider'));
  }

  /** @param {PointerEvent} event */
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

  /**
   * @param {number} dx
   * @param {number} dy
   */
  pan(dx, dy) {
    if (this.view.zoom <= 1 || !this.at) return;
    const perPixel = this.base.width / this.surface.clientWidth / this.at.scale;
    this.view.x -= dx * perPixel;
    this.view.y -= dy * perPixel;
    this.listen.view();
  }

  /** @param {PointerEvent} event */
  pinch(event) {
    const now = { x: event.clientX, y: event.clientY };
    const [a, b] = [...this.pointers].map(([id, place]) => (id === event.pointerId ? now : place));
    const before = [...this.pointers.values()];
    const was = Math.hypot(before[0].x - before[1].x, before[0].y - before[1].y);
    const is = Math.hypot(a.x - b.x, a.y - b.y);
    const pixel = this.pixelAt((a.x + b.x) / 2, (a.y + b.y) / 2);
    if (was && pixel) this.zoomTo(is / was, pixel.x, pixel.y);
  }

  /** @param {number} clientX */
  swipeTo(clientX) {
    const box = this.surface.getBoundingClientRect();
    this.listen.swipe(Math.min(1, Math.max(0, (clientX - box.left) / box.width)));
  }

  /** @param {PointerEvent} event */
  lift(event) {
    const pressed = this.pointers.delete(event.pointerId);
    if (event.type === 'pointerup' && pressed && !this.swiping && this.travelled < 4) {
      const pixel = this.inspectAt(event);
      if (pixel) this.listen.pick(pixel.x, pixel.y);
    }
    if (!this.pointers.size) this.swiping = false;
  }

  /** @param {PointerEvent} event */
  inspectAt(event) {
    const pixel = this.pixelAt(event.clientX, event.clientY);
    this.listen.inspect(pixel);
    return pixel;
  }

  /**
   * Arrows move the crosshair, with Shift by ten; + and − zoom at it; Enter explains it.
   * @param {KeyboardEvent} event
   */
  key(event) {
    const step = event.shiftKey ? 10 : 1;
    /** @type {Record<string, [number, number]>} */
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
    else if (event.key === '0') {
      this.view.reset();
      this.listen.view();
    }
    else if (event.key === 'Enter' || event.key === ' ') this.listen.pick(at.x, at.y);
    else if (event.key === '[' || event.key === ']') this.listen.nudge(event.key === ']' ? 1 : -1);
    else return;
    event.preventDefault();
  }

  /**
   * Move the view so that a pixel stays in sight.
   * @param {number} x
   * @param {number} y
   */
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
