"""The models the page can offer: names, places, and facts; nothing here asks the network."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import ipaddress
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mask2kan.checkpoints import list_weights
from mask2kan.checkpoints.formats.native import stored_config
from mask2kan.checkpoints.hub import cache_state, readme_of
from mask2kan.checkpoints.manifest import (
    Address,
    bundled_file,
    entry_of,
    hub_address,
    is_repo_id,
    manifest,
    named_address,
)
from mask2kan.errors import CheckpointError, shortened

from ..startup import is_public
from ..strings import MODELS
from .cards import bundled_card, hub_card, licence_in, rendered

logger = logging.getLogger(__name__)


def title(source: str) -> str:
    """Name a model for readers: its title in the manifest, its repository id or file name."""
    listed = entry_of(source).get("title")
    return str(listed) if listed else source if is_repo_id(source) else Path(source).name


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model as the page shows it.

    Attributes:
        source: what ``load_model`` takes.
        scene: ``road`` or ``indoor``; empty where unknown.
        bytes: on disk; 0 when absent.
        state_text: state and size in words.
        card: HTML.
    """

    source: str
    title: str
    kind: Literal["bundled", "hub", "file"]
    scene: str
    licence: str
    state: Literal["bundled", "cached", "absent", "file"]
    bytes: int
    state_text: str
    card: str

    def to_json(self) -> dict[str, Any]:
        """Select what clients get: all but the card and the words."""
        names = ("source", "title", "kind", "scene", "licence", "state", "bytes")
        return {name: getattr(self, name) for name in names}


class Model(NamedTuple):
    """A model that may be asked for.

    Attributes:
        name: what visitors call it.
        place: what ``load_model`` takes for it.
    """

    name: str
    place: str | Address


def offered_models(models: Sequence[str] | None = None) -> list[str]:
    """List what the pickers offer: ``models``, else ``MASK2KAN_MODELS``, else the bundled ones.

    ``MASK2KAN_MODELS`` holds names or paths separated like ``PATH``, the left default first, then
    the right one.
    """
    if models is None:
        names = os.environ.get("MASK2KAN_MODELS", "").split(os.pathsep)
        models = list(filter(None, names)) or _bundled()
    return list(models)


