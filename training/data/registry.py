"""Every data set by name, and how a folder is recognised: the one place to add another.

What a user writes after ``--data`` is one of the names below, a folder whose layout is recognised
by what it holds, or both: ``name=folder``; or several of these, see ``training.data.mixture``.
``synthetic``, ``synthetic:cityscapes``,
``synthetic:ade20k`` and ``synthetic_anomaly`` need no files.
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
from .mixture import Mixture, Part, parts_of
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
    """The folder of a data set.

    Args:
        name: of one in files.
        root: its folder or one that holds it; None to look in the usual places.

    Raises:
        ConfigError: when it is in none of them.
    """
    images = SEGMENTATION_SETS[name] if name in SEGMENTATION_SETS else _ANOMALY_FILES[name]
    if root is None and not images.folders:
        raise ConfigError(f"Data set {name} has no usual place; give its path: {name}=<path>.")
    return find_data(name, folders=images.folders, root=root, recognised=images.recognised)


def find_split_data(data: str | Path) -> tuple[type[SegmentationImages], Path]:
    """The class and folder of a data set to train on.

    Args:
        data: a name, a folder, or ``name=folder``; not a synthetic one.

    Raises:
        ConfigError: when there is nothing, or its layout is not known.
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
        known = ", ".join([*SEGMENTATION_SETS, *SYNTHETIC_SETS])
        raise ConfigError(f"{error} Known by name: {known}; --data synthetic needs none.") from None
    for images in SEGMENTATION_SETS.values():
        if images.recognised(root):
            return images, root
    try:
        held = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
    except OSError as error:
        raise ConfigError(f"Cannot read the folder {root}: {error.strerror}.") from error
    raise ConfigError(
        f"{root} holds {held}; expected the layout of one of {', '.join(SEGMENTATION_SETS)} "
        "(`python -m training.data layout <name>` shows them). `<name>=<folder>` takes it for "
        "that one; --data synthetic needs no files."
    )


def name_of(data: str | Path) -> str:
    """The name of what a user wrote after ``--data``; a plain folder's is its path.

    Raises:
        ConfigError: when there is nothing, or its layout is not known.
    """
    data = parts_of(str(data))[0].data
    if data in SYNTHETIC_SETS:
        return data
    images, _ = find_split_data(data)
    if images is ImageFolder:
        return data
    return next(name for name, known in SEGMENTATION_SETS.items() if known is images)


def usual_split(data: str | Path) -> str:
    """The split that results are reported on: CamVid's test, val where no test labels are public.

    Raises:
        ConfigError: as ``name_of``.
    """
    return "test" if name_of(data) == "camvid" else "val"


def usable_splits(data: str) -> tuple[str, ...]:
    """Of ``train`` and ``val``, the splits a data set has.

    Raises:
        ConfigError: as ``find_split_data``.
    """
    wanted = ("train", "val")
    if data in SYNTHETIC_SETS:
        return wanted
    images, _ = find_split_data(data)
    return tuple(split for split in wanted if split in images.splits)


def open_split(data: str | Path, split: str) -> LabelledImages:
    """A split of a data set to train on.

    Args:
        data: a name (``camvid``, ``cityscapes``, ``ade20k``, ``synthetic``, …), a folder whose
            layout is recognised, ``name=folder``, or several with their weights:
            ``"3 cityscapes256 + 1 camvid"``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: when there is no such data set or split, or images or labels are missing.
    """
    parts = parts_of(str(data))
    if len(parts) > 1:
        return _open_mixture(parts, split)
    data = parts[0].data
    if data in SYNTHETIC_SETS:
        return SYNTHETIC_SETS[data](split)
    images, root = find_split_data(data)
    return images(root, split)


def _open_mixture(parts: list[Part], split: str) -> LabelledImages:
    """``train`` is drawn from all parts; other splits are the first part's, whose classes count."""
    if split != "train":
        return open_split(parts[0].data, split)
    return Mixture([(part.weight, open_split(part.data, split)) for part in parts])


def open_anomaly(name: str, root: str | Path | None = None) -> AnomalyImages:
    """An anomaly data set.

    Args:
        name: a key of ``ANOMALY_SETS``.
        root: its folder or one that holds it; None to look in the usual places.

    Raises:
        ConfigError: for another name, or a data set that is not there or incomplete.
    """
    require_choice("data set", name, ANOMALY_SETS)
    if name not in _ANOMALY_FILES:
        return SyntheticAnomalies()
    return _ANOMALY_FILES[name](find_set(name, root))


def find_anomaly_sets(root: str | Path | None = None) -> list[tuple[str, Path]]:
    """Names and folders of the anomaly data sets that are there, synthetic ones aside.

    Args:
        root: a folder that holds some, or is one, by the folder's name; None for the usual places.
    """
    bases = data_places() if root is None else [Path(root)]
    found: dict[str, Path] = {}
    for name, images in _ANOMALY_FILES.items():
        for base in bases:
            candidates = [base / folder for folder in images.folders]
            if base.resolve().name in images.folders:
                candidates.insert(0, base)
            for candidate in filter(images.recognised, candidates):
                found.setdefault(name, candidate)
    return list(found.items())


def layout_of(name: str) -> str:
    """How a data set is laid out: the text its module begins with.

    Raises:
        ConfigError: for an unknown name.
    """
    known: dict[str, type] = {
        **SEGMENTATION_SETS,
        **dict.fromkeys(SYNTHETIC_SETS, SyntheticAnomalies),
        **ANOMALY_SETS,
    }
    require_choice("data set", name, known)
    images = known[name]
    return sys.modules[images.__module__].__doc__ or ""
