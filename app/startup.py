"""Settle what the app is started with, before the seconds that importing its libraries takes.

Where it listens, where uploads are kept, and which proxies its HTTP clients use. Gradio and its
clients read the environment when they are imported, so what is settled is written there. Imports
the standard library alone, and httpx where there is a proxy.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
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
from urllib.parse import urlsplit

_LAST_PORT = 65_535
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LOGS = ("plain", "json")
_EPILOG = """environment:
  GRADIO_SERVER_NAME, GRADIO_SERVER_PORT   as --host and --port
  GRADIO_ROOT_PATH                         path under which a reverse proxy serves the app
  GRADIO_TEMP_DIR                          folder for uploads and results
  GRADIO_MCP_SERVER=true                   endpoints as MCP tools, too
  MASK2KAN_MODELS                          names or paths for the pickers, separated like PATH
  MASK2KAN_PUBLIC=1                        the world comes here: tighter limits, and nobody may type
                                           paths of checkpoints, as on every address but loopback
  MASK2KAN_JOB_SECONDS                     how long a model may take for a picture
  MASK2KAN_DECODE_SECONDS                  how long a file may take to become pixels
  MASK2KAN_KEEP_SECONDS                    how long uploads and results are kept
  MASK2KAN_HOSTS                           names the app is reached by beside this machine's own,
                                           separated by commas: demo.example.org,*.example.com
  MASK2KAN_PROXIES                         reverse proxies that tell who asks, for what name and how
                                           (X-Forwarded-For, -Host, -Proto), separated by commas; *
                                           for all (default: 127.0.0.1,::1)
  MASK2KAN_LOG=json                        a JSON object a line instead of text
  MASK2KAN_METRICS_PORT                    port for Prometheus (pip install prometheus-client)
"""
_NOT_INSTALLED = (
    "{variable} is set, but the package {package} is not installed. "
    'Install it (pip install "{requirement}"), or unset the variable.'
)


class StartError(Exception):
    """One sentence: why the app cannot start, and what to do."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the app is started with; the defaults are those of a laptop.

    Attributes:
        host: name or address it listens on; of IPv6 without brackets.
        port: 1 to 65535.
        root_path: where a reverse proxy serves it; empty for nowhere else.
        mcp: whether the endpoints are MCP tools, too.
        public: whether the world comes here.
        on_spaces: whether this is a Hugging Face Space.
        names: it is reached by beside this machine's own; ``*.example.org`` for all below.
        proxies: addresses of reverse proxies whose word about clients counts; "*" for all.
        log: "plain" or "json".
        metrics_port: for Prometheus; None for nowhere.
        notes: sentences for the log.
    """

    host: str = _LOOPBACK[1]
    port: int = 7860
    root_path: str = ""
    mcp: bool = False
    public: bool = False
    on_spaces: bool = False
    names: tuple[str, ...] = ()
    proxies: tuple[str, ...] = _LOOPBACK[1:]
    log: str = _LOGS[0]
    metrics_port: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Where it answers on this machine."""
        host = {"0.0.0.0": _LOOPBACK[1], "::": _LOOPBACK[2]}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def settle(arguments: Sequence[str] | None = None) -> Settings:
    """Check what the app is started with, and write it where its libraries read it.

    Args:
        arguments: None for the process's.

    Raises:
        StartError: where it cannot start like that.
    """
    options = _parser().parse_args(arguments)
    host, port = str(options.host).strip("[]"), _port(options.port)
    mcp = _is_on("GRADIO_MCP_SERVER")
    if mcp:
        _require_package("GRADIO_MCP_SERVER", "mcp", "mcp>=1.21,<2")
    root_path = _root_path()
    on_spaces = bool(os.environ.get("SPACE_ID"))
    log, metrics_port = _log(), _metrics_port()
    _require_certificates()
    _require_free(host, port)
    os.environ["GRADIO_TEMP_DIR"] = str(_upload_folder())
    os.environ["GRADIO_SERVER_PORT"] = str(port)
    # Gradio tries the port on this name first, by IPv4 alone.
    os.environ["GRADIO_SERVER_NAME"] = _LOOPBACK[1] if ":" in host else host
    notes = _set_unusable_proxies_aside()
    _bypass_proxies(host)
    return Settings(
        host=host,
        port=port,
        root_path=root_path,
        mcp=mcp,
        public=is_public(),
        on_spaces=on_spaces,
        names=_names(root_path),
        proxies=_listed("MASK2KAN_PROXIES") or (("*",) if on_spaces else Settings.proxies),
        log=log,
        metrics_port=metrics_port,
        notes=tuple(notes),
    )


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


