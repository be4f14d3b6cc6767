"""Low resolution: images made smaller to a side in pixels, with noise at that size, then kept small or brought back up.

Down by area means, anti-aliased bilinear or anti-aliased bicubic weights, or one of these drawn for each image; up
always by bicubic weights.

Source: degraded sets for cross-resolution recognition are made so (32 -> 16 -> 32 of CIFAR, 112 -> 28 -> 112 of faces);
see arXiv 2409.05384. A sensor adds its noise at its own resolution, so noise is drawn for the small image.
Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from noise.keyed import fold_in, integers
from noise.training import PMAL_PAIR, NoisyPair, TrainingNoise

KERNELS = ("area", "bilinear", "bicubic")
RANDOM = "random"
MIN_SIDE = 8


class Lens(NamedTuple):
    """How images are made smaller, and whether they stay so.

    Attributes:
        kernel: one of `KERNELS`, or `random`: one of them for each image, by its key.
        small: whether they are kept at the lower side; else they are brought back up.
    """

    kernel: str = "bicubic"
    small: bool = False


def shrink(images_BCHW: Tensor, side: int, *, keys_B: Tensor, kernel: str = "bicubic") -> Tensor:
    """Images with sides of `side` pixels, in [0, 1].

    Args:
        images_BCHW: square, in [0, 1], of more than `side` pixels.
        keys_B: int64; the kernel is drawn by them where it is random.
        kernel: as in `Lens`.

    Raises:
        ValueError: an unknown kernel, or a side that is none or not smaller.
    """
    if kernel not in (*KERNELS, RANDOM):
        raise ValueError(f"kernel must be one of {', '.join((*KERNELS, RANDOM))}, but got {kernel!r}")
    if not MIN_SIDE <= side < images_BCHW.shape[-1]:
        raise ValueError(
            f"side must be from {MIN_SIDE} to below the images' {images_BCHW.shape[-1]} pixels, but got {side}"
        )
    if kernel != RANDOM:
        return _down(images_BCHW, side, kernel)
    drawn_B = integers(fold_in(keys_B, "kernel"), (1,), high=len(KERNELS), stream="kernel")[:, 0]
    drawn_B = drawn_B.to(images_BCHW.device, non_blocking=True)[:, None, None, None]
    small_BCHW = _down(images_BCHW, side, KERNELS[0])
    for index, name in enumerate(KERNELS[1:], start=1):
        small_BCHW = torch.where(drawn_B == index, _down(images_BCHW, side, name), small_BCHW)
    return small_BCHW


def enlarge(images_BCHW: Tensor, side: int) -> Tensor:
    """Images of a lower side brought up to `side` pixels by bicubic weights, clamped to [0, 1]."""
    large_BCHW = F.interpolate(images_BCHW, size=(side, side), mode="bicubic", align_corners=False)
    return large_BCHW.clamp(0.0, 1.0)


def _down(images_BCHW: Tensor, side: int, kernel: str) -> Tensor:
    if kernel == "area":
        return F.interpolate(images_BCHW, size=(side, side), mode="area")
    small_BCHW = F.interpolate(images_BCHW, size=(side, side), mode=kernel, align_corners=False, antialias=True)
    return small_BCHW.clamp(0.0, 1.0)


class LowResolution:
    """Training pairs whose input is of low resolution, and noisy where there is noise; the target is as it was.

    Each image gets one of the sides, by its key. Corruptions act on the small image, before it is brought up;
    `pmal_pair`, which moves its target too, acts on the large one, and so does a mixture that it is part of.

    Args:
        sides: in pixels, drawn from evenly; the images' own side stands for leaving them as they are.
        lens: with `small` there may be a single side.
        noise: training noise; None for none.

    Raises:
        ValueError: no sides, or several that are to be kept small.
    """

    def __init__(self, sides: Sequence[int], *, lens: Lens, noise: TrainingNoise | None = None) -> None:
        if not sides or (lens.small and len(sides) > 1):
            raise ValueError(
                f"sides must be {'one, as a batch of small images has one side' if sides else 'one or more'}, but got "
                f"{list(sides)}"
            )
        self.sides, self.lens, self.noise = tuple(sides), lens, noise
        self._noise_before = noise is not None and any(kind.name == PMAL_PAIR for kind in noise.types)

    def __call__(self, images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> NoisyPair:
        """A pair for each image. Its record has `side`, int64 (B,), in pixels; the noise's only with `pmal_pair`."""
        target_BCHW, seen_BCHW, record = images_BCHW, images_BCHW, {}
        if self.noise is not None and self._noise_before:
            target_BCHW, seen_BCHW, record = self.noise(images_BCHW, keys_B, draw=draw, level=level)
        own = fold_in(keys_B, f"resolution/{draw}")
        sides_B = torch.tensor(self.sides)[integers(own.cpu(), (1,), high=len(self.sides), stream="side")[:, 0].cpu()]
        record = record | {"side": sides_B.to(keys_B.device)}
        parts = [(side, (sides_B == side).nonzero()[:, 0]) for side in self.sides]
        shown = [(chosen, self._seen(seen_BCHW, keys_B, own, side, chosen, draw, level)) for side, chosen in parts]
        if len(shown) == 1:
            return NoisyPair(target_BCHW, shown[0][1], record)
        input_BCHW = torch.empty_like(images_BCHW)
        for chosen, part_BCHW in shown:
            input_BCHW[chosen.to(images_BCHW.device, non_blocking=True)] = part_BCHW
        return NoisyPair(target_BCHW, input_BCHW, record)

    def _seen(
        self, images_BCHW: Tensor, keys_B: Tensor, own: Tensor, side: int, chosen: Tensor, draw: int, level: float
    ) -> Tensor:
        """What is seen of the chosen images."""
        full, there = images_BCHW.shape[-1], chosen.to(images_BCHW.device, non_blocking=True)
        part_BCHW, keys_B, own = images_BCHW[there], keys_B[chosen.to(keys_B.device)], own[chosen.to(own.device)]
        if side < full:
            part_BCHW = shrink(part_BCHW, side, keys_B=own, kernel=self.lens.kernel)
        if self.noise is not None and not self._noise_before:
            part_BCHW = self.noise(part_BCHW, keys_B, draw=draw, level=level).input_BCHW
        return part_BCHW if side == full or self.lens.small else enlarge(part_BCHW, full)
