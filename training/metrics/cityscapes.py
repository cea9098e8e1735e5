"""Cityscapes' own metrics: IoU and iIoU over 19 classes and over 7 categories.

As in ``cityscapesscripts`` (Cordts et al., 2016, section 4.1); over categories the thesis calls
them ``IoU_sup`` and ``iIoU_sup``. iIoU weights the pixels of single objects by (average size of the
class) / (own size); false positives stay pixels. Groups (instance id below 1000) are no objects.
Only eight classes and two categories (human, vehicle) have an iIoU.

Departs from the script in the input (arrays of train ids) and in None for undefined values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mask2kan.errors import ConfigError

from .cityscapes_labels import (
    CATEGORIES,
    INSTANCE_FACTOR,
    LABEL_ID_OF_TRAIN_ID,
    LABELS,
    TRAIN_ID_OF_LABEL_ID,
    VOID,
)

# Pixels of an average object of the training set, as the evaluation script has them.
AVERAGE_INSTANCE_SIZE = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}

NUM_CLASSES = len(LABEL_ID_OF_TRAIN_ID)
CLASSES = tuple(LABELS[label_id].name for label_id in LABEL_ID_OF_TRAIN_ID)
# Index of the category of every class, and one more entry for void.
_CATEGORY_OF_CLASS = np.array(
    [CATEGORIES.index(LABELS[label_id].category) for label_id in LABEL_ID_OF_TRAIN_ID] + [-1]
)
_AVERAGE_SIZES = np.array([AVERAGE_INSTANCE_SIZE.get(name, np.nan) for name in CLASSES])

Counts = npt.NDArray[np.int64]
Scores = dict[str, float | None]


class CityscapesEvaluator:
    """Counts pixels and weighted objects over any number of images.

    Attributes:
        confusion: (19, 20) pixels by true and predicted class; the last column is void.
        found: (19,) weighted pixels of objects that were given their class.
        found_category: (19,) the same, given any class of their category.
        objects: (19,) weighted pixels of all objects.
    """

    def __init__(self) -> None:
        self.confusion: Counts = np.zeros((NUM_CLASSES, NUM_CLASSES + 1), np.int64)
        self.found = np.zeros(NUM_CLASSES)
        self.found_category = np.zeros(NUM_CLASSES)
        self.objects = np.zeros(NUM_CLASSES)

    def update(
        self,
        prediction_train_ids: npt.ArrayLike,
        label_ids: npt.ArrayLike,
        instance_ids: npt.ArrayLike,
    ) -> None:
        """Add one image of (H, W) integers.

        Args:
            prediction_train_ids: 0 to 18, or 255 for none: a miss, but no false positive.
            label_ids: 0 to 33, of ``*_gtFine_labelIds.png``.
            instance_ids: of ``*_gtFine_instanceIds.png``.

        Raises:
            ConfigError: for other shapes or values.
        """
        prediction = _checked("Prediction", prediction_train_ids)
        labels = _checked("Label ids", label_ids)
        instances = _checked("Instance ids", instance_ids)
        if not prediction.shape == labels.shape == instances.shape or prediction.ndim != 2:
            raise ConfigError(
                f"Prediction, label ids and instance ids of shapes {prediction.shape}, "
                f"{labels.shape} and {instances.shape}; all must be the same (H, W)."
            )
        columns = _columns(prediction)
        _check_range("Label ids", labels, len(LABELS))
        _check_range("Instance ids", instances, len(LABELS) * INSTANCE_FACTOR)
        self._count_objects(columns, instances)
        self._count_pixels(columns, TRAIN_ID_OF_LABEL_ID[labels])

    def _count_pixels(self, columns: npt.NDArray[Any], truth: npt.NDArray[np.uint8]) -> None:
        valid = truth != VOID
        pairs = truth[valid].astype(np.int64) * (NUM_CLASSES + 1) + columns[valid]
        counts = np.bincount(pairs, minlength=self.confusion.size)
        self.confusion += counts.reshape(self.confusion.shape)

    def _count_objects(self, columns: npt.NDArray[Any], instances: npt.NDArray[Any]) -> None:
        inside = instances > INSTANCE_FACTOR
        ids, predicted = instances[inside].astype(np.int64), columns[inside]
        classes = TRAIN_ID_OF_LABEL_ID[ids // INSTANCE_FACTOR]
        counted = classes != VOID
        ids, predicted, classes = ids[counted], predicted[counted], classes[counted]
        strange = np.unique(ids[np.isnan(_AVERAGE_SIZES[classes])])
        if len(strange):
            raise ConfigError(
                f"Instance ids {strange[:5].tolist()} are objects of a class without objects; "
                f"expected label id x {INSTANCE_FACTOR} + number, for "
                f"{', '.join(AVERAGE_INSTANCE_SIZE)} alone."
            )
        length = len(LABELS) * INSTANCE_FACTOR
        sizes = np.bincount(ids, minlength=length)
        found = np.bincount(ids[predicted == classes], minlength=length)
        same_category = _CATEGORY_OF_CLASS[predicted] == _CATEGORY_OF_CLASS[classes]
        found_category = np.bincount(ids[same_category], minlength=length)
        for instance in np.flatnonzero(sizes):
            row = TRAIN_ID_OF_LABEL_ID[instance // INSTANCE_FACTOR]
            weight = _AVERAGE_SIZES[row] / sizes[instance]
            self.found[row] += weight * found[instance]
            self.found_category[row] += weight * found_category[instance]
            self.objects[row] += weight * sizes[instance]

    def compute(self) -> dict[str, Any]:
        """Return the metrics so far, in [0, 1], None where undefined.

        Returns:
            ``iou``, ``iiou``, ``category_iou``, ``category_iiou``: means of the defined values of
            ``iou_per_class``, ``iiou_per_class``, ``iou_per_category``, ``iiou_per_category``, by
            name.

        Raises:
            ConfigError: when no pixel was valid.
        """
        if not self.confusion.sum():
            raise ConfigError("No labelled pixels: all of them were void, or none was given.")
        per_class = {
            name: self._scores(np.array([train_id]), self.found)
            for train_id, name in enumerate(CLASSES)
        }
        per_category = {
            name: self._scores(np.flatnonzero(category == _CATEGORY_OF_CLASS), self.found_category)
            for category, name in enumerate(CATEGORIES)
        }
        results: dict[str, Any] = {}
        groups = (("", "class", per_class), ("category_", "category", per_category))
        for prefix, group, pairs in groups:
            for which, name in enumerate(("iou", "iiou")):
                scores = {key: pair[which] for key, pair in pairs.items()}
                results[f"{prefix}{name}"] = _mean(scores)
                results[f"{name}_per_{group}"] = scores
        return results

    def _scores(
        self, members: Counts, found: npt.NDArray[np.float64]
    ) -> tuple[float | None, float | None]:
        """IoU and iIoU of a class or category with these train ids."""
        others = np.setdiff1d(np.arange(NUM_CLASSES), members)
        true_positives = self.confusion[np.ix_(members, members)].sum()
        truth = self.confusion[members].sum()
        false_positives = self.confusion[np.ix_(others, members)].sum()
        iou = _ratio(true_positives, truth + false_positives)
        if np.isnan(_AVERAGE_SIZES[members]).any():
            return iou, None
        return iou, _ratio(found[members].sum(), self.objects[members].sum() + false_positives)


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _mean(scores: Scores) -> float | None:
    defined = [score for score in scores.values() if score is not None]
    return sum(defined) / len(defined) if defined else None


def _checked(what: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "ui":
        raise ConfigError(f"{what} of type {array.dtype}; expected integers.")
    return array


def _check_range(what: str, values: npt.NDArray[Any], end: int) -> None:
    if values.size and not 0 <= values.min() <= values.max() < end:
        raise ConfigError(
            f"{what} from {values.min()} to {values.max()}; expected 0 to {end - 1}, as in "
            "Cityscapes' gtFine files. Pass label ids, not train ids or colours."
        )


def _columns(prediction: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Predicted classes with void as class 19."""
    void = prediction == VOID
    wrong = prediction[~void & ((prediction < 0) | (prediction >= NUM_CLASSES))]
    if len(wrong):
        raise ConfigError(
            f"Predicted classes {np.unique(wrong)[:5].tolist()}; expected train ids 0 to "
            f"{NUM_CLASSES - 1}, or {VOID} for none. Map label ids with TRAIN_ID_OF_LABEL_ID."
        )
    return np.where(void, NUM_CLASSES, prediction).astype(np.int64)
