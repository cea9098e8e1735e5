"""Every data set by name, and how a folder is recognised: the one place to add another.

What a user writes after ``--data`` is one of the names below, a folder whose layout is recognised
by what it holds, or both: ``name=folder``; or several of these, see ``training.data.mixture``.
``synthetic``, ``synthetic:cityscapes``,
``synthetic:ade20k`` and ``synthetic_anomaly`` need no files.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from mask2kan.errors import ConfigError, unknown

from .base import AnomalyPictures, LabelledPictures, SegmentationPictures
from .folders import data_places, find_data
from .mixture import Mixture, Part, parts_of
from .sets.ade20k import ADE20KPictures
from .sets.camvid import CamVid
from .sets.camvid_anomaly import CamVidAnomaly
from .sets.cityscapes import Cityscapes
from .sets.cityscapes256 import Cityscapes256, CityscapesClips
from .sets.fishyscapes import FishyscapesLostAndFound, FishyscapesStatic
from .sets.image_folder import ImageFolder
from .sets.lost_and_found import LostAndFound
from .sets.mask_folders import AnomalySet
from .sets.rendered import FOLDERS as RENDERED_FOLDERS
from .sets.rendered import RenderedAnomalies, RenderedStreets
from .sets.road_anomaly import RoadAnomaly
from .sets.smiyc import RoadAnomaly21, RoadObstacle21
from .sets.synthetic import SyntheticAnomalies, SyntheticRooms, SyntheticStreets


@dataclasses.dataclass(frozen=True)
class SegmentationEntry:
    """A data set to train on.

    Attributes:
        pictures: its class.
        folders: names its folder goes by; none where it needs a path.
    """

    pictures: type[SegmentationPictures]
    folders: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Its name as papers print it."""
        return self.pictures.title

    def find(self, name: str) -> Path:
        """Its folder in one of the usual places.

        Raises:
            ConfigError: when it is in none of them.
        """
        if not self.folders:
            raise ConfigError(f"Data set {name} has no usual place; give its path: {name}=<path>.")
        return find_data(name, folders=self.folders, recognised=self.pictures.recognised)


@dataclasses.dataclass(frozen=True)
class AnomalyEntry:
    """A data set to measure anomaly scores on.

    Attributes:
        name: of the entry.
        pictures: its class; None for the synthetic one.
    """

    name: str
    pictures: type[AnomalySet] | None

    @property
    def title(self) -> str:
        """Its name as papers print it."""
        return self.pictures.title if self.pictures else SyntheticAnomalies.title

    @property
    def track(self) -> str | None:
        """Of SegmentMeIfYouCan: ``anomaly``, ``obstacle`` or None for neither."""
        return self.pictures.track if self.pictures else None

    @property
    def found(self) -> bool:
        """Whether it can be opened without saying where it is."""
        try:
            self.find()
        except ConfigError:
            return False
        return True

    def find(self, root: str | Path | None = None) -> Path | None:
        """Its folder; None for the synthetic one.

        Args:
            root: its folder or one that holds it; None to look in the usual places.

        Raises:
            ConfigError: when it is in none of them.
        """
        if self.pictures is None:
            return None
        return find_data(
            self.name,
            folders=self.pictures.folders,
            root=root,
            recognised=self.pictures.recognised,
        )

    def open(self, root: str | Path | None = None) -> AnomalyPictures:
        """The data set; see ``find`` for where.

        Raises:
            ConfigError: when it is not there, or pictures or labels are missing.
        """
        folder = self.find(root)
        if self.pictures is None or folder is None:
            return SyntheticAnomalies()
        return self.pictures(folder)


# In the order in which a folder is compared with them.
SEGMENTATION_SETS: Mapping[str, SegmentationEntry] = MappingProxyType(
    {
        "folder": SegmentationEntry(ImageFolder),
        "cityscapes": SegmentationEntry(Cityscapes, ("cityscapes", "Cityscapes")),
        "ade20k": SegmentationEntry(ADE20KPictures, ("ade20k", "ADE20K", "ADEChallengeData2016")),
        "cityscapes256": SegmentationEntry(Cityscapes256, ("cityscapes256",)),
        "cityscapes_clips": SegmentationEntry(CityscapesClips, ("cityscapes_clips",)),
        "rendered_street": SegmentationEntry(RenderedStreets, RENDERED_FOLDERS),
        "camvid": SegmentationEntry(CamVid, ("camvid", "CamVid")),
    }
)
SYNTHETIC_SETS: Mapping[str, Callable[[str], LabelledPictures]] = MappingProxyType(
    {
        "synthetic": SyntheticStreets,
        "synthetic:camvid": SyntheticStreets,
        "synthetic:cityscapes": lambda split: SyntheticStreets(split, classes="cityscapes"),
        "synthetic:ade20k": SyntheticRooms,
    }
)
ANOMALY_SETS: Mapping[str, AnomalyEntry] = MappingProxyType(
    {
        name: AnomalyEntry(name, pictures)
        for name, pictures in {
            "road_anomaly_21": RoadAnomaly21,
            "road_obstacle_21": RoadObstacle21,
            "road_anomaly": RoadAnomaly,
            "fishyscapes_static": FishyscapesStatic,
            "fishyscapes_lost_and_found": FishyscapesLostAndFound,
            "lost_and_found": LostAndFound,
            "camvid_anomaly": CamVidAnomaly,
            "rendered_anomaly": RenderedAnomalies,
            "synthetic_anomaly": None,
        }.items()
    }
)


