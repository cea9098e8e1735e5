"""How good a model is: per-class overlap for segmentation, ranking quality for anomaly scores."""

from training.metrics.cityscapes import CityscapesEvaluator
from training.metrics.pixel import AnomalyEvaluator
from training.metrics.segmentation import SegmentationEvaluator

__all__ = ["AnomalyEvaluator", "CityscapesEvaluator", "SegmentationEvaluator"]
