"""Real held-out anomalies in CamVid: classes of the original 32 that the 11 leave out.

A model trained on CamVid's 11 classes sees OtherMoving, Child and CartLuggagePram only as void,
so it never learns them; on the validation pictures they are anomalies (0.8 % of the area). What
else is void in the 11 classes (Void, Archway) stays void, as do classes that no validation
picture shows and the 11 do not name; all others are known.

Expected folder: ``<root>/val/images``, ``<root>/val/labels_32class`` (RGB PNGs of the same
names) and ``<root>/val/label_colors_32class.txt`` ("red green blue name" per line). Pictures
without a 32-class label are left out. The labels are 960x720 and the pictures 480x360: labels are
resized to the picture by nearest neighbour, so that no mixed colours appear.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask2kan.errors import ConfigError, PictureError
from mask2kan.pictures import read_picture
from training.data.camvid import PICTURE_TYPES
from training.metrics.pixel import ANOMALY, KNOWN, VOID

HELD_OUT = ("OtherMoving", "Child", "CartLuggagePram")
LEFT_OUT = ("Void", "Archway", "Animal", "Train", "Tunnel", "Bridge")


class CamVidAnomaly:
    """CamVid's validation pictures and where their held-out classes are.

    Args:
        root: folder that holds ``val``.

    Attributes:
        names: the pictures' names without extension, sorted.

    Raises:
        ConfigError: when the folder is not laid out as expected.
    """

    title = "CamVid val"

    def __init__(self, root: str | Path) -> None:
        folder = Path(root) / "val"
        labels, colors = folder / "labels_32class", folder / "label_colors_32class.txt"
        if not labels.is_dir() or not colors.is_file():
            raise ConfigError(
                f"No 32-class labels of CamVid at {root}: {labels} and {colors} were expected. "
                "Point --root at the folder that holds val."
            )
        self._meaning = _meaning_of_colors(colors)
        pictures = sorted(
            path for path in (folder / "images").iterdir() if path.suffix in PICTURE_TYPES
        )
        self._pictures = [path for path in pictures if (labels / f"{path.stem}.png").is_file()]
        self._labels = [labels / f"{path.stem}.png" for path in self._pictures]
        if not self._pictures:
            raise ConfigError(f"{labels} holds no label of a picture in {folder / 'images'}.")
        self.names = [path.stem for path in self._pictures]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.names)

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture (H, W, 3) RGB and its label (H, W): 0 known, 1 anomaly, 255 void.

        Raises:
            PictureError: for a picture or label that cannot be read or has unexpected colours.
        """
        picture = read_picture(self._pictures[index])
        height, width = picture.shape[:2]
        path = self._labels[index]
        with Image.open(path) as opened:
            rgb = opened.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        codes = _codes(np.asarray(rgb))
        label = np.full(codes.shape, VOID, np.uint8)
        seen = np.zeros(codes.shape, bool)
        for code, meaning in self._meaning.items():
            here = codes == code
            label[here] = meaning
            seen |= here
        if not seen.all():
            first = np.asarray(rgb)[~seen][0].tolist()
            raise PictureError(
                f"Label {path} holds the colour {first} in {int((~seen).sum())} pixels; expected "
                "only those of label_colors_32class.txt."
            )
        return picture, label


def _codes(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    channels = rgb.astype(np.int32)
    codes: NDArray[np.int32] = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
    return codes


def _meaning_of_colors(path: Path) -> dict[int, int]:
    """Colour code to 0 known, 1 anomaly or 255 void."""
    meaning: dict[int, int] = {}
    names = set()
    for line in path.read_text().splitlines():
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 4 or not all(part.isdigit() for part in parts[:3]):
            raise ConfigError(f"{path}: cannot read {line!r}; expected 'red green blue name'.")
        red, green, blue = (int(part) for part in parts[:3])
        name = parts[3]
        names.add(name)
        value = ANOMALY if name in HELD_OUT else VOID if name in LEFT_OUT else KNOWN
        meaning[red << 16 | green << 8 | blue] = value
    absent = [name for name in HELD_OUT if name not in names]
    if absent:
        raise ConfigError(f"{path} lacks the held-out classes {', '.join(absent)}.")
    return meaning
