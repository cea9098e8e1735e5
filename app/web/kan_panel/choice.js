// @ts-check
// Buttons of which one is pressed.

import { h } from '../viewer/dom.js';

/** @import { Translate } from './types.js' */

/**
 * A group of such buttons; `strings` has the group's name, and each key after it: `ranking_spline`.
 * @param {Translate} t
 * @param {string} name
 * @param {string[]} keys
 * @param {(key: string) => void} action
 * @returns {HTMLElement}
 */
export function choice(t, name, keys, action) {
  return h('div', { class: 'kan-group', role: 'group', 'aria-label': t(name) }, keys.map((key) =>
    h('button', {
      type: 'button', [`data-${name}`]: key, 'aria-pressed': 'false', onclick: () => action(key),
    }, t(`${name}_${key}`))));
}

/**
 * @param {HTMLElement} group
 * @param {string} name
 * @param {string} chosen
 */
export function press(group, name, chosen) {
  for (const button of group.querySelectorAll('button')) {
    button.setAttribute('aria-pressed', String(button.getAttribute(`data-${name}`) === chosen));
  }
}