def find_split_data(data: str | Path) -> tuple[type[SegmentationPictures], Path]:
    """The class and folder of a data set to train on.

    Args:
        data: a name, a folder, or ``name=folder``; not a synthetic one.

    Raises:
        ConfigError: when there is nothing, or its layout is not known.
    """
    text = str(data)
    name, given, path = text.partition("=")
    if given and name in SEGMENTATION_SETS:
        return SEGMENTATION_SETS[name].pictures, find_data(path)
    if text in SEGMENTATION_SETS:
        return SEGMENTATION_SETS[text].pictures, SEGMENTATION_SETS[text].find(text)
    try:
        root = find_data(data)
    except ConfigError as error:
        known = ", ".join([*SEGMENTATION_SETS, *SYNTHETIC_SETS])
        raise ConfigError(f"{error} Known by name: {known}; --data synthetic needs none.") from None
    for entry in SEGMENTATION_SETS.values():
        if entry.pictures.recognised(root):
            return entry.pictures, root
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
    pictures, _ = find_split_data(data)
    names = [name for name, entry in SEGMENTATION_SETS.items() if entry.pictures is pictures]
    return str(data) if pictures is ImageFolder else names[0]


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
    pictures, _ = find_split_data(data)
    return tuple(split for split in wanted if split in pictures.splits)


def open_split(data: str | Path, split: str) -> LabelledPictures:
    """A split of a data set to train on.

    Args:
        data: a name (``camvid``, ``cityscapes``, ``ade20k``, ``synthetic``, …), a folder whose
            layout is recognised, ``name=folder``, or several with their weights:
            ``"3 cityscapes256 + 1 camvid"``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: when there is no such data set or split, or pictures or labels are missing.
    """
    parts = parts_of(str(data))
    if len(parts) > 1:
        return _open_mixture(parts, split)
    data = parts[0].data
    if data in SYNTHETIC_SETS:
        return SYNTHETIC_SETS[data](split)
    pictures, root = find_split_data(data)
    return pictures(root, split)


def _open_mixture(parts: list[Part], split: str) -> LabelledPictures:
    """``train`` is drawn from all parts; other splits are the first part's, whose classes count."""
    if split != "train":
        return open_split(parts[0].data, split)
    return Mixture([(part.weight, open_split(part.data, split)) for part in parts])


def open_anomaly(name: str, root: str | Path | None = None) -> AnomalyPictures:
    """An anomaly data set.

    Args:
        name: a key of ``ANOMALY_SETS``.
        root: its folder or one that holds it; None to look in the usual places.

    Raises:
        ConfigError: for another name, or a data set that is not there or incomplete.
    """
    if name not in ANOMALY_SETS:
        raise ConfigError(unknown("data set", name, ANOMALY_SETS))
    return ANOMALY_SETS[name].open(root)


def find_anomaly_sets(root: str | Path | None = None) -> list[tuple[str, Path]]:
    """Names and folders of the anomaly data sets that are there, synthetic ones aside.

    Args:
        root: a folder that holds some, or is one, by the folder's name; None for the usual places.
    """
    bases = data_places() if root is None else [Path(root)]
    found: dict[str, Path] = {}
    for name, entry in ANOMALY_SETS.items():
        if entry.pictures is None:
            continue
        for base in bases:
            candidates = [base / folder for folder in entry.pictures.folders]
            if base.resolve().name in entry.pictures.folders:
                candidates.insert(0, base)
            for candidate in candidates:
                if name not in found and entry.pictures.recognised(candidate):
                    found[name] = candidate
    return list(found.items())


def layout_of(name: str) -> str:
    """How a data set is laid out: the text its module begins with.

    Raises:
        ConfigError: for an unknown name.
    """
    known = [*SEGMENTATION_SETS, *SYNTHETIC_SETS, *ANOMALY_SETS]
    if name not in known:
        raise ConfigError(unknown("data set", name, known))
    pictures: type = SyntheticAnomalies
    if name in SEGMENTATION_SETS:
        pictures = SEGMENTATION_SETS[name].pictures
    elif name in ANOMALY_SETS:
        pictures = ANOMALY_SETS[name].pictures or SyntheticAnomalies
    return sys.modules[pictures.__module__].__doc__ or ""
