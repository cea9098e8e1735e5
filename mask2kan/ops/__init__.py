"""Multi-scale deformable attention, a public op with several backends, and batch norm."""

from mask2kan.ops.deform_attn import choose_backend, ms_deform_attn, uses_numba

__all__ = ["choose_backend", "ms_deform_attn", "uses_numba"]
