"""Colours and type of the page: quiet, system fonts, nothing loaded from outside."""

from __future__ import annotations

import gradio as gr

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = """
/* The two models, and what is anomalous; components of ours take these up. */
:root { --side-left: #0f766e; --side-right: #b45309; --anomaly: #c2185b; }
.dark { --side-left: #2dd4bf; --side-right: #fb923c; --anomaly: #ff6fb0; }
.gradio-container { width: 100%; max-width: 2400px !important; margin: 0 auto !important; }
#title h1 { font-size: 26px; margin: 4px 0 2px; letter-spacing: -0.01em; }
#title p { color: var(--body-text-color-subdued); margin: 0; max-width: 78ch; }
#models { gap: 14px !important; }
#models > .form { display: grid !important; grid-template-columns: repeat(4, minmax(0, 1fr)); }
@media (max-width: 1020px) {
  #models > .form { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media (max-width: 480px) {
  #tabs > .tab-wrapper button { padding-left: 9px; padding-right: 9px; }
  #models > .form { grid-template-columns: minmax(0, 1fr); }
}
#small-print p { color: var(--body-text-color-subdued); font-size: 13px; }
:is(#viewer, #examples, #kan-panel) > .html-container { padding: 0 !important; }
footer .divider:not(:has(~ button, ~ a)) { display: none; }
/* Beside each other only where both columns have room; the inputs then stand in two columns. */
@media (max-width: 1020px) {
  #inputs, #outputs { flex-basis: 100% !important; }
}
@media (min-width: 640px) and (max-width: 1020px) {
  #inputs { display: grid !important; grid-template-columns: 1fr 1fr; align-items: start; }
}
@media (max-width: 640px) {
  #outputs { min-width: 0 !important; }
}
"""


def theme() -> gr.themes.Base:
    """The theme ``launch`` gets."""
    base = gr.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=_FONT,
        font_mono=_MONO,
    )
    # The stock greys and the stock button fall short of a contrast of 4.5 to 1.
    return base.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        slider_color="*primary_600",
        color_accent="*primary_600",
    )
