"""Tensors of all workers, with the gradient of this worker's own part: for losses that compare a batch's images.

Workers average their gradients, each weighted by its number of images. A loss of the whole batch has on each worker
only the gradient through that worker's images, whose sum is wanted; `as_share` scales it so that the average is this
sum.

Shape suffixes: B images of this worker, T images of all.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Crowd(NamedTuple):
    """How many images each worker has in this batch; this worker's place among them."""

    counts: tuple[int, ...]
    rank: int

    @property
    def total(self) -> int:
        return sum(self.counts)


def crowd_of(count: int, device: torch.device) -> Crowd | None:
    """The workers of this batch; None with a single one, or where only shapes are counted. All must call it."""
    if device.type == "meta" or not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None
    own = torch.tensor([count], device=device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    return Crowd(tuple(int(one) for one in counts), dist.get_rank())


def gathered(part: Tensor, crowd: Crowd) -> Tensor:
    """The rows of all workers in order of rank, (T, ...); a gradient reaches this worker's own. All must call it.

    Args:
        part: (B, ...), of the same trailing shape on every worker; B may differ.
    """
    padded = part.new_zeros((max(crowd.counts), *part.shape[1:]))
    padded[: len(part)] = part.detach()
    parts = [torch.empty_like(padded) for _ in crowd.counts]
    dist.all_gather(parts, padded)
    whole = [other[:count] for other, count in zip(parts, crowd.counts, strict=True)]
    whole[crowd.rank] = part
    return torch.cat(whole)


def as_share(loss: Tensor, crowd: Crowd) -> Tensor:
    """A loss of the whole batch as a worker's mean loss.

    It has the same value, and a gradient whose mean over workers, weighted by their images, is the loss's own.
    """
    scale = crowd.total / crowd.counts[crowd.rank]
    return loss.detach() + (loss - loss.detach()) * scale
