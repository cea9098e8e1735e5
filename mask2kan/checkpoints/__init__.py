"""Reading and writing checkpoints: ours, detectron2's and those of ``transformers``."""

from mask2kan.checkpoints.load import load_model, open_checkpoint
from mask2kan.checkpoints.manifest import list_weights
from mask2kan.checkpoints.native import save_again, save_model, save_pair

__all__ = [
    "list_weights",
    "load_model",
    "open_checkpoint",
    "save_again",
    "save_model",
    "save_pair",
]
