"""The one public call: corrupt a batch by name and severity.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noise.compiled import compiled_op
from noise.families import find, parameter_for
from noise.keyed import fold_in

MIN_SIDE = 8
_CHUNK_BYTES_CPU, _CHUNK_BYTES = 2 << 20, 256 << 20
_DTYPES = (torch.float32, torch.bfloat16)


def corrupt(
    images_BCHW: Tensor,
    name: str,
    severity: int,
    *,
    keys: Tensor,
    scale: str = "nearest",
    check_range: bool | None = None,
    chunk_bytes: int | None = None,
    compiled: bool = False,
) -> Tensor:
    """The images under one corruption.

    The noise of an image is a function of its key, the corruption and the severity: not of the batch it stands in, its
    place there, or the device.

    Args:
        images_BCHW: float32 or bfloat16 in [0, 1], one or three channels, sides from 8 up; B may be 0.
        name: an entry of `noise.families.CORRUPTIONS`.
        severity: 1 to 5.
        keys: int64, (B,), from `noise.keyed.image_keys`.
        scale: `nearest` table for the shorter side, or `imagenet`, `tiny`, `cifar`.
        check_range: whether to look if the values are in [0, 1]; by default on the CPU only, since on an accelerator
            the host would have to wait for it.
        chunk_bytes: how many bytes of float32 images are worked on at a time, at least one image; the memory used
            beside input and result is a multiple of it (docs/benchmarks.md has the multiples). By default what fits
            a CPU's cache, or 256 MiB on an accelerator. Pixels do not depend on it (to within
            1e-6 where a Fourier transform takes another path for a single image).
        compiled: run point-wise corruptions through torch.compile (see `noise.compiled`); results may differ by 1e-5.

    Returns:
        Of the same shape, dtype and device, in [0, 1].

    Raises:
        ValueError: an argument breaks the rules above.
    """
    _require_images(images_BCHW, keys)
    if check_range if check_range is not None else images_BCHW.device.type == "cpu":
        _require_range(images_BCHW)
    return corrupt_checked(
        images_BCHW, name, severity, keys=keys, scale=scale, chunk_bytes=chunk_bytes, compiled=compiled
    )


def corrupt_checked(
    images_BCHW: Tensor,
    name: str,
    severity: int,
    *,
    keys: Tensor,
    scale: str,
    chunk_bytes: int | None = None,
    compiled: bool = False,
) -> Tensor:
    """As `corrupt`, for images that were checked before."""
    parameter = parameter_for(name, severity, min(images_BCHW.shape[-2:]), scale)
    entry = find(name)
    op = compiled_op(entry.op) if compiled and entry.neutral is not None else entry.op
    keys_B = fold_in(keys.to(images_BCHW.device, non_blocking=True), f"{name}/{severity}")
    if not len(images_BCHW):
        return images_BCHW.clone()
    size = _chunk_size(images_BCHW, chunk_bytes)
    chunks = zip(images_BCHW.split(size), keys_B.split(size), strict=True)
    results = (op(images.float(), parameter, keys_B=keys) for images, keys in chunks)
    if images_BCHW.requires_grad and torch.is_grad_enabled():
        return torch.cat([result.clamp(0.0, 1.0).to(images_BCHW.dtype) for result in results])
    noisy = torch.empty_like(images_BCHW)
    for place, result in zip(noisy.split(size), results, strict=True):
        torch.clamp(result, 0.0, 1.0, out=place) if result.dtype == place.dtype else place.copy_(result.clamp(0.0, 1.0))
    return noisy


def _chunk_size(images_BCHW: Tensor, chunk_bytes: int | None) -> int:
    """Images worked on at a time."""
    if chunk_bytes is None:
        chunk_bytes = _CHUNK_BYTES_CPU if images_BCHW.device.type == "cpu" else _CHUNK_BYTES
    return max(1, chunk_bytes // (4 * max(1, math.prod(images_BCHW.shape[1:]))))


def _require_images(images_BCHW: Tensor, keys: Tensor) -> None:
    if images_BCHW.dim() != 4 or images_BCHW.shape[1] not in (1, 3):
        raise ValueError(f"images must be (B, 1 or 3, H, W), but got the shape {list(images_BCHW.shape)}")
    if images_BCHW.dtype not in _DTYPES:
        raise ValueError(f"images must be float32 or bfloat16 in [0, 1], but got {images_BCHW.dtype}")
    if min(images_BCHW.shape[-2:]) < MIN_SIDE:
        raise ValueError(f"images must have sides from {MIN_SIDE} up, but got {list(images_BCHW.shape[-2:])}")
    if keys.dtype != torch.int64 or keys.shape != images_BCHW.shape[:1]:
        raise ValueError(
            f"keys must be int64 of shape ({len(images_BCHW)},), one for each image, but got {keys.dtype} of shape "
            f"{list(keys.shape)}; make them by noise.keyed.image_keys"
        )


def _require_range(images_BCHW: Tensor) -> None:
    if images_BCHW.numel():
        low, high = (float(bound) for bound in images_BCHW.detach().aminmax())
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"images must lie in [0, 1], but go from {low:g} to {high:g}; divide uint8 by 255")
