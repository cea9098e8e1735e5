"""Pictures of maps: exact colours, fixed ranges, no NaN, no division by zero."""

import numpy as np
import pytest
from matplotlib import colormaps

from mask2kan.errors import ConfigError, NumericsError
from mask2kan.outputs import drawing


def test_colorize():
    palette = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    labels = np.array([[0, 1], [255, 7]], np.uint8)
    expected = [[[10, 20, 30], [40, 50, 60]], [[0, 0, 0], [0, 0, 0]]]
    np.testing.assert_array_equal(drawing.colorize(labels, palette), expected)
    signed = drawing.colorize(np.array([[-1, 1]]), palette)
    np.testing.assert_array_equal(signed, [[[0, 0, 0], [40, 50, 60]]])


def test_heat_map_uses_the_given_range_only():
    table = (colormaps["inferno"](np.arange(256) / 255)[:, :3] * 255).astype(np.uint8)
    score = np.array([[-5, -1, 0, 1, 9]], np.float32)
    drawn = drawing.heat_map(score, -1, 1)
    np.testing.assert_array_equal(drawn[0], table[[0, 0, 128, 255, 255]])
    # the same value has the same colour in every picture
    alone = drawing.heat_map(np.zeros((2, 2), np.float32), -1, 1)
    assert (alone == drawn[0, 2]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_are_an_error(value):
    score = np.zeros((3, 3), np.float32)
    score[1, 1] = value
    with pytest.raises(NumericsError, match="1 of 9 values are not finite"):
        drawing.heat_map(score, 0, 1)
    with pytest.raises(NumericsError, match="range"):
        drawing.heat_map(np.zeros((3, 3), np.float32), 0, value)


def test_a_range_of_no_width_is_a_step():
    with np.errstate(all="raise"):
        unit = drawing.unit_range(np.array([0.4, 0.5, 0.6], np.float32), 0.5, 0.5)
    assert unit.tolist() == [0, 0, 1]


def test_unknown_colour_map():
    with pytest.raises(ConfigError, match=r"Nearest: .*inferno"):
        drawing.heat_map(np.zeros((1, 1), np.float32), 0, 1, cmap="infernal")


def test_overlay():
    black, white = np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 255, np.uint8)
    assert (drawing.overlay(black, white, 0) == 0).all()
    assert (drawing.overlay(black, white, 1) == 255).all()
    assert abs(int(drawing.overlay(black, white, 0.5)[0, 0, 0]) - 127) <= 1
    with pytest.raises(ConfigError, match="between 0 and 1"):
        drawing.overlay(black, white, 1.5)
    with pytest.raises(ConfigError, match="sizes must be equal"):
        drawing.overlay(black, white[:1])


def test_outline_surrounds_regions_and_leaves_the_rest():
    image = np.full((40, 60, 3), 200, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:25] = True
    mask[30, 50] = True
    drawn = drawing.outline(image, mask, (255, 0, 0), thickness=1, min_pixels=5)
    assert (drawn[9, 10:25] == (255, 0, 0)).all()
    assert (drawn[10:20, 10:25] == 200).all()
    assert (drawn[27:34, 47:54] == 200).all()
    assert (image == 200).all()
    assert (drawing.outline(image, mask[:, ::-1] & False) == 200).all()
    # a region that fills the picture still gets its line
    assert (drawing.outline(image, np.ones_like(mask), (255, 0, 0))[0] == (255, 0, 0)).all()


def test_outline_of_another_picture_is_refused():
    with pytest.raises(ConfigError, match="sizes must be equal"):
        drawing.outline(np.zeros((4, 6, 3), np.uint8), np.zeros((6, 4), bool))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
def test_outline_of_tiny_pictures(size):
    image = np.zeros((*size, 3), np.uint8)
    assert drawing.outline(image, np.ones(size, bool)).shape == image.shape


def test_legend_shows_every_colour_and_wraps():
    palette = np.random.default_rng(0).integers(0, 256, (19, 3), dtype=np.uint8)
    names = [f"a class called {index}" for index in range(19)]
    drawn = drawing.legend(names, palette, width=400)
    assert drawn.shape[1] == 400
    assert drawn.shape[0] > 100
    for color in palette:
        assert (drawn == color).all(-1).sum() > 50
    assert drawing.legend([], palette[:0]).shape[2] == 3


def test_a_long_name_ends_within_the_legend():
    one = drawing.legend(["a name of many words " * 9], np.zeros((1, 3), np.uint8), width=300)
    assert (one[:, -1] == drawing.PAPER).all()


def test_comparison_has_a_column_per_model():
    picture = np.zeros((50, 100, 3), np.uint8)
    bar = drawing.color_bar(0, 1, "msp", threshold=0.5)
    column = drawing.Column("A very long title " * 20, "two", [("caption", picture), ("", bar)])
    one = drawing.comparison([column], panel_width=300)
    two = drawing.comparison([column, column], panel_width=300)
    assert one.shape[1] == 300 + 32
    assert two.shape[1] == 600 + 48
    assert one.shape[0] == two.shape[0]
    np.testing.assert_array_equal(two[:, :316], one[:, :316])
    assert (two == 0).all(-1).sum() >= 2 * 300 * 140
