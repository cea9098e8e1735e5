"""Visitors of a served app without a browser: sessions that join the queue and wait for answers."""

from __future__ import annotations

import copy
import json
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.serving import EXAMPLE

SECONDS = 300  # only against hanging
# Threads share a client, and httpcore may close an idle connection that it has just given to
# another thread ("Bad file descriptor"): so none is ever kept idle.
ONE_REQUEST_EACH = httpx.Limits(max_connections=None, max_keepalive_connections=0)


class Answer(NamedTuple):
    """What came back: an error's sentence, or None and the data."""

    error: str | None
    data: Any

    @property
    def refusal(self) -> str | None:
        """The error, or the words that stand on the page where the result would be."""
        first = self.data[0] if isinstance(self.data, list) and self.data else None
        return self.error or (first.get("error") if isinstance(first, dict) else None)


class Visitor:
    """A browser or a program: a session that joins the queue and waits for its answers."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(
            base_url=url, timeout=SECONDS, trust_env=False, limits=ONE_REQUEST_EACH
        )
        self.session = uuid.uuid4().hex
        told = self.http.get("/config").json()
        self.components = {one["id"]: one for one in told["components"]}
        self.events = [one for one in told["dependencies"] if one["backend_fn"]]
        self._picture = self.upload(EXAMPLE)
        self.upload_folder = Path(self._picture["path"]).parents[1]

    def another(self) -> Visitor:
        """Come again, as somebody else."""
        return Visitor(str(self.http.base_url))

    def another_session(self) -> Visitor:
        """Be somebody else without loading the page again."""
        other = copy.copy(self)
        other.session = uuid.uuid4().hex
        return other

    def event(self, name: str) -> dict[str, Any]:
        [event] = (one for one in self.events if one["api_name"] == name)
        return event

    def upload(self, path: Path) -> dict[str, Any]:
        content = (path.name, path.read_bytes())
        sent = self.http.post("/gradio_api/upload", files={"files": content}).raise_for_status()
        return {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}

    def usual(self, event: dict[str, Any]) -> list[Any]:
        """What the page sends: pictures where there are fields for them, else the defaults."""
        image, values = self._picture, []
        for number in event["inputs"]:
            component = self.components[number]
            value = component["props"].get("value")
            if component["type"] == "image":
                value = None if self.role(number) == "truth" else image
            elif component["type"] == "file":
                value = [image]
            elif component["type"] == "number":
                value = value or 0
            values.append(value)
        return values

    def said(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """What our component sends with the event."""
        if event["api_name"] != "look":
            return None
        return {"token": 1, "path": self._picture["path"], "name": "x.png"}

    def role(self, number: int) -> str | None:
        """What an attacker could put a path into, of the component of that number."""
        props = self.components[number]["props"]
        kind = self.components[number]["type"]
        if kind == "image":
            named = (props.get("elem_id"), props.get("label"))
            return "truth" if "truth" in named else "picture"
        if kind == "file":
            return "file"
        return "model" if kind == "dropdown" and props.get("allow_custom_value") else None

    def join(
        self, event: dict[str, Any], data: list[Any], event_data: Any = None, **query: str
    ) -> str:
        """Join the queue; return the event's id. An HTTP error is raised."""
        body = {
            "data": data,
            "fn_index": event["id"],
            "session_hash": self.session,
            "event_data": event_data,
        }
        joined = self.http.post(
            "/gradio_api/queue/join",
            content=json.dumps(body),  # httpx's own takes no halves of characters
            headers={"Content-Type": "application/json"},
            params=query,
        ).raise_for_status()
        return str(joined.json()["event_id"])

    def ask(
        self, event: dict[str, Any], data: list[Any], event_data: Any = None, **query: str
    ) -> Answer:
        """Join the queue and wait for the answer."""
        self.join(event, data, event_data, **query)
        deadline = time.monotonic() + SECONDS  # heartbeats arrive for ever, answers may not
        with self.http.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": self.session}
        ) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {}
                if time.monotonic() > deadline:
                    break
                if message.get("msg") == "process_completed":
                    output = message["output"]
                    if message["success"]:
                        return Answer(None, output["data"])
                    return Answer(output.get("error") or "", None)
        raise AssertionError(f"{event['api_name']} never answered {str(data)[:200]}")

    def call_server(self, component: int, function: str, data: Any) -> Answer:
        body = {
            "session_hash": self.session,
            "component_id": component,
            "fn_name": function,
            "data": data,
        }
        told = self.http.post("/gradio_api/component_server", json=body).json()
        return Answer(told.get("error"), told)

    def post(self, address: str, data: list[Any]) -> int:
        return self.http.post(address, json={"data": data}).status_code

    def get(self, address: str) -> int:
        return self.http.get(address).status_code
