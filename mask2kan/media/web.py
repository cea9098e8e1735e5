"""Images behind addresses, for people who call the library or the command line.

The app never comes here: a server that opens addresses for visitors opens its own network.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import TypeGuard

from mask2kan.errors import ImageError, one_line
from mask2kan.media.images import MAX_FILE_BYTES

_SCHEMES = ("http://", "https://")
_SECONDS = 30.0  # without any answer
_AGENT = "mask2kan"  # some servers refuse callers without a name


def is_url(source: object) -> TypeGuard[str]:
    """Whether a source of an image is an http or https address."""
    return isinstance(source, str) and source.lower().startswith(_SCHEMES)


def fetch(url: str) -> bytes:
    """Download a file, through the environment's proxy if it names one.

    Raises:
        ImageError: when nobody answers, the server refuses, or the file is too large.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": _AGENT})
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            content: bytes = answer.read(MAX_FILE_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise ImageError(
            f"Can't download {url}: the server answers {error.code} {error.reason}. Check the "
            "address, or download the image and give its path."
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = one_line(getattr(error, "reason", None) or error)
        raise ImageError(
            f"Can't download {url}: {reason}. Check the address and the network, or give the path "
            "of a file."
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise ImageError(
            f"Can't use {url}: it is larger than {MAX_FILE_BYTES / 1e6:.0f} MB, the most an image "
            "file may have."
        )
    return content
