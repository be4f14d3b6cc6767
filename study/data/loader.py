"""Batches in an order that is a pure function of seed and epoch, shared out over workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from study.data.hashing import hash64, shuffled
from study.data.image_set import ImageSet


class RawBatch(NamedTuple):
    """One rank's part of a batch.

    Attributes:
        images: uint8 (b, 3, height, width).
        labels: int64 (b,).
        ids: int64 (b,).
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor

    def to(self, device: torch.device) -> RawBatch:
        """Images and labels on a device, ids where they were; a GPU's come by pinned memory, so nothing waits."""
        if device.type != "cuda":
            return self._replace(images=self.images.to(device), labels=self.labels.to(device))
        images, labels = (tensor.pin_memory().to(device, non_blocking=True) for tensor in (self.images, self.labels))
        return self._replace(images=images, labels=labels)


def steps_per_epoch(num_images: int, *, batch_size: int, world_size: int = 1) -> int:
    """Number of batches, the same on every rank.

    A last batch that would leave a rank with fewer than two images joins the one before, since batch normalisation
    cannot take a single example: with one worker that is a last batch of one.
    """
    if batch_size < 1 or world_size < 1:
        raise ValueError(f"batch_size and world_size must be positive, but got {batch_size} and {world_size}")
    if num_images < world_size:
        raise ValueError(f"each of {world_size} workers needs an image, but got {num_images}; use fewer workers")
    steps, rest = divmod(num_images, batch_size)
    if rest >= 2 * world_size or steps == 0:
        steps += 1
    return steps


def batches(
    image_set: ImageSet,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    shuffle: bool = True,
) -> Iterator[RawBatch]:
    """One epoch's batches of one rank.

    Over all ranks and steps each image comes exactly once. The order is that of one worker whatever the number of
    workers: rank r gets every `world_size`-th image of each batch.

    Args:
        image_set: The images.
        batch_size: Images of one step over all workers.
        seed: Seed of the order.
        epoch: Each epoch has an order of its own.
        rank: This worker.
        world_size: Number of workers.
        start_step: First step to give; going on there gives the same batches as an epoch never interrupted.
        shuffle: If false, the images come as they are stored and seed and epoch are not used.

    Raises:
        ValueError: `rank` is no worker, or there are fewer images or a smaller batch than workers.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to world_size - 1 = {world_size - 1}, but got {rank}")
    if batch_size < world_size:
        raise ValueError(f"batch_size must be at least the {world_size} workers, but got {batch_size}")
    num_steps = steps_per_epoch(len(image_set), batch_size=batch_size, world_size=world_size)
    rows = np.arange(len(image_set))
    order = shuffled(rows, key=hash64("order", seed, epoch)) if shuffle else rows
    return _generate(
        image_set, order, batch_size, range(start_step, num_steps), num_steps - 1, slice(rank, None, world_size)
    )


def _generate(
    image_set: ImageSet, order: np.ndarray, batch_size: int, steps: range, last_step: int, part: slice
) -> Iterator[RawBatch]:
    for step in steps:
        stop = len(order) if step == last_step else (step + 1) * batch_size
        yield _gather(image_set, order[step * batch_size : stop][part])


def _gather(image_set: ImageSet, rows: np.ndarray) -> RawBatch:
    images = torch.from_numpy(image_set.images[rows])
    return RawBatch(
        images=images.permute(0, 3, 1, 2).contiguous(),
        labels=torch.from_numpy(image_set.labels[rows]),
        ids=torch.from_numpy(image_set.ids[rows]),
    )
