"""Make components of our own: ``gr.HTML`` with page, style and ES modules in a folder.

Gradio runs a string when a component appears; ours only imports ``main.js`` and calls ``start``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..strings import PAGE

_START = """
const { root = '', api_prefix = '/gradio_api' } = window.gradio_config ?? {};
props.files = root + api_prefix + '/file=';
import(props.files + encodeURI(props.folder) + '/main.js')
  .then((module) => module.start({ element, props, watch, server, trigger, upload }))
  .catch((error) => {
    element.textContent = props.broken.replace('{reason}', error.message);
    throw error;
  });
// events: %s
"""


def component(
    name: str,
    value: Any,
    *,
    elem_id: str,
    strings: dict[str, str],
    server_functions: Sequence[Callable[..., Any]] = (),
    events: Sequence[str] = (),
    **props: Any,
) -> gr.HTML:
    """Make the component of ``<name>/{<name>.html,<name>.css,main.js}`` beside this file.

    Args:
        name: of its folder, whose modules are served as they are.
        value: initial ``props.value``.
        elem_id: of the component.
        strings: its sentences, ``props.strings``.
        server_functions: what its code may call, as ``server.<name>(question)``.
        events: what it may ``trigger``; Gradio looks for their names in the string it runs.
        props: further values its code reads.
    """
    folder = Path(__file__).resolve().parent / name
    gr.set_static_paths([folder])
    return gr.HTML(
        value=value,
        html_template=(folder / f"{name}.html").read_text(encoding="utf-8"),
        css_template=(folder / f"{name}.css").read_text(encoding="utf-8"),
        js_on_load=_START % ", ".join(f"'{event}'" for event in events),
        server_functions=list(server_functions),
        apply_default_css=False,
        elem_id=elem_id,
        strings=strings,
        folder=folder.as_posix(),
        broken=PAGE["broken"],
        **props,
    )
