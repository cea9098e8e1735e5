// @ts-check
// Small words for building the page: elements, numbers as people read them, sentences.

/** @typedef {(key: string, values?: Record<string, unknown>) => string} Translate */

/**
 * An element with attributes, properties starting with "on" as listeners, and children.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Node | string | null | undefined | (Node | string | null | undefined)[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  for (const child of children.flat()) if (child != null) node.append(child);
  return node;
}

/**
 * An SVG element, with words in it.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number>} attributes
 * @param {string} [words]
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(tag, attributes, words = '') {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.textContent = words;
  return node;
}

/**
 * Sentences from the server's dictionary: t('regions', {n: 3}) fills in "{n}".
 * @param {Record<string, string>} strings
 * @returns {Translate}
 */
export function translator(strings) {
  return (key, values = {}) => {
    if (!(key in strings)) throw new Error('no sentence called ' + key);
    return strings[key].replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ''));
  };
}

/** @param {number} value */
export function number(value) {
  if (!Number.isFinite(value)) return '–';
  return (Math.abs(value) < 10 ? value.toFixed(3) : value.toFixed(2)).replace('-', '\u2212');
}

/** @param {number} share */
export function percent(share) {
  const value = 100 * share;
  if (!Number.isFinite(value)) return '–';
  if (value === 0) return '0 %';
  if (value < 0.05) return '< 0.1 %';
  return value.toFixed(value < 10 ? 1 : 0) + ' %';
}

/**
 * A share that may be very small: two digits, without a bound below.
 * @param {number} share
 */
export function fine(share) {
  return Number((100 * share).toPrecision(2)) + ' %';
}

/**
 * @param {ArrayLike<number>} colour
 * @param {number} [alpha]
 */
export function css(colour, alpha = 1) {
  return `rgb(${colour[0]} ${colour[1]} ${colour[2]} / ${alpha})`;
}

/**
 * Calls at most once per frame.
 * @param {() => void} callback
 */
export function perFrame(callback) {
  let pending = 0;
  return () => {
    pending ||= requestAnimationFrame(() => {
      pending = 0;
      callback();
    });
  };
}
