"""Multi-scale deformable attention, a public op with several backends, and batch norm."""

from mask2kan.ops.deform_attn import (
    BACKENDS,
    choose_backend,
    ms_deform_attn,
    use_backend,
    uses_numba,
)

__all__ = ["BACKENDS", "choose_backend", "ms_deform_attn", "use_backend", "uses_numba"]
