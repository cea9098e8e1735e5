"""Where checkpoints come from when they are not a file: the bundled ones, and the Hugging Face Hub.

From the Hub only the files a checkpoint needs are fetched, and its README, at the commit the
listing named; sizes are checked before, SHA-256 after the download (the Hub's own client compares
sizes only). A branch is noted in the client's cache once everything it needs is there and right, so
that what a broken download leaves behind is never taken for a checkpoint. Without network, what was
fetched before is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
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

from mask2kan.checkpoints.native import trunk_of
from mask2kan.checkpoints.progress import Meter, Progress, small_steps
from mask2kan.checkpoints.readers import MAX_BYTES, read_json, sha256_of
from mask2kan.errors import CheckpointError
from mask2kan.media.files import atomic_writer

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
BESIDE = ("config.json", "preprocessor_config.json")
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_WEIGHTS = (".safetensors", ".pth", ".pkl", ".pt", ".bin")
_README = "README.md"
_README_BYTES = 200_000
_TIMEOUT = 10.0  # seconds until the Hub counts as unreachable

_cached_only: ContextVar[bool] = ContextVar("cached_only", default=False)


class Address(NamedTuple):
    """Where on the Hub a checkpoint lies; ``file`` and ``revision`` as of ``fetch``."""

    repo: str
    file: str | None = None
    revision: str | None = None


@dataclasses.dataclass(frozen=True)
class CacheState:
    """Whether a checkpoint is on this machine.

    Attributes:
        state: ``bundled`` (in ``weights/``), ``cached`` (fetched before, whole) or ``absent``.
        bytes: what it takes on disk; 0 when absent.
        folder: where its files lie; None when absent.
    """

    state: Literal["bundled", "cached", "absent"]
    bytes: int = 0
    folder: Path | None = None


def manifest() -> list[dict[str, Any]]:
    """The entries of ``weights/manifest.json``; none where there is no such file.

    Raises:
        CheckpointError: when the file is no list of named entries.
    """
    entries = read_json(WEIGHTS / "manifest.json").get("weights", [])
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise CheckpointError("weights/manifest.json is no list of named entries.")
    return entries


def list_weights(bundled_only: bool = False) -> list[str]:
    """Names from ``weights/manifest.json`` that ``load_model`` takes.

    Args:
        bundled_only: leave out those that must be downloaded first.

    Raises:
        CheckpointError: when the manifest is damaged.
    """
    return [entry["name"] for entry in manifest() if entry.get("file") or not bundled_only]


def bundled_file(entry: dict[str, Any]) -> tuple[Path, str]:
    """A bundled checkpoint's file and the SHA-256 it must have.

    Raises:
        CheckpointError: when the entry names no file inside ``weights/`` or no digest.
    """
    name, digest = str(entry["file"]), str(entry.get("sha256", ""))
    if PurePosixPath(name).name != name or not _SHA256.match(digest):
        raise CheckpointError(
            f"weights/manifest.json: {entry['name']} needs a plain file name and a sha256."
        )
    return WEIGHTS / name, digest


def is_repo_id(source: str) -> bool:
    """Whether a source reads like ``owner/name``."""
    return bool(_REPO_ID.fullmatch(source)) and ".." not in source and not source.endswith(_WEIGHTS)


def pick_files(names: Iterable[str], file: str | None) -> list[str]:
    """Which files of a folder or repository make up its checkpoint.

    Args:
        names: of its files, "/" between folders.
        file: the weights' file, when the user named it.

    Returns:
        The weights first (or the index of their shards), then what describes them.

    Raises:
        CheckpointError: when there is none, or more than one and no way to choose.
    """
    known = set(names)
    if file is not None:
        if file not in known:
            weights = sorted(name for name in known if name.endswith(_WEIGHTS))[:8]
            raise CheckpointError(
                f"It has no file {file!r:.80}; it has {', '.join(weights) or 'no weights'}."
            )
        return [file, *_beside(file, known)]
    if "config.json" in known:
        for name in ("model.safetensors", INDICES[0], "pytorch_model.bin", INDICES[1]):
            if name in known:
                return [name, *_beside(name, known)]
    for suffixes in ((".safetensors",), (".pth", ".pkl")):
        found = sorted(n for n in known if n.endswith(suffixes) and "/" not in n)
        if len(found) == 1:
            return [found[0], *_beside(found[0], known)]
        if found:
            raise CheckpointError(
                f"It has {len(found)} checkpoints ({', '.join(found[:8])}); choose one with file=."
            )
    raise CheckpointError("It has no .safetensors, .pth or .pkl file.")


def _beside(name: str, known: set[str]) -> list[str]:
    folder = PurePosixPath(name).parent
    return [path for other in BESIDE if (path := str(folder / other)) in known]


def shards_of(index: Path) -> list[str]:
    """The files an index of shards names, each once.

    Raises:
        CheckpointError: when it names none, or one outside its folder.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"Its {index.name} names no files.")
    names = sorted({str(name) for name in table.values()})
    for name in names:
        if PurePosixPath(name).name != name or not name.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"Refused: its {index.name} names the file {name!r:.80}.")
    return names


