"""Small functions of vectors that contrastive losses share: unit length, full precision, pairs of different images.

Shape suffixes: B batch.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_LEAST_SQUARE = 1e-24


def unit(values: Tensor) -> Tensor:
    """x / |x| of each vector of the last dimension; 0 without gradient where |x| <= 1e-12."""
    square = values.square().sum(-1, keepdim=True)
    long = square > _LEAST_SQUARE
    return values * torch.where(long, torch.where(long, square, 1).rsqrt(), 0)


def full_precision(values: Tensor) -> AbstractContextManager[object]:
    """Products of matrices in it are not cast down by autocast, on the device of `values`."""
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def other_images(num_images: int, like: Tensor) -> Tensor:
    """(B, B): 1 for a pair of two images, 0 for an image with itself; of the type and device of `like`."""
    return 1 - torch.eye(num_images, dtype=like.dtype, device=like.device)
