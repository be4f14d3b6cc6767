"""Losses between images over two workers: value and averaged gradient are those of the whole batch on one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from models.distillation.registry import LOSSES
from models.methods.distil import Distil, DistilSettings, LossWeights
from models.methods.method import Batch, Context
from models.methods.plain import Plain, PlainSettings
from study.ranks import Ranks

pytestmark = pytest.mark.integration
COUNT, WORLD = 8, 2
PARTS = (slice(0, 3), slice(3, 8))  # uneven, as a last batch can be
CONTEXT = Context("test_convnext", num_classes=3, image_size=32, seed=1)  # no batch norm: statistics would differ
NAMES = sorted(name for name, spec in LOSSES.items() if spec.relational)


def _method(name: str, *, gather: bool, **changes: Any) -> Distil:
    teacher = Plain(Context("test_resnet", num_classes=3, image_size=32, seed=5), PlainSettings())
    settings = DistilSettings(losses=LossWeights(**{name: 2.0}), label_weight=0.5, gather=gather)
    method = Distil(Context(**{**vars(CONTEXT), "teacher": teacher, **changes}), settings)
    teacher.network.double()
    method.network.double().eval()
    return method


def _batch(part: slice) -> Batch:
    images_BCHW = torch.rand(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids_B = torch.arange(COUNT)[part]
    return Batch(images_BCHW[part], ids_B % 3, ids_B, ids_B=ids_B)


def _bank(part: slice) -> dict[str, torch.Tensor]:
    """CRD's memory after a batch; its cost is counted first, as before a training."""
    method = _method("crd", gather=False, train_ids=torch.arange(COUNT), train_labels=torch.arange(COUNT) % 3)
    method.network.train()
    assert method.passes_per_image() > 1
    batch = _batch(part)
    for step in method.objectives(batch):
        step.loss(slice(None)).total.backward()
    return {name: value for name, value in method.network.losses.state_dict().items() if "bank" in name}


def _work(rank: int, place: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=WORLD)
    ranks, found = Ranks(rank, WORLD, "cpu"), {}
    for name in NAMES:
        method, batch = _method(name, gather=True), _batch(PARTS[rank])
        (step,) = method.objectives(batch)
        part = step.loss(slice(None))
        (part.total / part.count).backward()
        ranks.average_gradients(step.parameters, len(batch))
        value = ranks.sum(part.total.detach()) / COUNT
        found[name] = (value, [parameter.grad for parameter in step.parameters])
    torch.save(_bank(PARTS[rank]), place / f"bank{rank}.pt")
    if rank == 0:
        torch.save(found, place / "found.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    processes.spawn(_work, (folder,), nprocs=WORLD)
    return folder


@pytest.fixture(scope="module")
def of_two(place: Path) -> dict[str, tuple[torch.Tensor, list[torch.Tensor | None]]]:
    return torch.load(place / "found.pt", weights_only=True)


def test_all_workers_remember_all_images(place: Path) -> None:
    mine, other = (torch.load(place / f"bank{rank}.pt", weights_only=True) for rank in range(WORLD))
    alone = _bank(slice(None))
    assert alone
    for name, value in alone.items():
        assert torch.equal(mine[name], other[name])
        torch.testing.assert_close(mine[name], value)


@pytest.mark.parametrize("name", NAMES)
def test_two_workers_have_the_loss_and_the_gradient_of_one(name, of_two):
    (step,) = _method(name, gather=True).objectives(_batch(slice(None)))
    whole = step.loss(slice(None))
    (whole.total / whole.count).backward()
    value, gradients = of_two[name]
    torch.testing.assert_close(value, whole.total.detach() / COUNT, rtol=1e-9, atol=1e-9)
    for parameter, gradient in zip(step.parameters, gradients, strict=True):
        assert (gradient is None) == (parameter.grad is None)
        if gradient is not None and parameter.grad is not None:
            # Gradients travel in float32.
            torch.testing.assert_close(gradient.float(), parameter.grad.float(), rtol=1e-4, atol=1e-6)
