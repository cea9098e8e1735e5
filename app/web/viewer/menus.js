// @ts-check
// The menus at the end of the toolbar: adjustments, downloads, and a link to what is on screen.

import { h } from './dom.js';
import { SIDES } from './state.js';

/** @typedef {import('./viewer.js').Viewer} Viewer */

const DOWNLOADS = ['masks', 'page', 'overlays', 'score16', 'npz', 'regions'];
// Shares of the picture, and of its longer side, that the sliders offer.
const SMALLEST = [0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05];
const SMOOTHING = [0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.015, 0.02, 0.03];

/** @param {Viewer} viewer */
export function menus(viewer) {
  const { t } = viewer;
  const opened = [menu(t, 'adjust', adjustments(viewer)), menu(t, 'download', downloads(viewer))];
  document.addEventListener('pointerdown', (event) => {
    for (const one of opened) if (!one.contains(/** @type {Node} */ (event.target))) one.open = false;
  });
  return h('div', { class: 'm2k-menus' }, opened, h('button', {
    type: 'button', class: 'm2k-toggle', 'data-tool': 'copy_link', title: t('copy_link'),
    onclick: (/** @type {MouseEvent} */ event) => copyLink(viewer, /** @type {HTMLElement} */ (event.currentTarget)),
  }, t('link')));
}

/**
 * @param {import('./dom.js').Translate} t
 * @param {string} name
 * @param {Node[]} content
 */
function menu(t, name, content) {
  const sheet = h('div', { class: 'm2k-sheet' }, content);
  const summary = h('summary', {}, t(name));
  const root = h('details', { class: 'm2k-menu', 'data-menu': name }, summary, sheet);
  root.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    root.open = false;
    summary.focus();
  });
  return root;
}

/** @param {Viewer} viewer */
function adjustments(viewer) {
  const { t } = viewer;
  const exact = SIDES.map((side, i) => {
    const name = h('span', {});
    const field = h('input', {
      type: 'number', step: 'any', class: 'm2k-number', id: `threshold-${side}`,
      onchange: () => viewer.move(side, field.value === '' ? NaN : Number(field.value)),
    });
    return { field, name, root: h('label', {}, name, field), i, side };
  });
  const smallest = stepped(t, 'smallest', SMALLEST, (share) => viewer.set({ smallest: share }));
  const smoothing = stepped(t, 'smoothing', SMOOTHING, (share) => viewer.smooth(share));
  const opacity = /** @type {const} */ (['classes', 'anomaly']).map((name) => {
    const slider = h('input', {
      type: 'range', min: 0, max: 100, step: 5, id: 'opacity-' + name,
      oninput: () => viewer.set({ opacity: { ...viewer.state.opacity, [name]: Number(slider.value) / 100 } }),
    });
    return { slider, name, root: h('label', {}, h('span', {}, t('opacity_' + name)), slider) };
  });
  const choice = (/** @type {string} */ key, /** @type {string[]} */ options, /** @type {(name: any) => void} */ change) => {
    const select = h('select', { id: key, onchange: () => change(select.value) },
      options.map((name) => h('option', { value: name }, t(key + '_' + name))));
    return { select, root: h('label', {}, h('span', {}, t(key)), select) };
  };
  const colours = choice('colours', Object.keys(viewer.props.colormaps), (name) => viewer.set({ colours: name }));
  const difference = choice('difference', ['score', 'classes'], (name) => viewer.set({ difference: name }));
  /** Fields say what holds now; not the one somebody is typing in. */
  const write = () => {
    const { state, result, maps } = viewer;
    if (!result) return;
    for (const { field, name, i } of exact) {
      name.textContent = t('threshold_of', { model: viewer.names[i] });
      field.setAttribute('aria-label', t('threshold_exact', { model: maps[i].data.title }));
      if (document.activeElement !== field) field.value = String(Number(viewer.threshold(i).toPrecision(6)));
    }
    const [height, width] = result.size;
    smallest.write(state.smallest ?? result.smallest / (height * width));
    smoothing.write(maps[0].smoothing);
    for (const { slider, name } of opacity) slider.value = String(100 * state.opacity[name]);
    [colours.select.value, difference.select.value] = [state.colours, state.difference];
  };
  viewer.root.addEventListener('mask2kan:thresholds', write);
  return [
    h('h4', {}, t('adjust_found')), ...exact.map((one) => one.root), smallest.root, smoothing.root,
    h('h4', {}, t('adjust_drawn')), ...opacity.map((one) => one.root), colours.root, difference.root,
    h('button', { type: 'button', class: 'm2k-chip', 'data-tool': 'reset', onclick: () => viewer.reset() }, t('reset')),
  ];
}

