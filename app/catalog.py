"""The models the page can offer: what they are called, where they are, what is known about them.

Bundled ones and recommended Hub repositories come from ``weights/manifest.json``, local files from
whoever started the app, any other Hub repository from the visitor. Nothing here asks the network.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from app.strings import MODELS
from mask2kan.checkpoints.hub import WEIGHTS, cache_state, hub_address, manifest, page_of, readme_of
from mask2kan.errors import CheckpointError, unknown

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_LICENCE = re.compile(r"^license:\s*['\"]?([\w.+-]+)", re.MULTILINE)
_PICTURE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_PICTURE_BY_NAME = re.compile(r"!\[([^\]]*)\]\[[^\]]*\]")
_CODE = re.compile(r"<(script|style)\b.*?</\1\s*>", re.DOTALL | re.I)
_TAG = re.compile(r"</?(?:img|picture|source|video|audio|iframe|svg|style|script)\b[^>]*>", re.I)
_RELATIVE_LINK = re.compile(r"\]\((?!\w+:|#|//)/?(?:\./)?([^)\s]*)")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model as the page shows it.

    Attributes:
        source: what ``load_model`` takes.
        title: what it is called.
        kind: ``bundled``, ``hub``, or ``file`` for a file or folder on this machine.
        scene: ``road`` or ``indoor``; empty where nobody said.
        licence: of the weights.
        state: ``bundled``, ``cached``, ``absent`` or ``file``.
        bytes: what it takes on disk; 0 when absent.
        state_text: state and size in words.
        card: Markdown about it.
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
        """What clients get to know: all but the card and the words."""
        names = ("source", "title", "kind", "scene", "licence", "state", "bytes")
        return {name: getattr(self, name) for name in names}


def catalog(offered: Sequence[str]) -> list[Entry]:
    """Everything the pickers list: what is offered first, then the rest of the manifest.

    Args:
        offered: names, paths and repository ids this app was started with; those that do not
            exist stay, as absent.

    Raises:
        CheckpointError: when the manifest is damaged.
    """
    sources = dict.fromkeys([*offered, *(entry["name"] for entry in manifest())])
    return [_entry(source) for source in sources]


def find(source: str, offered: Sequence[str]) -> Entry:
    """An entry of the catalog, or any Hub repository by its id.

    Raises:
        CheckpointError: for anything else; paths only where they are offered, since the page need
            not tell visitors which files its machine has.
    """
    source = source.strip()
    named = {*offered, *(entry["name"] for entry in manifest())}
    if source not in named and (Path(source).exists() or hub_address(source) is None):
        raise CheckpointError(
            f"{unknown('model', source[:120], sorted(named))} A Hub repository reads like "
            "owner/name."
        )
    return _entry(source)


def size_in_words(size: float) -> str:
    """A number of bytes, to two or three digits.

    Args:
        size: bytes.
    """
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.1f} {unit}" if unit != "B" and size < 9.95 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _entry(source: str) -> Entry:
    known = next((entry for entry in manifest() if entry["name"] == source), None)
    path = Path(source).expanduser()
    if path.exists():
        size = _size(path)
        return Entry(
            source=source,
            title=path.name,
            kind="file",
            scene="",
            licence=MODELS["licence_file"],
            state="file",
            bytes=size,
            state_text=MODELS["state_file"].format(size=size_in_words(size)),
            card=MODELS["card_file"].format(name=path.name.replace("`", "")),
        )
    here = cache_state(source)
    told = known or {}
    address = hub_address(source)
    readme = readme_of(source)
    return Entry(
        source=source,
        title=str(told.get("title") or source),
        kind="bundled" if told.get("file") else "hub" if address else "file",
        scene=str(told.get("scene") or ""),
        licence=_licence(told, readme),
        state=here.state,
        bytes=here.bytes,
        state_text=MODELS[f"state_{here.state}"].format(size=size_in_words(here.bytes)),
        card=_bundled_card(told) if address is None else _hub_card(address.repo, readme),
    )


def _licence(told: dict[str, Any], readme: str | None) -> str:
    """What the repository itself says, where that is here, else the manifest."""
    front = _FRONT_MATTER.match(readme or "")
    stated = _LICENCE.search(front[1]) if front and not told.get("file") else None
    if stated is not None and stated[1] != "other":
        return stated[1]
    return str(told.get("licence") or MODELS["licence_unknown"])


def _bundled_card(told: dict[str, Any]) -> str:
    path = WEIGHTS / Path(str(told.get("card") or "")).name
    if path.suffix != ".md" or not path.is_file():
        return MODELS["card_none"]
    return path.read_text(encoding="utf-8")


def _hub_card(repo: str, readme: str | None) -> str:
    page = page_of(repo)
    if readme is None:
        return MODELS["card_hub"].format(repo=repo, page=page)
    return f"{MODELS['card_source'].format(repo=repo, page=page)}\n\n{_harmless(readme, page)}"


def _harmless(readme: str, page: str) -> str:
    """A repository's README without what would be loaded from elsewhere; its own links work."""
    text = _FRONT_MATTER.sub("", readme)
    text = _PICTURE_BY_NAME.sub(r"\1", _PICTURE.sub(r"\1", text))
    text = _RELATIVE_LINK.sub(rf"]({page}/blob/main/\1", text)
    return _TAG.sub("", _CODE.sub("", text)).strip()


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
