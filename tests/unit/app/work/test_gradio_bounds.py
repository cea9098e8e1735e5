"""Gradio's queue, in the order in which its clients have their turns."""

from __future__ import annotations

import asyncio
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.work.gradio_bounds import _share_queue


class _Queue:
    """What is looked at of Gradio's: it appends, and takes the first one."""

    def __init__(self) -> None:
        waiting = types.SimpleNamespace(queue=[])
        self.event_queue_per_concurrency_id = {"models": waiting}
        self.pending_event_ids_session: dict[str, set[str]] = {}
        self._waiting: list[Any] = waiting.queue

    async def push(self, body: Any, request: Any, username: Any) -> bool:
        self._waiting.append(types.SimpleNamespace(name=body.name, request=request))
        return True

    def get_events(self) -> Any:
        return ([self._waiting.pop(0)], False, "models") if self._waiting else None


def test_each_client_has_a_job_in_turn() -> None:
    queue: Any = _Queue()
    _share_queue(queue)

    def push(*names: str) -> None:
        for name in names:
            state = types.SimpleNamespace(client=name[0])
            body = types.SimpleNamespace(name=name, session_hash=name)
            pushed = queue.push(body, types.SimpleNamespace(state=state), None)
            with ThreadPoolExecutor(1) as apart:  # from loops that other tests have left here
                assert apart.submit(asyncio.run, pushed).result()

    def take() -> str:
        return str(queue.get_events()[0][0].name)

    push("a1", "a2", "a3", "a4")
    taken = [take()]
    push("b1", "c1", "b2")
    taken += [take() for _ in range(3)]
    push("d1")
    taken += [take() for _ in range(4)]
    assert taken == ["a1", "a2", "b1", "c1", "a3", "b2", "d1", "a4"]
    assert queue.get_events() is None
