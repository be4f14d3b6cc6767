"""Sets whose files hold plain pixels: arrays of small images with their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from study.data.hashing import digest
from study.data.source import Listing, Memo, Raw


class PixelFile(NamedTuple):
    """One file of a set, or one part of it.

    Attributes:
        path: The file.
        split: "train" or "test".
        labels: Reads int64 (n,) from it, each checked to be a class of the set.
        images: Reads uint8 (n, height, width, 3) from it, RGB; n as many as labels.
        name: What a person calls it.
    """

    path: Path
    split: str
    labels: Callable[[], np.ndarray]
    images: Callable[[], np.ndarray]
    name: str


class PixelSource:
    """The images of the files, one file after the other; a file is in memory only while its images are read.

    Args:
        files: Of the set, at least one.
        class_names: In label order.
    """

    def __init__(self, files: Sequence[PixelFile], class_names: Sequence[str]) -> None:
        assert files
        self._files, self._class_names = tuple(files), tuple(class_names)

    @cached_property
    def _labels(self) -> list[np.ndarray]:
        return [file.labels() for file in self._files]

    def content_hash(self, memo: Memo) -> str:
        """Of pixels and labels, so that the same set in another format has the same."""
        stats = [file.path.stat() for file in self._files]
        state = [
            f"{file.name}|{file.path}|{s.st_size}|{s.st_mtime_ns}" for file, s in zip(self._files, stats, strict=True)
        ]
        labels = (label.tobytes() for label in self._labels)
        splits = (f"{file.split}|{len(label)}" for file, label in zip(self._files, self._labels, strict=True))
        content = memo(digest("pixels", *state), self._hash_pixels)
        return digest("pixels", content, *self._class_names, *splits, *labels)

    def _hash_pixels(self) -> str:
        return digest("pixels", *(digest(np.ascontiguousarray(file.images()).tobytes()) for file in self._files))

    def listing(self) -> Listing:
        official = np.repeat([file.split for file in self._files], [len(labels) for labels in self._labels])
        return Listing(np.concatenate(self._labels), official, self._class_names)

    def read(self, rows: np.ndarray, *, image_size: int) -> Iterator[Raw]:
        del image_size  # they are brought to it as decoded images are
        start = 0
        for file, labels in zip(self._files, self._labels, strict=True):
            inside = rows[(rows >= start) & (rows < start + len(labels))]
            images = file.images() if len(inside) else None
            for row in inside.tolist():
                assert images is not None
                pixels = np.ascontiguousarray(images[row - start])
                yield Raw(row, pixels.tobytes(), pixels)
            start += len(labels)

    def place(self, row: int) -> str:
        for file, labels in zip(self._files, self._labels, strict=True):
            if row < len(labels):
                return f"{file.name} image {row}"
            row -= len(labels)
        raise IndexError(row)


def checked_labels(labels: np.ndarray, num_classes: int, name: str) -> np.ndarray:
    """The labels as int64 (n,).

    Raises:
        ValueError: They are no whole numbers from 0 to num_classes - 1.
    """
    flat = np.asarray(labels).reshape(-1)
    if flat.dtype.kind not in "iu":
        raise ValueError(f"data.path must hold whole numbers as labels, but {name} has {flat.dtype}; fetch it again")
    strays = np.flatnonzero((flat < 0) | (flat >= num_classes))
    if len(strays):
        raise ValueError(
            f"data.path must hold labels from 0 to {num_classes - 1}, but image {strays[0]} of {name} has "
            f"{flat[strays[0]]}; fetch the set again"
        )
    return flat.astype(np.int64)
