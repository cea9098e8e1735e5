"""What Gradio keeps for visitors, bounded; and its queue, which none of them can stop.

Each function or class takes the place of a part of Gradio's: as of 6.31 these grow with whatever is
asked for, and a message to a session that has been forgotten ends the queue's loop for everybody.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from typing import Any

import anyio
import cachetools
import gradio as gr
from gradio import processing_utils, routes
from gradio.server_messages import UnexpectedErrorMessage
from gradio.state_holder import SessionState, StateHolder

from ..strings import HTTP
from .turns import Rounds

_SESSIONS = 4_000  # whose state is kept; one takes a few kB
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
    demo.create_limiter = lambda: None  # Gradio would, at its start, and share the page's threads
    _bound_queue(demo._queue)
    _share_queue(demo._queue)
    # It would be fetched before our callbacks are asked, whole and for as long as it takes.
    processing_utils.async_ssrf_protected_download = _fetch_nothing
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


class _Messages(OrderedDict[str, Any]):
    """Messages by session, of so many sessions; those that wait for an answer stay.

    Args:
        queue: Gradio's, whose messages they are.
        most: sessions.
    """

    def __init__(self, queue: Any, most: int) -> None:
        super().__init__()
        self._queue, self.most = queue, most

    def __setitem__(self, session: str, messages: Any) -> None:
        if session not in self and len(self) >= self.most:
            waiting = {event.session_hash for event in self._queue.event_ids_to_events.values()}
            for oldest in self:
                if oldest not in waiting:
                    del self[oldest]
                    break
        super().__setitem__(session, messages)


def _bound_queue(queue: Any) -> None:
    """Let nobody's messages pile up, and none to a session that is gone end the queue."""
    send, sessions = queue.send_message, _Messages(queue, _SESSIONS)
    queue.pending_messages_per_session = sessions
    queue.pending_event_ids_session = cachetools.LRUCache(_NAMED)

    def send_if_awaited(event: Any, message: Any) -> None:
        if event.session_hash not in sessions:
            event.alive = False
            return
        send(event, message)
        unread = {name: messages.qsize() for name, messages in sessions.items()}
        if sum(unread.values()) > _MOST_UNREAD:
            name = max(unread, key=unread.__getitem__)
            fullest = sessions[name]
            while not fullest.empty():
                fullest.get_nowait()
            queue.pending_event_ids_session.pop(name, None)
            fullest.put_nowait(UnexpectedErrorMessage(message=HTTP["unread"]))

    queue.send_message = send_if_awaited


def _share_queue(queue: Any) -> None:
    """Take one job of each client in turn, where Gradio would take all of the first one's."""
    push, take = queue.push, queue.get_events
    rounds: defaultdict[str, Rounds] = defaultdict(Rounds)

    async def push_in_turn(body: Any, request: Any, username: Any) -> Any:
        pushed = await push(body, request, username)
        ids = queue.pending_event_ids_session.get(body.session_hash, set())
        while len(ids) > _MOST_UNREAD:
            ids.pop()
        for name, waiting in queue.event_queue_per_concurrency_id.items():
            for event in waiting.queue:
                if not hasattr(event, "round"):
                    event.client = getattr(event.request.state, "client", "")
                    event.round = rounds[name].join(
                        other.round
                        for other in waiting.queue
                        if getattr(other, "client", None) == event.client
                        and hasattr(other, "round")
                    )
            waiting.queue.sort(key=lambda event: event.round)
        return pushed

    def take_and_note() -> Any:
        taken = take()
        if taken is not None:
            events, _, name = taken
            rounds[name].begin(getattr(events[0], "round", 0))  # 0: from before
        return taken

    queue.push, queue.get_events = push_in_turn, take_and_note


async def _fetch_nothing(url: str, cache_dir: str) -> str:
    raise gr.Error(HTTP["address"], print_exception=False)
