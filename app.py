"""Start the app: ``python app.py``, then http://127.0.0.1:7860; ``--help`` lists what it reads."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from app.logs import write_log
from app.startup import Settings, StartError, settle
from app.work.limits import Limits, limits_of_environment
from mask2kan.errors import ConfigError

_NO_ANSWER = (
    "Listens on {host}:{port}, but the page does not answer from there within three seconds. "
    "Start it again when the machine is less busy."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; returns the exit status."""
    try:
        settings, limits = settle(arguments), limits_of_environment()
    except (ConfigError, StartError) as error:
        print(error, file=sys.stderr)
        return 2
    write_log(settings.log)
    for note in settings.notes:
        logging.getLogger("app").warning(note)
    return _serve(settings, limits)


def _serve(settings: Settings, limits: Limits) -> int:
    from app.work.processes import prepare

    prepare(["app.fork_origin"])  # first: it takes seconds beside what follows

    # Seconds of imports, of libraries that read what was settled.
    from app.page import build_demo
    from app.services.catalog import Catalog
    from app.services.service import ModelService, ProcessService
    from app.serving.server import launch, serve

    host, port = settings.host, settings.port
    # ZeroGPU starts by replacing launch(), and has processes of its own for what uses a GPU.
    zero_gpu = bool(os.environ.get("SPACES_ZERO_GPU"))
    kind = ModelService if zero_gpu else ProcessService
    demo = build_demo(service=kind(catalog=Catalog.of_environment(host=host), limits=limits))
    try:
        (launch if zero_gpu else serve)(demo, settings)
    except ValueError as error:
        if "localhost is not accessible" not in str(error):
            raise
        # Gradio's launch() asks itself for the page and waits three seconds.
        print(_NO_ANSWER.format(host=host, port=port), file=sys.stderr)
        return 1
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:  # taken since it was tried
        print(f"Can't listen on {host}:{port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
