"""Compile and launch ``ms_deform_attn.cu``, the CUDA kernels of multi-scale deformable attention.

Kernels are compiled per architecture, value type and head size when first needed (see
``nvrtc.py``). Values are float32, float16 or bfloat16; locations, weights and sums float32. Atomic
operations add up the gradient of ``value``, so its last bit may differ from run to run, and the
backward pass refuses ``torch.use_deterministic_algorithms(True)``.

Dimensions: B batch, S positions of all levels, Q queries, M heads, D channels of a head, L levels,
P points.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mask2kan.errors import BackendError
from mask2kan.ops.nvrtc import compile_cubin, missing_compiler
from mask2kan.ops.operator import BACKWARD, FORWARD

SOURCE = Path(__file__).with_name("ms_deform_attn.cu")
VALUE_TYPES = {
    torch.float32: "float",
    torch.float16: "mask2kan::Half",
    torch.bfloat16: "mask2kan::BFloat16",
}
HEAD_SIZES = tuple(range(8, 65, 8))
OLDEST_CAPABILITY = (7, 5)

# As in ms_deform_attn.cu.
_LANES, _WARPS = 32, 4
_LEVELS_STEP = 8  # kernels are compiled for at most 8, 16, 24, ... levels


def missing(device: torch.device, dtype: torch.dtype, head_size: int) -> str:
    """Say why the kernels cannot run on a device and what to do; empty where they can."""
    if device.type != "cuda":
        return f"they need a CUDA GPU, and the tensors are on {device.type}"
    if not torch.cuda.is_available():
        return "no CUDA GPU was found"
    if torch.version.hip is not None:
        return "they are for NVIDIA GPUs, and this torch is for AMD's"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        return (
            f"they need compute capability {_dotted(OLDEST_CAPABILITY)} or newer, and this GPU has "
            f"{_dotted(capability)}"
        )
    if dtype not in VALUE_TYPES:
        taken = ", ".join(map(_name, VALUE_TYPES))
        return f"value is {_name(dtype)}; they take {taken}"
    if head_size not in HEAD_SIZES:
        return (
            f"heads have {head_size} channels; they take multiples of 8 from {HEAD_SIZES[0]} to "
            f"{HEAD_SIZES[-1]}"
        )
    return missing_compiler()


def prepare(device: torch.device, dtype: torch.dtype, head_size: int) -> None:
    """Compile and load the kernels, so that the first call need not.

    Raises:
        BackendError: when they cannot be compiled or loaded.
    """
    for name in ("forward", "backward"):
        _kernel(name, _index(device), dtype, head_size, _LEVELS_STEP)


def compile_kernels(arch: str, dtype: torch.dtype, head_size: int, num_levels: int = 1) -> bytes:
    """Compile both kernels for an architecture, e.g. ``sm_90``, to machine code; needs no GPU.

    Raises:
        BackendError: when there is no compiler, or compiling fails.
    """
    macros = {
        "VALUE_TYPE": VALUE_TYPES[dtype],
        "HEAD_SIZE": str(head_size),
        "MAX_LEVELS": str(_max_levels(num_levels)),
    }
    return compile_cubin(SOURCE.read_text(encoding="utf-8"), arch, macros)


def forward(value: Tensor, spatial_shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Compute ``ms_deform_attn`` on flattened (H, W) pairs."""
    batch, _, heads, channels = value.shape
    output = value.new_empty((batch, locations.shape[1], heads * channels))
    if 0 in (*value.shape, *locations.shape):
        return output.zero_()
    _launch("forward", spatial_shapes, value, locations, weights, output)
    return output


def backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: list[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of value, locations and weights, each in its tensor's dtype."""
    _refuse_deterministic()
    single: dict[str, Any] = {"dtype": torch.float32, "device": value.device}
    grad_value = torch.zeros(value.shape, **single)
    empty = 0 in (*value.shape, *locations.shape)
    make = torch.zeros if empty else torch.empty  # the kernel writes every element of these two
    grad_locations, grad_weights = make(locations.shape, **single), make(weights.shape, **single)
    if not empty:
        grad_output = _dense(grad_output, value.dtype)
        grads = (grad_value, grad_locations, grad_weights)
        _launch("backward", spatial_shapes, value, locations, weights, grad_output, *grads)
    return (
        grad_value.to(value.dtype),
        grad_locations.to(locations.dtype),
        grad_weights.to(weights.dtype),
    )


torch.library.impl(FORWARD, "cuda", forward)
torch.library.impl(BACKWARD, "cuda", backward)


def _refuse_deterministic() -> None:
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "The backward pass of ms_deform_attn on CUDA adds gradients in no fixed order, and "
        "torch.use_deterministic_algorithms(True) is set. Set it with warn_only=True, or train on "
        "the CPU."
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise BackendError(message)
    warnings.warn(message, stacklevel=2)


def _dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast, make contiguous, and align to the kernels' loads of 16 bytes."""
    tensor = tensor.to(dtype).contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


class _Level(ctypes.Structure):
    _fields_ = (("height", ctypes.c_int), ("width", ctypes.c_int), ("start", ctypes.c_int))


@functools.cache
def _sizes_type(max_levels: int) -> type[ctypes.Structure]:
    """Mirror ``Sizes`` of ms_deform_attn.cu."""
    counts = ("positions", "queries", "heads", "levels", "points")
    fields = [*((name, ctypes.c_int) for name in counts), ("level", _Level * max_levels)]
    return type("_Sizes", (ctypes.Structure,), {"_fields_": fields})


def _sizes(spatial_shapes: list[int], value: Tensor, locations: Tensor) -> ctypes.Structure:
    levels, start = [], 0
    for height, width in zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True):
        levels.append(_Level(height, width, start))
        start += height * width
    sizes = _sizes_type(_max_levels(len(levels)))()
    sizes.positions, sizes.heads = value.shape[1], value.shape[2]
    sizes.queries, sizes.points = locations.shape[1], locations.shape[4]
    sizes.levels = len(levels)
    sizes.level[: len(levels)] = levels
    return sizes


