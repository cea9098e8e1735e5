"""The dtype that ``auto`` stands for, and where autocast is off."""

import logging

import pytest
import torch

from mask2kan.errors import ConfigError
from mask2kan.runtime import precision
from mask2kan.runtime.precision import full_precision, resolve_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.delenv("MASK2KAN_DTYPE", raising=False)
    precision._default_dtype.cache_clear()
    yield
    precision._default_dtype.cache_clear()


@pytest.fixture
def cpu_with(monkeypatch):
    """Pretend a CPU with these capabilities."""

    def pretend(**capabilities):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)

    return pretend


def test_the_environment_says_what_auto_means(monkeypatch, cpu_with):
    cpu_with(amx_bf16=True)
    monkeypatch.setenv("MASK2KAN_DTYPE", "float16")
    assert resolve_dtype("auto", CPU) == torch.float16
    assert resolve_dtype("float32", CPU) == torch.float32
    monkeypatch.setenv("MASK2KAN_DTYPE", "")
    assert resolve_dtype("auto", CPU) == torch.bfloat16
    monkeypatch.setenv("MASK2KAN_DTYPE", "floaty16")
    with pytest.raises(ConfigError, match="floaty16"):
        resolve_dtype("auto", CPU)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.float32),
        ({"bf16": True, "sve_bf16": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_on_a_cpu_is_bfloat16_with_amx_alone(cpu_with, capabilities, expected):
    cpu_with(**capabilities)
    assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("float32", CPU) == torch.float32
    assert resolve_dtype("auto", torch.device("meta")) == torch.float32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16 amx_tile", torch.bfloat16),
        ("flags\t\t: fpu avx512_bf16", torch.float32),
        (None, torch.float32),
    ],
)
def test_an_older_torch_reads_the_flags_of_linux(monkeypatch, tmp_path, text, expected):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
    if text:
        (tmp_path / "cpuinfo").write_text(text)
    assert resolve_dtype("auto", CPU) == expected


def test_the_decision_is_logged_once(cpu_with, caplog):
    cpu_with(amx_bf16=True)
    with caplog.at_level(logging.INFO, logger="mask2kan.runtime"):
        assert resolve_dtype("auto", CPU) == resolve_dtype("auto", CPU)
    assert [record.getMessage() for record in caplog.records] == [
        "dtype auto on cpu: bfloat16 (amx_bf16)"
    ]


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [
        ((9, 0), None, torch.bfloat16),
        ((8, 0), None, torch.bfloat16),
        ((7, 5), None, torch.float32),
        ((9, 0), "6.4", torch.float32),
    ],
)
def test_auto_on_gpus(monkeypatch, capability, hip, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert resolve_dtype("auto", torch.device("cuda", 1)) == expected


@pytest.mark.parametrize("name", ["float32", torch.float32, "bfloat16", torch.bfloat16])
def test_names_and_dtypes(name):
    assert resolve_dtype(name, CPU) == getattr(torch, str(name).removeprefix("torch."))


def test_unknown_names():
    with pytest.raises(ConfigError, match="bfloat16"):
        resolve_dtype("bfloat61", CPU)
    with pytest.raises(ConfigError, match="float32"):
        resolve_dtype(torch.float64, CPU)


def test_full_precision_inside_autocast():
    x = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(x):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
    with full_precision(x):
        assert (x @ x).dtype == torch.float32
