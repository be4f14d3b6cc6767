"""Verification by embeddings over the cells of the grid: are two images of the same person or thing? LFW's protocol.

A row of a cell is as in `study.evaluate`, of pairs in place of images: `accuracy` is the share of pairs that are told
rightly, each fold by the threshold that is best on the other folds of the same cell; `flips` the share whose answer is
not the one without noise. `nll` and `ece` are missing (NaN), as a similarity is no probability. In kept rows `image_id`
is the pair's own (`pair_ids`), `label` and `predicted` are 1 for the same and 0 for different, and `confidence` is the
similarity c as (1 + c) / 2, in [0, 1], from which any curve can be drawn: how alike, not how sure.

Shape suffixes: D values of an embedding, I images, N sorted values, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from noise.keyed import image_keys
from noise.low_resolution import Lens
from study.config_task import Reference
from study.embeddings import Look, cosines, embed
from study.evaluate import CLEAN, FULL, Cell, Evaluation, cell_row, level_of
from study.ranks import Ranks

FALSE_ACCEPTS = 0.01
"""Share of different pairs that may be taken for the same where the true accepts are counted."""


class PairSet(Protocol):
    """Images and the pairs of them that are to be judged.

    It may also have a `fingerprint`, by which a study knows that they are the same as before, and `known(class_names)`,
    the persons in them that are training classes.
    """

    @property
    def images(self) -> np.ndarray:
        """uint8 (n, H, W, 3), RGB."""
        ...

    @property
    def ids(self) -> np.ndarray:
        """int64 (n,); noise is keyed to them."""
        ...

    @property
    def first(self) -> np.ndarray:
        """int64 (p,), position of a pair's first image: the probe, where the second stays clean."""
        ...

    @property
    def second(self) -> np.ndarray:
        """int64 (p,), position of a pair's second image."""
        ...

    @property
    def same(self) -> np.ndarray:
        """bool (p,)."""
        ...

    @property
    def fold(self) -> np.ndarray:
        """int64 (p,)."""
        ...


class Verdicts(NamedTuple):
    """What each fold says by the others' threshold.

    Attributes:
        predicted_P: bool, taken for the same.
        folds: the number of each fold.
        accuracies: of each fold, in [0, 1].
        thresholds: of each fold, cosine similarities.
    """

    predicted_P: np.ndarray
    folds: list[int]
    accuracies: list[float]
    thresholds: list[float]


def check_pairs(pairs: PairSet) -> None:
    """Refuse pairs that cannot be judged by this protocol.

    Raises:
        ValueError: There are less than two folds, a fold's other folds lack the same or the different, or a pair stands
            twice.
    """
    folds = np.unique(pairs.fold)
    if len(folds) < 2:
        raise ValueError(
            f"pairs must be in two folds or more, as one is judged by the others, but got {len(folds)}; "
            "number them in the fold column, or take a list that has folds (LFW's pairs.txt)"
        )
    for fold in folds:
        others = pairs.same[pairs.fold != fold]
        if others.all() or not others.any():
            raise ValueError(
                f"pairs outside of fold {fold} must be some the same and some different, but all are "
                f"{'the same' if others.all() else 'different'}; mix them"
            )
    twice = len(pairs.first) - len(np.unique(np.stack([pairs.first, pairs.second]), axis=1).T)
    if twice:
        raise ValueError(f"each pair must stand once, but {twice} stand again; take them out of the list")


def pair_ids(pairs: PairSet) -> np.ndarray:
    """int64 (p,): a hash of both images' ids, in their order, the same on every machine."""
    first_P, second_P = (torch.from_numpy(np.asarray(pairs.ids)[place]) for place in (pairs.first, pairs.second))
    return image_keys(first_P ^ image_keys(second_P, seed=0, salt="second"), seed=0, salt="pair").numpy()


@torch.inference_mode()
def evaluate_pairs(
    view: Look,
    pairs: PairSet,
    cells: Sequence[Cell],
    *,
    split: Literal["validation", "test"] = "test",
    seed: int,
    ranks: Ranks,
    scale: str = "nearest",
    lens: Lens = FULL,
    batch_size: int = 256,
    reference: Reference = "same",
    keep_predictions: bool = False,
) -> Evaluation:
    """Evaluate a network's embeddings on every cell, by the cosine similarity of each pair.

    Args:
        view: The network, in evaluation mode.
        lens: How cells of a lower side are made.
        reference: Both images of a pair are under the cell's noise (`same`), or the first one alone (`clean`): a poor
            probe against a good reference.
        keep_predictions: Also return a row for each pair x cell.

    Returns:
        On every worker the whole cells; `extra` has a row for each cell: `n` pairs, `folds`, `mean` accuracy over folds
        and its `standard_error`, the mean `threshold`, `auc`, and `tar`, the share of true accepts where at most `far`
        of the different pairs are accepted.

    Raises:
        ValueError: See `check_pairs`.

    Source: Huang et al. 2007, Labeled Faces in the Wild (UMass TR 07-49): mean accuracy over ten folds and its standard
    error. The threshold is chosen anew for each cell, so accuracy under noise is that of a matcher set up for it.
    """
    check_pairs(pairs)
    ids = pair_ids(pairs)
    used, place = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    probe_P, other_P = np.split(place, 2)

    def embedded(cell: Cell) -> Tensor:
        return embed(view, pairs, cell, positions=used, seed=seed, ranks=ranks, scale=scale, batch_size=batch_size,
                     lens=lens)  # fmt: skip

    clean = embedded(Cell(CLEAN, 0)) if reference == "clean" else None
    table, extra, kept = {}, {}, []
    unchanged: np.ndarray | None = None
    side = min(pairs.images.shape[1:3])
    for index in sorted(range(len(cells)), key=lambda index: cells[index].name != CLEAN):  # flips need it first
        cell = cells[index]
        whole = clean if clean is not None and cell == Cell(CLEAN, 0) else embedded(cell)
        likeness_P = cosines(whole[probe_P], (whole if clean is None else clean)[other_P]).numpy()
        likeness_P = np.nan_to_num(likeness_P, nan=-1.0)  # what is no number is like nothing
        found = judge(likeness_P, pairs.same, pairs.fold)
        correct_P = found.predicted_P == pairs.same
        if cell.name == CLEAN:
            unchanged = found.predicted_P
        flips = float("nan") if unchanged is None else float((found.predicted_P != unchanged).sum())
        sums = torch.tensor([len(ids), correct_P.sum(), float("nan"), flips], dtype=torch.float64)
        table[index] = cell_row(cell, sums, float("nan"), split, side, scale)
        extra[index] = _figures(table[index], found, likeness_P, pairs.same)
        kept.append(_columns(cell, ids, pairs.same, found.predicted_P, likeness_P))
    predictions = _in_order(kept) if keep_predictions else {}
    places = range(len(cells))
    return Evaluation([table[i] for i in places], predictions, extra=[extra[i] for i in places])


