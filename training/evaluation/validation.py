"""How good a model is while it trains: mIoU on a few images of the validation split.

A quick figure for choosing the best weights; ``training.evaluate`` computes the one to report, from
the predictor people use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.inference.postprocess import Geometry, View, class_scores, reduce_pixels
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.outputs.drawing import colorize

from ..data import LabelledImages
from ..data.base import as_tensors
from ..data.label_space import coarse_classes, plain_labels
from .measure import Array, ClassMeter, Meter, Sample, evenly_spread, measure


@dataclasses.dataclass(frozen=True)
class Validation:
    """What one validation found.

    Attributes:
        values: ``miou``, ``pixel_accuracy`` and ``iou/<class>``.
        confusion: (K, K) pixels, row = truth, column = prediction.
        sample: an image with its prediction and ground truth below it, (3 H, W, 3).
    """

    values: dict[str, float]
    confusion: NDArray[np.int64]
    sample: NDArray[np.uint8]


@torch.no_grad()
def semantic_map(
    model: Mask2KAN, image: Tensor, class_names: tuple[str, ...] | None = None
) -> NDArray[np.uint8]:
    """Class of every pixel.

    Args:
        model: in evaluation mode.
        image: (3, H, W) float32 RGB in [0, 1].
        class_names: to tell apart, where they are coarser than the model's.

    Returns:
        (H, W).
    """
    size = (image.shape[-2], image.shape[-1])
    output = model(image[None].to(model.device), with_aux=False)
    view = View(output["pred_logits"][0], output["pred_masks"][0])
    geometry = Geometry(size, size)
    coarser = coarse_classes(model.class_names, class_names or model.class_names)
    if coarser is not None:
        return coarser(class_scores([view], geometry))
    return reduce_pixels([view], geometry, ()).semantic


def validate(
    model: Mask2KAN,
    images: LabelledImages,
    limit: int = 0,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Measure a model.

    Args:
        model: evaluated in the mode it is in, which should be evaluation mode.
        images: labelled images.
        limit: how many of them, evenly spread; 0 for all.
        stop: asked before every image whether to give up.

    Returns:
        What was found; None when given up.
    """
    names = tuple(images.class_names)
    palette = np.array(images.palette, np.uint8)
    meter = ClassMeter[Array](names, lambda class_map: class_map)
    shown: list[Array] = []

    def predict(sample: Sample) -> list[Array]:
        image, _ = as_tensors(sample.image, sample.label)
        return [semantic_map(model, image, names)]

    def show_first(sample: Sample, class_map: Array) -> None:
        if not shown:
            truth = plain_labels(sample.label, len(names))
            shown.extend([sample.image, colorize(class_map, palette), colorize(truth, palette)])

    chosen = evenly_spread(images, limit or None)
    meters: list[Meter[Array]] = [meter, show_first]
    if not measure(predict, images, chosen, [meters], stop=stop, disable=True):
        return None
    values = meter.compute()
    per_class = {f"iou/{name}": iou for name, iou in values.pop("iou_per_class").items()}
    values |= {name: iou for name, iou in per_class.items() if iou is not None}
    return Validation(values, meter.evaluator.confusion, np.concatenate(shown))


class TeacherLabels:
    """Images whose labels are what a model says: the truth of a distillation.

    Args:
        images: any; their own labels are not looked at.
        teacher: in evaluation mode.
    """

    def __init__(self, images: LabelledImages, teacher: Mask2KAN) -> None:
        self._images = images
        self._teacher = teacher
        self._known: dict[int, NDArray[np.uint8]] = {}
        self.names = images.names
        self.num_classes = teacher.config.num_classes
        self.class_names = teacher.class_names
        self.groups: tuple[tuple[int, ...], ...] = ()
        self.palette = tuple((int(r), int(g), int(b)) for r, g, b in teacher.palette)

    def __len__(self) -> int:
        return len(self._images)

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The image (H, W, 3) RGB and the teacher's class map (H, W)."""
        image, unused = self._images.arrays(index)
        if index not in self._known:
            pixels, _ = as_tensors(image, unused)
            self._known[index] = semantic_map(self._teacher, pixels)
        return image, self._known[index]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return as_tensors(*self.arrays(index))
