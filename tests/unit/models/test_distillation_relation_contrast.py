"""CRRCD against its formula by loops."""

import copy
import math

import pytest
import torch
from torch import Tensor

from models.distillation import relation_contrast
from models.distillation.relation_contrast import CRRCD, Crrcd, CrrcdSettings, RelationModule
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
SETTINGS = CrrcdSettings(crrcd_dim=7, crrcd_temperature=0.4)


def build() -> Crrcd:
    torch.manual_seed(0)
    module = CRRCD.build(facts(STUDENT, TEACHER), SETTINGS)
    assert isinstance(module, Crrcd)
    return module.double()


def relation(module: RelationModule, first: Tensor, second: Tensor) -> Tensor:
    """Of the two vectors side by side, through two layers."""
    weight = torch.cat([module.first.weight, module.second.weight], 1)
    hidden = (weight @ torch.cat([first, second]) + module.first.bias).clamp(min=0)
    return module.out.weight @ hidden + module.out.bias


@torch.no_grad()
def by_hand(module: Crrcd, student_BD: Tensor, teacher_BD: Tensor) -> float:
    images = range(len(student_BD))
    total, pairs = 0.0, 0
    for i in images:
        cross = [relation(module.cross_relation, teacher_BD[i], student_BD[k]) for k in images]
        for j in images:
            if i == j:
                continue
            own = relation(module.teacher_relation, teacher_BD[i], teacher_BD[j])
            agree = [
                1 / (1 + math.exp(-float(torch.cosine_similarity(own, each, dim=0)) / module.temperature))
                for each in cross
            ]
            repelled = [-math.log(1 - agree[k]) for k in images if k not in (i, j)]
            mean = sum(repelled) / len(repelled) if repelled else 0.0
            total += -math.log(agree[j]) + module.num_negatives * mean
            pairs += 1
    return total / pairs


@pytest.mark.parametrize("batch", [2, 3, 6])
def test_it_is_the_formula(batch: int) -> None:
    module = build()
    student, teacher = view(STUDENT, batch=batch), view(TEACHER, batch=batch, seed=1)
    loss = module(student, teacher, sample(batch))
    expected = by_hand(module, student.embedding_BD.detach(), teacher.embedding_BD.detach())
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(module.compare(*module.parts(student, teacher)), loss)


def test_one_image_has_no_relation() -> None:
    assert build()(view(STUDENT, batch=1), view(TEACHER, batch=1), sample(1)).item() == 0


def test_it_differentiates() -> None:
    module = build()
    student, teacher = view(STUDENT, batch=4), view(TEACHER, batch=4, seed=1)
    assert torch.autograd.gradcheck(
        lambda values, *_: module(student._replace(embedding_BD=values), teacher, sample(4)),
        (student.embedding_BD, *module.parameters()),
    )


def test_it_trains_the_student_and_both_modules() -> None:
    check_trains(build, view(STUDENT), view(TEACHER, seed=1), sample())


def test_degenerate_batches_are_finite() -> None:
    check_finite(build(), STUDENT, TEACHER)


def test_half_precision_is_widened() -> None:
    check_precise(lambda: build().float(), STUDENT, TEACHER)


def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for values in (1 << 24, 2 * 5 * 7):
        monkeypatch.setattr(relation_contrast, "_CHUNK_VALUES", values)
        module, student = build(), view(STUDENT)
        loss = module(student, view(TEACHER, seed=1), sample())
        loss.backward()
        results.append([loss.detach(), student.embedding_BD.grad, *(p.grad for p in module.parameters())])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-10, atol=1e-14)


def test_a_large_batch_is_made_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relation_contrast, "_CHUNK_VALUES", 2 * 5 * 7)
    seen: list[int] = []
    whole = Crrcd._anchored
    monkeypatch.setattr(Crrcd, "_anchored", lambda self, *given: seen.append(len(given[0])) or whole(self, *given))
    build()(view(STUDENT), view(TEACHER, seed=1), sample())
    assert seen == [2, 2, 1]


@pytest.mark.parametrize("values", [1 << 24, 70])
def test_shapes_alone_can_be_counted(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relation_contrast, "_CHUNK_VALUES", values)
    shapes = copy.deepcopy(build()).to("meta")
    loss = shapes(to_meta(view(STUDENT)), to_meta(view(TEACHER)), to_meta(sample()))
    assert loss.is_meta
    loss.backward()


def test_published_settings() -> None:
    assert CrrcdSettings() == CrrcdSettings(256, 0.1, 16)
    assert CRRCD.relational
    assert build().relational
