"""The training loop: one plain function, the same for every method, executor and number of workers.

It needs torch, the rooms `noise` and `models`, and nothing of Ray, MLflow, Optuna or pydantic.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from models.batchnorm import is_synchronised
from models.methods.method import Batch, LossSum, Method
from models.methods.method import Objective as MethodObjective
from models.sam import Closure, Direction, SamSettings, climbs, sam_step
from noise.keyed import image_keys
from study.checkpoint import Progress
from study.data.augment import augment
from study.data.hashing import hash64
from study.data.image_set import ImageSet
from study.data.loader import RawBatch, batches, steps_per_epoch
from study.memory import telling_out_of_memory
from study.ranks import Ranks

SHARPNESS = "sharpness/m"
"""An epoch's m-sharpness: what SAM's ascents added to the loss, in nats, a mean over its images and updates."""
_CLIMBED = "sharpness/images"
"""How many images stand behind the sum of that name; no objective is called so."""


class Diverged(ValueError):
    """The loss is no longer finite."""


class Stopped(Exception):
    """The trial was asked to stop and has saved where it stands."""


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs of a trial's settings; see `study.config` for their meaning.

    Args:
        crop_padding: Pixels.
        lr: Learning rate of heads and classifier; the backbone's is `lr * backbone_lr_scale`.
        checkpoint_every_steps: Batches, or None for epochs only.
        bf16: Autocast the forward passes to bfloat16.
        clip_norm: Greatest norm of the gradient that an update steps with, or None.
        micro_batch: Images of one forward pass at most, on each worker; None for the whole batch.
        budget_passes: Gradient passes, SAM's included, that end the run in place of `epochs`; None for epochs.
        budget_per_image: The same for each training image.
        step_at: Shares of the training at which the rate of schedule `step` is multiplied by `step_factor`.
    """

    epochs: int
    batch_size: int
    seed: int
    optimizer: Literal["sgd", "adamw"]
    lr: float
    backbone_lr_scale: float
    momentum: float
    weight_decay: float
    schedule: Literal["cosine", "constant", "step"]
    warmup_epochs: int
    sam: SamSettings
    crop_padding: int
    flip: float
    colour: float
    checkpoint_every_steps: int | None = None
    bf16: bool = False
    curriculum_start: float = 1.0
    curriculum_epochs: int = 0
    clip_norm: float | None = None
    micro_batch: int | None = None
    budget_passes: float | None = None
    budget_per_image: float | None = None
    step_at: tuple[float, ...] = ()
    step_factor: float = 0.1


@dataclass(frozen=True)
class Course:
    """How long a run is and how it moves along: its rate and its objectives by the epoch, or by the batch.

    Args:
        epochs: Whole ones without a budget.
        num_steps: Batches of an epoch.
        steps: Batches of the whole run; the last epoch may end early.
        by_step: Whether a budget ends the run; arms then differ in their epochs, so the rate falls and objectives
            change with each batch. A warm-up still lasts its epochs.
    """

    epochs: float
    num_steps: int
    steps: int
    by_step: bool

    def position(self, epoch: int, step: int) -> float:
        """Epochs behind a batch, as schedules count them."""
        return epoch + step / self.num_steps if self.by_step else epoch


def plan_course(settings: LoopSettings, *, num_images: int, passes_per_image: float, world_size: int = 1) -> Course:
    """The length of a run: its epochs, or the batches that its budget of gradient passes buys, to within two batches.

    Args:
        num_images: Training images over all workers.
        passes_per_image: Of the method, without SAM.

    Raises:
        ValueError: The budget buys not even a batch, or only the warm-up.
    """
    num_steps = steps_per_epoch(num_images, batch_size=settings.batch_size, world_size=world_size)
    budget = settings.budget_passes
    if settings.budget_per_image is not None:
        budget = settings.budget_per_image * num_images
    if budget is None:
        return Course(settings.epochs, num_steps, settings.epochs * num_steps, by_step=False)
    each = num_images * passes_per_image * settings.sam.mean_passes / num_steps
    steps = int(budget / each + 1e-9)
    if steps < 1:
        raise ValueError(f"train.budget must buy at least a batch, which costs {each:.0f} passes, but has {budget:g}")
    if steps <= settings.warmup_epochs * num_steps:
        raise ValueError(
            f"optim.warmup_epochs must be below the {steps / num_steps:.1f} epochs that train.budget buys, but got "
            f"{settings.warmup_epochs}"
        )
    return Course(steps / num_steps, num_steps, steps, by_step=True)


def make_optimizer(method: Method, settings: LoopSettings) -> Optimizer:
    """One optimiser over all of a method's parameters, the backbone in a group with a rate of its own."""
    groups = [
        {"params": parameters, "name": name, "scale": settings.backbone_lr_scale if name == "backbone" else 1.0}
        for name, parameters in method.parameter_groups().items()
        if parameters
    ]
    lr, weight_decay = settings.lr, settings.weight_decay
    if settings.optimizer == "sgd":
        return SGD(groups, lr=lr, weight_decay=weight_decay, momentum=settings.momentum)
    return AdamW(groups, lr=lr, weight_decay=weight_decay, betas=(settings.momentum, 0.999))


