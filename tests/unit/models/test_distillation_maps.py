"""FitNet, attention transfer and VID against their formulas, written out map by map."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.distillation.loss import Facts, Shape, View
from models.distillation.maps import FitNet, Vid
from tests.unit.models.distillation_views import FACTS, STUDENT, TEACHER, build, random_view, sample_of

COUNT = 3
SAME = replace(FACTS, student=Shape(((3, 4, 4), (4, 2, 2)), 6), teacher=Shape(((2, 4, 4), (5, 2, 2)), 7))


def views(facts: Facts = FACTS, count: int = COUNT) -> tuple[View, View]:
    return random_view(facts.student, count, seed=1), random_view(facts.teacher, count, seed=2)


def pooled(map_BCHW: np.ndarray, side: int) -> np.ndarray:
    """Means of square blocks."""
    step = map_BCHW.shape[2] // side
    blocks = map_BCHW.reshape(*map_BCHW.shape[:2], side, step, side, step)
    return blocks.mean(axis=(3, 5))


def paired(student: View, teacher: View) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps of the deepest two stages, the larger pooled to the smaller."""
    found = []
    for mine, theirs in zip(student.maps[-2:], teacher.maps[-2:], strict=True):
        side = min(mine.shape[2], theirs.shape[2])
        found.append((pooled(mine.numpy(), side), pooled(theirs.numpy(), side)))
    return found


def one_by_one(map_BCHW: np.ndarray, layer: Any) -> np.ndarray:
    weight_OC = layer.weight.detach().numpy()[:, :, 0, 0]
    out = np.einsum("oc,bchw->bohw", weight_OC, map_BCHW)
    return out if layer.bias is None else out + layer.bias.detach().numpy()[None, :, None, None]


@pytest.mark.parametrize("facts", [SAME, FACTS, replace(FACTS, student=TEACHER, teacher=STUDENT)])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_fitnet_is_the_formula(facts: Facts, stage: int) -> None:
    loss = build("fitnet", facts, fitnet_stage=stage)
    assert isinstance(loss, FitNet)
    with torch.no_grad():
        loss.norm.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
        loss.norm.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    student, teacher = views(facts)
    mine, theirs = paired(student, teacher)[(stage or 1) - 1]
    raw = one_by_one(mine, loss.convolution)
    mean, variance = (getattr(raw, name)(axis=(0, 2, 3), keepdims=True) for name in ("mean", "var"))
    scale, shift = (values.detach().numpy()[None, :, None, None] for values in (loss.norm.weight, loss.norm.bias))
    hint = np.maximum(0, (raw - mean) / np.sqrt(variance + 1e-5) * scale + shift)
    by_hand = np.mean((hint - theirs) ** 2)
    assert loss(student, teacher, sample_of(COUNT)).item() == pytest.approx(by_hand, rel=1e-10)


