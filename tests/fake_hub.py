"""A Hugging Face Hub on this machine: real HTTP for the real client, without the network.

Folders are its repositories. It answers what ``huggingface_hub`` asks to read a model: the listing
with sizes and digests, and files with ``HEAD``, ``GET`` and ranges. Point a process at it with
``HF_ENDPOINT=<url>`` in its environment, or this one with ``FakeHub.attach``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

_LARGE = (".safetensors", ".pth", ".pkl", ".pt", ".bin")  # what repositories keep as LFS files
_LISTING = re.compile(r"^/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>.+))?$")
_TREE = re.compile(r"^/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>.+)$")
_FILE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)$")
_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")
_PIECE_SECONDS = 0.02
_PATIENCE = 120  # seconds, for what only a hang makes come true
# The client's limits, by constant and variable: it has to wait while a body waits here.
PATIENT = {name: str(_PATIENCE) for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")}


class FakeHub:
    """Serves until closed; a context manager.

    Everything but the port may be changed while it runs.

    Attributes:
        url: what ``HF_ENDPOINT`` must be.
        repositories: folders by ``owner/name``.
        gated: repositories whose listing is public and whose files are not.
        bytes_per_second: how fast bodies of large files leave; None as fast as they can.
        down: answer everything with 503.
        portal: answer everything with a web page, as a hotel's network does.
        damaged: ``owner/name/file`` whose content arrives altered.
        altered: for the next large bodies, what arrives in their place.
        instead: what arrives in place of every large file, as from a network that filters.
        ranges: whether a part of a file can be asked for.
        elsewhere: redirect to another host for large files, as the Hub does.
        tokens: of the requests that came to that host.
        cuts: for the next large bodies, after how many bytes the connection breaks.
        requests: (method, path) of all that was asked.
        sent: bytes of large files that have left.
        halfway: set while a body waits in its middle; see ``pause``.
    """

    def __init__(
        self,
        repositories: Mapping[str, Path],
        *,
        gated: Iterable[str] = (),
        bytes_per_second: float | None = None,
    ) -> None:
        self.repositories = dict(repositories)
        self.gated = set(gated)
        self.bytes_per_second = bytes_per_second
        self.down = False
        self.portal = False
        self.damaged: set[str] = set()
        self.altered: list[bytes] = []
        self.instead: bytes | None = None
        self.ranges = True
        self.elsewhere = False
        self.tokens: list[str | None] = []
        self.cuts: list[int] = []
        self.requests: list[tuple[str, str]] = []
        self.sent = 0
        self.halfway = threading.Event()
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self._sending = 0
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering; a second time does nothing."""
        self.resume()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def pause(self) -> None:
        """From now on, bodies of large files wait in their middle."""
        self.halfway.clear()
        self._may_go_on.clear()

    def resume(self) -> None:
        """Send the rest of what waits, and what is asked for from now on as a whole."""
        self._may_go_on.set()

    def wait_until_quiet(self) -> None:
        """Return once no body of a large file is on its way: all have arrived or are unwanted."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._sending, _PATIENCE)

    @contextmanager
    def _body(self) -> Iterator[None]:
        """Count a large body while it is on its way."""
        with self._changed:
            self._sending += 1
        try:
            yield
        finally:
            with self._changed:
                self._sending -= 1
                self._changed.notify_all()

    def count(self, method: str, ending: str = "") -> int:
        """How often something was asked for."""
        return sum(m == method and path.endswith(ending) for m, path in list(self.requests))

    def commit(self, repo: str) -> str:
        """The commit a repository is at: another one whenever a file changes."""
        folder = self.repositories[repo]
        listing = [(name, _digests(folder / name)) for name in self.files(repo)]
        return hashlib.sha1(repr(listing).encode()).hexdigest()

    def files(self, repo: str) -> list[str]:
        """The names of a repository's files."""
        folder = self.repositories[repo]
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    @contextmanager
    def attach(self, cache: Path) -> Iterator[FakeHub]:
        """Point this process's client here, with an empty cache of its own."""
        from huggingface_hub import constants

        with pytest.MonkeyPatch.context() as patch:
            template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(constants, "ENDPOINT", self.url)
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "HF_HUB_CACHE", str(cache))
            patch.setattr(constants, "HF_HUB_OFFLINE", False)
            for limit in PATIENT:
                patch.setattr(constants, limit, _PATIENCE)
            yield self


