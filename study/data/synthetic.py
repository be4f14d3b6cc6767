"""`synthetic-vehicles`: a data set that is drawn, so that everything works with no download.

Fine-grained makes and models that differ in shape only. Each picture is a pure function of the seed and its index.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from study.data.hashing import digest, hash64
from study.data.source import Listing, Memo, Raw
from study.data.vehicle_scene import draw_scene
from study.data.vehicle_shapes import MAX_CLASSES, vehicle_shape

DRAWING = 1
"""Raised when the same seed and index give another picture; part of the fingerprint and of every image's id."""

MIN_SIZE, MAX_SIZE = 16, 512


class SyntheticSource:
    """Rows are the train pictures, class by class, then the test pictures, class by class."""

    def __init__(self, *, num_classes: int, train_per_class: int, test_per_class: int, seed: int) -> None:
        if not 2 <= num_classes <= MAX_CLASSES:
            raise ValueError(f"data.num_classes must be from 2 to {MAX_CLASSES}, but got {num_classes}")
        self._counts = {"train": train_per_class, "test": test_per_class}
        self._num_classes, self._seed = num_classes, seed

    def content_hash(self, memo: Memo) -> str:
        del memo  # nothing is read
        settings = (self._num_classes, self._counts["train"], self._counts["test"], self._seed)
        return digest("synthetic-vehicles", str(DRAWING), *(str(value) for value in settings))

    def listing(self) -> Listing:
        classes = np.arange(self._num_classes, dtype=np.int64)
        labels = np.concatenate([np.repeat(classes, count) for count in self._counts.values()])
        official = np.repeat(list(self._counts), [count * self._num_classes for count in self._counts.values()])
        return Listing(labels, official, tuple(vehicle_shape(label).name for label in range(self._num_classes)))

    def read(self, rows: np.ndarray, *, image_size: int) -> Iterator[Raw]:
        for row in rows.tolist():
            split, label, number = self._sample(row)
            content = f"synthetic-vehicles/{DRAWING}/{self._seed}/{split}/{label}/{number}".encode()
            yield Raw(row, content, draw_vehicle(label, number, split=split, image_size=image_size, seed=self._seed))

    def _sample(self, row: int) -> tuple[str, int, int]:
        num_train = self._num_classes * self._counts["train"]
        split, offset = ("train", row) if row < num_train else ("test", row - num_train)
        return split, *divmod(offset, self._counts[split])

    def place(self, row: int) -> str:
        return "synthetic-vehicles {} class {} number {}".format(*self._sample(row))


def draw_vehicle(label: int, number: int, *, image_size: int, seed: int, split: str = "train") -> np.ndarray:
    """Picture `number` of a class, uint8 (image_size, image_size, 3).

    The same for every number of classes and of pictures, so a larger data set holds the smaller one.
    """
    if not MIN_SIZE <= image_size <= MAX_SIZE:
        raise ValueError(f"image_size of a drawn vehicle must be from {MIN_SIZE} to {MAX_SIZE}, but got {image_size}")
    key = hash64("synthetic-vehicles", seed, split, label, number)
    return draw_scene(vehicle_shape(label), image_size=image_size, key=key)
