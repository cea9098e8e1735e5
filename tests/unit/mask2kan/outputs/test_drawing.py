"""Images of maps: exact colours, fixed ranges, no NaN, no division by zero."""

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
    # the same value has the same colour in every image
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
        drawn = drawing.heat_map(np.array([[0.4, 0.5, 0.6]], np.float32), 0.5, 0.5)
    np.testing.assert_array_equal(drawn[0], drawing.color_table("inferno")[[0, 0, 255]])


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
    drawn = drawing.outline(image, mask, (255, 0, 0), thickness=1)
    assert (drawn[9, 10:25] == (255, 0, 0)).all()
    assert (drawn[10:20, 10:25] == 200).all()
    assert (drawn[27:34, 47:54] == 200).all()
    assert (image == 200).all()
    assert (drawing.outline(image, mask[:, ::-1] & False) == 200).all()
    # a region that fills the image still gets its line
    assert (drawing.outline(image, np.ones_like(mask), (255, 0, 0))[0] == (255, 0, 0)).all()


def test_outline_of_another_image_is_refused():
    with pytest.raises(ConfigError, match="sizes must be equal"):
        drawing.outline(np.zeros((4, 6, 3), np.uint8), np.zeros((6, 4), bool))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
def test_outline_of_tiny_images(size):
    image = np.zeros((*size, 3), np.uint8)
    assert drawing.outline(image, np.ones(size, bool)).shape == image.shape


def test_heat_glows_inside_a_white_line_and_the_rest_is_gray() -> None:
    image = np.full((20, 30, 3), (200, 60, 20), np.uint8)
    heat = np.full_like(image, (250, 90, 10))
    inside = np.zeros((20, 30), bool)
    inside[5:12, 8:20] = True
    drawn = drawing.glow(image, heat, inside)
    np.testing.assert_array_equal(drawn[inside], heat[inside])
    assert (drawn[4, 8:20] == drawing.WHITE).all()
    outside = drawn[15:, :]
    assert (outside == outside[0, 0, 0]).all()
    assert outside[0, 0, 0] < 200
    with pytest.raises(ConfigError, match="sizes must be equal"):
        drawing.glow(image, heat[1:], inside)
