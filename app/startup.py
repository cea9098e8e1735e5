"""Settle what the app is started with, before the seconds that importing its libraries takes.

Where it listens, where uploads are kept, and which proxies its HTTP clients use. Gradio and its
clients read the environment when they are imported, so what is settled is written there. Imports
the standard library alone, and httpx where there is a proxy.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import os
import socket
import ssl
import stat
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

_LAST_PORT = 65_535
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EPILOG = """environment:
  GRADIO_SERVER_NAME, GRADIO_SERVER_PORT   as --host and --port
  GRADIO_ROOT_PATH                         path under which a reverse proxy serves the app
  GRADIO_TEMP_DIR                          folder for uploads and results
  GRADIO_MCP_SERVER=true                   endpoints as MCP tools, too
  MASK2KAN_MODELS                          names or paths for the pickers, separated like PATH
  MASK2KAN_PUBLIC=1                        visitors may type no paths of checkpoints, as on every
                                           address but loopback
"""
_NO_MCP = (
    "GRADIO_MCP_SERVER is set, but the package mcp is not installed. "
    'Install it (pip install "mcp>=1.21,<2"), or unset the variable.'
)


class StartError(Exception):
    """One sentence: why the app cannot start, and what to do."""


class Settings(NamedTuple):
    """What the app is started with.

    Attributes:
        host: name or address it listens on; of IPv6 without brackets.
        port: 1 to 65535.
        root_path: where a reverse proxy serves it; empty for nowhere else.
        mcp: whether the endpoints are MCP tools, too.
        notes: sentences for the log.
    """

    host: str
    port: int
    root_path: str
    mcp: bool
    notes: tuple[str, ...]


def settle(arguments: Sequence[str] | None = None) -> Settings:
    """Check what the app is started with, and write it where its libraries read it.

    Args:
        arguments: None for the process's.

    Raises:
        StartError: where it cannot start like that.
    """
    options = _parser().parse_args(arguments)
    host, port = str(options.host).strip("[]"), _port(options.port)
    mcp = os.environ.get("GRADIO_MCP_SERVER", "").lower() in {"1", "true"}
    if mcp and importlib.util.find_spec("mcp") is None:
        raise StartError(_NO_MCP)
    root_path = _root_path()
    _require_certificates()
    _require_free(host, port)
    os.environ["GRADIO_TEMP_DIR"] = str(_upload_folder())
    os.environ["GRADIO_SERVER_PORT"] = str(port)
    # Gradio tries the port on this name first, by IPv4 alone.
    os.environ["GRADIO_SERVER_NAME"] = _LOOPBACK[1] if ":" in host else host
    notes = _set_unusable_proxies_aside()
    _bypass_proxies(host)
    return Settings(host, port, root_path, mcp, tuple(notes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description="Start the app, and open it in a browser: http://127.0.0.1:7860.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--host",
        default=os.environ.get("GRADIO_SERVER_NAME") or _LOOPBACK[1],
        help="name or address it listens on; 0.0.0.0 for every network (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        default=os.environ.get("GRADIO_SERVER_PORT") or "7860",
        help="port it listens on (default: %(default)s)",
    )
    return parser


def _port(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= _LAST_PORT:
        return int(text)
    raise StartError(
        f"The port is {text!r}; it must be a number from 1 to {_LAST_PORT}: "
        "see --port or GRADIO_SERVER_PORT."
    )


def _root_path() -> str:
    """Return the path a reverse proxy serves the app under, as Gradio compares it."""
    path = os.environ.get("GRADIO_ROOT_PATH", "").rstrip("/")
    if path and not path.startswith(("/", "http://", "https://")):
        raise StartError(
            f"GRADIO_ROOT_PATH is {path!r}; it must be a path such as /mask2kan, or a whole URL."
        )
    return path


def _require_free(host: str, port: int) -> None:
    """Bind the address for a moment: Gradio says the same of every reason why that fails."""
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise _unbindable(host, error) from error
    for family, kind, protocol, _, address in places:
        try:
            probe = socket.socket(family, kind, protocol)
        except OSError:  # a machine without IPv6 may have names for it; the server skips them, too
            continue
        with probe:
            if os.name == "posix":  # else the last server's closed connections hold the port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    what = "in use" if error.errno == errno.EADDRINUSE else "not yours to take"
                    raise StartError(
                        f"Port {port} on {host} is {what}: choose another with --port or "
                        "GRADIO_SERVER_PORT."
                    ) from error
                raise _unbindable(host, error) from error


def _unbindable(host: str, error: Exception) -> StartError:
    reason = getattr(error, "strerror", None) or str(error)
    return StartError(
        f"Can't listen on {host!r} ({reason}): give an address of this machine with --host or "
        "GRADIO_SERVER_NAME, such as 127.0.0.1, or 0.0.0.0 for every network."
    )


def _upload_folder() -> Path:
    """Make the folder that uploads and results are kept in; each user of a machine has their own.

    Gradio's own is one for all, which belongs to whoever started it first.
    """
    named = os.environ.get("GRADIO_TEMP_DIR")
    folder = Path(named or "")
    try:
        if not named:
            whose = f"_{os.getuid()}" if hasattr(os, "getuid") else ""
            folder = Path(tempfile.gettempdir()) / f"mask2kan_uploads{whose}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not named and whose:
            _require_own(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        where = f"in {str(folder)!r} " if folder.name else ""
        raise StartError(
            f"Can't keep uploads {where}({error.strerror or error}): set GRADIO_TEMP_DIR to a "
            "folder that you may write to."
        ) from error
    return folder.resolve()


def _require_own(folder: Path) -> None:
    """Refuse what others have put under the name: they could read and change uploads."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to somebody else")


