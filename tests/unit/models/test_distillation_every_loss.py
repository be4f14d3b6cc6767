"""What every distillation loss promises: gradients that are right and finite, no values that anything depends on."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.distillation.loss import DistillationLoss, RelationalLoss, Shape, View
from models.distillation.registry import LOSSES, loss_spec
from tests.unit.models.distillation_views import (
    FACTS,
    STUDENT,
    TEACHER,
    all_settings,
    build,
    learning,
    mapped,
    random_view,
    sample_of,
    tensors,
)

DEGENERATE = ("zero", "equal", "huge", "student equal", "teacher equal")


def views(count: int, *, dtype: torch.dtype = torch.float64) -> tuple[View, View]:
    return (
        learning(random_view(STUDENT, count, seed=1, dtype=dtype)),
        random_view(TEACHER, count, seed=2, dtype=dtype),
    )


def gradients(name: str, student: View, teacher: View, **changes: object) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Of a loss: the value, the gradients of the student's view, and of its own parameters."""
    loss = build(name, dtype=student.logits_BN.dtype, **changes)
    count = len(student.logits_BN)
    value = loss(student, teacher, sample_of(count))
    assert value.shape == ()
    own = list(loss.parameters())
    found = torch.autograd.grad(value, [*tensors(student), *own], allow_unused=True, materialize_grads=True)
    return value.detach(), list(found[: -len(own)] if own else found), list(found[-len(own) :] if own else ())


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_the_values_slopes(name: str) -> None:
    loss = build(name)
    student, teacher = views(4)
    leaves = tensors(student)

    def value(*given: Tensor) -> Tensor:
        maps = len(student.maps)
        return loss(View(given[:maps], *given[maps : maps + 3]), teacher, sample_of(4))

    used = torch.autograd.grad(value(*leaves), leaves, allow_unused=True)
    assert any(gradient is not None and gradient.any() for gradient in used)
    # parameters are moved where they lie
    assert torch.autograd.gradcheck(value, (*leaves, *loss.parameters()), fast_mode=True)


@pytest.mark.parametrize("name", LOSSES)
def test_own_parameters_learn_and_the_teacher_does_not(name: str) -> None:
    student, teacher = views(6)
    teacher = learning(teacher)
    loss = build(name)
    first = loss(student, teacher, sample_of(6))
    first.backward()
    for parameter_name, parameter in loss.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any(), parameter_name
    assert all(values.grad is None or not values.grad.any() for values in tensors(teacher))
    torch.testing.assert_close(loss(student, teacher, sample_of(6)), first, rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_entries_are_as_they_say(name: str) -> None:
    spec, loss = LOSSES[name], build(name)
    assert spec.relational == loss.relational == isinstance(loss, RelationalLoss)
    assert spec.weight > 0
    assert "arXiv" in spec.doc or "CVPR" in spec.doc
    assert inspect.getdoc(type(loss)) != inspect.getdoc(DistillationLoss)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].relational])
def test_relational_losses_are_their_parts_compared(name: str) -> None:
    loss = build(name)
    assert isinstance(loss, RelationalLoss)
    student, teacher = views(6)
    mine, theirs = loss.parts(student, teacher)
    assert len(mine) == len(theirs) == 6
    assert mine.requires_grad
    torch.testing.assert_close(loss.compare(mine, theirs), loss(student, teacher, sample_of(6)), rtol=0, atol=0)
    halves = [loss.parts(*(mapped_rows(view, rows) for view in (student, teacher))) for rows in (slice(3), slice(3, 6))]
    gathered = [torch.cat(parts) for parts in zip(*halves, strict=True)]
    torch.testing.assert_close(loss.compare(gathered[0], gathered[1]), loss(student, teacher, sample_of(6)))


def mapped_rows(view: View, rows: slice) -> View:
    changed = mapped(view, lambda values: values[rows])
    return changed._replace(classifier_ND=view.classifier_ND)


@pytest.mark.parametrize("name", [name for name in LOSSES if not LOSSES[name].relational and name != "fitnet"])
def test_other_losses_of_slices_add_up(name: str) -> None:
    loss = build(name)
    student, teacher = views(6)
    sample, total = sample_of(6), torch.zeros((), dtype=torch.float64)
    for rows in (slice(0, 2), slice(2, 6)):
        part = sample._replace(labels_B=sample.labels_B[rows], rows_B=sample.rows_B[rows], keys_B=sample.keys_B[rows])
        count = len(part.labels_B)
        total = total + count * loss(mapped_rows(student, rows), mapped_rows(teacher, rows), part)
    torch.testing.assert_close(total / 6, loss(student, teacher, sample))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("case", ["random", *DEGENERATE])
