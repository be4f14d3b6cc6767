"""The update step of the loop: micro-batches, SAM every k batches, clipping, and what they cost."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.methods.method import Batch, Method, Objective
from models.methods.registry import METHODS
from study.build import build_method, loop_settings
from study.checkpoint import Progress
from study.data.image_set import ImageSet
from study.estimate import measure
from study.loop import device_images, make_optimizer, micro_batches, train_epochs
from study.ranks import Ranks
from tests.unit.study.trials import PMAL, tiny_config
from tests.unit.study.workers import run_workers

CPU = torch.device("cpu")
IMAGES = 21


def make_images(count: int = IMAGES) -> ImageSet:
    generator = np.random.default_rng(5)
    return ImageSet(
        images=generator.integers(0, 256, size=(count, 32, 32, 3), dtype=np.uint8),
        labels=np.arange(count, dtype=np.int64) % 3,
        ids=np.arange(count, dtype=np.int64),
        class_names=("a", "b", "c"),
    )


def without_statistics(method: Method) -> Method:
    """In float64, with batch norms that keep to their stored statistics."""
    method.network.double().eval()
    method.network.train = lambda mode=True: method.network  # type: ignore[method-assign]
    return method


def train(method: Method, config: Any, ranks: Ranks | None = None, *, images: ImageSet | None = None) -> Progress:
    settings = loop_settings(config, CPU)
    progress = Progress()
    for _ in train_epochs(
        method, make_optimizer(method, settings), images or make_images(), settings, progress=progress,
        ranks=ranks or Ranks(device="cpu"), save=lambda _: None, should_stop=lambda: False,
    ):  # fmt: skip
        pass
    return progress


def watch(method: Method, see: Callable[[Tensor], None]) -> None:
    """Have the images of each forward pass seen."""
    method.passes_per_image()  # counts its operations on a copy of the network, and then no more
    backbone = getattr(method.network, "backbone", method.network)
    backbone.model.conv1.register_forward_pre_hook(lambda _, args: see(args[0].detach()))


def weights(method: Method) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in method.network.named_parameters()}


def config_of(method: dict[str, Any], *, train: dict[str, Any] | None = None, **optim: Any) -> Any:
    return tiny_config(
        method=method,
        noise={"train": ["speckle_noise"]},
        train={"epochs": 1, "batch_size": 8, **(train or {})},
        optim={"lr": 0.02, "sam": {"rho": 0.05}, **optim},
    )


@pytest.fixture
def double_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.loop.device_images", lambda images, device: device_images(images, device).double())


@pytest.mark.parametrize("count", range(1, 20))
@pytest.mark.parametrize("most", [2, 3, 4, 7, 64])
def test_micro_batches_hold_every_image_once_and_never_one_alone(count: int, most: int) -> None:
    parts = micro_batches(count, most)
    assert [i for part in parts for i in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= (3 if most == 2 and count % 2 else most)
    assert min(sizes) >= min(2, count)


@pytest.mark.slow
@pytest.mark.usefixtures("double_images")
@pytest.mark.parametrize("method", [{"name": "plain"}, PMAL], ids=["plain", "pmal"])
@pytest.mark.parametrize(
    "optim",
    [{"sam": {"rho": 0.0}}, {}, {"sam": {"rho": 0.05, "every": 2, "variant": "looksam"}, "clip_norm": 0.5}],
    ids=["base", "sam", "looksam"],
)
def test_micro_batches_make_the_updates_of_the_whole_batch(method: dict[str, Any], optim: dict[str, Any]) -> None:
    """21 images in batches of 8, 8 and 5: slices of 3 3 2 and of 3 2, in both of SAM's sweeps."""
    found = []
    for micro_batch in (None, 3):
        config = config_of(method, train={"micro_batch": micro_batch}, **optim)
        built = without_statistics(build_method(config, num_classes=3))
        sizes: list[int] = []
        watch(built, lambda images, sizes=sizes: sizes.append(len(images)))
        progress = train(built, config)
        found.append((weights(built), progress.passes))
        assert max(sizes) == (micro_batch or 8)
    (whole, passes), (summed, also) = found
    assert passes == also
    start = weights(without_statistics(build_method(config_of(method), num_classes=3)))
    assert any(not torch.equal(start[name], value) for name, value in whole.items())
    for name, value in whole.items():
        torch.testing.assert_close(summed[name], value, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.usefixtures("double_images")
def test_both_sweeps_see_the_same_noise() -> None:
    config = config_of({"name": "plain"}, train={"micro_batch": 3})
    built = without_statistics(build_method(config, num_classes=3))
    seen: list[Tensor] = []
    watch(built, lambda images: seen.append(images.clone()))
    train(built, config, images=make_images(8))
    assert [len(images) for images in seen] == [2, 3, 3, 2, 3, 3]
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert torch.equal(first, second)


def test_a_loss_over_pairs_refuses_micro_batches() -> None:
    config = config_of({"name": "plain"}, train={"micro_batch": 3})
    built = build_method(config, num_classes=3)
    objectives = built.objectives

    def relational(batch: Batch) -> Iterator[Objective]:
        return (replace(objective, decomposable=False) for objective in objectives(batch))

    built.objectives = relational  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"train\.micro_batch must be left out with classify"):
        train(built, config)


