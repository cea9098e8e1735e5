"""``build_demo()``: the page's layout and what is connected to what. No computing happens here."""

from __future__ import annotations

import os
from collections.abc import Sequence

import gradio as gr

from app import viewer
from app.handlers import Handlers, spoken
from app.samples import sample_pictures
from app.service import ModelService
from mask2kan.anomaly import SCORES
from mask2kan.checkpoints import list_weights

INDOOR = "facebook/mask2former-swin-tiny-ade-semantic"

_ROAD_PAIR = "Road pair (bundled)"
_INDOOR_PAIR = "Indoor (needs the network)"
_PRESET_NOTE = (
    f"The bundled pair knows roads and nothing else. Indoor puts `{INDOOR}` (ADE20K, from the "
    "Hugging Face Hub) on the left."
)
_MODEL_NOTE = "Or type a checkpoint's path or a Hub repository id."
_NO_MODELS = (
    "No bundled models were found in weights/.\n"
    "Type a checkpoint's path or a Hub repository id into both model fields."
)
_INTRO = (
    "# Mask2KAN\n"
    "What a mask-classification model with a Kolmogorov–Arnold head and its twin with a plain MLP "
    "head make of the same road picture, and where each says *I have not seen this before*."
)
_SMALL_PRINT = (
    "A research demonstration, not a safety device. Pictures stay on the machine that runs this "
    "page. The bundled models were trained on CamVid (CC BY-NC): not for commercial use."
)

# Runs in the browser: marks the old result as outdated before the request leaves.
_BUSY = "(...a) => { window.mask2kan?.busy(Boolean(a[0])); return a; }"
_FAILED = "() => { window.mask2kan?.failed(); }"
_MOVE = "(t) => { window.mask2kan?.threshold('%s', t); }"
_MOVE_BOTH = "(t) => { window.mask2kan?.threshold('both', t); return [t, t]; }"


def offered_models(models: Sequence[str] | None = None) -> list[str]:
    """What the pickers list: ``models``, else ``MASK2KAN_MODELS``, else the bundled ones.

    The first is the left default, the second the right one. ``MASK2KAN_MODELS`` holds names or
    paths separated like ``PATH``.
    """
    if models is None:
        named = os.environ.get("MASK2KAN_MODELS", "")
        models = [name for name in named.split(os.pathsep) if name] or _bundled()
    return list(models)


