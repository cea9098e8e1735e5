"""Fishyscapes' validation data: Lost&Found (100 images) and Static (30), 2048x1024.

Blum et al., "The Fishyscapes benchmark". Both downloads are labels to the images of other sets,
named ``<number>_<name of the image>``:

    fishyscapes_lostandfound/<number>_<name>_labels.png
    <Lost and Found>/leftImg8bit/{train,test}/<sequence>/<name>_leftImg8bit.png

    fs_val_v3/<number>_<name>_labels.png        (also v2 and v1: other blending)
    fs_val_v3/<number>_<name>_rgb.npz           'rgb', what to add to the image, signed
    <Cityscapes>/leftImg8bit/val/<city>/<name>_leftImg8bit.png

Labels: 0 known, 1 anomaly, all other values void, as in Fishyscapes' code. Its figures are AP and
FPR95, the latter at a threshold (``training.metrics.curves``), and its published tables are of
hidden images. SegmentMeIfYouCan measures Lost&Found, too (``FishyLAFAnomaly-val``), with the
component figures of its anomaly track.

Images are looked for in ``leftImg8bit`` in or
beside the labels' folder, and in ``lost_and_found`` or ``cityscapes`` beside it and where data
lies. Mask2Anomaly's ``FS_LostFound_full`` and ``fs_static`` hold the same, complete
(``training.data.sets.mask_folders``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ...metrics.pixel import ANOMALY, KNOWN
from ..base import Scan
from ..faults import Fault
from ..folders import data_places, exists
from ..reading import VOID, LabelValues
from .lost_and_found import FOLDERS as LOST_AND_FOUND_FOLDERS
from .mask_folders import AnomalySet, scan_masks

LABELS, OVERLAY, IMAGE = "_labels", "_rgb.npz", "_leftImg8bit"
VALUES = LabelValues(dict.fromkeys(range(256), VOID) | {0: KNOWN, 1: ANOMALY}, "any 8-bit value")
_NUMBERED = re.compile(r"\d+_(.+)")


class _Fishyscapes(AnomalySet):
    """Labels to the images of another data set."""

    source: ClassVar[tuple[str, ...]]
    source_splits: ClassVar[tuple[str, ...]]
    overlays: ClassVar[bool] = False

    @classmethod
    def recognised(cls, root: Path) -> bool:
        return _has_labels(root) or super().recognised(root)

    @classmethod
    def scan(cls, root: Path) -> Scan:
        if not _has_labels(root) and super().recognised(root):
            return scan_masks(cls.title, root, VALUES)
        scan = Scan(f"{cls.title} at {root}")
        labels = scan.index(root, (LABELS,), companions=(OVERLAY,))
        source = _images_folder(root, cls.source)
        by_name: dict[str, Path] = {}
        if source is None:
            message = f"no leftImg8bit of {cls.source[0]} in it or beside it; expected its images"
            scan.faults.append(Fault(root, "missing-folder", message))
        else:
            for folder in filter(exists, (source / split for split in cls.source_splits)):
                files = scan.index(folder, (IMAGE,), nested=True)
                by_name |= {key.rpartition("/")[2]: path for key, path in files.items()}
        names = {key: match[1] for key in labels if (match := _NUMBERED.fullmatch(key))}
        images = {key: by_name[name] for key, name in names.items() if name in by_name}
        scan.match(images, labels, VALUES, expected=f"{{key}}{LABELS}.png")
        if cls.overlays:
            _add_overlays(scan, root)
        return scan.finish(root)


class FishyscapesLostAndFound(_Fishyscapes):
    """Lost cargo, labelled more finely than by Lost and Found."""

    title = "Fishyscapes Lost&Found"
    track = "anomaly"
    size = 100
    counted = (
        "Fishyscapes' labels of the whole image; components as SegmentMeIfYouCan counts "
        "FishyLAFAnomaly-val: segments below 500 pixels are dropped, anomalies below 100 are void"
    )
    folders = ("fishyscapes_lost_and_found", "fishyscapes_lostandfound", "FS_LostFound_full")
    source = LOST_AND_FOUND_FOLDERS
    source_splits = ("train", "test")


class FishyscapesStatic(_Fishyscapes):
    """Cityscapes with objects of Pascal VOC blended in."""

    title = "Fishyscapes Static"
    size = 30
    counted = "counted as Fishyscapes: all values but 0 and 1 are void"
    folders = ("fishyscapes_static", "fs_val_v3", "fs_val_v2", "fs_val_v1", "fs_static")
    source = ("cityscapes", "Cityscapes")
    source_splits = ("val",)
    overlays = True


def _has_labels(root: Path) -> bool:
    try:
        return any(path.stem.endswith(LABELS) for path in root.iterdir())
    except OSError:
        return False


def _images_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The first ``leftImg8bit`` there is."""
    named = [place / name for place in (root.parent, *data_places()) for name in names]
    tried = [place / "leftImg8bit" for place in (root, *named, root.parent)]
    return next((path for path in tried if exists(path)), None)


def _add_overlays(scan: Scan, root: Path) -> None:
    for place, pair in enumerate(scan.pairs):
        overlay = root / f"{pair.label.stem.removesuffix(LABELS)}{OVERLAY}"
        if exists(overlay):
            scan.pairs[place] = pair._replace(overlay=overlay)
        else:
            message = f"no {overlay.name}; expected what to add to the image"
            scan.faults.append(Fault(overlay, "damaged-overlay", message))
