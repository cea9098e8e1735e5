"""The CUDA kernels without a GPU: compiled by NVRTC, and run on the CPU.

The CPU runs the same source (``emulator/emulator.h`` supplies what CUDA would) behind the same
launching code: only the driver's ``cuLaunchKernel`` is replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mask2kan.errors import BackendError
from mask2kan.ops import choose_backend, cuda, ms_deform_attn, nvrtc
from tests.attention_cases import SHAPES, Case, errors, make_case

SOURCES = Path(__file__).parent / "emulator"
DTYPES = list(cuda.VALUE_TYPES)
# Of the largest magnitude. Half types: one rounding of the result, half a step at most.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
MAX_LEVELS = 16


def build(folder: Path, *options: str) -> Path:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("running CUDA code on the CPU needs Linux and a C++ compiler (g++)")
    program = folder / "run_kernels"
    include = f"-I{cuda.SOURCE.parent}"
    quiet = ["-Wno-unknown-pragmas", "-Wno-clobbered"]
    standard = ["-std=c++17", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror", *quiet]
    source = str(SOURCES / "run_kernels.cpp")
    command = [compiler, *standard, *options, include, source, "-o", str(program)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    options = ["-O1", "-shared", "-fPIC", "-DVECTOR_ATOMICS", f"-DMAX_LEVELS={MAX_LEVELS}"]
    return ctypes.CDLL(str(build(tmp_path_factory.mktemp("library"), *options)))


class Driver:
    """Runs kernels where the CUDA driver would launch them."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def cuLaunchKernel(self, kernel: Any, x: int, y: int, z: int, *rest: int) -> tuple[Any]:
        threads_x, threads_y, threads_z, shared, stream, arguments, extra = rest
        assert (y, z, threads_y, threads_z, shared, stream, extra) == (1, 1, 1, 1, 0, 7, 0)
        assert threads_x == 128
        name, dtype, head_size = kernel
        self.library.launch(
            DTYPES.index(dtype), head_size, name == "backward", x, ctypes.c_void_p(arguments)
        )
        return (0,)


