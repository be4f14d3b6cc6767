"""Views and settings that the tests of the distillation losses share: two networks that differ in all shapes."""

import importlib
import pkgutil
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import models.distillation
from models.distillation.loss import DistillationLoss, Facts, Sample, Shape, View
from models.distillation.registry import loss_spec

NUM_CLASSES, NUM_ROWS = 5, 40
STUDENT = Shape(maps=((3, 4, 4), (6, 2, 2)), embedding=6)
TEACHER = Shape(maps=((2, 8, 8), (4, 8, 8), (7, 4, 4)), embedding=7)
FACTS = Facts(STUDENT, TEACHER, NUM_CLASSES, train_labels=torch.arange(NUM_ROWS) % NUM_CLASSES)


def all_settings(**changes: Any) -> Any:
    """The defaults of all losses' settings, as a method has them, with changes."""
    values: dict[str, Any] = {}
    for module in pkgutil.iter_modules(models.distillation.__path__, "models.distillation."):
        for found in vars(importlib.import_module(module.name)).values():
            if isinstance(found, type) and is_dataclass(found) and found.__name__.endswith("Settings"):
                values |= {field.name: field.default for field in fields(found)}
    assert set(changes) <= set(values)
    return SimpleNamespace(**(values | changes))


def build(name: str, facts: Facts = FACTS, *, dtype: torch.dtype = torch.float64, **changes: Any) -> DistillationLoss:
    """A loss by name, its parameters from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return loss_spec(name).build(facts, all_settings(**changes)).to(dtype)


def random_view(
    shape: Shape, count: int, *, seed: int, dtype: torch.dtype = torch.float64, spread: float = 1.0
) -> View:
    """Random values of about `spread`; the student's take gradients where the caller says so."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*sides: int) -> Tensor:
        return (spread * torch.randn(*sides, generator=generator, dtype=torch.float64)).to(dtype)

    maps = tuple(draw(count, *sides) for sides in shape.maps)
    return View(maps, draw(count, shape.embedding), draw(count, NUM_CLASSES), draw(NUM_CLASSES, shape.embedding))


def learning(view: View) -> View:
    """The same values, each a leaf that takes gradients."""
    return mapped(view, lambda values: values.detach().clone().requires_grad_())


def mapped(view: View, change: Any) -> View:
    """With every tensor changed."""
    assert view.classifier_ND is not None
    maps = tuple(change(values) for values in view.maps)
    return View(maps, change(view.embedding_BD), change(view.logits_BN), change(view.classifier_ND))


def tensors(view: View) -> list[Tensor]:
    """All tensors of a view."""
    assert view.classifier_ND is not None
    return [*view.maps, view.embedding_BD, view.logits_BN, view.classifier_ND]


def sample_of(count: int, *, progress: float = 0.5, device: str = "cpu") -> Sample:
    """Labels and rows that agree with `FACTS`."""
    rows_B = (torch.arange(count) * 3) % NUM_ROWS
    return Sample((rows_B % NUM_CLASSES).to(device), rows_B.to(device), torch.arange(count), progress)