@pytest.mark.parametrize(("count", "middle"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_fitnet_takes_the_middle(count: int, middle: int) -> None:
    shape = Shape(tuple((channels, 4, 4) for channels in range(1, count + 1)), 6)
    loss = build("fitnet", Facts(shape, shape, 5))
    assert isinstance(loss, FitNet)
    assert loss.convolution.in_channels == middle
    assert loss.pair == (middle - 1, middle - 1)


def test_fitnet_refuses_a_stage_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"fitnet_stage must be at most 2, .* or 0 for the middle one, but got 3"):
        build("fitnet", fitnet_stage=3)


def test_fitnet_of_a_single_value_follows_the_running_statistics() -> None:
    facts = replace(FACTS, student=Shape(((3, 1, 1),), 6), teacher=Shape(((2, 1, 1),), 7))
    loss = build("fitnet", facts)
    assert isinstance(loss, FitNet)
    student, teacher = views(facts, count=1)
    hint = np.maximum(0, one_by_one(student.maps[0].numpy(), loss.convolution) / np.sqrt(1 + 1e-5))
    by_hand = np.mean((hint - teacher.maps[0].numpy()) ** 2)
    assert loss(student, teacher, sample_of(1)).item() == pytest.approx(by_hand, rel=1e-10)
    assert not loss.norm.running_mean.any()  # and leaves them as they were


def attention(map_BCHW: np.ndarray) -> np.ndarray:
    rows = (map_BCHW**2).mean(axis=1).reshape(len(map_BCHW), -1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("facts", [SAME, FACTS])
def test_attention_transfer_is_the_formula(facts: Facts) -> None:
    student, teacher = views(facts)
    by_hand = sum(np.mean((attention(mine) - attention(theirs)) ** 2) for mine, theirs in paired(student, teacher))
    assert build("at", facts)(student, teacher, sample_of(COUNT)).item() == pytest.approx(by_hand, rel=1e-10)


def test_attention_has_no_scale_sign_or_order_of_channels() -> None:
    student, teacher = views()
    loss, sample = build("at"), sample_of(COUNT)
    changed = student._replace(maps=tuple(-3 * values.flip(1) for values in student.maps))
    small = teacher._replace(maps=tuple(1e-3 * values for values in teacher.maps))
    torch.testing.assert_close(loss(changed, small, sample), loss(student, teacher, sample))


@pytest.mark.parametrize("facts", [SAME, FACTS])
@pytest.mark.parametrize("variance", [5.0, 0.3])
def test_vid_is_the_formula(facts: Facts, variance: float) -> None:
    loss = build("vid", facts, vid_init_variance=variance)
    assert isinstance(loss, Vid)
    student, teacher = views(facts)
    by_hand = 0.0
    for stage, (mine, theirs) in zip(loss.stages, paired(student, teacher), strict=True):
        first, second, third = (layer for layer in stage.mean if isinstance(layer, nn.Conv2d))
        mean = one_by_one(np.maximum(0, one_by_one(np.maximum(0, one_by_one(mine, first)), second)), third)
        by_hand += np.mean(0.5 * ((mean - theirs) ** 2 / variance + np.log(variance)))
    assert loss(student, teacher, sample_of(COUNT)).item() == pytest.approx(by_hand, rel=1e-6)


def test_vid_learns_the_variance_of_what_is_left() -> None:
    """The best variance of a channel is the mean square of what the regressor leaves."""
    facts = replace(FACTS, student=Shape(((3, 4, 4),), 6), teacher=Shape(((2, 4, 4),), 7))
    loss = build("vid", facts)
    assert isinstance(loss, Vid)
    student, teacher = views(facts)
    (stage,) = loss.stages
    left_BCHW = stage.mean(student.maps[0]) - teacher.maps[0]
    best_C = left_BCHW.detach().square().mean(dim=(0, 2, 3))
    with torch.no_grad():
        stage.raw_variance_C.copy_((best_C - 1e-5).expm1().log())
    (slope_C,) = torch.autograd.grad(loss(student, teacher, sample_of(COUNT)), stage.raw_variance_C)
    torch.testing.assert_close(slope_C, torch.zeros_like(slope_C), rtol=0, atol=1e-12)


def test_modules_have_their_parameters() -> None:
    """FitNet's one stage: 3 -> 4 channels; VID's two: 3 -> 4 and 6 -> 7; attention transfer none."""
    assert parameters("fitnet") == (3 * 4 + 4) + 2 * 4
    assert parameters("vid") == (3 * 4 + 2 * 4 * 4 + 4) + (6 * 7 + 2 * 7 * 7 + 7)
    assert parameters("at") == 0


def parameters(name: str) -> int:
    return sum(values.numel() for values in build(name).parameters())


def test_a_zero_map_has_no_attention_and_no_gradient() -> None:
    student, teacher = views()
    zeros: Tensor = torch.zeros_like(student.maps[1]).requires_grad_()
    value = build("at")(student._replace(maps=(student.maps[0], zeros)), teacher, sample_of(COUNT))
    value.backward()
    assert zeros.grad is not None
    assert not zeros.grad.any()
