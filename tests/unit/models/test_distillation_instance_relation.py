"""AIRD against its formula by loops."""

import copy

import pytest
import torch
from torch import nn

from models.distillation.instance_relation import AIRD, Aird, AirdSettings
from models.distillation.loss import Shape
from tests.unit.models.contrast_views import (
    check_finite,
    check_precise,
    check_trains,
    facts,
    sample,
    shape,
    to_meta,
    view,
)

STUDENT, TEACHER = shape(6), shape(9)


def build(student: Shape = STUDENT, relation: float = 1.7) -> Aird:
    torch.manual_seed(0)
    module = AIRD.build(facts(student, TEACHER), AirdSettings(aird_relation=relation))
    assert isinstance(module, Aird)
    return module.double()


@pytest.mark.parametrize("student_shape", [STUDENT, TEACHER], ids=["adapter", "alike"])
@pytest.mark.parametrize("relation", [0.0, 1.7])
@torch.no_grad()
def test_it_is_the_formula(student_shape: Shape, relation: float) -> None:
    module = build(student_shape, relation)
    student, teacher = view(student_shape, batch=4), view(TEACHER, batch=4, seed=1)
    adapted = student.embedding_BD
    if isinstance(module.adapter, nn.Linear):
        adapted = adapted @ module.adapter.weight.T + module.adapter.bias
    expected = 0.0
    for i in range(4):
        expected += (2 - 2 * float(torch.cosine_similarity(adapted[i], teacher.embedding_BD[i], dim=0))) / 4
        for j in range(4):
            cosines = [
                float(torch.cosine_similarity(each.embedding_BD[i], each.embedding_BD[j], dim=0))
                for each in (student, teacher)
            ]
            expected += 0.0 if i == j else relation * (cosines[0] - cosines[1]) ** 2 / 12
    loss = module(student, teacher, sample(4))
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(module.compare(*module.parts(student, teacher)), loss)


def test_it_differentiates() -> None:
    module, student, teacher = build(), view(STUDENT, batch=4), view(TEACHER, batch=4, seed=1)
    assert torch.autograd.gradcheck(
        lambda values, *_: module(student._replace(embedding_BD=values), teacher, sample(4)),
        (student.embedding_BD, *module.parameters()),
    )


def test_it_trains_the_student_and_the_adapter() -> None:
    check_trains(build, view(STUDENT), view(TEACHER, seed=1), sample())


def test_a_students_embeddings_may_be_the_teachers() -> None:
    module, teacher = build(TEACHER), view(TEACHER)
    assert list(module.parameters()) == []
    assert module(teacher, teacher, sample()).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("student", [STUDENT, TEACHER], ids=["adapter", "alike"])
def test_degenerate_batches_are_finite(student: Shape) -> None:
    check_finite(build(student), student, TEACHER)


def test_half_precision_is_widened() -> None:
    check_precise(lambda: build().float(), STUDENT, TEACHER)


def test_shapes_alone_can_be_counted() -> None:
    loss = copy.deepcopy(build()).to("meta")(to_meta(view(STUDENT)), to_meta(view(TEACHER)), to_meta(sample()))
    assert loss.is_meta
    loss.backward()


def test_its_entry() -> None:
    assert AIRD.relational
    assert build().relational
    assert AirdSettings() == AirdSettings(1.0)
