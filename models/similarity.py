"""How alike a network's features of clean and of noisy images are: mean cosine and linear CKA of pooled maps.

Shape suffixes: B batch, C channels, D features, H height, W width, N images.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-30


def pooled(maps: Sequence[Tensor]) -> Tensor:
    """The means over places of maps (B, C, H, W), side by side: features_BD in float32, D the sum of all C."""
    return torch.cat([map_BCHW.float().mean(dim=(2, 3)) for map_BCHW in maps], dim=1)


def mean_cosine(clean_ND: Tensor, noisy_ND: Tensor) -> float:
    """Mean over images of the cosine of an image's two vectors, in [-1, 1]; 0 for an image where one is zero.

    Raises:
        ValueError: The two are not features of the same images and network.
    """
    _check(clean_ND, noisy_ND)
    if clean_ND.shape != noisy_ND.shape:
        raise ValueError(
            f"a cosine needs as many features on both sides, but got {clean_ND.shape[1]} and {noisy_ND.shape[1]}"
        )
    return float(F.cosine_similarity(clean_ND.double(), noisy_ND.double(), dim=1, eps=_TINY).mean())


def linear_cka(clean_ND: Tensor, noisy_ND: Tensor) -> float:
    r"""Linear centred kernel alignment of features X and Y of the same images, in [0, 1], in float64.

    .. math:: \frac{\|Y^T X\|_F^2}{\|X^T X\|_F \|Y^T Y\|_F}

    with the columns of X and Y centred. It does not change when either is rotated, mirrored or scaled. The biased form:
    with few images and many features it is too high, so compare it over equally many images only.

    Returns:
        NaN where all images have the same features.

    Raises:
        ValueError: The two are not features of the same images, or of fewer than two.

    Source: Kornblith et al. 2019, arXiv 1905.00414, section 3. By products of images, or of features where those are
    fewer; both give the same.
    """
    _check(clean_ND, noisy_ND)
    if len(clean_ND) < 2:
        raise ValueError(f"CKA compares how images lie to each other, but got {len(clean_ND)} image")
    x_ND, y_ND = (features_ND.double() - features_ND.double().mean(dim=0) for features_ND in (clean_ND, noisy_ND))
    if len(x_ND) < max(x_ND.shape[1], y_ND.shape[1]):
        x_NN, y_NN = x_ND @ x_ND.T, y_ND @ y_ND.T
        shared, own = (x_NN * y_NN).sum(), x_NN.norm() * y_NN.norm()
    else:
        shared, own = (y_ND.T @ x_ND).square().sum(), (x_ND.T @ x_ND).norm() * (y_ND.T @ y_ND).norm()
    return float(shared / own) if own > 0 else math.nan


def _check(clean_ND: Tensor, noisy_ND: Tensor) -> None:
    shapes = tuple(clean_ND.shape), tuple(noisy_ND.shape)
    if clean_ND.ndim != 2 or noisy_ND.ndim != 2 or len(clean_ND) != len(noisy_ND) or not len(clean_ND):
        raise ValueError(f"features must be (images, features) of the same images, but got {shapes[0]} and {shapes[1]}")
