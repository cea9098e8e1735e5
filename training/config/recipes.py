"""Recipes: training configurations by name.

- ``road_pair``: the bundled road pair, a KAN and an MLP head on one trunk, at a constant rate;
  ``road_pair_end``: its branch with a falling one; ``road_pair_outliers``: with natural outliers.
- ``camvid_kan``, ``camvid_mlp``: differ in the mask head only; a float16 checkpoint is under 8 MB,
  a run about an hour on two cores.
- ``thesis_<backbone>_<kan|mlp>``: the thesis's section 3.2 on Cityscapes, with one decoder layer as
  its code trained (``DEC_LAYERS: 2`` counts the learnable queries); ``…_9`` with nine.
- ``mask2former_<backbone>``, ``mask2former_ade20k_<backbone>``: Cheng et al., CVPR 2022.
- ``mask2anomaly_<backbone>_stage1``, ``…_stage2``: Rai et al., ICCV 2023: masks first, then outlier
  exposure with the contrastive loss.
- ``finetune``: any checkpoint to one's own classes.
- ``head_only_kan``, ``head_only_mlp``: only ``mask_embed`` and ``class_embed`` of a checkpoint.
- ``distill_kan``: a KAN head taught by a checkpoint's MLP head, from images alone.

The thesis gives no λ1, λ2, margin or outlier data. Here λ1 is 1e-5 (a fresh [256, 256, 256] KAN's
regularisation is about 22: a nudge); λ2 and the margin are Mask2Anomaly's 1. Clipping, weights,
points and schedule are Mask2Former's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from mask2kan.errors import ConfigError, unknown

from ..data.augmentation import Augmentation
from ..data.outliers import OutlierExposure
from .choices import BACKBONES
from .train_config import TrainConfig


def camvid_mlp() -> TrainConfig:
    """A small Mask2Former on CamVid: MobileNetV2 and an MLP mask head."""
    return TrainConfig(
        name="camvid_mlp",
        model="mask2former_mobilenetv2",
        model_options={
            "mask_embed": "mlp",
            "num_queries": 40,
            "hidden_dim": 128,
            "num_heads": 4,
            "num_encoder_layers": 3,
            "encoder_feedforward_dim": 512,
            "num_decoder_layers": 3,
            "decoder_feedforward_dim": 512,
        },
        pretrained_backbone="backbones/mobilenet_v2_imagenet.safetensors",
        regularization_weight=1e-6,
        grid_update_steps=(100, 300),
    )


def camvid_kan() -> TrainConfig:
    """``camvid_mlp`` with the KAN mask head: a small Mask2KAN."""
    mlp = camvid_mlp()
    return dataclasses.replace(
        mlp,
        name="camvid_kan",
        model="mask2kan_mobilenetv2",
        model_options={**mlp.model_options, "mask_embed": "kan"},
    )


ROAD_DATA = "6 cityscapes256 + 1 cityscapes_clips + 2 camvid + 0.3 rendered_street"


def road_pair() -> TrainConfig:
    """A small Mask2KAN and a small Mask2Former of Cityscapes' classes on one trunk.

    Unlike the thesis's, whose splines stayed idle, the KAN's have no scaler, learn faster and
    without decay and start larger, its base branch starts smaller, and a bias serves as the
    constant.
    """
    return TrainConfig(
        name="road_pair",
        model="mask2kan_efficientnet_lite0",
        model_options={
            **camvid_mlp().model_options,
            "mask_embed": "kan",
            "grid_range": (-2.5, 2.5),
            "standalone_spline_scale": False,
            "scale_noise": 0.5,
            "scale_base": 2.0,
            "kan_bias": True,
        },
        heads=("kan", "mlp"),
        pretrained_backbone="backbones/tf_efficientnet_lite0_imagenet.safetensors",
        data=ROAD_DATA,
        augmentation=Augmentation(crop=(256, 512), scale=(0.75, 2.25), relative_to="crop"),
        steps=1_000_000,
        schedule="constant",
        warmup_steps=200,
        spline_factor=2.0,
        decay_splines=False,
        grid_update_steps=(200, 500, 1000, 2000, 4000, 8000),
        average_decay=0.998,
        batch_norm_batches=0,
        eval_every=500,
        eval_pictures=40,
        save_minutes=10.0,
    )


def road_pair_end() -> TrainConfig:
    """The end of a ``road_pair`` run: a branch of it (``--branch-of``) with a falling rate."""
    return dataclasses.replace(
        road_pair(),
        name="road_pair_end",
        steps=500,
        schedule="falling",
        warmup_steps=0,
        grid_update_steps=(),
        eval_every=500,
        eval_pictures=0,
        seed=1,
    )


# DAVIS's sequences that show people, who are a class
WITH_PEOPLE = (
    *("soapbox", "stroller", "soccerball", "paragliding-launch", "kite-surf"),
    *("horsejump-low", "horsejump-high"),
)


def road_pair_outliers() -> TrainConfig:
    """``road_pair_end`` with natural objects on the ground, marked as outliers."""
    return dataclasses.replace(
        road_pair_end(),
        name="road_pair_outliers",
        outliers=OutlierExposure(
            source="cutouts:cutouts",
            probability=0.3,
            feather=1.0,
            ground=("road", "sidewalk", "terrain"),
            without=WITH_PEOPLE,
        ),
        contrastive_weight=0.5,
    )


def mask2former(backbone: str) -> TrainConfig:
    """Mask2Former's Cityscapes recipe: batch 16, crops of 512×1024, 90,000 steps.

    Departs from it: scales from the whole interval, not 16 steps, and colours by
    ``Augmentation.colour``, not SSD's distortion, which also turns the hue.
    """
    return TrainConfig(
        name=f"mask2former_{backbone}",
        model=f"mask2former_{backbone}",
        pretrained_backbone="timm",
        data="cityscapes",
        augmentation=Augmentation(
            crop=(512, 1024),
            scale=(0.5, 2.0),
            distribution="linear",
            max_class_share=1.0,
            class_focus=0.0,
        ),
        batch_size=16,
        steps=90_000,
        lr=1e-4,
        backbone_factor=0.1,
        warmup_steps=0,
        num_points=12_544,
        average_decay=0.0,
        batch_norm_batches=0,
        eval_every=5000,
        eval_pictures=0,
        save_minutes=15.0,
        workers=4,
    )


def mask2former_ade20k(backbone: str) -> TrainConfig:
    """Mask2Former's ADE20K recipe: crops of 512×512 (640 for Swin-B and L), 160,000 steps.

    Batch norms are frozen there (detectron2's default).
    """
    side = 640 if backbone in ("swin_b", "swin_l") else 512
    base = mask2former(backbone)
    return dataclasses.replace(
        base,
        name=f"mask2former_ade20k_{backbone}",
        data="ade20k",
        augmentation=dataclasses.replace(
            base.augmentation, crop=(side, side), relative_to="short_side"
        ),
        train_batch_norm=False,
        steps=160_000,
    )


def thesis(backbone: str, head: str, layers: int = 1) -> TrainConfig:
    """The thesis's section 3.2: frozen backbone, batch 8, crops of 340×680, scales 0.1 to 2.0."""
    base = mask2former(backbone)
    family = {"kan": "mask2kan", "mlp": "mask2former"}[head]
    return dataclasses.replace(
        base,
        name=f"thesis_{backbone}_{head}" + ("" if layers == 1 else f"_{layers}"),
        model=f"{family}_{backbone}",
        model_options={"mask_embed": head, "num_decoder_layers": layers},
        trainable="frozen_backbone",
        augmentation=dataclasses.replace(
            base.augmentation, crop=(340, 680), scale=(0.1, 2.0), relative_to="crop"
        ),
        batch_size=8,
        regularization_weight=1e-5,
        grid_update_steps=(500, 2000),
    )


def mask2anomaly_stage1(backbone: str) -> TrainConfig:
    """Mask2Anomaly's first stage: global masked attention, frozen backbone, crops of 380×760."""
    base = mask2former(backbone)
    return dataclasses.replace(
        base,
        name=f"mask2anomaly_{backbone}_stage1",
        model=f"mask2anomaly_{backbone}",
        trainable="frozen_backbone",
        augmentation=dataclasses.replace(base.augmentation, crop=(380, 760)),
    )


def mask2anomaly_stage2(backbone: str) -> TrainConfig:
    """Mask2Anomaly's second stage: 5,000 steps of outlier exposure from the first's checkpoint.

    The default is well-posed; ``--set contrastive_form=published`` repeats their code.
    """
    first = mask2anomaly_stage1(backbone)
    return dataclasses.replace(
        first,
        name=f"mask2anomaly_{backbone}_stage2",
        init=f"runs/{first.name}/last.safetensors",
        pretrained_backbone="",
        outliers=OutlierExposure(source="coco:coco"),
        batch_size=8,
        steps=5000,
        lr=1e-5,
        eval_every=500,
    )


def head_only(head: str) -> TrainConfig:
    """Only ``mask_embed``, made anew, and ``class_embed`` of a checkpoint; see ``--init``.

    The trunk's features are cached, so a head takes minutes. RbA's protocol (Nayal et al., ICCV
    2023).
    """
    return TrainConfig(
        name=f"head_only_{head}",
        model="mask2kan_swin_t",
        model_options={"mask_embed": head},
        init="mask2former_road",
        fresh=("mask_embed",),
        trainable="heads",
        views=2,
        augmentation=Augmentation(colour=0.0),
        steps=1000,
        lr=1e-3,
        average_decay=0.99,
        grid_update_steps=(20,),
        batch_norm_batches=0,
        train_batch_norm=False,
        regularization_weight=1e-6,
    )


def finetune() -> TrainConfig:
    """A checkpoint, all of it at small rates, to the data's classes; see ``--init``.

    ``class_embed`` is made anew where the classes differ. Batch norms stay as they are, since few
    images say little about statistics, and so do the KAN's grids.
    """
    return TrainConfig(
        name="finetune",
        model="mask2kan_efficientnet_lite0",
        init="mask2kan_road",
        own_classes=True,
        steps=1000,
        lr=1e-4,
        backbone_factor=0.1,
        average_decay=0.99,
        batch_norm_batches=0,
        train_batch_norm=False,
    )


def distill_kan() -> TrainConfig:
    """A KAN head taught to answer as the checkpoint's own, from images without labels."""
    return dataclasses.replace(
        head_only("kan"),
        name="distill_kan",
        objective="distillation",
        grid_update_steps=(1, 100),
        clip_norm=1.0,
        lr=3e-3,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "camvid_kan": camvid_kan,
    "camvid_mlp": camvid_mlp,
    "distill_kan": distill_kan,
    "finetune": finetune,
    "road_pair": road_pair,
    "road_pair_end": road_pair_end,
    "road_pair_outliers": road_pair_outliers,
    **{f"head_only_{head}": partial(head_only, head) for head in ("kan", "mlp")},
    **{
        f"thesis_{backbone}_{head}{suffix}": partial(thesis, backbone, head, layers)
        for backbone in BACKBONES
        for head in ("kan", "mlp")
        for suffix, layers in (("", 1), ("_9", 9))
    },
    **{
        f"{name}_{backbone}": partial(make, backbone)
        for name, make in (("mask2former", mask2former), ("mask2former_ade20k", mask2former_ade20k))
        for backbone in BACKBONES
    },
    **{
        f"mask2anomaly_{backbone}_{stage}": partial(make, backbone)
        for stage, make in (("stage1", mask2anomaly_stage1), ("stage2", mask2anomaly_stage2))
        for backbone in BACKBONES
    },
}


def recipe(name: str) -> TrainConfig:
    """Return a recipe by name.

    Raises:
        ConfigError: for an unknown name, listing the nearest.
    """
    if name not in RECIPES:
        raise ConfigError(unknown("recipe", name, RECIPES))
    return RECIPES[name]()
