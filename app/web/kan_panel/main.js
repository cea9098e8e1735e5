// @ts-check
// Inside the KAN: the learned function on every edge of `mask_embed`, and what it does to the
// queries of the picture in Compare. The panel fills by itself when it comes on screen.

import { Asking } from './asking.js';
import { Panel } from './panel.js';

/** @import { Props, Server } from './types.js' */

/**
 * @param {object} gradio
 * @param {HTMLElement} gradio.element
 * @param {Props} gradio.props
 * @param {(name: string, callback: () => void) => void} gradio.watch
 * @param {Server} gradio.server
 * @param {(event: string, data: object) => void} gradio.trigger
 */
export function start({ element, props, watch, server, trigger }) {
  const root = /** @type {HTMLElement} */ (element.querySelector('.kan'));
  const panel = new Panel(root, props, server);
  let { model } = props;
  const asking = new Asking({
    visible: () => root.getClientRects().length > 0,
    wish: () => ({ run: currentRun(), model }),
    ask: (question) => trigger('kan_asked', question),
    waiting: () => panel.waiting(),
    show: (payload) => panel.load(payload),
    refuse: (reason) => panel.refuse(reason),
  });
  panel.onretry = () => asking.retry();
  watch('value', () => asking.answered(props.value));
  document.addEventListener('mask2kan:result', () => asking.refresh());
  document.addEventListener('mask2kan:kan-failed', () => asking.failed(props.strings.not_asked));
  document.addEventListener('mask2kan:kan-model', (event) => {
    model = /** @type {CustomEvent<{ model: string | null }>} */ (event).detail.model ?? '';
    asking.refresh();
  });
  // A tab that is chosen gives its content a size.
  new ResizeObserver(() => asking.refresh()).observe(root);
}

/** @returns {string | null} The number of the comparison on screen. */
function currentRun() {
  const page = /** @type {{ mask2kan?: { current?: () => { run: string | null } } }} */ (
    /** @type {unknown} */ (window));
  return page.mask2kan?.current?.().run ?? null;
}
