// @ts-check
// Where the page hands over: Gradio calls `start` once, with its hands on the component.

import { Viewer } from './viewer.js';

/**
 * @param {object} hands
 * @param {HTMLElement} hands.element
 * @param {import('./viewer.js').Props} hands.props
 * @param {(name: string, changed: () => void) => void} hands.watch
 * @param {import('./viewer.js').Server} hands.server
 * @param {(event: string, data: object) => void} hands.trigger
 * @param {(file: File) => Promise<{path: string}>} hands.upload
 */
export function start({ element, props, watch, server, trigger, upload }) {
  const viewer = new Viewer(element, props, server, trigger, upload);
  const { session } = viewer;
  watch('value', () => session.load(props.value));
  session.load(props.value);
  session.begin();
  // What the rest of the page, and its tests, may ask for.
  Object.assign(window, {
    mask2kan: {
      lookAgain: () => session.lookAgain(),
      failed: () => session.failed(),
      pickers: () => session.pickers(),
      reset: () => viewer.reset(),
      link: () => viewer.link(),
      timings: viewer.timings,
      /** Where its modules are served, for the rest of the page and tests of one alone. */
      files: new URL('.', import.meta.url).href,
      /** The result on the stage: the number that the server knows it by, and its picture's name. */
      current: () => ({ run: viewer.result?.run ?? null, name: viewer.result?.name ?? '' }),
      /** What was chosen here, for whoever computes with it; null is the checkpoint's own. */
      settings: () => ({
        ...viewer.state.threshold, smallest_region: viewer.state.smallest, smoothing: viewer.state.smoothing,
        score: viewer.maps[0]?.data.score ?? null, models: viewer.maps.map((maps) => maps.data.source),
      }),
      /** Where a pixel of the maps is on the screen, in the n-th pane. */
      locate: (/** @type {number} */ x, /** @type {number} */ y, pane = 0) => {
        const { surface } = viewer.stage.shown[pane].pane;
        const box = surface.getBoundingClientRect();
        const { left, top } = viewer.stage.shown[pane].pane.place({ x, y });
        return { x: box.left + left, y: box.top + top };
      },
    },
  });
}
