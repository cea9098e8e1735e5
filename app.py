"""Start the app: ``python app.py``, then http://127.0.0.1:7860; ``--help`` lists what it reads."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from app.startup import Settings, StartError, settle

_NO_ANSWER = (
    "Listens on {host}:{port}, but the page does not answer from there within three seconds. "
    "Start it again when the machine is less busy."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; returns the exit status."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = settle(arguments)
    except StartError as error:
        print(error, file=sys.stderr)
        return 2
    for note in settings.notes:
        logging.getLogger("app").warning(note)
    return _serve(settings)


def _serve(settings: Settings) -> int:
    from app.services.processes import prepare

    prepare(["app.fork_origin"])  # first: it takes seconds beside what follows

    # Seconds of imports, of libraries that read what was settled.
    from starlette.middleware import Middleware

    from app.page import build_demo
    from app.services.catalog import Catalog
    from app.services.service import ProcessService
    from app.web.link_preview import LinkPreview
    from app.web.theme import CSS, theme

    for name in ("httpx", "fontTools"):  # each request, each font of a PDF
        logging.getLogger(name).setLevel(logging.WARNING)
    host, port = settings.host, settings.port
    demo = build_demo(service=ProcessService(catalog=Catalog.of_environment(host=host)))
    try:
        demo.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            root_path=settings.root_path,
            theme=theme(),
            css=CSS,
            app_kwargs={"middleware": [Middleware(LinkPreview, settings.root_path)]},
            footer_links=["api", "gradio"],
            share=False,
            show_error=False,
            ssr_mode=False,
            strict_cors=True,
            pwa=False,
            mcp_server=settings.mcp,
            run_history=False,
            enable_monitoring=False,
            max_file_size="64mb",
            state_session_capacity=200,
            prevent_thread_lock=True,
        )
    except ValueError as error:
        if "localhost is not accessible" not in str(error):
            raise
        # Gradio asks itself for the page and waits three seconds.
        print(_NO_ANSWER.format(host=host, port=port), file=sys.stderr)
        return 1
    except OSError as error:  # taken since it was tried
        print(f"Can't listen on {host}:{port}: {error}", file=sys.stderr)
        return 1
    demo.prepare()  # not before: it would slow down that answer
    demo.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
