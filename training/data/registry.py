"""Every data set by name, and how a folder is recognised: the one place to add another.

``--data`` takes a name below, a folder whose layout is recognised, ``name=folder``, or several of
these (see ``training.data.mixture``). Synthetic sets need no files.

Your own sets join without a change here: a module of yours calls ``register``, and the environment
variable MASK2KAN_DATA_SETS names it, so that every command imports it (``register`` shows how).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mask2kan.checks import require_choice
from mask2kan.errors import ConfigError

from .base import AnomalyImages, LabelledImages, PairedImages, SegmentationImages
from .folders import data_places, exists, find_data
from .mixture import Mixture, parts_of
from .registered import Registered
from .sets.ade20k import ADE20KImages
from .sets.anomaly_folder import AnomalyFolder, own_name, shows_anomalies
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
from .unlabelled import PREFIX

_NAME = re.compile(r"[A-Za-z][\w.-]*")

# In the order in which a folder is compared with them.
SEGMENTATION_SETS: Registered[type[SegmentationImages]] = Registered(
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
OWN_FOLDER = "folder_anomaly"
SYNTHETIC_ANOMALY = "synthetic_anomaly"
ANOMALY_SETS: Registered[type[AnomalySet] | type[SyntheticAnomalies]] = Registered(
    {
        "road_anomaly_21": RoadAnomaly21,
        "road_obstacle_21": RoadObstacle21,
        "road_anomaly": RoadAnomaly,
        "fishyscapes_static": FishyscapesStatic,
        "fishyscapes_lost_and_found": FishyscapesLostAndFound,
        "lost_and_found": LostAndFound,
        "camvid_anomaly": CamVidAnomaly,
        "rendered_anomaly": RenderedAnomalies,
        OWN_FOLDER: AnomalyFolder,
        SYNTHETIC_ANOMALY: SyntheticAnomalies,
    }
)


def register(name: str, images: type[SegmentationImages] | type[AnomalySet]) -> None:
    """Add a data set of your own under a name that all commands take.

    In a module of yours, say ``my_sets.py``::

        from training.data import AnomalySet, LabelValues, Scan, register

        class Rocks(AnomalySet):
            title = "Rocks"  # in tables
            folders = ("rocks",)  # what its folder is called where data lies
            marks = ("truth",)  # what in it tells it from others

            @classmethod
            def scan(cls, root):
                scan = Scan(f"{cls.title} at {root}")
                values = LabelValues({0: 0, 7: 1, 9: 255}, "0 (known), 7 (rock) and 9 (void)")
                images, labels = scan.index(root / "rgb"), scan.index(root / "truth")
                scan.match(images, labels, values, expected="truth/{key}.png")
                return scan.finish(root)

        register("rocks", Rocks)

    and ``MASK2KAN_DATA_SETS=my_sets python -m training.benchmark ... --sets rocks=<folder>``, the
    module in the current folder or installed; several are separated by commas. A set to train on is
    a ``SegmentationImages``, with ``class_names`` and ``palette``, whose ``scan`` also takes a
    split. The same definition may be registered again, as in a notebook.

    Raises:
        ConfigError: for a name that is taken or cannot be one, or for what is no such class.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a data set; expected letters, digits, '_', '-' and '.', a "
            "letter first."
        )
    if not isinstance(images, type) or not issubclass(images, (SegmentationImages, AnomalySet)):
        raise ConfigError(
            f"Data set {name} is {images!r}; expected a subclass of SegmentationImages (to train "
            "on) or of AnomalySet (to measure anomaly scores on), both in training.data."
        )
    usual, own = (getattr(kind.recognised, "__func__", None) for kind in (PairedImages, images))
    unmarked = not images.marks and own is usual
    if inspect.isabstract(images) or unmarked or not hasattr(images, "title"):
        raise ConfigError(
            f"Data set {name} is {images.__qualname__}, which lacks its title, its marks or its "
            "classmethod scan; expected all of them (see training.data.registry.register)."
        )
    same_kind: Registered[Any] = ANOMALY_SETS
    if issubclass(images, SegmentationImages):
        same_kind = SEGMENTATION_SETS
    every = {**SYNTHETIC_SETS, **SEGMENTATION_SETS, **ANOMALY_SETS}
    before = every.get(name)
    if before is not None and (
        name not in same_kind
        or name in same_kind.builtin
        or _definition(before) != _definition(images)
    ):
        raise ConfigError(
            f"The name {name} is taken by {'.'.join(_definition(before))}; register "
            f"{images.__qualname__} under another."
        )
    same_kind.add(name, images)


def _definition(images: Any) -> tuple[str, str]:
    return images.__module__, images.__qualname__


def is_synthetic(data: str) -> bool:
    """Whether all parts of what follows ``--data`` are drawn, not read."""
    return all(part.data in SYNTHETIC_SETS for part in parts_of(data))


def find_set(name: str, root: str | Path | None = None) -> Path:
    """Find the folder of a data set in files by its name.

    Args:
        name: of the data set.
        root: its folder or one that holds it; None for the usual places.

    Raises:
        ConfigError: when it is in none of them.
    """
    images: Any = SEGMENTATION_SETS[name] if name in SEGMENTATION_SETS else ANOMALY_SETS[name]
    if root is None and not images.folders:
        raise ConfigError(f"Data set {name} has no usual place; give its path: {name}=<path>.")
    if root is not None and name == OWN_FOLDER:
        return find_data(root)  # what it lacks is said when it is read
    return find_data(name, folders=images.folders, root=root, recognised=images.recognised)


