"""Heads alone, distillation, outliers: what learns, what stays, what kept features save."""

from __future__ import annotations

import pytest
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from mask2kan import create_model, load_model
from mask2kan.checkpoints import save_model
from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import CAMVID, CITYSCAPES
from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.heads import MLP
from mask2kan.modeling.kan.layers import KAN
from tests.tiny_models import BACKBONES, TINY
from tests.tiny_runs import QUICK, tiny_trainer
from training.config.recipes import recipe
from training.config.train_config import override
from training.engine.trainer import Trainer
from training.models.build import equal_width, head_parameters
from training.objectives.criterion import SetCriterion
from training.objectives.objective import SegmentationObjective
from training.objectives.trunk_cache import TrunkCache

HEADS = ("transformer_decoder.mask_embed.", "transformer_decoder.class_embed.")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint as transformers writes it: random weights, 11 classes."""
    torch.manual_seed(0)
    backbone = SwinConfig(
        embed_dim=24,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=11,
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        dim_feedforward=32,
        decoder_layers=3,
        num_attention_heads=4,
        num_queries=12,
    )
    folder = tmp_path_factory.mktemp("published")
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder


def _head_only(folder, checkpoint, *settings, name="head_only_kan"):
    config = override(recipe(name), [*QUICK, f"init={checkpoint}", *settings])
    return Trainer(config, folder, progress=False)


def test_only_the_two_heads_change(tmp_path, published):
    before = load_model(published, device="cpu").state_dict()
    trainer = _head_only(tmp_path, published, "steps=3", "eval_every=3", "eval_pictures=1")
    start = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.fit()
    after = trainer.model.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, start[key])}
    assert changed
    assert all(key.startswith(HEADS) for key in changed)
    trunk = [key for key in after if not key.startswith(HEADS)]
    assert all(torch.equal(after[key], before[key]) for key in trunk)
    assert {key.split(".")[1] for key in changed} == {"mask_embed", "class_embed"}
    loaded = load_model(tmp_path / "last.safetensors", device="cpu")
    assert isinstance(loaded.transformer_decoder.mask_embed, KAN)
    assert loaded.config.family == "mask2kan"


def test_kept_features_give_the_steps_that_computed_ones_give(tmp_path, published):
    settings = ["steps=4", "eval_every=4", "eval_pictures=1", "views=1", "grid_update_steps=()"]
    kept = _head_only(tmp_path / "kept", published, *settings)
    kept.fit()
    assert kept.objective.trunk.misses == 8
    plain = _head_only(tmp_path / "plain", published, *settings, "cache_gigabytes=0.0")
    plain.fit()
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, kept.model.state_dict()[key])


def test_a_crop_seen_again_is_read_and_equals_what_was_computed(published):
    model = load_model(published, device="cpu")
    images = torch.rand(2, 3, 64, 96)
    cache = TrunkCache(model, 1.0)
    first = cache(images, [4, 9])
    again = cache(torch.zeros_like(images), [4, 9])
    assert cache.misses == 2
    assert torch.equal(first.mask_features, again.mask_features)
    mask_features, levels = model.trunk(images)
    # float16 keeps 11 bits
    torch.testing.assert_close(first.mask_features, mask_features, rtol=1e-3, atol=1e-3)
    for found, expected in zip(first.levels, levels, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    reversed_order = cache(images, [9, 4])
    assert torch.equal(reversed_order.mask_features, first.mask_features.flip(0))


def test_what_does_not_fit_is_computed_every_time(published):
    model = load_model(published, device="cpu")
    images = torch.rand(3, 3, 64, 64)
    mask_features, levels = model.trunk(images[:1])
    one = 2 * sum(part.numel() for part in [*levels, mask_features])
    cache = TrunkCache(model, 2.5 * one / 1e9)
    first = cache(images, [0, 1, 2])
    assert torch.equal(cache(images, [0, 1, 2]).mask_features, first.mask_features)
    assert cache.misses == 4


def test_an_mlp_of_equal_size():
    kan = create_model("mask2kan_mobilenetv2", **TINY, **BACKBONES["mobilenetv2"]).config
    width = equal_width(kan)
    mlp = create_model(
        "mask2former_mobilenetv2", **TINY, **BACKBONES["mobilenetv2"], mask_embed_width=width
    )
    head = mlp.transformer_decoder.mask_embed
    assert isinstance(head, MLP)
    count = sum(parameter.numel() for parameter in head.parameters())
    assert count == pytest.approx(head_parameters(kan), rel=0.02)
    full = create_model("mask2kan_swin_t", backbone_depths=(1, 1, 1, 1)).config
    assert head_parameters(full) == 1_310_720
    assert equal_width(full) == 916


def test_a_wider_head_is_saved_and_loaded(tmp_path):
    model = create_model(
        "mask2former_mobilenetv2", **TINY, **BACKBONES["mobilenetv2"], mask_embed_width=40
    )
    save_model(model, tmp_path / "wide.safetensors")
    loaded = load_model(tmp_path / "wide.safetensors", device="cpu")
    assert loaded.transformer_decoder.mask_embed.layers[0].weight.shape == (40, 32)


def test_distillation_learns_the_old_head_from_images_alone(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    from PIL import Image

    from training.data import SyntheticStreets

    images = SyntheticStreets("train", 12)
    for index, name in enumerate(images.names):
        Image.fromarray(images.arrays(index)[0]).save(folder / f"{name}.png")
    settings = [f"data=pictures:{folder}", "steps=20", "eval_every=20", "eval_pictures=1"]
    settings += ["lr=3e-3", "grid_update_steps=(1,)"]
    trainer = _head_only(tmp_path / "run", "mask2former_road", *settings, name="distill_kan")
    start = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    errors = []
    update = trainer._update
    trainer._update = lambda batch: errors.append(update(batch)) or errors[-1]
    trainer.fit()
    first, last = errors[0]["relative_error"].item(), errors[-1]["relative_error"].item()
    assert first > 0.5
    assert last < 0.4 * first
    changed = {
        key
        for key, value in trainer.model.state_dict().items()
        if not torch.equal(value, start[key])
    }
    assert all(".mask_embed." in key for key in changed)
    assert isinstance(trainer.model.transformer_decoder.mask_embed, KAN)


def test_the_distillation_loss_is_the_squared_error_of_the_masks(tmp_path):
    trainer = _head_only(tmp_path, "mask2former_road", "steps=1", name="distill_kan")
    batch = next(trainer._batches())
    objective = trainer.objective
    with torch.no_grad():
        losses, (queries,) = objective(batch)
        features = objective.trunk(batch["images"], batch["views"])
        mask_features = features.mask_features
        states = objective.teacher.transformer_decoder.refine(features)
        expected = torch.stack([embeddings for _, embeddings in states])
        student = trainer.model.transformer_decoder.mask_embed(queries)
        masks = [torch.einsum("sbqc,bchw->sbqhw", e, mask_features) for e in (student, expected)]
    direct = (masks[0] - masks[1]).square().mean() / masks[1].square().mean()
    torch.testing.assert_close(losses["relative_error"], direct, rtol=1e-3, atol=0)


def test_the_contrastive_term_joins_where_outliers_are_pasted(tmp_path):
    exposure = [
        "outliers.source=procedural",
        "outliers.probability=1.0",
        "outliers.scale=(0.3,0.6)",
    ]
    trainer = tiny_trainer(tmp_path, *exposure, "steps=1", "regularization_weight=0.0")
    losses = trainer.objective(next(trainer._batches())).losses
    assert losses["loss_contrastive"] > 0
    weighted = sum(
        {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}[key.removesuffix("_0")] * value
        for key, value in losses.items()
        if key not in ("loss", "loss_contrastive")
    )
    torch.testing.assert_close(losses["loss"], weighted + losses["loss_contrastive"])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("head_only_kan", ["init="], "name it with --init"),
        ("head_only_kan", ["fresh=()"], "add mask_embed to fresh"),
        (
            "head_only_kan",
            ["data=synthetic:ade20k"],
            "only mask2former_road has traffic sign, .*own_classes=true",
        ),
        (
            "camvid_kan",
            ["model.class_names=road,car"],
            "only synthetic has sky, .*class_names=none",
        ),
        ("camvid_kan", ["data=pictures:/tmp"], "has no labels"),
        (
            "camvid_kan",
            ["pretrained_backbone=gone.pth"],
            "pretrained_backbone=timm.*none for random",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(name, settings, message, tmp_path):
    config = override(recipe(name), [*QUICK, *settings])
    with pytest.raises(ConfigError, match=message):
        Trainer(config, tmp_path, progress=False)


def test_another_label_set_gets_a_class_head_of_its_own(tmp_path):
    settings = ["data=synthetic:ade20k", "fresh=('mask_embed', 'class_embed')", "steps=1"]
    settings += ["eval_every=1", "eval_pictures=1"]
    trainer = _head_only(tmp_path, "mask2former_road", *settings)
    trainer.fit()
    assert load_model(tmp_path / "last.safetensors", device="cpu").class_names[0] == "wall"


def test_a_head_of_finer_classes_learns_from_coarser_labels(tmp_path):
    settings = ["data=synthetic", "steps=1", "eval_every=1", "eval_pictures=1"]
    trainer = _head_only(tmp_path, "mask2former_road", *settings)
    assert trainer.train_images.class_names == tuple(CITYSCAPES)
    trainer.fit()
    assert trainer._last_validation[""].confusion.shape == (len(CAMVID), len(CAMVID))


def test_every_crop_goes_through_the_trunk_once_however_long_the_run_is(tmp_path, published):
    settings = ["steps=12", "batch_size=16", "views=1", "eval_every=12", "eval_pictures=1"]
    trainer = _head_only(tmp_path, published, *settings)
    trainer.fit()
    assert trainer.objective.trunk.misses == len(trainer.train_images) < 12 * 16


class _Painted(torch.nn.Module):
    """In a model's place: masks that are exactly the truth, over the padded image."""

    def __init__(self, labels):
        super().__init__()
        self.config = ModelConfig(num_classes=11)
        frame = torch.full((2, 64, 96), 255)
        frame[:, :40, :80] = labels
        quarter = frame[:, 2::4, 2::4]
        classes = torch.arange(10)
        self.masks = torch.where(quarter[:, None] == classes[:, None, None], 30.0, -30.0)
        self.logits = torch.nn.functional.one_hot(classes, 12).float() * 60
        self.transformer_decoder = torch.nn.Module()
        self.transformer_decoder.mask_embed = torch.nn.Identity()

    def forward(self, images):
        return {
            "pred_masks": self.masks.requires_grad_(),
            "pred_logits": self.logits.expand(2, -1, -1),
            "queries": torch.zeros(2, 10, 1),
            "aux_outputs": [],
        }


@pytest.mark.parametrize("form", ["published", "well_posed"])
def test_masks_and_truth_lie_on_each_other_where_a_crop_is_padded(form):
    """A crop of 40×80 is computed as 64×96; the truth in the same frame costs next to nothing."""
    labels = torch.arange(10).repeat_interleave(8).expand(2, 40, 80)  # stripes
    settings = ["outliers.source=procedural", f"contrastive_form={form}"]
    config = override(recipe("camvid_mlp"), settings)
    objective = SegmentationObjective(_Painted(labels), config, None)
    objective.criterion = SetCriterion(11, num_points=2000, importance_ratio=0.0)
    images = torch.zeros(2, 3, 40, 80)
    losses, _ = objective({"images": images, "labels": labels, "numbers": [0, 1]})
    assert losses["loss_ce"] < 1e-5
    assert losses["loss_dice"] < 0.15  # stripes two mask pixels wide, with soft borders
    likelihood_of_known = 1.0 if form == "published" else 0.0  # what is pushed to 0
    expected = pytest.approx(0.5 * likelihood_of_known, abs=0.1)
    assert losses["loss_contrastive"].item() == expected
