"""Kolmogorov-Arnold layers and networks."""

from mask2kan.modeling.kan.layers import KAN, KANLinear

__all__ = ["KAN", "KANLinear"]
