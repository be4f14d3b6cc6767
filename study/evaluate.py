"""Accuracy, calibration and flips over a grid of corruption x severity, the same noisy pixels for every model.

Evaluation is sharded over workers: each takes every n-th image, counts are summed and confidences gathered, so that
every figure is that of the whole set.
Shape suffixes: B batch, C channels, H height, W width, N classes, I images, K cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_calibration_error

from analysis.records import CORRECT_PREFIX
from models.batchnorm import batch_norms
from models.methods.method import SUM
from noise.corruption import corrupt
from noise.families import CORRUPTIONS, table_for
from noise.keyed import image_keys
from noise.low_resolution import Lens, enlarge, shrink
from study.data.image_set import ImageSet
from study.loop import device_images
from study.ranks import Ranks

Predict = Callable[[Tensor], Tensor]
Heads = Callable[[Tensor], Mapping[str, Tensor]]
CLEAN = "clean"
REAL = "real"
"""Group and family of a folder of real noisy images, whose noise is the camera's and has no severity."""
RESOLUTION = "resolution"
ECE_BINS = 15
FULL = Lens()


class Cell(NamedTuple):
    """One corruption at one severity, of images at full or at a lower resolution.

    Attributes:
        corruption: Its name; `CLEAN`, or that of a folder of real images, for images as they are.
        severity: 1 to 5; 0 for images as they are.
        side: Pixels that the images are shrunk to before the corruption; 0: none, they are left at their own.
    """

    corruption: str
    severity: int
    side: int = 0

    @property
    def name(self) -> str:
        """What rows call it: a lower resolution is a corruption of its own, such as `16px` or `gaussian_noise_16px`."""
        if not self.side:
            return self.corruption
        return f"{self.side}px" if self.corruption == CLEAN else f"{self.corruption}_{self.side}px"


class Evaluation(NamedTuple):
    """Cells and, where asked for, one row for each image x cell, one for each head x cell, and a task's own rows."""

    cells: list[dict[str, Any]]
    predictions: dict[str, np.ndarray]
    heads: Sequence[dict[str, Any]] = ()
    extra: Sequence[dict[str, Any]] = ()


def grid(
    corruptions: Sequence[str], severities: Sequence[int], *, sides: Sequence[int] = (), noise_at_sides: bool = False
) -> list[Cell]:
    """Clean and every corruption at every severity; then clean at each lower side, and the corruptions if asked."""
    full = [Cell(CLEAN, 0), *(Cell(name, level) for name in corruptions for level in severities)]
    return full + [cell._replace(side=side) for side in sides for cell in (full if noise_at_sides else full[:1])]


def noisy(images_BCHW: Tensor, cell: Cell, *, ids_B: Tensor, seed: int, scale: str, lens: Lens = FULL) -> Tensor:
    """A batch under one cell's noise, keyed to the images.

    Args:
        images_BCHW: float in [0, 1].
        lens: How a cell of a lower side is made; its noise is that of the small image.
    """
    if not (cell.severity or cell.side):
        return images_BCHW
    keys_B = image_keys(ids_B.to(images_BCHW.device), seed=seed, salt="evaluation")
    seen_BCHW = images_BCHW
    if cell.side:
        seen_BCHW = shrink(images_BCHW, cell.side, keys_B=keys_B, kernel=lens.kernel)
    if cell.severity:
        seen_BCHW = corrupt(seen_BCHW, cell.corruption, cell.severity, keys=keys_B, scale=scale)
    return enlarge(seen_BCHW, images_BCHW.shape[-1]) if cell.side and not lens.small else seen_BCHW


def subset(images: ImageSet, limit: int, *, seed: int) -> np.ndarray:
    """Positions of at most `limit` images, chosen by their keys, in the set's order."""
    if len(images.labels) <= limit:
        return np.arange(len(images.labels))
    keys = image_keys(torch.from_numpy(np.asarray(images.ids)), seed=seed, salt="subset").numpy()
    return np.sort(np.argsort(keys, kind="stable")[:limit])