/**
 * A slider over a list of shares.
 * @param {import('./dom.js').Translate} t
 * @param {string} name
 * @param {number[]} steps
 * @param {(share: number) => void} change
 */
function stepped(t, name, steps, change) {
  const text = h('span', { class: 'm2k-value' });
  const slider = h('input', {
    type: 'range', id: name, min: 0, max: steps.length - 1, step: 1,
    oninput: () => say(steps[Number(slider.value)]),
    onchange: () => change(steps[Number(slider.value)]),
  });
  const say = (/** @type {number} */ share) => {
    text.textContent = t(name + '_value', { share: Number((100 * share).toPrecision(2)) });
    slider.setAttribute('aria-valuetext', text.textContent);
  };
  const write = (/** @type {number} */ share) => {
    const nearest = steps.reduce((best, step, i) => (Math.abs(step - share) < Math.abs(steps[best] - share) ? i : best), 0);
    if (document.activeElement !== slider) slider.value = String(nearest);
    say(share);
  };
  return { write, root: h('label', {}, h('span', {}, t(name)), slider, text) };
}

/** @param {Viewer} viewer */
function downloads(viewer) {
  const { t } = viewer;
  /** @param {string} name @param {(button: HTMLElement) => Promise<void> | void} action */
  const item = (name, action) => h('button', {
    type: 'button', 'data-download': name,
    onclick: async (/** @type {MouseEvent} */ event) => {
      const button = /** @type {HTMLElement} */ (event.currentTarget);
      button.setAttribute('aria-busy', 'true');
      await action(button);
      button.removeAttribute('aria-busy');
      const sheet = button.closest('details');
      if (sheet) sheet.open = false;
    },
  }, h('b', {}, t('get_' + name)), h('small', {}, t(`get_${name}_about`)));
  return [
    item('everything', () => fetchFiles(viewer, 'everything')),
    item('view', () => saveView(viewer)),
    ...DOWNLOADS.map((name) => item(name, () => fetchFiles(viewer, name))),
  ];
}

/**
 * Have the server write files with these settings, and save them.
 * @param {Viewer} viewer
 * @param {string} kind
 */
async function fetchFiles(viewer, kind) {
  const { state, result } = viewer;
  if (!result) return;
  const answer = await viewer.ask('export_run', {
    kind, run: result.run, thresholds: { ...state.threshold }, smallest_region: state.smallest,
    smoothing: state.smoothing, colours: state.colours,
  });
  for (const file of answer?.files ?? []) save(viewer.fileUrl(file), file.name);
}

/** @param {Viewer} viewer @returns {Promise<void>} */
function saveView(viewer) {
  const stem = (viewer.result?.name ?? '').replace(/\.[^.]*$/, '') || 'picture';
  return new Promise((done) => {
    viewer.stage.picture().toBlob((blob) => {
      if (blob) save(URL.createObjectURL(blob), `${stem}_view.png`);
      done();
    });
  });
}

/** @param {string} url @param {string} name */
function save(url, name) {
  const link = h('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

/** @param {Viewer} viewer @param {HTMLElement} button */
async function copyLink(viewer, button) {
  const { t } = viewer;
  const link = viewer.link();
  viewer.root.dataset.link = link;
  if (!viewer.result?.example) viewer.notice(t('link_without_picture'));
  try {
    await navigator.clipboard.writeText(link);
    button.textContent = t('copied');
  } catch {
    window.prompt(t('copy_link'), link);
  }
  setTimeout(() => { button.textContent = t('link'); }, 2000);
}

