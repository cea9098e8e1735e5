"""Fetch checkpoints from the Hugging Face Hub once, then use them from its client's cache.

Only the needed files and the README are fetched; sizes are checked before and SHA-256 after the
download (the client compares sizes only). The branch is noted in the cache last, so a broken
download is never taken for a checkpoint. Large files are streamed into the cache here: the client
reports every 10 MB only, and its Xet transport cannot be stopped.
"""

from __future__ import annotations

import contextlib
import functools
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: httpx's or httpx2's
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    http_stream_backoff,
)
from tqdm import tqdm

from mask2kan.checkpoints.files.opened import MAX_BYTES, SHA256, sha256_of
from mask2kan.checkpoints.files.parts import INDICES, pick_files, shards_of, trunk_beside
from mask2kan.checkpoints.manifest import Address, bundled_file, entry_of, hub_address
from mask2kan.errors import CheckpointError, WriteError, one_line
from mask2kan.media.files import write_bytes

Progress = Callable[[int, int], None]

_README = "README.md"
_README_BYTES = 50_000  # a longer one could take long to render
_TIMEOUT = 10.0  # seconds until the Hub counts as unreachable
_STEP = 256 * 1024  # bytes between two reports
_RETRIES = 5  # of a broken connection, without any data in between
_PAUSE = 1.0  # seconds before each
_SILENT: Any = functools.partial(tqdm, disable=True)

_cached_only: ContextVar[bool] = ContextVar("cached_only", default=False)


class CacheState(NamedTuple):
    """Whether a checkpoint is in ``weights/`` or was fetched whole, its size on disk and place."""

    state: Literal["bundled", "cached", "absent"]
    bytes: int = 0
    folder: Path | None = None


def cache_state(source: str | Address) -> CacheState:
    """Look up a bundled name or a Hub repository on this machine; anything else is absent.

    Raises:
        CheckpointError: when the manifest is damaged.
    """
    entry = {} if isinstance(source, Address) else entry_of(source)
    if entry.get("file"):
        path, _ = bundled_file(entry)
        parts = [path, path.with_name(str(entry["trunk"]))] if entry.get("trunk") else [path]
        if not all(part.is_file() for part in parts):
            return CacheState("absent")
        return CacheState("bundled", sum(part.stat().st_size for part in parts), path.parent)
    address = source if isinstance(source, Address) else hub_address(source)
    if address is not None:
        with contextlib.suppress(CheckpointError):
            folder, names = _find_cached(*address)
            size = sum((folder / name).stat().st_size for name in names)
            return CacheState("cached", size, folder)
    return CacheState("absent")


def readme_of(source: str | Address) -> str | None:
    """Return the README fetched with a Hub checkpoint, if any."""
    state, _, folder = cache_state(source)
    if state != "cached" or folder is None or not (folder / _README).is_file():
        return None
    with (folder / _README).open("rb") as file:
        return file.read(_README_BYTES).decode("utf-8", errors="replace")


def remove_cached(repo: str) -> None:
    """Remove all that the cache has of a repository; nothing where there is nothing."""
    shutil.rmtree(_cache_folder(repo), ignore_errors=True)


def page_of(repo: str) -> str:
    """Return the URL of a repository's page."""
    return f"{constants.ENDPOINT}/{repo}"


@contextlib.contextmanager
def cached_only() -> Iterator[None]:
    """Keep this thread's ``fetch`` from asking the Hub within the block."""
    token = _cached_only.set(True)
    try:
        yield
    finally:
        _cached_only.reset(token)


def fetch(
    repo: str, file: str | None, revision: str | None, progress: Progress | None = None
) -> tuple[Path, str]:
    """Fetch a Hub checkpoint, or find it in the cache.

    Args:
        repo: ``owner/name``.
        file: the weights' file, when the repository has several.
        revision: a branch, tag or commit; None for the main branch.
        progress: called often with the bytes fetched and in total; may raise (no ``OSError``) to
            end the download.

    Returns:
        The folder and the weights' file (or index of shards) in it.

    Raises:
        CheckpointError: for a missing, private, damaged or too large one, or without network.
    """
    try:
        if not constants.HF_HUB_OFFLINE and not _cached_only.get():
            online = _fetch_online(Address(repo, file, revision), progress)
            if online is not None:
                return online
        folder, present = _find_cached(repo, file, revision)
        _require_undamaged(folder, present)
    except CheckpointError as error:
        name = f"{repo}@{revision:.80}" if revision else repo
        raise CheckpointError(f"Can't load {name} from the Hugging Face Hub. {error}") from error
    return folder, present[0]


