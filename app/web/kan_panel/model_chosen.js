// Gradio runs this when another model is picked above the panel.
(/** @type {string | null} */ model) => {
  document.dispatchEvent(new CustomEvent('mask2kan:kan-model', { detail: { model } }));
}
