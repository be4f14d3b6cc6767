"""AT+ against its formula by loops, and against Grad-CAM by autograd."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillation.class_attention import AT_PLUS, AtPlus, AtPlusSettings, _activation, _scaled
from models.distillation.loss import Shape
from tests.unit.models.contrast_views import (
    check_finite,
    check_precise,
    check_trains,
    facts,
    sample,
    shape,
    take,
    take_sample,
    to_meta,
    view,
)

ALIKE = shape(6, side=3), shape(6, side=3)
WIDER = shape(6, side=3), shape(9, side=3)
LARGER = shape(6, side=2), shape(9, side=5)
SMALLER = shape(6, side=4), shape(6, side=2)
PAIRS = pytest.mark.parametrize("shapes", [ALIKE, WIDER, LARGER, SMALLER], ids=["alike", "wider", "larger", "smaller"])


def build(shapes: tuple[Shape, Shape] = LARGER, features: float = 0.1, attention: float = 10.0) -> AtPlus:
    torch.manual_seed(0)
    module = AT_PLUS.build(facts(*shapes), AtPlusSettings(features, attention))
    assert isinstance(module, AtPlus)
    return module.double()


def attention_by_hand(map_CHW: Tensor, weights_C: Tensor, side: int) -> Tensor:
    """Of one image, enlarged and scaled."""
    seen = sum((weight * values).clamp(min=0) for weight, values in zip(weights_C, map_CHW, strict=True))
    assert isinstance(seen, Tensor)
    seen = enlarged(seen[None], side)[0]
    return (seen - seen.min()) / (seen.max() - seen.min())


def enlarged(map_CHW: Tensor, side: int) -> Tensor:
    """Linear between the middles of pixels, by hand in one dimension after the other."""
    old = map_CHW.shape[1]
    matrix = torch.zeros(side, old, dtype=map_CHW.dtype)
    for pixel in range(side):
        place = min(max((pixel + 0.5) * old / side - 0.5, 0), old - 1)
        low = math.floor(place)
        matrix[pixel, low] += 1 - (place - low)
        matrix[pixel, min(low + 1, old - 1)] += place - low
    return torch.einsum("ph,chw,qw->cpq", matrix, map_CHW, matrix)


@PAIRS
@torch.no_grad()
def test_it_is_the_formula(shapes: tuple[Shape, Shape]) -> None:
    module = build(shapes)
    student, teacher, given = view(shapes[0], batch=3), view(shapes[1], batch=3, seed=1), sample(3)
    side = max(each.maps[-1][1] for each in shapes)
    expected = 0.0
    for image, label in enumerate(given.labels_B.tolist()):
        features, attention = [], []
        for each in (student, teacher):
            assert each.classifier_ND is not None
            map_CHW = each.maps[-1][image].detach()
            attention.append(attention_by_hand(map_CHW, each.classifier_ND[label].detach(), side))
            if each is student and isinstance(module.adapter, torch.nn.Conv2d):
                weight = module.adapter.weight[:, :, 0, 0].detach()
                assert module.adapter.bias is not None
                map_CHW = torch.einsum("dc,chw->dhw", weight, map_CHW) + module.adapter.bias.detach()[:, None, None]
            features.append(enlarged(map_CHW, side))
        expected += 0.1 * float((features[0] - features[1]).square().mean().sqrt()) / 3
        expected += 10 * float((attention[0] - attention[1]).square().mean().sqrt()) / 3
    assert module(student, teacher, given).item() == pytest.approx(expected, rel=1e-9)


def test_attention_is_grad_cam() -> None:
    of, given = view(shape(6, side=4)), sample()
    assert of.classifier_ND is not None
    logits_BN = of.maps[-1].mean((2, 3)) @ of.classifier_ND.T
    (slope,) = torch.autograd.grad(logits_BN[torch.arange(5), given.labels_B].sum(), of.maps[-1])
    cam_B1HW = F.relu(slope.mean((2, 3), keepdim=True) * of.maps[-1]).sum(1, keepdim=True)
    found = _scaled(_activation(of.maps[-1], of.classifier_ND[given.labels_B]))
    torch.testing.assert_close(found, _scaled(cam_B1HW))
    assert torch.equal(found.amin((1, 2, 3)), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(found.amax((1, 2, 3)), torch.ones(5, dtype=torch.float64))


@PAIRS
def test_it_differentiates(shapes: tuple[Shape, Shape]) -> None:
    module, student, teacher = build(shapes), view(shapes[0], batch=2), view(shapes[1], batch=2, seed=1)
    assert torch.autograd.gradcheck(
        lambda last, classifier, *_: module(
            student._replace(maps=(last,), classifier_ND=classifier), teacher, sample(2)
        ),
        (student.maps[-1], student.classifier_ND, *module.parameters()),
    )


def test_it_trains_the_student_and_the_adapter() -> None:
    student = view(LARGER[0])
    check_trains(build, student, view(LARGER[1], seed=1), sample())
    assert student.classifier_ND is not None
    assert student.classifier_ND.grad is not None
    assert list(build(ALIKE).parameters()) == []


@PAIRS
def test_degenerate_batches_are_finite(shapes: tuple[Shape, Shape]) -> None:
    check_finite(build(shapes), *shapes)


def test_equal_maps_have_a_loss_of_nothing_and_a_gradient() -> None:
    module, student = build(ALIKE), view(ALIKE[0])
    loss = module(student, student, sample())
    assert loss.item() == pytest.approx(0, abs=2e-5)
    loss.backward()
    assert student.maps[-1].grad is not None
    assert torch.isfinite(student.maps[-1].grad).all()


def test_a_constant_map_has_no_gradient() -> None:
    map_B1HW = torch.full((1, 1, 3, 3), 2.0, dtype=torch.float64, requires_grad=True)
    scaled_B1HW = _scaled(map_B1HW)
    assert torch.equal(scaled_B1HW, torch.zeros_like(scaled_B1HW))
    (gradient,) = torch.autograd.grad((scaled_B1HW * torch.arange(9.0).reshape(1, 1, 3, 3)).sum(), map_B1HW)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_weights_are_settings() -> None:
    student, teacher = view(LARGER[0]), view(LARGER[1], seed=1)
    parts = [build(features=f, attention=a)(student, teacher, sample()) for f, a in ((1.0, 0.0), (0.0, 1.0))]
    torch.testing.assert_close(build()(student, teacher, sample()), 0.1 * parts[0] + 10 * parts[1])
    assert AtPlusSettings() == AtPlusSettings(0.1, 10.0)


def test_slices_add_up() -> None:
    module, student, teacher, given = build(), view(LARGER[0]), view(LARGER[1], seed=1), sample()
    parts = [
        module(take(student, part), take(teacher, part), take_sample(given, part)) * (part.stop - part.start)
        for part in (slice(0, 2), slice(2, 5))
    ]
    torch.testing.assert_close(torch.stack(parts).sum() / 5, module(student, teacher, given))
    assert not AT_PLUS.relational


def test_half_precision_is_widened() -> None:
    check_precise(lambda: build(features=1.0, attention=0.0).float(), *LARGER)


def test_shapes_alone_can_be_counted() -> None:
    loss = copy.deepcopy(build()).to("meta")(to_meta(view(LARGER[0])), to_meta(view(LARGER[1])), to_meta(sample()))
    assert loss.is_meta
    loss.backward()


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_view_must_show_its_classifier(who: str) -> None:
    views = {"student": view(LARGER[0]), "teacher": view(LARGER[1])}
    views[who] = views[who]._replace(classifier_ND=None)
    with pytest.raises(ValueError, match=rf"the {who} shows none; take a network whose last layer is linear"):
        build()(views["student"], views["teacher"], sample())


def test_the_classifier_must_read_the_last_map() -> None:
    with pytest.raises(
        ValueError, match=r"the teacher's reads 9 values and its last map has 12 channels; take another"
    ):
        build((shape(6), shape(9, channels=12)))
