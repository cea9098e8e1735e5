"""Checkpoints in the originals' layouts give the originals' answers (see the golden files)."""

from __future__ import annotations

import importlib.util
import json
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mask2kan.checkpoints import load_model, open_checkpoint

NAMES = ("detectron2_r50_mlp", "detectron2_swin_t_kan", "detectron2_r50_mask2anomaly")
# What float32 allows: sums run in another order here. The files' logits span about +-15.
LOGIT_TOLERANCE = 5e-3
SCORE_TOLERANCE = 1e-3


def golden_rules(shared):
    """The module that rebuilds weights and input from names and shapes."""
    path = shared / "golden" / "deterministic_weights.py"
    spec = importlib.util.spec_from_file_location("deterministic_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def relative_position_index(tokens):
    """Row of the bias table for each pair of tokens in a window, as Swin defines it."""
    window = int(tokens**0.5)
    rows, columns = np.divmod(np.arange(tokens), window)
    return (rows[:, None] - rows[None] + window - 1) * (2 * window - 1) + (
        columns[:, None] - columns[None] + window - 1
    )


def rebuild(shared, golden):
    """The checkpoint's arrays by their original names."""
    rules = golden_rules(shared)
    state = {}
    for key, shape in json.loads(str(golden["shapes"])).items():
        if key.endswith(".grid"):
            state[key] = np.repeat(golden[f"grid/{key}"][None], shape[0], axis=0)
        elif key.endswith("relative_position_index"):
            state[key] = relative_position_index(shape[0])
        elif key.endswith("num_batches_tracked"):
            state[key] = np.zeros((), dtype=np.int64)
        else:
            state[key] = rules.tensor_for(key, tuple(shape))
    return state


def write(state, path):
    if path.suffix == ".pkl":
        content = {"model": state, "__author__": "test", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content, protocol=4))
    else:
        tensors = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
        torch.save({"model": tensors, "iteration": 90000}, path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_in_the_originals_layout_gives_the_originals_answer(shared, tmp_path, name):
    golden = np.load(shared / "golden" / f"{name}.npz")
    meta = json.loads(str(golden["meta"]))
    suffix = ".pkl" if "anomaly" in name else ".pth"
    model = load_model(write(rebuild(shared, golden), tmp_path / f"model{suffix}"))
    assert not model.training
    assert model.config.num_decoder_layers == meta["decoder_layers"]
    assert model.config.mask_embed == meta["head"]
    assert model.config.backbone == meta["backbone"]
    assert model.class_names[0] == "road"
    assert len(model.class_names) == 19

    image = golden_rules(shared).input_image(meta["height"], meta["width"])
    images = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        output = model(images, with_aux=False)
        logits, masks = output["pred_logits"][0], output["pred_masks"][0]
        full = F.interpolate(masks[None], scale_factor=4.0, mode="bilinear")[0].sigmoid()
        probability = logits.softmax(-1)[:, :-1]
        scores = torch.einsum("qk,qhw->khw", probability, full).numpy()

    assert np.abs(logits.numpy() - golden["pred_logits"]).max() <= LOGIT_TOLERANCE
    assert np.abs(masks[:, ::4, ::4].numpy() - golden["pred_masks"]).max() <= LOGIT_TOLERANCE
    assert np.abs(masks.mean((1, 2)).numpy() - golden["pred_masks_mean"]).max() <= LOGIT_TOLERANCE
    largest = np.abs(golden["class_scores"]).max()
    actual = scores[:, ::8, ::8]
    assert np.abs(actual - golden["class_scores"]).max() <= SCORE_TOLERANCE * largest
    anomaly = 1 - scores.max(0)[::4, ::4]
    assert np.abs(anomaly - golden["anomaly_msp"]).max() <= SCORE_TOLERANCE * largest


def test_older_layouts_mean_the_same(shared, tmp_path):
    golden = np.load(shared / "golden" / "detectron2_swin_t_kan.npz")
    state = rebuild(shared, golden)
    older = {
        key.replace("query_feat", "static_query").replace(
            "sem_seg_head.pixel_decoder.", "sem_seg_head."
        ): value
        for key, value in state.items()
    }
    assert "sem_seg_head.mask_features.weight" in older
    older["criterion.empty_weight"] = np.ones(20, dtype=np.float32)
    new = open_checkpoint(write(state, tmp_path / "new.pth"))
    old = open_checkpoint(write(older, tmp_path / "old.pkl"))
    assert new.config == old.config
    assert new.state.keys() == old.state.keys()
    assert all(torch.equal(new.state[key].read(), old.state[key].read()) for key in new.state)
    assert old.config.family == "mask2kan"
    assert old.format == "detectron2"
    head = load_model(tmp_path / "old.pkl", device="cpu").transformer_decoder.mask_embed
    assert sum(parameter.numel() for parameter in head.parameters()) == 1_310_720
