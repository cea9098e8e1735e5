"""Every data set by name, and how a folder is recognised: the one place to add another.

``--data`` takes a name below, a folder whose layout is recognised, ``name=folder``, or several of
these (see ``training.data.mixture``). Synthetic sets need no files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from mask2kan.checks import require_choice
from mask2kan.errors import ConfigError

from .base import AnomalyImages, LabelledImages, SegmentationImages
from .folders import data_places, find_data
from .mixture import Mixture, parts_of
from .sets.ade20k import ADE20KImages
from .sets.camvid import CamVid
from .sets.camvid_anomaly import CamVidAnomaly
from .sets.cityscapes import Cityscapes
from .sets.cityscapes256 import Cityscapes256, CityscapesClips
from .sets.fishyscapes import FishyscapesLostAndFound, FishyscapesStatic
from .sets.image_folder import ImageFolder
from .sets.lost_and_found import LostAndFound
from .sets.mask_folders import AnomalySet
from .sets.rendered import RenderedAnomalies, RenderedStreets
from .sets.road_anomaly import RoadAnomaly
from .sets.smiyc import RoadAnomaly21, RoadObstacle21
from .sets.synthetic import SyntheticAnomalies, SyntheticRooms, SyntheticStreets

# In the order in which a folder is compared with them.
SEGMENTATION_SETS: Mapping[str, type[SegmentationImages]] = MappingProxyType(
    {
        "folder": ImageFolder,
        "cityscapes": Cityscapes,
        "ade20k": ADE20KImages,
        "cityscapes256": Cityscapes256,
        "cityscapes_clips": CityscapesClips,
        "rendered_street": RenderedStreets,
        "camvid": CamVid,
    }
)
SYNTHETIC_SETS: Mapping[str, Callable[[str], LabelledImages]] = MappingProxyType(
    {
        "synthetic": SyntheticStreets,
        "synthetic:camvid": SyntheticStreets,
        "synthetic:cityscapes": lambda split: SyntheticStreets(split, classes="cityscapes"),
        "synthetic:ade20k": SyntheticRooms,
    }
)
_ANOMALY_FILES: Mapping[str, type[AnomalySet]] = MappingProxyType(
    {
        "road_anomaly_21": RoadAnomaly21,
        "road_obstacle_21": RoadObstacle21,
        "road_anomaly": RoadAnomaly,
        "fishyscapes_static": FishyscapesStatic,
        "fishyscapes_lost_and_found": FishyscapesLostAndFound,
        "lost_and_found": LostAndFound,
        "camvid_anomaly": CamVidAnomaly,
        "rendered_anomaly": RenderedAnomalies,
    }
)
ANOMALY_SETS: Mapping[str, type[AnomalySet | SyntheticAnomalies]] = MappingProxyType(
    {**_ANOMALY_FILES, "synthetic_anomaly": SyntheticAnomalies}
)


def find_set(name: str, root: str | Path | None = None) -> Path:
    """Find the folder of a data set in files by its name.

    Args:
        name: of the data set.
        root: its folder or one that holds it; None for the usual places.

    Raises:
        ConfigError: when it is in none of them.
    """
    images = SEGMENTATION_SETS[name] if name in SEGMENTATION_SETS else _ANOMALY_FILES[name]
    if root is None and not images.folders:
        raise ConfigError(f"Data set {name} has no usual place; give its path: {name}=<path>.")
    return find_data(name, folders=images.folders, root=root, recognised=images.recognised)


def find_split_data(data: str | Path) -> tuple[type[SegmentationImages], Path]:
    """Find the class and folder of a data set in files: a name, a folder, or ``name=folder``.

    Raises:
        ConfigError: for nothing, or an unknown layout.
    """
    text = str(data)
    name, given, path = text.partition("=")
    if given and name in SEGMENTATION_SETS:
        return SEGMENTATION_SETS[name], find_data(path)
    if text in SEGMENTATION_SETS:
        return SEGMENTATION_SETS[text], find_set(text)
    try:
        root = find_data(data)
    except ConfigError as error:
        names = ", ".join([*SEGMENTATION_SETS, *SYNTHETIC_SETS])
        raise ConfigError(f"{error} Known by name: {names}; --data synthetic needs none.") from None
    for images in SEGMENTATION_SETS.values():
        if images.recognised(root):
            return images, root
    try:
        content = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
    except OSError as error:
        raise ConfigError(f"Cannot read the folder {root}: {error.strerror}.") from error
    raise ConfigError(
        f"{root} holds {content}; expected the layout of one of {', '.join(SEGMENTATION_SETS)} "
        "(`python -m training.data layout <name>` shows them). `<name>=<folder>` takes it for "
        "that one; --data synthetic needs no files."
    )


def name_of(data: str | Path) -> str:
    """Return the name of what follows ``--data``; a plain folder's is its path.

    Raises:
        ConfigError: as ``find_split_data``.
    """
    data = parts_of(str(data))[0].data
    if data in SYNTHETIC_SETS:
        return data
    images, _ = find_split_data(data)
    if images is ImageFolder:
        return data
    return next(name for name, kind in SEGMENTATION_SETS.items() if kind is images)


def usual_split(data: str | Path) -> str:
    """Return the split to report: CamVid's test, val where no test labels are public.

    Raises:
        ConfigError: as ``find_split_data``.
    """
    return "test" if name_of(data) == "camvid" else "val"


def usable_splits(data: str) -> tuple[str, ...]:
    """Return those of ``train`` and ``val`` that a data set has.

    Raises:
        ConfigError: as ``find_split_data``.
    """
    splits = ("train", "val")
    if data in SYNTHETIC_SETS:
        return splits
    images, _ = find_split_data(data)
    return tuple(split for split in splits if split in images.splits)


def open_split(data: str | Path, split: str) -> LabelledImages:
    """Open a split of a data set to train on.

    A mixture's other splits than ``train`` are its first part's, whose classes count.

    Args:
        data: a name, a recognised folder, ``name=folder``, or several with their weights:
            ``"3 cityscapes256 + 1 camvid"``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: for an unknown data set or split, or missing files.
    """
    parts = parts_of(str(data))
    if len(parts) > 1 and split == "train":
        return Mixture([(part.weight, open_split(part.data, split)) for part in parts])
    data = parts[0].data
    if data in SYNTHETIC_SETS:
        return SYNTHETIC_SETS[data](split)
    images, root = find_split_data(data)
    return images(root, split)


def open_anomaly(name: str, root: str | Path | None = None) -> AnomalyImages:
    """Open the anomaly data set with this key of ``ANOMALY_SETS``; ``root`` as in ``find_set``.

    Raises:
        ConfigError: for an unknown name, or missing or incomplete data.
    """
    require_choice("data set", name, ANOMALY_SETS)
    if name not in _ANOMALY_FILES:
        return SyntheticAnomalies()
    return _ANOMALY_FILES[name](find_set(name, root))


def find_anomaly_sets(root: str | Path | None = None) -> list[tuple[str, Path]]:
    """Return names and folders of the anomaly data sets in files.

    Looks in the root and, if named like one, at the root itself; by default in the usual places.
    """
    bases = data_places() if root is None else [Path(root)]
    places: dict[str, Path] = {}
    for name, images in _ANOMALY_FILES.items():
        for base in bases:
            candidates = [base / folder for folder in images.folders]
            if base.resolve().name in images.folders:
                candidates.insert(0, base)
            for candidate in filter(images.recognised, candidates):
                places.setdefault(name, candidate)
    return list(places.items())


def layout_of(name: str) -> str:
    """Return how a data set is laid out: its module's docstring.

    Raises:
        ConfigError: for an unknown name.
    """
    synthetic = dict.fromkeys(SYNTHETIC_SETS, SyntheticAnomalies)
    sets: dict[str, type] = {**SEGMENTATION_SETS, **synthetic, **ANOMALY_SETS}
    require_choice("data set", name, sets)
    return sys.modules[sets[name].__module__].__doc__ or ""
