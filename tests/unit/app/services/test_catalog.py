"""What the pickers and the models page know about each model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.services.catalog import Catalog, Entry, size_in_words, typed_paths_allowed
from mask2kan.checkpoints import hub, load_model, save_model
from mask2kan.checkpoints.manifest import WEIGHTS, manifest
from mask2kan.errors import CheckpointError
from tests.fake_hub import FakeHub
from tests.tiny_models import tiny

ADE = "facebook/mask2former-swin-tiny-ade-semantic"
README = """---
license: mit
tags: [x]
---
# Tiny

![a street](https://example.org/street.png) <img src="https://example.org/x.png" alt="y">
[the code](train.py), [elsewhere](https://example.org), [below](#below)
<script>alert(1)</script>
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[FakeHub]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_model(tiny("mask2kan", "mobilenetv2"), folder / "model.safetensors")
    (folder / "README.md").write_text(README, encoding="utf-8")
    with (
        FakeHub({"someone/tiny": folder, ADE: folder}) as running,
        running.attach(tmp_path / "cache"),
    ):
        yield running


def by_source(entries: list[Entry]) -> dict[str, Entry]:
    return {entry.source: entry for entry in entries}


def test_all_of_the_manifest_is_listed_and_what_is_offered_comes_first(served: FakeHub) -> None:
    entries = Catalog(["mask2kan_road", "someone/tiny", "mask2former_road"]).entries()
    sources = [entry.source for entry in entries]
    assert sources[:3] == ["mask2kan_road", "someone/tiny", "mask2former_road"]
    assert set(sources) == {entry["name"] for entry in manifest()} | {"someone/tiny"}
    assert len(sources) == len(set(sources))
    assert not served.requests


def test_bundled_models(served: FakeHub) -> None:
    entry = by_source(Catalog([]).entries())["mask2kan_road"]
    assert entry.title == "Mask2KAN, road scenes (KAN head)"
    assert (entry.kind, entry.scene, entry.state) == ("bundled", "road", "bundled")
    assert entry.licence == "non-commercial research"
    assert "<h1>Mask2KAN, road scenes" in entry.card
    assert "<table>" in entry.card
    parts = ("mask2kan_road.safetensors", "road_trunk.safetensors")
    assert entry.bytes == sum((WEIGHTS / part).stat().st_size for part in parts)
    assert entry.state_text == f"Bundled, {entry.bytes / 1e6:.1f} MB"


def test_every_entry_of_the_manifest_says_its_scene() -> None:
    assert {entry["scene"] for entry in manifest()} == {"road", "indoor"}
    assert by_source(Catalog([]).entries())[ADE].scene == "indoor"


def test_a_hub_model_before_and_after_it_was_fetched(served: FakeHub) -> None:
    before = by_source(Catalog([]).entries())[ADE]
    assert (before.kind, before.state, before.bytes) == ("hub", "absent", 0)
    assert before.state_text == "Not downloaded"
    assert f'href="{served.url}/{ADE}"' in before.card
    hub.fetch(ADE, None, None)
    after = by_source(Catalog([]).entries())[ADE]
    assert after.state == "cached"
    assert after.bytes == (served.repositories[ADE] / "model.safetensors").stat().st_size
    assert after.state_text == f"Downloaded, {size_in_words(after.bytes)}"
    assert after.licence == "mit"
    assert after.title == before.title


def test_a_readme_loads_nothing_from_elsewhere_and_its_links_lead_to_its_page(
    served: FakeHub,
) -> None:
    hub.fetch("someone/tiny", None, None)
    card = Catalog([]).find("someone/tiny").card
    assert "<h1>Tiny</h1>" in card
    assert "a street" in card
    for gone in ("license:", "![", "<img", "street.png", "x.png", "script", "alert"):
        assert gone not in card
    for place in (f"{served.url}/someone/tiny/blob/main/train.py", "https://example.org"):
        assert f'<a href="{place}" ' in card


def test_files_on_this_machine(served: FakeHub, tmp_path: Path) -> None:
    path = str(tmp_path / "tiny" / "model.safetensors")
    [entry, folder, *_] = Catalog([path, str(tmp_path / "tiny")]).entries()
    assert (entry.title, entry.kind, entry.state) == ("model.safetensors", "file", "file")
    assert entry.bytes == Path(path).stat().st_size
    assert str(tmp_path) not in entry.card
    assert folder.bytes == entry.bytes + len(README)


def test_an_offered_file_that_is_gone_stays_as_absent(served: FakeHub) -> None:
    entry = Catalog(["/nowhere/model.safetensors"]).entries()[0]
    assert (entry.kind, entry.state, entry.bytes) == ("file", "absent", 0)


def test_any_repository_is_found_and_nothing_else(served: FakeHub, tmp_path: Path) -> None:
    entry = Catalog([]).find(" someone/new ")
    assert (entry.source, entry.title, entry.kind) == ("someone/new", "someone/new", "hub")
    assert (entry.scene, entry.licence) == ("", "see its page")
    path = str(tmp_path / "tiny" / "model.safetensors")
    assert Catalog([path]).find(path).kind == "file"
    for source in (path, "nothing", "/etc/passwd", "../x", ""):
        with pytest.raises(CheckpointError, match="owner/name"):
            Catalog([]).find(source)


def test_paths_are_taken_where_they_may_be_typed_and_where_they_are_offered(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    source = str(path)
    assert Catalog([], typed_paths=True).admit(f" {source} ") == (source, source)
    assert Catalog([source]).admit(source) == (source, source)
    refused = (source, str(tmp_path), f"file://{source}", f"//localhost{source}", "~", "x" * 5000)
    for name in (*refused, "a\0b", r"\\host\share\x.pth"):
        with pytest.raises(CheckpointError, match="owner/name"):
            Catalog([]).admit(name)
    for name in ("nowhere.safetensors", "a\0b", "x" * 5000):
        with pytest.raises(CheckpointError, match="no model"):
            Catalog([], typed_paths=True).admit(name)
    with pytest.raises(CheckpointError, match=r"Nearest: mask2kan_road"):
        Catalog([]).admit("mask2kan_raod")
    for nothing in (None, "", "  "):
        with pytest.raises(CheckpointError, match="No model was chosen"):
            Catalog([source], typed_paths=True).admit(nothing)


def test_a_repository_is_one_whatever_lies_here(
    served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that name is only whose who may type paths; strangers do not learn of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "tiny").mkdir(parents=True)
    assert Catalog([]).admit("someone/tiny").place == hub.Address("someone/tiny")
    assert Catalog([]).find("someone/tiny").kind == "hub"
    assert Catalog([], typed_paths=True).admit("someone/tiny").place == "someone/tiny"
    assert Catalog(["someone/tiny"]).find("someone/tiny").kind == "file"
    model = load_model(hub.Address("someone/tiny"), device="cpu")
    assert model.config.family == "mask2kan"


@pytest.mark.parametrize(
    ("host", "public", "allowed"),
    [
        (None, None, True),
        ("localhost", "", True),
        ("127.0.0.9", "0", True),
        ("[::1]", "false", True),
        ("127.0.0.1", "1", False),
        (None, "yes", False),
        ("0.0.0.0", None, False),
        ("::", None, False),
        ("192.168.1.5", "0", False),
        ("example.org", None, False),
        ("", None, False),
    ],
)
def test_who_may_type_paths(
    monkeypatch: pytest.MonkeyPatch, host: str | None, public: str | None, allowed: bool
) -> None:
    for name, value in (("GRADIO_SERVER_NAME", host), ("MASK2KAN_PUBLIC", public)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert typed_paths_allowed() == allowed


def test_clients_get_plain_values() -> None:
    told = by_source(Catalog([]).entries())["mask2kan_road"].to_json()
    assert list(told) == ["source", "title", "kind", "scene", "licence", "state", "bytes"]


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_400, "999 kB"),
        (999_600, "1.0 MB"),
        (7_633_832, "7.6 MB"),
        (189_679_896, "190 MB"),
        (1_234_000_000, "1.2 GB"),
        (99e9, "99.0 GB"),
    ],
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert size_in_words(size) == words
