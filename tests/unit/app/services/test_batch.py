"""Many pictures one after the other: rows, order, files, and what is kept of each."""

from __future__ import annotations

import contextlib
import contextvars
import csv
import gc
import io
import json
import threading
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app.messages import shows_errors_of_steps
from app.services import batch as batch_module
from app.services import batch_items
from app.services.batch import CSV_NAME, THUMBNAIL_WIDTH, ZIP_NAME, Batch, run_batch
from app.services.batch_items import MAX_PICTURES, BatchItem, items_of, read_item
from app.services.batch_rows import ORDERS, BatchRow, ModelNumbers, ordered, record, write_csv
from app.services.films import rate_of, write_film
from app.services.models import Answer, Models
from app.services.reading import Reading
from app.services.service import ModelService
from app.tabs.batch import BatchHandlers
from app.work.turns import Asker, BusyError, work_for
from mask2kan.checkpoints import load_model, save_model
from mask2kan.errors import (
    CheckpointError,
    ConfigError,
    ImageError,
    OutOfMemoryError,
    WriteError,
)
from mask2kan.inference.predictor import Predictor
from mask2kan.media.videos import read_frames
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import encode
from tests.tiny_models import calibrated, tiny

HEIGHT, WIDTH = 64, 96
FILES_PER_PICTURE = {
    "left_overlay.png",
    "left_score16.png",
    "right_overlay.png",
    "right_score16.png",
    "summary.json",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tiny KAN and a tiny MLP; the KAN is calibrated so that about a third is anomalous."""
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for seed, family in enumerate(("mask2kan", "mask2former")):
        model = tiny(family, seed=seed, num_classes=11, num_decoder_layers=1)
        path = folder / f"{family}_mobilenetv2.safetensors"
        save_model(model if seed else calibrated(model, _noise(0), 70), path)
        paths.append(str(path))
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def service() -> ModelService:
    return ModelService(device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Four pictures as an upload component describes them, and a broken one among them."""
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for seed in range(5):
        path = folder / f"{seed}.png"
        if seed == 2:
            path.write_text("this is not a picture", encoding="utf-8")
        else:
            Image.fromarray(_noise(seed)).save(path)
        files.append({"path": str(path), "orig_name": f"road {seed}.png"})
    return files


def _noise(seed: int) -> np.ndarray:
    """Noise of another kind and brightness for each seed, so that scores differ."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256 - 40 * (seed % 4), (HEIGHT // 16, WIDTH // 16, 3))
    return cv2.resize(coarse.astype(np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def _video(path: Path, frames: int = 8) -> Path:
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 4, (WIDTH, HEIGHT)
    )
    for seed in range(frames):
        writer.write(_noise(seed))
    writer.release()
    return path


def _run(
    service: Any,
    files: Any,
    models: tuple[str, str],
    folder: Path,
    score: str = "msp",
    reading: Reading | None = None,
) -> Batch:
    items = items_of(files)
    batch = Batch(folder / "batch", items)
    for _ in run_batch(service, items, *models, score, batch, reading=reading):
        pass
    batch.finish()
    return batch


@pytest.fixture(scope="module")
def done(
    service: ModelService,
    images: list[dict[str, str]],
    models: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Batch:
    return _run(service, images, models, tmp_path_factory.mktemp("run"))


def test_a_broken_file_has_its_reason_and_the_batch_goes_on(done: Batch) -> None:
    rows = done.rows
    assert [row.name for row in rows] == [f"road {seed}.png" for seed in range(5)]
    assert [bool(row.error) for row in rows] == [False, False, True, False, False]
    assert "Can't read this image: it is a text file" in rows[2].error
    assert rows[2].size is None
    assert rows[2].thumbnail is None
    assert all(
        row.size == (HEIGHT, WIDTH) and len(row.models) == 2 for row in rows if not row.error
    )


def test_the_numbers_are_those_of_the_summary(
    done: Batch, images: list[dict[str, str]], models: tuple[str, str]
) -> None:
    table = list(csv.DictReader(io.StringIO((done.folder / CSV_NAME).read_text("utf-8"))))
    assert len(table) == 5
    for side, path in zip(("left", "right"), models, strict=True):
        predictor = Predictor(load_model(path, device="cpu"), device="cpu")
        for told, image in zip(table, images, strict=True):
            if told["error"]:
                assert told[f"{side}_anomalous_share"] == told["width"] == ""
                continue
            prediction = predictor(image["path"])
            expected, scores = Analysis(prediction).summary(), prediction.anomaly("msp")
            assert told["seconds"] == ""
            assert (told["width"], told["height"]) == (str(WIDTH), str(HEIGHT))
            assert told[f"{side}_model"] == Path(path).name
            assert float(told[f"{side}_anomalous_share"]) == expected["anomalous_share"]
            assert float(told[f"{side}_regions_share"]) == expected["regions_share"]
            assert int(told[f"{side}_regions"]) == expected["regions_found"]
            largest = expected["regions"][0]["pixels"] if expected["regions"] else 0
            assert int(told[f"{side}_largest_region"]) == largest
            assert float(told[f"{side}_threshold"]) == expected["threshold"]
            assert float(told[f"{side}_highest_score"]) == scores.max()
            assert float(told[f"{side}_percentile99"]) == np.percentile(scores, 99)
            assert float(told[f"{side}_milliseconds"]) > 0
    assert any(float(told["left_anomalous_share"] or 0) > 0.05 for told in table)


def test_the_zip_holds_every_pictures_files_and_the_csv(
    done: Batch, images: list[dict[str, str]], models: tuple[str, str]
) -> None:
    with zipfile.ZipFile(done.folder / ZIP_NAME) as archive:
        assert archive.testzip() is None
        folders = [f"{number:03d}_road_{number - 1}" for number in (1, 2, 4, 5)]
        expected = {f"{folder}/{name}" for folder in folders for name in FILES_PER_PICTURE}
        assert set(archive.namelist()) == {*expected, CSV_NAME}
        assert archive.read(CSV_NAME) == (done.folder / CSV_NAME).read_bytes()
        summary = json.loads(archive.read("004_road_3/summary.json"))
        predictor = Predictor(load_model(models[0], device="cpu"), device="cpu")
        prediction = predictor(images[3]["path"])
        analysis = Analysis(prediction)
        truth = analysis.summary()
        assert summary["name"] == "road 3.png"
        assert summary["left"]["model"] == models[0]
        timeless = set(truth) - {"milliseconds", "model", "shared"}
        assert {key: summary["left"][key] for key in timeless} == {
            key: json.loads(json.dumps(truth[key])) for key in timeless
        }
        for name in ("overlay.png", "score16.png"):
            assert archive.read(f"004_road_3/left_{name}") == encode(analysis, name)


def test_thumbnails_are_small_and_on_disk_alone(done: Batch) -> None:
    for row in done.rows:
        assert (row.thumbnail is None) == (row.heat is None) == bool(row.error)
        for path in filter(None, (row.thumbnail, row.heat)):
            with Image.open(path) as thumbnail:
                assert thumbnail.width <= THUMBNAIL_WIDTH
                assert thumbnail.width == 2 * WIDTH + 4  # never enlarged
                assert thumbnail.height == HEIGHT
    assert not any(isinstance(value, (bytes, np.ndarray)) for value in vars(done).values())


def test_photos_are_outlined_and_heat_glows_only_inside_the_regions(
    service: ModelService, models: tuple[str, str], tmp_path: Path
) -> None:
    image = np.full((HEIGHT, WIDTH, 3), (40, 160, 90), np.uint8)  # coloured, unlike gray
    image[:32] = _noise(0)[:32]
    Image.fromarray(image).save(tmp_path / "a.png")
    prediction = Predictor(load_model(models[0], device="cpu"), device="cpu")(tmp_path / "a.png")
    threshold = float(np.quantile(prediction.anomaly_map("msp"), 0.7))
    reading = Reading((threshold, 9.0), smallest_region=0.01)
    files = {"path": str(tmp_path / "a.png")}
    [row] = _run(service, files, models, tmp_path, reading=reading).rows
    outlined = Analysis(prediction, "msp", threshold, min_region_pixels=61).outlined
    assert 0.1 < outlined.mean() < 0.5  # or this would show nothing
    assert row.models[0].regions_share == pytest.approx(outlined.mean(), abs=0.02)
    assert row.models[1].regions == 0
    assert row.thumbnail is not None
    assert row.heat is not None
    heat = np.asarray(Image.open(row.heat).convert("HSV"))[..., 1]  # JPEG blurs a little
    left, right = heat[:, :WIDTH], heat[:, -WIDTH:]
    inner, outer = (
        cv2.erode(part.astype(np.uint8), np.ones((9, 9))) > 0 for part in (outlined, ~outlined)
    )
    assert np.median(left[inner]) > 100 > 40 > np.quantile(left[outer], 0.95)
    assert np.quantile(right, 0.95) < 40
    photo = np.asarray(Image.open(row.thumbnail), np.int64)
    changed = np.abs(photo[:, :WIDTH] - image).max(axis=2) > 60
    assert changed[outlined != (cv2.dilate(outlined.astype(np.uint8), np.ones((5, 5))) > 0)].any()
    assert not (np.abs(photo[:, -WIDTH:] - image).max(axis=2) > 60)[40:].any()


def test_wide_and_tall_pictures_have_thumbnails_that_fit(
    service: ModelService, models: tuple[str, str], tmp_path: Path
) -> None:
    files = []
    for name, size in (("wide", (1200, 40)), ("tall", (40, 1200))):
        Image.new("RGB", size, "gray").save(tmp_path / f"{name}.png")
        files.append({"path": str(tmp_path / f"{name}.png")})
    for row in _run(service, files, models, tmp_path).rows:
        assert row.thumbnail is not None
        with Image.open(row.thumbnail) as thumbnail:
            assert thumbnail.width <= THUMBNAIL_WIDTH
            assert thumbnail.height <= THUMBNAIL_WIDTH


class Fresh(Models):
    """Models that keep no answers and watch what becomes of them."""

    def __init__(self, path: str) -> None:
        super().__init__(device="cpu")
        self.model = load_model(path, device="cpu")
        self.given: list[weakref.ref[Any]] = []
        self.alive: list[int] = []

    def service(self) -> ModelService:
        service = ModelService(device="cpu")
        service.models = self
        return service

    def answers(self, sources: Sequence[str | None], image: Any, score: str) -> list[Answer]:
        gc.collect()
        self.alive.append(sum(reference() is not None for reference in self.given))
        predictions = [Predictor(self.model, device="cpu")(image) for _ in sources]
        self.given += [weakref.ref(prediction) for prediction in predictions]
        return [
            Answer(str(source), self.model.config, prediction)
            for source, prediction in zip(sources, predictions, strict=True)
        ]


def test_no_pictures_results_stay_in_memory_until_the_next(
    models: tuple[str, str], images: list[dict[str, str]], tmp_path: Path
) -> None:
    fresh = Fresh(models[0])
    good = [images[index] for index in (0, 1, 3, 4)]
    _run(fresh.service(), [*good, *good], models, tmp_path)
    assert len(fresh.alive) == 8
    # Names of the picture before last until it is replaced, never more.
    assert max(fresh.alive) <= 2


def _numbers(share: float, position: float) -> ModelNumbers:
    return ModelNumbers("model", 0.9, share, 1, 60, 0.5, 0.4, 0.3, 10.0, position)


def test_orders() -> None:
    rows = [
        BatchRow(1, "a", models=(_numbers(0.1, 0.9), _numbers(0.1, 0.2))),
        BatchRow(2, "b", error="broken"),
        BatchRow(3, "c", models=(_numbers(0.2, 0.1), _numbers(0.5, 0.3))),
        BatchRow(4, "d", models=(_numbers(0.4, 0.5), _numbers(0.3, 1.4))),
    ]
    found = {order: "".join(row.name for row in ordered(rows, order)) for order in ORDERS}
    assert found == {
        "anomalous area": "cdab",
        "highest score": "dacb",
        "models disagree": "cdab",
        "order given": "abcd",
    }
    assert ordered(rows[::-1], "order given") == rows
    with pytest.raises(ConfigError, match="anomalous area"):
        ordered(rows, "anomalous aera")


def test_the_position_is_on_the_calibrated_range(done: Batch, models: tuple[str, str]) -> None:
    low, high = load_model(models[0], device="cpu").calibration["msp"]["range"]
    left = done.rows[0].models[0]
    assert left.position == pytest.approx((left.highest_score - low) / (high - low))


def test_a_videos_frames_are_rows_with_their_times(
    service: ModelService, models: tuple[str, str], tmp_path: Path
) -> None:
    path = _video(tmp_path / "clip.avi")
    items = items_of([{"path": str(path), "orig_name": "my clip.avi"}])
    assert items == [BatchItem("my clip.avi", path, frame) for frame in range(8)]
    batch = _run(service, {"path": str(path), "orig_name": "my clip.avi"}, models, tmp_path)
    assert [row.seconds for row in batch.rows] == pytest.approx(np.arange(8) / 4)
    assert batch.rows[3].label == "my clip.avi · 0.8 s"
    assert record(batch.rows[3])["seconds"] == 0.75
    with zipfile.ZipFile(batch.folder / ZIP_NAME) as archive:
        assert "004_my_clip_0.8_s/summary.json" in archive.namelist()
    frames = [frame for _, frame in read_frames(path)]
    np.testing.assert_array_equal(read_item(items[5]), frames[5])


def test_a_video_becomes_films_of_its_frames(
    service: ModelService, models: tuple[str, str], images: list[dict[str, str]], tmp_path: Path
) -> None:
    """Also when another one follows, or the same again."""
    clip = {"path": str(_video(tmp_path / "clip.avi"))}
    batch = _run(service, [images[0], clip, clip], models, tmp_path)
    first, second = batch.films
    assert first.numbers == tuple(range(2, 10))
    assert second.numbers == tuple(range(10, 18))
    assert first.rate == pytest.approx(4)
    assert set(first.files) == {"photo", "heat"}
    with zipfile.ZipFile(batch.folder / ZIP_NAME) as archive:
        for film in batch.films:
            for path in film.files.values():
                assert archive.read(path.name) == path.read_bytes()
        assert "002_clip_photo.webm" in archive.namelist()
    frames = [frame for _, frame in read_frames(first.files["heat"])]
    assert len(frames) == 8
    for frame, row in zip(frames, batch.rows[1:9], strict=True):
        assert row.heat is not None
        drawn = np.asarray(Image.open(row.heat), np.float64)
        assert frame.shape == (HEIGHT, 2 * WIDTH + 4, 3)
        assert np.abs(frame - drawn).mean() < 12  # compressed twice
    assert np.abs(frames[0].astype(float) - frames[3]).mean() > 12  # and not all the same


def test_a_cancelled_video_has_a_film_of_what_was_computed(
    service: ModelService, models: tuple[str, str], tmp_path: Path
) -> None:
    items = items_of([{"path": str(_video(tmp_path / "clip.avi"))}])
    batch = Batch(tmp_path / "batch", items)
    steps = run_batch(service, items, *models, "msp", batch)
    for _ in range(3):
        next(steps)
    [film] = batch.films
    assert film.numbers == (1, 2, 3)
    assert not film.files
    batch.finish()
    [film] = batch.films
    assert len(list(read_frames(film.files["photo"]))) == 3


def test_without_vp8_there_is_no_film_and_the_batch_goes_on(
    service: ModelService,
    models: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unable:
        def __init__(self, *_: Any) -> None: ...

        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def isOpened(self) -> bool:
            return False

        def release(self) -> None: ...

    clip = _video(tmp_path / "clip.avi", 3)
    monkeypatch.setattr(cv2, "VideoWriter", Unable)
    batch = _run(service, [{"path": str(clip)}], models, tmp_path)
    assert [film.files for film in batch.films] == [{}]
    assert [row.error for row in batch.rows] == [""] * 3
    assert (batch.folder / ZIP_NAME).is_file()


def test_films_of_odd_sizes_are_written_and_long_videos_shortened(tmp_path: Path) -> None:
    frames = []
    for number in range(3):
        frames.append(tmp_path / f"{number}.jpg")
        Image.new("RGB", (97, 51), (80 * number, 0, 0)).save(frames[-1])
    assert write_film(frames, 4.0, tmp_path / "film.webm")
    assert [frame.shape for _, frame in read_frames(tmp_path / "film.webm")] == [(50, 96, 3)] * 3
    assert rate_of([0.0, 0.1, 0.2]) == pytest.approx(10)
    assert rate_of([2.5, 152.5, 302.5]) == 4
    assert rate_of([1.0]) == rate_of([0.0, 0.0]) == 4
    assert rate_of([0.0, 0.001]) == 30


def test_thresholds_and_smallest_region_decide_a_batchs_numbers(
    service: ModelService, models: tuple[str, str], images: list[dict[str, str]], tmp_path: Path
) -> None:
    reading = Reading((-9.0, 9.0), smallest_region=0.1, smoothing=0.02)
    [row] = _run(service, images[0], models, tmp_path, reading=reading).rows
    left, right = row.models
    assert (left.threshold, left.regions, left.regions_share) == (-9, 1, 1)
    assert (right.threshold, right.regions, right.regions_share) == (9, 0, 0)
    prediction = Predictor(load_model(models[0], device="cpu"), device="cpu")(images[0]["path"])
    assert left.highest_score == pytest.approx(prediction.anomaly_map("msp", 0.02).max(), abs=1e-6)
    assert left.highest_score < prediction.anomaly("msp").max()
    with zipfile.ZipFile(tmp_path / "batch" / ZIP_NAME) as archive:
        summary = json.loads(archive.read("001_road_0/summary.json"))
    assert summary["left"]["smallest_region"] == round(0.1 * HEIGHT * WIDTH)
    assert summary["left"]["smoothed_by"] == 0.02


def test_a_run_takes_up_what_was_chosen_on_compare(
    service: ModelService, models: tuple[str, str], images: list[dict[str, str]]
) -> None:
    settings = {
        "left": -9.0,
        "right": None,
        "smallest_region": None,
        "smoothing": None,
        "score": "msp",
        "models": list(models),
    }
    handlers = BatchHandlers(service)
    batch, *_ = handlers.begin(images[:1], None, settings)
    *_, (_, value) = handlers.run(batch, *models, "msp")
    assert batch.rows[0].models[0].threshold == -9
    own = load_model(models[1], device="cpu").calibration
    assert not own
    assert value["rows"][0]["models"][0]["area"] == 1
    assert "from a score of -9 on the left" in value["read"]
    batch, *_ = handlers.begin(images[:1], batch, settings)
    list(handlers.run(batch, *models, "entropy"))  # a threshold of MSP says nothing here
    assert batch.rows[0].models[0].threshold != -9
    batch, *_ = handlers.begin(images[:1], batch, settings)
    list(handlers.run(batch, models[1], models[0], "msp"))  # nor of another model
    assert batch.rows[0].models[0].threshold != -9
    for wrong in ({"smoothing": 3}, {"left": "x"}, [1], "x"):
        with pytest.raises(ConfigError):
            handlers.begin(images[:1], batch, wrong)
    assert batch.folder.is_dir()  # what was there is not lost
    batch.discard()


def test_a_broken_video_is_one_row(
    service: ModelService, models: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(400))
    [row] = _run(service, [{"path": str(path)}], models, tmp_path).rows
    assert "Can't read this video" in row.error


def test_a_video_that_breaks_off_says_so(
    service: ModelService, models: tuple[str, str], tmp_path: Path
) -> None:
    path = _video(tmp_path / "cut.avi")
    items = [*items_of([{"path": str(path)}]), BatchItem("cut.avi", path, 8)]
    batch = Batch(tmp_path / "batch", items)
    rows = list(run_batch(service, items, *models, "msp", batch))
    assert [bool(row.error) for row in rows] == [False] * 8 + [True]
    assert "breaks off after 8" in rows[-1].error
    batch.discard()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "No picture was given"),
        ([], "No picture was given"),
        ("/etc/passwd", "not sent as files"),
        (["/etc/passwd"], "not sent as a file"),
        ([{"path": None}], "not sent as a file"),
        ([{"path": "/etc/passwd"}], "did not arrive"),
        ([{"path": "x.png"}] * (MAX_PICTURES + 1), f"at most {MAX_PICTURES}"),
    ],
)
def test_what_cannot_be_a_batch_is_refused_before_anything_is_computed(
    files: Any, said: str
) -> None:
    with pytest.raises(ImageError, match=said):
        items_of(files)


def test_frames_count_towards_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_items, "MAX_PICTURES", 10)
    path = _video(tmp_path / "clip.avi")
    assert len(items_of([{"path": str(path)}])) == 8
    with pytest.raises(ImageError, match="16 pictures or more, at most 10"):
        items_of([{"path": str(path)}] * 2)


def test_a_video_that_is_refused_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting may take seconds: not for each time it was given, nor again when it is its turn."""
    path = _video(tmp_path / "clip.avi")
    counted, turns = [], []

    def refuse(source: Path, **_: Any) -> int:
        counted.append(source)
        raise ImageError("it is too long")

    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        turns.append(len(counted))
        yield

    monkeypatch.setattr(batch_items, "count_frames", refuse)
    items = items_of([{"path": str(path)}] * 3, turn)
    assert [item.fault for item in items] == ["it is too long"] * 3
    assert len(counted) == len(turns) == 1
    with pytest.raises(ImageError, match="too long"):
        read_item(items[0])


def test_a_missing_model_ends_the_batch_and_what_is_done_can_be_had(
    service: ModelService, models: tuple[str, str], images: list[dict[str, str]], tmp_path: Path
) -> None:
    items = items_of(images[:1])
    batch = Batch(tmp_path / "batch", items)
    with pytest.raises(CheckpointError, match="nowhere"):
        list(run_batch(service, items, models[0], "/nowhere/model.safetensors", "msp", batch))
    assert batch.finish() is None


def test_too_little_memory_for_one_picture_is_its_own_matter(
    models: tuple[str, str], images: list[dict[str, str]], tmp_path: Path
) -> None:
    class Short(Fresh):
        def answers(self, *arguments: Any) -> list[Answer]:
            if len(self.alive) == 1:
                self.alive.append(0)
                raise OutOfMemoryError("Not enough memory for this picture.")
            return super().answers(*arguments)

    rows = _run(
        Short(models[0]).service(), [images[index] for index in (0, 1, 3)], models, tmp_path
    ).rows
    assert [row.error for row in rows] == ["", "Not enough memory for this picture.", ""]
    assert rows[1].size == (HEIGHT, WIDTH)


def test_an_unknown_score_is_refused(service: ModelService, tmp_path: Path) -> None:
    batch = Batch(tmp_path / "batch", [])
    with pytest.raises(ConfigError, match="shine"):
        next(run_batch(service, [], "a", "b", "shine", batch))
    batch.discard()


def test_a_finished_batch_takes_nothing_and_its_files_are_whole(
    service: ModelService, models: tuple[str, str], images: list[dict[str, str]], tmp_path: Path
) -> None:
    items = items_of(images)
    batch = Batch(tmp_path / "batch", items)
    steps = run_batch(service, items, *models, "msp", batch)
    next(steps)
    assert not (batch.folder / ZIP_NAME).exists()
    files = batch.finish()
    assert files is not None
    assert list(steps) == []
    assert files == batch.finish()
    assert len(list(csv.DictReader(io.StringIO(files[0].read_text("utf-8"))))) == 1
    with zipfile.ZipFile(files[1]) as archive:
        assert len(archive.namelist()) == len(FILES_PER_PICTURE) + 1
    names = ["001_heat.jpg", "001_photo.jpg", CSV_NAME, ZIP_NAME]
    assert sorted(path.name for path in batch.folder.iterdir()) == names
    batch.discard()
    assert not batch.folder.exists()


def test_a_batch_finished_while_a_picture_is_computed_drops_that_picture(
    models: tuple[str, str], images: list[dict[str, str]], tmp_path: Path
) -> None:
    started, go_on = threading.Event(), threading.Event()

    class Waiting(Fresh):
        def answers(self, *arguments: Any) -> list[Answer]:
            found = super().answers(*arguments)
            if len(self.alive) == 2:
                started.set()
                assert go_on.wait(60)
            return found

    waiting = Waiting(models[0])
    service = waiting.service()
    batch = Batch(tmp_path / "batch", items_of(images))
    rows: list[BatchRow] = []
    thread = threading.Thread(
        target=lambda: rows.extend(run_batch(service, batch.items, *models, "msp", batch))
    )
    thread.start()
    assert started.wait(60)
    files = batch.finish()
    go_on.set()
    thread.join(60)
    assert files is not None
    assert [row.number for row in rows] == [row.number for row in batch.rows] == [1]
    assert len(waiting.alive) == 2


def test_a_zip_that_fails_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(tmp_path / "batch", [])

    def fail(*_: Any) -> None:
        raise KeyError

    monkeypatch.setattr(batch._archive, "writestr", fail)
    with pytest.raises(KeyError):
        batch.finish()
    assert list(batch.folder.iterdir()) == []
    assert batch.finish() is None


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(tmp_path / "batch", [BatchItem("a.png", tmp_path / "a.png")])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batch._archive, "writestr", full)
    results = batch_module._Results({}, {"left_overlay.png": b""})
    with pytest.raises(WriteError, match="No space left"):
        batch.add(BatchRow(1, "a.png"), results)
    batch.discard()


