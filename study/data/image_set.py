"""What the data room hands on: decoded images at the working size, with labels and stable ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class ImageSet:
    """One split.

    Attributes:
        images: uint8 (n, height, width, 3), RGB, usually a read-only memory map.
        labels: int64 (n,), from 0 to the number of its classes less one.
        ids: int64 (n,), unique in a data set and the same on every machine; noise is keyed to them.
        class_names: One name for each label.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSplits:
    """The three splits of a data set, of the same classes or, with `data.unseen_classes`, each of its own.

    Attributes:
        train: Images that training sees.
        validation: Images that choose between trials.
        test: Images that are read once, after choosing.
        fingerprint: Hash of the content and of every setting that decides the splits; holds no path of the machine.
        skipped: (place, reason) of each image that could not be read.
        source_sizes: int32 (n, 2), width and height before resizing: train, then validation, then test.
        num_leaked: Test images whose exact bytes also stand in train or validation.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    fingerprint: str
    skipped: list[tuple[str, str]]
    source_sizes: np.ndarray
    num_leaked: int = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of train."""
        return self.train.class_names

    @property
    def unseen_classes(self) -> bool:
        """Whether validation and test are of classes that train lacks; their labels then are their own, from 0."""
        return self.test.class_names != self.train.class_names

    def by_name(self) -> dict[Split, ImageSet]:
        """The splits by their names, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}
