"""Embeddings of images under one cell's noise, made by all workers together.

Shape suffixes: B batch, C channels, H height, W width, D values of an embedding, P positions in a set of images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.distillation.loss import View
from noise.low_resolution import Lens
from study.evaluate import FULL, Cell, noisy
from study.loop import device_images
from study.ranks import Ranks

Look = Callable[[Tensor], View]
"""Float images in [0, 1], (B, C, H, W) -> all that a network makes of them; it is in evaluation mode already."""


class Pictures(Protocol):
    """Images with ids, such as an `ImageSet`: uint8 (n, H, W, 3) and int64 (n,)."""

    @property
    def images(self) -> np.ndarray: ...

    @property
    def ids(self) -> np.ndarray: ...


@torch.inference_mode()
def embed(
    view: Look, pictures: Pictures, cell: Cell, *, positions: np.ndarray, seed: int, ranks: Ranks, scale: str,
    batch_size: int, lens: Lens = FULL,
) -> Tensor:  # fmt: skip
    """Embeddings of some images under a cell's noise, the same noisy pixels as `study.evaluate` makes.

    Each worker embeds every n-th image; then each gets all of them. Every worker must call it.

    Args:
        positions: int64 (P,) of the images to embed.
        seed: Key of the noise.
        lens: How cells of a lower side are made.

    Returns:
        embeddings_PD, float32, on the CPU, in the order of `positions`.
    """
    device = ranks.torch_device()
    own = positions[ranks.rank :: ranks.world]
    parts = []
    for first in range(0, len(own), batch_size):
        take = own[first : first + batch_size]
        raw_BCHW = torch.from_numpy(np.ascontiguousarray(pictures.images[take])).permute(0, 3, 1, 2)
        ids_B = torch.from_numpy(np.asarray(pictures.ids[take]))
        seen_BCHW = noisy(device_images(raw_BCHW, device), cell, ids_B=ids_B, seed=seed, scale=scale, lens=lens)
        parts.append(view(seen_BCHW).embedding_BD.float().flatten(1).cpu())
    shares = ranks.gather(torch.cat(parts).numpy() if parts else None)  # a worker without images knows no D
    width = next(share.shape[1] for share in shares if share is not None)
    whole_PD = np.empty((len(positions), width), dtype=np.float32)
    for rank, share in enumerate(shares):
        if share is not None:
            whole_PD[rank :: ranks.world] = share
    return torch.from_numpy(whole_PD)


def cosines(one_PD: Tensor, other_PD: Tensor) -> Tensor:
    """Cosine similarity of each row with its partner, (P,) float64 in [-1, 1]; 0 where a vector is zero."""
    return (unit(one_PD) * unit(other_PD)).sum(1).clamp(-1.0, 1.0)


def unit(vectors_PD: Tensor) -> Tensor:
    """Rows of length 1, in float64; zero stays zero."""
    return F.normalize(vectors_PD.double(), dim=1)
