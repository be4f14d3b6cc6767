"""Memory banks: a vector of each training image, to contrast a batch with, and which images are of other classes.

Shape suffixes: B batch, P images whose vectors are pending, n training images, D values of a vector, K negatives,
N classes.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillation.draws import integers
from models.distillation.vectors import directions

_NUM_PROBES = 32  # random directions, to measure how large a new bank's similarities are


class MemoryBank(nn.Module):
    """A vector of each training image, moved towards what a network last made of the image.

    New banks are uniform in +-sqrt(3/D), of length about 1, drawn from torch's default generator, which the caller
    seeds. They are buffers, checkpointed with the network.
    """

    values_nD: Tensor

    def __init__(self, num_rows: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("values_nD", (2 * torch.rand(num_rows, dim) - 1) * math.sqrt(3 / dim))

    def level(self, temperature: float) -> Tensor:
        """log of the mean of exp(similarity / temperature) of random directions, a scalar.

        Draws from torch's default generator.
        """
        probes_PD = directions(torch.randn(_NUM_PROBES, self.values_nD.shape[1]))
        similarity_Pn = probes_PD @ self.values_nD.T
        return (similarity_Pn / temperature).flatten().logsumexp(0) - math.log(similarity_Pn.numel())

    def update(self, rows_P: Tensor, values_PD: Tensor, *, momentum: float) -> None:
        """The mean of old and new by momentum, at unit length; a row that comes twice must come with equal values."""
        old_PD = self.values_nD[rows_P]
        self.values_nD[rows_P] = directions(momentum * old_PD + (1 - momentum) * values_PD.to(old_PD.dtype))


class OtherClasses(nn.Module):
    """Draws training images of other classes than an image's own.

    Its buffers follow from the labels and are not checkpointed.

    Raises:
        ValueError: All images are of one class.
    """

    labels_n: Tensor
    by_class_n: Tensor
    starts_N: Tensor
    counts_N: Tensor

    def __init__(self, labels_n: Tensor) -> None:
        super().__init__()
        counts_N = torch.bincount(labels_n)
        if int((counts_N > 0).sum()) < 2:
            raise ValueError(
                "crd draws negatives of other classes: training images must be of two classes or more, "
                f"but got {len(labels_n)} images of {int((counts_N > 0).sum())}; take other data or another loss"
            )
        self.register_buffer("labels_n", labels_n, persistent=False)
        self.register_buffer("by_class_n", labels_n.argsort(stable=True), persistent=False)
        self.register_buffer("starts_N", counts_N.cumsum(0) - counts_N, persistent=False)
        self.register_buffer("counts_N", counts_N, persistent=False)

    def forward(self, rows_B: Tensor, keys_B: Tensor, count: int) -> Tensor:
        """int64 rows of shape (B, K): none twice where there are enough, else drawn with replacement.

        Args:
            rows_B: int64, of the images themselves.
            keys_B: int64, what is drawn from, on the device of `rows_B`.
            count: K.
        """
        labels_B = self.labels_n[rows_B]
        own_B1, start_B1 = self.counts_N[labels_B, None], self.starts_N[labels_B, None]
        places_BK = integers(keys_B, count, high_B1=len(self.labels_n) - own_B1, stream=0)
        return self.by_class_n[places_BK + own_B1 * (places_BK >= start_B1)]


def first_of_each(rows_P: Tensor) -> Tensor:
    """For each entry the place of the first entry with the same row, int64 (P): no value is waited for."""
    sorted_P, order_P = torch.sort(rows_P, stable=True)
    return order_P[torch.searchsorted(sorted_P, rows_P)]


def gather_rows(rows_P: Tensor, values_PD: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and values of all workers, in order of rank; every worker must call it, also one that has none.

    Without a `torch.distributed` group of several workers, or where only shapes are counted (meta device), they are
    returned as they are.

    Args:
        rows_P: int64; P may differ between workers.
        values_PD: D may not.
    """
    if rows_P.is_meta or not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows_P, values_PD
    own = torch.tensor([len(rows_P)], device=rows_P.device)
    counts = [int(count) for count in torch.cat(_gathered(own)).tolist()]
    missing = max(counts) - len(rows_P)
    parts = _gathered(F.pad(rows_P, (0, missing))), _gathered(F.pad(values_PD, (0, 0, 0, missing)))
    rows, values = (torch.cat([part[:count] for part, count in zip(each, counts, strict=True)]) for each in parts)
    return rows, values


def _gathered(values: Tensor) -> list[Tensor]:
    """Every worker's tensor, all of one shape."""
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return parts
