// @ts-check
// What a visitor has set, and the address bar that keeps it: a reload, Back and a link bring it back.

/** @typedef {'pair' | 'swipe' | 'one' | 'difference'} ViewName */
/** @typedef {'left' | 'right'} SideName */
/** @typedef {'photo' | 'classes' | 'anomaly' | 'truth'} LayerName */

export const VIEWS = /** @type {const} */ (['pair', 'swipe', 'one', 'difference']);
export const LAYERS = /** @type {const} */ (['photo', 'classes', 'anomaly', 'truth']);
export const SIDES = /** @type {const} */ (['left', 'right']);
const SETTLED = 250; // milliseconds without a change until the address follows

export class State {
  constructor() {
    /** Null for what fits the window. @type {ViewName | null} */
    this.view = null;
    /** The model that the view "one" shows. @type {SideName} */
    this.one = 'left';
    /** @type {Record<LayerName, boolean>} */
    this.layers = { photo: false, classes: false, anomaly: true, truth: false };
    this.opacity = { classes: 0.55, anomaly: 0.85 };
    this.colours = 'inferno';
    /** @type {'score' | 'classes'} */
    this.difference = 'score';
    this.swipe = 0.5;
    /** In the score's units; null for the checkpoint's own. @type {Record<SideName, number | null>} */
    this.threshold = { left: null, right: null };
    /** Of the smallest region, as a share of the picture; null for the checkpoint's own. @type {number | null} */
    this.smallest = null;
    /** Sigma, as a share of the longer side; null for the checkpoint's own. @type {number | null} */
    this.smoothing = null;
    /** Names of classes that are not shown. @type {Set<string>} */
    this.hidden = new Set();
  }
}

/**
 * What a link asks for.
 * @typedef {object} Wish
 * @property {string} example
 * @property {boolean} models whether it names models or a score
 * @property {{zoom: number, x: number, y: number} | null} place
 * @property {{x: number, y: number} | null} pixel of the picture as it was uploaded
 * @property {boolean} own whether it was made on a visitor's own picture
 * @property {string[]} vain what it asks for and nobody knows
 */

/**
 * Read the address bar into the state.
 * @param {State} state
 * @param {{colormaps: object, scores: string[], examples: {name: string}[]}} known
 * @returns {Wish}
 */
export function readLink(state, known) {
  const asked = new URLSearchParams(location.search);
  /** @type {string[]} */
  const vain = [];
  /** @param {string} key @param {(value: string) => boolean} fits @param {(value: string) => void} take */
  const read = (key, fits, take) => {
    const value = asked.get(key);
    if (!value) return;
    if (fits(value)) take(value);
    else vain.push(`${key}=${value.slice(0, 60)}`);
  };
  /** @param {string} value */
  const finite = (value) => Number.isFinite(Number(value));
  /** @param {string} value */
  const share = (value) => Number(value) >= 0 && Number(value) <= 0.1;
  const numbers = (/** @type {string} */ value) => value.split(',').map(Number);
  let [example, place, pixel] = ['', /** @type {Wish['place']} */ (null), /** @type {Wish['pixel']} */ (null)];
  read('view', (v) => VIEWS.includes(/** @type {ViewName} */ (v)), (v) => { state.view = /** @type {ViewName} */ (v); });
  read('one', (v) => SIDES.includes(/** @type {SideName} */ (v)), (v) => { state.one = /** @type {SideName} */ (v); });
  read('colours', (v) => v in known.colormaps, (v) => { state.colours = v; });
  read('difference', (v) => ['score', 'classes'].includes(v), (v) => { state.difference = /** @type {'score'} */ (v); });
  read('tl', finite, (v) => { state.threshold.left = Number(v); });
  read('tr', finite, (v) => { state.threshold.right = Number(v); });
  read('smallest', share, (v) => { state.smallest = Number(v); });
  read('smoothing', share, (v) => { state.smoothing = Number(v); });
  read('swipe', share0to1, (v) => { state.swipe = Number(v); });
  read('layers', (v) => v.split(',').every((name) => name === 'none' || LAYERS.includes(/** @type {LayerName} */ (name))),
    (v) => { for (const name of LAYERS) state.layers[name] = v.split(',').includes(name); });
  read('hide', () => true, (v) => { state.hidden = new Set(v.split('|')); });
  read('at', (v) => numbers(v).length === 3 && numbers(v).every(Number.isFinite) && numbers(v)[0] >= 1,
    (v) => { const [zoom, x, y] = numbers(v); place = { zoom, x, y }; });
  read('pixel', (v) => numbers(v).length === 2 && numbers(v).every((n) => Number.isInteger(n) && n >= 0),
    (v) => { const [x, y] = numbers(v); pixel = { x, y }; });
  read('score', (v) => known.scores.includes(v), () => {});
  read('example', (v) => known.examples.some(({ name }) => name === v), (v) => { example = v; });
  const models = ['left', 'right', 'score'].some((key) => asked.get(key));
  return { example, models, place, pixel, own: asked.get('picture') === 'own', vain };
}

/** @param {string} value */
function share0to1(value) {
  return Number(value) >= 0 && Number(value) <= 1;
}

/**
 * The address of what is on screen; what is as it is at first is left out.
 * @param {State} state
 * @param {{example: string, left: string, right: string, score: string}} shown
 * @param {{zoom: number, x: number, y: number} | null} place
 * @param {{x: number, y: number} | null} pixel
 */
export function addressOf(state, shown, place, pixel) {
  const query = new URLSearchParams(location.search);
  /** @param {string} key @param {string | number | null | false} value */
  const set = (key, value) => {
    if (value === null || value === false || value === '') query.delete(key);
    else query.set(key, String(value));
  };
  const first = new State();
  const layers = LAYERS.filter((name) => state.layers[name]).join(',');
  set('example', shown.example);
  set('picture', !shown.example && 'own'); // which stays with its owner
  for (const key of /** @type {const} */ (['left', 'right', 'score'])) set(key, shown[key]);
  set('view', state.view);
  set('one', state.one !== first.one && state.one);
  set('layers', layers !== 'anomaly' && (layers || 'none'));
  set('colours', state.colours !== first.colours && state.colours);
  set('difference', state.difference !== first.difference && state.difference);
  set('swipe', state.swipe !== first.swipe && state.swipe.toFixed(3));
  set('tl', state.threshold.left);
  set('tr', state.threshold.right);
  set('smallest', state.smallest);
  set('smoothing', state.smoothing);
  set('hide', [...state.hidden].join('|'));
  set('at', shown.example && place && place.zoom > 1 && [place.zoom.toFixed(3), place.x.toFixed(1), place.y.toFixed(1)].join(','));
  set('pixel', shown.example && pixel && `${pixel.x},${pixel.y}`);
  return `${location.origin}${location.pathname}?${query}`;
}

/** Lets the address follow, a little after the last change: browsers refuse a hundred in a second. */
export function follower(/** @type {() => string} */ address) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = window.setTimeout(() => history.replaceState(history.state, '', address()), SETTLED);
  };
}
