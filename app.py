"""Start the app: ``python app.py``, then http://127.0.0.1:7860.

``GRADIO_SERVER_NAME`` and ``GRADIO_SERVER_PORT``: where it listens; ``MASK2KAN_MODELS``: names or
paths for the pickers, separated like ``PATH``; ``MASK2KAN_PUBLIC``: visitors may type no paths of
checkpoints, as on every address but loopback; ``GRADIO_MCP_SERVER=true``: endpoints as MCP tools.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys

from starlette.middleware import Middleware

from app.page import build_demo
from app.services.models import ModelService
from app.web.link_preview import LinkPreview
from app.web.theme import CSS, theme
from mask2kan.runtime.memory import keep_freed_memory

_NO_MCP = (
    "GRADIO_MCP_SERVER is set, but the package mcp is not installed. "
    'Install it (pip install "mcp>=1.21,<2"), or unset the variable.'
)

_NO_ANSWER = (
    "Listens on {host}:{port}, but the page does not answer from there within three seconds. "
    "Start it again when the machine is less busy; where a proxy is set, NO_PROXY must name it."
)
_LAST_PORT = 65_535

service = ModelService()
demo = build_demo(service=service)


def main() -> int:
    """Serve until interrupted."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    keep_freed_memory()
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    mcp = os.environ.get("GRADIO_MCP_SERVER", "").lower() in {"1", "true"}
    if mcp and importlib.util.find_spec("mcp") is None:
        print(_NO_MCP, file=sys.stderr)
        return 2
    if not port.isdecimal() or int(port) > _LAST_PORT:
        print(f"GRADIO_SERVER_PORT is {port!r}; it must be a port number.", file=sys.stderr)
        return 2
    try:
        demo.launch(
            server_name=host,
            server_port=int(port),
            theme=theme(),
            css=CSS,
            app_kwargs={
                "middleware": [Middleware(LinkPreview, os.environ.get("GRADIO_ROOT_PATH"))]
            },
            footer_links=["api", "gradio"],
            share=False,
            show_error=False,
            ssr_mode=False,
            strict_cors=True,
            pwa=False,
            mcp_server=mcp,
            run_history=False,
            enable_monitoring=False,
            max_file_size="64mb",
            state_session_capacity=200,
            prevent_thread_lock=True,
        )
    except ValueError:  # Gradio asks itself for the page and waits three seconds
        print(_NO_ANSWER.format(host=host, port=port), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Cannot listen on {host}:{port}: {error}", file=sys.stderr)
        return 1
    demo.prepare()  # not before: it would slow down that answer
    demo.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
