"""Make components of our own: ``gr.HTML`` with page, style and ES modules in a folder.

Gradio runs a string when a component appears; ours only imports ``main.js`` and calls ``start``.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.data_classes import FileData
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from numpy.typing import NDArray

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


def served(content: bytes, name: str) -> dict[str, Any]:
    """Cache a file for a component's value; Gradio adds the address to fetch it from."""
    path = save_bytes_to_cache(content, name, get_upload_folder())
    return FileData(path=path, orig_name=name).model_dump()


def packed_codes(codes: NDArray[np.uint16], name: str) -> dict[str, Any]:
    """Cache 16-bit codes (H, W) as such a file, a quarter of the size of ``packed``.

    Smooth maps differ little from what their upper and left neighbours foretell. Those differences,
    wrapping at 65536 and with the sign in the lowest bit, are stored as all low bytes, then all
    high ones; ``maps.js`` adds them up again.
    """
    rest = codes.copy()
    rest[:, 1:] -= codes[:, :-1]
    rest[1:] -= rest[:-1].copy()
    signed = rest.view(np.int16)
    folded = ((signed << 1) ^ (signed >> 15)).view(np.uint16)
    return packed(np.stack([folded & 0xFF, folded >> 8]).astype(np.uint8), name)


def packed(array: NDArray[Any], name: str) -> dict[str, Any]:
    """Cache an array as such a file: gzipped, little-endian, row by row."""
    ordered = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    # The fastest level: a visitor waits for it, and the finest bits of scores hardly compress.
    return served(gzip.compress(ordered.tobytes(), 1, mtime=0), name)
