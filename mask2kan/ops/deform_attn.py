"""Multi-scale deformable attention: the public op and the choice of its backend.

``reference`` is plain PyTorch (any device, exports), ``cpu`` is faster on the CPU, ``fused`` faster
still (numba), ``cuda`` for NVIDIA GPUs. The choice is by capability, once per device, dtype and
head size, and logged once; ``MASK2KAN_OPS=auto|cuda|fused|cpu|reference`` forces it for the
process, ``backend=`` for one call; what cannot run is then an error. To add a backend, register
kernels on the operators of ``operator.py`` and extend :func:`choose_backend`.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from mask2kan.errors import BackendError, unknown
from mask2kan.ops import cpu as _cpu  # noqa: F401  (registers the CPU kernels)
from mask2kan.ops import cuda, fused
from mask2kan.ops.operator import ms_deform_attn_operator
from mask2kan.ops.reference import ms_deform_attn_reference

BACKENDS = ("auto", "cuda", "fused", "cpu", "reference")
ENVIRONMENT_VARIABLE = "MASK2KAN_OPS"

_log = logging.getLogger(__name__)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Sample L feature maps at P points per query and head, and sum by attention weight.

    Sampling is bilinear with zeros outside a map, as in ``grid_sample(align_corners=False)``: in
    pixels a location is ``location * size - 0.5``. Infinity reads zero, NaN gives NaN. Half values
    are summed in float32. Source: Zhu et al., ICLR 2021, eq. 3.

    Args:
        value: (B, S, M, D), the levels one after another, each row by row; S = sum of H * W.
        spatial_shapes: (H, W) of each level, as Python ints.
        sampling_locations: (B, Q, M, L, P, 2), (x, y), 0 and 1 at the outer edges of a map.
        attention_weights: (B, Q, M, L, P).
        backend: one of :data:`BACKENDS`; None means the environment's.

    Returns:
        (B, Q, M * D) in the dtype of ``value``.

    Raises:
        ValueError: for shapes that do not fit together.
        BackendError: for an unknown backend, or one that cannot run here.
    """
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    request = backend or _environment_backend()
    if request == "auto" and _exporting():
        request = "reference"
    chosen = _decide(value.device, request, value.dtype, _head_size(value))
    if chosen == "reference":
        return ms_deform_attn_reference(
            value, spatial_shapes, sampling_locations, attention_weights
        )
    flat_shapes = [size for shape in spatial_shapes for size in shape]
    return ms_deform_attn_operator(
        value, flat_shapes, sampling_locations, attention_weights, fused=chosen == "fused"
    )


@functools.cache
def choose_backend(
    device: torch.device | str,
    request: str = "auto",
    dtype: torch.dtype = torch.float32,
    head_size: int = 32,
) -> str:
    """Choose what computes on a device: ``cuda``, ``fused``, ``cpu`` or ``reference``.

    The choice is logged and cached. For ``cuda``, the kernels are loaded on return.

    Raises:
        BackendError: for an unknown backend, or one that cannot run on this device.
    """
    device = torch.device(device)
    chosen, reason = _choose(device, request, dtype, head_size)
    _log.info("ms_deform_attn on %s: %s backend (%s asked for)", device, chosen, request)
    if reason:
        _log.warning(
            "ms_deform_attn on %s is slower than it could be, because the %s kernels cannot "
            "run: %s",
            device,
            "CUDA" if device.type == "cuda" else "fused",
            reason,
        )
    return chosen


def uses_numba(device: torch.device) -> bool:
    """Tell whether the kernels compiled by numba (the fused backend) run on this device."""
    return _decide(device, _environment_backend(), torch.float32, 32) == "fused"