def share_by_class(images: ImageSet, positions: np.ndarray, limit: int, *, seed: int) -> np.ndarray:
    """At most `limit` of some positions, of each class its share, chosen by the images' keys, in the set's order.

    Shares are rounded to whole images by largest remainders; of equal ones the class of the lower number comes first.
    """
    if len(positions) <= limit:
        return positions
    labels = np.asarray(images.labels)[positions]
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * limit / len(positions)
    takes = np.floor(exact).astype(int)
    takes[np.argsort(takes - exact, kind="stable")[: limit - takes.sum()]] += 1
    keys = image_keys(torch.from_numpy(np.asarray(images.ids)[positions]), seed=seed, salt="fidelity").numpy()
    order = np.argsort(keys, kind="stable")
    parts = [order[labels[order] == label][:take] for label, take in zip(classes, takes, strict=True)]
    return np.sort(positions[np.concatenate(parts)])


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
    lens: Lens = FULL,
    batch_size: int = 256,
    positions: np.ndarray | None = None,
    keep_predictions: bool = False,
    heads: Heads | None = None,
) -> Evaluation:
    """Evaluate a model on every cell.

    Besides accuracy in [0, 1] and the mean negative log-likelihood in nats, each cell has `ece`, the expected
    calibration error of the whole cell (see `calibration_error`), and `flips`, the share of images whose predicted
    class differs from the one that the same network predicts on the same image without noise, whether either is right
    or not: 0 for clean, NaN where clean is not among the cells.

    Source: flips are the flip probability of Hendrycks & Dietterich 2019 (arXiv 1903.12261, section 4), which compares
    each frame of a noise sequence with its first; here a "sequence" is the clean image and one noisy one, so the share
    is that of a corruption at a severity, and it is not divided by AlexNet's.

    Args:
        predict: float images in [0, 1], (B, C, H, W) -> logits (B, N); the network is in evaluation mode already.
        lens: How cells of a lower side are made.
        positions: Images to use; all when None.
        seed: Key of the noise; belongs to the study.
        keep_predictions: Also return a row for each image x cell.
        heads: Like `predict`, which is then not called: the logits (B, N) of each head by name, in one pass; those of
            `SUM` are the prediction. Each head is counted in each cell, and kept predictions say which heads are right.

    Returns:
        On every worker the whole cells.
    """
    device = ranks.torch_device()
    chosen = (np.arange(len(images.labels)) if positions is None else positions)[ranks.rank :: ranks.world]
    sums = torch.zeros(len(cells), 4, dtype=torch.float64, device=device)
    confidence_KI = torch.zeros(len(cells), len(chosen), device=device)
    right_KI = torch.zeros(len(cells), len(chosen), dtype=torch.bool, device=device)
    head_correct: dict[str, Tensor] = {}
    rows: dict[str, list[np.ndarray]] = {}
    order = sorted(range(len(cells)), key=lambda index: cells[index].name != CLEAN)  # flips compare with it
    for first in range(0, len(chosen), batch_size):
        take = chosen[first : first + batch_size]
        raw = torch.from_numpy(np.ascontiguousarray(images.images[take])).permute(0, 3, 1, 2)
        clean_BCHW = device_images(raw, device)
        labels_B = torch.from_numpy(np.asarray(images.labels[take])).to(device)
        ids_B = torch.from_numpy(np.asarray(images.ids[take]))
        unchanged_B: Tensor | None = None
        for index in order:
            cell = cells[index]
            seen_BCHW = noisy(clean_BCHW, cell, ids_B=ids_B, seed=seed, scale=scale, lens=lens)
            answers = {} if heads is None else heads(seen_BCHW)
            logits_BN = (predict(seen_BCHW) if heads is None else answers[SUM]).float()
            predicted_B, confidence_B = logits_BN.argmax(1), logits_BN.softmax(1).amax(1)
            right_B = predicted_B == labels_B
            if cell.name == CLEAN:
                unchanged_B = predicted_B
            flipped = sums.new_tensor(torch.nan) if unchanged_B is None else (predicted_B != unchanged_B).sum()
            nll = F.cross_entropy(logits_BN, labels_B, reduction="sum")
            sums[index] += torch.stack([sums.new_tensor(len(take)), right_B.sum(), nll, flipped])
            here = slice(first, first + len(take))
            confidence_KI[index, here], right_KI[index, here] = confidence_B, right_B
            head_right = {name: answer_BN.argmax(1) == labels_B for name, answer_BN in answers.items()}
            for name, head_right_B in head_right.items():
                head_correct.setdefault(name, sums.new_zeros(len(cells)))[index] += head_right_B.sum()
            if keep_predictions:
                keep_rows(rows, cell, ids_B, labels_B, predicted_B, confidence_B, head_right)
    sums = ranks.sum(sums).cpu()
    errors = _calibration_errors(confidence_KI, right_KI, ranks)
    side = min(images.images.shape[1:3])
    table = [cell_row(cell, sums[i], errors[i], split, side, scale) for i, cell in enumerate(cells)]
    predictions = gathered_rows(rows, ranks) if keep_predictions else {}
    return Evaluation(table, predictions, [] if heads is None else _head_rows(head_correct, table, ranks))


