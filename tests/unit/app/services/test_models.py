"""Fetching from a Hub on this machine, and which models stay in memory."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from app.services import models as service_module
from app.services.catalog import Catalog
from app.services.hub_downloads import time_in_words
from app.services.service import ModelService
from app.work.limits import Limits
from app.work.turns import BusyError
from mask2kan.checkpoints import open_checkpoint, save_model
from mask2kan.checkpoints.hub import cache_state, fetch
from mask2kan.errors import CheckpointError
from mask2kan.inference.predictor import Predictor
from tests.fake_hub import FakeHub
from tests.tiny_models import tiny

IMAGE = np.zeros((64, 64, 3), np.uint8)
SECONDS = 120  # only against hanging


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Nine files: one more than are kept whatever the memory."""
    folder = tmp_path_factory.mktemp("models")
    model = tiny("mask2kan", "mobilenetv2")
    paths = [folder / f"model_{index}.safetensors" for index in range(9)]
    for path in paths:
        save_model(model, path)
    return [str(path) for path in paths]


@pytest.fixture
def served(checkpoints: list[str], tmp_path: Path) -> Iterator[FakeHub]:
    """``someone/tiny``, a model, and ``someone/large``: none, but 8 MB."""
    folders = {name: tmp_path / name for name in ("tiny", "large")}
    for folder in folders.values():
        folder.mkdir()
    (folders["tiny"] / "model.safetensors").write_bytes(Path(checkpoints[0]).read_bytes())
    save_file({"x": torch.arange(2**20)}, folders["large"] / "model.safetensors")
    repositories = {f"someone/{name}": folder for name, folder in folders.items()}
    with FakeHub(repositories) as running, running.attach(tmp_path / "cache"):
        yield running


def ask(service: ModelService, *sources: str, seed: int = 0) -> list[service_module.Answer]:
    image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return service.models.answers(sources, image, "msp")


# ---------------------------------------------------------------- the Hub


def test_an_absent_model_is_fetched_then_used(service: ModelService, served: FakeHub) -> None:
    served.pause()
    told: list[tuple[float, str]] = []

    def tell(share: float, text: str) -> None:
        told.append((share, text))
        if share > 0:
            served.resume()

    with service.turn(["someone/tiny"], tell):
        [answer] = service.models.answers(["someone/tiny"], IMAGE, "msp")
    assert answer.source == "someone/tiny"
    assert answer.device == "cpu"
    assert answer.dtype in ("float32", "bfloat16")
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert any("tiny: " in text and " of " in text for _, text in told)


def test_what_is_here_is_used_without_asking_the_hub(
    service: ModelService, served: FakeHub
) -> None:
    service.fetch("someone/tiny")
    asked = len(served.requests)
    with service.turn(["someone/tiny"], pytest.fail):
        assert service.models.answers(["someone/tiny"], IMAGE, "msp")
    assert len(served.requests) == asked


def test_a_newer_version_is_another_model(service: ModelService, served: FakeHub) -> None:
    service.fetch("someone/tiny")
    first = ask(service, "someone/tiny")[0]
    save_model(tiny("mask2former", "mobilenetv2"), served.repositories["someone/tiny"] / "m.pth")
    (served.repositories["someone/tiny"] / "m.pth").replace(
        served.repositories["someone/tiny"] / "model.safetensors"
    )
    service.fetch("someone/tiny")
    assert first.config.mask_embed == "kan"
    assert ask(service, "someone/tiny")[0].config.mask_embed == "mlp"


def test_what_visitors_fetched_makes_room_for_the_next(
    checkpoints: list[str], served: FakeHub
) -> None:
    """What was used longest ago goes; what others have put into the cache stays."""
    fetch("someone/large", None, None)
    for name in ("second", "third"):
        served.repositories[f"someone/{name}"] = served.repositories["someone/tiny"]
    size = Path(checkpoints[0]).stat().st_size
    service = ModelService(device="cpu", limits=Limits(hub_bytes=round(1.5 * size)))
    service.fetch("someone/tiny")
    service.fetch("someone/second")
    with service.turn(["someone/tiny"]):
        assert service.models.answers(["someone/tiny"], IMAGE, "msp")
    service.fetch("someone/third")
    states = {
        name: cache_state(f"someone/{name}").state for name in ("large", "tiny", "second", "third")
    }
    assert states == {"large": "cached", "tiny": "cached", "second": "absent", "third": "cached"}


