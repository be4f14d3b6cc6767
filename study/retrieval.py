"""Retrieval by embeddings over the cells of the grid: is an image's nearest neighbour of its class, or one of its K?

A row of a cell is as in `study.evaluate`: `accuracy` is Recall@1, `n` the queries that were counted, `flips` the share
of them whose nearest neighbour has another label than without noise. Embeddings give no probability of a class, so
`nll` and `ece` are missing (NaN). In kept rows `predicted` is the label of the nearest neighbour, and `confidence` is
their cosine similarity c as (1 + c) / 2, in [0, 1]: a likeness, no probability.

Shape suffixes: B batch, D values of an embedding, G images of the gallery, I images, K cells, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from noise.keyed import image_keys
from noise.low_resolution import Lens
from study.config_task import Reference
from study.data.image_set import ImageSet
from study.embeddings import Look, cosines, embed, unit
from study.evaluate import CLEAN, FULL, Cell, Evaluation, cell_row, gathered_rows, keep_rows
from study.ranks import Ranks

_SCORES_AT_ONCE = 1 << 24
_LEAST_OF_A_CLASS = 4
NONE = -1
"""Place and label of a neighbour that there is not, as an embedding is no number."""
NEVER = 1 << 62
"""How many images stand before a right one that there is not."""


class Neighbours(NamedTuple):
    """Of each query.

    Attributes:
        nearest_Q: int64, the nearest image's place in the gallery; NONE where no likeness is a number.
        before_Q: int64, how many images stand before the first one of the query's class; NEVER without one.
    """

    nearest_Q: Tensor
    before_Q: Tensor


def neighbours(
    queries_QD: Tensor, gallery_GD: Tensor, *, query_labels_Q: Tensor, gallery_labels_G: Tensor, own_Q: Tensor,
    normalise: bool,
) -> Neighbours:  # fmt: skip
    """Where each query finds its class among all images but itself.

    Images are ordered by likeness, equal ones by their place in the gallery, so that the order is the same everywhere.
    Likeness is the cosine, or without `normalise` the squared Euclidean distance turned round, in float64 and rounded
    to float32: what differs by less than an embedding's own rounding is equal. Nothing is sorted: Recall@K only needs
    how many images stand before the first right one.

    Args:
        own_Q: int64, the query's own place in the gallery, which is left out.
    """
    gallery_GD = unit(gallery_GD) if normalise else gallery_GD.double()
    shift_G = 0.0 if normalise else gallery_GD.square().sum(1) / 2  # q . g - |g|^2 / 2 orders as -|q - g|^2 does
    places_G = torch.arange(len(gallery_GD), device=gallery_GD.device)
    found = []
    for part in torch.arange(len(queries_QD), device=places_G.device).split(max(1, _SCORES_AT_ONCE // len(places_G))):
        queries_BD = unit(queries_QD[part]) if normalise else queries_QD[part].double()
        scores_BG = (queries_BD @ gallery_GD.T - shift_G).float().nan_to_num(nan=-torch.inf)
        scores_BG.scatter_(1, own_Q[part, None], -torch.inf)
        best_B, nearest_B = scores_BG.amax(1), scores_BG.argmax(1)  # argmax gives the first of equals
        is_right_BG = query_labels_Q[part, None] == gallery_labels_G
        right_BG = scores_BG.where(is_right_BG, -torch.inf)
        right_B1, place_B1 = right_BG.amax(1, keepdim=True), right_BG.argmax(1, keepdim=True)
        before_BG = (scores_BG > right_B1) | ((scores_BG == right_B1) & (places_G < place_B1))
        before_B = before_BG.sum(1).masked_fill(right_B1[:, 0] == -torch.inf, NEVER)
        found.append((nearest_B.masked_fill(best_B == -torch.inf, NONE), before_B))
    empty = places_G[:0]
    return Neighbours(*(torch.cat([empty, *columns]) for columns in (zip(*found, strict=True) if found else ((), ()))))


def has_mate(labels_I: np.ndarray, *, split: str) -> np.ndarray:
    """bool (I,), which images have another one of their class: the queries that can be right.

    Raises:
        ValueError: None has.
    """
    _, place_I, counts = np.unique(labels_I, return_inverse=True, return_counts=True)
    found_I = counts[place_I] > 1
    if not found_I.any():
        raise ValueError(
            f"task: retrieval needs a class with two images, but the {len(labels_I)} {split} images are of "
            f"{len(counts)} classes; give it more images"
        )
    return found_I


def whole_classes(images: ImageSet, limit: int, *, seed: int) -> np.ndarray:
    """Positions of at most about `limit` images, so chosen by their keys that those there are have company.

    As many classes as there is room for, with as many images of each as that leaves, but at least four (or what the
    class has). In the set's order.
    """
    if len(images.labels) <= limit:
        return np.arange(len(images.labels))
    keys = image_keys(torch.from_numpy(np.asarray(images.ids)), seed=seed, salt="subset").numpy()
    order = np.argsort(keys, kind="stable")
    classes = list(dict.fromkeys(np.asarray(images.labels)[order].tolist()))
    each = max(_LEAST_OF_A_CLASS, limit // len(classes))
    labels = np.asarray(images.labels)[order]
    chosen = [order[labels == label][:each] for label in classes[: max(2, limit // each)]]
    return np.sort(np.concatenate(chosen))


@torch.inference_mode()
def evaluate_retrieval(
    view: Look,
    images: ImageSet,
    cells: Sequence[Cell],
    *,
    split: Literal["validation", "test"],
    seed: int,
    ranks: Ranks,
    scale: str = "nearest",
    lens: Lens = FULL,
    batch_size: int = 256,
    at: Sequence[int] = (1, 2, 4, 8),
    reference: Reference = "same",
    normalise: bool = True,
    positions: np.ndarray | None = None,
    keep_predictions: bool = False,
) -> Evaluation:
    """Evaluate a network's embeddings on every cell: each image is a query against all others.

    Args:
        view: The network, in evaluation mode.
        lens: How cells of a lower side are made.
        at: The K of Recall@K, in the rows of `extra`.
        reference: What a query under a cell's noise is compared with: the others under the same cell (`same`), or the
            others as they are (`clean`), as a camera's poor picture with an archive of good ones.
        normalise: Compare by cosine; else by Euclidean distance (the student of RKD, arXiv 1904.05068).
        positions: Images to use, both as queries and as gallery; all when None.
        keep_predictions: Also return a row for each query x cell.

    Returns:
        On every worker the whole cells; `extra` has a row for each cell x K: `k`, `n` queries, `correct`, `recall` and
        `left_out`, the queries without another image of their class, which are not counted.

    Raises:
        ValueError: No class has two images.

    Source: Recall@K as in Oh Song et al. 2016 (arXiv 1511.06452, section 6), the protocol of CUB-200 and Cars.
    """
    chosen = np.arange(len(images.labels)) if positions is None else positions
    labels_I = np.asarray(images.labels)[chosen]
    counted = np.flatnonzero(has_mate(labels_I, split=split))
    device = ranks.torch_device()
    mine = torch.from_numpy(counted[ranks.rank :: ranks.world])
    all_labels = torch.from_numpy(labels_I).to(device)
    own_labels, own_places = all_labels[mine.to(device)], mine.to(device)
    own_ids = torch.from_numpy(np.asarray(images.ids)[chosen])[mine]
    sums = torch.zeros(len(cells), 4 + len(at), dtype=torch.float64, device=device)
    rows: dict[str, list[np.ndarray]] = {}
    known: dict[Cell, Tensor] = {}
    unchanged: Tensor | None = None

    def embedded(cell: Cell) -> Tensor:
        kept = known.get(cell)
        return kept if kept is not None else embed(
            view, images, cell, positions=chosen, seed=seed, ranks=ranks, scale=scale, lens=lens,
            batch_size=batch_size,
        ).to(device)  # fmt: skip

    if reference == "clean":
        known[Cell(CLEAN, 0)] = embedded(Cell(CLEAN, 0))
    for index in sorted(range(len(cells)), key=lambda index: cells[index].name != CLEAN):  # flips need it first
        whole = embedded(cells[index])
        gallery, queries = known.get(Cell(CLEAN, 0), whole), whole[own_places]
        found = neighbours(
            queries, gallery, query_labels_Q=own_labels, gallery_labels_G=all_labels, own_Q=own_places,
            normalise=normalise,
        )  # fmt: skip
        predicted = all_labels[found.nearest_Q].where(found.nearest_Q != NONE, NONE)
        if cells[index].name == CLEAN:
            unchanged = predicted
        flipped = sums.new_tensor(torch.nan) if unchanged is None else (predicted != unchanged).sum()
        right, missing = (predicted == own_labels).sum(), sums.new_tensor(torch.nan)
        hits = [(found.before_Q < k).sum() for k in at]
        sums[index] = torch.stack([sums.new_tensor(len(mine)), right, missing, flipped, *hits])
        if keep_predictions:
            confidence = (1 + cosines(queries, gallery[found.nearest_Q])) / 2
            keep_rows(rows, cells[index], own_ids, own_labels, predicted, confidence.float(), {})
    sums = ranks.sum(sums).cpu()
    side = min(images.images.shape[1:3])
    table = [cell_row(cell, sums[i, :4], float("nan"), split, side, scale) for i, cell in enumerate(cells)]
    extra = [
        row for cell, hits in zip(table, sums[:, 4:], strict=True) for row in _recalls(cell, at, hits, len(chosen))
    ]
    return Evaluation(table, gathered_rows(rows, ranks) if keep_predictions else {}, extra=extra)


def _recalls(cell: dict[str, Any], at: Sequence[int], hits: Tensor, num_images: int) -> list[dict[str, Any]]:
    fixed = {name: cell[name] for name in ("split", "corruption", "group", "family", "severity", "n")}
    return [
        {**fixed, "left_out": num_images - cell["n"], "k": k, "correct": int(count), "recall": float(count) / cell["n"]}
        for k, count in zip(at, hits, strict=True)
    ]
