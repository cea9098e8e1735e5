"""Export a model as ONNX at one image size, in standard operators.

The attention op exports through its grid-sample reference, the KAN through its plain recursion.
Normalisation and padding are part of the graph; resizing, softmax, sigmoid and the sum over queries
are not, since masks of full size would need a gigabyte.
"""

from __future__ import annotations

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mask2kan.errors import BackendError, ConfigError, OutOfMemoryError
from mask2kan.media.files import write_bytes
from mask2kan.media.limits import MAX_MEGAPIXELS
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.runtime.memory import available_memory

OUTPUTS = ("pred_logits", "pred_masks")
SMALLEST_SIDE = 32
# Measured while exporting and checking, the larger of several: 3.0 GB with Swin-T (200 MB) at
# 2048 x 1024, of which 1.0 GB do not depend on the size.
_COPIES_OF_WEIGHTS = 5
_BYTES_PER_PIXEL = 1000


def require_exportable(height: int, width: int) -> None:
    """Refuse a size that no model is exported at, and a machine that cannot write ONNX.

    Raises:
        BackendError, ConfigError: as ``export_onnx``.
    """
    if min(height, width) < SMALLEST_SIDE:
        raise ConfigError(
            f"The image size is {width} x {height}; both must be at least {SMALLEST_SIDE}."
        )
    if height * width > MAX_MEGAPIXELS * 1e6:
        raise ConfigError(
            f"The image size is {width} x {height}, {height * width / 1e6:.0f} megapixels; at most "
            f"{MAX_MEGAPIXELS} can be computed."
        )
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise BackendError(
            f"Writing ONNX needs {' and '.join(missing)}, and its check onnxruntime: "
            "pip install onnx onnxscript onnxruntime."
        )


def _require_memory(model: nn.Module, height: int, width: int) -> None:
    """Refuse what is likely not to fit: writing copies the weights, the check runs the model."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    needed = _COPIES_OF_WEIGHTS * weights + _BYTES_PER_PIXEL * height * width
    available = available_memory(torch.device("cpu"))
    if available is not None and needed > available:
        raise OutOfMemoryError(
            f"Exporting at {width} x {height} takes about {needed / 1e9:.1f} GB of memory, and "
            f"{available / 1e9:.1f} GB are free. Choose a smaller size, or close what else uses it."
        )


def export_onnx(model: Mask2KAN, path: str | Path, height: int, width: int) -> Path:
    """Write an ONNX file that maps an image to its queries; returns its path.

    Input: ``images`` (1, 3, H, W) float32 RGB in [0, 1]; outputs: ``pred_logits`` (1, Q, K+1) and
    ``pred_masks`` (1, Q, ceil32(H)/4, ceil32(W)/4); metadata: class names, palette and calibration
    as JSON. The model itself moves to the CPU, float32 and evaluation mode.

    Raises:
        BackendError: when the packages that write ONNX are not installed.
        ConfigError: for a side below ``SMALLEST_SIDE``, or more than ``MAX_MEGAPIXELS``.
        OutOfMemoryError: before anything is computed, when memory would not suffice.
        WriteError: when the file cannot be written.
    """
    require_exportable(height, width)
    _require_memory(model, height, width)
    images = torch.rand(1, 3, height, width)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("onnxscript", "onnx_ir"):
            logging.getLogger(name).setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Queries(model.cpu().float().eval()),
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=list(OUTPUTS),
        )
    assert program is not None
    program.model.metadata_props.update(
        {
            "class_names": json.dumps(list(model.class_names)),
            "palette": json.dumps(model.palette.tolist()),
            "calibration": json.dumps(model.calibration),
            "source": model.source,
        }
    )
    return write_bytes(path, program.model_proto.SerializeToString())


def largest_onnx_difference(model: Mask2KAN, path: str | Path, seed: int = 0) -> dict[str, float]:
    """Run a random image in onnxruntime; returns each output's largest difference from ours.

    Raises:
        BackendError: when onnxruntime is not installed.
    """
    if find_spec("onnxruntime") is None:
        raise BackendError("Checking an ONNX file needs onnxruntime: pip install onnxruntime.")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        ours = model(images, with_aux=False)
    theirs = session.run(list(OUTPUTS), {"images": images.numpy()})
    return {
        name: float(np.abs(ours[name].numpy() - output).max())
        for name, output in zip(OUTPUTS, theirs, strict=True)
    }


class _Queries(nn.Module):
    """The model with a tuple as its output."""

    def __init__(self, model: Mask2KAN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(images, with_aux=False)
        return output["pred_logits"], output["pred_masks"]
