"""Maps to pictures: class colours, heat maps on a fixed range, outlines, legends, comparisons.

A heat map's range is always given, never taken from the map itself: stretched to its own minimum
and maximum, every picture of a normal road would glow somewhere.

Legend: H W picture size, K classes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mask2kan.errors import ConfigError, NumericsError, unknown
from mask2kan.inference.scores import anomalous_regions
from mask2kan.media.images import RGB

OUTLINE = (0, 255, 255)
INK = (24, 26, 31)
PAPER = (255, 255, 255)
FADED = (110, 114, 122)
PANEL_WIDTH = 720
MARGIN = 16
TEXT = 24  # pixels: still legible where three panels share the width of a paper's page
TITLE = 32


def colorize(labels: NDArray[np.integer], palette: NDArray[np.uint8]) -> RGB:
    """Class map to colours.

    Args:
        labels: (H, W) class indices; 255 and whatever else is no class becomes black.
        palette: (K, 3).

    Returns:
        (H, W, 3).
    """
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    known = (labels >= 0) & (labels < len(palette))
    return colours[np.where(known, labels, 255)]


def unit_range(score: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """The score with [low, high] mapped to [0, 1] and clipped.

    A range of no width, such as a constant map's, becomes a step: 0 up to ``low`` and 1 above.

    Raises:
        NumericsError: for scores or ranges that are not finite: NaN has no place on a scale.
    """
    bad = int((~np.isfinite(score)).sum())
    if bad or not np.isfinite([low, high]).all():
        raise NumericsError(
            f"Can't draw this score: {bad} of {score.size} values are not finite "
            f"(range {low} to {high})."
        )
    if high <= low:
        return (score > low).astype(np.float32)
    unit: NDArray[np.float32] = (score - np.float32(low)) / np.float32(high - low)
    return unit.clip(0, 1)


def heat_map(score: NDArray[np.float32], lo: float, hi: float, cmap: str = "inferno") -> RGB:
    """Score to colours on a fixed range.

    Args:
        score: (H, W).
        lo: drawn as the colour map's first colour, with all below.
        hi: drawn as its last, with all above.
        cmap: any matplotlib colour map.

    Returns:
        (H, W, 3).

    Raises:
        NumericsError: when score or range is not finite.
        ConfigError: for an unknown colour map.
    """
    return color_table(cmap)[np.rint(unit_range(score, lo, hi) * 255).astype(np.uint8)]


@functools.cache
def color_table(cmap: str) -> NDArray[np.uint8]:
    """The 256 colours of a matplotlib colour map, (256, 3).

    Raises:
        ConfigError: for an unknown name.
    """
    from matplotlib import colormaps

    if cmap not in colormaps:
        raise ConfigError(unknown("colour map", cmap, list(colormaps)))
    table: NDArray[np.uint8] = colormaps[cmap](np.arange(256) / 255, bytes=True)[:, :3]
    return table


def overlay(image: RGB, colour: RGB, alpha: float = 0.5) -> RGB:
    """``colour`` over ``image``: alpha 0 shows the image alone, 1 the colours alone.

    Raises:
        ConfigError: when alpha is outside [0, 1] or the sizes differ.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is {alpha}; it must be between 0 and 1.")
    if image.shape != colour.shape:
        raise ConfigError(f"Can't overlay {colour.shape} on {image.shape}; sizes must be equal.")
    blended = Image.blend(Image.fromarray(image), Image.fromarray(colour), alpha)
    return np.asarray(blended)


def outline(
    image: RGB,
    mask: NDArray[np.bool_],
    color: tuple[int, int, int] = OUTLINE,
    *,
    thickness: int | None = None,
    min_pixels: int = 0,
) -> RGB:
    """The picture with a line around each region of a mask.

    Args:
        image: (H, W, 3).
        mask: (H, W), True inside.
        color: of the line; a dark rim keeps it visible on bright ground.
        thickness: in pixels; by default it grows with the picture.
        min_pixels: regions smaller than this are left out.

    Raises:
        ConfigError: when the sizes differ.
    """
    if mask.shape != image.shape[:2]:
        raise ConfigError(
            f"Can't outline a {mask.shape} mask in a {image.shape[:2]} picture; "
            "sizes must be equal."
        )
    if min_pixels > 1:
        mask = anomalous_regions(mask, min_pixels)[0] > 0
    width = max(1, round(max(mask.shape) / 600)) if thickness is None else max(1, thickness)
    grown = ndimage.binary_dilation(mask, iterations=width)
    rim = ndimage.binary_dilation(grown)
    drawn: RGB = image.copy()
    drawn[rim & ~grown] = INK
    drawn[grown & ~mask] = color
    # regions that touch the border get their line inside it
    inner = mask & ~ndimage.binary_erosion(mask, iterations=width)
    inner[width:-width, width:-width] = False
    drawn[inner] = color
    return drawn


