"""Who may ask: under which names the server is reached, and from which sites."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ..strings import HTTP
from .answers import Layer, RefusedError

logger = logging.getLogger(__name__)

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@\s]+)(?::\d{1,5})?", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_READS = ("GET", "HEAD")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_FORWARDED = (b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")


class Hosts:
    """Names of this server.

    A page of another site can make a browser resolve that site's name to this machine (DNS
    rebinding), and would then count as ours. An address cannot be rebound, nor can a machine's own
    name in the local network.

    Args:
        host: name or address that the server listens on.
        names: further ones; ``*.example.org`` for all below.
    """

    def __init__(self, host: str, names: Iterable[str] = ()) -> None:
        self._listed = {name.strip().lower() for name in names}
        self._suffixes = tuple(name[1:] for name in self._listed if name.startswith("*."))
        self._names = {"localhost", host.lower(), *self._listed}
        self._any_address = not _is_loopback(host)
        if self._any_address:
            own = socket.gethostname().lower()
            self._names |= {own, f"{own.split('.')[0]}.local"}

    def admits(self, header: str) -> bool:
        """Whether a ``Host`` header names this server, at whatever port."""
        matched = _HOST.fullmatch(header.strip())
        if matched is None:
            return False
        name = matched[1].lower().strip("[]").rstrip(".")
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names or self.lists(name)
        return self._any_address or address.is_loopback or name in self._names

    def lists(self, name: str) -> bool:
        """Whether a name without a port is one of the further ones."""
        return name in self._listed or name.endswith(self._suffixes)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Forwarded(ProxyHeadersMiddleware):
    """Take the word of known proxies on who asks, by what name and how; nobody else's.

    Gradio would take anybody's, and tell all visitors the first name that it hears. What a proxy
    hands on of a visitor's own headers has to be a name of this server.

    Args:
        app: what answers.
        proxies: their addresses.
        hosts: names of this server.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[str], hosts: Hosts) -> None:
        super().__init__(app, list(proxies))  # type: ignore[arg-type]
        self._hosts = hosts
        self._has_warned = False

    async def __call__(  # type: ignore[override]
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer, as ASGI calls it."""
        if scope["type"] == "http":
            trusted = (scope.get("client") or ("",))[0] in self.trusted_hosts
            headers = [
                (name, value)
                for name, value in scope["headers"]
                if name not in _FORWARDED or (trusted and self._may_say(name, value))
            ]
            if len(headers) < len(scope["headers"]) and not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "X-Forwarded-Host or X-Forwarded-Proto of %s is not taken: if this is your "
                    "proxy, name it in MASK2KAN_PROXIES and its name in MASK2KAN_HOSTS",
                    (scope.get("client") or ("nobody",))[0],
                )
            scope["headers"] = headers
        await super().__call__(scope, receive, send)  # type: ignore[arg-type]

    def _may_say(self, name: bytes, value: bytes) -> bool:
        said = value.decode("latin-1").split(",")[0].strip()
        if name == b"x-forwarded-proto":
            return said in ("http", "https")
        matched = _HOST.fullmatch(said)
        name_alone = matched[1].lower().rstrip(".") if matched else ""
        return self._hosts.lists(name_alone) or name_alone in _LOOPBACK


class KnownHosts(Layer):
    """Refuse requests to a name that is not this server's.

    Args:
        app: what answers.
        hosts: its names.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        super().__init__(app)
        self._hosts = hosts

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        host = Headers(scope=scope).get("host", "")
        if not self._hosts.admits(host):
            raise RefusedError(421, HTTP["unknown_host"].format(host=host[:100]), "host")
        await self.app(scope, receive, send)


class SameOrigin(Layer):
    """Refuse what another site's page makes a browser send; programs say no origin.

    It may not read answers either: Gradio would allow that outside of localhost.

    Args:
        app: what answers.
        hosts: its names.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        super().__init__(app)
        self._hosts = hosts

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        if not self._is_foreign(Headers(scope=scope)):
            await self.app(scope, receive, send)
        elif scope["method"] not in _READS:
            raise RefusedError(403, HTTP["foreign_origin"], "origin")
        else:
            await self.app(scope, receive, _without_permission(send))

    def _is_foreign(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None:
            return False
        # The browser's own judgement, which a page cannot change; behind a proxy that does not pass
        # the name on, it is the only one.
        if headers.get("sec-fetch-site") == "same-origin" and origin != "null":
            return False
        try:
            parts = urlsplit(origin.lower())
            listed = parts.hostname is not None and self._hosts.lists(parts.hostname)
        except ValueError:
            return True
        if parts.scheme not in _DEFAULT_PORTS or listed:
            return not listed
        forwarded = headers.get("x-forwarded-host", "").split(",")[0].strip()
        port = _DEFAULT_PORTS[parts.scheme]
        ours = {name.lower().removesuffix(port) for name in (headers.get("host", ""), forwarded)}
        return parts.netloc.removesuffix(port) not in ours - {""}


def _without_permission(send: Send) -> Send:
    async def send_without(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [
                pair for pair in message["headers"] if not pair[0].startswith(b"access-control-")
            ]
            message = {**message, "headers": headers}
        await send(message)

    return send_without
