"""Backbones against timm, and starting them from published weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from mask2kan.errors import CheckpointError
from mask2kan.modeling.backbones import build_backbone, load_pretrained_backbone
from mask2kan.modeling.backbones.pretrained import _from_timm_swin
from mask2kan.modeling.backbones.swin import shift_mask
from mask2kan.modeling.config import model_config

SMALL_SWIN = {
    "backbone_depths": (2, 2, 2, 2),
    "backbone_width": 24,
    "backbone_num_heads": (1, 2, 3, 4),
}


@pytest.mark.parametrize("size", [(224, 224), (448, 224)])
def test_swin_is_timms_where_every_map_is_a_multiple_of_the_window(size: tuple[int, int]) -> None:
    """There the order of padding and rolling makes no difference."""
    config = model_config("mask2kan_swin_t", **SMALL_SWIN)
    ours, _ = build_backbone(config)
    theirs = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=size,
        embed_dim=24,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 3, 4),
        always_partition=True,
        num_classes=0,
    )
    state = {_from_timm_swin(key): value for key, value in theirs.state_dict().items()}
    own = {key: value for key, value in state.items() if key in ours.state_dict()}
    assert set(ours.state_dict()) - set(own) == {
        f"norm{stage}.{leaf}" for stage in range(4) for leaf in ("weight", "bias")
    }
    ours.load_state_dict(own, strict=False)
    ours.eval(), theirs.eval()
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, intermediates_only=True)
        actual = ours(images)
    for stage, (a, b) in enumerate(zip(actual, expected, strict=True)):
        norm = getattr(ours, f"norm{stage}")
        b = norm(b.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_shift_mask_separates_exactly_what_the_roll_joined() -> None:
    """Brute force: two tokens may look at each other if they were neighbours before the roll."""
    height, width, window, shift = 9, 14, 4, 2
    rows, columns = 12, 16
    y = torch.arange(rows).roll(-shift).tolist()
    x = torch.arange(columns).roll(-shift).tolist()
    mask = shift_mask(height, width, window, torch.device("cpu")).tolist()
    for index in range(len(mask)):
        top, left = index // (columns // window) * window, index % (columns // window) * window
        tokens = [(y[top + i], x[left + j]) for i in range(window) for j in range(window)]
        for a, (ya, xa) in enumerate(tokens):
            for b, (yb, xb) in enumerate(tokens):
                together = abs(ya - yb) < window and abs(xa - xb) < window
                assert (mask[index][a][b] == 0) == together


def test_swin_shifts_even_maps_smaller_than_the_window() -> None:
    """A map of one window still mixes through the shift: the reference does so, timm does not."""
    config = model_config("mask2kan_swin_t", **SMALL_SWIN)
    backbone, channels = build_backbone(config)
    with torch.inference_mode():
        maps = backbone.eval()(torch.randn(1, 3, 96, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 96 // s, 64 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", ["mobilenetv2", "r50", "swin_t"])
def test_strides_and_channels(name: str) -> None:
    backbone, channels = build_backbone(model_config(f"mask2former_{name}"))
    with torch.inference_mode():
        maps = backbone.eval()(torch.randn(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == channels
    assert [tuple(m.shape[2:]) for m in maps] == [(64 // s, 96 // s) for s in (4, 8, 16, 32)]


def test_mobilenet_starts_from_the_published_weights(shared: Path) -> None:
    """The network recognises roads: its features separate images better than random ones do."""
    config = model_config("mask2kan_mobilenetv2")
    backbone, _ = build_backbone(config)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    load_pretrained_backbone(
        backbone, config, shared / "data/backbones/mobilenet_v2_imagenet.safetensors"
    )
    changed = [
        key
        for key, value in backbone.state_dict().items()
        if key.endswith("weight") and value.dim() > 1 and not torch.equal(value, before[key])
    ]
    assert len(changed) == sum(value.dim() > 1 for value in before.values())


def test_another_backbones_weights_are_refused(tmp_path: Path) -> None:
    resnet = timm.create_model("resnet18")
    save_file(resnet.state_dict(), tmp_path / "resnet18.safetensors")
    config = model_config("mask2kan_r50", backbone_depths=(1, 1, 1, 1), backbone_width=8)
    backbone, _ = build_backbone(config)
    with pytest.raises(CheckpointError, match="does not fit backbone r50"):
        load_pretrained_backbone(backbone, config, tmp_path / "resnet18.safetensors")


def test_a_missing_or_broken_file_says_so(tmp_path: Path) -> None:
    config = model_config("mask2kan_r50")
    backbone, _ = build_backbone(config)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_pretrained_backbone(backbone, config, tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="Can't read"):
        load_pretrained_backbone(backbone, config, tmp_path / "broken.safetensors")


def test_efficientnet_lite0_is_timms() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    ours, channels = build_backbone(model_config("mask2kan_efficientnet_lite0"))
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 70, 99)
    with torch.no_grad():
        expected, actual = theirs(images)[1:], ours.eval()(images)
    assert channels == [part.shape[1] for part in actual] == [24, 40, 112, 320]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_efficientnet_lite0_also_builds_tiny() -> None:
    sizes = {"backbone_width": 8, "backbone_depths": (1,) * 7}
    ours, channels = build_backbone(model_config("mask2kan_efficientnet_lite0", **sizes))
    maps = ours.eval()(torch.randn(1, 3, 64, 64))
    assert [part.shape[1] for part in maps] == channels
    assert sum(part.numel() for part in ours.parameters()) < 500_000
