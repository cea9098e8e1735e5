"""Metrics: per-class overlap for segmentation, ranking quality for anomaly scores."""

from .cityscapes import CityscapesEvaluator
from .pixel import AnomalyEvaluator
from .segmentation import SegmentationEvaluator

__all__ = ["AnomalyEvaluator", "CityscapesEvaluator", "SegmentationEvaluator"]