def _num_blocks(value: Tensor, num_queries: int) -> int:
    """Count a block per image, head and as many queries as its warps hold."""
    batch, _, heads, channels = value.shape
    threads = 1 << (channels * value.element_size() // 16 - 1).bit_length()  # of a query
    block_queries = _WARPS * (_LANES // threads)
    blocks = batch * heads * -(-num_queries // block_queries)
    if blocks >= 2**31 or value.shape[1] >= 2**31 or num_queries >= 2**31 - block_queries:
        raise BackendError(
            f"ms_deform_attn on CUDA: a batch of {batch} with {heads} heads, {value.shape[1]} "
            f"positions and {num_queries} queries has sizes beyond 2^31; split the batch."
        )
    return blocks


def _launch(
    name: str,
    spatial_shapes: list[int],
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    *others: Tensor,
) -> None:
    """Queue a kernel on the current stream; ``others`` are dense already."""
    # Tensors may be freed before the kernel runs: the caching allocator hands their memory on only
    # to later work of the same stream.
    value = _dense(value, value.dtype)
    locations, weights = _dense(locations, torch.float32), _dense(weights, torch.float32)
    sizes = _sizes(spatial_shapes, value, locations)
    blocks = _num_blocks(value, locations.shape[1])
    tensors = (value, locations, weights, *others)
    arguments = [*(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors), sizes]
    addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
    device = value.device
    with torch.cuda.device(device):
        _require_context(device)
        max_levels = _max_levels(sizes.levels)
        kernel = _kernel(name, _index(device), value.dtype, value.shape[3], max_levels)
        _check(
            _driver().cuLaunchKernel(
                *(kernel, blocks, 1, 1, _WARPS * _LANES, 1, 1),
                *(0, torch.cuda.current_stream(device).cuda_stream),
                *(ctypes.addressof(addresses), 0),
            ),
            f"launch the {name} kernel",
        )


@functools.cache
def _kernel(
    name: str, device_index: int, dtype: torch.dtype, head_size: int, max_levels: int
) -> Any:
    """Compile and load one kernel; the driver's handle of it."""
    device = torch.device("cuda", device_index)
    if reason := missing(device, dtype, head_size):
        raise BackendError(f"The CUDA kernels of ms_deform_attn cannot run: {reason}.")
    with torch.cuda.device(device):
        _require_context(device)
        library = _library(_arch(device), dtype, head_size, max_levels)
        (kernel,) = _check(
            _driver().cuLibraryGetKernel(library, f"ms_deform_attn_{name}".encode()),
            f"find the {name} kernel",
        )
    return _driver().CUfunction(int(kernel))


@functools.cache
def _library(arch: str, dtype: torch.dtype, head_size: int, max_levels: int) -> Any:
    """Load the code once: the driver brings it to every GPU of the architecture that asks."""
    cubin = compile_kernels(arch, dtype, head_size, max_levels)
    (library,) = _check(
        _driver().cuLibraryLoadData(cubin, [], [], 0, [], [], 0), f"load code for {arch}"
    )
    return library


def _require_context(device: torch.device) -> None:
    """Make the device's context current: this thread may not have used CUDA yet."""
    driver = _driver()
    (context,) = _check(driver.cuCtxGetCurrent(), "ask for the context")
    if int(context) == 0:
        (context,) = _check(
            driver.cuDevicePrimaryCtxRetain(driver.CUdevice(_index(device))), "get the context"
        )
        _check(driver.cuCtxSetCurrent(context), "set the context")


def _check(result: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    """Return the results of a driver call, without its status; raise if that is an error."""
    status, *rest = result
    if int(status):
        raise BackendError(
            f"The CUDA driver could not {what} of ms_deform_attn: {status.name}. "
            "MASK2KAN_OPS=reference does without."
        )
    return tuple(rest)


def _driver() -> Any:
    from cuda.bindings import driver  # comes with cuda-core; not installed beside a CPU's torch

    return driver


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _arch(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _max_levels(num_levels: int) -> int:
    return -(-num_levels // _LEVELS_STEP) * _LEVELS_STEP


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