def calibration_error(confidence_I: Tensor, correct_I: Tensor) -> float:
    r"""Expected calibration error of the predicted class: how far confidence is from accuracy.

    .. math:: ECE = \sum_b \frac{n_b}{n} |acc_b - conf_b|

    over 15 bins of equal width on [0, 1], each with its lower edge. With few images in a bin it is biased upwards, so
    compare it at equal numbers of images.

    Args:
        confidence_I: softmax probability of the predicted class, in [0, 1].
        correct_I: bool, whether the predicted class is right.

    Returns:
        In [0, 1]; NaN where the network gave a confidence that is no number.

    Source: Guo et al. 2017, arXiv 1706.04599, section 2. By torchmetrics: its multiclass error is its binary one on
    (confidence, correct), and that form needs no probabilities of all classes from other workers.
    """
    if confidence_I.isnan().any():
        return float("nan")
    return float(
        binary_calibration_error(
            confidence_I.double().clamp(0.0, 1.0), correct_I.long(), n_bins=ECE_BINS, norm="l1", validate_args=False
        )
    )


def _calibration_errors(confidence_KI: Tensor, right_KI: Tensor, ranks: Ranks) -> list[float]:
    """The calibration error of each whole cell; every worker must call it with its own images."""
    parts = ranks.gather((confidence_KI.cpu().numpy(), right_KI.cpu().numpy()))
    confidence_KI, right_KI = (torch.from_numpy(np.concatenate(part, axis=1)) for part in zip(*parts, strict=True))
    return [calibration_error(*pair) for pair in zip(confidence_KI, right_KI, strict=True)]


def keep_rows(
    rows: dict[str, list[np.ndarray]], cell: Cell, ids_B: Tensor, labels_B: Tensor, predicted_B: Tensor,
    confidence_B: Tensor, head_right: Mapping[str, Tensor],
) -> None:  # fmt: skip
    """Add a batch's rows under a cell to the columns of the kept predictions."""
    columns = {
        "image_id": ids_B.numpy(),
        "label": labels_B.cpu().numpy(),
        "predicted": predicted_B.cpu().numpy(),
        "confidence": confidence_B.cpu().numpy(),
        "correct": (predicted_B == labels_B).cpu().numpy(),
        "corruption": np.full(len(ids_B), cell.name, dtype=object),
        "severity": np.full(len(ids_B), level_of(cell), dtype=np.int64),
    }
    heads = {f"{CORRECT_PREFIX}{name}": right_B.cpu().numpy() for name, right_B in head_right.items() if name != SUM}
    for name, values in (columns | heads).items():
        rows.setdefault(name, []).append(values)


