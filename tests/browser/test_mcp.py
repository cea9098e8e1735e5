"""``python app.py`` on the bundled models as an MCP server."""

from __future__ import annotations

import ast
import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from tests.browser.steps import EXAMPLES
from tests.serving import ROOT, App, serving


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("bundled")
    with serving(folder, GRADIO_MCP_SERVER="true", MASK2KAN_DTYPE="auto") as running:
        yield running


async def _talk(url: str, image: str) -> tuple[list[Any], Any, Any, list[Any]]:
    """The tools an MCP server offers, what two of them answer, and what they do with paths."""
    async with (
        streamablehttp_client(f"{url}/gradio_api/mcp/") as (reads, writes, _),
        ClientSession(reads, writes) as session,
    ):
        await session.initialize()
        tools = (await session.list_tools()).tools
        offered = await session.call_tool("models", {})
        asked = {"image": image, "x": 512, "y": 300}
        told = await session.call_tool("explain", asked)
        path = str(EXAMPLES[0])
        marked = {"path": path, "meta": {"_type": "gradio.FileData"}}
        refused = [
            await session.call_tool("segment", {"image": image})
            for image in (path, f"file://{path}", marked)
        ]
        return tools, offered, told, refused


def test_the_endpoints_are_tools_for_language_models(bundled: App) -> None:
    image = "data:image/webp;base64," + base64.b64encode(EXAMPLES[0].read_bytes()).decode()
    with ThreadPoolExecutor(1) as thread:  # this one may have an event loop of Playwright's
        talk = thread.submit(lambda: asyncio.run(_talk(bundled.url, image)))
    tools, offered, told, refused = talk.result()
    assert all(one.isError for one in refused), refused
    assert {tool.name for tool in tools} == {
        "batch", "compare", "explain", "export", "kan", "models", "segment",
    }  # fmt: skip
    assert all(tool.description for tool in tools)
    schemas = {tool.name: tool.inputSchema for tool in tools}
    assert schemas["explain"]["required"] == ["image", "x", "y"]
    assert schemas["export"]["required"] == ["image"]
    assert "column of the pixel" in schemas["explain"]["properties"]["x"]["description"]
    assert not offered.isError
    assert "mask2kan_road" in offered.content[0].text
    assert not told.isError, told.content
    assert set(ast.literal_eval(told.content[0].text)) == {"left", "right"}  # as Gradio writes it


def test_without_the_package_the_mcp_server_says_what_to_install(tmp_path: Path) -> None:
    hidden = "import runpy, sys; sys.modules['mcp'] = None; "
    started = hidden + "runpy.run_path('app.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", started],
        cwd=ROOT,
        env={**os.environ, "GRADIO_MCP_SERVER": "1", "GRADIO_TEMP_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
