"""Models of every backbone small enough to trace, compile and export in a test."""

import torch

from mask2kan import create_model

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
    "mobilenetv2": {"backbone_depths": (1,) * 7},
}


def tiny(family, backbone):
    """``<family>_<backbone>`` with random weights, the same every time, in evaluation mode."""
    torch.manual_seed(0)
    return create_model(f"{family}_{backbone}", **TINY, **BACKBONES[backbone]).eval()
