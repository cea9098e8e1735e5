r"""Component metrics of the SegmentMeIfYouCan benchmark: sIoU, PPV and F1*.

From Chan et al., "SegmentMeIfYouCan", 2021, section 4; sizes as in the benchmark's code. Pixels
above the threshold form 8-connected segments without void; small ones are dropped. True components
that are too small become void, with the segments' pixels on them. For a true component k and all
segments K that touch it, sIoU = |k n K| / |(k u K) \ A|, A the part of K on other true components
(the thesis omits the parentheses). PPV is the share of a segment on true components. At each tau in
0.25, 0.30, ... 0.75 sIoU >= tau is a true positive, else a false negative, and PPV < tau a false
positive; F1* is the mean F1.

The threshold is known only after the last image, so scores wait in a temporary file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .spill_file import SpillFile

# As the benchmark spaces them: in floating point its 0.6 is the next number above 0.6.
TAUS = np.linspace(0.25, 0.75, 11)

Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]


class Track(NamedTuple):
    """Sizes in pixels below which a segment is dropped and a true component becomes void."""

    min_segment: int
    min_truth: int


TRACKS = {"anomaly": Track(500, 100), "obstacle": Track(50, 10)}


class _Image(NamedTuple):
    """Byte offsets of an image's arrays."""

    shape: tuple[int, int]
    scores: int
    anomalous: int


class ComponentEvaluator:
    """Keeps images, with scores of a dtype, until a threshold is known."""

    def __init__(
        self,
        track: Track,
        dtype: type[np.float16] | type[np.float32],
        folder: str | Path | None = None,
    ) -> None:
        self._track = track
        self._dtype = dtype
        self._file = SpillFile(folder)
        self._images: list[_Image] = []

    def add(
        self,
        scores: npt.NDArray[np.floating[Any]],
        anomalous: npt.NDArray[np.bool_],
        void: npt.NDArray[np.bool_],
    ) -> None:
        """Add one image: (H, W) finite scores, anomalous pixels, void pixels."""
        # NaN stands for void: it is above no threshold. One bit per pixel says anomalous.
        stored = scores.astype(self._dtype)
        stored[void] = np.nan
        start = self._file.append(stored)
        bits = self._file.append(np.packbits(anomalous))
        height, width = scores.shape
        self._images.append(_Image((height, width), start, bits))

    def compute(self, threshold: float) -> dict[str, Any]:
        """Evaluate the pixels with score > threshold, rounded like NumPy to the scores' dtype.

        Returns:
            ``siou`` (mean over true components), ``ppv`` (mean over segments), ``f1_star``, all in
            [0, 1] or NaN; ``tp``, ``fp``, ``fn``: counts by tau in per cent.
        """
        overlaps = [self._overlaps(image, threshold) for image in self._images]
        siou = np.concatenate([np.empty(0), *(pair[0] for pair in overlaps)])
        ppv = np.concatenate([np.empty(0), *(pair[1] for pair in overlaps)])
        tp = [int((siou >= tau).sum()) for tau in TAUS]
        fn = [len(siou) - hits for hits in tp]
        fp = [int((ppv < tau).sum()) for tau in TAUS]
        f1 = [
            2 * hits / (2 * hits + misses + false) if hits + misses + false else np.nan
            for hits, misses, false in zip(tp, fn, fp, strict=True)
        ]
        keys = [round(100 * tau) for tau in TAUS]
        return {
            "siou": float(siou.mean()) if len(siou) else np.nan,
            "ppv": float(ppv.mean()) if len(ppv) else np.nan,
            "f1_star": float(np.mean(f1)),
            "tp": dict(zip(keys, tp, strict=True)),
            "fp": dict(zip(keys, fp, strict=True)),
            "fn": dict(zip(keys, fn, strict=True)),
        }

    def _overlaps(self, image: _Image, threshold: float) -> tuple[Doubles, Doubles]:
        height, width = image.shape
        count = height * width
        scores = self._file.read(image.scores, count, self._dtype).reshape(image.shape)
        bits = self._file.read(image.anomalous, (count + 7) // 8, np.uint8)
        anomalous = np.unpackbits(bits, count=count).reshape(image.shape).astype(bool)
        flagged = scores > self._dtype(threshold)
        return segment_overlaps(flagged, anomalous, np.isnan(scores), self._track)


def segment_overlaps(
    flagged: npt.NDArray[np.bool_],
    anomalous: npt.NDArray[np.bool_],
    void: npt.NDArray[np.bool_],
    track: Track,
) -> tuple[Doubles, Doubles]:
    """Return the sIoU of every true component and the PPV of every segment.

    The masks are (H, W); flagged pixels, those called anomalous, are never void.
    """
    truth, truth_sizes = _components(anomalous)
    segments, segment_sizes = _components(flagged)
    large = np.flatnonzero(segment_sizes >= track.min_segment)
    large = large[large > 0]
    new_ids = np.zeros(len(segment_sizes), np.int64)
    new_ids[large] = np.arange(1, len(large) + 1)
    # The benchmark applies the limit to the background too, so where it is tiny it becomes void.
    counts = ~void & (truth_sizes >= track.min_truth)[truth]
    # Each pixel is a pair (true component, segment); one count makes the whole contingency table
    pairs = truth[counts].astype(np.int64) * (len(large) + 1) + new_ids[segments[counts]]
    table = np.bincount(pairs, minlength=len(truth_sizes) * (len(large) + 1))
    table = table.reshape(len(truth_sizes), len(large) + 1)
    # table: pixels by true component (row 0: none) and segment (column 0: none)
    table = np.concatenate([table[:1], table[1:][table[1:].any(1)]])
    shared, beside = table[1:, 1:], table[0, 1:]
    hits, covered = shared.sum(1), shared.sum(0)
    # The part of a touching segment on other true components does not count against this one
    union = table[1:].sum(1) + (shared > 0) @ beside
    present = covered + beside > 0
    return hits / union, covered[present] / (covered + beside)[present]


def _components(mask: npt.NDArray[np.bool_]) -> tuple[Ids, npt.NDArray[np.int64]]:
    """8-connected components: (H, W) ids, 0 outside, and the size of each id in pixels."""
    count, ids = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return np.asarray(ids, np.int32), np.bincount(ids.ravel(), minlength=count)
