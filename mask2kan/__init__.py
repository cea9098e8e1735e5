"""Mask2KAN: semantic and anomaly segmentation with a Kolmogorov-Arnold head.

>>> import mask2kan
>>> model = mask2kan.load_model("mask2kan_road")
>>> prediction = mask2kan.Predictor(model)("road.jpg")
>>> prediction.anomaly("msp").shape
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
# Imported when first used: PyTorch takes seconds, and a command that is mistyped needs none of it.
_HOMES = {
    "Comparison": "inference.comparison",
    "Mask2KANError": "errors",
    "PixelExplanation": "inference.explain",
    "Prediction": "inference.prediction",
    "Predictor": "inference.predictor",
    "create_model": "modeling.mask2kan",
    "explain_pixel": "inference.explain",
    "list_models": "modeling.mask2kan",
    "list_weights": "checkpoints",
    "load_model": "checkpoints",
    "save_model": "checkpoints",
}
_PACKAGES = ("checkpoints", "checks", "errors", "inference", "media", "modeling", "ops", "runtime")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"mask2kan.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'mask2kan' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mask2kan.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
