"""Tensors of all workers, with the gradient of this worker's own part: for losses that compare a batch's images.

Workers average their gradients, each weighted by its number of images. Of a loss of the whole batch each worker has
only the gradient through its own images, and their sum is wanted: so the gradient through a worker's own part is scaled
by the number of all images over its own. What the loss itself learns (a relation's layers) has the whole gradient on
every worker, whose average is right as it is.

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
    """The rows of all workers in order of rank, (T, ...); a scaled gradient reaches one's own. All must call it.

    Args:
        part: (B, ...), of the same trailing shape on every worker; B may differ.
    """
    padded = part.new_zeros((max(crowd.counts), *part.shape[1:]))
    padded[: len(part)] = part.detach()
    parts = [torch.empty_like(padded) for _ in crowd.counts]
    dist.all_gather(parts, padded)
    whole = [other[:count] for other, count in zip(parts, crowd.counts, strict=True)]
    fixed = part.detach()
    whole[crowd.rank] = fixed + (part - fixed) * (crowd.total / len(part))
    return torch.cat(whole)
