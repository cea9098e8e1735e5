"""Draw maps as images: class colours, heat maps, overlays, outlines.

A heat map's range is always given: stretched to its own minimum and maximum, every image of a
normal road would glow somewhere.

Legend: H W image size, K classes.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mask2kan.errors import ConfigError, NumericsError, unknown
from mask2kan.media.images import RGB

OUTLINE = (0, 255, 255)
RIM = (24, 26, 31)
WHITE = (255, 255, 255)
_DIMMED = 0.72  # brightness of an image on which a score glows


def colorize(labels: NDArray[np.integer], palette: NDArray[np.uint8]) -> RGB:
    """Colour a class map (H, W) with a palette (K, 3); what is no class becomes black."""
    colours = np.zeros((len(palette) + 1, 3), dtype=np.uint8)
    colours[:-1] = palette
    known = (labels >= 0) & (labels < len(palette))
    return colours[np.where(known, labels, len(palette)).astype(np.intp)]


def heat_map(score: NDArray[np.float32], lo: float, hi: float, cmap: str = "inferno") -> RGB:
    """Colour a score (H, W) by a matplotlib colour map from ``lo`` to ``hi``, clipped.

    A range of no width is a step above ``lo``.

    Raises:
        NumericsError: for scores or ranges that are not finite.
        ConfigError: for an unknown colour map.
    """
    bad = np.count_nonzero(~np.isfinite(score))
    if bad or not np.isfinite([lo, hi]).all():
        raise NumericsError(
            f"Can't draw this score: {bad} of {score.size} values are not finite "
            f"(range {lo} to {hi})."
        )
    unit = (score - np.float32(lo)) / np.float32(hi - lo) if hi > lo else np.float32(score > lo)
    return np.asarray(color_table(cmap)[np.rint(unit.clip(0, 1) * 255).astype(np.uint8)])


@functools.cache
def color_table(cmap: str) -> NDArray[np.uint8]:
    """Sample a matplotlib colour map, (256, 3).

    Raises:
        ConfigError: for an unknown name.
    """
    from matplotlib import colormaps  # takes a second, and not every command draws

    if cmap not in colormaps:
        raise ConfigError(unknown("colour map", cmap, list(colormaps)))
    return np.asarray(colormaps[cmap](np.arange(256) / 255, bytes=True)[:, :3], np.uint8)


def overlay(image: RGB, colour: RGB, alpha: float = 0.5) -> RGB:
    """Blend ``colour`` over ``image``; alpha 0 shows the image alone.

    Raises:
        ConfigError: when alpha is outside [0, 1] or the sizes differ.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is {alpha}; it must be between 0 and 1.")
    if image.shape != colour.shape:
        raise ConfigError(f"Can't overlay {colour.shape} on {image.shape}; sizes must be equal.")
    return np.asarray(Image.blend(Image.fromarray(image), Image.fromarray(colour), alpha))


def glow(image: RGB, heat: RGB, inside: NDArray[np.bool_]) -> RGB:
    """Show heat only inside a mask (H, W), thinly outlined in white, on the image in gray.

    Raises:
        ConfigError: when the sizes differ.
    """
    if image.shape != heat.shape:
        raise ConfigError(f"Can't draw {heat.shape} on {image.shape}; sizes must be equal.")
    gray = np.asarray(Image.fromarray(image).convert("L"), np.float32) * _DIMMED
    drawn: RGB = np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
    drawn[inside] = heat[inside]
    return outline(drawn, inside, WHITE, thickness=1)


def outline(
    image: RGB,
    mask: NDArray[np.bool_],
    color: tuple[int, int, int] = OUTLINE,
    *,
    thickness: int | None = None,
) -> RGB:
    """Draw a line around each region of a mask (H, W) in a copy of the image.

    A dark rim keeps it visible on bright ground; its thickness, in pixels, grows with the image.

    Raises:
        ConfigError: when the sizes differ.
    """
    if mask.shape != image.shape[:2]:
        raise ConfigError(
            f"Can't outline a {mask.shape} mask in a {image.shape[:2]} image; sizes must be equal."
        )
    width = max(1, round(max(mask.shape) / 600)) if thickness is None else max(1, thickness)
    grown = ndimage.binary_dilation(mask, iterations=width)
    rim = ndimage.binary_dilation(grown)
    drawn: RGB = image.copy()
    drawn[rim & ~grown] = RIM
    drawn[grown & ~mask] = color
    # regions that touch the border get their line inside it
    inner = mask & ~ndimage.binary_erosion(mask, iterations=width)
    inner[width:-width, width:-width] = False
    drawn[inner] = color
    return drawn