def hub_address(source: str) -> Address | None:
    """Where ``load_model`` would look on the Hub; None for paths, bundled names and anything else.

    Raises:
        CheckpointError: when the manifest is damaged.
    """
    if not source.strip() or "\0" in source or Path(source).expanduser().exists():
        return None
    return named_address(source)


def named_address(source: str) -> Address | None:
    """Where on the Hub a source would be, going by its text alone.

    Nothing of this machine is looked at but the manifest: what strangers name must not show which
    files there are.

    Raises:
        CheckpointError: when the manifest is damaged.
    """
    entry = _entry(source)
    if entry is None:
        return Address(source) if is_repo_id(source) else None
    if entry.get("file") or not entry.get("hub"):
        return None
    return Address(str(entry["hub"]), entry.get("hub_file"), entry.get("revision"))


def cache_state(source: str | Address) -> CacheState:
    """Whether a bundled name or a Hub repository is here, without asking the network.

    Args:
        source: a name from ``list_weights()``, ``owner/name`` or an address. Anything else is
            absent.

    Raises:
        CheckpointError: when the manifest is damaged.
    """
    entry = None if isinstance(source, Address) else _entry(source)
    if entry is not None and entry.get("file"):
        path, _ = bundled_file(entry)
        parts = [path, *(path.with_name(str(one)) for one in [entry.get("trunk")] if one)]
        if all(part.is_file() for part in parts):
            size = sum(part.stat().st_size for part in parts)
            return CacheState("bundled", size, path.parent)
        return CacheState("absent")
    address = source if isinstance(source, Address) else hub_address(source)
    if address is None:
        return CacheState("absent")
    try:
        folder, present = _find_cached(*address)
    except CheckpointError:
        return CacheState("absent")
    return CacheState("cached", sum((folder / name).stat().st_size for name in present), folder)


def readme_of(source: str | Address) -> str | None:
    """The README fetched with a Hub checkpoint; None where there is none on this machine."""
    here = cache_state(source)
    path = here.folder / _README if here.folder is not None and here.state == "cached" else None
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(_README_BYTES).decode("utf-8", errors="replace")


def page_of(repo: str) -> str:
    """The address of a repository's page."""
    return f"{constants.ENDPOINT}/{repo}"


def _entry(name: str) -> dict[str, Any] | None:
    return next((one for one in manifest() if one["name"] == name), None)


@contextlib.contextmanager
def cached_only() -> Iterator[None]:
    """Within the block, this thread's ``fetch`` takes what is here and never asks the Hub."""
    token = _cached_only.set(True)
    try:
        yield
    finally:
        _cached_only.reset(token)


def fetch(
    repo: str, file: str | None, revision: str | None, progress: Progress | None = None
) -> tuple[Path, str]:
    """Bring a Hub checkpoint here.

    Args:
        repo: ``owner/name``.
        file: the weights' file, when the repository has several.
        revision: a branch, tag or commit; the main branch when None.
        progress: called with the bytes that are here and those of the whole checkpoint, several
            times a second while data arrives. What it raises (no ``OSError``) ends the download and
            passes through; whole files stay, and the next call goes on from them.

    Returns:
        The folder and the weights' file (or index of shards) in it.

    Raises:
        CheckpointError: when it does not exist, may not be read, is damaged, too large, or is not
            here and the network is not either.
    """
    try:
        if not constants.HF_HUB_OFFLINE and not _cached_only.get():
            with small_steps() if progress else contextlib.nullcontext():
                online = _fetch_online(Address(repo, file, revision), Meter(progress))
            if online is not None:
                return online
        return _cached(repo, file, revision)
    except CheckpointError as error:
        raise CheckpointError(f"Can't load {repo} from the Hugging Face Hub. {error}") from error


def _fetch_online(address: Address, meter: Meter) -> tuple[Path, str] | None:
    """As ``fetch``; None when the Hub cannot be reached."""
    try:
        return _download_all(address, meter)
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
        raise CheckpointError(f"{' '.join(str(error).split())[:120]}.") from error
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
        reason = error.strerror or " ".join(str(error).split())[:120]
        raise CheckpointError(f"The download broke off: {reason}. Try again.") from error


