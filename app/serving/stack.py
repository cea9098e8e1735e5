"""The one place that shows what a request has to pass, in that order."""

from __future__ import annotations

from starlette.middleware import Middleware

from ..startup import Settings
from .answers import Answers
from .bodies import Bodies, Sizes
from .clients import Rate, RateLimit, Share
from .headers import Ranges, RetryAfter, SecurityHeaders
from .hosts import Forwarded, Hosts, KnownHosts, SameOrigin
from .lifecycle import Draining, Lifecycle, Probes
from .routes import ClosedRoutes, FreshInfo, Names
from .trace import Trace

# This machine's own programs; others in the same network; the world.
_OWN, _NEAR, _WORLD = Rate(2_000, 200.0), Rate(400, 40.0), Rate(120, 8.0)
_SHARE, _SHARE_OF_WORLD = 32, 12  # of the 64 jobs that may wait
_UPLOAD, _UPLOAD_OF_WORLD = 2 * 10**9, 256 * 10**6
# Bytes: else one client's uploads would soon take the place of everybody's.
_ALLOWANCE, _ALLOWANCE_OF_WORLD = Rate(4 * 10**9, 2e6), Rate(500 * 10**6, 5e5)


def stack(settings: Settings, lifecycle: Lifecycle) -> list[Middleware]:
    """List the layers around Gradio, the outermost first."""
    hosts = Hosts(settings.host, settings.names)
    sizes = Sizes(upload=_UPLOAD_OF_WORLD if settings.public else _UPLOAD)
    rate = _WORLD if settings.public else _NEAR
    allowance = _ALLOWANCE_OF_WORLD if settings.public else _ALLOWANCE
    return [
        Middleware(Forwarded, settings.proxies, hosts),
        Middleware(Trace),
        Middleware(SecurityHeaders, on_spaces=settings.on_spaces),
        Middleware(Answers),
        Middleware(Probes, lifecycle),
        Middleware(KnownHosts, hosts),
        Middleware(SameOrigin, hosts),
        Middleware(ClosedRoutes),
        Middleware(Names),
        Middleware(FreshInfo, lifecycle),
        Middleware(Draining, lifecycle),
        Middleware(RateLimit, rate, _OWN),
        Middleware(Share, _SHARE_OF_WORLD if settings.public else _SHARE, lifecycle),
        Middleware(RetryAfter, lambda: lifecycle.expected_wait),
        Middleware(Ranges),
        Middleware(Bodies, sizes, allowance),
    ]
