"""Where checkpoints come from when they are not a file: the bundled ones, and the Hugging Face Hub.

From the Hub only the files a checkpoint needs are fetched, at the commit the listing named; sizes
are checked before, SHA-256 after the download (the Hub's own client compares sizes only). Without
network, what was fetched before is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

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

from mask2kan.checkpoints.files import MAX_BYTES, read_json, sha256_of
from mask2kan.errors import CheckpointError

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
BESIDE = ("config.json", "preprocessor_config.json")
_REPO_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_WEIGHTS = (".safetensors", ".pth", ".pkl", ".pt", ".bin")
_TIMEOUT = 10.0  # seconds until the Hub counts as unreachable


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
    return bool(_REPO_ID.match(source)) and ".." not in source and not source.endswith(_WEIGHTS)


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


def fetch(repo: str, file: str | None, revision: str | None) -> tuple[Path, str]:
    """Bring a Hub checkpoint here.

    Args:
        repo: ``owner/name``.
        file: the weights' file, when the repository has several.
        revision: a branch, tag or commit; the main branch when None.

    Returns:
        The folder and the weights' file (or index of shards) in it.

    Raises:
        CheckpointError: when it does not exist, may not be read, is damaged, too large, or is not
            here and the network is not either.
    """
    try:
        if not constants.HF_HUB_OFFLINE:
            online = _fetch_online(repo, file, revision)
            if online is not None:
                return online
        return _cached(repo, file, revision)
    except CheckpointError as error:
        raise CheckpointError(f"Can't load {repo} from the Hugging Face Hub. {error}") from error


def _fetch_online(repo: str, file: str | None, revision: str | None) -> tuple[Path, str] | None:
    """As ``fetch``; None when the Hub cannot be reached."""
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        chosen = pick_files(siblings, file)
        folder = _download(repo, info.sha, chosen, siblings)
        if chosen[0].endswith(INDICES):
            parent = PurePosixPath(chosen[0]).parent
            shards = [str(parent / name) for name in shards_of(folder / chosen[0])]
            absent = [name for name in shards if name not in siblings]
            if absent:
                raise CheckpointError(f"Its index names {absent[0]!r:.80}, which it does not have.")
            _download(repo, info.sha, shards, siblings)
    except GatedRepoError as error:
        raise CheckpointError(
            "Its owner grants access on request; log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"It has no revision {revision!r:.80}.") from error
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
    except (HTTPError, ConnectionError, TimeoutError):
        return None
    return folder, chosen[0]


def _download(repo: str, commit: str | None, names: list[str], siblings: dict[str, Any]) -> Path:
    total = sum(siblings[name].size or 0 for name in names)
    if total > MAX_BYTES:
        raise CheckpointError(f"It has {total:,} bytes; up to {MAX_BYTES:,} are fetched.")
    folder = Path()
    for name in names:
        path = Path(hf_hub_download(repo, name, revision=commit))
        lfs = siblings[name].lfs
        if lfs is not None and sha256_of(path) != lfs.sha256:
            path = Path(hf_hub_download(repo, name, revision=commit, force_download=True))
            if sha256_of(path) != lfs.sha256:
                raise CheckpointError(f"Damaged: sha256 of {name} differs, twice; try again later.")
        folder = path.parents[len(PurePosixPath(name).parts) - 1]
    return folder


def _cached(repo: str, file: str | None, revision: str | None) -> tuple[Path, str]:
    """What an earlier download left here."""
    try:
        folder = Path(str(snapshot_download(repo, revision=revision, local_files_only=True)))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise CheckpointError(
            "It is not on this machine yet and needs the network, which can't be reached. Connect "
            "and try again, or give a local file or a bundled name."
        ) from error
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    chosen = pick_files(names, file)
    present = list(chosen)
    if chosen[0].endswith(INDICES):
        parent = PurePosixPath(chosen[0]).parent
        present += [str(parent / name) for name in shards_of(folder / chosen[0])]
    for name in present:
        path = (folder / name).resolve()
        if not path.is_file():
            raise CheckpointError(f"Its {name} was never fetched and needs the network.")
        # The cache names large files by their digest.
        if _SHA256.match(path.name) and sha256_of(path) != path.name:
            raise CheckpointError(
                f"Damaged: sha256 of {name} differs; connect to the network to fetch it again."
            )
    return folder, chosen[0]