def _download_all(address: Address, meter: Meter) -> tuple[Path, str]:
    """Everything a checkpoint consists of; the weights last, the branch's name after them."""
    repo, file, revision = address
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    chosen = pick_files(siblings, file)
    weights = chosen[:1]
    first = chosen[1:] + [name for name in (_README,) if name in siblings]
    if chosen[0].endswith(INDICES):
        _require_moderate(chosen[:1], siblings)
        folder = _download(repo, info.sha, chosen[:1], siblings)
        parent = PurePosixPath(chosen[0]).parent
        weights = [str(parent / name) for name in shards_of(folder / chosen[0])]
        absent = [name for name in weights if name not in siblings]
        if absent:
            raise CheckpointError(f"Its index names {absent[0]!r:.80}, which it does not have.")
        first = [chosen[0], *first]
    total = _require_moderate([*first, *weights], siblings)
    _download(repo, info.sha, first, siblings)
    meter.expect(total, total - _require_moderate(weights, siblings))
    folder = _download(repo, info.sha, weights, siblings, meter)
    trunk = [name for name in _trunk_beside(folder, chosen[0]) if name in siblings]
    if trunk:
        more = _require_moderate(trunk, siblings)
        meter.expect(total + more, total)
        _download(repo, info.sha, trunk, siblings, meter)
    _remember(address, info.sha)
    return folder, chosen[0]


def _trunk_beside(folder: Path, name: str) -> list[str]:
    """The file of the trunk that a fetched head stands on; none where it is a whole model.

    What it must be like is checked where it is loaded.
    """
    trunk = trunk_of(folder / name) if name.endswith(".safetensors") else None
    file = str((trunk or {}).get("file", ""))
    if not file or PurePosixPath(file).name != file:
        return []
    return [str(PurePosixPath(name).with_name(file))]


def _require_moderate(names: list[str], siblings: dict[str, Any]) -> int:
    """The size of these files together, where it is one that is fetched."""
    total = sum(siblings[name].size or 0 for name in names)
    if total > MAX_BYTES:
        raise CheckpointError(f"It has {total:,} bytes; up to {MAX_BYTES:,} are fetched.")
    return total


def _download(
    repo: str,
    commit: str | None,
    names: list[str],
    siblings: dict[str, Any],
    meter: Meter | None = None,
) -> Path:
    folder = Path()
    meter = meter or Meter(None)
    bar: Any = meter.bar
    for name in names:
        path = Path(hf_hub_download(repo, name, revision=commit, tqdm_class=bar))
        lfs = siblings[name].lfs
        if lfs is not None and sha256_of(path) != lfs.sha256:
            _discard(path)
            meter.restart()
            path = Path(hf_hub_download(repo, name, revision=commit, tqdm_class=bar))
            if sha256_of(path) != lfs.sha256:
                _discard(path)
                raise CheckpointError(f"Damaged: sha256 of {name} differs, twice; try again later.")
        meter.finish(siblings[name].size or 0)
        folder = path.parents[len(PurePosixPath(name).parts) - 1]
    return folder


def _discard(path: Path) -> None:
    """Take a damaged file out of the cache: the link to it, and what it links to."""
    for file in {path.resolve(), path}:
        file.unlink(missing_ok=True)


def _remember(address: Address, commit: str | None) -> None:
    """Note which commit the branch stands for, as the client does for downloads by branch.

    Without the note nothing finds the checkpoint again when there is no network. Where the cache
    may not be written, everything was there before and the note is as it was.
    """
    branch = address.revision or constants.DEFAULT_REVISION
    if commit is None or branch == commit or ".." in PurePosixPath(branch).parts:
        return
    repository = repo_folder_name(repo_id=address.repo, repo_type="model")
    note = Path(constants.HF_HUB_CACHE) / repository / "refs" / branch
    with contextlib.suppress(CheckpointError), atomic_writer(note) as file:
        file.write(commit.encode())


def _find_cached(repo: str, file: str | None, revision: str | None) -> tuple[Path, list[str]]:
    """What an earlier download left here: its folder and its files, the weights or index first."""
    try:
        folder = Path(str(snapshot_download(repo, revision=revision, local_files_only=True)))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise CheckpointError(
            "It is not on this machine yet and needs the network, which can't be reached. Connect "
            "and try again, or give a local file or a bundled name."
        ) from error
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    present = pick_files(names, file)
    if present[0].endswith(INDICES):
        parent = PurePosixPath(present[0]).parent
        present += [str(parent / name) for name in shards_of(folder / present[0])]
    if (folder / present[0]).is_file():
        present += _trunk_beside(folder, present[0])
    for name in present:
        if not (folder / name).is_file():
            raise CheckpointError(f"Its {name} was never fetched and needs the network.")
    return folder, present


def _cached(repo: str, file: str | None, revision: str | None) -> tuple[Path, str]:
    """As ``fetch``, from what is here."""
    folder, present = _find_cached(repo, file, revision)
    for name in present:
        path = (folder / name).resolve()
        # The cache names large files by their digest.
        if _SHA256.match(path.name) and sha256_of(path) != path.name:
            raise CheckpointError(
                f"Damaged: sha256 of {name} differs; connect to the network to fetch it again."
            )
    return folder, present[0]
