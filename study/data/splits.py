"""Which image belongs to which split: the official split where there is one, else shares drawn by class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from study.data.hashing import hash64, shuffled
from study.data.image_set import Split

UNASSIGNED = ""


def take_share(labels: np.ndarray, rows: np.ndarray, *, share: float, seed: int, salt: str) -> np.ndarray:
    """Rows taken out of `rows`, the given share of each class; a class of two or more gives at least one, never all.

    Whether a row is taken depends on the rows of its own class only, so keeping fewer classes moves no image.
    """
    taken = []
    for label in np.unique(labels[rows]):
        members = shuffled(rows[labels[rows] == label], key=hash64(salt, seed))
        count = min(max(round(len(members) * share), 1), len(members) - 1)
        taken.append(members[:count])
    return np.sort(np.concatenate(taken)) if taken else rows[:0]


def keep_per_class(labels: np.ndarray, rows: np.ndarray, *, limit: int, seed: int) -> np.ndarray:
    """At most `limit` rows of each class."""
    kept = [
        shuffled(rows[labels[rows] == label], key=hash64("keep", seed))[:limit] for label in np.unique(labels[rows])
    ]
    return np.sort(np.concatenate(kept)) if kept else rows


def assign_splits(
    labels: np.ndarray,
    official: np.ndarray,
    *,
    validation_share: float,
    test_share: float,
    seed: int,
    max_per_class: int | None = None,
) -> dict[str, np.ndarray]:
    """Sorted rows of train, validation and test.

    Where the source names a split it is followed: its test rows are the test set, whole, and its validation rows the
    validation set. Test or validation rows that it lacks are drawn from train, by class and seed. `max_per_class`
    counts the images left in train after that; a drawn validation set shrinks with it and keeps its share.

    Args:
        labels: int64 (n,).
        official: The source's own split of each row, "" where it names none (such rows count as train).
        validation_share: Share of train taken for validation.
        test_share: Share of train taken for test where the source has no test rows.
        seed: Seed of the draws.
        max_per_class: Most train images of a class.
    """
    rows = {
        "train": np.flatnonzero((official == "train") | (official == UNASSIGNED)),
        "validation": np.flatnonzero(official == "validation"),
        "test": np.flatnonzero(official == "test"),
    }
    if len(rows["test"]) == 0:
        rows["test"] = take_share(labels, rows["train"], share=test_share, seed=seed, salt="test")
        rows["train"] = np.setdiff1d(rows["train"], rows["test"], assume_unique=True)
    if len(rows["validation"]) == 0:
        if max_per_class is not None:
            pool = round(max_per_class / (1 - validation_share))
            rows["train"] = keep_per_class(labels, rows["train"], limit=pool, seed=seed)
        rows["validation"] = take_share(labels, rows["train"], share=validation_share, seed=seed, salt="validation")
        rows["train"] = np.setdiff1d(rows["train"], rows["validation"], assume_unique=True)
    if max_per_class is not None:
        rows["train"] = keep_per_class(labels, rows["train"], limit=max_per_class, seed=seed)
    return rows


class ClassCut(NamedTuple):
    """How many classes each split has, in the source's order: train, then validation, then test."""

    train: int
    validation: int
    test: int

    def spans(self) -> dict[Split, range]:
        """The classes of each split, as the source numbers them."""
        seen = self.train + self.validation
        return {"train": range(self.train), "validation": range(self.train, seen), "test": range(seen, sum(self))}


def cut_classes(num_classes: int, *, unseen_classes: float, validation_share: float) -> ClassCut:
    """The last classes for test, and the last of those left for validation; two at least each.

    A share of 0.5 gives the protocol of Oh Song et al. 2016, arXiv 1511.06452: classes 1-100 and 101-200 of CUB-200,
    1-98 and 99-196 of Cars-196. It has no validation classes; here they are taken from the first half.

    Raises:
        ValueError: The classes do not suffice for two in each split.
    """
    test = round(num_classes * unseen_classes)
    validation = max(2, round((num_classes - test) * validation_share))
    train = num_classes - test - validation
    if train < 2 or test < 2:
        raise ValueError(
            "data.unseen_classes must leave two classes or more for train, validation and test each, but "
            f"{unseen_classes:g} of {num_classes} classes gives {max(train, 0)}, {validation} and {test}; set another "
            "share, another data.validation_share, or take more classes"
        )
    return ClassCut(train, validation, test)


def assign_classes(
    labels: np.ndarray, official: np.ndarray, cut: ClassCut, *, seed: int, max_per_class: int | None = None
) -> dict[str, np.ndarray]:
    """Sorted rows of train, validation and test, each of whole classes; `max_per_class` counts in train and validation.

    Args:
        labels: int64 (n,), as the source numbers them.
        official: The source's own split of each row, which does not matter here but for rows that are left out.
        cut: The classes of each split.
        seed: Seed of what `max_per_class` keeps.
        max_per_class: Most images of a class that train and validation keep.
    """
    kept = np.isin(official, ("train", "validation", "test", UNASSIGNED))
    rows: dict[str, np.ndarray] = {}
    for split, classes in cut.spans().items():
        rows[split] = np.flatnonzero(kept & (labels >= classes.start) & (labels < classes.stop))
        if max_per_class is not None and split != "test":
            rows[split] = keep_per_class(labels, rows[split], limit=max_per_class, seed=seed)
    return rows
