// The first visit's walkthrough: four small cards, each beside what it speaks of. It never covers
// the page, goes away for good with one click, and comes back with the "?" button.

import { h } from './dom.js';

const SEEN = 'mask2kan.tour';
const STEPS = [
  ['maps', '.m2k-panes'],
  ['threshold', '.m2k-cards'],
  ['pixel', '.m2k-panes'],
  ['more', '.m2k-toolbar'],
];

function seen() {
  try {
    return localStorage.getItem(SEEN) === 'yes';
  } catch {
    return true; // no storage: better no tour than one at every result
  }
}

export function tour(viewer, again = false) {
  const { body, t } = viewer;
  if (!again && seen()) return;
  body.querySelector('.m2k-tour')?.remove();
  const text = h('p', {});
  const count = h('small', {});
  const next = h('button', { type: 'button', class: 'm2k-chip', 'data-tour': 'next' });
  const card = h('aside', { class: 'm2k-tour', role: 'dialog', 'aria-label': t('tour') },
    text, h('footer', {}, count, h('button', {
      type: 'button', class: 'm2k-link', 'data-tour': 'skip', onclick: () => end(),
    }, t('tour_skip')), next));
  let step = 0;
  const light = () => body.querySelectorAll('.m2k-lit').forEach((node) => node.classList.remove('m2k-lit'));
  const end = () => {
    light();
    card.remove();
    try {
      localStorage.setItem(SEEN, 'yes');
    } catch { /* private windows */ }
  };
  const show = () => {
    const [name, target] = STEPS[step];
    light();
    body.querySelector(target)?.classList.add('m2k-lit');
    text.textContent = t('tour_' + name);
    count.textContent = `${step + 1} / ${STEPS.length}`;
    next.textContent = t(step + 1 < STEPS.length ? 'tour_next' : 'tour_end');
  };
  next.addEventListener('click', () => {
    step++;
    if (step < STEPS.length) show();
    else end();
  });
  card.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') end();
  });
  show();
  body.append(card);
}