def test_names_make_safe_cells(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    [item] = items_of([{"path": str(tmp_path / "x.png"), "orig_name": "../../../etc/passwd"}])
    assert item.name == "passwd"
    [row] = csv.DictReader(io.StringIO(write_csv([BatchRow(1, 'a, "b"\n.png')]).decode()))
    assert row["name"] == 'a, "b"\n.png'


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "＝", "＠"])
def test_spreadsheets_run_no_cell(start: str) -> None:
    numbers = ModelNumbers(f"{start}cmd|' /C calc'!A0", 0.5, 0.25, 1, 2, -0.5, -1.5, -2.0, 3.0, 0.5)
    row = BatchRow(1, f"{start}1+1", models=(numbers, numbers), error=f"{start}x")
    [cells] = csv.DictReader(io.StringIO(write_csv([row]).decode(), newline=""))
    assert cells["name"] == f"'{start}1+1"
    assert cells["left_model"] == f"'{start}cmd|' /C calc'!A0"
    assert cells["error"] == f"'{start}x"
    assert float(cells["left_highest_score"]) == -0.5
    assert record(row)["name"] == f"{start}1+1"  # the endpoint's values are nobody's cells


def test_the_endpoint_returns_rows_csv_and_zip_and_keeps_no_thumbnails(
    service: ModelService, models: tuple[str, str], images: list[dict[str, str]], tmp_path: Path
) -> None:
    handlers = BatchHandlers(service)
    rows, table, archive = handlers.batch(images, *models, "msp", "models disagree")
    assert table is not None
    assert archive is not None
    apart = [
        abs(row["left_regions_share"] - row["right_regions_share"])
        for row in rows
        if not row["error"]
    ]
    assert len(apart) == 4
    assert apart == sorted(apart, reverse=True)
    assert rows[-1]["error"]
    json.dumps(rows, allow_nan=False)
    names = sorted(path.name for path in Path(table).parent.iterdir())
    assert names == [CSV_NAME, ZIP_NAME]
    clip = _video(tmp_path / "clip.avi", 3)
    _, table, archive = handlers.batch({"path": str(clip)}, *models, "msp", "order given")
    assert table is not None
    assert archive is not None
    names = sorted(path.name for path in Path(table).parent.iterdir())
    assert names == [CSV_NAME, ZIP_NAME]
    with zipfile.ZipFile(archive) as file:
        assert "001_clip_heat.webm" in file.namelist()
    with pytest.raises(ConfigError, match="order"):
        handlers.batch(images, *models, "msp", "backwards")


