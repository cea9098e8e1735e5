"""The Hub's own client, over real HTTP, against a Hub on this machine."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import file_download
from huggingface_hub.utils import close_session
from safetensors.torch import save_file

from mask2kan.checkpoints import hub, load_model, save_model, save_pair
from mask2kan.checkpoints.files.opened import sha256_of
from mask2kan.checkpoints.manifest import WEIGHTS
from mask2kan.errors import CheckpointError
from tests.fake_hub import FakeHub
from tests.tiny_models import tiny

CARD = "---\nlicense: mit\n---\n# Tiny\n"
NEEDS_NETWORK = "not on this machine yet and needs the network"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a card; a megabyte, so that a download takes a few steps."""
    folder = tmp_path_factory.mktemp("repository")
    save_model(tiny("mask2kan", "mobilenetv2"), folder / "model.safetensors")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder


@pytest.fixture
def served(repository: Path, tmp_path: Path) -> Iterator[FakeHub]:
    """The client points at it, with an empty cache in ``tmp_path / "cache"``."""
    folders = {"someone/tiny": repository, "someone/gated": repository}
    with FakeHub(folders, gated=["someone/gated"]) as running, running.attach(tmp_path / "cache"):
        yield running


@pytest.fixture
def large(served: FakeHub, tmp_path: Path) -> Path:
    """``someone/large``: no checkpoint, but 4 MB in two files."""
    folder = tmp_path / "large"
    folder.mkdir()
    save_file({"x": torch.arange(2**20)}, folder / "model.safetensors")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    served.repositories["someone/large"] = folder
    return folder


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)


def test_a_repository_loads_and_loads_again_without_network(
    served: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.cache_state("someone/tiny").state == "absent"
    model = load_model("someone/tiny", device="cpu")
    assert model.source == "someone/tiny"
    state = hub.cache_state("someone/tiny")
    weights = served.repositories["someone/tiny"] / "model.safetensors"
    assert (state.state, state.bytes) == ("cached", weights.stat().st_size)
    asked = len(served.requests)
    with monkeypatch.context() as patch:
        offline(patch)
        again = load_model("someone/tiny", device="cpu")
    with hub.cached_only():
        load_model("someone/tiny", device="cpu")
    assert len(served.requests) == asked
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_the_card_comes_with_the_weights(served: FakeHub) -> None:
    assert hub.readme_of("someone/tiny") is None
    hub.fetch("someone/tiny", None, None)
    assert hub.readme_of("someone/tiny") == CARD
    assert hub.page_of("someone/tiny") == f"{served.url}/someone/tiny"


def test_what_is_here_is_not_fetched_again_and_what_is_new_is(
    served: FakeHub, tmp_path: Path
) -> None:
    folder = tmp_path / "changing"
    folder.mkdir()
    save_model(tiny("mask2kan", "mobilenetv2"), folder / "model.safetensors")
    served.repositories["someone/changing"] = folder
    first, _ = hub.fetch("someone/changing", None, None)
    reports: list[tuple[int, int]] = []
    hub.fetch("someone/changing", None, None, lambda *report: reports.append(report))
    assert served.count("GET", "model.safetensors") == 1
    size = (folder / "model.safetensors").stat().st_size
    assert reports[-1] == (size, size)
    (folder / "README.md").write_text("new", encoding="utf-8")
    assert hub.fetch("someone/changing", None, None)[0] != first
    assert served.count("GET", "model.safetensors") == 1
    save_model(tiny("mask2former", "mobilenetv2"), folder / "model.safetensors")
    second, name = hub.fetch("someone/changing", None, None)
    assert second != first
    assert sha256_of(second / name) == sha256_of(folder / "model.safetensors")
    assert hub.cache_state("someone/changing").folder == second


def test_progress_counts_all_files_up_to_their_sum(served: FakeHub, large: Path) -> None:
    reports: list[tuple[int, int]] = []
    hub.fetch("someone/large", None, None, lambda *report: reports.append(report))
    total = sum(path.stat().st_size for path in large.iterdir())
    assert {report[1] for report in reports} == {total}
    counts = [report[0] for report in reports]
    assert counts == sorted(counts)
    assert counts[0] == len(CARD)
    assert counts[-1] == total
    assert len(set(counts)) > 8


def test_shards_are_counted_together(served: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    for index in (1, 2):
        save_file({f"x{index}": torch.ones(9)}, folder / f"model-{index}.safetensors")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"x1": "model-1.safetensors", "x2": "model-2.safetensors"}}',
        encoding="utf-8",
    )
    served.repositories["someone/sharded"] = folder
    reports: list[tuple[int, int]] = []
    _, name = hub.fetch("someone/sharded", None, None, lambda *report: reports.append(report))
    assert name == "model.safetensors.index.json"
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert reports[-1] == (total, total)
    assert hub.cache_state("someone/sharded").bytes == total


