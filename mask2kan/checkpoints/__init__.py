"""Reading and writing checkpoints: ours and those of other code bases."""

from mask2kan.checkpoints.formats.native import save_again, save_model, save_pair
from mask2kan.checkpoints.load import build_model, load_model, open_checkpoint
from mask2kan.checkpoints.manifest import list_weights

__all__ = [
    "build_model",
    "list_weights",
    "load_model",
    "open_checkpoint",
    "save_again",
    "save_model",
    "save_pair",
]
