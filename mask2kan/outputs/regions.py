"""Anomalous regions, for summaries and as COCO annotations.

Source: the run-length encoding of COCO (Lin et al., 2014; ``pycocotools``).

Legend: H W image size, h w box size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mask2kan.inference.scores import anomalous_regions


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """8-connected anomalous pixels, with the mean and maximum of their scores.

    Attributes:
        box: left, top, right and bottom; right and bottom excluded.
        inside: (h, w), the region's pixels in the box.
        pixels: their number.
    """

    box: tuple[int, int, int, int]
    inside: NDArray[np.bool_]
    pixels: int
    mean: float
    max: float

    def run_lengths(self, height: int, width: int) -> str:
        """Encode the region in an image of (H, W) as ``pycocotools`` does.

        Lengths of zeros and ones alternate down the columns, zeros first; from the fourth on they
        are differences from the last but one; a letter holds five bits, low ones first.
        """
        columns, rows = np.nonzero(self.inside.T)
        places = (columns + self.box[0]) * height + rows + self.box[1]
        breaks = np.flatnonzero(np.diff(places) != 1)
        starts, ends = places[np.r_[0, breaks + 1]], places[np.r_[breaks, -1]] + 1
        edges = [0, *np.stack([starts, ends], axis=1).ravel().tolist(), height * width]
        counts = np.diff(edges if ends[-1] < height * width else edges[:-1]).tolist()
        letters = []
        for index, count in enumerate(counts):
            rest, more = count - (counts[index - 2] if index > 2 else 0), True
            while more:
                bits, rest = rest & 0x1F, rest >> 5
                more = rest != (-1 if bits & 0x10 else 0)
                letters.append(chr(48 + (bits | (0x20 if more else 0))))
        return "".join(letters)


def find_regions(
    mask: NDArray[np.bool_], scores: NDArray[np.float32], min_pixels: int = 0
) -> list[Region]:
    """List the regions of a mask (H, W) of at least ``min_pixels``, the largest first."""
    labels, _ = anomalous_regions(mask, min_pixels)
    regions = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[rows, columns] == label
        values = scores[rows, columns][inside]
        box = (columns.start, rows.start, columns.stop, rows.stop)
        mean = float(values.mean(dtype=np.float64))
        regions.append(Region(box, inside, values.size, mean, float(values.max())))
    return sorted(regions, key=lambda region: -region.pixels)


def coco_file(
    regions: Sequence[Region], size: tuple[int, int], file_name: str, info: dict[str, Any]
) -> dict[str, Any]:
    """Describe an image's regions as a COCO annotation file, with mean and largest scores.

    ``size`` is (H, W); ``info`` is passed through. Each ``bbox`` is [x, y, width, height].
    """
    height, width = size
    return {
        "info": info,
        "images": [{"id": 1, "width": width, "height": height, "file_name": file_name}],
        "categories": [{"id": 1, "name": "anomaly", "supercategory": "anomaly"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "area": region.pixels,
                "bbox": [left, top, right - left, bottom - top],
                "segmentation": {
                    "size": [height, width],
                    "counts": region.run_lengths(height, width),
                },
                "score": region.mean,
                "max_score": region.max,
            }
            for number, region in enumerate(regions, start=1)
            for left, top, right, bottom in [region.box]
        ],
    }
