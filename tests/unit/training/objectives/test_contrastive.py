"""The contrastive loss against eq. 2.10 and 2.11 worked by hand, and what the two forms ask for."""

from __future__ import annotations

import math

import pytest
import torch

from mask2kan.inference.scores import msp
from training.data.augmentation import OUTLIER, VOID
from training.objectives.contrastive import at_pixels, contrastive_loss, negative_likelihood

# Two known pixels, two outliers, one void.
LABELS = torch.tensor([[[3, 0, OUTLIER, OUTLIER, VOID]]])
LIKELIHOOD = torch.tensor([[[0.9, 0.6, 0.2, 0.7, 0.5]]])


def test_the_well_posed_form_by_hand():
    # known: l_N = 0.1, 0.4, so (0.01 + 0.16) / 2; outliers: max(0, 0.75 - 0.8) = 0 and
    # 0.75 - 0.3 = 0.45, so (0 + 0.2025) / 2; void is left out.
    loss = contrastive_loss(1 - LIKELIHOOD, LABELS, margin=0.75, form="well_posed")
    assert loss.item() == pytest.approx(0.5 * (0.085 + 0.10125), rel=1e-6)


def test_the_published_form_by_hand():
    # known and void: l_N = -0.9, -0.6, -0.5, so (0.81 + 0.36 + 0.25) / 3; outliers: 0.75 + 0.2 and
    # 0.75 + 0.7, so (0.9025 + 2.1025) / 2.
    loss = contrastive_loss(-LIKELIHOOD, LABELS, margin=0.75, form="published")
    assert loss.item() == pytest.approx(0.5 * (1.42 / 3 + 3.005 / 2), rel=1e-6)


def test_the_published_form_pushes_known_pixels_down_and_the_well_posed_one_up():
    for form, sign in (("published", 1), ("well_posed", -1)):
        likelihood = LIKELIHOOD.clone().requires_grad_()
        l_n = -likelihood if form == "published" else 1 - likelihood
        contrastive_loss(l_n, LABELS, form=form).backward()
        gradient = likelihood.grad[0, 0]
        assert torch.equal(gradient[:2].sign(), torch.full((2,), float(sign)))
        assert (gradient[2:4] > 0).all()  # both make outliers less likely


@pytest.mark.parametrize("kind", [0, OUTLIER])
def test_a_kind_that_does_not_occur_costs_nothing(kind):
    labels = torch.full((1, 1, 5), kind)
    loss = contrastive_loss(1 - LIKELIHOOD, labels)
    values = 1 - LIKELIHOOD if kind == 0 else LIKELIHOOD
    assert loss.item() == pytest.approx(0.5 * values.square().mean().item())


def test_l_n_is_the_anomaly_score_of_the_class_scores():
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 5, 4), torch.randn(2, 5, 6, 7)
    classes = logits.softmax(-1)[..., :-1]
    for b in range(2):
        scores = (classes[b].T[:, :, None, None] * masks[b].sigmoid()).sum(1)
        found = negative_likelihood(logits, masks, "well_posed")[b]
        torch.testing.assert_close(found, msp(scores), rtol=1e-5, atol=1e-6)
        published = negative_likelihood(logits, masks, "published")[b]
        torch.testing.assert_close(published, found - 1, rtol=1e-5, atol=1e-6)


def test_a_smaller_map_is_enlarged_to_the_labels():
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, :, 4:] = OUTLIER
    l_n = torch.tensor([[[0.0, 1.0]]]).expand(1, 2, 2)
    loss = contrastive_loss(at_pixels(l_n, (8, 8)), labels, margin=1.0).item()
    # Bilinear over 8 columns: 0 0 .125 .375 .625 .875 1 1, the same cost on either side.
    side = (0.125**2 + 0.375**2) / 4
    assert loss == pytest.approx(side, rel=1e-5)
    assert math.isfinite(loss)


def test_what_the_model_padded_is_cut_off():
    l_n = torch.rand(2, 8, 16)
    whole = at_pixels(l_n, (32, 64))
    assert torch.equal(at_pixels(l_n, (20, 40)), whole[:, :20, :40])
