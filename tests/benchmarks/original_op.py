"""The original CUDA kernels of multi-scale deformable attention, from their authors' sources.

They are part of no package and not of this one either: point ``gpu_all.py`` to
``ms_deform_im2col_cuda.cuh`` (Deformable DETR, Mask2Former and others hold the same file). Its
kernels are compiled as they stand, by NVRTC instead of nvcc, and launched as its own host code
does: a thread per output channel, 1024 to a block forward, a head's channels to a block backward.
"""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path

import torch
from torch import Tensor

from mask2kan.ops import cuda
from mask2kan.ops.nvrtc import compile_cubin

HEADER = "ms_deform_im2col_cuda.cuh"
FORWARD_THREADS = 1024
# Heads of these sizes get the kernel that sums one block per head in shared memory; others differ.
BACKWARD_HEADS = {8: "v1", 16: "v1", 32: "v1", 64: "v2"}

ENTRIES = """
extern "C" __global__ void original_forward(
    int n, const float* value, const int64_t* shapes, const int64_t* starts, const float* locations,
    const float* weights, int batch, int positions, int heads, int channels, int levels,
    int queries, int points, float* output) {{
  ms_deformable_im2col_gpu_kernel_body<float>(n, value, shapes, starts, locations, weights, batch,
      positions, heads, channels, levels, queries, points, output);
}}
extern "C" __global__ void original_backward(
    int n, const float* grad, const float* value, const int64_t* shapes, const int64_t* starts,
    const float* locations, const float* weights, int batch, int positions, int heads, int channels,
    int levels, int queries, int points, float* grad_value, float* grad_locations,
    float* grad_weights) {{
  ms_deformable_col2im_gpu_kernel_shm_blocksize_aware_reduce_{version}_body<float, {head_size}>(
      n, grad, value, shapes, starts, locations, weights, batch, positions, heads, channels, levels,
      queries, points, grad_value, grad_locations, grad_weights);
}}
"""


def find_header(folder: Path) -> Path:
    """The header in a folder of sources, or the file itself."""
    found = [folder] if folder.is_file() else sorted(folder.rglob(HEADER))
    if not found:
        raise SystemExit(f"{folder} holds no {HEADER}; point --original to the original's sources.")
    return found[0]


def kernel_source(header: str, head_size: int) -> str:
    """The header's kernels alone: without includes and host code, with entries C can name."""
    kernels = header[: header.index("void ms_deformable_im2col_cuda(")]
    kernels = kernels[: kernels.rindex("template <typename scalar_t>")]
    kernels = re.sub(r"^#include.*$", "", kernels, flags=re.MULTILINE)
    kernels = re.sub(r"^(inline int GET_BLOCKS)", r"__device__ \1", kernels, flags=re.MULTILINE)
    # a kernel cannot be called, a function can: the same code under another roof
    kernels = re.sub(r"__global__ void (\w+)\(", r"__device__ void \1_body(", kernels)
    entries = ENTRIES.format(head_size=head_size, version=BACKWARD_HEADS[head_size])
    return f"typedef long long int64_t;\n{kernels}\n{entries}"


class OriginalOp:
    """Forward and backward in float32 with the original's kernels.

    Args:
        folder: of the original's sources, or the header.
        head_size: D.
    """

    def __init__(self, folder: Path, head_size: int) -> None:
        self.head_size = head_size
        self.source = kernel_source(find_header(folder).read_text(), head_size)

    def compile(self, arch: str) -> bytes:
        """Machine code; needs no card."""
        return compile_cubin(self.source, arch, {})

    @functools.cache  # noqa: B019  (one object per run)
    def _kernel(self, name: str) -> object:
        driver = cuda._driver()
        device = torch.device("cuda", torch.cuda.current_device())
        cuda._require_context(device)
        (library,) = cuda._check(
            driver.cuLibraryLoadData(self.compile(cuda._arch(device)), [], [], 0, [], [], 0), "load"
        )
        (kernel,) = cuda._check(driver.cuLibraryGetKernel(library, name.encode()), "find")
        return driver.CUfunction(int(kernel))

    def _launch(self, name: str, threads: int, *arguments: object) -> None:
        count = arguments[0]
        held = [
            ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int(a)
            for a in arguments
        ]
        addresses = (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held))
        stream = torch.cuda.current_stream().cuda_stream
        cuda._check(
            cuda._driver().cuLaunchKernel(
                *(self._kernel(name), -(-count // threads), 1, 1, threads, 1, 1, 0, stream),
                *(ctypes.addressof(addresses), 0),
            ),
            f"launch {name}",
        )

    def forward(
        self, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
    ) -> Tensor:
        """(B, Q, M * D); ``shapes`` and ``starts`` are int64 tensors on the card."""
        batch, positions, heads, channels = value.shape
        queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
        output = value.new_zeros(batch, queries, heads * channels)
        self._launch(
            *("original_forward", FORWARD_THREADS, output.numel()),
            *(value, shapes, starts, locations, weights),
            *(batch, positions, heads, channels, levels, queries, points, output),
        )
        return output

    def backward(
        self,
        grad: Tensor,
        value: Tensor,
        shapes: Tensor,
        starts: Tensor,
        locations: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of value, locations and weights."""
        batch, positions, heads, channels = value.shape
        queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
        grads = tuple(torch.zeros_like(tensor) for tensor in (value, locations, weights))
        self._launch(
            *("original_backward", channels, grad.numel()),
            *(grad, value, shapes, starts, locations, weights),
            *(batch, positions, heads, channels, levels, queries, points, *grads),
        )
        return grads
