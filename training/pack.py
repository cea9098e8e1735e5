"""``python -m training.pack``: put data sets into one small file, to train from elsewhere.

    python -m training.pack road.tar.xz --data "6 cityscapes256 + 2 camvid" --longest-side 512
    tar -xJf road.tar.xz && MASK2KAN_DATA=road python -m training.train road_pair

Images become WebP; labels become PNGs without compression, which the archive compresses better.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from mask2kan.checks import require
from mask2kan.cli.run import run_command
from mask2kan.errors import ConfigError, one_line
from mask2kan.media.files import atomic_writer
from mask2kan.media.images import open_image

from .data.base import IMAGE_TYPES, Pair
from .data.faults import Fault, FaultError
from .data.folders import data_places, find_data
from .data.mixture import parts_of
from .data.reading import Array, decode_image, decode_label, read_file
from .data.registry import find_split_data, usable_splits

ROOT = "data"  # inside the archive
VALIDATION = 40  # images


def pack(
    archive: Path, data: str, extras: Sequence[str], *, quality: int, longest_side: int
) -> int:
    """Write the archive; return its size in bytes.

    Args:
        archive: a ``.tar.xz``.
        data: a data set or a mixture; synthetic sets need no packing.
        extras: files or folders below a data folder, stored under their names there.
        quality: of WebP, 1 to 100.
        longest_side: pixels, of images and labels.

    Raises:
        ConfigError: for data that is not there.
    """
    with atomic_writer(archive) as file, tarfile.open(fileobj=file, mode="w:xz", preset=6) as tar:
        for name, content in _contents(data, extras, quality, longest_side):
            entry = tarfile.TarInfo(f"{ROOT}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.stat().st_size


def _contents(
    data: str, extras: Sequence[str], quality: int, longest_side: int
) -> Iterator[tuple[str, bytes]]:
    """Yield names below the data folder and bytes; labels of a set last, next to each other."""
    for part in parts_of(data):
        images, root = find_split_data(part.data)
        pairs: list[Pair] = []
        for split in usable_splits(part.data):
            usable = images.scan(root, split).require_usable().pairs
            pairs += usable if split == "train" else usable[:: max(1, len(usable) // VALIDATION)]
        sizes = {}
        for pair in tqdm(pairs, desc=part.data, unit="image"):
            image = decode_image(pair.image, read_file(pair.image))
            image = _shrunk(image, longest_side)
            sizes[pair.label] = image.shape[:2]
            yield _inside(pair.image.with_suffix(".webp")), _webp(image, quality)
        for pair in pairs:
            label = decode_label(pair.label, read_file(pair.label))
            height, width = sizes[pair.label]
            label = np.asarray(
                cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
            )
            yield _inside(pair.label.with_suffix(".png")), _plain_png(label)
    for extra in extras:
        path = find_data(extra)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                yield _inside(file), _extra(file, quality, longest_side)


def _inside(path: Path) -> str:
    for place in data_places():
        if path.resolve().is_relative_to(place.resolve()):
            return path.resolve().relative_to(place.resolve()).as_posix()
    raise ConfigError(
        f"{path} lies in none of {', '.join(map(str, data_places()))}; set MASK2KAN_DATA to the "
        "folder that holds it."
    )


def _extra(file: Path, quality: int, longest_side: int) -> bytes:
    """Read a file as it is; shrink an image with transparency, such as a cut-out."""
    content = read_file(file)
    if file.suffix.lower() not in IMAGE_TYPES:
        return content
    try:
        with open_image(content) as (opened, _):
            if opened.mode != "RGBA":
                return content
            pixels = _shrunk(np.asarray(opened), longest_side // 2)
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes trip
        message = f"{one_line(error)}; expected an image"
        raise FaultError(Fault(file, "damaged-image", message)) from error
    smaller = _webp(pixels, quality)
    return smaller if len(smaller) < len(content) else content


def _shrunk(image: Array, longest_side: int) -> Array:
    factor = longest_side / max(image.shape[:2])
    if factor >= 1:
        return image
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _webp(image: Array, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def _plain_png(label: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _run(options: argparse.Namespace) -> None:
    require("--quality", options.quality, 1, 100)
    require("--longest-side", options.longest_side, 32)
    size = pack(
        options.archive,
        options.data,
        options.extra,
        quality=options.quality,
        longest_side=options.longest_side,
    )
    print(f"{options.archive}: {size / 2**20:.1f} MiB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.pack", description="Data sets in one small file."
    )
    parser.add_argument("archive", type=Path, help="the .tar.xz to write")
    parser.add_argument("--data", required=True, help="data set, or a mixture")
    parser.add_argument("--extra", action="append", default=[], metavar="NAME", help="repeatable")
    parser.add_argument("--quality", type=int, default=80, help="of WebP (default: %(default)s)")
    parser.add_argument("--longest-side", type=int, default=512, help="default: %(default)s")
    return run_command(parser, _run, arguments)


if __name__ == "__main__":
    sys.exit(main())