def _fetch_online(address: Address, progress: Progress | None) -> tuple[Path, str] | None:
    """Fetch from the Hub; None when it cannot be reached."""
    if fault := _client_fault():
        with contextlib.suppress(CheckpointError):
            _find_cached(*address)
            return None
        raise CheckpointError(fault)
    try:
        return _fetch_all(address, progress)
    except GatedRepoError as error:
        raise CheckpointError(
            "Its owner grants access on request; log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"It has no revision {address.revision!r:.80}.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError("No such repository, or a private one (`hf auth login`).") from error
    except (HFValidationError, EntryNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError):  # the client's word for "unreachable"
            return None
        raise CheckpointError(f"{one_line(error)}.") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status < 500:
            raise CheckpointError(
                f"The Hub refused with status {status}; try again later."
            ) from error
        return None
    except (HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError):
        return None  # the last: something else answers in the Hub's place, as hotel networks do
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise CheckpointError(f"The download broke off: {reason}. Try again.") from error


def _client_fault() -> str:
    """Return why there can be no HTTP client with the environment's proxies and certificates."""
    try:
        get_session()  # made once
    except ImportError:
        return "The environment names a SOCKS proxy, which needs a package: pip install socksio."
    except Exception as error:  # of httpx, httpx2 or ssl: what they say of an address or file
        names = "HTTPS_PROXY, ALL_PROXY or SSL_CERT_FILE"
        return (
            f"Its client can't be made with {names}: {one_line(error)}; set it right or unset it."
        )
    return ""


def _fetch_all(address: Address, progress: Progress | None) -> tuple[Path, str]:
    """Fetch the weights last, and note the branch after them."""
    repository = _Repository(address, progress)
    listed = repository.files
    weights, *beside = pick_files(listed, address.file)
    parts = [weights]
    if weights.endswith(INDICES):
        repository.require_moderate([weights])
        index = repository.fetch_file(weights)
        parts += [str(PurePosixPath(weights).with_name(name)) for name in shards_of(index)]
        absent = [name for name in parts if name not in listed]
        if absent:
            raise CheckpointError(f"Its index names {absent[0]!r:.80}, which it does not have.")
    folder = repository.fetch([*beside, *(n for n in [_README] if n in listed), *parts])
    repository.fetch([name for name in trunk_beside(folder, weights) if name in listed])
    _remember(address, repository.commit)
    return folder, weights


class _Repository:
    """The files of a Hub repository at the commit its listing named, and their progress."""

    def __init__(self, address: Address, progress: Progress | None) -> None:
        self._name = address.repo
        self._progress = progress
        self._total = self._done = 0
        info = HfApi().model_info(
            address.repo, revision=address.revision, files_metadata=True, timeout=_TIMEOUT
        )
        self.commit = info.sha
        self.files = {
            sibling.rfilename: sibling
            for sibling in info.siblings or []
            if ".." not in PurePosixPath(sibling.rfilename).parts
        }

    def require_moderate(self, names: list[str]) -> int:
        """Sum sizes up to ``MAX_BYTES``, as the listing says them."""
        total = 0
        for name in names:
            size, lfs = self.files[name].size, self.files[name].lfs
            if size is None:
                raise CheckpointError("The Hub does not say how large it is; try again later.")
            total += max(size, 0 if lfs is None else lfs.size)
        if total > MAX_BYTES:
            raise CheckpointError(f"It has {total:,} bytes; up to {MAX_BYTES:,} are fetched.")
        return total

    def fetch(self, names: list[str]) -> Path:
        """Fetch files and report progress; returns their folder."""
        self._total += self.require_moderate(names)
        folder = Path()
        for name in names:
            path = self.fetch_file(name)
            folder = path.parents[len(PurePosixPath(name).parts) - 1]
            self._done += self.files[name].size or 0
            self._report(0)
        return folder

    def fetch_file(self, name: str) -> Path:
        """Fetch one file and check its digest."""
        lfs = self.files[name].lfs
        if lfs is None:  # small enough for git itself
            return self._linked(name)
        blob = _cache_folder(self._name) / "blobs" / PurePosixPath(lfs.sha256).name
        for _ in range(2):
            if not blob.exists() and not try_to_load_from_cache(
                self._name, name, revision=self.commit
            ):
                self._stream(name, blob, lfs.size)
            path = self._linked(name)
            if not path.is_symlink():  # copied, where a system has no links
                blob.unlink(missing_ok=True)
            if sha256_of(path) == lfs.sha256:
                return path
            for damaged in (path.resolve(), path):
                damaged.unlink(missing_ok=True)
        raise CheckpointError(f"Damaged: sha256 of {name} differs, twice; try again later.")

    def _linked(self, name: str) -> Path:
        """Let the client fetch a file, or link the content already in its cache."""
        return Path(hf_hub_download(self._name, name, revision=self.commit, tqdm_class=_SILENT))

    def _stream(self, name: str, blob: Path, size: int) -> None:
        """Write a file's content where the client's cache expects it."""
        blob.parent.mkdir(parents=True, exist_ok=True)
        part = blob.with_name(f"{blob.name}.{secrets.token_hex(4)}.incomplete")
        try:
            with part.open("xb") as file:
                for piece in _pieces(hf_hub_url(self._name, name, revision=self.commit), size):
                    file.write(piece)
                    self._report(file.tell())
            part.replace(blob)
        finally:
            part.unlink(missing_ok=True)

    def _report(self, begun: int) -> None:
        if self._progress is not None and self._total:
            self._progress(min(self._done + begun, self._total), self._total)


def _pieces(url: str, size: int) -> Iterator[bytes]:
    """Yield a file's content as it arrives; resume where a connection broke.

    Raises:
        OSError, HTTPError: when it broke too often without any content in between.
    """
    done = failures = 0
    while done < size:
        broken: Exception = OSError("it ended early")  # in an answer that is too short
        # Compressed, a second answer would not continue the first
        headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={done}-"}
        try:
            with http_stream_backoff(
                "GET", url, headers=headers, timeout=_TIMEOUT, retry_on_exceptions=()
            ) as response:
                hf_raise_for_status(response)
                # whoever knows no ranges begins anew
                known = 0 if response.status_code == HTTPStatus.PARTIAL_CONTENT else done
                for piece in response.iter_bytes(_STEP):
                    new = piece[known:]
                    known = max(0, known - len(piece))
                    if new:
                        done, failures = done + len(new), 0
                        yield new
                    if done >= size:
                        return
        except HfHubHTTPError:
            raise
        except HTTPError as error:
            broken = error
        failures += 1
        if failures > _RETRIES:
            raise broken
        time.sleep(_PAUSE)


def _cache_folder(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _remember(address: Address, commit: str | None) -> None:
    """Note the branch's commit as the client does, to find the checkpoint without network."""
    branch = address.revision or constants.DEFAULT_REVISION
    if commit is None or branch == commit or ".." in PurePosixPath(branch).parts:
        return
    note = _cache_folder(address.repo) / "refs" / branch
    with contextlib.suppress(WriteError):  # a read-only cache had everything before, the note too
        write_bytes(note, commit.encode())


def _find_cached(repo: str, file: str | None, revision: str | None) -> tuple[Path, list[str]]:
    """Find an earlier download: its folder and its files, the weights or index first."""
    try:
        # The folder alone: the client would miss files that nobody asked it for
        folder = Path(
            snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[])
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        why, remedy = "can't be reached", "Connect and try again"
        if constants.HF_HUB_OFFLINE:
            why, remedy = "HF_HUB_OFFLINE rules out", "Unset that"
        raise CheckpointError(
            f"It is not on this machine yet and needs the network, which {why}. {remedy}, or give "
            "a local file or a bundled name."
        ) from error
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    present = pick_files(names, file)
    if present[0].endswith(INDICES):
        shards = shards_of(folder / present[0])
        present += [str(PurePosixPath(present[0]).with_name(name)) for name in shards]
    present += trunk_beside(folder, present[0])
    for name in present:
        if not (folder / name).is_file():
            raise CheckpointError(f"Its {name} was never fetched and needs the network.")
    return folder, present


def _require_undamaged(folder: Path, names: list[str]) -> None:
    for name in names:
        path = (folder / name).resolve()
        # The cache names large files by their digest.
        if SHA256.fullmatch(path.name) and sha256_of(path) != path.name:
            raise CheckpointError(
                f"Damaged: sha256 of {name} differs; connect to the network to fetch it again."
            )
