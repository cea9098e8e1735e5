"""Work in strips gives what work on the whole gives, and only where it should happen."""

import pytest
import torch

from mask2kan.modeling.backbones.swin import SwinTransformer
from mask2kan.runtime import chunking
from mask2kan.runtime.chunking import in_strips


@pytest.fixture
def tiny_strips(monkeypatch):
    monkeypatch.setattr(chunking, "STRIP_ELEMENTS", 64)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 100, 257])
def test_same_rows_in_the_same_order(tiny_strips, count):
    rows, more = torch.randn(count, 3), torch.randn(count, 2, 3)
    sizes = []

    def function(some, others):
        sizes.append(len(some))
        assert len(some) == len(others)
        return (some[:, None] * others).sum(dim=1)

    with torch.no_grad():
        result = in_strips(function, rows, more, widest=4)
    torch.testing.assert_close(result, (rows[:, None] * more).sum(dim=1), rtol=0, atol=0)
    assert sum(sizes) == count
    assert max(sizes) <= 16
    assert max(sizes) - min(sizes) <= 1


def test_an_item_wider_than_a_strip_goes_alone(tiny_strips):
    sizes = []
    with torch.no_grad():
        in_strips(lambda some: sizes.append(len(some)) or some, torch.randn(5, 2), widest=1000)
    assert sizes == [1] * 5


def test_gradients_and_graphs_get_the_whole(tiny_strips):
    sizes = []

    def function(some):
        sizes.append(some.shape[0])
        return some * 2

    rows = torch.randn(100, 3, requires_grad=True)
    in_strips(function, rows, widest=4).sum().backward()
    assert torch.equal(rows.grad, torch.full_like(rows, 2))

    class Doubled(torch.nn.Module):
        def forward(self, some):
            return in_strips(function, some, widest=4)

    with torch.no_grad():
        torch.export.export(Doubled(), (rows.detach(),))
    assert set(sizes) == {100}


def test_swin_in_strips_equals_swin_at_once(monkeypatch):
    torch.manual_seed(0)
    swin = SwinTransformer(16, (2, 2, 2, 2), (1, 2, 4, 8), 4, drop_path=0.2).eval()
    images = torch.randn(2, 3, 96, 160)
    with torch.inference_mode():
        whole = swin(images)
        monkeypatch.setattr(chunking, "STRIP_ELEMENTS", 1 << 12)
        pieces = swin(images)
    recorded = swin(images)
    for expected, *actual in zip(whole, pieces, recorded, strict=True):
        for result in actual:
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
