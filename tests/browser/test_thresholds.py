"""Every number beside a threshold, against SciPy and scikit-learn on the downloaded files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from tests.browser.steps import EXAMPLES, card, downloaded, move, open_example, read, settle

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
    assert set(found) == {"left", "right"}
    return found


def truth_of(page: Page) -> np.ndarray:
    stem = str(page.get_attribute("#examples-road button >> nth=0", "data-example"))
    return np.asarray(Image.open(EXAMPLES[0].with_name(f"{stem}_anomaly.png")))


def test_areas_regions_and_quality_are_those_of_the_downloaded_scores(page: Page) -> None:
    open_example(page)
    files, truth = scores_of(page), truth_of(page)
    valid = truth != 255
    for share in (0.2, 0.5, 0.8):
        for side, (codes, low, high) in files.items():
            wanted = low + share * (high - low)
            move(page, side, wanted)
            threshold = read(page, side, "threshold")
            assert threshold == pytest.approx(wanted, abs=1.001 * (high - low) / 65535)
            anomalous = low + codes * (high - low) / 65535 >= threshold
            assert read(page, side, "pixels") == anomalous.sum()
            labels, _ = ndimage.label(anomalous, structure=EIGHT)
            sizes = np.bincount(labels.ravel())[1:]
            least = 50
            assert read(page, side, "regions") == (sizes >= least).sum()
            assert read(page, side, "regionPixels") == sizes[sizes >= least].sum()
            precision, recall, f1, _ = precision_recall_fscore_support(
                truth[valid] == 1, anomalous[valid], average="binary", zero_division=0
            )
            overlap = (anomalous & (truth == 1)).sum()
            union = ((anomalous | (truth == 1)) & valid).sum()
            for name, value in (
                ("precision", precision),
                ("recall", recall),
                ("f1", f1),
                ("iou", overlap / union if union else 0),
            ):
                assert read(page, side, name) == pytest.approx(value, abs=1e-12)
    for side, (codes, _, _) in files.items():
        expected = average_precision_score(truth[valid] == 1, codes[valid])
        label = page.get_attribute(f"[data-side={side}] .m2k-curve", "aria-label") or ""
        assert float(label.rsplit(" ", 1)[-1]) == pytest.approx(expected, abs=6e-4)


def test_the_best_f1_here_is_the_best(page: Page) -> None:
    open_example(page)
    files, truth = scores_of(page), truth_of(page)
    codes, _low, _high = files["left"]
    page.click("[data-side=left] [data-preset=best_here]")
    settle(page)
    shown = read(page, "left", "f1")
    valid = truth != 255
    for share in np.linspace(0, 1, 41):
        anomalous = codes[valid] >= share * 65535
        *_, f1, _ = precision_recall_fscore_support(
            truth[valid] == 1, anomalous, average="binary", zero_division=0
        )
        assert f1 <= shown + 1e-12


def test_the_smallest_region_changes_count_and_outline(page: Page) -> None:
    open_example(page)
    files = scores_of(page)
    codes, low, high = files["left"]
    move(page, "left", low + 0.5 * (high - low))
    threshold = read(page, "left", "threshold")
    anomalous = low + codes * (high - low) / 65535 >= threshold
    sizes = np.bincount(ndimage.label(anomalous, structure=EIGHT)[0].ravel())[1:]
    for place, least in ((0, 1), (1, 10), (8, 1280)):
        page.evaluate(
            """(place) => { const s = document.querySelector('#least'); s.value = place;
              s.dispatchEvent(new Event('input')); }""",
            place,
        )
        assert read(page, "left", "regions") == (sizes >= least).sum()
        assert read(page, "left", "regionPixels") == sizes[sizes >= least].sum()


def test_fifty_moves_within_a_frame_are_drawn_once_and_counted_twice(page: Page) -> None:
    """While the worker counts the first, only the newest threshold waits for it."""
    open_example(page)
    read(page, "left", "regions")  # nothing is being counted
    asked, drawn = page.evaluate(
        """() => {
          const { dataset } = document.querySelector('.m2k');
          const slider = document.querySelector('#threshold-left');
          const [low, high] = [Number(slider.min), Number(slider.max)];
          const before = dataset.redraws;
          const { postMessage } = Worker.prototype;
          window.questions = 0;
          Worker.prototype.postMessage = function (...rest) {
            window.questions++;
            postMessage.apply(this, rest);
          };
          for (let i = 1; i <= 50; i++) {
            slider.value = low + (high - low) * i / 60;
            slider.dispatchEvent(new Event('input', { bubbles: true }));
          }
          return new Promise((done) => requestAnimationFrame(() =>
            done([slider.value, dataset.redraws - before])));
        }"""
    )
    assert drawn == 1
    assert read(page, "left", "threshold") == pytest.approx(float(asked), abs=1e-4)
    read(page, "left", "regions")
    assert card(page, "left").get_attribute("data-counted-cut") == card(page, "left").get_attribute(
        "data-cut"
    )
    assert page.evaluate("window.questions") == 2


def test_presets_are_the_checkpoints_calibration(page: Page) -> None:
    from mask2kan.checkpoints import load_model

    open_example(page)
    files = scores_of(page)
    _, low, high = files["left"]
    choices = page.locator(".m2k-card[data-side=left] [data-preset]").evaluate_all(
        "(nodes) => nodes.map((n) => n.dataset.preset)"
    )
    assert choices == ["fpr05", "best_here"]
    page.click(".m2k-card[data-side=left] [data-preset=fpr05]")
    settle(page)
    model = load_model(str(_model(page)), device="cpu")
    wanted = float(model.calibration["msp"]["fpr05"])
    assert read(page, "left", "threshold") == pytest.approx(wanted, abs=(high - low) / 65535)
    assert page.locator(".m2k-card[data-side=right] [data-preset=middle]").count() == 1


def _model(page: Page) -> Path:
    return Path(
        page.evaluate(
            "() => new URLSearchParams(new URL(window.mask2kan.link()).search).get('left')"
        )
    )


def test_a_number_typed_is_taken_and_nonsense_is_not(page: Page) -> None:
    open_example(page)
    box = page.locator(".m2k-card[data-side=right] .m2k-number")
    box.fill("0.5")
    box.press("Enter")
    settle(page)
    assert read(page, "right", "threshold") == pytest.approx(0.5, abs=1e-3)
    box.fill("")
    box.press("Enter")
    settle(page)
    assert read(page, "right", "threshold") == pytest.approx(0.5, abs=1e-3)


def test_downloads_are_what_they_say(page: Page, tmp_path: Path) -> None:
    open_example(page)
    [view] = downloaded(page, "view")
    with Image.open(view) as opened:
        assert opened.width > 1000
    [page_file] = downloaded(page, "page")
    assert page_file.read_bytes().startswith(b"%PDF")
    assert len(downloaded(page, "overlays")) == 6
    for path in downloaded(page, "npz"):
        assert np.load(path)["score"].shape == (512, 1024)
    for path in downloaded(page, "regions"):
        told = json.loads(path.read_text(encoding="utf-8"))
        assert told["images"][0]["width"] == 1024
    [archive] = downloaded(page, "everything")
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
    assert {"left_regions.json", "right_score16.png", "comparison.pdf", "summary.json"} <= names