def _choose(
    device: torch.device, request: str, dtype: torch.dtype, head_size: int
) -> tuple[str, str]:
    """Return the backend, and the reason why faster kernels cannot run, mostly empty."""
    if request not in BACKENDS:
        raise BackendError(unknown("operator backend", request, BACKENDS))
    if request in ("cpu", "fused") and device.type != "cpu":
        raise BackendError(
            f"The {request} operator backend was asked for on a {device.type} tensor; move the "
            "model to the CPU, or use auto or reference."
        )
    if request == "fused" and (reason := fused.missing()):
        raise BackendError(
            f"The fused operator backend was asked for, but its kernels cannot run: {reason}. Or "
            "use auto or cpu."
        )
    if request == "cuda":
        if reason := cuda.missing(device, dtype, head_size):
            raise BackendError(
                f"The cuda operator backend was asked for, but its kernels cannot run: {reason}. "
                f"Or use auto or reference ({ENVIRONMENT_VARIABLE}=reference runs on a GPU too)."
            )
        cuda.prepare(device, dtype, head_size)
    if request != "auto":
        return request, ""
    if device.type == "cpu":
        if not fused.installed():  # an extra, so its absence is no fault to report
            return "cpu", ""
        reason = fused.missing()
        return ("cpu" if reason else "fused"), reason
    if device.type != "cuda" or torch.version.hip is not None:
        return "reference", ""
    reason = cuda.missing(device, dtype, head_size)
    if not reason:
        try:
            cuda.prepare(device, dtype, head_size)
        except BackendError as error:
            reason = str(error)
    return ("reference" if reason else "cuda"), reason


def _head_size(value: Tensor) -> int:
    """Return D as an int, also where torch.compile has a symbol; 0 if no kernel takes it."""
    size = value.shape[3]
    if not torch.compiler.is_compiling():
        return size
    # Comparing makes torch.compile guard on the value, and the constant can be a cache key.
    return next((candidate for candidate in cuda.HEAD_SIZES if size == candidate), 0)


def _environment_backend() -> str:
    request = os.environ.get(ENVIRONMENT_VARIABLE, "").strip().lower() or "auto"
    if request not in BACKENDS:
        message = unknown("operator backend", request, BACKENDS)
        raise BackendError(f"{ENVIRONMENT_VARIABLE}: {message}")
    return request


def _decide(device: torch.device, request: str, dtype: torch.dtype, head_size: int) -> str:
    return choose_backend(device, request, dtype, head_size)


def _exporting() -> bool:
    """Tell whether a graph is exported to other programs, which know standard operators only."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


# torch.compile calls these while tracing and keeps the results as constants. This is what
# torch.compiler.assume_constant_result does, without importing the compiler (seconds at start-up).
# (Traced, torch 2.10 takes every compilation for an export.)
for _function in (_environment_backend, _decide, _exporting):
    vars(_function)["_dynamo_marked_constant"] = True


def _check_shapes(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    if value.dim() != 4 or sampling_locations.dim() != 6 or sampling_locations.shape[5] != 2:
        raise ValueError(
            f"ms_deform_attn: value is {tuple(value.shape)} and sampling_locations "
            f"{tuple(sampling_locations.shape)}; expected (B, S, M, D) and (B, Q, M, L, P, 2)."
        )
    batch, positions, heads, _ = value.shape
    if attention_weights.shape != sampling_locations.shape[:5]:
        raise ValueError(
            f"ms_deform_attn: attention_weights is {tuple(attention_weights.shape)}; expected "
            f"{tuple(sampling_locations.shape[:5])}, as sampling_locations without its last."
        )
    levels = len(spatial_shapes)
    sizes = (sampling_locations.shape[0], sampling_locations.shape[2], sampling_locations.shape[3])
    if sizes != (batch, heads, levels):
        raise ValueError(
            f"ms_deform_attn: sampling_locations has (B, M, L) = {sizes}; expected "
            f"{(batch, heads, levels)} from value and spatial_shapes."
        )
    expected = sum(height * width for height, width in spatial_shapes)
    if positions != expected:
        raise ValueError(
            f"ms_deform_attn: value has {positions} positions; spatial_shapes "
            f"{[tuple(shape) for shape in spatial_shapes]} make {expected}."
        )
    if not (value.is_floating_point() and sampling_locations.is_floating_point()):
        raise ValueError("ms_deform_attn: value and sampling_locations must be floating point.")