def _require_certificates() -> None:
    """Read the certificates that HTTP clients trust, as they do when they are imported."""
    path = os.environ.get("SSL_CERT_FILE")
    if not path:
        return
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # SSLError is one
        reason = "no certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise StartError(
            f"SSL_CERT_FILE is {path!r}, which can't be used ({reason}): set it to a file of "
            "certificates in PEM format, or unset it."
        ) from error


def _set_unusable_proxies_aside() -> list[str]:
    """Take out proxies that httpx cannot use, such as SOCKS without its package: say which.

    With one of them it makes no client at all, not even for addresses past every proxy. What such a
    proxy should have carried is not sent without it: the Hub counts as unreachable then.
    """
    proxies = _proxies()
    unusable = {scheme: why for scheme, url in proxies.items() if (why := _why_unusable(url))}
    for scheme in unusable:
        for name in [name for name in os.environ if name.lower() == f"{scheme}_proxy"]:
            del os.environ[name]
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").scheme
    carrier = next((scheme for scheme in (hub, "all") if scheme in proxies), None)
    if carrier in unusable:
        os.environ["HF_HUB_OFFLINE"] = "1"
    rest = " The Hub counts as unreachable." if carrier in unusable else ""
    return [
        f"{scheme.upper()}_PROXY can't be used: {why}.{rest}" for scheme, why in unusable.items()
    ]


def _proxies() -> dict[str, str]:
    """Return proxies by scheme, as httpx does: of the environment, else of the system."""
    found = urllib.request.getproxies()
    return {scheme: found[scheme] for scheme in ("http", "https", "all") if found.get(scheme)}


def _why_unusable(url: str) -> str:
    """Return why httpx refuses a proxy; empty where it does not."""
    import httpx  # takes a moment that most starts can do without

    try:
        proxy = httpx.Proxy(url if "://" in url else f"http://{url}")
        httpx.HTTPTransport(proxy=proxy).close()
    except ImportError:
        return "it is a SOCKS proxy; pip install socksio, or unset it"
    except (ValueError, httpx.InvalidURL) as error:
        return str(error)
    return ""


def _bypass_proxies(host: str) -> None:
    """Let this machine be asked without a proxy: Gradio calls the page once to see it answer."""
    proxies = _proxies()
    if not proxies:
        return
    listed = urllib.request.getproxies().get("no", "")
    names = dict.fromkeys(filter(None, (*map(str.strip, listed.split(",")), *_LOOPBACK, host)))
    for scheme, url in proxies.items():  # beside NO_PROXY, a system's own would not be looked at
        os.environ[f"{scheme}_proxy"] = url
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(names)
