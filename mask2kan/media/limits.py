"""How large an image may be, and the one way to say why a file is refused."""

from __future__ import annotations

MAX_MEGAPIXELS = 40
MAX_SIDE = 65_535  # pixels; as far as JPEG and GIF reach. Decoders keep lists of rows.
MAX_SCANS = 100  # of a JPEG; progressive encoders write 6 to 18
MAX_SCANNED = 800  # scans times megapixels: 40 MP of CMYK in 18 scans have 720


class Unfit(ValueError):  # noqa: N818 - a reason inside a sentence, which no caller sees
    """Why a file is refused: the rest of a sentence that begins with what it is."""


def check_size(width: int, height: int) -> None:
    """Raise ``Unfit`` unless an image of that size, in pixels, may be decoded."""
    if width < 1 or height < 1:
        raise Unfit(f"it is {width} × {height} pixels")
    megapixels = width * height / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise Unfit(f"it has {megapixels:.1f} megapixels ({width} × {height})")


def check_sides(width: int, height: int) -> None:
    """Raise ``Unfit`` for an image that is too narrow a strip."""
    if max(width, height) > MAX_SIDE:
        raise Unfit(f"it is {width} × {height} pixels, a side has at most {MAX_SIDE:,}")


def check_scans(scans: int, pixels: int) -> None:
    """Raise ``Unfit`` for a JPEG of that many scans, each of which goes over all pixels."""
    if scans > MAX_SCANS:
        raise Unfit(f"it is stored in {scans:,} scans or more, at most {MAX_SCANS} fit")
    megapixels = min(MAX_MEGAPIXELS, pixels / 1e6)  # of more, the size is what is wrong
    if scans * megapixels > MAX_SCANNED:
        most = int(MAX_SCANNED / megapixels)
        raise Unfit(
            f"its {megapixels:.1f} megapixels are stored in {scans} scans or more, at most {most} "
            "fit"
        )
