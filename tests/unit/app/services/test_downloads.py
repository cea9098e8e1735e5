"""The files of the download menu: their names, how scores are read, and figures of a truth."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.files.uploads import safe_stem
from app.services.downloads import KINDS, settings_of, write, write_everything
from app.services.models import Answer
from app.services.reading import Reading
from mask2kan.errors import ConfigError
from mask2kan.inference.predictor import Predictor
from mask2kan.outputs.summary import MIN_REGION_PIXELS, Analysis
from mask2kan.outputs.writer import FILES
from tests.tiny_models import tiny

SIZE = (48, 80)
NAME = "cow on road.jpeg"


def _answer(family: str, seed: int = 0) -> Answer:
    model = tiny(family, seed=seed, num_classes=11, num_decoder_layers=1)
    image = np.random.default_rng(4).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return Answer(f"tiny_{family}", model.config, Predictor(model, "cpu")(image))


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    return [_answer("mask2kan"), _answer("mask2former")]


@pytest.fixture
def truth() -> np.ndarray:
    truth = np.zeros(SIZE, np.uint8)
    truth[5:25, 10:40] = 1
    truth[30:] = 255
    return truth


def test_files_are_named_after_picture_head_and_kind(
    answers: list[Answer], truth: np.ndarray, tmp_path: Path
) -> None:
    settings = settings_of({}, "msp")
    archive, summary = write_everything(tmp_path, answers, settings, name=NAME, truth=truth)
    assert archive.name == "mask2kan_cow_on_road.zip"
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        names = file.namelist()
        told = json.loads(file.read("summary.json"))
    expected = {f"cow_on_road_{head}_{kind}" for head in ("kan", "mlp") for kind in FILES}
    pages = {"cow_on_road_comparison.pdf", "cow_on_road_comparison.png"}
    assert sorted(names) == sorted({*expected, *pages, "summary.json"})
    assert told == summary
    assert told["left"]["files"] == [f"cow_on_road_kan_{kind}" for kind in FILES]
    assert told["right"]["model"] == "tiny_mask2former"


def test_equal_heads_are_told_apart_by_their_sides(answers: list[Answer], tmp_path: Path) -> None:
    pair = [answers[0], _answer("mask2kan", seed=1)]
    paths = write(tmp_path, pair, settings_of({"kind": "regions"}, "msp"), name=NAME)
    sides = [f"cow_on_road_{side}_regions.json" for side in ("left", "right")]
    assert [path.name for path in paths] == sides


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_written(answers: list[Answer], kind: str, tmp_path: Path) -> None:
    paths = write(tmp_path, answers, settings_of({"kind": kind}, "msp"), name=NAME)
    assert paths
    assert all(path.is_file() and "cow_on_road" in path.name for path in paths)


def test_names_of_strangers_are_made_safe() -> None:
    assert safe_stem("../../etc/pass wd.png") == "etc_pass_wd"
    assert safe_stem("Straße, nass.JPEG") == "Straße_nass"
    assert safe_stem("v1.5 night.webp") == "v1.5_night"
    assert safe_stem("….png") == "picture"


def test_what_the_page_sends_decides_how_scores_are_read(answers: list[Answer]) -> None:
    question = {
        "thresholds": {"left": 0.25, "right": None},
        "smallest_region": 0.01,
        "smoothing": 0.02,
    }
    reading = settings_of(question, "msp").reading
    left, right = reading.analyses(answers, "msp")
    assert (left.threshold, left.threshold_from) == (0.25, "given")
    own = answers[1].prediction.default_threshold("msp")
    assert (right.threshold, right.threshold_from) == own
    assert left.min_pixels == right.min_pixels == round(0.01 * SIZE[0] * SIZE[1])
    assert left.sigma == right.sigma == 0.02
    expected = answers[0].prediction.anomaly_map("msp", 0.02)
    np.testing.assert_array_equal(left.values, expected)
    assert not np.array_equal(expected, answers[0].prediction.anomaly("msp"))


def test_null_leaves_everything_to_the_models(answers: list[Answer]) -> None:
    question = {"thresholds": None, "smallest_region": None, "smoothing": None}
    for reading in (settings_of(question, "msp").reading, settings_of({}, "msp").reading):
        assert reading == Reading()
    for answer, analysis in zip(answers, Reading().analyses(answers, "rba"), strict=True):
        own = Analysis(answer.prediction, "rba")
        assert analysis.sigma == own.sigma
        assert analysis.min_pixels == own.min_pixels == MIN_REGION_PIXELS
        assert analysis.threshold == own.threshold


def test_no_region_is_smaller_than_a_pixel(answers: list[Answer]) -> None:
    [analysis, _] = settings_of({"smallest_region": 0}, "msp").reading.analyses(answers, "msp")
    assert analysis.min_pixels == 1
    assert settings_of({"least": 7}, "msp").reading.analyses(answers, "msp")[0].min_pixels == 7


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"smallest_region": 0.11}, "smallest region 0.11 was given"),
        ({"smallest_region": -1e-9}, "from 0 to 0.1"),
        ({"smoothing": 1}, "longer side"),
        ({"smoothing": True}, "finite number"),
        ({"smoothing": [0.1]}, "finite number"),
        ({"smallest_region": 10**400}, "finite number"),
        ({"least": -1}, "0 or more"),
        ({"thresholds": [1, 2]}, "for each side"),
    ],
)
def test_what_cannot_be_is_refused(question: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_of(question, "msp")


def test_the_summary_judges_the_regions_of_the_files(
    answers: Sequence[Answer], truth: np.ndarray, tmp_path: Path
) -> None:
    """Read back as a stranger would: codes, threshold and smallest region of the files alone."""
    from scipy import ndimage

    middle = float(np.median(answers[0].prediction.anomaly("msp")))
    settings = settings_of({"thresholds": {"left": middle}, "smallest_region": 0.02}, "msp")
    _, summary = write_everything(tmp_path, answers, settings, name=NAME, truth=truth)
    with Image.open(tmp_path / "cow_on_road_kan_score16.png") as opened:
        codes = np.asarray(opened)
        facts = json.loads(opened.text["mask2kan"])  # type: ignore[attr-defined]
    labels, _ = ndimage.label(codes >= facts["anomalous_from"], np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = (sizes >= summary["left"]["smallest_region"])[labels]
    assert 0 < kept.mean() < (labels > 0).mean()  # specks were left out
    assert summary["left"]["regions_share"] == kept.mean()
    figures = summary["left"]["truth"]
    valid, anomaly = truth != 255, truth == 1
    assert figures["precision"] == pytest.approx((kept & anomaly).sum() / (kept & valid).sum())
    assert figures["recall"] == pytest.approx((kept & anomaly).sum() / anomaly.sum())
    _, without = write_everything(tmp_path, answers, settings, name=NAME)
    assert "truth" not in without["left"]