def test_degenerate_batches_stay_finite(name: str, count: int, case: str) -> None:
    student, teacher = views(count, dtype=torch.float32)
    if case == "zero":
        student, teacher = (mapped(view, torch.zeros_like) for view in (student, teacher))
    if case in ("equal", "student equal"):
        student = mapped(student, lambda values: values[:1].expand_as(values))
    if case in ("equal", "teacher equal"):
        teacher = mapped(teacher, lambda values: values[:1].expand_as(values))
    if case == "huge":
        student, teacher = (mapped(view, lambda values: 1e4 * values) for view in (student, teacher))
    value, of_student, of_parameters = gradients(name, learning(student), teacher)
    assert value.isfinite()
    largest = 1e9 if case == "huge" else 1e4
    for gradient in of_student + of_parameters:
        assert gradient.isfinite().all()
        assert gradient.abs().max() < largest


@pytest.mark.parametrize("name", ["sp", "pkt", "cc", "rkd", "order2", "order3"])
def test_one_image_has_no_relations(name: str) -> None:
    value, of_student, of_parameters = gradients(name, *views(1))
    assert value == 0
    assert not any(gradient.any() for gradient in of_student + of_parameters)


def test_one_image_has_no_correlation_of_classes() -> None:
    student, teacher = views(1)
    whole, without = (gradients("dist", student, teacher, dist_intra=weight) for weight in (1.0, 0.0))
    torch.testing.assert_close(whole, without)


@pytest.mark.parametrize("name", LOSSES)
def test_meta_tensors_have_gradients(name: str) -> None:
    loss = build(name, replace(FACTS, train_labels=None) if name not in ("crd", "crrcd") else FACTS)
    loss = loss.to("meta", torch.float32)
    student, teacher = (
        mapped(random_view(shape, 6, seed=0, dtype=torch.float32), lambda values: values.to("meta"))
        for shape in (STUDENT, TEACHER)
    )
    student = mapped(student, lambda values: values.requires_grad_())
    value = loss(student, teacher, sample_of(6, device="meta"))
    assert value.device.type == "meta"
    wanted = [*tensors(student), *loss.parameters()]
    found = torch.autograd.grad(value, wanted, allow_unused=True)
    assert any(gradient is not None for gradient in found[: len(tensors(student))])
    assert all(gradient is not None for gradient in found[len(tensors(student)) :])


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_and_half_precision_lose_nothing(name: str) -> None:
    student, teacher = (mapped(view, lambda values: values.to(torch.bfloat16)) for view in views(6))
    loss = build(name, dtype=torch.float32)
    sample = sample_of(6)
    wide_views = [mapped(view, lambda values: values.float()) for view in (student, teacher)]
    expected = loss(*wide_views, sample)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher, sample)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_equal_networks_agree(name: str) -> None:
    """Where nothing is to be learnt, losses without layers of their own are at their least, and flat."""
    loss = build(name, replace(FACTS, teacher=STUDENT))
    if list(loss.parameters()) or list(loss.buffers()):
        return
    student = learning(random_view(STUDENT, 6, seed=1))
    value = loss(student, mapped(student, lambda values: values.detach()), sample_of(6))
    value.backward()
    # at_plus's roots begin at 1e-6, so that they are flat at 0.
    assert value.abs() < (2e-5 if name == "at_plus" else 1e-12)
    for values in tensors(student):
        assert values.grad is None or values.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_a_student_of_other_sides_is_taken(name: str) -> None:
    """Smaller images, and maps that are not square: what the loss was built for are channels, not sides."""
    loss = build(name)
    student = learning(random_view(Shape(((3, 3, 2), (6, 1, 1)), STUDENT.embedding), 6, seed=1))
    value = loss(student, random_view(TEACHER, 6, seed=2), sample_of(6))
    value.backward()
    assert value.isfinite()


def test_an_unknown_loss_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"must be one of \['aird', .*but got 'RKDD'; did you mean rkd"):
        loss_spec("RKDD")
    with pytest.raises(ValueError, match=r"but got 'zzzzzz'$"):
        loss_spec("zzzzzz")
    assert loss_spec("kd") is LOSSES["kd"]


def test_settings_start_with_their_losses_names() -> None:
    assert all(name.partition("_")[0] in {known.partition("_")[0] for known in LOSSES} for name in vars(all_settings()))
