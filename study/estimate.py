"""What a trial costs on this machine, by training the real method for two batches of random images."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from models.methods.method import Method, Teacher
from study.build import build_method, loop_settings
from study.checkpoint import Progress
from study.config import TrialConfig
from study.config_method import teacher_of, teachers_of
from study.data.image_set import ImageSet
from study.evaluate import evaluate
from study.grids import grid_of_test, grid_of_validation, small_grid
from study.loop import make_optimizer, plan_course, train_epochs
from study.ranks import Ranks

MAX_IMAGES = 32
ENOUGH_SECONDS = 4.0
"""When the first batch takes longer than this, no second one is timed."""

_TINY_LR = 1e-8
_WHOLE: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one configuration.

    Attributes:
        passes: Gradient passes (a forward and backward pass of the backbone = 1) for each training image, SAM included.
        train_s: Seconds for each training image.
        evaluate_s: Seconds for each image under one noise.
        parameters: Numbers that train.
        deployed: Those of the model that is exported.
    """

    passes: float
    train_s: float
    evaluate_s: float
    parameters: int
    deployed: int


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Images of each split; `real` are noisy ones that are read with the test split, each once."""

    num_classes: int
    train: int
    validation: int
    test: int
    real: int = 0


def measure(
    config: TrialConfig, *, num_classes: int, device: str = "auto", threads: int = 1, teacher: Teacher | None = None,
    direct_teacher: Teacher | None = None,
) -> Cost:  # fmt: skip
    """Train and evaluate on random images, by the same loop as a trial; weights are random, nothing is downloaded.

    A method that is taught for a share of the epochs is timed while it is; its mean time is taken as its mean passes.

    Args:
        threads: CPU threads of one worker.
        teacher, direct_teacher: Of a method that has them; their weights do not matter.
    """
    ranks = Ranks(device=device)
    plain = _taught_throughout(without_weights(config))
    images = _random_images(min(config.train.batch_size, MAX_IMAGES), config.data.image_size, num_classes)
    with _threads(threads), torch.random.fork_rng():
        method = build_method(
            plain, num_classes=num_classes, teacher=teacher, direct_teacher=direct_teacher, train=images
        )
        method.network.to(ranks.torch_device())
        settings = loop_settings(plain, ranks.torch_device())
        # Every batch climbs here; the share that does in a trial is put in below.
        variant = "sam" if settings.sam.variant == "looksam" else settings.sam.variant
        dearer = dataclasses.replace(settings.sam, every=1, variant=variant)
        climbing_share = settings.sam.mean_passes / dearer.mean_passes
        settings = dataclasses.replace(
            settings,
            epochs=2,
            budget_passes=None,
            budget_per_image=None,
            batch_size=len(images),
            lr=_TINY_LR,
            warmup_epochs=0,
            sam=dearer,
        )
        progress = Progress()
        seconds = _train_seconds(
            train_epochs(
                method, make_optimizer(method, settings), images, settings,
                progress=progress, ranks=ranks, save=_forget, should_stop=_never,
            ),
            progress,
        )  # fmt: skip
        method.network.eval()
        cells = grid_of_validation(config)
        started = time.perf_counter()
        evaluate(method.predict, images, cells, split="validation", seed=0, ranks=ranks, scale=config.noise.scale,
                 lens=config.resolution.evaluation_lens)  # fmt: skip
        evaluated = time.perf_counter() - started
        share = climbing_share * _mean_share(config, method, num_classes=num_classes, teacher=teacher)
    return Cost(
        passes=share * progress.passes / (len(images) * progress.epoch),
        train_s=share * seconds / len(images),
        evaluate_s=evaluated / (len(images) * len(cells)),
        parameters=sum(parameter.numel() for parameter in method.network.parameters()),
        deployed=sum(parameter.numel() for parameter in method.deployed.parameters()),
    )


def without_weights(config: TrialConfig) -> TrialConfig:
    """The same with random weights."""
    return config.model_copy(update={"model": config.model.model_copy(update={"pretrained": False})})


def _taught_throughout(config: TrialConfig) -> TrialConfig:
    if getattr(config.method, "distil_share", 0.0) == 0.0:
        return config
    changed: dict[str, object] = {"distil_share": 1.0}
    if getattr(config.method, "student_input", "") == "clean_then_noisy":
        changed["student_input"] = "clean"
    return config.model_copy(update={"method": config.method.model_copy(update=changed)})


def _mean_share(config: TrialConfig, timed: Method, *, num_classes: int, teacher: Teacher | None) -> float:
    """Mean passes of a trial over those of the epochs that were timed."""
    if _taught_throughout(config) is config:
        return 1.0
    whole = build_method(without_weights(config), num_classes=num_classes, teacher=teacher)
    return whole.passes_per_image() / timed.passes_per_image()


def check_budget(config: TrialConfig, *, num_classes: int, num_images: int, workers: int = 1) -> None:
    """Check that a trial's budget buys what its schedule needs; a student is taken to cost no more than plain training.

    Raises:
        ValueError: It buys not even a batch, or only the warm-up.
    """
    if config.train.budget is None:
        return
    method = None if teacher_of(config.method) else build_method(without_weights(config), num_classes=num_classes)
    plan_course(
        loop_settings(config, torch.device("cpu")), num_images=num_images, world_size=workers,
        passes_per_image=1.0 if method is None else method.passes_per_image(),
    )  # fmt: skip


def whole_passes(config: TrialConfig, *, num_classes: int, num_images: int) -> float | None:
    """Gradient passes for each training image of a whole trial; None where its teachers alone can tell."""
    budget = config.train.budget
    if budget is not None:
        return budget.passes_per_image if budget.passes is None else budget.passes / num_images
    if teachers_of(config.method):
        return None
    method = build_method(without_weights(config), num_classes=num_classes)
    climbs = loop_settings(config, torch.device("cpu")).sam.mean_passes
    return config.train.epochs * method.passes_per_image() * climbs


def epochs_of(config: TrialConfig, cost: Cost, *, num_train: int) -> float:
    """Epochs of a trial; with a budget those that it buys."""
    budget = config.train.budget
    if budget is None:
        return config.train.epochs
    each = budget.passes_per_image if budget.passes is None else budget.passes / num_train
    assert each is not None
    return each / cost.passes


def trial_seconds(
    config: TrialConfig, cost: Cost, sizes: Sizes, *, tested: bool, workers: int = 1, part: Mapping[str, Any] = _WHOLE
) -> float:
    """Seconds of one trial: its epochs, the validation after each and at the end, and the test where it is read.

    Args:
        part: Of the validation grid, that scores the trial (see `study.grids.part_of`); empty for the whole.
    """
    epochs = epochs_of(config, cost, num_train=sizes.train)
    validated = _validated(config, sizes, part) * (math.ceil(epochs) + 1)
    read = sizes.test * len(grid_of_test(config)) + sizes.real if tested else 0
    training = sizes.train * epochs * cost.train_s
    return (training + (validated + read) * cost.evaluate_s) / workers


def validation_seconds(config: TrialConfig, cost: Cost, sizes: Sizes) -> float:
    """Seconds of one look at the whole validation grid by one worker, as finalists of a search get it."""
    return _validated(config, sizes, _WHOLE) * cost.evaluate_s


def _validated(config: TrialConfig, sizes: Sizes, part: Mapping[str, Any]) -> int:
    """Images that one validation looks at, each as often as there are cells."""
    cells = small_grid(config, part) if part else grid_of_validation(config)
    return min(sizes.validation, part.get("images", config.noise.validation_images)) * len(cells)


def _train_seconds(epochs: Iterator[dict[str, float]], progress: Progress) -> float:
    """Seconds of the last batch: the first one warms up."""
    next(epochs)
    if progress.seconds > ENOUGH_SECONDS:
        return progress.seconds
    first = progress.seconds
    next(epochs)
    return progress.seconds - first


def _random_images(count: int, size: int, num_classes: int) -> ImageSet:
    generator = np.random.default_rng(0)
    return ImageSet(
        images=generator.integers(0, 256, size=(count, size, size, 3), dtype=np.uint8),
        labels=np.arange(count, dtype=np.int64) % num_classes,
        ids=np.arange(count, dtype=np.int64),
        class_names=tuple(str(label) for label in range(num_classes)),
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _forget(progress: Progress) -> None:
    del progress


def _never() -> bool:
    return False
