"""mIoU on a few validation images, for choosing the best weights while a model trains.

The figure to report is ``training.evaluate``'s, from the predictor people use.
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
    """Result of one validation.

    Attributes:
        values: ``miou``, ``pixel_accuracy`` and ``iou/<class>``.
        confusion: (K, K) pixels, row = truth, column = prediction.
        sample: image, prediction and ground truth, one below the other, (3 H, W, 3).
    """

    values: dict[str, float]
    confusion: NDArray[np.int64]
    sample: NDArray[np.uint8]


@torch.no_grad()
def semantic_map(
    model: Mask2KAN, image: Tensor, class_names: tuple[str, ...] | None = None
) -> NDArray[np.uint8]:
    """Classify every pixel of a (3, H, W) float32 RGB image in [0, 1]: (H, W).

    ``class_names`` may be coarser than the model's, which is in evaluation mode and has at most
    255 classes, as all label files here.
    """
    size = (image.shape[-2], image.shape[-1])
    output = model(image[None].to(model.device), with_aux=False)
    view = View(output["pred_logits"][0], output["pred_masks"][0])
    geometry = Geometry(size, size)
    coarser = coarse_classes(model.class_names, class_names or model.class_names)
    if coarser is not None:
        return coarser(class_scores([view], geometry))
    return reduce_pixels([view], geometry, ()).semantic.astype(np.uint8, copy=False)


def validate(
    model: Mask2KAN,
    images: LabelledImages,
    limit: int = 0,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Measure a model in evaluation mode on ``limit`` images, 0 for all; None when stopped."""
    names = tuple(images.class_names)
    palette = np.array(images.palette, np.uint8)
    meter = ClassMeter[Array](names, lambda class_map: class_map)
    shown: list[Array] = []

    def predict(sample: Sample) -> list[Array]:
        return [semantic_map(model, as_tensors(sample.image, sample.label)[0], names)]

    def show_first(sample: Sample, class_map: Array) -> None:
        if not shown:
            truth = plain_labels(sample.label, len(names))
            shown.extend([sample.image, colorize(class_map, palette), colorize(truth, palette)])

    chosen = evenly_spread(images, limit or None)
    meters: list[Meter[Array]] = [meter, show_first]
    if not measure(predict, images, chosen, [meters], stop=stop, disable=True):
        return None
    values = meter.compute()
    per_class = values.pop("iou_per_class").items()
    values |= {f"iou/{name}": iou for name, iou in per_class if iou is not None}
    return Validation(values, meter.evaluator.confusion, np.concatenate(shown))


class TeacherLabels:
    """Images labelled by a model in evaluation mode: the truth of a distillation."""

    def __init__(self, images: LabelledImages, teacher: Mask2KAN) -> None:
        self._images = images
        self._teacher = teacher
        self._labels: dict[int, NDArray[np.uint8]] = {}
        self.names = images.names
        self.num_classes = teacher.config.num_classes
        self.class_names = teacher.class_names
        self.groups: tuple[tuple[int, ...], ...] = ()
        self.palette = tuple((int(r), int(g), int(b)) for r, g, b in teacher.palette)

    def __len__(self) -> int:
        return len(self._images)

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the image (H, W, 3) RGB and the teacher's class map (H, W)."""
        image, label = self._images.arrays(index)
        if index not in self._labels:
            self._labels[index] = semantic_map(self._teacher, as_tensors(image, label)[0])
        return image, self._labels[index]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return as_tensors(*self.arrays(index))
