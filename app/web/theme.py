"""Colours and type of the page: quiet, system fonts, nothing loaded from outside."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def theme() -> gr.themes.Base:
    """Make the theme for ``launch``."""
    base = gr.themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", font=_FONT, font_mono=_MONO
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
