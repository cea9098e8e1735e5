"""Tiny data sets in the layout of every kind, for the tests of reading and of the check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)
COLORS = """128 64 64\tOtherMoving
192 128 64\tChild
64 0 192\tCartLuggagePram
128 64 128\tRoad
192 0 128\tArchway
0 0 0\t\tVoid
"""


@dataclasses.dataclass(frozen=True)
class Tree:
    """A data set on disk.

    Attributes:
        data: what the check is called with.
        first: image and label of the first pair of the first split.
        other: an image of another split, or None where there is one part only.
        images: the folder of the first split's images.
        splits: of a segmentation set, empty for an anomaly set.
        per_split: pairs in a split.
        odd: a value that stands for nothing, None where all values mean something.
        void: the value (or colour) of void.
        known: of what is neither void nor an anomaly.
    """

    data: str
    first: tuple[Path, Path]
    images: Path
    other: Path | None = None
    splits: tuple[str, ...] = ()
    odd: int | tuple[int, int, int] | None = 254
    void: int | tuple[int, int, int] = 255
    known: int | tuple[int, int, int] = 0

    @property
    def anomalies(self) -> bool:
        return not self.splits


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def mask(*values: int) -> np.ndarray:
    """Stripes of these values."""
    columns = np.arange(SIZE[1]) * len(values) // SIZE[1]
    return np.tile(np.array(values, np.uint8)[columns], (SIZE[0], 1))


def _split_folders(root: Path, splits: tuple[str, ...], values: tuple[int, ...]) -> list[Path]:
    seed, images = 0, []
    for split in splits:
        for name in ("a", "b"):
            seed += 1
            images.append(save(root / split / "images" / f"{name}.png", photo(seed)))
            save(root / split / "labels" / f"{name}.png", mask(*values))
    return images


def camvid(root: Path) -> Tree:
    files = _split_folders(root, ("train", "val", "test"), (0, 10, 11))
    label = root / "train" / "labels" / "a.png"
    images = root / "train" / "images"
    splits = ("train", "val", "test")
    return Tree(f"camvid={root}", (files[0], label), images, files[2], splits)


def folder(root: Path) -> Tree:
    files = _split_folders(root, ("train", "val"), (0, 1, 255))
    (root / "classes.txt").write_text("cat 255 0 0\nbig dog 0 0 255\n")
    label = root / "train" / "labels" / "a.png"
    images = root / "train" / "images"
    return Tree(str(root), (files[0], label), images, files[2], ("train", "val"), odd=2)


def own(
    root: Path,
    *values: int,
    masks: str = "masks",
    names: Iterable[str] = (),
    splits: tuple[str, ...] = ("train", "val"),
    images: int = 2,
    suffix: str = ".png",
) -> Path:
    """One's own folder: masks of stripes of these values; no splits for images and masks alone."""
    for place, split in enumerate(splits or ("",)):
        for seed in range(images):
            name = f"{seed:02}{suffix}"
            save(root / split / "images" / name, photo(1000 * place + seed))
            save(root / split / masks / name, mask(*values))
    if names:
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def ade20k(root: Path) -> Tree:
    for seed, split in enumerate(("training", "training", "validation", "validation")):
        save(root / "images" / split / f"ADE_{seed}.jpg", photo(seed))
        save(root / "annotations" / split / f"ADE_{seed}.png", mask(0, 1, 150))
    first = (
        root / "images" / "training" / "ADE_0.jpg",
        root / "annotations" / "training" / "ADE_0.png",
    )
    other = root / "images" / "validation" / "ADE_2.jpg"
    images = root / "images" / "training"
    return Tree(str(root), first, images, other, ("train", "val"), odd=151, void=0, known=1)


def cityscapes(root: Path) -> Tree:
    files, labels = [], []
    for seed, (split, city) in enumerate(
        (("train", "aachen"), ("train", "bochum"), ("val", "lindau"), ("val", "lindau"))
    ):
        name = f"{city}_00000{seed}_000019"
        stem = root / "gtFine" / split / city / f"{name}_gtFine"
        files.append(
            save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", photo(seed))
        )
        labels.append(save(Path(f"{stem}_labelIds.png"), mask(0, 7, 33)))
        save(Path(f"{stem}_color.png"), photo(seed))
        save(Path(f"{stem}_instanceIds.png"), mask(0, 7, 33).astype(np.uint16) * 700)
        Path(f"{stem}_polygons.json").write_text("{}")
    first = (files[0], labels[0])
    images = files[0].parent
    return Tree(str(root), first, images, files[2], ("train", "val"), odd=34, void=0, known=7)


def _masks(root: Path, values: tuple[int, ...], suffix: str, ending: str = "") -> tuple[Path, Path]:
    images, labels = [], []
    for seed in range(2):
        stem = f"validation{seed:04}" if ending else str(seed)
        images.append(save(root / "images" / f"{stem}{suffix}", photo(seed)))
        labels.append(save(root / "labels_masks" / f"{stem}{ending}.png", mask(*values)))
    return images[0], labels[0]


def smiyc_anomaly(root: Path) -> Tree:
    root = root / "dataset_AnomalyTrack"
    first = _masks(root, (0, 1, 255), ".jpg", "_labels_semantic")
    save(root / "images" / "airplane0000.jpg", photo(9))  # of the test set: no mask
    color = first[1].with_name(first[1].name.replace("semantic", "semantic_color"))
    save(color, photo(3))
    return Tree(f"road_anomaly_21={root}", first, root / "images")


