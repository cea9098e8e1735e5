// @ts-check
// The slim bar: name, one sentence, and the chip that says what is compared and opens its choice.

import { h, translator } from '../viewer/dom.js';

/** @param {{element: HTMLElement, props: {strings: Record<string, string>}}} hands */
export function start({ element, props }) {
  const t = translator(props.strings);
  const text = h('span', {}, t('choose'));
  const chip = h('button', {
    type: 'button', class: 'bar-chip', 'aria-expanded': 'false', 'aria-controls': 'settings', 'aria-label': t('choose'),
  }, text);
  const sheet = () => /** @type {HTMLElement} */ (document.getElementById('settings'));
  /** @param {boolean} open */
  const show = (open) => {
    chip.setAttribute('aria-expanded', String(open));
    sheet().dataset.open = String(open);
  };
  const isOpen = () => chip.getAttribute('aria-expanded') === 'true';
  chip.addEventListener('click', () => show(!isOpen()));
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !isOpen()) return;
    show(false);
    chip.focus();
  });
  document.addEventListener('pointerdown', (event) => {
    const target = /** @type {Element} */ (event.target);
    // The choices of a picker hang at the end of the page.
    if (isOpen() && !target.closest('#settings, .bar-chip, ul.options')) show(false);
  });
  document.addEventListener('mask2kan:result', (event) => {
    const { sides } = /** @type {CustomEvent} */ (event).detail;
    /** @param {(title: string) => string} named */
    const chipOf = (named) => t('chip', { left: named(sides[0].title), right: named(sides[1].title), score: sides[0].score_title });
    const words = chipOf((title) => title);
    text.textContent = chipOf((title) => title.split(/[,(]/)[0].trim());
    chip.title = words;
    chip.setAttribute('aria-label', t('chip_spoken', { chip: words }));
  });
  element.querySelector('.bar')?.replaceChildren(h('h1', {}, t('name')), h('p', {}, t('tagline')), chip);
}