def legend(
    class_names: Sequence[str], palette: NDArray[np.uint8], *, width: int = PANEL_WIDTH
) -> RGB:
    """Colour patches with their class names, in as many rows as they need.

    Args:
        class_names: the classes to show.
        palette: their colours, in the same order.
        width: of the result, in pixels.

    Returns:
        (height, width, 3).
    """
    font, patch, row = _font(TEXT), 22, 38
    places: list[tuple[int, int]] = []
    x, y = 0, 0
    names = [_fitted(name, TEXT, width - patch - 8) for name in class_names]
    for name in names:
        needed = patch + 8 + round(font.getlength(name)) + 28
        if x and x + needed > width:
            x, y = 0, y + row
        places.append((x, y))
        x += needed
    picture = Image.new("RGB", (width, y + row), PAPER)
    draw = ImageDraw.Draw(picture)
    for name, color, (left, top) in zip(names, palette, places, strict=True):
        box = (left, top + (row - patch) // 2, left + patch, top + (row + patch) // 2)
        draw.rectangle(box, fill=tuple(int(value) for value in color), outline=FADED)
        draw.text((left + patch + 8, top + row // 2), name, INK, font, anchor="lm")
    return np.asarray(picture)


def color_bar(
    lo: float,
    hi: float,
    label: str,
    *,
    threshold: float | None = None,
    cmap: str = "inferno",
    width: int = PANEL_WIDTH,
) -> RGB:
    """A heat map's scale with the values at its ends, what it shows, and the threshold."""
    bar_height, height = 22, 60
    picture = Image.new("RGB", (width, height), PAPER)
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    picture.paste(Image.fromarray(np.tile(color_table(cmap)[ramp], (bar_height, 1, 1))), (0, 0))
    draw, font = ImageDraw.Draw(picture), _font(TEXT)
    below = bar_height + 6
    draw.text((0, below), f"{lo:.3g}", INK, font)
    draw.text((width - 1, below), f"{hi:.3g}", INK, font, anchor="ra")
    draw.text((width / 2, below), label, INK, font, anchor="ma")
    if threshold is not None and hi > lo:
        x = round(float(np.clip((threshold - lo) / (hi - lo), 0, 1)) * (width - 1))
        draw.line((x, 0, x, bar_height + 3), fill=OUTLINE, width=5)
    return np.asarray(picture)


@dataclasses.dataclass(frozen=True)
class Column:
    """One model's pictures in a comparison, top to bottom.

    Attributes:
        title: the first line.
        subtitle: a second, smaller line.
        pictures: captions with RGB arrays of any sizes.
    """

    title: str
    subtitle: str
    pictures: Sequence[tuple[str, RGB]]


def comparison(columns: Sequence[Column], *, panel_width: int = PANEL_WIDTH) -> RGB:
    """Columns side by side under their titles, every picture at the same width.

    Args:
        columns: at least one.
        panel_width: width of a picture, in pixels; smaller ones are not enlarged beyond it.

    Returns:
        (H, W, 3).
    """
    drawn = [_draw_column(column, panel_width) for column in columns]
    width = sum(image.width for image in drawn) + MARGIN * (len(drawn) + 1)
    height = max(image.height for image in drawn) + 2 * MARGIN
    picture = Image.new("RGB", (width, height), PAPER)
    x = MARGIN
    for image in drawn:
        picture.paste(image, (x, MARGIN))
        x += image.width + MARGIN
    return np.asarray(picture)


def stacked(pictures: Sequence[RGB]) -> RGB:
    """Pictures below each other, as wide as the widest, on paper."""
    width = max(picture.shape[1] for picture in pictures)
    result = Image.new("RGB", (width, sum(picture.shape[0] for picture in pictures)), PAPER)
    y = 0
    for picture in pictures:
        result.paste(Image.fromarray(picture), (0, y))
        y += picture.shape[0]
    return np.asarray(result)


def indented(picture: RGB) -> RGB:
    """The picture with a margin left, right and below."""
    size = picture.shape[1] + 2 * MARGIN, picture.shape[0] + MARGIN
    result = Image.new("RGB", size, PAPER)
    result.paste(Image.fromarray(picture), (MARGIN, 0))
    return np.asarray(result)


def paragraphs(texts: Sequence[str], *, width: int, size: int = TEXT) -> RGB:
    """Lines of text, broken at spaces where they are too long.

    Args:
        texts: each begins a line.
        width: of the result, in pixels.
        size: of the letters, in pixels.
    """
    font, row = _font(size), round(1.5 * size)
    lines = []
    for text in texts:
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    picture = Image.new("RGB", (width, row * len(lines)), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((0, number * row), _fitted(line, size, width), INK, font)
    return np.asarray(picture)


def _draw_column(column: Column, width: int) -> Image.Image:
    head, caption_height, gap = 82, 44, 10
    scaled = [(caption, _to_width(picture, width)) for caption, picture in column.pictures]
    height = head + sum(image.height + (caption_height if text else gap) for text, image in scaled)
    result = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(result)
    draw.text((0, 0), _fitted(column.title, TITLE, width), INK, _font(TITLE))
    draw.text((0, 44), _fitted(column.subtitle, TEXT, width), FADED, _font(TEXT))
    y = head
    for text, image in scaled:
        if text:
            # near the picture it names, away from the one above
            place = (0, y + caption_height - 6)
            draw.text(place, _fitted(text, TEXT, width), FADED, _font(TEXT), anchor="ld")
        y += caption_height if text else gap
        result.paste(image, (0, y))
        y += image.height
    return result


def _to_width(picture: RGB, width: int) -> Image.Image:
    image = Image.fromarray(picture)
    if image.width == width:
        return image
    size = width, max(1, min(4 * width, round(image.height * width / image.width)))
    return image.resize(size, Image.Resampling.BILINEAR)


def _fitted(text: str, size: int, width: int) -> str:
    """The text, shortened in its middle until it fits."""
    font, kept = _font(size), min(len(text), width)  # no letter is narrower than a pixel
    shown = text
    while kept > 4 and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[-(kept // 2) :]}"
    return shown


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font: no file to find, the same everywhere."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels all have FreeType
    return font