def _digests(path: Path) -> tuple[int, str, str]:
    """Size, the name git gives a file, and its SHA-256."""
    status = path.stat()
    return _digests_at(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _digests_at(path: Path, size: int, _moment: int) -> tuple[int, str, str]:
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % size + content).hexdigest()
    return size, blob, hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: FakeHub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        """Tests read the counter instead."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if self.hub.down:
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        if self.hub.portal:
            return self._send(b"<html>Please log in</html>", {"Content-Type": "text/html"})
        if found := _LISTING.match(path):
            return self._list(**found.groupdict())
        if found := _TREE.match(path):
            return self._tree(**found.groupdict())
        if found := _FILE.match(path):
            return self._file(**found.groupdict())
        return self._refuse(HTTPStatus.NOT_FOUND)

    def _knows(self, repo: str, revision: str | None) -> bool:
        if repo not in self.hub.repositories:
            # The Hub does not tell strangers whether a repository exists
            self._refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
            return False
        if revision not in (None, "main", self.hub.commit(repo)):
            self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
            return False
        return True

    def _list(self, repo: str, revision: str | None) -> None:
        if not self._knows(repo, revision):
            return
        siblings = []
        for name in self.hub.files(repo):
            size, blob, sha256 = _digests(self.hub.repositories[repo] / name)
            sibling: dict[str, Any] = {"rfilename": name, "size": size, "blobId": blob}
            if name.endswith(_LARGE):
                sibling["lfs"] = {"size": size, "sha256": sha256, "pointerSize": 134}
            siblings.append(sibling)
        gated = "manual" if repo in self.hub.gated else False
        about = {
            "id": repo,
            "modelId": repo,
            "sha": self.hub.commit(repo),
            "private": False,
            "gated": gated,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
        }
        self._send(json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _tree(self, repo: str, revision: str) -> None:
        if not self._knows(repo, revision):
            return
        entries = []
        for name in self.hub.files(repo):
            size, blob, _ = _digests(self.hub.repositories[repo] / name)
            entries.append({"type": "file", "path": name, "size": size, "oid": blob})
        self._send(json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, revision: str, file: str) -> None:
        if not self._knows(repo, revision):
            return None
        if repo in self.hub.gated:
            return self._refuse(HTTPStatus.UNAUTHORIZED, "GatedRepo")
        commit = {"X-Repo-Commit": self.hub.commit(repo)}
        path = self.hub.repositories[repo] / file
        if file not in self.hub.files(repo):
            return self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", commit)
        size, blob, sha256 = _digests(path)
        headers = {**commit, "ETag": f'"{blob}"', "Accept-Ranges": "bytes"}
        large = file.endswith(_LARGE)
        if large:
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(size)}
        if large and self.hub.elsewhere:
            if not self.headers["Host"].startswith("localhost"):
                place = f"{self.hub.url}{self.path}".replace("127.0.0.1", "localhost")
                return self._send(b"", headers | {"Location": place}, status=HTTPStatus.FOUND)
            self.hub.tokens.append(self.headers["Authorization"])
        content = path.read_bytes()
        if large and self.hub.instead is not None:
            content = self.hub.instead
        if large and self.command == "GET" and self.hub.altered:
            content = self.hub.altered.pop(0)
        if f"{repo}/{file}" in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        return self._send(content, headers, large=large)

    def _refuse(
        self, status: HTTPStatus, code: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self._send(b"", {**told, **(headers or {})}, status=status)

    def _send(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        status: HTTPStatus = HTTPStatus.OK,
        large: bool = False,
    ) -> None:
        asked = _RANGE.match(self.headers.get("Range", ""))
        if asked and self.hub.ranges and status == HTTPStatus.OK:
            first, last = int(asked[1]), int(asked[2] or len(body) - 1)
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
            body, status = body[first : last + 1], HTTPStatus.PARTIAL_CONTENT
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        with suppress(ConnectionError):  # whoever asked may have had enough
            if large and self.hub.cuts:
                self.wfile.write(body[: self.hub.cuts.pop(0)])
                self.close_connection = True
            elif large:
                with self.hub._body():
                    self._trickle(body)
            else:
                self.wfile.write(body)

    def _trickle(self, body: bytes) -> None:
        """In small pieces, as slowly as asked; the speed may change on the way."""
        sent, middle = 0, len(body) // 2
        while sent < len(body):
            speed = self.hub.bytes_per_second
            piece = len(body) if speed is None else max(1, int(speed * _PIECE_SECONDS))
            if sent < middle:
                piece = min(piece, middle - sent)
            self.wfile.write(body[sent : sent + piece])
            sent += piece
            self.hub.sent += piece
            if speed is not None:
                time.sleep(_PIECE_SECONDS)
            if sent == middle and not self.hub._may_go_on.is_set():
                self.hub.halfway.set()
                self.hub._may_go_on.wait()
