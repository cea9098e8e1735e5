"""Devices by name."""

from __future__ import annotations

import torch

from mask2kan.errors import BackendError, unknown


def resolve_device(name: str | torch.device) -> torch.device:
    """Return a device that this machine has.

    Args:
        name: ``auto`` (a CUDA GPU where there is one, else the CPU) or any name torch knows.

    Raises:
        BackendError: for a name torch does not know, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(unknown("device", str(name), ("auto", "cpu", "cuda"))) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"Device {str(device)!r} was asked for, but {torch.cuda.device_count()} CUDA GPUs "
            "were found. Use device 'auto' or 'cpu'."
        )
    if device.type not in ("cpu", "cuda"):
        _require_usable(device)
    return device


def _require_usable(device: torch.device) -> None:
    """Refuse a device that this build of torch knows by name alone."""
    try:
        torch.zeros(1, device=device).item()  # meta, which computes nothing, has no value
    except Exception as error:  # each backend fails in its own way
        raise BackendError(
            f"Device {str(device)!r} was asked for, and this machine has none that torch can use. "
            "Use device 'auto' or 'cpu'."
        ) from error
