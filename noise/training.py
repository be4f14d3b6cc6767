"""Training noise: (clean target, noisy input) pairs, drawn for each image by its key.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from noise.corruption import corrupt_checked
from noise.families import find, parameters_at
from noise.filters import gaussian_filter
from noise.keyed import fold_in, integers, normal, uniform

PMAL_PAIR = "pmal_pair"
TRAINING_ONLY = frozenset({PMAL_PAIR})
"""Training noise that is no corruption of the benchmark."""

_AFFINE_SHARE, _BLUR_SHARE, _PER_CHANNEL_SHARE = 0.2, 0.5, 0.5
_MAX_TURN = math.radians(15.0)
_MAX_SHIFT, _MAX_ZOOM, _MAX_BLUR = 0.2, 0.2, 3.0
_MAX_SIGMA = 0.05 / 2  # the paper's 0.05 is for images in [-1, 1]
_BLUR_REACH = round(4 * _MAX_BLUR)
_MAX_STRENGTH = 5
_GREY = 0.5  # what an affine map leaves empty: 0 of images in [-1, 1]


class NoiseType(NamedTuple):
    """One kind of training noise.

    Args:
        name: a corruption, or `pmal_pair` (whose strength is its own; severities have no effect there).
        severities: drawn from evenly, where no strength is given.
        probability: share of images that get it.
        strength: least and most strength in units of severity, 0 to 5, drawn evenly for each image. Corruptions with
            a single number as parameter (`Corruption.neutral`) take any value; the others the nearest severity, and
            below 1/2 nothing.
    """

    name: str
    severities: tuple[int, ...] = (1, 2, 3)
    probability: float = 0.5
    strength: tuple[float, float] | None = None


class NoisyPair(NamedTuple):
    """What a method trains on.

    Args:
        target_BCHW: the image to restore.
        input_BCHW: the image to see; may leave [0, 1] for `pmal_pair`.
        record: per image, on the device of the keys: `kind`, int64 (B,), index into the sampler's types, -1 for none;
            `severity`, int64, 0 where it has none; `strength`, float32, in units of severity, and for `pmal_pair` the
            noise's standard deviation over its largest.
    """

    target_BCHW: Tensor
    input_BCHW: Tensor
    record: dict[str, Tensor]


class TrainingNoise:
    """A mixture of noise types; each image gets one of them by its probability, or stays clean.

    Args:
        types: the mixture; probabilities sum to at most 1.
        scale: as in `noise.corruption.corrupt`.

    Raises:
        ValueError: an unknown name, a severity that is not 1 to 5, or probabilities that are none.
    """

    def __init__(self, types: Sequence[NoiseType], *, scale: str = "nearest") -> None:
        for kind in types:
            if kind.name not in TRAINING_ONLY:
                find(kind.name)
            if kind.strength is not None and not 0 <= kind.strength[0] <= kind.strength[1] <= _MAX_STRENGTH:
                raise ValueError(f"strength must be two numbers from 0 to 5, least first, but got {kind.strength!r} "
                                 f"for {kind.name}")  # fmt: skip
            if not kind.severities or not set(kind.severities) <= set(range(1, 6)):
                raise ValueError(f"severities must be 1 to 5, but got {kind.severities!r} for {kind.name}")
            if not 0.0 <= kind.probability <= 1.0:
                raise ValueError(f"probability must be 0 to 1, but got {kind.probability!r} for {kind.name}")
        total = sum(kind.probability for kind in types)
        if total > 1.0 + 1e-9:
            raise ValueError(f"probabilities must sum to at most 1, but sum to {total:g}")
        self.types = tuple(types)
        self.scale = scale

    def __call__(self, images_BCHW: Tensor, keys_B: Tensor, *, draw: int = 0, level: float = 1.0) -> NoisyPair:
        """A pair for each image: the same images, keys, draw and level give the same pair.

        Args:
            images_BCHW: float in [0, 1].
            keys_B: int64, (B,); an image's key must differ from epoch to epoch for its noise to do so. Keys on the CPU
                let a batch on an accelerator be divided without waiting for it.
            draw: number of the pair among those drawn for one batch.
            level: what all strengths are multiplied by, 0 to 1, as a curriculum does; whole severities are rounded,
                and below 1/2 an image stays clean.
        """
        if not 0.0 <= level <= 1.0:
            raise ValueError(f"level must be 0 to 1, but got {level!r}")
        keys_B = fold_in(keys_B, f"training/{draw}")
        kind_B = self._kinds(keys_B)
        strength_B = torch.zeros(kind_B.shape, device=kind_B.device)
        severity_B = torch.zeros_like(kind_B)
        target, noisy = images_BCHW.clone(), images_BCHW.clone()
        for index, kind in enumerate(self.types):
            chosen = (kind_B == index).nonzero()[:, 0]
            if not len(chosen):
                continue
            there = chosen.to(images_BCHW.device, non_blocking=True)
            if kind.name == PMAL_PAIR:
                pair = pmal_pair(images_BCHW[there], keys_B[chosen].to(there.device, non_blocking=True), level=level)
                target[there], noisy[there] = pair
                strength_B[chosen] = uniform(keys_B[chosen], (12,), stream="pmal")[:, 11] * level
                continue
            strength_B[chosen] = drawn = _strengths(kind, keys_B[chosen]) * level
            if kind.strength is not None and find(kind.name).neutral is not None:
                noisy[there] = self._at_strengths(images_BCHW[there], kind.name, drawn, keys_B[chosen])
                continue
            severity_B[chosen] = levels = (drawn + 0.5).floor().long()
            strength_B[chosen] = levels.float()
            for severity in sorted(set(levels.tolist()) - {0}):
                some = chosen[levels == severity]
                there = some.to(images_BCHW.device, non_blocking=True)
                noisy[there] = corrupt_checked(
                    images_BCHW[there], kind.name, severity, keys=keys_B[some], scale=self.scale
                )
        return NoisyPair(target, noisy, {"kind": kind_B, "severity": severity_B, "strength": strength_B})

    def _at_strengths(self, images_BCHW: Tensor, name: str, strength_B: Tensor, keys_B: Tensor) -> Tensor:
        device = images_BCHW.device
        parameters = parameters_at(name, strength_B, min(images_BCHW.shape[-2:]), self.scale)
        keys_B = fold_in(keys_B.to(device, non_blocking=True), f"{name}/strength")
        noisy = find(name).op(images_BCHW.float(), parameters.to(device, non_blocking=True), keys_B=keys_B)
        return noisy.clamp(0.0, 1.0).to(images_BCHW.dtype)

    def _kinds(self, keys_B: Tensor) -> Tensor:
        draw_B1 = uniform(keys_B, (1,), stream="kind")
        bounds = torch.tensor([kind.probability for kind in self.types], device=keys_B.device).cumsum(0)
        kind_B = (draw_B1 >= bounds).sum(1)
        return torch.where(kind_B == len(self.types), torch.full_like(kind_B, -1), kind_B)


def _strengths(kind: NoiseType, keys_B: Tensor) -> Tensor:
    """Strengths in units of severity, float32 (B)."""
    if kind.strength is not None:
        low, high = kind.strength
        return uniform(keys_B, (1,), stream="strength")[:, 0] * (high - low) + low
    table = torch.tensor(kind.severities, device=keys_B.device, dtype=torch.float32)
    return table[integers(keys_B, (1,), high=len(table), stream="severity")[:, 0]]


def pmal_pair(images_BCHW: Tensor, keys_B: Tensor, *, level: float = 1.0) -> tuple[Tensor, Tensor]:
    """PMAL's own pair: an affine and blurred target, and the target with weak Gaussian noise.

    With probability 0.2 an affine map (zoom 0.8-1.2 per axis, shift up to 20 %, rotation and shear up to 15 degrees),
    with 0.5 a Gaussian blur with sigma ~ U(0, 3) pixels. Input = target + sigma e, sigma ~ U(0, 0.025) per image, with
    probability 0.5 one field e for each channel, else one for all; not clamped.

    Args:
        images_BCHW: float in [0, 1]; the arithmetic is float32.
        keys_B: int64, (B,), on the device of the images.
        level: what both standard deviations, of blur and noise, are multiplied by.

    Returns:
        Target and input, of the shape and dtype of the images. What the affine map leaves empty is grey, 0.5.

    Source: Liu 2024 (arXiv 2401.14336) and its public code's figures, there for images in [-1, 1].
    """
    dtype, images_BCHW = images_BCHW.dtype, images_BCHW.float()
    draw_BP = uniform(keys_B, (12,), stream="pmal")
    signed_BP = draw_BP * 2 - 1
    moved = _affine(images_BCHW, signed_BP[:, 3:10])
    target = torch.where((draw_BP[:, 0] < _AFFINE_SHARE)[:, None, None, None], moved, images_BCHW)
    blurred = gaussian_filter(target, draw_BP[:, 10] * (_MAX_BLUR * level), reach=_BLUR_REACH)
    target = torch.where((draw_BP[:, 1] < _BLUR_SHARE)[:, None, None, None], blurred, target)
    field_BCHW = normal(keys_B, tuple(target.shape[1:]), stream="field")
    per_channel = (draw_BP[:, 2] < _PER_CHANNEL_SHARE)[:, None, None, None]
    field_BCHW = torch.where(per_channel, field_BCHW, field_BCHW[:, :1].expand_as(field_BCHW))
    noisy = target + (draw_BP[:, 11] * (_MAX_SIGMA * level))[:, None, None, None] * field_BCHW
    return target.to(dtype), noisy.to(dtype)


def _affine(images_BCHW: Tensor, signed_BP: Tensor) -> Tensor:
    """Affine maps about the centre from seven values in (-1, 1) for each image; angles are true for any H : W."""
    height, width = images_BCHW.shape[-2:]
    turn, shear_x, shear_y = (signed_BP[:, i] * _MAX_TURN for i in range(3))
    zoom_x, zoom_y = (1 + signed_BP[:, i] * _MAX_ZOOM for i in (3, 4))
    shift_x, shift_y = (signed_BP[:, i] * _MAX_SHIFT * 2 for i in (5, 6))  # the grid goes from -1 to 1
    cos, sin = turn.cos(), turn.sin()
    rotation = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    one = torch.ones_like(turn)
    shear = torch.stack([one, shear_x.tan(), shear_y.tan(), one], 1).view(-1, 2, 2)
    zoom = torch.diag_embed(torch.stack([1 / zoom_x, 1 / zoom_y], 1))
    linear = rotation @ shear @ zoom
    # The grid's units are half a width across and half a height down.
    linear[:, 0, 1] *= height / width
    linear[:, 1, 0] *= width / height
    shift_B21 = torch.stack([shift_x, shift_y], 1)[:, :, None]
    matrix = torch.cat([linear, -linear @ shift_B21], dim=2)  # the centre lands exactly at the shift
    grid = F.affine_grid(matrix, list(images_BCHW.shape), align_corners=False)
    return F.grid_sample(images_BCHW - _GREY, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + _GREY