def _port(text: str, what: str = "The port", where: str = "--port or GRADIO_SERVER_PORT") -> int:
    if text.isdecimal() and 1 <= int(text) <= _LAST_PORT:
        return int(text)
    raise StartError(
        f"{what} is {text!r}; it must be a number from 1 to {_LAST_PORT}: see {where}."
    )


def is_public() -> bool:
    """Whether the world comes here: as ``MASK2KAN_PUBLIC`` says, and on every Space."""
    return bool(os.environ.get("SPACE_ID")) or _is_on("MASK2KAN_PUBLIC")


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() not in ("", "0", "false", "no", "off")


def _require_package(variable: str, package: str, requirement: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise StartError(
            _NOT_INSTALLED.format(variable=variable, package=package, requirement=requirement)
        )


def _listed(name: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, os.environ.get(name, "").split(","))))


def _names(root_path: str) -> tuple[str, ...]:
    """Return the names the operator gives, and those that follow from where the app runs."""
    given = _listed("MASK2KAN_HOSTS")
    for name in given:
        if "*" in name.removeprefix("*.") or "/" in name or ":" in name:
            raise StartError(
                f"MASK2KAN_HOSTS has {name!r}; it must list names without port or path, such as "
                "demo.example.org, or *.example.org for all below."
            )
    public = urlsplit(root_path).hostname if "://" in root_path else None
    return (*given, *_listed("SPACE_HOST"), *((public,) if public else ()))


def _log() -> str:
    style = os.environ.get("MASK2KAN_LOG", "").strip().lower() or _LOGS[0]
    if style not in _LOGS:
        raise StartError(f"MASK2KAN_LOG is {style!r}; it must be {' or '.join(_LOGS)}.")
    return style


def _metrics_port() -> int | None:
    text = os.environ.get("MASK2KAN_METRICS_PORT", "").strip()
    if not text:
        return None
    _require_package("MASK2KAN_METRICS_PORT", "prometheus_client", "prometheus-client>=0.20,<1")
    return _port(text, "The metrics' port", "MASK2KAN_METRICS_PORT")


def _root_path() -> str:
    """Return the path a reverse proxy serves the app under, as Gradio compares it."""
    path = os.environ.get("GRADIO_ROOT_PATH", "").rstrip("/")
    if path and not path.startswith(("/", "http://", "https://")):
        raise StartError(
            f"GRADIO_ROOT_PATH is {path!r}; it must be a path such as /mask2kan, or a whole URL."
        )
    return path


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Bind every address of a name; they listen when they are served.

    Raises:
        StartError: where one of them can't be had.
    """
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise _unbindable(host, error) from error
    with contextlib.ExitStack() as opened:
        bound: list[socket.socket] = []
        for family, kind, protocol, _, address in dict.fromkeys(places):
            try:
                one = opened.enter_context(socket.socket(family, kind, protocol))
            except OSError:  # a machine without IPv6 may have names for it
                continue
            if os.name == "posix":  # else the last server's closed connections hold the port
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # else it takes IPv4's port, too
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                one.bind(address)
            except OSError as error:
                raise _not_to_be_had(host, port, error) from error
            bound.append(one)
        opened.pop_all()
        return bound


def _require_free(host: str, port: int) -> None:
    """Bind the address for a moment: what serves it takes seconds to import."""
    for bound in listening_sockets(host, port):
        bound.close()


def _not_to_be_had(host: str, port: int, error: OSError) -> StartError:
    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
        return _unbindable(host, error)
    what = "in use" if error.errno == errno.EADDRINUSE else "not yours to take"
    return StartError(
        f"Port {port} on {host} is {what}: choose another with --port or GRADIO_SERVER_PORT."
    )


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
