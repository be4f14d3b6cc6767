"""Small functions of vectors that losses share: directions, full precision, pairs of different images.

Shape suffixes: B batch.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from models.distillation.loss import View

TINY = 1e-12
"""Vectors of this length or less have no direction."""

Given = ParamSpec("Given")
Value = TypeVar("Value")


def directions(values: Tensor) -> Tensor:
    """``x / |x|`` of each vector of the last dimension, 0 without gradient where ``|x| <= 1e-12``."""
    return values * inverse_norm(values, floor=TINY)


def inverse_norm(values: Tensor, *, floor: float | Tensor) -> Tensor:
    """1 / |x| of each vector of the last dimension, and 0 without gradient where ``|x| <= floor``."""
    square = values.square().sum(-1, keepdim=True)
    long = square > floor * floor
    return torch.where(long, torch.where(long, square, 1).rsqrt(), 0)


def without_autocast(values: Tensor) -> AbstractContextManager[object]:
    """Products of matrices in it are not cast down by autocast, on the device of `values`."""
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def full_precision(method: Callable[Given, Value]) -> Callable[Given, Value]:
    """Run a method without autocast, whose products would be of half precision whatever they are given.

    The device is that of the first argument after `self`, a tensor or a view.
    """

    @functools.wraps(method)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Value:
        first: Any = args[1]
        with without_autocast(first.logits_BN if isinstance(first, View) else first):
            return method(*args, **kwargs)

    return run


def other_images(num_images: int, like: Tensor) -> Tensor:
    """(B, B): 1 for a pair of two images, 0 for an image with itself; of the type and device of `like`."""
    return 1 - torch.eye(num_images, dtype=like.dtype, device=like.device)