def lr_at(epoch: float, settings: LoopSettings, *, epochs: float | None = None) -> float:
    """The learning rate of an epoch (from 0): linear warm-up, then a cosine to 0, constant, or falling in steps.

    Source: Loshchilov & Hutter 2017 (arXiv 1608.03983), stepped per epoch as in PMAL's recipe; a run that ends by a
    budget has it stepped per batch.

    Args:
        epoch: A whole one, or with a share of it done.
        epochs: Of the whole run; left out: those of the settings.
    """
    epochs = settings.epochs if epochs is None else epochs
    if epoch < settings.warmup_epochs:
        return settings.lr * (epoch + 1) / (settings.warmup_epochs + 1)
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "step":
        return settings.lr * settings.step_factor ** sum(epoch >= share * epochs for share in settings.step_at)
    share = (epoch - settings.warmup_epochs) / (epochs - settings.warmup_epochs)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * share))


def noise_level_at(epoch: int, settings: LoopSettings) -> float:
    """What training noise's strengths are multiplied by in an epoch (from 0): a line from the start up to 1."""
    if epoch >= settings.curriculum_epochs:
        return 1.0
    return settings.curriculum_start + (1.0 - settings.curriculum_start) * epoch / settings.curriculum_epochs


def train_epochs(
    method: Method,
    optimizer: Optimizer,
    images: ImageSet,
    settings: LoopSettings,
    *,
    progress: Progress,
    ranks: Ranks,
    save: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Iterator[dict[str, float]]:
    """Train from where `progress` stands; yields each epoch's metrics, before the epoch counts as done.

    The caller evaluates, adds to the metrics and saves; then asks for the next epoch.

    Args:
        progress: Changed in place.
        save: Writes a checkpoint of the given progress (called within epochs; the caller saves between them).
        should_stop: Asked after each batch; when true on any worker, all save and raise `Stopped`.

    Raises:
        Diverged: The loss of an epoch is not finite.
        OutOfMemory: An update does not fit the device; the network is then of no more use.
        Stopped: Asked to stop; a checkpoint was written.
    """
    passes_per_image = method.passes_per_image()
    course = plan_course(
        settings, num_images=len(images), passes_per_image=passes_per_image, world_size=ranks.world
    )  # fmt: skip
    while progress.epoch < course.epochs:
        epoch = progress.epoch
        lr = lr_at(epoch, settings, epochs=course.epochs)
        method.network.train()
        started = time.perf_counter()
        sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in progress.loss_sum.items()}
        stream = batches(
            images, batch_size=settings.batch_size, seed=settings.seed, epoch=epoch,
            rank=ranks.rank, world_size=ranks.world, start_step=progress.step,
        )  # fmt: skip
        for raw in islice(stream, course.steps - epoch * course.num_steps - progress.step):
            position = course.position(epoch, progress.step)
            _set_rate(optimizer, lr_at(position, settings, epochs=course.epochs))
            update = epoch * course.num_steps + progress.step
            place = _Place(epoch, progress.step, update, position / course.epochs)
            whole = max(len(raw.labels), -(-settings.batch_size // ranks.world))
            micro_batch = min(settings.micro_batch or whole, whole)
            num_images = min(len(raw.labels), micro_batch)
            with telling_out_of_memory(num_images=num_images, micro_batch=micro_batch, epoch=epoch):
                factor = _train_batch(method, optimizer, raw, settings, place, ranks, sums, progress.directions)
            progress.step += 1
            progress.count += len(raw.labels)
            progress.passes += len(raw.labels) * (passes_per_image * factor)
            stop = ranks.any(should_stop())
            every = settings.checkpoint_every_steps
            if stop or (every and progress.step % every == 0):
                progress.loss_sum = {name: float(value) for name, value in sums.items()}
                progress.seconds += time.perf_counter() - started
                started = time.perf_counter()
                save(progress)
            if stop:
                raise Stopped
        progress.seconds += time.perf_counter() - started
        metrics = _epoch_metrics(sums, progress, lr, ranks)
        if course.by_step:
            metrics["train/epochs"] = course.epochs
        if settings.curriculum_epochs:
            metrics["noise/level"] = noise_level_at(epoch, settings)
        progress.epoch, progress.step, progress.loss_sum, progress.count = epoch + 1, 0, {}, 0
        ranks.average_buffers(method.network)
        yield metrics


def _set_rate(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def device_images(images_BCHW: Tensor, device: torch.device) -> Tensor:
    """uint8 images as float32 in [0, 1] on a device."""
    return images_BCHW.to(device, non_blocking=True).float().div_(255.0)


class _Place(NamedTuple):
    """Where a batch stands: its epoch, its step there, its number in the whole run (all from 0), the share done."""

    epoch: int
    step: int
    update: int
    progress: float


def _train_batch(
    method: Method,
    optimizer: Optimizer,
    raw: RawBatch,
    settings: LoopSettings,
    place: _Place,
    ranks: Ranks,
    sums: dict[str, Tensor],
    directions: dict[str, Direction],
) -> float:
    """Make a batch's updates; gives what they cost, where updates without SAM cost 1.

    All objectives of a batch climb or none does (but for LookSAM's first updates), as the batch's number says.
    """
    device = ranks.torch_device()
    raw = raw.to(device)
    keys_B = image_keys(raw.ids, seed=settings.seed, salt=f"train/{place.epoch}")  # CPU: the sampler branches on them
    images_BCHW = augment(
        device_images(raw.images, device), keys_B.to(device, non_blocking=True), settings=settings,
    )  # fmt: skip
    level = noise_level_at(place.epoch, settings)
    batch = Batch(images_BCHW, raw.labels.to(device), keys_B, level, place.progress, raw.ids)
    count = len(raw.labels)
    weight = _weight(method, count, ranks)
    passes: list[int] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for objective in method.objectives(batch):
            seed = hash64("dropout", settings.seed, place.epoch, place.step, ranks.rank, objective.name)
            direction = directions.setdefault(objective.name, []) if settings.sam.variant == "looksam" else None
            passes.append(2 if climbs(settings.sam, update=place.update, direction=direction) else 1)
            rises: list[Tensor] = []
            loss = sam_step(
                optimizer,
                _mean_loss(objective, settings, count, device, weight=weight, seed=seed),
                parameters=objective.parameters,
                sam=settings.sam,
                modules=method.network,
                reduce=lambda parameters: ranks.average_gradients(parameters, weight),
                clip_norm=settings.clip_norm,
                update=place.update,
                direction=direction,
                on_climb=rises.append,
            )
            _add(sums, objective.name, loss.detach().double() * weight)
            for rise in rises:
                _add(sums, SHARPNESS, rise * weight)
                _add(sums, _CLIMBED, torch.tensor(weight, dtype=torch.float64))
    return sum(passes) / len(passes)


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Add to a sum, which stays on the value's device: nothing waits for it within an epoch."""
    sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)).to(value.device) + value


def _weight(method: Method, count: int, ranks: Ranks) -> float:
    """What this worker's images are divided by in its loss, and weigh in the mean over workers: their number.

    Under shared batch statistics a worker's backward pass also holds the other workers' losses, so all must weigh the
    same: the mean number, also where the last batch is uneven.
    """
    if ranks.world == 1 or not is_synchronised(method.network):
        return count
    return float(ranks.sum(torch.tensor(float(count)))) / ranks.world


def _mean_loss(
    objective: MethodObjective, settings: LoopSettings, count: int, device: torch.device, *, weight: float, seed: int
) -> Closure:
    """The loss of a batch of `count` images over `weight`: whole, or as terms of its micro-batches that add up to it.

    Each call draws the same masks of dropout: to SAM, both passes are of one function.
    """

    def loss(part: slice) -> LossSum:
        with torch.autocast(device.type, dtype=torch.bfloat16) if settings.bf16 else nullcontext():
            return objective.loss(part)

    def whole() -> Tensor:
        _seed(seed, device)
        part = loss(slice(None))
        return part.total / (part.count * (weight / count))

    def terms() -> Iterator[Tensor]:
        _seed(seed, device)
        for part in micro_batches(count, settings.micro_batch or count):
            yield loss(part).total / weight

    if settings.micro_batch is None:
        return whole
    if not objective.decomposable:
        raise ValueError(
            f"train.micro_batch must be left out with {objective.name}, whose loss compares the images of a batch with "
            "each other, so that the losses of slices are not that of the whole"
        )
    return terms


def micro_batches(count: int, most: int) -> list[slice]:
    """As few slices as hold at most `most` images each, and as even as can be; none has a single image.

    Batch normalisation cannot take one image alone, so where `most` is 2 and the count odd, one slice has three.
    """
    number = max(1, min(-(-count // most), count // 2))
    edges = [count * index // number for index in range(number + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]


def _seed(seed: int, device: torch.device) -> None:
    """Of the process's generators, which dropout inside a backbone draws from."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _epoch_metrics(sums: dict[str, Tensor], progress: Progress, lr: float, ranks: Ranks) -> dict[str, float]:
    names = sorted(sums)
    count = torch.tensor(progress.count, dtype=torch.float64)
    packed = torch.stack([value.to(ranks.torch_device()) for value in (*(sums[name] for name in names), count)])
    packed = ranks.sum(packed).cpu()
    totals = dict(zip(names, packed[:-1], strict=True))
    rise, climbed = totals.pop(SHARPNESS, None), totals.pop(_CLIMBED, None)
    means = {f"loss/{name}": float(value / packed[-1]) for name, value in totals.items()}
    total = sum(means.values())
    if not math.isfinite(total):
        raise Diverged(
            f"the training loss is not finite in epoch {progress.epoch + 1} ({means}); lower optim.lr or optim.sam.rho"
        )
    sharpness = {} if rise is None or climbed is None else {SHARPNESS: float(rise / climbed)}
    return {"loss/train": total, **means, **sharpness, "lr": lr}
