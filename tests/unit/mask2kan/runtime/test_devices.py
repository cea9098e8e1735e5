"""The devices that names stand for."""

import pytest
import torch

from mask2kan.errors import BackendError
from mask2kan.runtime.devices import resolve_device


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")


def test_devices_that_are_not_there(monkeypatch):
    with pytest.raises(BackendError, match="cuda"):
        resolve_device("cudaa")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(BackendError, match="'cuda:1' was asked for, but 1 CUDA GPUs were found"):
        resolve_device("cuda:1")
    for name in ("mps", "xpu", "hpu", "meta"):
        with pytest.raises(
            BackendError, match=f"'{name}' was asked for, and this machine has none"
        ):
            resolve_device(name)
