/* What was chosen on Compare, in place of the event's last input; null without that page's viewer. */
(/** @type {unknown[]} */ ...inputs) => [...inputs.slice(0, -1), window.mask2kan?.settings() ?? null]
