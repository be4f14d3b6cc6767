"""The update step and layers that draw or share: dropout, bf16, and batch norms frozen or shared by workers."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import study.ranks
from models.batchnorm import batch_norms, synchronise
from models.methods.method import Method
from study.build import build_method
from study.config_resolution import ResolutionConfig
from study.data.loader import batches
from study.ranks import Ranks
from study.trialend import clean_batches
from tests.unit.study.test_update import config_of, make_images, train, watch, weights, without_statistics
from tests.unit.study.trials import PMAL
from tests.unit.study.workers import run_workers


@pytest.fixture
def double_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def images(raw: Tensor, device: torch.device) -> Tensor:
        return raw.double() / 255

    monkeypatch.setattr("study.loop.device_images", images)


# ------------------------------------------------------------------------------------------------------------ dropout
class Dropout(nn.Module):
    """Half of the values dropped by torch's own generator; each mask is recorded."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.functional.dropout(torch.ones_like(x), 0.5)
        self.seen.append(mask > 0)
        return x * mask


def with_dropout(method: Method, seen: list[Tensor]) -> Method:
    """With a backbone that drops values of its stem's map."""
    method.passes_per_image()  # counts its operations on a copy of the network, and then no more
    model: Any = getattr(method.network, "backbone", method.network).model
    model.maxpool = nn.Sequential(model.maxpool, Dropout(seen))
    return method


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_both_passes_of_sam_drop_the_same_and_each_batch_something_else(micro_batch: int | None) -> None:
    config = config_of({"name": "plain"}, train={"micro_batch": micro_batch})
    seen: list[Tensor] = []
    built = with_dropout(build_method(config, num_classes=3), seen)
    state = torch.get_rng_state()
    train(built, config, images=make_images(16))
    assert torch.equal(torch.get_rng_state(), state)
    sweep = len(seen) // 4
    masks = [torch.cat(seen[start : start + sweep]) for start in range(0, len(seen), sweep)]
    assert sweep == (3 if micro_batch else 1)
    assert 0.4 < masks[0].double().mean() < 0.6
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])
    if micro_batch:
        assert not torch.equal(seen[1], seen[2])  # slices of 3 images each


def test_each_of_pmals_updates_drops_something_else_but_its_passes_the_same() -> None:
    config = config_of(PMAL)
    seen: list[Tensor] = []
    built = with_dropout(build_method(config, num_classes=3), seen)
    train(built, config, images=make_images(8))
    noisy, restored, noisy_again, restored_again, second, *_ = seen  # two looks in each pass of the first update
    assert len(seen) == 2 * (2 + 2 + 1)
    assert torch.equal(noisy, noisy_again)
    assert torch.equal(restored, restored_again)
    assert not torch.equal(noisy, restored)
    assert not torch.equal(noisy, second)


# --------------------------------------------------------------------------------------------- both sweeps, and bf16
@pytest.mark.usefixtures("double_images")
def test_both_sweeps_of_pmals_updates_see_the_same_noise() -> None:
    config = config_of({**PMAL, "stages": 1}, train={"micro_batch": 4})
    built = without_statistics(build_method(config, num_classes=3))
    seen: list[Tensor] = []
    watch(built, lambda images: seen.append(images.clone()))
    train(built, config, images=make_images(8))
    assert len(seen) == 2 * 2 * 2 + 2 * 2  # sweeps x slices x looks, then the clean update's sweeps x slices
    for noisy, again in zip(seen[0:4:2], seen[4:8:2], strict=True):
        assert torch.equal(noisy, again)
    for restored, again in zip(seen[1:4:2], seen[5:8:2], strict=True):
        assert not torch.equal(restored, again)  # by the weights that were climbed to
    assert torch.equal(torch.cat(seen[8:10]), torch.cat(seen[10:12]))
    assert not torch.equal(torch.cat(seen[0:4:2]), torch.cat(seen[8:10]))


def moved(precision: str) -> Tensor:
    """How PMAL's weights move in a batch by SAM, without batch statistics, which magnify bf16's last digits."""
    config = config_of(PMAL, train={"precision": precision, "micro_batch": 4}, lr=1e-4)
    built = without_statistics(build_method(config, num_classes=3))
    built.network.float()
    before = torch.cat([value.flatten().clone() for value in weights(built).values()])
    train(built, config, images=make_images(8))
    assert {value.dtype for value in weights(built).values()} == {torch.float32}
    return torch.cat([value.flatten() for value in weights(built).values()]) - before


@pytest.mark.slow
def test_bf16_with_sam_and_micro_batches_moves_pmal_nearly_as_float32() -> None:
    whole, low = moved("float32"), moved("bf16")
    assert bool(low.isfinite().all())
    assert not torch.equal(whole, low)
    assert nn.functional.cosine_similarity(whole, low, dim=0) > 0.99


# ------------------------------------------------------------------------------------- batch norms and several workers
def frozen(config: Any) -> Any:
    """Without the weights of a file that a study file would name."""
    return config.model_copy(update={"model": config.model.model_copy(update={"batch_norm": "frozen"})})


