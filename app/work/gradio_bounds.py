"""What Gradio keeps for visitors, bounded; and its queue, which none of them can stop.

Each function or class takes the place of a part of Gradio's: as of 6.31 these grow with whatever is
asked for, and a message to a session that has been forgotten ends the queue's loop for everybody.
"""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import cachetools
from gradio import routes
from gradio.state_holder import SessionState, StateHolder

_SESSIONS = 4_000  # whose state is kept; one takes some 20 kB
_NAMED = 10_000  # sessions and uploads of which a name is kept
_MOST_UNREAD = 1_000  # messages that nobody has fetched yet, of all sessions together
_THREADS = 40  # for callbacks; the page, its files and probes have others


def bound(app: Any, demo: Any) -> None:
    """Bound what an app keeps, before it serves.

    Args:
        app: Gradio's, of the page.
        demo: the page.
    """
    app.state_holder = _Sessions()
    app.state_holder.set_blocks(demo)
    app.state_holder.capacity = _SESSIONS
    demo.limiter = anyio.CapacityLimiter(_THREADS)
    _bound_queue(demo._queue)
    uploads = routes.file_upload_statuses
    uploads._statuses = cachetools.LRUCache(_NAMED)  # type: ignore[assignment]
    uploads._signals = _Signals(_NAMED)  # type: ignore[assignment]


class _Sessions(StateHolder):
    """Sessions that are small enough for thousands of them."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = _Session(self.blocks)
        return super().__getitem__(session_id)


class _Session(SessionState):
    """A visitor's states, without the copy of all that the page shows.

    Gradio keeps that copy for deep links, a route that is closed here.
    """

    def __init__(self, blocks: Any) -> None:
        super().__init__(blocks)
        self.config_values = {}

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class _Signals(cachetools.LRUCache[str, asyncio.Event]):
    def __missing__(self, key: str) -> asyncio.Event:
        self[key] = signal = asyncio.Event()
        return signal


def _bound_queue(queue: Any) -> None:
    """Let nobody's messages pile up, and none to a session that is gone end the queue."""
    send, sessions = queue.send_message, queue.pending_messages_per_session
    queue.pending_event_ids_session = cachetools.LRUCache(_NAMED)

    def send_if_awaited(event: Any, message: Any) -> None:
        if event.session_hash not in sessions:
            event.alive = False
            return
        send(event, message)
        unread = {name: messages.qsize() for name, messages in sessions.items()}
        if sum(unread.values()) > _MOST_UNREAD:
            fullest = sessions[max(unread, key=unread.__getitem__)]
            while not fullest.empty():
                fullest.get_nowait()

    queue.send_message = send_if_awaited
