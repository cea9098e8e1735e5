"""Keep results where Gradio serves them from, and the page can ask for them.

Without Gradio itself, which the processes that compute do without.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from mask2kan.media.files import write_bytes

# Addresses must not be guessed from what a file holds.
_KEY = secrets.token_bytes(32)


def upload_folder() -> Path:
    """Return the folder of uploads and results, as Gradio's ``get_upload_folder`` does."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir(), "gradio"))


def keep(content: bytes, name: str) -> Path:
    """Keep a file's content under a name; equal ones are kept once."""
    folder = upload_folder().resolve() / hmac.new(_KEY, content, "sha256").hexdigest()
    path = folder / Path(name).name
    with contextlib.suppress(OSError):
        os.utime(path)  # it is as young as its latest use
        return path
    return write_bytes(path, content)


def keep_file(path: Path) -> Path:
    """Keep a copy of a file, under its name."""
    return keep(path.read_bytes(), path.name)


def served(content: bytes, name: str) -> dict[str, Any]:
    """Keep a file for a component's value; Gradio adds the address to fetch it from."""
    meta = {"_type": "gradio.FileData"}
    return {"path": str(keep(content, name)), "orig_name": name, "meta": meta}