@pytest.mark.usefixtures("double_images")
def test_with_frozen_statistics_workers_and_slices_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """23 images in batches of 8, 8 and 7, of which the workers get 3, 3 and 2, and 3, 2 and 2."""
    images = make_images(23)

    def build(micro_batch: int | None = None) -> tuple[Method, Any]:
        config = frozen(config_of({"name": "plain"}, train={"micro_batch": micro_batch}))
        built = build_method(config, num_classes=3)
        built.network.double()
        return built, config

    (alone, config), (sliced, of_slices), *others = build(), build(3), build(), build(), build()
    before = [norm.running_var.clone() for norm in batch_norms(alone.network) if norm.running_var is not None]
    train(alone, config, images=images)
    train(sliced, of_slices, images=images)
    run_workers(3, lambda ranks: train(others[ranks.rank][0], config, ranks, images=images), monkeypatch)
    start = weights(build()[0])
    assert any(not torch.equal(start[name], value) for name, value in weights(alone).items())
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(sliced)[name], value, rtol=1e-8, atol=1e-10, msg=name)
        torch.testing.assert_close(weights(others[0][0])[name], value, rtol=1e-4, atol=1e-6, msg=name)  # float32 sums
    for built in (alone, sliced, *(method for method, _ in others)):
        found = [norm.running_var for norm in batch_norms(built.network)]
        assert all(torch.equal(one, other) for one, other in zip(before, found, strict=True))  # type: ignore[arg-type]


class _Sum(torch.autograd.Function):
    """Sum over workers, with its gradient."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        study.ranks.dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        (total,) = (gradient.clone() for gradient in gradients)
        study.ranks.dist.all_reduce(total)
        return total


def shared_norm(norm: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """What PyTorch's layer does on GPUs: the moments of all workers' images, whose gradients go to all workers."""
    if not norm.training:
        return nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    axes, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
    count = torch.full((x.shape[1],), x.numel() / x.shape[1], dtype=x.dtype)
    sums: Any = _Sum.apply(torch.stack([x.sum(axes), x.square().sum(axes), count]))
    mean = sums[0] / sums[2]
    deviation = (sums[1] / sums[2] - mean.square() + norm.eps).sqrt()
    return (x - mean.view(shape)) / deviation.view(shape) * norm.weight.view(shape) + norm.bias.view(shape)


@pytest.mark.slow
@pytest.mark.usefixtures("double_images")
@pytest.mark.parametrize("method", [{"name": "plain"}, {**PMAL, "stages": 1}], ids=["plain", "pmal"])
def test_with_shared_statistics_uneven_workers_train_as_one(
    method: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norms in training mode; 21 images in batches of 8, 8 and 5, the last as 3 and 2."""
    config = config_of(method)
    alone, *others = (build_method(config, num_classes=3) for _ in range(3))
    for built in (alone, *others):
        built.network.double()
    one = train(alone, config)
    for built in others:
        synchronise(built.network, device_type="cuda")
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", shared_norm)
    found = run_workers(2, lambda ranks: train(others[ranks.rank], config, ranks), monkeypatch)
    assert sum(progress.passes for progress in found) == pytest.approx(one.passes)
    for name, value in weights(alone).items():
        assert torch.equal(weights(others[0])[name], weights(others[1])[name])
        torch.testing.assert_close(weights(others[0])[name], value, rtol=1e-4, atol=1e-6, msg=name)  # float32 sums


@pytest.mark.parametrize(("count", "batch_size", "world"), [(21, 8, 2), (23, 8, 3), (17, 8, 2), (25, 8, 3)])
def test_workers_see_each_image_once_and_never_one_alone(count: int, batch_size: int, world: int) -> None:
    def parts() -> Iterator[np.ndarray]:
        for rank in range(world):
            stream = batches(make_images(count), batch_size=batch_size, seed=1, epoch=2, rank=rank, world_size=world)
            yield from (raw.ids.numpy() for raw in stream)

    found = list(parts())
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    assert min(map(len, found)) >= 2


@pytest.mark.parametrize(("count", "world"), [(511, 2), (770, 3), (5, 2), (1, 2)])
def test_workers_reestimate_by_equally_many_batches(count: int, world: int) -> None:
    """Shared batch statistics wait for the others in every batch."""
    numbers = []
    for rank in range(world):
        run: Any = SimpleNamespace(
            data=SimpleNamespace(train=make_images(count)),
            config=SimpleNamespace(data=SimpleNamespace(split_seed=0), resolution=ResolutionConfig()),
            ranks=Ranks(rank, world, "cpu"),
        )
        numbers.append([len(images) for images in clean_batches(run)])
    assert len({len(sizes) for sizes in numbers}) == 1 or not min(numbers)
    assert all(size > 1 for sizes in numbers for size in sizes)
    assert count < 2 * world or sum(map(sum, numbers)) == count