class Stopped(Exception):
    """What a test raises from its progress."""


def test_an_error_in_progress_stops_at_once_and_keeps_nothing_half(
    served: FakeHub, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[int] = []

    def stop(here: int, total: int) -> None:
        reports.append(here)
        if here > total / 8:
            raise Stopped

    with pytest.raises(Stopped):
        hub.fetch("someone/large", None, None, stop)
    total = sum(path.stat().st_size for path in large.iterdir())
    assert max(reports) == reports[-1] <= total / 8 + hub._STEP
    assert hub.cache_state("someone/large").state == "absent"
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    with monkeypatch.context() as patch:
        offline(patch)
        with pytest.raises(CheckpointError, match=NEEDS_NETWORK):
            hub.fetch("someone/large", None, None)
    served.bytes_per_second = None
    folder, name = hub.fetch("someone/large", None, None)
    assert sha256_of(folder / name) == sha256_of(large / name)
    assert served.count("GET", "README.md") == 1  # whole before it was stopped


def test_downloads_leave_the_clients_settings_to_whoever_else_uses_it(
    served: FakeHub, large: Path
) -> None:
    before = vars(hub.constants).copy()
    changed: list[str] = []

    def look(*_: int) -> None:
        changed.extend(name for name, value in vars(hub.constants).items() if value != before[name])

    hub.fetch("someone/large", None, None, look)
    assert not changed


def test_what_was_not_asked_for_is_not_missed(served: FakeHub, large: Path) -> None:
    """The client notes which files a repository has, and by itself wants them all."""
    (large / "notes.txt").write_text("of no use here", encoding="utf-8")
    hub.snapshot_download("someone/large", allow_patterns="README.md")
    assert hub.cache_state("someone/large").state == "absent"
    hub.fetch("someone/large", None, None)
    assert hub.cache_state("someone/large").state == "cached"


def test_where_there_are_no_links_a_file_is_kept_once(
    served: FakeHub, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda *_: False)
    served.damaged = {"someone/large/model.safetensors"}
    with pytest.raises(CheckpointError, match="Damaged"):
        hub.fetch("someone/large", None, None)
    served.damaged.clear()
    folder, name = hub.fetch("someone/large", None, None)
    content = (large / name).read_bytes()
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path for path in files if path.read_bytes() == content] == [folder / name]
    asked = served.count("GET", name)
    hub.fetch("someone/large", None, None)
    assert served.count("GET", name) == asked


def test_a_broken_connection_goes_on_where_it_broke(served: FakeHub, large: Path) -> None:
    served.cuts = [3 * 2**20]
    reports: list[int] = []
    folder, name = hub.fetch("someone/large", None, None, lambda done, _: reports.append(done))
    assert sha256_of(folder / name) == sha256_of(large / name)
    assert served.count("GET", name) == 2
    assert reports == sorted(reports)


def test_a_file_that_is_kept_elsewhere_is_fetched_from_there_without_the_token(
    served: FakeHub, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    served.elsewhere = True
    served.cuts = [3 * 2**20]
    folder, name = hub.fetch("someone/large", None, None)
    assert sha256_of(folder / name) == sha256_of(large / name)
    assert served.tokens == [None, None]


def test_a_damaged_file_is_refused_and_not_kept(
    served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.damaged = {"someone/tiny/model.safetensors"}
    with pytest.raises(CheckpointError, match=r"Damaged: sha256 of model\.safetensors differs"):
        load_model("someone/tiny")
    assert served.count("GET", "model.safetensors") == 2
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert hub.cache_state("someone/tiny").state == "absent"
    with monkeypatch.context() as patch:
        offline(patch)
        with pytest.raises(CheckpointError, match=NEEDS_NETWORK):
            load_model("someone/tiny")
    served.damaged.clear()
    assert load_model("someone/tiny", device="cpu")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("someone/nothing", "No such repository, or a private one"),
        ("someone/gated", "grants access on request; log in with `hf auth login`"),
    ],
)
def test_repositories_that_may_not_be_read_are_explained(
    served: FakeHub, source: str, said: str
) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(source)
    assert str(caught.value).startswith(f"Can't load {source} from the Hugging Face Hub.")
    assert hub.cache_state(source).state == "absent"