@pytest.fixture
def gpu(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launching code believes that tensors on the CPU are on a GPU."""
    driver = Driver(library)
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    monkeypatch.setattr(cuda, "_require_context", lambda device: None)
    monkeypatch.setattr(cuda, "_index", lambda device: 0)
    monkeypatch.setattr(
        cuda, "_kernel", lambda name, index, dtype, size, levels: (name, dtype, size)
    )
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    stream = SimpleNamespace(cuda_stream=7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)


def flat(shapes: list[tuple[int, int]]) -> list[int]:
    return [size for shape in shapes for size in shape]


def gradient_for(case: Case) -> Tensor:
    value, _, locations, _ = case
    generator = torch.Generator().manual_seed(7)
    size = (value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    return torch.randn(size, generator=generator).to(value.dtype)


def by_kernels(case: Case) -> tuple[Tensor, ...]:
    """Output and the three gradients, by the kernels."""
    value, shapes, locations, weights = case
    grad = gradient_for(case)
    output = cuda.forward(value, flat(shapes), locations, weights)
    return output, *cuda.backward(grad, value, flat(shapes), locations, weights)


def by_reference(case: Case) -> tuple[Tensor, ...]:
    """The same in float64, by the definition of correct."""
    value, shapes, locations, weights = case
    leaves = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]
    output = ms_deform_attn(leaves[0], shapes, *leaves[1:], backend="reference")
    return output.detach(), *torch.autograd.grad(output, leaves, gradient_for(case).double())


def assert_right(case: Case) -> None:
    dtype = case[0].dtype
    actual = by_kernels(case)
    assert [tensor.dtype for tensor in actual] == [dtype, dtype, torch.float32, torch.float32]
    errors_found = errors(actual, by_reference(case))
    limits = [TOLERANCE[dtype], TOLERANCE[dtype], 2e-6, 2e-6]
    assert all(e <= limit for e, limit in zip(errors_found, limits, strict=True)), errors_found


# ---- Arithmetic ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("head_size", cuda.HEAD_SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_shapes(gpu: None, dtype: torch.dtype, head_size: int, seed: int) -> None:
    draw = np.random.default_rng([DTYPES.index(dtype), head_size, seed])
    shapes = [tuple(draw.integers(1, 12, 2).tolist()) for _ in range(draw.integers(1, 6))]
    case = make_case(
        shapes,
        batch=int(draw.integers(1, 4)),
        queries=int(draw.integers(1, 40)),
        heads=int(draw.integers(1, 4)),
        channels=head_size,
        points=int(draw.integers(1, 7)),
        seed=seed,
    )
    assert_right((case[0].to(dtype), *case[1:]))


@pytest.mark.parametrize("where", ["random", "border", "outside"])
@pytest.mark.parametrize(
    "shapes", [*SHAPES.values(), [(1, 1)], [(1, 9), (9, 1), (1, 1), (2, 2)]], ids=str
)
def test_borders_and_degenerate_levels(
    gpu: None, shapes: list[tuple[int, int]], where: str
) -> None:
    assert_right(make_case(shapes, where, channels=16, points=3, queries=20))


def test_more_points_than_fit_at_once_and_more_levels_than_most_have(gpu: None) -> None:
    shapes = list(itertools.islice(itertools.cycle([(3, 4), (2, 5), (1, 1)]), 11))
    assert_right(make_case(shapes, channels=8, points=5, queries=70, batch=1))


def test_wide_maps_keep_their_fractions(gpu: None) -> None:
    """A pixel coordinate of 4,000 in float32 has steps of 2e-4; the kernel must not show them."""
    case = make_case([(2, 4000)], "random", channels=8, queries=200, heads=1, batch=1)
    assert_right(case)


def test_inputs_of_any_strides_and_alignment(gpu: None) -> None:
    case = make_case(SHAPES["pyramid"], channels=8, queries=9, batch=1)
    dense = by_kernels(case)
    value, shapes, locations, weights = case
    wide = torch.stack([locations, locations], dim=-1)[..., 0]
    off = torch.empty(value.numel() + 1)[1:].view(value.shape).copy_(value)
    assert not wide.is_contiguous()
    assert off.data_ptr() % 16
    for actual, expected in zip(by_kernels((off, shapes, wide, weights)), dense, strict=True):
        assert torch.equal(actual, expected)


def test_locations_and_weights_of_other_types(gpu: None) -> None:
    value, shapes, locations, weights = make_case(SHAPES["odd"], channels=8)
    # numbers that half precision holds
    locations, weights = (x.half().float() for x in (locations, weights))
    expected = by_kernels((value, shapes, locations, weights))
    actual = by_kernels((value, shapes, locations.double(), weights.half()))
    assert [t.dtype for t in actual[2:]] == [torch.float64, torch.float16]
    assert torch.equal(actual[0], expected[0])
    torch.testing.assert_close(actual[2].float(), expected[2], rtol=0, atol=0)
    torch.testing.assert_close(actual[3], expected[3].half(), rtol=0, atol=0)


def test_wild_locations(gpu: None) -> None:
    """Infinite and huge locations read zeros; a NaN makes its own query's head NaN, no other."""
    case = make_case(SHAPES["pyramid"], "random", batch=1, channels=16)
    untouched = by_kernels(case)[0]
    value, shapes, locations, weights = case
    locations[0, 3] = torch.tensor([math.inf, 0.5])
    locations[0, 4] = torch.tensor([0.5, -math.inf])
    locations[0, 5] = torch.tensor([1e30, -1e30])
    locations[0, 6, 1, 0, 0] = torch.tensor([math.nan, 0.5])
    locations[0, 6, 1, 2, 3] = math.nan
    output, grad_value, _, _ = by_kernels((value, shapes, locations, weights))
    assert torch.equal(output[0, 3:6], torch.zeros(3, 48))
    nan = output[0, 6].view(3, 16).isnan()
    assert nan[1].all()
    assert not nan[[0, 2]].any()
    # where NaN locations lie is anyone's guess: the first pixels of two levels, of that head alone
    assert {tuple(place) for place in grad_value.isnan().nonzero()[:, :3].tolist()} == {
        (0, 0, 1),
        (0, 100, 1),
    }
    rest = [query for query in range(37) if query not in (3, 4, 5, 6)]
    assert torch.equal(output[0, rest], untouched[0, rest])


def test_a_nan_weight_gives_nan_wherever_its_point_lies(gpu: None) -> None:
    value, shapes, locations, weights = make_case([(3, 4)], batch=1, channels=8, points=1)
    locations[0, 0] = 0.5
    locations[0, 1] = 7.0
    weights[0, :2] = math.nan
    output = by_kernels((value, shapes, locations, weights))[0]
    assert output[0, :2].isnan().all()
    assert output[0, 2:].isfinite().all()


def test_points_outside_do_not_read_a_non_finite_border(gpu: None) -> None:
    value, shapes, locations, weights = make_case([(3, 4)], "outside", batch=1, channels=8)
    locations = torch.where(locations < 0.5, locations - 4, locations + 4)
    output = by_kernels((value.fill_(math.nan), shapes, locations, weights))[0]
    assert torch.equal(output, torch.zeros_like(output))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding_is_to_the_nearest(gpu: None, dtype: torch.dtype) -> None:
    """One pixel, read exactly: what comes out is torch's own rounding of weight times value."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1, 1, 1, 64, generator=generator).to(dtype)
    weights = torch.randn(1, 500, 1, 1, 1, generator=generator)
    weights[0, :3, 0, 0, 0] = torch.tensor([3e38, math.nan, 1e-42])
    locations = torch.full((1, 500, 1, 1, 1, 2), 0.5)
    output = cuda.forward(value, [1, 1], locations, weights)
    expected = (weights[..., 0, 0] * value[:, 0].float()).to(dtype)
    assert torch.equal(output.isnan(), expected.isnan())
    assert torch.equal(output.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize(("batch", "queries"), [(0, 5), (2, 0)])
def test_nothing_to_do(gpu: None, batch: int, queries: int) -> None:
    case = make_case(SHAPES["odd"], batch=batch, queries=queries, channels=8)
    output, *grads = by_kernels(case)
    assert output.shape == (batch, queries, 24)
    assert [grad.shape for grad in grads] == [case[0].shape, case[2].shape, case[3].shape]


def test_offsets_beyond_31_bits(gpu: None) -> None:
    """4 GiB of values, nearly all of them memory that is never touched."""
    shape, heads, channels = (2**16, 2**9 + 1), 1, 64
    positions = shape[0] * shape[1]
    numbers = positions * channels
    assert numbers > 2**31
    value = torch.from_numpy(np.zeros((1, positions, heads, channels), np.float16))
    value[0, -4:] = torch.arange(4, dtype=torch.float16)[:, None, None] + 1
    location = torch.tensor([(shape[1] - 1) / shape[1], 1 - 0.5 / shape[0]])
    locations = location.expand(1, 1, 1, 1, 1, 2).contiguous()
    weights = torch.ones(1, 1, 1, 1, 1)
    output = cuda.forward(value, list(shape), locations, weights)
    # halfway between the last two pixels of the last row
    torch.testing.assert_close(output, torch.full_like(output, 3.5), rtol=0, atol=2e-2)
    grad_value = torch.from_numpy(np.zeros(numbers, np.float32)).view(value.shape)
    others = (torch.zeros_like(locations), torch.zeros_like(weights))
    grad = torch.ones(1, 1, channels, dtype=torch.float16)
    cuda._launch("backward", list(shape), value, locations, weights, grad, grad_value, *others)
    expected = torch.tensor([0, 0, 0.5, 0.5])[:, None, None].expand(4, 1, channels)
    torch.testing.assert_close(grad_value[0, -4:], expected, rtol=0, atol=2e-2)


def test_no_step_outside_a_tensor(tmp_path: Path) -> None:
    """Every tensor in memory of its own, watched by the address sanitizer; scalar atomics."""
    program = build(tmp_path, "-O0", "-fsanitize=address", "-DMAX_LEVELS=8")
    cases, expected = [], []
    with (tmp_path / "cases").open("wb") as file:
        for dtype, (head_size, queries, where) in itertools.product(
            DTYPES, [(8, 33, "mixed"), (24, 7, "border"), (32, 9, "outside"), (64, 5, "mixed")]
        ):
            case = make_case(
                SHAPES["odd"], where, channels=head_size, queries=queries, points=6, heads=2
            )
            case = (case[0].to(dtype), *case[1:])
            cases.append(case)
            expected.append(by_reference(case))
            _write_case(file, case)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    command = [str(program), str(tmp_path / "cases"), str(tmp_path / "results")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    content, start = (tmp_path / "results").read_bytes(), 0
    for case, wanted in zip(cases, expected, strict=True):
        dtypes = [case[0].dtype, torch.float32, torch.float32, torch.float32]
        actual = []
        for dtype, like in zip(dtypes, wanted, strict=True):
            size = like.numel() * dtype.itemsize
            part = bytearray(content[start : start + size])
            actual.append(torch.frombuffer(part, dtype=dtype).view(like.shape))
            start += size
        assert max(errors(tuple(actual[1:]), wanted[1:])) <= 2e-6
        assert errors((actual[0],), (wanted[0],))[0] <= TOLERANCE[case[0].dtype]
    assert start == len(content)


def _write_case(file: Any, case: Case) -> None:
    value, shapes, locations, weights = case
    sizes = cuda._sizes(flat(shapes), value, locations)
    blocks = cuda._num_blocks(value, locations.shape[1])
    header = [DTYPES.index(value.dtype), value.shape[3], blocks, ctypes.sizeof(sizes)]
    file.write(np.array(header, np.int32).tobytes() + bytes(sizes))
    grad = gradient_for(case)
    unwritten = [torch.full_like(t, math.nan) for t in (locations, weights, grad)]
    tensors = [value, locations, weights, grad, torch.zeros(value.shape), *unwritten]
    for tensor in tensors:
        content = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        file.write(np.int64(len(content)).tobytes() + content)


# ---- Launching ----------------------------------------------------------------------------------


def test_a_driver_that_refuses(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Status:
        name = "CUDA_ERROR_LAUNCH_FAILED"

        def __int__(self) -> int:
            return 719

    driver = SimpleNamespace(cuLaunchKernel=lambda *_: (Status(),))
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    with pytest.raises(BackendError, match="launch the forward kernel.*CUDA_ERROR_LAUNCH_FAILED"):
        by_kernels(make_case(SHAPES["odd"], channels=8))


def test_more_blocks_than_a_launch_has(gpu: None) -> None:
    value = torch.empty(2**20, 1, 64, 8, device="meta")
    with pytest.raises(BackendError, match=r"beyond 2\^31; split the batch"):
        cuda._num_blocks(value, 2**20)


def test_backward_refuses_to_be_deterministic(gpu: None) -> None:
    case = make_case(SHAPES["odd"], channels=8)
    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(BackendError, match="warn_only=True"):
            by_kernels(case)
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="no fixed order"):
            by_kernels(case)
    finally:
        torch.use_deterministic_algorithms(False)


# ---- Which backend ------------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[torch.dtype, int]]]:
    """An sm_90 GPU, and the kernels that were prepared for it."""
    prepared: list[tuple[torch.dtype, int]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda, "missing_compiler", lambda: "")
    monkeypatch.setattr(cuda, "prepare", lambda device, dtype, size: prepared.append((dtype, size)))
    choose_backend.cache_clear()
    yield prepared
    choose_backend.cache_clear()


def test_a_gpu_gets_the_kernels(pretended: list[tuple[torch.dtype, int]]) -> None:
    assert choose_backend(torch.device("cuda:0"), dtype=torch.bfloat16, head_size=16) == "cuda"
    assert choose_backend(torch.device("cuda:0"), "cuda") == "cuda"
    assert choose_backend(torch.device("cuda:0"), "reference") == "reference"
    assert pretended == [(torch.bfloat16, 16), (torch.float32, 32)]


@pytest.mark.parametrize(
    ("dtype", "head_size", "reason"),
    [
        (torch.float64, 32, "value is float64; they take float32, float16, bfloat16"),
        (torch.float32, 20, "20 channels; they take multiples of 8 from 8 to 64"),
        (torch.float32, 72, "72 channels"),
    ],
)
def test_what_the_kernels_do_not_take(
    pretended: list[tuple[torch.dtype, int]], dtype: torch.dtype, head_size: int, reason: str
) -> None:
    assert choose_backend(torch.device("cuda:0"), dtype=dtype, head_size=head_size) == "reference"
    with pytest.raises(BackendError, match=reason):
        choose_backend(torch.device("cuda:0"), "cuda", dtype, head_size)
    assert not pretended


def test_an_old_gpu(
    pretended: list[tuple[torch.dtype, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert choose_backend(torch.device("cuda:0")) == "reference"
    with pytest.raises(BackendError, match=r"7\.5 or newer, and this GPU has 6\.1"):
        choose_backend(torch.device("cuda:0"), "cuda")


def test_no_compiler_installed(
    pretended: list[tuple[torch.dtype, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "missing_compiler", nvrtc.missing_compiler)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: None)
    assert choose_backend(torch.device("cuda:0")) == "reference"
    with pytest.raises(BackendError, match="cuda-core is not installed; python -m pip install"):
        choose_backend(torch.device("cuda:0"), "cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendError, match="built without CUDA"):
        choose_backend(torch.device("cuda:0"), "cuda")


def test_auto_goes_on_where_the_compiler_fails_and_says_so(
    pretended: list[tuple[torch.dtype, int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise BackendError("no libnvrtc")

    monkeypatch.setattr(cuda, "prepare", fail)
    device = torch.device("cuda", 3)
    with caplog.at_level(logging.WARNING, logger="mask2kan.ops"):
        for _ in range(2):
            assert choose_backend(device) == "reference"
    assert [record.getMessage() for record in caplog.records] == [
        "ms_deform_attn on cuda:3 is slower than it could be, because the CUDA kernels cannot "
        "run: no libnvrtc"
    ]
    with pytest.raises(BackendError, match="no libnvrtc"):
        choose_backend(device, "cuda")


# ---- Compiling ----------------------------------------------------------------------------------


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler with an empty cache, whose folder is returned."""
    if reason := nvrtc.missing_compiler():
        pytest.skip(f"NVRTC cannot be tried: {reason}")
    nvrtc._cubin.cache_clear()
    monkeypatch.setenv("MASK2KAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cubins(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.*"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for(compiler: Path, arch: str, dtype: torch.dtype) -> None:
    cubin = cuda.compile_kernels(arch, dtype, 32)
    assert cubin.startswith(b"\x7fELF")
    for name in (b"ms_deform_attn_forward", b"ms_deform_attn_backward"):
        assert name in cubin


@pytest.mark.parametrize("head_size", [8, 24, 64])
def test_compiles_for_other_heads_and_levels(compiler: Path, head_size: int) -> None:
    one, many = (cuda.compile_kernels("sm_90", torch.float16, head_size, n) for n in (3, 20))
    assert one != many
    assert len(cubins(compiler)) == 2


def ptx_of(arch: str) -> str:
    """By NVRTC itself: cuda-core asks the driver about PTX, and there may be none."""
    from cuda.bindings import nvrtc as library

    def call(function: Any, *arguments: Any) -> Any:
        status, *rest = function(*arguments)
        assert int(status) == 0, status
        return rest[0] if rest else None

    source = cuda.SOURCE.read_bytes()
    program = call(library.nvrtcCreateProgram, source, b"ms_deform_attn.cu", 0, [], [])
    options = [b"--gpu-architecture=" + arch.encode(), b"-DVALUE_TYPE=float", b"-DHEAD_SIZE=32"]
    call(library.nvrtcCompileProgram, program, len(options), options)
    ptx = bytearray(call(library.nvrtcGetPTXSize, program))
    call(library.nvrtcGetPTX, program, ptx)
    return ptx.decode()


@pytest.mark.parametrize(("arch", "vectors"), [("compute_80", False), ("compute_90", True)])
def test_adds_four_at_a_time_where_the_chip_can(compiler: Path, arch: str, vectors: bool) -> None:
    ptx = ptx_of(arch)
    additions = set(re.findall(r"(?:red|atom)\.global\S*", ptx))
    assert additions
    assert all((".v4." in addition) == vectors for addition in additions), additions
    assert "ld.global.nc.v4" in ptx or "ld.global.v4" in ptx


CALL = """
from mask2kan.ops import cuda, nvrtc
import torch
compile = nvrtc._compile
nvrtc._compile = lambda *arguments: print("compiled") or compile(*arguments)
cuda.compile_kernels("sm_90", torch.bfloat16, 32)
"""


def start_process() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def output_of(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.strip()


def test_the_second_process_compiles_nothing(compiler: Path) -> None:
    assert output_of(start_process()) == "compiled"
    assert not output_of(start_process())


def test_processes_that_start_together_share_the_cache(compiler: Path) -> None:
    processes = [start_process() for _ in range(3)]
    for process in processes:
        output_of(process)
    (file,) = cubins(compiler)
    assert nvrtc._read(file) == cuda.compile_kernels("sm_90", torch.bfloat16, 32)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_made_again(
    compiler: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cubin = cuda.compile_kernels("sm_80", torch.float32, 8)
    (file,) = cubins(compiler)
    whole = file.read_bytes()
    flipped = whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]
    file.write_bytes({"cut": whole[:-9], "flipped": flipped, "empty": b""}[damage])
    nvrtc._cubin.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert cuda.compile_kernels("sm_80", torch.float32, 8) == cubin
    assert "is damaged and will be compiled again" in caplog.text
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written(
    compiler: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler.write_text("a file where the folder should be")
    compiled: list[str] = []
    compile_once = nvrtc._compile
    monkeypatch.setattr(nvrtc, "_compile", lambda *a: compiled.append(a[1]) or compile_once(*a))
    with caplog.at_level(logging.WARNING):
        first = cuda.compile_kernels("sm_80", torch.float32, 8)
        assert cuda.compile_kernels("sm_80", torch.float32, 8) == first
    assert compiled == ["sm_80"]
    (record,) = caplog.records
    assert "stays in memory" in record.getMessage()
    assert "MASK2KAN_CACHE=<folder> puts it elsewhere" in record.getMessage()


def test_code_that_does_not_compile(compiler: Path) -> None:
    with pytest.raises(
        BackendError, match="(?s)could not compile CUDA code for sm_80.*expected an"
    ):
        nvrtc.compile_cubin("int = 3;", "sm_80", {})
    assert not cubins(compiler)
    assert nvrtc.compile_cubin('extern "C" __global__ void nothing() {}', "sm_80", {})
