"""Training runs small enough for a test: seconds, on one thread."""

from training.config.recipes import recipe
from training.config.train_config import override
from training.engine.trainer import Trainer

QUICK = [
    "pretrained_backbone=",
    "data=synthetic",
    "batch_size=2",
    "steps=4",
    "lr=1e-3",
    "num_points=64",
    "eval_every=2",
    "eval_pictures=2",
    "batch_norm_batches=0",
    "workers=0",
    "augmentation.crop=(64, 64)",
]
SMALL_DECODERS = [
    "model.hidden_dim=32",
    "model.num_heads=4",
    "model.num_queries=12",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
    "model.encoder_feedforward_dim=32",
    "model.decoder_feedforward_dim=32",
]
SMALL_BACKBONES = {
    "mobilenetv2": ["model.backbone_width=8", "model.backbone_depths=(1, 1, 1, 1, 1, 1, 1)"],
    "r50": ["model.backbone_width=8", "model.backbone_depths=(1, 1, 1, 1)"],
    "swin": [
        "model.backbone_width=12",
        "model.backbone_depths=(1, 2, 1, 1)",
        "model.backbone_num_heads=(1, 2, 2, 4)",
    ],
}
TINY = [*QUICK, "grid_update_steps=(1,)", *SMALL_DECODERS, *SMALL_BACKBONES["mobilenetv2"]]


def tiny_trainer(folder, *settings, name="camvid_kan", draw=False, **options):
    """A trainer of the CamVid pair at a size where a step takes a fraction of a second.

    Drawing the curves takes longer than such a run, so it is left out unless asked for.
    """
    config = override(recipe(name), [*TINY, *settings])
    trainer = Trainer(config, folder, progress=False, **options)
    if not draw:
        trainer.run.draw = lambda *_: None
    return trainer


def reduced(name):
    """Settings that make any recipe tiny, beside a checkpoint for those that start from one."""
    config = recipe(name)
    if config.init and "stage2" not in name:
        return [*QUICK, "steps=2", "init=mask2former_road"]
    backbone = config.model.partition("_")[2]
    small = SMALL_BACKBONES["swin" if backbone.startswith("swin") else backbone]
    decoders = [one for one in SMALL_DECODERS if "decoder_layers" not in one]
    return [*QUICK, "steps=2", *decoders, *small]
