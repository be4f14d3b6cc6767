"""Pairs of a labelled set's images, half of one class and half of two, to choose trials of verification by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest

import numpy as np
import torch

from noise.keyed import image_keys
from study.data.image_set import ImageSet

_FOLDS = 10


@dataclass(frozen=True)
class MadePairs:
    """Pairs that were made of a set; what the fields are, see `study.verification.PairSet`."""

    images: np.ndarray
    ids: np.ndarray
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray


def validation_pairs(images: ImageSet, *, count: int, folds: int = _FOLDS, seed: int) -> MadePairs:
    """Balanced pairs, chosen by the images' keys: the same on every machine and in whatever order the set stands.

    Pairs of one class come from all classes by turns, and so do pairs of two; each image stands in as few as may be.
    Folds have equally many of both, but unlike LFW's they may share images and classes.

    Args:
        count: Pairs to make, half of one class; fewer where the set has not so many, but as many of both kinds.
        folds: At most; fewer where there are not so many pairs.

    Raises:
        ValueError: The set does not give two pairs of each kind.
    """
    keys = image_keys(torch.from_numpy(np.asarray(images.ids)), seed=seed, salt="pairs").numpy()
    order = np.argsort(keys, kind="stable")
    labels = np.asarray(images.labels)[order]
    classes = [order[labels == label].tolist() for label in dict.fromkeys(labels.tolist())]
    same = list(islice(_within(classes), count // 2))
    different = list(islice(_between(classes), count // 2))
    half = min(len(same), len(different))
    if half < 2:
        raise ValueError(
            f"task: verification needs two pairs of one class and two of different classes to choose by, but the "
            f"{len(images)} validation images of {len(classes)} classes give {len(same)} and {len(different)}; raise "
            "data.validation_share"
        )
    first, second = np.array([*same[:half], *different[:half]], dtype=np.int64).T
    fold = np.tile(np.arange(half) % min(folds, half), 2)
    return MadePairs(images.images, images.ids, first, second, np.arange(2 * half) < half, fold)


def _within(classes: list[list[int]]) -> Iterator[tuple[int, int]]:
    """All pairs of one class, each once, from all classes by turns."""
    turns = zip_longest(*(_round(len(members)) for members in classes))
    for turn in turns:
        for members, pair in zip(classes, turn, strict=True):
            if pair is not None:
                yield members[pair[0]], members[pair[1]]


def _between(classes: list[list[int]]) -> Iterator[tuple[int, int]]:
    """All pairs of two classes, each once, neighbouring classes and images of the same place first."""
    most = max(map(len, classes))
    links = _round(len(classes))
    while ring := list(islice(links, len(classes))):  # classes at one distance from each other
        for shift in range(most):
            for place in range(most):
                for one, other in ring:
                    partner = (place + shift) % most
                    if place < len(classes[one]) and partner < len(classes[other]):
                        yield classes[one][place], classes[other][partner]


def _round(number: int) -> Iterator[tuple[int, int]]:
    """All pairs of 0 .. number - 1, each once: by their distance round a circle, near ones first."""
    for distance in range(1, number // 2 + 1):
        for start in range(distance if 2 * distance == number else number):
            yield start, (start + distance) % number
