"""HORKD's three orders: against their formulas, and against RKD, whose two parts are the second and the third."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from models.distillation.orders import FirstOrder
from models.distillation.registry import LOSSES
from tests.unit.models.distillation_views import FACTS, STUDENT, TEACHER, build, random_view, sample_of

COUNT = 5
STUDENT_VIEW, TEACHER_VIEW = (random_view(shape, COUNT, seed=seed) for shape, seed in ((STUDENT, 1), (TEACHER, 2)))
SAME = random_view(STUDENT, COUNT, seed=2)  # a teacher whose embedding is as long as the student's


def by_hand(mine: list[list[float]], theirs: list[list[float]], *, normalized: bool) -> float:
    total = 0.0
    for own, wanted in zip(mine, theirs, strict=True):
        lengths = (math.hypot(*own), math.hypot(*wanted)) if normalized else (1.0, 1.0)
        total += sum((a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(own, wanted, strict=True))
    return total / len(mine)


@pytest.mark.parametrize("normalized", [True, False])
def test_the_first_order_is_the_formula(normalized: bool) -> None:
    loss = build("order1", replace(FACTS, teacher=STUDENT), order1_normalized=normalized)
    expected = by_hand(STUDENT_VIEW.embedding_BD.tolist(), SAME.embedding_BD.tolist(), normalized=normalized)
    assert loss(STUDENT_VIEW, SAME, sample_of(COUNT)).item() == pytest.approx(expected, rel=1e-10)
    assert not list(loss.parameters())


def test_points_are_normalised_if_not_said_otherwise() -> None:
    loss = build("order1", replace(FACTS, teacher=STUDENT))
    longer = SAME._replace(embedding_BD=5 * SAME.embedding_BD)
    torch.testing.assert_close(*(loss(STUDENT_VIEW, teacher, sample_of(COUNT)) for teacher in (SAME, longer)))


def test_an_adapter_stands_only_between_other_lengths() -> None:
    loss = build("order1")
    assert isinstance(loss, FirstOrder)
    assert isinstance(loss.adapter, nn.Linear)
    assert sum(values.numel() for values in loss.parameters()) == STUDENT.embedding * TEACHER.embedding
    adapted = STUDENT_VIEW.embedding_BD @ loss.adapter.weight.detach().T
    expected = by_hand(adapted.tolist(), TEACHER_VIEW.embedding_BD.tolist(), normalized=True)
    assert loss(STUDENT_VIEW, TEACHER_VIEW, sample_of(COUNT)).item() == pytest.approx(expected, rel=1e-10)


def test_opposite_points_are_four_apart() -> None:
    loss = build("order1", replace(FACTS, teacher=STUDENT))
    opposite = STUDENT_VIEW._replace(embedding_BD=-2 * STUDENT_VIEW.embedding_BD)
    assert loss(STUDENT_VIEW, opposite, sample_of(COUNT)).item() == pytest.approx(4)


@pytest.mark.parametrize(("name", "distance", "angle"), [("order2", 1.0, 0.0), ("order3", 0.0, 1.0)])
def test_higher_orders_are_the_parts_of_rkd(name: str, distance: float, angle: float) -> None:
    values = [
        build(*loss, **changes)(STUDENT_VIEW, TEACHER_VIEW, sample_of(COUNT))
        for loss, changes in (((name,), {}), (("rkd",), {"rkd_distance": distance, "rkd_angle": angle}))
    ]
    assert values[0] > 0
    torch.testing.assert_close(*values)


def test_weights_of_classification_are_those_of_rkd() -> None:
    assert [LOSSES[f"order{order}"].weight for order in (1, 2, 3)] == [1, 25, 50]
