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

from mask2kan.errors import BackendError, ConfigError
from mask2kan.media.files import write_bytes
from mask2kan.modeling.mask2kan import Mask2KAN

OUTPUTS = ("pred_logits", "pred_masks")
SMALLEST_SIDE = 32


def export_onnx(model: Mask2KAN, path: str | Path, height: int, width: int) -> Path:
    """Write an ONNX file that maps an image to its queries; returns its path.

    Input: ``images`` (1, 3, H, W) float32 RGB in [0, 1]; outputs: ``pred_logits`` (1, Q, K+1) and
    ``pred_masks`` (1, Q, ceil32(H)/4, ceil32(W)/4); metadata: class names, palette and calibration
    as JSON. The model itself moves to the CPU, float32 and evaluation mode.

    Raises:
        BackendError: when the packages that write ONNX are not installed.
        ConfigError: for a side below ``SMALLEST_SIDE``.
        WriteError: when the file cannot be written.
    """
    if min(height, width) < SMALLEST_SIDE:
        raise ConfigError(
            f"The image size is {width} x {height}; both must be at least {SMALLEST_SIDE}."
        )
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise BackendError(
            f"Writing ONNX needs {' and '.join(missing)}: pip install onnx onnxscript."
        )
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
