"""PMAL's other orders and the arms without a part of its loss, against the formulas of its updates, in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from models.methods.method import Objective
from models.methods.pmal import PmalSettings
from tests.unit.models import test_pmal as pmal

SMALL = replace(pmal.SETTINGS, stages=2)


def sums(objective: Objective) -> Any:
    return objective.loss(slice(0, 4)).total / 4


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_deep_to_shallow_makes_the_same_updates_the_other_way_round() -> None:
    method, batch = pmal.make(replace(SMALL, order="deep_to_shallow")), pmal.make_batch()
    steps = list(method.objectives(batch))
    assert [objective.name for objective in steps] == ["clean", "stage2", "stage1"]
    for objective, step in zip(steps, (2, 1, 0), strict=True):
        same(sums(objective), pmal.step_by_hand(method, SMALL, batch, step))


def test_joint_is_one_update_by_the_sum_of_all_losses() -> None:
    method, batch = pmal.make(replace(SMALL, order="joint")), pmal.make_batch()
    (objective,) = method.objectives(batch)
    expected = sum(pmal.step_by_hand(method, SMALL, batch, step) for step in range(3))
    same(sums(objective), expected)
    parameters = list(method.network.parameters())
    ours = torch.autograd.grad(sums(objective), parameters)
    theirs = torch.autograd.grad(expected, parameters)  # type: ignore[arg-type]
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-8, atol=1e-11)


def test_joint_repeated_has_fresh_pairs_in_each_of_its_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = pmal.make(replace(SMALL, order="joint_repeated")), pmal.make_batch()
    draws = []
    drawn = method._context.sampler
    assert drawn is not None

    def sampler(images_BCHW: Any, keys_B: Any, *, draw: int = 0, level: float = 1.0) -> Any:
        draws.append(draw)
        return drawn(images_BCHW, keys_B, draw=draw, level=level)

    monkeypatch.setattr(method, "_context", replace(method._context, sampler=sampler))
    steps = list(method.objectives(batch))
    assert [objective.name for objective in steps] == ["joint1", "joint2", "joint3"]
    assert draws == [1, 2, 3, 4, 5, 6]
    same(sums(steps[0]), sum(pmal.step_by_hand(method, SMALL, batch, step) for step in range(3)))
    assert not torch.equal(sums(steps[0]), sums(steps[1]))


@pytest.mark.parametrize(("alpha", "restored"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.4), (0.7, 0.4)])
def test_each_part_of_a_noisy_loss_can_be_left_out(alpha: float, restored: float) -> None:
    settings = replace(SMALL, alpha=alpha, restored_weight=restored)
    method, batch = pmal.make(settings), pmal.make_batch()
    has_decoder = alpha > 0 or restored > 0
    assert len(method.network.decoders) == (2 if has_decoder else 0)
    assert (method.restore(batch.images_BCHW) is not None) == has_decoder
    for step, objective in zip(range(2), method.objectives(batch), strict=False):
        pair = pmal.sampler(batch.images_BCHW, batch.keys_B, draw=step + 1)
        target, noisy = pair.target_BCHW * 2 - 1, pair.input_BCHW * 2 - 1
        layer = len(pmal.LAYERS) - 2 + step
        head: Any = method.network.heads[step]
        feature = pmal.features_by_hand(method, noisy)[layer]
        expected = pmal.entropy_by_hand(pmal.head_by_hand(head, feature), batch.labels_B)
        if has_decoder:
            cleaned = pmal.decoder_by_hand(method.network.decoders[step], feature, noisy)
            expected = expected + alpha * ((cleaned - target).square() + 1e-12).sqrt().mean()
            again = pmal.features_by_hand(method, cleaned)[layer]
            expected = expected + restored * pmal.entropy_by_hand(pmal.head_by_hand(head, again), batch.labels_B)
        same(sums(objective), expected)
        reached = {id(parameter) for parameter in objective.parameters}
        moved = torch.autograd.grad(sums(objective), list(method.network.parameters()), allow_unused=True)
        for parameter, gradient in zip(method.network.parameters(), moved, strict=True):
            assert (gradient is None) == (id(parameter) not in reached)


@pytest.mark.slow
def test_what_each_arm_costs() -> None:
    costs = {
        name: pmal.make(replace(SMALL, **changes)).passes_per_image()
        for name, changes in {
            "whole": {},
            "joint": {"order": "joint"},
            "repeated": {"order": "joint_repeated"},
            "heads": {"alpha": 0.0, "restored_weight": 0.0},
        }.items()
    }
    assert costs["whole"] == pytest.approx(costs["joint"])
    assert costs["repeated"] == pytest.approx(3 * costs["joint"])
    assert costs["heads"] < 0.6 * costs["whole"]


def test_a_setting_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="detach_restored has no effect with restored_weight: 0"):
        PmalSettings(detach_restored=True, restored_weight=0.0)
    with pytest.raises(ValueError, match="detach_restored must be false with alpha: 0"):
        PmalSettings(detach_restored=True, alpha=0.0)
