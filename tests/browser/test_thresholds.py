"""Every number beside a threshold, against SciPy and scikit-learn on the downloaded files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page
from scipy import ndimage
from sklearn.metrics import precision_recall_fscore_support

from mask2kan.checkpoints import load_model
from tests.browser.steps import (
    EXAMPLES,
    card,
    downloaded,
    move,
    open_example,
    read,
    settle,
    upload,
    wait_ready,
)

EIGHT = np.ones((3, 3), dtype=bool)


@pytest.fixture
def page(viewer: Page) -> Page:
    """One page for all tests here."""
    return viewer


def scores_of(page: Page) -> dict[str, tuple[np.ndarray, float, float]]:
    """The downloaded 16-bit files: codes, and the scores of codes 0 and 65535."""
    found = {}
    for path in downloaded(page, "score16"):
        with Image.open(path) as opened:
            codes = np.asarray(opened).astype(np.int64)
            low, high = json.loads(opened.text["mask2kan"])["range"]  # type: ignore[attr-defined]
        found[path.name.split("_")[-2]] = (codes, low, high)
    assert set(found) == {"kan", "mlp"}  # heads; the KAN is on the left
    return {"left": found["kan"], "right": found["mlp"]}


def truth_of(page: Page) -> np.ndarray:
    stem = str(page.get_attribute(".m2k-tile >> nth=0", "data-example"))
    return np.asarray(Image.open(EXAMPLES[0].with_name(f"{stem}_anomaly.png")))


def regions_of(codes: np.ndarray, low: float, high: float, threshold: float, least: int) -> Any:
    """The pixels of regions that are large enough, numbered; and their sizes, by SciPy."""
    labels, _ = ndimage.label(low + codes * (high - low) / 65535 >= threshold, structure=EIGHT)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.where(sizes[labels] >= least, labels, 0), sizes[sizes >= least]


def test_areas_regions_and_quality_are_those_of_the_downloaded_scores(page: Page) -> None:
    """One definition for all of them: regions of the stated size, of the smoothed score."""
    open_example(page)
    truth = truth_of(page)
    valid = truth != 255
    objects, wanted = regions_of(truth == 1, 0, 65535, 1, 50)  # smaller ones are no objects
    numbers = sorted(set(np.unique(objects)) - {0})
    count = len(wanted)
    for smoothing in (0, 4):  # off, and the fourth step of the slider
        page.evaluate(
            """(step) => { const s = document.querySelector('#smoothing'); s.value = step;
              s.dispatchEvent(new Event('change')); }""",
            smoothing,
        )
        page.wait_for_function(
            "(share) => document.querySelector('#smoothing').getAttribute('aria-valuetext')"
            " === share && !document.querySelector('.m2k').dataset.smoothing",
            arg=f"{(0, 0.8)[smoothing > 0]} %",
        )
        files = scores_of(page)
        for share in (0.3, 0.5, 0.8):
            for side, (codes, low, high) in files.items():
                move(page, side, low + share * (high - low))
                threshold = read(page, side, "threshold")
                assert threshold == pytest.approx(low + share * (high - low), abs=1e-9)
                labels, sizes = regions_of(codes, low, high, threshold, 50)
                marked = labels > 0
                assert read(page, side, "pixels") == marked.sum()
                assert read(page, side, "regions") == len(sizes)
                assert read(page, side, "largest") == max(sizes, default=0)
                precision, recall, f1, _ = precision_recall_fscore_support(
                    truth[valid] == 1, marked[valid], average="binary", zero_division=0
                )
                overlap = (marked & (truth == 1)).sum()
                union = ((marked | (truth == 1)) & valid).sum()
                for name, value in (
                    ("precision", precision),
                    ("recall", recall),
                    ("f1", f1),
                    ("iou", overlap / union if union else 0),
                ):
                    assert read(page, side, name) == pytest.approx(value, abs=1e-12)
                found = sum(
                    2 * (marked & (objects == number)).sum() >= (objects == number).sum()
                    for number in numbers
                )
                assert read(page, side, "found") == found
                assert read(page, side, "objects") == count
                touching = set(np.unique(labels[truth == 1])) - {0}
                known = set(np.unique(labels[truth == 0])) - {0}
                assert read(page, side, "falseRegions") == len(known - touching)
                sentence = page.inner_text(f".m2k-sentence [data-side={side}]")
                assert f"found {found} of {count} (" in sentence


def test_best_here_is_the_best_on_the_slider(page: Page) -> None:
    open_example(page)
    page.click("[data-preset=best_here]")
    page.wait_for_function("location.search.includes('tl=')")
    best = {side: read(page, side, "f1") for side in ("left", "right")}
    for place in np.linspace(0, 1, 40):
        move(page, "both", float(place))
        for side, shown in best.items():
            assert read(page, side, "f1") <= shown + 1e-12


def test_the_smallest_region_changes_count_and_outline(page: Page) -> None:
    open_example(page)
    codes, low, high = scores_of(page)["left"]
    move(page, "left", low + 0.5 * (high - low))
    threshold = read(page, "left", "threshold")
    for step, share in ((0, 0), (3, 0.0005), (6, 0.005)):
        page.evaluate(
            """(step) => { const s = document.querySelector('#smallest'); s.value = step;
              s.dispatchEvent(new Event('change')); }""",
            step,
        )
        least = max(1, round(share * codes.size))
        labels, sizes = regions_of(codes, low, high, threshold, least)
        assert read(page, "left", "regions") == len(sizes)
        assert read(page, "left", "pixels") == (labels > 0).sum()


def test_fifty_moves_within_a_frame_ask_the_workers_twice(page: Page) -> None:
    """While a worker counts the first, only the newest threshold waits for it."""
    open_example(page)
    read(page, "left", "pixels")  # nothing is being counted
    asked = page.evaluate(
        """() => {
          const slider = document.querySelector('#threshold-both');
          const { postMessage } = Worker.prototype;
          window.questions = 0;
          Worker.prototype.postMessage = function (...rest) {
            window.questions++;
            postMessage.apply(this, rest);
          };
          for (let i = 1; i <= 50; i++) {
            slider.value = i / 60;
            slider.dispatchEvent(new Event('input', { bubbles: true }));
          }
          return Number(slider.value);
        }"""
    )
    for side in ("left", "right"):
        read(page, side, "pixels")
        assert card(page, side).get_attribute("data-counted-cut") == card(page, side).get_attribute(
            "data-cut"
        )
    assert float(page.input_value("#threshold-both")) == pytest.approx(asked, abs=1e-6)
    assert page.evaluate("window.questions") == 4  # two for each model


def test_a_picture_without_an_anomaly_has_false_alarms_and_no_precision(
    page: Page, tmp_path: Path
) -> None:
    mask = tmp_path / "mask.png"
    with Image.open(EXAMPLES[0]) as opened:
        Image.fromarray(np.zeros(opened.size[::-1], np.uint8)).save(mask)
    before = page.get_attribute(".m2k", "data-run")
    upload(page, EXAMPLES[0])
    first = wait_ready(page, before)
    page.set_input_files("#truth-file", str(mask))
    wait_ready(page, first)
    move(page, "both", 1)
    read(page, "left", "pixels")
    assert read(page, "left", "objects") == 0
    assert "nothing to find here, but" in page.inner_text(".m2k-sentence [data-side=left]")
    assert "falsely marked" in page.inner_text(".m2k-card[data-side=left]")
    assert "P\u00a0" not in page.inner_text(".m2k-card[data-side=left]")
    assert page.locator("[data-preset=best_here]").count() == 0


def test_thresholds_stay_from_picture_to_picture_and_go_back(page: Page) -> None:
    open_example(page)
    default = read(page, "left", "threshold")
    move(page, "left", 0.123)
    open_example(page, 1)
    assert read(page, "left", "threshold") == pytest.approx(0.123)
    page.click("[data-preset=default]")
    settle(page)
    assert read(page, "left", "threshold") == default
    assert page.get_attribute("[data-preset=default]", "aria-pressed") == "true"


def test_the_default_is_the_checkpoints_calibration(page: Page) -> None:
    open_example(page)
    page.click("[data-preset=default]")
    model = Path(page.evaluate("() => window.mask2kan.settings().models[0]"))
    wanted = float(load_model(str(model), device="cpu").calibration["msp"]["fpr05"])
    assert read(page, "left", "threshold") == pytest.approx(wanted)


def test_the_common_scale_is_the_rate_of_false_alarms(page: Page) -> None:
    """Positions, rates and thresholds of ``rates.js``, against NumPy."""
    rates = np.geomspace(0.0002, 0.5, 24)
    thresholds = 3 - 2 * np.linspace(0, 1, 24) ** 0.7
    curve = np.stack([rates, thresholds, np.linspace(0.1, 0.9, 24)], axis=1).tolist()
    places = np.linspace(0, 1, 33)
    told = page.evaluate(
        """async ([curve, places]) => {
          const folder = document.querySelector('#viewer')
            && window.mask2kan.files;
          const { Scale, positionOf } = await import(folder + '/rates.js');
          const scale = new Scale({ curve, range: [0, 1] });
          const plain = new Scale({ curve: [], range: [0, 2] });
          return places.map((place) => {
            const threshold = scale.threshold(place);
            return [threshold, scale.position(threshold), scale.rate(threshold),
              scale.recall(threshold), positionOf(scale.rate(threshold)),
              plain.threshold(place), plain.position(plain.threshold(place))];
          });
        }""",
        [curve, places.tolist()],
    )
    told = np.array(told)
    span = np.log(0.5 / 0.0002)
    np.testing.assert_allclose(
        told[:, 0], np.interp(places, np.log(rates / 0.0002) / span, thresholds)
    )
    np.testing.assert_allclose(told[:, 1], places, atol=1e-9)
    np.testing.assert_allclose(told[:, 2], 0.0002 * np.exp(span * places), rtol=1e-6)
    np.testing.assert_allclose(
        told[:, 3], np.interp(-told[:, 0], -thresholds, np.linspace(0.1, 0.9, 24)), rtol=1e-6
    )
    np.testing.assert_allclose(told[:, 4], places, atol=1e-9)
    np.testing.assert_allclose(told[:, 5], 2 - 2 * places)
    np.testing.assert_allclose(told[:, 6], places)


def test_a_number_typed_is_taken_and_nonsense_is_not(page: Page) -> None:
    open_example(page)
    page.click(".m2k-menu[data-menu=adjust] summary")
    box = page.locator("#threshold-right")
    box.fill("0.5")
    box.press("Enter")
    settle(page)
    assert read(page, "right", "threshold") == pytest.approx(0.5)
    box.fill("")
    box.press("Enter")
    settle(page)
    assert read(page, "right", "threshold") == pytest.approx(0.5)


def test_downloads_are_what_they_say(page: Page, tmp_path: Path) -> None:
    open_example(page)
    [view] = downloaded(page, "view")
    with Image.open(view) as opened:
        assert opened.width > 1000
    [page_file] = downloaded(page, "page")
    assert page_file.read_bytes().startswith(b"%PDF")
    assert len(downloaded(page, "overlays")) == 4
    marks = [path for path in downloaded(page, "masks") if path.name.endswith("_mask.png")]
    assert len(marks) == 2
    for path in marks:
        with Image.open(path) as opened:
            assert opened.size == (1024, 512)
            assert set(np.unique(np.asarray(opened))) <= {0, 255}
    for path in downloaded(page, "npz"):
        assert np.load(path)["score"].shape == (512, 1024)
    for path in downloaded(page, "regions"):
        told = json.loads(path.read_text(encoding="utf-8"))
        assert told["images"][0]["width"] == 1024
    [archive] = downloaded(page, "everything")
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
    stem = page.get_attribute(".m2k-tile >> nth=0", "data-example")
    named = {"kan_regions.json", "mlp_score16.png", "comparison.pdf"}
    assert {"summary.json", *(f"{stem}_{name}" for name in named)} <= names