def build_demo(
    models: Sequence[str] | None = None, service: ModelService | None = None
) -> gr.Blocks:
    """The whole page.

    Args:
        models: see ``offered_models``.
        service: who runs the models; a new one when not given.
    """
    names = offered_models(models)
    handlers = Handlers(service or ModelService())
    demo = gr.Blocks(
        title="Mask2KAN", analytics_enabled=False, delete_cache=(1800, 3600), fill_width=True
    )
    with demo:
        gr.Markdown(_INTRO, elem_id="title")
        with gr.Row():
            with gr.Column(scale=1, min_width=330, elem_id="inputs"):
                with gr.Column():
                    picture = _picture("picture", "Picture")
                    _examples(picture)
                with gr.Column():
                    preset = gr.Radio(
                        [_ROAD_PAIR, _INDOOR_PAIR],
                        value=_ROAD_PAIR,
                        label="Preset",
                        info=_PRESET_NOTE,
                        elem_id="preset",
                    )
                    left = _model_picker("left", "Left model", names, 0)
                    right = _model_picker("right", "Right model", names, 1)
                    score = _score_picker("score")
                    button = gr.Button("Compare", variant="primary", elem_id="compare")
            with gr.Column(scale=3, min_width=600, elem_id="outputs"):
                with gr.Row(elem_id="thresholds"):
                    both = _slider("threshold-both", "Threshold, both")
                    left_at = _slider("threshold-left", "Threshold, left")
                    right_at = _slider("threshold-right", "Threshold, right")
                result = viewer.viewer(None if names else {"message": _NO_MODELS})
        gr.Markdown(_SMALL_PRINT, elem_id="small-print")

        looking = gr.on(
            [picture.change, score.input, button.click],
            spoken(handlers.look),
            inputs=[picture, left, right, score],
            outputs=[result, both, left_at, right_at],
            js=_BUSY,
            preprocess=False,
            show_progress="hidden",
            trigger_mode="always_last",
            concurrency_id="models",
            concurrency_limit=1,
            api_visibility="private",
        )
        looking.failure(fn=None, js=_FAILED)
        preset.input(
            lambda chosen: _pair(chosen, names),
            preset,
            [left, right],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        left_at.input(fn=None, inputs=left_at, js=_MOVE % "left")
        right_at.input(fn=None, inputs=right_at, js=_MOVE % "right")
        both.input(fn=None, inputs=both, outputs=[left_at, right_at], js=_MOVE_BOTH)
        _endpoints(handlers, names)
    return demo


def _bundled() -> list[str]:
    """Bundled models, the KAN of the pair first."""
    return sorted(list_weights(bundled_only=True), key=lambda name: "kan" not in name)


def _pair(preset: str, names: Sequence[str]) -> tuple[str | None, str | None]:
    if preset == _INDOOR_PAIR:
        return INDOOR, _nth(names, 0)
    return _nth(names, 0), _nth(names, 1)


def _nth(names: Sequence[str], index: int) -> str | None:
    return names[min(index, len(names) - 1)] if names else None


def _picture(elem_id: str, label: str, *, visible: bool = True) -> gr.Image:
    return gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        sources=["upload", "webcam", "clipboard"],
        webcam_options=gr.WebcamOptions(
            mirror=False, constraints={"video": {"facingMode": "environment"}}
        ),
        buttons=["fullscreen"],
        height=260,
        elem_id=elem_id,
        visible=visible,
    )


def _examples(picture: gr.Image) -> None:
    paths = sample_pictures()
    if paths:
        gr.Examples(
            [[str(path)] for path in paths],
            picture,
            label="Examples: one click is enough",
            elem_id="examples",
            cache_examples=False,
            api_visibility="private",
        )


def _model_picker(
    elem_id: str, label: str, names: Sequence[str], index: int, *, visible: bool = True
) -> gr.Dropdown:
    return gr.Dropdown(
        choices=[(viewer.title(name), name) for name in [*names, INDOOR]],
        value=_nth(names, index),
        label=label,
        info=_MODEL_NOTE,
        allow_custom_value=True,
        elem_id=elem_id,
        visible=visible,
    )


def _score_picker(elem_id: str, *, visible: bool = True) -> gr.Dropdown:
    return gr.Dropdown(
        choices=[(viewer.SCORE_TITLES[name], name) for name in SCORES],
        value=SCORES[0],
        label="Anomaly score",
        elem_id=elem_id,
        visible=visible,
    )


def _slider(elem_id: str, label: str) -> gr.Slider:
    return gr.Slider(
        0.0,
        1.0,
        value=0.5,
        step=0.005,
        label=label,
        info="0–1: colour range",
        buttons=[],
        elem_id=elem_id,
        interactive=True,
        min_width=190,
    )


def _endpoints(handlers: Handlers, names: Sequence[str]) -> None:
    """The named API. Its components are never shown: they carry types and defaults."""
    with gr.Column(visible=False):
        image = _picture("api-image", "image")
        left = _model_picker("api-left", "left", names, 0)
        right = _model_picker("api-right", "right", names, 1)
        score = _score_picker("api-score")
        summary = gr.JSON(label="summary")
        files = gr.File(label="files", file_count="multiple")
        trigger = gr.Button()
    for name, function, models in (
        ("compare", handlers.compare, [left, right]),
        ("segment", handlers.segment, [left]),
    ):
        trigger.click(
            spoken(function),
            inputs=[image, *models, score],
            outputs=[summary, files],
            api_name=name,
            preprocess=False,
            concurrency_id="models",
            concurrency_limit=1,
        )