def test_two_visitors_share_one_download(service: ModelService, served: FakeHub) -> None:
    served.pause()
    told: dict[int, list[float]] = {0: [], 1: []}

    def tell(who: int, share: float) -> None:
        told[who].append(share)
        if all(any(shares) for shares in told.values()):
            served.resume()

    visitors = [
        threading.Thread(
            target=service.fetch, args=("someone/large", lambda share, _, who=who: tell(who, share))
        )
        for who in told
    ]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(SECONDS)
    assert served.count("GET", "model.safetensors") == 1
    assert all(any(0 < share < 1 for share in shares) for shares in told.values())
    assert cache_state("someone/large").state == "cached"


class Leaves(Exception):
    """A visitor pressed Cancel."""


def leave(share: float, _: str) -> None:
    if share:
        raise Leaves


def test_one_visitor_leaving_does_not_stop_the_other(
    service: ModelService, served: FakeHub
) -> None:
    served.pause()
    stays = threading.Thread(target=service.fetch, args=("someone/large",))
    stays.start()
    with pytest.raises(Leaves):
        service.fetch("someone/large", leave)
    assert stays.is_alive()
    served.resume()
    stays.join(SECONDS)
    assert served.count("GET", "model.safetensors") == 1
    assert cache_state("someone/large").state == "cached"


def test_the_last_one_leaving_stops_the_download(
    service: ModelService, served: FakeHub, tmp_path: Path
) -> None:
    served.pause()
    with pytest.raises(Leaves):
        service.fetch("someone/large", leave)
    served.resume()
    for thread in threading.enumerate():
        if thread.name.startswith("fetch "):
            thread.join(SECONDS)
    assert cache_state("someone/large").state == "absent"
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    service.fetch("someone/large")
    assert cache_state("someone/large").state == "cached"


def test_others_compute_while_a_model_is_fetched(
    service: ModelService, served: FakeHub, checkpoints: list[str]
) -> None:
    served.pause()

    def ask_for_large() -> None:
        with pytest.raises(CheckpointError), service.turn(["someone/large"]):
            service.models.answers(["someone/large"], IMAGE, "msp")

    waits = threading.Thread(target=ask_for_large)
    waits.start()
    assert served.halfway.wait(SECONDS)
    with service.turn([checkpoints[0]]):
        assert service.models.answers([checkpoints[0]], IMAGE, "msp")
    assert waits.is_alive()
    served.resume()
    waits.join(SECONDS)
    assert not waits.is_alive()


def test_every_waiting_visitor_hears_why_it_failed(service: ModelService, served: FakeHub) -> None:
    for _ in range(2):
        with pytest.raises(CheckpointError, match="No such repository"):
            service.fetch("someone/nothing")
    served.down = True
    turn = service.turn(["someone/tiny"])
    with pytest.raises(CheckpointError, match="needs the network"), turn:
        pytest.fail("It had its turn without the model.")


def test_in_public_nobody_waits_for_a_strangers_download(served: FakeHub) -> None:
    limits, sources = Limits(fetch_any=False), ["someone/tiny"]
    service = ModelService(device="cpu", limits=limits)
    with pytest.raises(CheckpointError, match="not on this server"), service.turn(sources):
        pytest.fail("It had its turn without the model.")
    assert not served.requests
    ours = ModelService(device="cpu", limits=limits, catalog=Catalog(sources))
    turn = ours.turn(sources, fetches=False)
    with pytest.raises(CheckpointError, match="not on this server"), turn:
        pytest.fail("It had its turn without the model.")
    with ours.turn(sources):
        assert ours.models.answers(sources, IMAGE, "msp")
    with service.turn(sources):  # it is here now
        assert service.models.answers(sources, IMAGE, "msp")


def test_strangers_fetch_two_models_at_once(served: FakeHub) -> None:
    service = ModelService(device="cpu", limits=Limits(hub_bytes=10**9))
    served.pause()
    for name in ("second", "third"):
        served.repositories[f"someone/{name}"] = served.repositories["someone/large"]

    under_way = [
        threading.Thread(target=service.fetch, args=(f"someone/{name}",))
        for name in ("large", "second")
    ]
    for thread in under_way:
        thread.start()
    deadline = time.monotonic() + SECONDS
    while len(service._fetches._running) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(BusyError, match="2 models"):
        service.fetch("someone/third")
    service.catalog = Catalog(["someone/third"])  # one that the app names itself
    under_way.append(threading.Thread(target=service.fetch, args=("someone/third",)))
    under_way[-1].start()
    while len(service._fetches._running) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    served.resume()
    for thread in under_way:
        thread.join(SECONDS)
    assert cache_state("someone/third").state == "cached"