def test_a_client_of_another_machine_has_one_batch_at_a_time(
    service: ModelService, models: tuple[str, str], images: list[dict[str, str]]
) -> None:
    handlers, batches = BatchHandlers(service), []

    def begin(who: Asker) -> Iterator[object]:
        work_for(who)
        batches.append(handlers.begin(images, None, None)[0])
        steps = handlers.run(batches[-1], *models, "msp")
        next(steps)
        return steps

    def run(who: Asker) -> Iterator[object]:
        return contextvars.copy_context().run(begin, who)

    first = Asker("a")
    under_way = run(first)
    with pytest.raises(BusyError, match="running already"):
        run(Asker("a"))
    others = [run(Asker("b")), run(Asker()), run(Asker())]
    first.cancelled = True  # cancelled, and not at its end yet
    others.append(run(Asker("a")))
    del under_way, others
    for batch in batches:
        batch.discard()


def test_the_chosen_picture_is_one_of_the_visitors_own(
    done: Batch, images: list[dict[str, str]], service: ModelService
) -> None:
    choose = BatchHandlers(service).choose
    row = done.rows[3]
    assert row.thumbnail is not None
    path, update = choose(done, _chosen(4))
    assert path == images[3]["path"]
    assert "road 3.png" in update["value"]
    for said in ("/etc/passwd", "4", None, 3, 7, 0, [4]):  # 3 is the broken one
        with pytest.raises(ImageError, match="no longer kept"):
            choose(done, _chosen(said))
    with pytest.raises(ImageError, match="no longer kept"):
        choose(None, _chosen(1))


def _chosen(number: Any) -> gr.EventData:
    return gr.EventData(None, {"number": number})


def test_a_chosen_frame_becomes_a_file(
    service: ModelService, models: tuple[str, str], tmp_path: Path
) -> None:
    video = _video(tmp_path / "clip.avi", 3)
    batch = _run(service, [{"path": str(video)}], models, tmp_path)
    path, _ = BatchHandlers(service).choose(batch, _chosen(2))
    assert Path(path).parent == batch.folder
    np.testing.assert_array_equal(
        np.asarray(Image.open(path)), [frame for _, frame in read_frames(video)][1]
    )


def test_a_yielding_callbacks_errors_are_spoken_at_its_steps() -> None:
    closed = []

    def steps() -> Any:
        try:
            yield 1
            raise ImageError("The second one is broken.")
        finally:
            closed.append(True)

    found = shows_errors_of_steps(steps)()
    assert next(found) == 1
    with pytest.raises(gr.Error, match="second one"):
        next(found)
    early = shows_errors_of_steps(steps)()
    next(early)
    early.close()
    assert len(closed) == 2