def typed_paths_allowed(host: str | None = None) -> bool:
    """Whether visitors may type the path of a checkpoint: only on this machine.

    So the server has to listen on a loopback address (``host``, else ``GRADIO_SERVER_NAME``);
    ``MASK2KAN_PUBLIC`` says that others reach it all the same, through a proxy.
    """
    if is_public():
        return False
    host = (host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")).strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Catalog:
    """The models visitors may name.

    Attributes:
        offered: names, paths and repository ids the app was started with.
        typed_paths: whether paths of this machine are admitted, too.
    """

    def __init__(self, offered: Sequence[str], *, typed_paths: bool = False) -> None:
        self.offered = tuple(offered)
        self.typed_paths = typed_paths

    @classmethod
    def of_environment(
        cls, models: Sequence[str] | None = None, host: str | None = None
    ) -> Catalog:
        """Offer ``offered_models``; admit paths where they may be typed.

        What names nothing is offered all the same, since a file may come later, and logged.
        """
        offered = offered_models(models)
        names = {entry["name"] for entry in manifest()}
        for name in offered:
            if name not in names and named_address(name) is None and not _exists(name):
                logger.warning("MASK2KAN_MODELS names %s: there is no such file or model", name)
        return cls(offered, typed_paths=typed_paths_allowed(host))

    def admit(self, name: str | None) -> Model:
        """Find a model by name: one offered, one of the manifest, or any Hub repository.

        Unless paths may be typed, the text decides: which files this machine has is not the
        visitors' business, and a path of another one would be asked for over the network.

        Raises:
            CheckpointError: for anything else, or nothing.
        """
        name = str(name or "").strip()
        if not name:
            raise CheckpointError(MODELS["none_chosen"])
        if name in self.offered or (self.typed_paths and _exists(name)):
            return Model(name, hub_address(name) or name)
        address = named_address(name)
        if address is not None:
            return Model(name, address)
        names = {*self.offered, *(entry["name"] for entry in manifest())}
        if name in names:
            return Model(name, name)
        shown = shortened(name)
        near = ", ".join(difflib.get_close_matches(shown, names, n=3))
        hint = MODELS["nearest"].format(names=near) if near else ""
        raise CheckpointError(MODELS["unknown"].format(name=repr(shown), hint=hint))

    def name(self, name: str | None) -> str:
        """Check that a model is admitted; return its name, as pickers hold it.

        Raises:
            CheckpointError: as ``admit``.
        """
        return self.admit(name).name

    def proposes(self, name: str) -> bool:
        """Whether the app itself names a model: it was started with it, or its manifest has it."""
        return name in self.offered or any(entry["name"] == name for entry in manifest())

    def pair(self) -> tuple[str, str] | None:
        """Return what is compared at first: the first two models offered, or one with itself."""
        return (self.offered[0], self.offered[:2][-1]) if self.offered else None

    def choices(self) -> list[tuple[str, str]]:
        """List (title, name) of every model that pickers offer."""
        names = dict.fromkeys([*self.offered, *(entry["name"] for entry in manifest())])
        return [(title(name), name) for name in names]

    def may_have_kan(self, name: str) -> bool:
        """Whether a model's head is a KAN, or may be: some say so only when they are loaded.

        Raises:
            CheckpointError: as ``admit``.
        """
        return _head(self.admit(name)) in {"kan", ""}

    def entries(self) -> list[Entry]:
        """List the offered models, then the rest of the manifest; absent ones stay, as absent.

        Raises:
            CheckpointError: when the manifest is damaged.
        """
        names = dict.fromkeys([*self.offered, *(entry["name"] for entry in manifest())])
        return [_entry(self.admit(name)) for name in names]

    def find(self, name: str | None) -> Entry:
        """Describe a model.

        Raises:
            CheckpointError: as ``admit``.
        """
        return _entry(self.admit(name))


def _head(model: Model) -> str:
    """Read the kind of a model's ``mask_embed`` off its file; empty where that does not say it."""
    if not isinstance(model.place, str):
        return ""
    entry = entry_of(model.name)
    path = bundled_file(entry)[0] if entry.get("file") else Path(model.place).expanduser()
    return str(stored_config(path).get("mask_embed", ""))


def size_of(model: Model) -> int:
    """Count a model's bytes on disk; 0 where there are none, or they cannot be counted."""
    if isinstance(model.place, str):
        path = Path(model.place).expanduser()
        with contextlib.suppress(OSError):
            if path.is_dir():
                return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            if path.is_file():
                return path.stat().st_size
    return cache_state(model.place).bytes


def size_in_words(size: float) -> str:
    """Write a number of bytes with two or three digits."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.1f} {unit}" if unit != "B" and size < 9.95 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _bundled() -> list[str]:
    """List bundled models, the KAN of the pair first."""
    return sorted(list_weights(bundled_only=True), key=lambda name: "kan" not in name)


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, nobody's home, NUL
        return False


def _entry(model: Model) -> Entry:
    if isinstance(model.place, str) and _exists(model.place):
        path = Path(model.place).expanduser()
        size = size_of(model)
        return Entry(
            source=model.name,
            title=path.name,
            kind="file",
            scene="",
            licence=MODELS["licence_file"],
            state="file",
            bytes=size,
            state_text=MODELS["state_file"].format(size=size_in_words(size)),
            card=rendered(MODELS["card_file"].format(name=path.name.replace("`", ""))),
        )
    listed = entry_of(model.name)
    here = cache_state(model.place)
    readme = readme_of(model.place)
    # What the repository itself says, where that is here.
    stated = licence_in(readme) if readme else None
    address = model.place if isinstance(model.place, Address) else None
    return Entry(
        source=model.name,
        title=str(listed.get("title") or model.name),
        kind="bundled" if listed.get("file") else "hub" if address else "file",
        scene=str(listed.get("scene") or ""),
        licence=stated or str(listed.get("licence") or MODELS["licence_unknown"]),
        state=here.state,
        bytes=here.bytes,
        state_text=MODELS[f"state_{here.state}"].format(size=size_in_words(here.bytes)),
        card=hub_card(address.repo, readme) if address else bundled_card(str(listed.get("card"))),
    )
