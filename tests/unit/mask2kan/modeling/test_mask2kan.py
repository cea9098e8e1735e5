"""The assembled model: names, output contract, padding, and the parts against references."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mask2kan
from mask2kan.errors import ConfigError
from mask2kan.modeling.config import ModelConfig, model_config
from mask2kan.modeling.position_encoding import sine_position_encoding
from mask2kan.modeling.transformer_decoder import Attention, GlobalMaskedAttention, MaskedAttention

TINY = {
    "hidden_dim": 32,
    "num_heads": 4,
    "num_queries": 7,
    "num_classes": 5,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "encoder_feedforward_dim": 48,
    "decoder_feedforward_dim": 40,
}
TINY_BACKBONE = {
    "efficientnet_lite0": {"backbone_depths": (1,) * 7},
    "mobilenetv2": {"backbone_depths": (1,) * 7},
    "r50": {"backbone_depths": (1, 1, 1, 1), "backbone_width": 8},
    "swin": {
        "backbone_depths": (2, 1, 1, 1),
        "backbone_width": 16,
        "backbone_num_heads": (1, 2, 2, 4),
    },
}


def tiny(name: str, **overrides: object) -> nn.Module:
    backbone = "swin" if "swin" in name else name.partition("_")[2]
    return mask2kan.create_model(name, **{**TINY, **TINY_BACKBONE[backbone], **overrides}).eval()


@pytest.mark.parametrize("name", mask2kan.list_models())
def test_every_name_keeps_the_output_contract(name: str) -> None:
    model = tiny(name)
    with torch.inference_mode():
        out = model(torch.rand(2, 3, 50, 70))
    assert out["pred_logits"].shape == (2, 7, 6)
    assert out["pred_masks"].shape == (2, 7, 16, 24)  # ceil32 of 50 x 70, a quarter of it
    assert len(out["aux_outputs"]) == 2
    assert torch.isfinite(out["pred_masks"]).all()
    for aux in out["aux_outputs"]:
        assert aux["pred_masks"].shape == (2, 7, 16, 24)


def test_families_differ_only_where_they_should() -> None:
    keys = {
        family: set(tiny(f"{family}_r50").state_dict())
        for family in ("mask2kan", "mask2former", "mask2anomaly")
    }
    kan_only = keys["mask2kan"] - keys["mask2former"]
    assert kan_only
    assert all("mask_embed" in key for key in kan_only)
    assert set(keys["mask2anomaly"] ^ keys["mask2former"]) == {
        f"transformer_decoder.layers.{layer}.cross_attn.background.{leaf}"
        for layer in (0, 1)
        for leaf in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    }


def test_the_head_has_the_size_the_thesis_states() -> None:
    """Two KAN layers [256, 256, 256]: 6.6 times the three-layer MLP."""
    sizes = {
        head: sum(
            p.numel()
            for p in mask2kan.create_model(
                f"{head}_mobilenetv2"
            ).transformer_decoder.mask_embed.parameters()
        )
        for head in ("mask2kan", "mask2former")
    }
    assert sizes == {"mask2kan": 1_310_720, "mask2former": 197_376}


def test_zeros_after_normalising_are_what_the_model_pads_with() -> None:
    model = tiny("mask2former_r50")
    image = torch.rand(1, 3, 40, 60)
    mean = model.pixel_mean.expand(3, 64, 64).clone()[None]
    mean[..., :40, :60] = image
    with torch.inference_mode():
        padded_by_model, padded_by_hand = model(image), model(mean)
    torch.testing.assert_close(padded_by_model["pred_masks"], padded_by_hand["pred_masks"])


def test_without_aux_the_last_prediction_is_the_same() -> None:
    model = tiny("mask2kan_swin_t")
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        full, lean = model(image), model(image, with_aux=False)
    assert lean["aux_outputs"] == []
    assert torch.equal(full["pred_masks"], lean["pred_masks"])


def test_no_decoder_layers_predicts_from_the_learnable_queries() -> None:
    out = tiny("mask2kan_r50", num_decoder_layers=0)(torch.rand(1, 3, 64, 64))
    assert out["pred_logits"].shape == (1, 7, 6)
    assert out["aux_outputs"] == []


def test_every_parameter_learns() -> None:
    model = tiny("mask2anomaly_r50").train()
    out = model(torch.rand(2, 3, 64, 64))
    outputs = [out, *out["aux_outputs"]]
    sum(
        o["pred_masks"].square().mean() + o["pred_logits"].square().mean() for o in outputs
    ).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert idle == []


def test_attention_is_torchs() -> None:
    ours, theirs = Attention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 9, 32), torch.randn(2, 9, 32)
    allowed = torch.rand(2, 5, 9) > 0.4
    allowed[..., 0] = True
    blocked = ~allowed.repeat_interleave(4, dim=0)
    expected = theirs(query, key, value, attn_mask=blocked)[0]
    torch.testing.assert_close(ours(query, key, value, allowed), expected, rtol=1e-5, atol=1e-6)


def test_a_query_with_an_empty_mask_looks_everywhere() -> None:
    layer = MaskedAttention(32, 4)
    query, memory = torch.randn(1, 3, 32), torch.randn(1, 6, 32)
    logits = torch.randn(1, 3, 6)
    logits[0, 1] = -5.0
    masked = layer(query, memory, memory, logits)
    assert torch.isfinite(masked).all()
    everywhere = layer.foreground(query, memory, memory)
    torch.testing.assert_close(masked[:, 1], everywhere[:, 1])


def test_global_attention_sums_inside_and_outside() -> None:
    layer = GlobalMaskedAttention(32, 4)
    query, memory, logits = torch.randn(1, 3, 32), torch.randn(1, 6, 32), torch.randn(1, 3, 6)
    logits[..., 0], logits[..., 1] = 1.0, -1.0  # neither side empty
    expected = layer.foreground(query, memory, memory, logits > 0) + layer.background(
        query, memory, memory, logits < 0
    )
    torch.testing.assert_close(layer(query, memory, memory, logits), expected)


def test_position_encoding_is_the_papers_formula() -> None:
    height, width, channels = 3, 5, 8
    encoding = sine_position_encoding(height, width, channels, torch.device("cpu"))
    encoding = encoding.view(height, width, channels)
    two_pi = 2 * torch.pi
    for y in range(height):
        for x in range(width):
            for half, (position, length) in enumerate(((y, height), (x, width))):
                for i in range(channels // 2):
                    angle = (
                        (position + 1) / length * two_pi / 10000 ** (2 * (i // 2) / (channels // 2))
                    )
                    wave = torch.sin if i % 2 == 0 else torch.cos
                    expected = wave(torch.tensor(angle))
                    assert encoding[y, x, half * channels // 2 + i] == pytest.approx(
                        expected.item(), abs=1e-5
                    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"mask_embed": "kann"}, "Nearest: kan"),
        ({"num_querys": 3}, "Nearest: num_queries"),
        ({"hidden_dim": 100, "num_heads": 8}, "multiple of"),
        ({"num_classes": 3, "class_names": ("a", "b")}, "2 entries for num_classes=3"),
        ({"backbone_depths": (1, 1)}, "has 2 entries"),
        ({"num_queries": 0}, "at least 1"),
    ],
)
def test_bad_options_name_what_is_wrong(override: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mask2kan.create_model("mask2kan_r50", **override)


def test_unknown_model_lists_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Nearest: .*mask2kan_swin_t"):
        mask2kan.create_model("mask2kan_swin")


def test_configuration_survives_json() -> None:
    import json

    config = model_config("mask2anomaly_swin_b", num_classes=3, class_names=("a", "b", "c"))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("name", "changes", "family"),
    [
        ("mask2kan_r50", {}, "mask2kan"),
        ("mask2kan_r50", {"mask_embed": "mlp"}, "mask2former"),
        ("mask2kan_r50", {"mask_embed": "mlp", "masked_attention": "global"}, "mask2anomaly"),
        ("mask2anomaly_r50", {"masked_attention": "foreground"}, "mask2former"),
        ("mask2anomaly_r50", {"mask_embed": "kan"}, "mask2kan"),
        ("mask2former_r50", {"mask_embed": "kan", "family": "mask2kan"}, "mask2kan"),
    ],
)
def test_the_family_is_what_the_model_is(name, changes, family) -> None:
    config = model_config(name, **changes)
    assert config.family == config.to_dict()["family"] == family
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_a_family_against_the_other_fields_is_refused() -> None:
    for changes in ({"family": "mask2former"}, {"family": "mask2kan", "mask_embed": "mlp"}):
        with pytest.raises(ConfigError, match=r"family is 'mask2.*'.*make a mask2.*leave family"):
            mask2kan.create_model("mask2kan_r50", **changes)
