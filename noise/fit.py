"""What a camera's own images tell of its noise and blur.

Noise: variance = gain * mean + read^2 on blocks of little texture. Blur: the Gaussian that would make the edges as wide
as they are. Both are of the stored values as they stand (sRGB, say), so they hold what the camera's gamma, denoising,
sharpening and JPEG made of the sensor's noise; these cannot be told apart from pictures alone.

Shape suffixes: C channels, H height, W width, K blocks, M bins of brightness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from noise.edges import MIN_EDGES, edge_blur

MIN_SIDE, MIN_RESIZED = 32, 8
_BLOCK, _SHARE, _MAX_BINS, _MIN_CHOSEN, _PER_BIN = 8, 0.05, 16, 20, 60
_MAX_CLIPPED = 0.02
_MEDIAN_OF_MEAN = 0.961
"""Median over mean of the block variances of white noise: chi-square of 17 degrees of freedom, since 64 neighbouring
responses of the mask, with autocorrelations 1, -2/3, 1/6 along each axis, are worth 64 / (1 + 2 (4/9 + 1/36))^2."""

_STEP_VARIANCE = 1 / (12 * 255**2)  # of rounding to 8 bits
_BICUBIC_NOISE = 0.8143
_MIN_RANGE = 0.1
_GROUPS = 8


@dataclass(frozen=True)
class CameraFit:
    """Noise and blur of a camera, in units of [0, 1] and of pixels.

    Args:
        read_sigma: Standard deviation of what does not depend on brightness (rounding to 8 bits taken off).
        shot_gain: a of variance = a * mean + read_sigma^2.
        blur_sigma: Gaussian beyond the pixel's own aperture, in pixels of the images measured.
        read_sigma_spread: How far read_sigma rises when its square rises by a standard error, which is from leaving
            out one of 8 groups of images (of blocks, under 8 images) in turn.
        shot_gain_spread: Standard error of the gain, from the same.
        blur_sigma_spread: Half the distance between the quartiles over images; 0 for one image.
        side: Shorter side of the whole images, in pixels (the median).
        num_images: Images measured.
        num_blur_images: Those with edges enough for the blur.
        num_blocks: Blocks of little texture that the noise is from.
        separated: Whether brightness varied enough to tell shot from read noise; else all is counted as read noise.
    """

    read_sigma: float
    shot_gain: float
    blur_sigma: float
    read_sigma_spread: float
    shot_gain_spread: float
    blur_sigma_spread: float
    side: int
    num_images: int
    num_blur_images: int
    num_blocks: int
    separated: bool

    def noise_at(self, mean: float) -> float:
        """Standard deviation of the noise at a brightness in [0, 1]."""
        return math.sqrt(self.shot_gain * mean + self.read_sigma**2)

    def resized(self, side: int) -> CameraFit:
        """The same camera on its images made smaller, by calculation: white noise is averaged, blur has fewer pixels.

        Standard deviations are multiplied by 0.814 side / self.side, which is what antialiased bicubic resampling
        (a = -1/2) leaves of white noise: the integral of the squared kernel is 0.814 along each axis. Noise that
        hangs together over pixels, as after JPEG, keeps more. To measure on the small images themselves would take
        their fine detail for noise.

        Raises:
            ValueError: The side is larger than the images'.
        """
        if not MIN_RESIZED <= side <= self.side:
            raise ValueError(
                f"the size must be {MIN_RESIZED} to {self.side} pixels, the images' shorter side, but got {side}"
            )
        if side == self.side:
            return self
        scale = side / self.side
        left = _BICUBIC_NOISE * scale
        return replace(
            self,
            read_sigma=self.read_sigma * left,
            read_sigma_spread=self.read_sigma_spread * left,
            shot_gain=self.shot_gain * left**2,
            shot_gain_spread=self.shot_gain_spread * left**2,
            blur_sigma=self.blur_sigma * scale,
            blur_sigma_spread=self.blur_sigma_spread * scale,
            side=side,
        )


class _Line(NamedTuple):
    """variance = gain * mean + offset; the free ones may be negative and serve the standard errors."""

    gain: float
    offset: float
    free_gain: float
    free_offset: float


class _NoiseFit(NamedTuple):
    line: _Line
    num_blocks: int
    separated: bool


def fit_camera(images: Sequence[Tensor], *, names: Sequence[str] | None = None, side: int | None = None) -> CameraFit:
    """Read noise, shot gain and blur of the camera that took the images.

    Args:
        images: float (1 or 3, H, W) in [0, 1], sides from 32 up, of any sizes, each by itself.
        names: What errors call the images; their numbers when None.
        side: Shorter side of the whole images where these are cut-outs; by default the median of theirs.

    Raises:
        ValueError: No image, one of wrong shape or too small, or all of them clipped or without edges.

    Source: A. Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data",
        IEEE TIP 17(10), for the line; J. Immerkaer 1996, "Fast noise variance estimation", CVIU 64(2), for the mask;
        X. Liu, M. Tanaka, M. Okutomi 2013, "Single-image noise level estimation for blind denoising", IEEE TIP 22(12),
        for weak texture; S. Zhuo, T. Sim 2011, "Defocus map estimation from a single image", Pattern Recognition 44(9),
        for the blur. We take a fixed share of blocks by their smoothed gradient in place of Liu's test, and blur
        again in steps that follow the blur found.
    """
    _require_images(images, names)
    rows = [_blocks(image.float()) for image in images]
    line, num_blocks, separated = _noise_line(torch.cat(rows))
    noise = [_grey_noise(image.float(), line) for image in images]
    blurs = [edge_blur(image.float().mean(0), sigma) for image, sigma in zip(images, noise, strict=True)]
    found = torch.tensor([blur for blur in blurs if blur is not None], dtype=torch.float64)
    if not len(found):
        raise ValueError(
            f"none of the {len(images)} images has {MIN_EDGES} edge points that stand out of the noise, so their blur "
            "cannot be measured; add images of scenes with sharp edges (they look flat)"
        )
    quartiles = found.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64))
    read_spread, gain_spread = _spreads(rows, line)
    sides = sorted(min(image.shape[-2:]) for image in images)
    return CameraFit(
        read_sigma=math.sqrt(line.offset),
        shot_gain=line.gain,
        blur_sigma=found.quantile(0.5).item(),
        read_sigma_spread=read_spread,
        shot_gain_spread=gain_spread,
        blur_sigma_spread=(quartiles[1] - quartiles[0]).item() / 2,
        side=side or sides[len(sides) // 2],
        num_images=len(images),
        num_blur_images=len(found),
        num_blocks=num_blocks,
        separated=separated,
    )


def _require_images(images: Sequence[Tensor], names: Sequence[str] | None) -> None:
    if not images:
        raise ValueError("a camera's noise needs at least one image, but got none")
    for index, image in enumerate(images):
        name = names[index] if names else f"image {index}"
        if image.dim() != 3 or image.shape[0] not in (1, 3):
            raise ValueError(f"{name} must be (1 or 3, H, W), but has the shape {list(image.shape)}")
        if min(image.shape[-2:]) < MIN_SIDE:
            size = f"{image.shape[-1]} x {image.shape[-2]}"
            raise ValueError(f"{name} must have sides of at least {MIN_SIDE} pixels, but has {size}; leave it out")


def _blocks(image_CHW: Tensor) -> Tensor:
    """(K, 4) of 8 x 8 blocks, each channel by itself: mean, noise variance, smoothed gradient, share clipped.

    The variance is that of the mask [1 -2 1]^T [1 -2 1] over 36, which no plane reaches; the gradient is taken after
    [1 2 1]^T [1 2 1] / 16, which the mask hardly sees, so that choosing by one does not bias the other.
    """
    response = image_CHW.diff(n=2, dim=1).diff(n=2, dim=2)
    middle = image_CHW[:, 1:-1, 1:-1]
    smooth = F.pad(image_CHW[None], (1, 1, 1, 1), mode="replicate")[0]
    smooth = (smooth[:, :-2] + 2 * smooth[:, 1:-1] + smooth[:, 2:]) / 4
    smooth = (smooth[..., :-2] + 2 * smooth[..., 1:-1] + smooth[..., 2:]) / 4
    across = smooth[:, 1:-1, 2:] - smooth[:, 1:-1, :-2]
    down = smooth[:, 2:, 1:-1] - smooth[:, :-2, 1:-1]
    clipped = ((middle < 1.5 / 255) | (middle > 253.5 / 255)).float()
    facts = (middle, response.square() / 36, across.square() + down.square(), clipped)
    return torch.stack([F.avg_pool2d(fact[None], kernel_size=_BLOCK).flatten() for fact in facts], dim=1)


def _noise_line(blocks_K4: Tensor) -> _NoiseFit:
    """variance = gain * mean + offset through the medians of bins of brightness.

    Raises:
        ValueError: Too few blocks are free of clipped values.
    """
    blocks_K4 = blocks_K4[blocks_K4[:, 3] <= _MAX_CLIPPED]
    if len(blocks_K4) < _MIN_CHOSEN:
        raise ValueError(
            f"only {len(blocks_K4)} blocks of 8 x 8 pixels are neither black nor white, but {_MIN_CHOSEN} are needed; "
            "add images, or larger ones that are exposed well"
        )
    num_bins = max(1, min(_MAX_BINS, len(blocks_K4) // _PER_BIN))
    bins = []
    for part_K4 in blocks_K4[blocks_K4[:, 0].argsort()].chunk(num_bins):
        num_chosen = min(len(part_K4), max(_MIN_CHOSEN, round(_SHARE * len(part_K4))))
        chosen_K4 = part_K4[part_K4[:, 2].argsort()[:num_chosen]].double()
        variance = chosen_K4[:, 1].median() / _MEDIAN_OF_MEAN - _STEP_VARIANCE
        bins.append([chosen_K4[:, 0].mean().item(), max(0.0, variance.item()), float(num_chosen)])
    mean_M, variance_M, count_M = torch.tensor(bins, dtype=torch.float64).unbind(1)
    separated = (mean_M.max() - mean_M.min()).item() >= _MIN_RANGE
    level = variance_M.median().item()
    line = _robust_line(mean_M, variance_M, count_M) if separated else _Line(0.0, level, 0.0, level)
    return _NoiseFit(line, int(count_M.sum()), separated)


def _robust_line(mean_M: Tensor, variance_M: Tensor, count_M: Tensor) -> _Line:
    """Non-negative gain and offset by reweighted least squares; errors are relative, far ones weigh less (Huber)."""
    floor = max(1e-3 * variance_M.median().item(), 1e-10)
    weight_M = count_M
    line = _Line(0.0, 0.0, 0.0, 0.0)
    for _ in range(20):
        mean, variance = ((weight_M * value).sum() / weight_M.sum() for value in (mean_M, variance_M))
        free = ((weight_M * (mean_M - mean) * variance_M).sum() / (weight_M * (mean_M - mean) ** 2).sum()).item()
        gain, offset = free, (variance - free * mean).item()
        if gain < 0:
            gain, offset = 0.0, variance.item()
        elif offset < 0:
            gain, offset = ((weight_M * mean_M * variance_M).sum() / (weight_M * mean_M**2).sum()).item(), 0.0
        line = _Line(gain, offset, free, (variance - free * mean).item())
        line_M = (gain * mean_M + offset).clamp(min=floor)
        error_M = ((variance_M - line_M) / line_M).abs()
        width = max(1.5 * 1.4826 * error_M.median().item(), 0.03)
        weight_M = count_M / line_M**2 * (width / error_M.clamp(min=1e-9)).clamp(max=1.0)
    return line


def _spreads(rows: Sequence[Tensor], line: _Line) -> tuple[float, float]:
    """Of read_sigma and shot_gain, by the jackknife over groups."""
    if len(rows) >= _GROUPS:
        parts = [torch.cat(list(rows[group::_GROUPS])) for group in range(_GROUPS)]
    else:
        parts = [torch.cat(list(rows))[group::_GROUPS] for group in range(_GROUPS)]
    found = []
    for left_out in range(_GROUPS):
        kept_K4 = torch.cat([part for group, part in enumerate(parts) if group != left_out])
        if (kept_K4[:, 3] <= _MAX_CLIPPED).sum() >= _MIN_CHOSEN:
            found.append(_noise_line(kept_K4).line[2:])
    if not found:
        return 0.0, 0.0
    errors_2 = torch.tensor(found, dtype=torch.float64).var(0, correction=0).mul(len(found) - 1).sqrt()
    gain_error, offset_error = errors_2.tolist()
    return math.sqrt(line.offset + offset_error) - math.sqrt(line.offset), gain_error


def _grey_noise(image_CHW: Tensor, line: _Line) -> float:
    """Standard deviation of the noise of the mean over channels, whose noise is taken as independent."""
    return math.sqrt((line.gain * image_CHW.mean().item() + line.offset) / image_CHW.shape[0])
