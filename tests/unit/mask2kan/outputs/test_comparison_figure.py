"""The comparison page: text that stays text, nothing that overlaps, no state shared by threads."""

from __future__ import annotations

import itertools
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mask2kan.errors import ConfigError
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.outputs import comparison_figure
from mask2kan.outputs.comparison_figure import comparison_page, write_page
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.truth import mask_quality
from tests.tiny_models import tiny

Named = list[tuple[str, Analysis]]


@pytest.fixture
def analyses(predictions: list[tuple[str, Prediction]]) -> Named:
    return [(title, Analysis(prediction, "rba")) for title, prediction in predictions]


@pytest.fixture
def truth() -> np.ndarray:
    truth = np.zeros((60, 90), np.uint8)
    truth[10:20, 10:30] = 1
    return truth


def texts(page: Figure) -> str:
    return "\n".join(text.get_text() for text in page.texts)


def test_a_png_is_large_and_light(analyses: Named, truth: np.ndarray, tmp_path: Path) -> None:
    path = write_page(tmp_path / "page.png", comparison_page(analyses, truth=truth))
    with Image.open(path) as opened:
        page = np.asarray(opened.convert("RGB"))
    assert page.shape[1] > 3 * 700
    assert (page[:, :20] == 255).all()
    assert len(np.unique(page.reshape(-1, 3), axis=0)) > 100


def _text_of(content: bytes) -> str:
    """The text that a PDF draws as text, character by character; latin letters only."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.S)
    inflated = b"".join(zlib.decompress(part) for part in streams if part[:1] == b"x")
    lines = []
    for block in re.findall(rb"BT\n(.*?)\nET", inflated, re.S):
        drawn = re.findall(rb"\(((?:\\.|[^\\)])*)\)", block, re.S)
        # One or two bytes a character, the first of them 0, by the version of Matplotlib.
        plain = re.sub(rb"\\(.)", rb"\1", b"".join(drawn), flags=re.S).replace(b"\0", b"")
        lines.append(plain.decode("latin-1"))
    return "\n".join(lines)


def test_a_pdf_holds_text_and_its_font(analyses: Named, tmp_path: Path) -> None:
    """All that the page says can be selected and found, none of it is drawn as pixels or curves."""
    page = comparison_page(analyses, name="cow (1).png")
    content = write_page(tmp_path / "page.pdf", page).read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/FontFile2" in content  # a TrueType font, embedded
    assert b"/ToUnicode" in content
    assert b"/Type3" not in content
    lines = _text_of(content).splitlines()
    assert "cow (1).png" in lines
    assert set(texts(page).splitlines()) <= set(lines)
    # Two maps of each model with their scales, and the image: nothing else is made of pixels.
    assert content.count(b"/Subtype /Image") == 3 * len(analyses) + 1


def test_a_page_says_what_was_set_and_found(analyses: Named, truth: np.ndarray) -> None:
    said = texts(comparison_page(analyses, name="road $x^{ $.png", truth=truth))
    assert "road $x^{ $.png" in said
    assert "90 x 60 pixels" in said
    assert "anomaly score rba (uncalibrated); outlined: at least" in said
    assert "Regions of 50 pixels or more" in said
    for title, analysis in analyses:
        quality = mask_quality(analysis.outlined, truth)
        assert f"{title}: score rba >= {analysis.threshold:.4g}" in said
        assert f"F1 {quality['F1']:.3f}, IoU {quality['IoU']:.3f}, " in said
        for entry in analysis.classes:
            assert entry["name"] in said


@pytest.mark.filterwarnings("ignore:Glyph")  # of a name in letters that the font lacks
@pytest.mark.parametrize(
    "name", ["a.png", "a name of very many words " * 20, "W" * 300, "道路.png"]
)
def test_no_text_overlaps_another_or_leaves_the_page(
    predictions: list[tuple[str, Prediction]], name: str
) -> None:
    analyses = [(name, Analysis(prediction)) for _, prediction in predictions]
    for _, analysis in analyses:
        for entry in analysis.classes:
            entry["name"] = f"{entry['name']} {name}"
    page = comparison_page(analyses, name=name)
    boxes = [text.get_window_extent() for text in page.texts]
    for box in boxes:
        assert page.bbox.x0 <= box.x0
        assert box.x1 <= page.bbox.x1
        assert page.bbox.y0 <= box.y0
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))


def test_pages_are_drawn_by_many_threads_and_leave_no_settings(
    analyses: Named, tmp_path: Path
) -> None:
    before = dict(mpl.rcParams)

    def draw(number: int) -> bytes:
        return write_page(tmp_path / f"{number}.png", comparison_page(analyses)).read_bytes()

    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(draw, range(8)))
    assert len(set(drawn)) == 1
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("size", [(2, 900), (900, 2)])
def test_wide_and_tall_images_have_pages(size: tuple[int, int]) -> None:
    predictor = Predictor(tiny("mask2kan", "mobilenetv2"), "cpu")
    analysis = Analysis(predictor(np.zeros((*size, 3), np.uint8)))
    width, height = comparison_page([("a", analysis)]).get_size_inches()
    assert 7 < width < 8
    assert 1 < height < 32


def test_a_page_refuses_another_images_truth(analyses: Named) -> None:
    with pytest.raises(ConfigError, match="sizes must be equal"):
        comparison_page(analyses, truth=np.ones((5, 5), np.uint8))


def test_a_page_in_an_unknown_format_is_refused(analyses: Named, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.docx"):
        write_page(tmp_path / "page.docx", comparison_page(analyses))
    assert not list(tmp_path.iterdir())


def test_a_very_long_name_is_measured_a_few_times(
    analyses: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each measurement takes as long as the text, and strangers name classes."""
    measured: list[str] = []
    width = comparison_figure._width
    monkeypatch.setattr(
        comparison_figure,
        "_width",
        lambda text, *size: (measured.append(text), width(text, *size))[1],
    )
    shown = comparison_figure._fitted("long name " * 1000, 2.0)
    assert 10 < len(shown) < 60
    assert "…" in shown
    assert len(measured) < 15
    assert width(shown) <= 2.0
