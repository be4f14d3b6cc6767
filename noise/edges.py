"""The blur of a picture, from how much its edges widen when it is blurred again.

Shape suffixes: H height, W width, E edge points.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from noise.filters import gaussian_filter

MIN_EDGES = 20
"""Edge points that an image must have to be measured."""

_EDGE_SNR, _EDGE_SHARE, _MIN_SLOPE = 6.0, 0.25, 0.5 / 255
_FIRST_SCALE, _LAST_SCALE, _SCALE_OF_BLUR, _MAX_BLUR = 0.8, 2.5, 0.9, 6.0
_FILTER_VARIANCE = 1 / 3 + 1 / 12  # of the central difference (a box of two pixels) and of the pixel itself


def edge_blur(grey_HW: Tensor, noise_sigma: float) -> float | None:
    """Standard deviation of the blur at the stronger edges; None where there are too few.

    A step of blur s has the peak slope ~ 1 / s; blurred by s1 and by s2 its slopes have the ratio
    R = sqrt((s^2 + s2^2 + c) / (s^2 + s1^2 + c)), so s^2 = (s2^2 - s1^2) / (R^2 - 1) - s1^2 - c,
    with c the variance of the central difference and of the pixel itself. R is the median over edge points, weighted by
    the squared slope; s2 = 2 s1, and s1 follows the blur found in three rounds.

    Args:
        grey_HW: float in [0, 1].
        noise_sigma: Standard deviation of the white noise on it; edges must stand out of that.

    Returns:
        Pixels beyond the pixel's own aperture, 0 to 6.

    Source: S. Zhuo, T. Sim 2011, "Defocus map estimation from a single image", Pattern Recognition 44(9). They blur
        again once and take every edge; the noise-free slope ratio, the weights and the rounds are own.
    """
    scale, blur = _FIRST_SCALE, None
    for _ in range(3):
        weight_E, ratio_E = _edge_ratios(grey_HW, scale, noise_sigma)
        if len(ratio_E) < MIN_EDGES:
            break
        order = ratio_E.argsort()
        total_E = weight_E[order].cumsum(0)
        ratio = ratio_E[order][int((total_E < total_E[-1] / 2).sum())].item()
        square = 3 * scale**2 / max(ratio**2 - 1, 1e-3) - scale**2 - _FILTER_VARIANCE
        blur = min(math.sqrt(max(square, 0.0)), _MAX_BLUR)
        scale = min(max(_FIRST_SCALE, _SCALE_OF_BLUR * blur), _LAST_SCALE)
    return blur


def _edge_ratios(grey_HW: Tensor, scale: float, noise_sigma: float) -> tuple[Tensor, Tensor]:
    """Squared slopes and ratios of slopes at scale : 2 scale, at the edge points of the wider scale.

    The slope of the narrow scale is taken along the gradient of the wide one, so that its noise has mean 0.
    """
    fine_2HW, wide_2HW = _gradient(_smooth(grey_HW, scale)), _gradient(_smooth(grey_HW, 2 * scale))
    slope_HW = wide_2HW.square().sum(0).sqrt()
    sides = F.pad(slope_HW[None, None], (1, 1, 1, 1))[0, 0]
    left, right, above, below = sides[1:-1, :-2], sides[1:-1, 2:], sides[:-2, 1:-1], sides[2:, 1:-1]
    peak_HW = torch.where(
        wide_2HW[0].abs() >= wide_2HW[1].abs(),
        (slope_HW >= left) & (slope_HW > right),
        (slope_HW >= above) & (slope_HW > below),
    )
    border = math.ceil(4 * scale) + 2
    inside_HW = torch.zeros_like(peak_HW)
    inside_HW[border:-border, border:-border] = True
    peak_HW &= inside_HW
    if not peak_HW.any():
        return grey_HW.new_empty(0), grey_HW.new_empty(0)
    strong = _EDGE_SHARE * slope_HW[peak_HW].sort().values[int(0.99 * (int(peak_HW.sum()) - 1))].item()
    # Noise of standard deviation n has slopes of n / (sqrt(8 pi) sigma^2) after a Gaussian of sigma.
    noisy = _EDGE_SNR * noise_sigma / (math.sqrt(8 * math.pi) * (2 * scale) ** 2)
    peak_HW &= slope_HW > max(strong, noisy, _MIN_SLOPE)
    along_HW = (fine_2HW * wide_2HW).sum(0)
    slope_E = slope_HW[peak_HW]
    return slope_E.square(), along_HW[peak_HW] / slope_E.square()


def _smooth(grey_HW: Tensor, sigma: float) -> Tensor:
    sigma_1 = torch.tensor([sigma], device=grey_HW.device)
    return gaussian_filter(grey_HW[None, None], sigma_1, reach=max(1, round(3.5 * sigma)))[0, 0]


def _gradient(grey_HW: Tensor) -> Tensor:
    padded = F.pad(grey_HW[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    return torch.stack([padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]]) / 2
