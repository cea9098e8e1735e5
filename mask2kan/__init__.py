"""Mask2KAN: semantic and anomaly segmentation with a Kolmogorov-Arnold head.

>>> import mask2kan
>>> model = mask2kan.load_model("mask2kan_road")
>>> prediction = mask2kan.Predictor(model)("road.jpg")
>>> prediction.anomaly("msp").shape
"""

from mask2kan.checkpoints import list_weights, load_model, save_model
from mask2kan.errors import Mask2KANError
from mask2kan.inference.comparison import Comparison
from mask2kan.inference.explain import PixelExplanation, explain_pixel
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.modeling.mask2kan import create_model, list_models

__version__ = "0.2.0"

__all__ = [
    "Comparison",
    "Mask2KANError",
    "PixelExplanation",
    "Prediction",
    "Predictor",
    "create_model",
    "explain_pixel",
    "list_models",
    "list_weights",
    "load_model",
    "save_model",
]
