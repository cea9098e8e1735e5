"""Mask2KAN: mask classification with a Kolmogorov-Arnold head, and what no mask explains."""

from mask2kan.errors import Mask2KANError
from mask2kan.model import create_model, list_models

__all__ = ["Mask2KANError", "create_model", "list_models"]
