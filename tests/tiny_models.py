"""Models of every backbone small enough to trace, compile and export in a test."""

import numpy as np
import torch

from mask2kan import create_model
from mask2kan.inference.predictor import Predictor

TINY = {
    "num_classes": 5,
    "num_queries": 7,
    "hidden_dim": 32,
    "num_heads": 4,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "encoder_feedforward_dim": 16,
    "decoder_feedforward_dim": 16,
}
BACKBONES = {
    "swin_t": {
        "backbone_depths": (1, 2, 1, 1),
        "backbone_width": 12,
        "backbone_num_heads": (1, 2, 2, 4),
    },
    "r50": {"backbone_depths": (1, 1, 1, 1), "backbone_width": 8},
    "efficientnet_lite0": {"backbone_depths": (1,) * 7},
    "mobilenetv2": {"backbone_depths": (1,) * 7},
}


def tiny(family, backbone="mobilenetv2", seed=0, **fields):
    """``<family>_<backbone>`` with random weights, the same every time, in evaluation mode.

    ``fields`` are of ``ModelConfig``, instead of those above.
    """
    torch.manual_seed(seed)
    return create_model(f"{family}_{backbone}", **{**TINY, **BACKBONES[backbone], **fields}).eval()


def calibrated(model, image, percent, data="noise"):
    """The model with its MSP calibrated on an image: ``percent`` of it are below the threshold."""
    scores = Predictor(model, device="cpu")(image).anomaly("msp")
    low, middle, high = np.percentile(scores, [0.5, percent, 99.5]).tolist()
    model.calibration = {"msp": {"range": [low, high], "fpr05": middle, "data": data}}
    return model