def require_folder(data: str) -> None:
    """Refuse ``name=`` without a folder, which would mean the current one.

    Raises:
        ConfigError: for an empty path.
    """
    name, given, path = data.partition("=")
    if not data.strip() or (given and not path.strip()):
        raise ConfigError(f"{data!r} names no folder; expected {name or 'name'}=<folder>.")


def find_split_data(data: str | Path) -> tuple[type[SegmentationImages], Path]:
    """Find the class and folder of a data set in files: a name, a folder, or ``name=folder``.

    Raises:
        ConfigError: for nothing, or an unknown layout.
    """
    text = str(data)
    name, given, path = text.partition("=")
    require_folder(text)
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
        if images.claims(root):
            return images, root
    if ImageFolder.plain(root):
        return ImageFolder, root
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
    if data in SYNTHETIC_SETS or data.startswith(PREFIX):
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


class AnomalyChoice(NamedTuple):
    """An anomaly data set as the user chose it.

    Attributes:
        kind: a key of ``ANOMALY_SETS``.
        root: its folder; None for synthetic images.
        name: in results: the kind, or a folder of one's own's own name.
    """

    kind: str
    root: Path | None
    name: str

    @property
    def own(self) -> bool:
        """Whether it is a user's."""
        return self.kind == OWN_FOLDER or self.kind not in ANOMALY_SETS.builtin

    @property
    def data(self) -> str:
        """What opens it from anywhere on this machine."""
        return self.kind if self.root is None else f"{self.kind}={self.root.absolute()}"


def choose_anomaly(data: str | Path, root: str | Path | None = None) -> AnomalyChoice:
    """Find an anomaly data set: a name (with ``root`` as in ``find_set``), folder or name=folder.

    Raises:
        ConfigError: for an unknown name or layout, or missing data.
    """
    kind, given, path = str(data).partition("=")
    if kind in ANOMALY_SETS or not exists(Path(data)):
        require_choice("data set", kind, ANOMALY_SETS)
        if kind == SYNTHETIC_ANOMALY:
            return AnomalyChoice(kind, None, kind)
        place = find_set(kind, path if given else root)
    else:
        kind, place = recognise_anomalies(data)
    name = kind
    if kind == OWN_FOLDER:
        name = own_name(place)
        if name in ANOMALY_SETS:  # which stands for the published one
            name = f"{OWN_FOLDER}_{name}"
    return AnomalyChoice(kind, place, name)


def recognise_anomalies(folder: str | Path) -> tuple[str, Path]:
    """Return name and folder of the anomaly data set that a folder is, or else the one it holds.

    Raises:
        ConfigError: for none, or several.
    """
    sets = find_anomaly_sets(folder)
    sets = [own for own in sets if own[1] == Path(folder)] or sets
    if len(sets) != 1:
        names = ", ".join(name for name, _ in sets) or "none that is recognised"
        raise ConfigError(
            f"{folder} holds these anomaly data sets: {names}; expected one. Write "
            f"<name>=<folder> with one of {', '.join(ANOMALY_SETS)}."
        )
    return sets[0]


def is_anomaly_data(data: str | Path) -> bool:
    """Whether ``--data`` means an anomaly set: by name, or by a folder's layout and masks."""
    kind, path = str(data).partition("=")[0], Path(data)
    if kind in ANOMALY_SETS:
        return True
    if kind in SEGMENTATION_SETS or kind in SYNTHETIC_SETS or not exists(path):
        return False
    if not any(place == path for _, place in find_anomaly_sets(path)):
        return False
    others = [images for images in SEGMENTATION_SETS.values() if images.recognised(path)]
    return not others or (others == [ImageFolder] and shows_anomalies(path))


def classes_instead(data: str | Path) -> tuple[str, ...]:
    """Return the classes of a folder that ``is_anomaly_data``, were its masks labels; or none."""
    named = str(data).partition("=")[0] in ANOMALY_SETS
    return (
        () if named or not ImageFolder.recognised(Path(data)) else ImageFolder.names_at(Path(data))
    )


def open_anomaly(data: str | Path, root: str | Path | None = None) -> AnomalyImages:
    """Open an anomaly data set, chosen as by ``choose_anomaly``.

    Raises:
        ConfigError: for an unknown name or layout, or missing or incomplete data.
    """
    choice = choose_anomaly(data, root)
    images = ANOMALY_SETS[choice.kind]
    if choice.root is None or not issubclass(images, AnomalySet):
        return SyntheticAnomalies()
    return images(choice.root)


def find_anomaly_sets(root: str | Path | None = None) -> list[tuple[str, Path]]:
    """Return names and folders of the anomaly data sets in files.

    Looks in the root and, if named like one or laid out like a folder of one's own, at the root
    itself; by default in the usual places.
    """
    bases = data_places() if root is None else [Path(root)]
    places: dict[str, Path] = {}
    for name, images in ANOMALY_SETS.items():
        if not issubclass(images, AnomalySet):
            continue
        for base in bases:
            candidates = [base / folder for folder in images.folders]
            if base.resolve().name in images.folders:
                candidates.insert(0, base)
            for candidate in filter(images.recognised, candidates):
                places.setdefault(name, candidate)
    path = None if root is None else Path(root)
    if path is not None and path not in places.values() and AnomalyFolder.recognised(path):
        places[OWN_FOLDER] = path
    return list(places.items())