def test_what_is_no_repository_is_not_asked_for(service: ModelService, served: FakeHub) -> None:
    service.fetch("mask2kan_road")
    with pytest.raises(CheckpointError, match="owner/name"):
        service.fetch("not a repository")
    assert not served.requests


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs")
def test_a_typed_path_that_is_no_file_is_not_opened(service: ModelService, tmp_path: Path) -> None:
    """Where paths may be typed, too: reading these would never end."""
    os.mkfifo(tmp_path / "model.safetensors")
    for source in (tmp_path / "model.safetensors", "/dev/zero"):
        assert service.catalog.find(str(source)).bytes == 0
        with pytest.raises(CheckpointError, match="no regular file"):
            service.models.answers([str(source)], IMAGE, "msp")
    with pytest.raises(CheckpointError, match="no file of weights"):
        service.models.answers([str(tmp_path)], IMAGE, "msp")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "1 s"), (42.4, "42 s"), (100, "2 min"), (9000, "2 h")]
)
def test_times_are_rounded_as_in_speech(seconds: float, words: str) -> None:
    assert time_in_words(seconds) == words


# ---------------------------------------------------------------- memory


def test_with_room_models_stay(
    service: ModelService, checkpoints: list[str], loads: list[str]
) -> None:
    for seed, source in enumerate((*checkpoints[:4], *checkpoints[:4])):
        ask(service, source, seed=seed)
    assert loads == checkpoints[:4]


def test_never_more_than_eight(
    service: ModelService, checkpoints: list[str], loads: list[str]
) -> None:
    for seed, source in enumerate((*checkpoints, checkpoints[1], checkpoints[0])):
        ask(service, source, seed=seed)
    assert loads == [*checkpoints, checkpoints[0]]


def test_the_least_recently_used_leave_when_memory_is_short(
    service: ModelService,
    checkpoints: list[str],
    loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that has room for two models besides the work."""
    size = open_checkpoint(checkpoints[0]).model_bytes

    def available(_: torch.device) -> int:
        return service_module._WORKING_BYTES + (2 - len(service.models._models)) * size

    monkeypatch.setattr(service_module, "available_memory", available)
    order = [0, 1, 0, 2, 0, 1]
    for seed, index in enumerate(order):
        ask(service, checkpoints[index], seed=seed)
    assert loads == [checkpoints[index] for index in (0, 1, 2, 1)]
    assert len(service.models._models) == 2


def test_a_pair_stays_together_however_short_memory_is(
    service: ModelService,
    checkpoints: list[str],
    loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dropping the left model to load the right one would only load it again the next time."""
    monkeypatch.setattr(service_module, "available_memory", lambda _: 0)
    for seed in range(2):
        ask(service, *checkpoints[:2], seed=seed)
    assert loads == checkpoints[:2]
    ask(service, checkpoints[2], seed=3)
    assert len(service.models._models) == 1
    assert service.models._comparison is not None
    assert len(service.models._comparison.predictors) == 1


def test_where_memory_cannot_be_measured_only_the_number_counts(
    service: ModelService,
    checkpoints: list[str],
    loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_module, "available_memory", lambda _: None)
    for seed, source in enumerate((*checkpoints[:3], checkpoints[0])):
        ask(service, source, seed=seed)
    assert loads == checkpoints[:3]


def test_the_edges_of_a_kan_on_a_large_picture_are_answered_by_one_pass(
    service: ModelService, checkpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of large pictures are not kept, their queries are."""
    monkeypatch.setattr(service_module, "_LARGEST_ANSWER_KEPT", 0)
    calls: list[int] = []
    run = Predictor.__call__
    monkeypatch.setattr(
        Predictor, "__call__", lambda *args, **options: (calls.append(1), run(*args, **options))[1]
    )
    inputs = [service.models.inside(checkpoints[0], IMAGE).queries for _ in range(3)]
    assert len(calls) == 1
    assert torch.equal(inputs[0], inputs[2])
    [answer] = service.models.answers(checkpoints[:1], IMAGE, "msp")
    assert torch.equal(inputs[0], torch.from_numpy(answer.prediction.queries))
