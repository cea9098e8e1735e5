"""Names a command line may hold, known without PyTorch: a mistyped one is refused at once."""

from __future__ import annotations

BACKBONES = ("r50", "swin_t", "swin_s", "swin_b", "swin_l")
TRACKERS = ("tensorboard", "wandb", "trackio")
RECIPE_NAMES = (
    *("camvid_kan", "camvid_mlp", "finetune", "distill_kan"),
    *("road_pair", "road_pair_end", "road_pair_outliers", "head_only_kan", "head_only_mlp"),
    *(
        f"thesis_{backbone}_{head}{suffix}"
        for backbone in BACKBONES
        for head in ("kan", "mlp")
        for suffix in ("", "_9")
    ),
    *(
        f"{family}_{backbone}"
        for family in ("mask2former", "mask2former_ade20k")
        for backbone in BACKBONES
    ),
    *(
        f"mask2anomaly_{backbone}_{stage}"
        for backbone in BACKBONES
        for stage in ("stage1", "stage2")
    ),
)