def gathered_rows(rows: dict[str, list[np.ndarray]], ranks: Ranks) -> dict[str, np.ndarray]:
    """The kept rows of all workers, by corruption, severity and id; every worker must call it with its own."""
    parts = ranks.gather({name: np.concatenate(values) for name, values in rows.items()})
    parts = [part for part in parts if part]  # a worker without images has no columns
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((whole["image_id"], whole["severity"], whole["corruption"].astype(str)))
    return {name: values[order] for name, values in whole.items()}


def _head_rows(correct: Mapping[str, Tensor], table: Sequence[dict[str, Any]], ranks: Ranks) -> list[dict[str, Any]]:
    """A row for each head x cell of the whole set; every worker must call it with its own counts."""
    parts = [part for part in ranks.gather({name: own_K.cpu().numpy() for name, own_K in correct.items()}) if part]
    totals = {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}
    fixed = ("split", "corruption", "group", "family", "severity", "n")
    return [
        {"head": name, **{column: cell[column] for column in fixed}, "correct": int(count),
         "accuracy": float(count) / cell["n"]}
        for name, total_K in totals.items() for cell, count in zip(table, total_K, strict=True)
    ]  # fmt: skip


def cell_row(cell: Cell, sums: Tensor, ece: float, split: str, side: int, scale: str) -> dict[str, Any]:
    """A cell's row of the sums over all workers: images, right ones, negative log-likelihood, flipped ones."""
    n, correct, nll, flipped = (float(value) for value in sums)
    return {
        "split": split,
        "corruption": cell.name,
        "group": group_of(cell),
        "family": _family_of(cell),
        "severity": level_of(cell),
        "table": "" if cell.severity == 0 else table_for(cell.corruption, cell.side or side, scale),
        "n": int(n),
        "correct": int(correct),
        "accuracy": correct / n,
        "nll": nll / n,
        "ece": ece,
        "flips": flipped / n,
    }


def level_of(cell: Cell) -> int:
    """What rows have as severity: 1 for a lower resolution alone, which has no other."""
    return 1 if cell.side and not cell.severity else cell.severity


def group_of(cell: Cell) -> str:
    """What kind of noise it is; of noise at a lower resolution both."""
    if cell.severity == 0:
        own = CLEAN if cell.corruption == CLEAN else REAL
        return RESOLUTION if cell.side else own
    group = CORRUPTIONS[cell.corruption].group
    return f"{RESOLUTION}-{group}" if cell.side else group


def _family_of(cell: Cell) -> str:
    return group_of(cell) if cell.severity == 0 else CORRUPTIONS[cell.corruption].family


@torch.no_grad()
def reestimate_bn(network: nn.Module, predict: Predict, clean_batches: Sequence[Tensor], ranks: Ranks) -> bool:
    """Replace BatchNorm's running statistics by plain averages over clean training batches.

    Training mixes clean, noisy and restored passes into the statistics, differently for each method; this puts all
    methods on the same footing before they are compared. Layers that are frozen, which training mode leaves in
    evaluation mode, keep theirs.

    Args:
        predict: Must not change the mode of the network's modules. Layers that it does not use keep their statistics.
        clean_batches: float images in [0, 1], (B, C, H, W); as many on each worker, since shared batch statistics wait
            for the others in every batch.

    Returns:
        Whether it was done: not without such layers, nor when some worker has no images.
    """
    network.train()
    layers = [layer for layer in batch_norms(network) if layer.track_running_stats and layer.training]
    network.eval()
    if not layers or ranks.any(not clean_batches):
        return False  # on all workers alike, since the others would wait for one that has no images
    momenta = [layer.momentum for layer in layers]
    before = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
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