def test_a_method_over_pairs_is_refused_by_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "plain", METHODS["plain"]._replace(decomposable=False))
    with pytest.raises(ValueError, match=r"train\.micro_batch must be left out with method\.name: plain"):
        config_of({"name": "plain"}, train={"micro_batch": 3})
    config_of(PMAL, train={"micro_batch": 3})


@pytest.mark.parametrize(
    ("sam", "expected"),
    [
        ({"rho": 0.0}, 21),
        ({"rho": 0.05}, 42),
        ({"rho": 0.05, "every": 2}, 21 + 8 + 5),  # batches of 8, 8 and 5: the first and the last climb
        ({"rho": 0.05, "every": 3, "variant": "looksam"}, 21 + 8),
        ({"rho": 0.05, "variant": "sam_on"}, 42),
    ],
)
def test_passes_are_those_made(sam: dict[str, Any], expected: int) -> None:
    config = config_of({"name": "plain"}, sam=sam)
    built = build_method(config, num_classes=3)
    seen: list[int] = []
    watch(built, lambda images: seen.append(len(images)))
    progress = train(built, config)
    assert progress.passes == expected
    assert sum(seen) == expected


def test_the_number_of_a_batch_goes_on_over_epochs() -> None:
    config = config_of({"name": "plain"}, train={"epochs": 2}, sam={"rho": 0.05, "every": 2})
    built = build_method(config, num_classes=3)
    assert train(built, config).passes == (21 + 8 + 5) + (21 + 8)  # batches 0, 2 and 4 of 6


@pytest.mark.slow
def test_every_objective_of_pmal_climbs_and_keeps_a_direction_of_its_own() -> None:
    config = config_of(PMAL, sam={"rho": 0.05, "every": 2, "variant": "looksam"})
    built = build_method(config, num_classes=3)
    progress = train(built, config)
    assert set(progress.directions) == {"stage1", "stage2", "clean"}
    sizes = {name: sum(part is not None for part in parts) for name, parts in progress.directions.items()}
    assert len(set(sizes.values())) == 3, sizes
    for parts in progress.directions.values():
        assert any(part is not None and bool(part.any()) for part in parts)
    assert progress.passes == pytest.approx((21 + 8 + 5) * built.passes_per_image())


@pytest.mark.parametrize("every", [1, 4])
def test_the_estimate_counts_the_share_that_climbs(every: int) -> None:
    cost = measure(config_of({"name": "plain"}, sam={"rho": 0.05, "every": every}), num_classes=3)
    assert cost.passes == pytest.approx(1 + 1 / every)


def test_a_gradient_is_clipped_in_training() -> None:
    config = config_of({"name": "plain"}, train={"epochs": 1, "batch_size": 32}, clip_norm=1e-3, momentum=0.0,
                       weight_decay=0.0)  # fmt: skip
    built = build_method(config, num_classes=3)
    before = torch.cat([value.flatten() for value in weights(built).values()]).clone()
    train(built, config)
    after = torch.cat([value.flatten() for value in weights(built).values()])
    assert (after - before).norm() == pytest.approx(0.02 * 1e-3, rel=0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("double_images")
@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("method", [{"name": "plain"}, PMAL], ids=["plain", "pmal"])
def test_two_workers_train_as_one(
    method: dict[str, Any], micro_batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen batch statistics; 21 images in batches of 8, 8 and 5, so that the last one is uneven: 3 and 2."""
    config = config_of(method, train={"micro_batch": micro_batch}, sam={"rho": 0.05, "every": 2})
    alone = without_statistics(build_method(config, num_classes=3))
    passes = train(alone, config).passes
    methods = [without_statistics(build_method(config, num_classes=3)) for _ in range(2)]
    found = run_workers(2, lambda ranks: train(methods[ranks.rank], config, ranks), monkeypatch)
    assert sum(progress.passes for progress in found) == pytest.approx(passes)
    for name, value in weights(alone).items():
        assert torch.equal(weights(methods[0])[name], weights(methods[1])[name])
        torch.testing.assert_close(weights(methods[0])[name], value, rtol=1e-4, atol=1e-6, msg=name)  # float32 sums
