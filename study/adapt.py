"""A second look at the test with batch norms adapted to it: statistics of each cell's own images, without labels.

Source: test-time adaptation of batch-norm statistics, as AIRD does on its target stream (arXiv 2409.02049). A
prediction then depends on the other images of the test, so these rows are kept apart, marked `ADAPTED`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.batchnorm import batch_norms
from noise.low_resolution import Lens
from study.data.image_set import ImageSet
from study.evaluate import Cell, Evaluation, Predict, noisy, reestimate_bn, subset
from study.loop import device_images
from study.ranks import Ranks

ADAPTED = "adapted"
MAX_IMAGES, BATCH = 1024, 128


def adapted_cells(
    network: nn.Module,
    predict: Predict,
    images: ImageSet,
    cells: Sequence[Cell],
    measure: Callable[[Cell], Evaluation],
    *,
    seed: int,
    scale: str,
    lens: Lens,
    ranks: Ranks,
) -> list[dict[str, Any]]:
    """The rows of each cell under statistics of its own images, at most 1,024 of them; the network is left as it was.

    Args:
        network: In evaluation mode.
        predict: Passes through the layers that are to adapt.
        measure: A cell's evaluation, by the network as it then is.
        seed: Key of the evaluation's noise.

    Returns:
        None of a network that has no batch statistics to adapt.
    """
    kept = [{name: value.clone() for name, value in layer.state_dict().items()} for layer in batch_norms(network)]
    rows = []
    for cell in cells:
        batches = _batches(images, cell, seed=seed, scale=scale, lens=lens, ranks=ranks)
        if not reestimate_bn(network, predict, batches, ranks):
            return []
        rows += [{**row, "bn": ADAPTED} for row in measure(cell).cells]
        for layer, state in zip(batch_norms(network), kept, strict=True):
            layer.load_state_dict(state)
    return rows


def _batches(images: ImageSet, cell: Cell, *, seed: int, scale: str, lens: Lens, ranks: Ranks) -> list[Tensor]:
    """This worker's share of a cell's images, in as many batches as the others have."""
    chosen = subset(images, MAX_IMAGES, seed=seed)
    number = max(1, len(chosen) // ranks.world // BATCH)
    found = []
    for part in np.array_split(chosen[ranks.rank :: ranks.world], number):
        if len(part) > 1:
            raw = torch.from_numpy(np.ascontiguousarray(images.images[part])).permute(0, 3, 1, 2)
            clean_BCHW = device_images(raw, ranks.torch_device())
            ids_B = torch.from_numpy(np.asarray(images.ids[part]))
            found.append(noisy(clean_BCHW, cell, ids_B=ids_B, seed=seed, scale=scale, lens=lens))
    return found
