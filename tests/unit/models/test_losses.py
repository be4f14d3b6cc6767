"""Losses against their formulas by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.losses import RESTORATION_LOSSES, charbonnier, smoothed_cross_entropy, squared_error, torch_smoothing


def test_smoothed_entropy_is_the_formula() -> None:
    logits_BN = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 3.0]], dtype=torch.float64)
    labels_B = torch.tensor([0, 1])
    eps = 0.1
    expected = []
    for row, label in zip(logits_BN.tolist(), labels_B.tolist(), strict=True):
        total = math.log(sum(math.exp(value) for value in row))
        weights = [1 - eps if index == label else eps / 2 for index in range(3)]
        expected.append(-sum(weight * (value - total) for weight, value in zip(weights, row, strict=True)))
    losses_B = smoothed_cross_entropy(logits_BN, labels_B, smoothing=eps)
    torch.testing.assert_close(losses_B, torch.tensor(expected, dtype=torch.float64))


def test_smoothing_converts_to_torch() -> None:
    assert torch_smoothing(0.1, 196) == pytest.approx(0.1 * 196 / 195)
    assert torch_smoothing(0.0, 2) == 0
    assert torch_smoothing(0.9, 10) == 1
    logits_BN = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels_B = torch.arange(4)
    expected = F.cross_entropy(logits_BN, labels_B, reduction="none")
    torch.testing.assert_close(smoothed_cross_entropy(logits_BN, labels_B), expected)


@pytest.mark.parametrize(("smoothing", "classes"), [(-0.1, 10), (0.95, 10), (0.6, 2)])
def test_smoothing_has_bounds(smoothing: float, classes: int) -> None:
    with pytest.raises(ValueError, match=rf"label smoothing must be between 0 .* but got {smoothing}"):
        torch_smoothing(smoothing, classes)
    with pytest.raises(ValueError, match="num_classes must be at least 2, but got 1"):
        torch_smoothing(0.1, 1)


def test_charbonnier_is_the_formula() -> None:
    target_BCHW = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    restored_BCHW = torch.tensor([[[[0.3, -0.1]]], [[[0.0, 0.0]]]], dtype=torch.float64)
    losses_B = charbonnier(restored_BCHW, target_BCHW, eps=0.01)
    by_hand = [(math.hypot(0.3, 0.01) + math.hypot(0.1, 0.01)) / 2, 0.01]
    torch.testing.assert_close(losses_B, torch.tensor(by_hand, dtype=torch.float64))
    torch.testing.assert_close(charbonnier(restored_BCHW, target_BCHW)[0].item(), 0.2, rtol=1e-9, atol=0)


def test_squared_error_is_the_formula() -> None:
    target_BCHW = torch.zeros(2, 1, 1, 2)
    restored_BCHW = torch.tensor([[[[0.3, -0.1]]], [[[1.0, 2.0]]]])
    torch.testing.assert_close(squared_error(restored_BCHW, target_BCHW), torch.tensor([0.05, 2.5]))


@pytest.mark.parametrize("name", RESTORATION_LOSSES)
def test_restoration_losses_differentiate(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    restored_BCHW = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    target_BCHW = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: RESTORATION_LOSSES[name](x, target_BCHW), (restored_BCHW,))
    equal = target_BCHW.clone().float().requires_grad_()
    RESTORATION_LOSSES[name](equal, equal.detach()).sum().backward()
    assert equal.grad is not None
    assert torch.equal(equal.grad, torch.zeros_like(equal))
