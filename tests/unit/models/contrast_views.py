"""Random views and samples of small networks, for tests of the contrastive losses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.distillation.loss import DistillationLoss, Facts, Sample, Shape, View

NUM_CLASSES = 3
LABELS_n = torch.arange(30) * 7 % NUM_CLASSES


def shape(embedding: int, *, channels: int | None = None, side: int = 2) -> Shape:
    return Shape(((4, 2 * side, 2 * side), (channels or embedding, side, side)), embedding)


def facts(student: Shape, teacher: Shape, labels_n: Tensor | None = LABELS_n) -> Facts:
    return Facts(student, teacher, NUM_CLASSES, labels_n)


def view(
    of: Shape, *, batch: int = 5, seed: int = 0, fill: float | None = None, dtype: torch.dtype = torch.float64
) -> View:
    """Random values, or all of one value; all carry gradients."""
    generator = torch.Generator().manual_seed(seed)

    def make(*sizes: int) -> Tensor:
        values = torch.randn(sizes, generator=generator, dtype=dtype)
        return (values if fill is None else torch.full_like(values, fill)).requires_grad_()

    maps = tuple(make(batch, *each) for each in of.maps)
    return View(maps, make(batch, of.embedding), make(batch, NUM_CLASSES), make(NUM_CLASSES, of.embedding))


def sample(batch: int = 5, *, first_row: int = 0, first_key: int = 100) -> Sample:
    rows_B = torch.arange(first_row, first_row + batch) * 4 % len(LABELS_n)
    return Sample(LABELS_n[rows_B], rows_B, torch.arange(first_key, first_key + batch))


def take(of: View, images: slice) -> View:
    return of._replace(
        maps=tuple(each[images] for each in of.maps),
        embedding_BD=of.embedding_BD[images],
        logits_BN=of.logits_BN[images],
    )


def take_sample(of: Sample, images: slice) -> Sample:
    return of._replace(labels_B=of.labels_B[images], rows_B=of.rows_B[images], keys_B=of.keys_B[images])


def to_meta(values: Any) -> Any:
    """A view or sample of shapes alone; keys stay on the CPU."""
    if isinstance(values, Sample):
        return values._replace(labels_B=values.labels_B.to("meta"), rows_B=values.rows_B.to("meta"))
    maps, *others = [
        tuple(_shape_alone(x) for x in each) if isinstance(each, tuple) else _shape_alone(each) for each in values
    ]
    return View(maps, *others)


def _shape_alone(values: Tensor) -> Tensor:
    return values.detach().to("meta").requires_grad_()


def gradients(of: View) -> list[Tensor | None]:
    return [each.grad for each in (*of.maps, of.embedding_BD, of.logits_BN, of.classifier_ND) if each is not None]


def check_trains(build: Callable[[], DistillationLoss], student: View, teacher: View, given: Sample) -> None:
    """Every parameter and the student get a gradient, the teacher none; in float32 and under autocast too."""
    module = build().double()
    module(student, teacher, given).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    assert student.embedding_BD.grad is not None or student.maps[-1].grad is not None
    assert gradients(teacher) == [None] * len(gradients(teacher))


def check_finite(module: DistillationLoss, student: Shape, teacher: Shape) -> None:
    """Values and gradients are finite for one and two images, equal images, and features of zero."""
    for batch in (1, 2, 5):
        for fill in (None, 0.0, 1.0):
            own = view(student, batch=batch, fill=fill)
            loss = module(own, view(teacher, batch=batch, fill=fill, seed=1), sample(batch))
            assert loss.shape == ()
            loss.backward()
            found = [grad for grad in (*gradients(own), *(p.grad for p in module.parameters())) if grad is not None]
            assert all(torch.isfinite(values).all() for values in (loss, *found)), (batch, fill)


def check_precise(build: Callable[[], DistillationLoss], student: Shape, teacher: Shape) -> None:
    """Half-precision views under autocast give what the same values give in float32."""
    halves = [view(of, seed=seed, dtype=torch.bfloat16) for seed, of in enumerate((student, teacher))]
    torch.manual_seed(0)
    module = build()
    wholes = [
        View(tuple(m.float() for m in v.maps), *(x.float() for x in v[1:] if isinstance(x, Tensor))) for v in halves
    ]
    expected = module(*wholes, sample())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(*halves, sample())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
