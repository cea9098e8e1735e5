"""What the names of devices and dtypes stand for."""

import pytest
import torch

from mask2kan.errors import BackendError, ConfigError
from mask2kan.runtime import devices
from mask2kan.runtime.devices import full_precision, resolve_device, resolve_dtype

CPU = torch.device("cpu")


@pytest.fixture
def processor(monkeypatch):
    """Pretend a processor: its instructions, and how much faster bfloat16 products are."""

    def pretend(gain, **instructions):
        devices._processor_prefers_bfloat16.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
        seconds = {torch.float32: gain, torch.bfloat16: 1.0}
        monkeypatch.setattr(devices, "_seconds_of_products", seconds.__getitem__)

    yield pretend
    devices._processor_prefers_bfloat16.cache_clear()


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.delenv("MASK2KAN_DTYPE", raising=False)


def test_the_environment_says_what_auto_means(monkeypatch, processor):
    processor(3.0, amx_bf16=True)
    monkeypatch.setenv("MASK2KAN_DTYPE", "float16")
    assert resolve_dtype("auto", CPU) == torch.float16
    assert resolve_dtype("float32", CPU) == torch.float32
    monkeypatch.setenv("MASK2KAN_DTYPE", "")
    assert resolve_dtype("auto", CPU) == torch.bfloat16
    monkeypatch.setenv("MASK2KAN_DTYPE", "floaty16")
    with pytest.raises(ConfigError, match="floaty16"):
        resolve_dtype("auto", CPU)


def test_auto_is_bfloat16_where_it_is_there_and_faster(processor):
    processor(3.0, amx_bf16=True)
    assert resolve_dtype("auto", CPU) == torch.bfloat16
    assert resolve_dtype("float32", CPU) == torch.float32
    assert resolve_dtype("auto", torch.device("meta")) == torch.float32


@pytest.mark.parametrize(
    ("gain", "instructions"),
    [(3.0, {}), (3.0, {"amx_bf16": False}), (1.1, {"avx512_bf16": True, "amx_bf16": False})],
)
def test_auto_is_float32_elsewhere(processor, gain, instructions):
    processor(gain, **instructions)
    assert resolve_dtype("auto", CPU) == torch.float32


def test_the_real_processor_is_asked_once():
    devices._processor_prefers_bfloat16.cache_clear()
    first = resolve_dtype("auto", CPU)
    assert devices._processor_prefers_bfloat16.cache_info().misses == 1
    assert resolve_dtype("auto", CPU) == first
    assert devices._processor_prefers_bfloat16.cache_info().misses == 1
    assert devices._seconds_of_products(torch.float32) > 0


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [
        ((9, 0), None, torch.bfloat16),
        ((8, 0), None, torch.bfloat16),
        ((7, 5), None, torch.float32),
        ((9, 0), "6.4", torch.float32),
    ],
)
def test_auto_on_cards(monkeypatch, capability, hip, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert resolve_dtype("auto", torch.device("cuda", 1)) == expected


@pytest.mark.parametrize("name", ["float32", torch.float32, "bfloat16", torch.bfloat16])
def test_names_and_types(name):
    assert resolve_dtype(name, CPU) == getattr(torch, str(name).removeprefix("torch."))


def test_unknown_names():
    with pytest.raises(ConfigError, match="bfloat16"):
        resolve_dtype("bfloat61", CPU)
    with pytest.raises(ConfigError, match="float32"):
        resolve_dtype(torch.float64, CPU)
    with pytest.raises(BackendError, match="cuda"):
        resolve_device("cudaa")


def test_full_precision_inside_autocast():
    x = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(x):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
    with full_precision(x):
        assert (x @ x).dtype == torch.float32