def test_an_unknown_revision_is_named(served: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="no revision 'v9'"):
        load_model("someone/tiny", revision="v9")


def test_a_commit_is_found_again_by_its_name(
    served: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = served.commit("someone/tiny")
    folder, _ = hub.fetch("someone/tiny", None, commit)
    assert folder.name == commit
    offline(monkeypatch)
    assert hub.fetch("someone/tiny", None, commit)[0] == folder


@pytest.mark.parametrize("fault", ["down", "portal"])
def test_a_hub_that_does_not_answer_leaves_what_is_cached(served: FakeHub, fault: str) -> None:
    setattr(served, fault, True)
    with pytest.raises(CheckpointError, match=NEEDS_NETWORK):
        load_model("someone/tiny")
    setattr(served, fault, False)
    load_model("someone/tiny", device="cpu")
    setattr(served, fault, True)
    assert load_model("someone/tiny", device="cpu")


def test_nobody_listening_is_no_network(served: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setattr(hub.constants, "ENDPOINT", url)
    with pytest.raises(CheckpointError, match=NEEDS_NETWORK):
        load_model("someone/tiny")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "pip install socksio"),
        ("HTTP_PROXY", "socks4://127.0.0.1:9", "Unknown scheme for proxy URL"),
        ("HTTP_PROXY", "http://127.0.0.1:port", "Invalid port"),
        ("SSL_CERT_FILE", "/nowhere/certificates.pem", "No such file"),
    ],
)
def test_a_client_that_cannot_be_made_is_explained_and_leaves_what_is_cached(
    served: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    load_model("someone/tiny")
    for other in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.lower(), raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "socksio", None)
    close_session()
    asked = len(served.requests)
    try:
        with pytest.raises(CheckpointError, match=words):
            hub.fetch("someone/other", None, None)
        assert load_model("someone/tiny").source
    finally:
        close_session()
    assert len(served.requests) == asked


@pytest.mark.parametrize("step", ["hf_hub_download", "_pieces"])
def test_a_full_disk_is_said(served: FakeHub, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, step, full)
    with pytest.raises(CheckpointError, match="broke off: No space left on device"):
        hub.fetch("someone/tiny", None, None)


def test_states_of_bundled_names_and_of_what_is_neither(served: FakeHub) -> None:
    state = hub.cache_state("mask2kan_road")
    assert state.state == "bundled"
    parts = ("mask2kan_road.safetensors", "road_trunk.safetensors")
    assert state.bytes == sum((WEIGHTS / part).stat().st_size for part in parts)
    for source in ("", "nothing", "a\0b", "../x", str(WEIGHTS)):
        assert hub.cache_state(source).state == "absent"
        assert hub.hub_address(source) is None
    assert hub.hub_address("mask2kan_road") is None
    assert hub.hub_address("someone/tiny") == ("someone/tiny", None, None)
    assert hub.readme_of("mask2kan_road") is None


def test_a_heads_trunk_is_fetched_with_it(
    served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pair"
    model = tiny("mask2kan", "mobilenetv2")
    save_pair({"kan": model}, folder, "trunk")
    served.repositories["someone/pair"] = folder
    reports: list[tuple[int, int]] = []
    hub.fetch("someone/pair", "kan.safetensors", None, lambda *report: reports.append(report))
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert reports[-1] == (total, total)
    address = hub.Address("someone/pair", "kan.safetensors")
    assert hub.cache_state(address).bytes == total
    offline(monkeypatch)
    loaded = load_model("someone/pair", file="kan.safetensors", device="cpu")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_a_server_without_ranges_begins_anew(served: FakeHub, large: Path) -> None:
    served.ranges = False
    served.cuts = [3 * 2**20, 2**20]
    folder, name = hub.fetch("someone/large", None, None)
    assert sha256_of(folder / name) == sha256_of(large / name)
    assert served.count("GET", name) == 3


@pytest.mark.parametrize("content", [b"", b"This network blocks files."])
def test_answers_that_end_early_are_not_asked_for_without_end(
    served: FakeHub, large: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    served.ranges = False
    served.instead = content
    monkeypatch.setattr(hub, "_PAUSE", 0)
    with pytest.raises(CheckpointError, match="broke off: it ended early"):
        hub.fetch("someone/large", None, None)
    assert served.count("GET", "model.safetensors") <= hub._RETRIES + 2