# ------------------------------------------------------------------------------------------------------ thresholds
def judge(likeness_P: np.ndarray, same_P: np.ndarray, fold_P: np.ndarray) -> Verdicts:
    """Tell each fold's pairs by the threshold that is best on all other folds."""
    predicted_P = np.zeros(len(same_P), dtype=bool)
    folds, accuracies, thresholds = [], [], []
    for fold in np.unique(fold_P):
        own_P = fold_P == fold
        threshold = best_threshold(likeness_P[~own_P], same_P[~own_P])
        predicted_P[own_P] = likeness_P[own_P] > threshold
        folds.append(int(fold))
        accuracies.append(float((predicted_P[own_P] == same_P[own_P]).mean()))
        thresholds.append(threshold)
    return Verdicts(predicted_P, folds, accuracies, thresholds)


def best_threshold(likeness_P: np.ndarray, same_P: np.ndarray) -> float:
    """The threshold above which pairs are called the same so that most are told rightly; the lowest of equal ones.

    Exact: of all that differ in what they say, which are those in the middle between two neighbouring similarities, one
    below all (1 lower than the least), and one above all (the greatest).
    """
    values_N, place_P = np.unique(likeness_P, return_inverse=True)
    same_N = np.bincount(place_P, weights=same_P, minlength=len(values_N))
    different_N = np.bincount(place_P, weights=~same_P, minlength=len(values_N))
    right_N = np.concatenate([[same_N.sum()], same_N.sum() + np.cumsum(different_N - same_N)])  # below all, above each
    best = int(np.argmax(right_N))
    if best in (0, len(values_N)):
        return float(values_N[0] - 1.0 if best == 0 else values_N[-1])
    low, high = float(values_N[best - 1]), float(values_N[best])
    middle = low + (high - low) / 2
    return middle if middle < high else low  # numbers that stand next to each other have no middle


def area_under_curve(likeness_P: np.ndarray, same_P: np.ndarray) -> float:
    """How often a pair of the same is more alike than a pair of different ones, ties counting half (AUC)."""
    num_same, num_different = int(same_P.sum()), int((~same_P).sum())
    rank_sum = rankdata(likeness_P)[same_P].sum()
    return float((rank_sum - num_same * (num_same + 1) / 2) / (num_same * num_different))


def true_accepts(likeness_P: np.ndarray, same_P: np.ndarray, *, far: float) -> float:
    """Share of pairs of the same that are accepted where at most `far` of the different ones are (TAR at FAR)."""
    different_N = np.sort(likeness_P[~same_P])[::-1]
    allowed = int(np.floor(far * len(different_N) + 1e-9))
    if allowed >= len(different_N):
        return 1.0
    return float((likeness_P[same_P] > different_N[allowed]).mean())


def _figures(row: dict[str, Any], found: Verdicts, likeness_P: np.ndarray, same_P: np.ndarray) -> dict[str, Any]:
    fixed = ("split", "corruption", "group", "family", "severity", "n", "correct", "accuracy")
    return {name: row[name] for name in fixed} | {
        "folds": len(found.folds),
        "mean": float(np.mean(found.accuracies)),
        "standard_error": float(np.std(found.accuracies, ddof=1) / np.sqrt(len(found.folds))),
        "threshold": float(np.mean(found.thresholds)),
        "auc": area_under_curve(likeness_P, same_P),
        "far": FALSE_ACCEPTS,
        "tar": true_accepts(likeness_P, same_P, far=FALSE_ACCEPTS),
    }


def _columns(
    cell: Cell, ids: np.ndarray, same_P: np.ndarray, predicted_P: np.ndarray, likeness_P: np.ndarray
) -> dict[str, np.ndarray]:
    order = np.argsort(ids, kind="stable")
    return {
        "image_id": ids[order],
        "label": same_P[order].astype(np.int64),
        "predicted": predicted_P[order].astype(np.int64),
        "confidence": ((1 + likeness_P[order]) / 2).astype(np.float32),
        "correct": (predicted_P == same_P)[order],
        "corruption": np.full(len(ids), cell.name, dtype=object),
        "severity": np.full(len(ids), level_of(cell), dtype=np.int64),
    }


def _in_order(kept: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All columns, by corruption and severity, as `study.evaluate` has them."""
    kept = sorted(kept, key=lambda columns: (str(columns["corruption"][0]), int(columns["severity"][0])))
    return {name: np.concatenate([columns[name] for columns in kept]) for name in kept[0]}
