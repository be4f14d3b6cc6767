"""Accuracy over a grid of corruption x severity, the same noisy pixels for every model.

Evaluation is sharded over workers: each takes every n-th image, counts are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noise.corruption import corrupt
from noise.families import CORRUPTIONS, table_for
from noise.keyed import image_keys
from study.data.image_set import ImageSet
from study.loop import device_images
from study.ranks import Ranks

Predict = Callable[[Tensor], Tensor]
CLEAN = "clean"


class Cell(NamedTuple):
    """One corruption at one severity; `Cell("clean", 0)` is the image itself."""

    corruption: str
    severity: int


class Evaluation(NamedTuple):
    """Cells and, where asked for, one row for each image x cell."""

    cells: list[dict[str, Any]]
    predictions: dict[str, np.ndarray]


def grid(corruptions: Sequence[str], severities: Sequence[int]) -> list[Cell]:
    """Clean and every corruption at every severity."""
    return [Cell(CLEAN, 0), *(Cell(name, level) for name in corruptions for level in severities)]


def noisy(images_BCHW: Tensor, cell: Cell, *, ids_B: Tensor, seed: int, scale: str) -> Tensor:
    """A batch under one cell's noise, keyed to the images.

    Args:
        images_BCHW: float in [0, 1].
    """
    if cell.corruption == CLEAN:
        return images_BCHW
    keys_B = image_keys(ids_B.to(images_BCHW.device), seed=seed, salt="evaluation")
    return corrupt(images_BCHW, cell.corruption, cell.severity, keys=keys_B, scale=scale)


def subset(images: ImageSet, limit: int, *, seed: int) -> np.ndarray:
    """Positions of at most `limit` images, chosen by their keys, in the set's order."""
    if len(images.labels) <= limit:
        return np.arange(len(images.labels))
    keys = image_keys(torch.from_numpy(np.asarray(images.ids)), seed=seed, salt="subset").numpy()
    return np.sort(np.argsort(keys, kind="stable")[:limit])


@torch.inference_mode()
def evaluate(
    predict: Predict,
    images: ImageSet,
    cells: Sequence[Cell],
    *,
    split: Literal["validation", "test"],
    seed: int,
    ranks: Ranks,
    scale: str = "nearest",
    batch_size: int = 256,
    positions: np.ndarray | None = None,
    keep_predictions: bool = False,
) -> Evaluation:
    """Evaluate a model on every cell.

    Args:
        predict: float images in [0, 1], (B, C, H, W) -> logits (B, N); the network is in evaluation mode already.
        positions: Images to use; all when None.
        seed: Key of the noise; belongs to the study.
        keep_predictions: Also return a row for each image x cell.

    Returns:
        On every worker the whole cells (accuracy in [0, 1], mean negative log-likelihood in nats).
    """
    device = ranks.torch_device()
    chosen = (np.arange(len(images.labels)) if positions is None else positions)[ranks.rank :: ranks.world]
    sums = torch.zeros(len(cells), 3, dtype=torch.float64, device=device)
    rows: dict[str, list[np.ndarray]] = {}
    for first in range(0, len(chosen), batch_size):
        take = chosen[first : first + batch_size]
        raw = torch.from_numpy(np.ascontiguousarray(images.images[take])).permute(0, 3, 1, 2)
        clean_BCHW = device_images(raw, device)
        labels_B = torch.from_numpy(np.asarray(images.labels[take])).to(device)
        ids_B = torch.from_numpy(np.asarray(images.ids[take]))
        for index, cell in enumerate(cells):
            logits_BN = predict(noisy(clean_BCHW, cell, ids_B=ids_B, seed=seed, scale=scale)).float()
            right_B = logits_BN.argmax(1) == labels_B
            nll = F.cross_entropy(logits_BN, labels_B, reduction="sum")
            sums[index] += torch.stack([right_B.new_tensor(len(take), dtype=torch.float64), right_B.sum(), nll])
            if keep_predictions:
                _keep(rows, cell, ids_B, labels_B, logits_BN)
    sums = ranks.sum(sums).cpu()
    side = min(images.images.shape[1:3])
    table = [_cell_row(cell, sums[i], split, side, scale) for i, cell in enumerate(cells)]
    return Evaluation(table, _gathered(rows, ranks) if keep_predictions else {})


def _keep(rows: dict[str, list[np.ndarray]], cell: Cell, ids_B: Tensor, labels_B: Tensor, logits_BN: Tensor) -> None:
    confidence_B, predicted_B = logits_BN.softmax(1).max(1)
    columns = {
        "image_id": ids_B.numpy(),
        "label": labels_B.cpu().numpy(),
        "predicted": predicted_B.cpu().numpy(),
        "confidence": confidence_B.cpu().numpy(),
        "correct": (predicted_B == labels_B).cpu().numpy(),
        "corruption": np.full(len(ids_B), cell.corruption, dtype=object),
        "severity": np.full(len(ids_B), cell.severity, dtype=np.int64),
    }
    for name, values in columns.items():
        rows.setdefault(name, []).append(values)


def _gathered(rows: dict[str, list[np.ndarray]], ranks: Ranks) -> dict[str, np.ndarray]:
    parts = ranks.gather({name: np.concatenate(values) for name, values in rows.items()})
    parts = [part for part in parts if part]  # a worker without images has no columns
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((whole["image_id"], whole["severity"], whole["corruption"].astype(str)))
    return {name: values[order] for name, values in whole.items()}


def _cell_row(cell: Cell, sums: Tensor, split: str, side: int, scale: str) -> dict[str, Any]:
    n, correct, nll = (float(value) for value in sums)
    clean = cell.corruption == CLEAN
    return {
        "split": split,
        "corruption": cell.corruption,
        "group": CLEAN if clean else CORRUPTIONS[cell.corruption].group,
        "severity": cell.severity,
        "table": "" if clean else table_for(cell.corruption, side, scale),
        "n": int(n),
        "correct": int(correct),
        "accuracy": correct / n,
        "nll": nll / n,
    }


@torch.no_grad()
def reestimate_bn(network: nn.Module, predict: Predict, clean_batches: Sequence[Tensor], ranks: Ranks) -> bool:
    """Replace BatchNorm's running statistics by plain averages over clean training batches.

    Training mixes clean, noisy and restored passes into the statistics, differently for each method; this puts all
    methods on the same footing before they are compared.

    Args:
        predict: Must not change the mode of the network's modules. Layers that it does not use keep their statistics.
        clean_batches: float images in [0, 1], (B, C, H, W).

    Returns:
        Whether it was done: not without such layers, nor when some worker has no images.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not layers or ranks.any(not clean_batches):
        return False  # on all workers alike, since the others would wait for one that has no images
    momenta = [layer.momentum for layer in layers]
    before = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.train()
    for images_BCHW in clean_batches:
        predict(images_BCHW)
    for layer, momentum, kept in zip(layers, momenta, before, strict=True):
        layer.momentum = momentum
        if not layer.num_batches_tracked:  # a prediction does not pass through it
            layer.load_state_dict(kept, strict=False)
    network.eval()
    ranks.average_buffers(network)
    return True