def smiyc_obstacle(root: Path) -> Tree:
    root = root / "dataset_ObstacleTrack"
    first = _masks(root, (0, 1, 255), ".webp", "_labels_semantic")
    return Tree(f"road_obstacle_21={root}", first, root / "images")


def mask2anomaly(root: Path, name: str, suffix: str, values: tuple[int, ...], entry: str) -> Tree:
    root = root / name
    first = _masks(root, values, suffix)
    odd = None if "fishyscapes" in entry else 254
    return Tree(f"{entry}={root}", first, root / "images", odd=odd)


def road_anomaly(root: Path) -> Tree:
    for seed, name in enumerate("ab"):
        save(root / "frames" / f"{name}.jpg", photo(seed))
        save(root / "frames" / f"{name}.labels" / "labels_semantic.png", mask(0, 2, 255))
    frames = root / "frames"
    first = (frames / "a.jpg", frames / "a.labels" / "labels_semantic.png")
    return Tree(f"road_anomaly={root}", first, frames, odd=1)


def lost_and_found(root: Path) -> Tree:
    name = "04_Maurener_Weg_8_000000_0000"
    images = [
        save(root / "leftImg8bit/test/04_Maurener_Weg_8" / f"{name}{n}_leftImg8bit.png", photo(n))
        for n in (30, 60)
    ]
    folder = root / "gtCoarse/test/04_Maurener_Weg_8"
    labels = [
        save(folder / f"{name}{n}_gtCoarse_labelIds.png", mask(0, 1, 2, 200)) for n in (30, 60)
    ]
    save(folder / f"{name}30_gtCoarse_color.png", photo(1))
    return Tree(
        f"lost_and_found={root}", (images[0], labels[0]), images[0].parent, odd=201, void=0, known=1
    )


def fishyscapes_lost_and_found(root: Path) -> Tree:
    source = lost_and_found(root / "lost_and_found")
    root = root / "fishyscapes_lostandfound"
    labels = [
        save(root / f"000{n}_04_Maurener_Weg_8_000000_0000{n}_labels.png", mask(0, 1, 255))
        for n in (30, 60)
    ]
    first = (source.first[0], labels[0])
    return Tree(f"fishyscapes_lost_and_found={root}", first, source.images, odd=None)


def fishyscapes_static(root: Path) -> Tree:
    name = "frankfurt_000001_00000"
    folder = root / "cityscapes" / "leftImg8bit" / "val" / "frankfurt"
    root = root / "fs_val_v3"
    images, labels = [], []
    for n in range(2):
        images.append(save(folder / f"{name}{n}_leftImg8bit.png", photo(n)))
        labels.append(save(root / f"000{n}_{name}{n}_labels.png", mask(0, 1, 255)))
        overlay = np.zeros((*SIZE, 3), np.int64)
        overlay[mask(0, 1, 0) == 1] = (300, -300, 5)
        np.savez_compressed(root / f"000{n}_{name}{n}_rgb.npz", rgb=overlay)
    return Tree(f"fishyscapes_static={root}", (images[0], labels[0]), folder, odd=None)


def anomaly_folder(root: Path) -> Tree:
    images = [save(root / "images" / f"{n}.bmp", photo(n)) for n in range(2)]
    labels = [save(root / "masks" / f"{n}_mask.png", mask(0, 1, 255)) for n in range(2)]
    return Tree(f"folder_anomaly={root}", (images[0], labels[0]), root / "images")


def camvid_anomaly(root: Path) -> Tree:
    colors = np.array([(128, 64, 128), (192, 128, 64), (192, 0, 128)], np.uint8)
    for seed, name in enumerate("ab"):
        save(root / "val" / "images" / f"{name}.png", photo(seed))
        doubled = colors[mask(0, 1, 2)].repeat(2, 0).repeat(2, 1)
        save(root / "val" / "labels_32class" / f"{name}.png", doubled)
    save(root / "val" / "images" / "unlabelled.png", photo(2))
    (root / "val" / "label_colors_32class.txt").write_text(COLORS)
    first = (root / "val" / "images" / "a.png", root / "val" / "labels_32class" / "a.png")
    return Tree(
        f"camvid_anomaly={root}",
        first,
        root / "val" / "images",
        odd=(1, 2, 3),
        void=(0, 0, 0),
        known=(128, 64, 128),
    )


TREES: dict[str, Callable[[Path], Tree]] = {
    "camvid": camvid,
    "folder": folder,
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "smiyc_anomaly": smiyc_anomaly,
    "smiyc_obstacle": smiyc_obstacle,
    "m2a_anomaly_21": lambda root: mask2anomaly(
        root, "RoadAnomaly21", ".png", (0, 1, 255), "road_anomaly_21"
    ),
    "m2a_obstacle_21": lambda root: mask2anomaly(
        root, "RoadObsticle21", ".webp", (0, 1, 255), "road_obstacle_21"
    ),
    "m2a_road_anomaly": lambda root: mask2anomaly(
        root, "RoadAnomaly", ".jpg", (0, 2, 255), "road_anomaly"
    ),
    "m2a_static": lambda root: mask2anomaly(
        root, "fs_static", ".jpg", (0, 1, 255), "fishyscapes_static"
    ),
    "m2a_lost_and_found": lambda root: mask2anomaly(
        root, "FS_LostFound_full", ".png", (0, 1, 255), "fishyscapes_lost_and_found"
    ),
    "road_anomaly": road_anomaly,
    "lost_and_found": lost_and_found,
    "fishyscapes_lost_and_found": fishyscapes_lost_and_found,
    "fishyscapes_static": fishyscapes_static,
    "camvid_anomaly": camvid_anomaly,
    "anomaly_folder": anomaly_folder,
}
